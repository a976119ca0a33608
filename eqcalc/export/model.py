"""Write a potential as a model file, proven before it is kept.

The archive needs torch alone to run; what it contains is stated in
:mod:`eqcalc.model_file.archive`.
"""

import copy
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, Optional, Union

import torch
from ase import Atoms
from ase.data import chemical_symbols
from torch import Tensor, nn

from eqcalc.concessions import declared
from eqcalc.devices import resolve_dtype
from eqcalc.elements import atomic_number
from eqcalc.errors import ConfigError, OutputError, listing
from eqcalc.export.archive import (
    default_name,
    read_archive,
    require_readable,
    write_archive,
)
from eqcalc.export.frames import element_clusters
from eqcalc.files import refuse_existing, write_whole
from eqcalc.graph import AtomicGraph, graph_of_atoms_alone
from eqcalc.model_file import ModelCard
from eqcalc.model_file.execution import as_written
from eqcalc.model_file.passport import Passport, record, verify
from eqcalc.potential import Potential
from eqcalc.tabulated import exact_form

__all__ = ["export_model", "refuse_texts_of_others"]


class ExportedModel(nn.Module):
    """The module inside the file: four tensors in, energies and gradients out."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def forward(
        self, atomic_numbers: Tensor, edge_vectors: Tensor, edge_index: Tensor, n_owned: int
    ) -> tuple[Tensor, Tensor]:
        """Return energies (n_atoms,) in eV and edge_gradients (n_edges, 3) in eV/Å."""
        graph = AtomicGraph(
            atomic_numbers,
            edge_index,
            edge_vectors,
            torch.zeros_like(atomic_numbers),
            1,
            n_owned,
            torch.zeros([1, 3, 3], dtype=edge_vectors.dtype, device=edge_vectors.device),
        )
        energies, gradients = self.potential(graph)
        return energies.detach(), gradients


@torch.inference_mode(False)  # what is made there can never be differentiated
def export_model(
    potential: Potential,
    path: Union[str, "os.PathLike[str]"],
    *,
    elements: Iterable[Union[str, int]],
    name: Optional[str] = None,
    frames: Optional[Sequence[Atoms]] = None,
    description: str = "",
    licence: str = "",
    training_data: Optional[Mapping[str, Any]] = None,
    errors: Optional[Mapping[str, Any]] = None,
    origin: Optional[Mapping[str, str]] = None,
    seen: Optional[Mapping[str, Any]] = None,
    trained_frames: str = "",
    overwrite: bool = False,
) -> ModelCard:
    """Script a potential, prove the result and write it whole or not at all.

    The potential itself is not changed.

    Parameters
    ----------
    elements : symbols or atomic numbers that the model may be used on
    name : for the card; the file's or folder's name by default
    frames : structures for the passport; clusters of the elements by default
    origin : where imported weights came from; see :class:`eqcalc.model_file.ModelCard`
    seen : pairs, distances and neighbours of the training data, as
        :func:`eqcalc.model_file.seen.seen_in` returns them
    trained_frames : the frames that were trained on, as
        :func:`eqcalc.model_file.trained_frames.trained_frames` returns them
    overwrite : replace an existing file

    Returns
    -------
    The card that was written.

    Raises
    ------
    ConfigError : no elements, or one without a reference energy, or no frames; parameters of
        several precisions; texts or numbers that the card cannot hold.
    OutputExistsError : the file exists and ``overwrite`` is False.
    OutputError : the file cannot be written.
    ModelFileError : the scripted model does not reproduce the eager one.
    """
    path = Path(path)
    refuse_existing([path], overwrite)
    if frames is not None and len(frames) == 0:
        raise ConfigError("a passport needs at least one frame, found none.")
    numbers = sorted({atomic_number(element) for element in elements})
    with torch.autocast("cpu", enabled=False):  # within the caller's the proof would be rounded
        are_exact = potential.exact_isolated_atoms
        potential = _prepared(potential, numbers)
        dtype = str(next(potential.parameters()).dtype).removeprefix("torch.")
        resolve_dtype(dtype)  # refuses what no engine runs
        card = _card(potential, numbers, dtype, name or default_name(path), are_exact)
        card = _with_texts(card, description, licence, training_data, errors, origin)
        card = replace(card, seen=dict(seen or {}), trained_frames=trained_frames)
        require_readable(card)

        reference = copy.deepcopy(potential).double()
        passport = record(
            frames if frames is not None else element_clusters(numbers),
            potential.cutoff,
            reference.evaluate,
            potential.reference_energies,
        )
        content = write_archive(
            ExportedModel(_fast(potential)), potential, card.to_json(), passport.to_json()
        )
        _prove(content, passport, card, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder of '{path}': {error}.") from error
    write_whole(path, content)
    return card


def refuse_texts_of_others(path: Path, overwrite: bool = False) -> None:
    """Refuse to replace texts beside a model file that is not there yet: they are the user's.

    Raises
    ------
    OutputExistsError : there are some, and ``overwrite`` is False.
    """
    if not path.exists():
        refuse_existing([path.with_name(name) for name in ("card.md", "metrics.json")], overwrite)


def _prepared(potential: Potential, numbers: list[int]) -> Potential:
    if len(numbers) == 0:
        raise ConfigError("export_model needs at least one element, found none.")
    known = potential.reference_energies
    missing = [chemical_symbols[z] for z in numbers if bool(torch.isnan(known[z]))]
    if missing:
        raise ConfigError(
            f"no reference energy for {', '.join(missing)}; give one to Potential, or leave "
            "these elements out."
        )
    precisions = {str(p.dtype).removeprefix("torch.") for p in potential.parameters()}
    if len(precisions) > 1:
        raise ConfigError(
            "parameters of the potential are of several precisions, "
            f"{listing(sorted(precisions))}; take one, by potential.float() or potential.double()."
        )
    potential = copy.deepcopy(potential).cpu().eval().requires_grad_(False)
    energies = torch.full_like(potential.reference_energies, torch.nan)
    energies[numbers] = potential.reference_energies[numbers]
    if potential.exact_isolated_atoms:
        energies[numbers] -= potential.scale * _own_energies(potential, numbers)
        potential.exact_isolated_atoms = False
    potential.reference_energies = energies
    return potential


def _own_energies(potential: Potential, numbers: list[int]) -> Tensor:
    """Return what the network makes of an atom of each element alone, in float64."""
    return copy.deepcopy(potential).double().own_energies(graph_of_atoms_alone(numbers))


def _said_of_atoms(potential: Potential, numbers: list[int], are_exact: bool) -> list[str]:
    own = potential.scale * _own_energies(potential, numbers)
    if float(own.abs().max()) < 1e-6:  # eV
        return []
    return [
        "An atom alone has another energy than its reference energy "
        f"(by up to {float(own.abs().max()):.2g} eV)"
        + (f", held in training at {_energies_alone(potential, numbers, own)}" * are_exact)
        + "."
    ]


def _energies_alone(potential: Potential, numbers: list[int], own: Tensor) -> str:
    energies = (potential.reference_energies[numbers] + own).tolist()
    said = [f"{chemical_symbols[z]} {e:.6f}" for z, e in zip(numbers, energies, strict=True)]
    return f"{', '.join(said)} eV"


def _fast(potential: Potential) -> Potential:
    """Return an equal potential whose network is in its fastest exact form."""
    fast = copy.deepcopy(potential)
    fast.architecture = exact_form(fast.architecture)
    return fast


def _card(
    potential: Potential, numbers: list[int], dtype: str, name: str, are_exact: bool
) -> ModelCard:
    from eqcalc import __version__

    architecture = potential.architecture
    config = getattr(architecture, "config", None)
    return ModelCard(
        name=name,
        architecture=type(architecture).__name__.lower(),
        config=_as_read_back(config),
        elements=[chemical_symbols[z] for z in numbers],
        cutoff=potential.cutoff,
        n_hops=potential.n_hops,
        dtype=dtype,
        reference_energies={
            chemical_symbols[z]: float(potential.reference_energies[z]) for z in numbers
        },
        scale=float(potential.scale),
        zbl={} if potential.zbl is None else potential.zbl.config(),
        gives_up=[
            *declared(architecture).sentences(),
            *_said_of_atoms(potential, numbers, are_exact),
        ],
        versions={"eqcalc": __version__, "torch": torch.__version__},
    )


def _as_read_back(config: Any) -> dict[str, Any]:
    """Return the options as a reader of the card has them: JSON knows lists, no tuples."""
    if not is_dataclass(config) or isinstance(config, type):
        return {}
    return json.loads(json.dumps(asdict(config)))


def _with_texts(
    card: ModelCard,
    description: str,
    licence: str,
    training_data: Optional[Mapping[str, Any]],
    errors: Optional[Mapping[str, Any]],
    origin: Optional[Mapping[str, str]],
) -> ModelCard:
    content = asdict(card) | {
        "description": description,
        "licence": licence,
        "training_data": dict(training_data or {}),
        "errors": dict(errors or {}),
        "origin": dict(origin or {}),
    }
    return ModelCard(**content)


def _prove(content: bytes, passport: Passport, card: ModelCard, path: Path) -> None:
    module, device = read_archive(content), torch.device("cpu")

    def evaluate(graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        return module(graph.atomic_numbers, graph.edge_vectors, graph.edge_index, graph.n_owned)

    with torch.enable_grad(), as_written():
        verify(
            passport,
            evaluate,
            card.cutoff,
            resolve_dtype(card.dtype),
            device,
            f"export of '{path}'",
        )
