"""Write a potential as a model file, and compile a model file for one machine.

The only module that calls torch.jit.script, torch.jit.save and AOTInductor. The archive
needs torch alone to run; what it contains is stated in :mod:`eqcalc.model_file`. A compiled
package is made from the archive's card and weights, belongs to one machine and can be
thrown away at any time.
"""

import copy
import io
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from eqcalc import architectures
from eqcalc.engines.devices import resolve_dtype
from eqcalc.errors import (
    ConfigError,
    EqcalcError,
    ModelFileError,
    OutputError,
    OutputExistsError,
)
from eqcalc.files import write_whole
from eqcalc.graph import AtomicGraph
from eqcalc.model_file import CARD, PASSPORT, WEIGHTS, ModelCard, ModelFile
from eqcalc.neighbours import build_graph
from eqcalc.nn.fused import enable_kernels
from eqcalc.nn.row_products import use_row_products
from eqcalc.passport import Passport, record, verify
from eqcalc.potential import Potential, atomic_number

__all__ = [
    "compile_committee", "compile_model", "export_model", "read_archive", "rebuild_potential",
    "write_archive",
]  # fmt: skip


# Of filters and their slopes, relative; float32 rounds the sums of a network as much.
_TABLE_TOLERANCE = 3e-6


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
    overwrite: bool = False,
) -> ModelCard:
    """Script a potential, prove the result and write it whole or not at all.

    The potential itself is not changed.

    Parameters
    ----------
    elements : symbols or atomic numbers that the model may be used on
    name : for the card; the file's or folder's name by default
    frames : structures for the passport; clusters of the elements by default
    overwrite : replace an existing file

    Returns
    -------
    The card that was written.

    Raises
    ------
    ConfigError : no elements, or one without a reference energy, or no frames.
    OutputExistsError : the file exists and ``overwrite`` is False.
    OutputError : the file cannot be written.
    ModelFileError : the scripted model does not reproduce the eager one.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputExistsError(f"'{path}' exists; pass overwrite=True to replace it.")
    if frames is not None and len(frames) == 0:
        raise ConfigError("a passport needs at least one frame, found none.")
    numbers = sorted({atomic_number(element) for element in elements})
    potential = _prepared(potential, numbers)
    dtype = str(next(potential.parameters()).dtype).removeprefix("torch.")
    card = _card(potential, numbers, dtype, name or _default_name(path))
    card = _with_texts(card, description, licence, training_data, errors)

    reference = copy.deepcopy(potential).double()
    passport = record(
        frames if frames is not None else _clusters(numbers, potential.cutoff),
        potential.cutoff,
        reference.evaluate,
        potential.reference_energies,
    )
    content = write_archive(
        ExportedModel(potential), potential, card.to_json(), passport.to_json()
    )
    _prove(content, passport, card, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder of '{path}': {error}.") from error
    write_whole(path, content)
    return card


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
    potential = copy.deepcopy(potential).cpu().eval().requires_grad_(False)
    energies = torch.full_like(potential.reference_energies, torch.nan)
    energies[numbers] = potential.reference_energies[numbers]
    potential.reference_energies = energies
    return potential


def _card(potential: Potential, numbers: list[int], dtype: str, name: str) -> ModelCard:
    from eqcalc import __version__

    architecture = potential.architecture
    config = getattr(architecture, "config", None)
    return ModelCard(
        name=name,
        architecture=type(architecture).__name__.lower(),
        config=asdict(config) if is_dataclass(config) and not isinstance(config, type) else {},
        elements=[chemical_symbols[z] for z in numbers],
        cutoff=potential.cutoff,
        n_hops=potential.n_hops,
        dtype=dtype,
        reference_energies={
            chemical_symbols[z]: float(potential.reference_energies[z]) for z in numbers
        },
        scale=float(potential.scale),
        versions={"eqcalc": __version__, "torch": torch.__version__},
    )


def _with_texts(
    card: ModelCard,
    description: str,
    licence: str,
    training_data: Optional[Mapping[str, Any]],
    errors: Optional[Mapping[str, Any]],
) -> ModelCard:
    content = asdict(card) | {
        "description": description,
        "licence": licence,
        "training_data": dict(training_data or {}),
        "errors": dict(errors or {}),
    }
    return ModelCard(**content)


def _default_name(path: Path) -> str:
    return path.resolve().parent.name if path.name == "model.pt" else path.stem


def _clusters(numbers: list[int], cutoff: float) -> list[Atoms]:
    """Build an open and a periodic frame in which every element meets every other."""
    generator = np.random.default_rng(0)
    symbols = [z for z in numbers for _ in range(2)][:24]
    spacing = 2.2 * float(np.mean([covalent_radii[z] for z in symbols])) + 0.3
    side = int(np.ceil(len(symbols) ** (1 / 3)))
    sites = np.array(list(np.ndindex(side, side, side)))[: len(symbols)] * spacing
    positions = sites + generator.uniform(-0.15, 0.15, sites.shape) * spacing
    cluster = Atoms(symbols, positions)
    crystal = cluster.copy()
    crystal.set_cell(np.full(3, side * spacing) * (1.0, 1.05, 1.1))
    crystal.pbc = True
    return [cluster, crystal, Atoms([numbers[0]], [[0.0, 0.0, 0.0]])]


def write_archive(module: nn.Module, weights_of: nn.Module, card: str, passport: str) -> bytes:
    """Script a module and return the archive's bytes, extra files included.

    Parameters
    ----------
    module : what the archive runs
    weights_of : the network whose state goes into ``weights.safetensors``
    card, passport : texts of ``card.json`` and ``passport.json``

    Raises
    ------
    RuntimeError, torch.jit.frontend.FrontendError : TorchScript cannot express the module.
    """
    weights = {k: v.contiguous() for k, v in weights_of.state_dict().items()}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # torch deprecates TorchScript as a whole; the file format is chosen with that known.
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=Warning)
        torch.jit.save(
            torch.jit.script(module),
            buffer,
            _extra_files={CARD: card, PASSPORT: passport, WEIGHTS: save_safetensors(weights)},
        )
    return buffer.getvalue()


def read_archive(content: bytes) -> torch.jit.ScriptModule:
    """Return the module that :func:`write_archive` wrote."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=Warning)
        return torch.jit.load(io.BytesIO(content))


def _prove(content: bytes, passport: Passport, card: ModelCard, path: Path) -> None:
    module = read_archive(content)
    with torch.enable_grad():
        verify(
            passport, module, card.cutoff, resolve_dtype(card.dtype), torch.device("cpu"),
            f"export of '{path}'",
        )  # fmt: skip


def rebuild_potential(file: ModelFile) -> Potential:
    """Return the eager potential of a model file, from its card, weights and constants.

    Constants that are no weights (such as the centres of Gaussians) are the archive's own:
    whoever wrote it may have rounded them to float32.

    Raises
    ------
    ModelFileError : this eqcalc has no such architecture, or another version of it.
    """
    card = file.card
    try:
        network = architectures.build(card.architecture, **card.config)
        potential = Potential(
            network.to(resolve_dtype(card.dtype)), card.reference_energies, scale=card.scale
        )
        potential.load_state_dict(load_safetensors(file.weights()))
        constants = dict(read_archive(file.path.read_bytes()).named_buffers())
        for prefix, module in potential.named_modules(prefix="potential"):
            for name in module._buffers:
                module._buffers[name] = constants[f"{prefix}.{name}"].clone()
    except (EqcalcError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise ModelFileError(
            f"the network of '{file.path}' cannot be rebuilt from its card and weights: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    return potential.eval().requires_grad_(False)


def compile_model(
    file: ModelFile, package: Path, device: torch.device, dtype: torch.dtype
) -> None:
    """Compile energies and edge gradients ahead of time, for any number of atoms and edges.

    Energy and gradient are traced into one graph of plain tensor operations first: the
    exporter cannot follow autograd. The package takes the tensors of the archive, with
    weights (n_atoms,) float64 in place of ``n_owned``; it needs two atoms and two edges
    at least (:mod:`eqcalc.engines.inductor` adds them).

    Raises
    ------
    ModelFileError : see :func:`rebuild_potential`.
    Exception : whatever tracer and compiler raise; there is no common class.
    """
    potential = _for_inference(file, device, dtype)

    def evaluate(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return _differentiate(potential, *tensors)

    _compile(evaluate, [file], package, device, dtype)


def compile_committee(
    files: Sequence[ModelFile], package: Path, device: torch.device, dtype: torch.dtype
) -> None:
    """Compile several models into one package that returns the answers of all.

    The networks may differ. The package takes what that of :func:`compile_model` takes and
    returns energies (n_members, n_atoms) and edge gradients (n_members, n_edges, 3).

    Raises
    ------
    ModelFileError, Exception : as :func:`compile_model` does.
    """
    potentials = [_for_inference(file, device, dtype) for file in files]

    def evaluate(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        members = [_differentiate(potential, *tensors) for potential in potentials]
        energies, gradients = zip(*members, strict=True)
        return torch.stack(energies), torch.stack(gradients)

    _compile(evaluate, files, package, device, dtype)


def _for_inference(file: ModelFile, device: torch.device, dtype: torch.dtype) -> Potential:
    potential = rebuild_potential(file)
    if _takes_tables(device, dtype):
        _tabulate(potential, dtype)
    return potential.to(dtype).to(device)


def _differentiate(
    potential: Potential, atomic_numbers: Tensor, edge_vectors: Tensor, edge_index: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    with torch.enable_grad():
        graph = AtomicGraph(
            atomic_numbers, edge_index, edge_vectors, torch.zeros_like(atomic_numbers),
            1, atomic_numbers.shape[0], edge_vectors.new_zeros((1, 3, 3)),
        )  # fmt: skip
        energies, gradients = potential.differentiate(graph, weights)
    return energies.detach(), gradients


def _compile(
    evaluate: Callable[..., tuple[Tensor, Tensor]], files: Sequence[ModelFile], package: Path,
    device: torch.device, dtype: torch.dtype,
) -> None:  # fmt: skip
    # The compiler takes a second to import; writing a model file does not need it.
    from torch._inductor import aoti_compile_and_package
    from torch.fx.experimental import _config as fx_config
    from torch.fx.experimental.proxy_tensor import make_fx

    numbers = sorted({atomic_number(symbol) for file in files for symbol in file.card.elements})
    cutoff = max(file.card.cutoff for file in files)
    frame = _clusters(numbers, cutoff)[1]
    graph = build_graph(frame, cutoff, dtype=dtype, device=device)
    weights = torch.ones(len(frame), dtype=torch.float64, device=device)
    example = (graph.atomic_numbers, graph.edge_vectors, graph.edge_index, weights)
    # Else sizes that happen to be equal here, such as atoms and channels, would count as one.
    with fx_config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
        traced = make_fx(evaluate, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*example)
    if _has_kernels(device, dtype):
        use_row_products(traced)
    atoms, edges = torch.export.Dim("n_atoms", min=2), torch.export.Dim("n_edges", min=2)
    shapes = ({0: atoms}, {0: edges}, {1: edges}, {0: atoms})
    with warnings.catch_warnings():
        # Between parts of torch; nothing a user could act on.
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
        program = torch.export.export(traced, example, dynamic_shapes=shapes)
        aoti_compile_and_package(program, package_path=str(package))


def _has_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and dtype == torch.float32 and enable_kernels()


def _takes_tables(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether filters come from tables: in float32, with the kernels or as fused by torch."""
    return dtype == torch.float32 and (device.type == "cuda" or _has_kernels(device, dtype))


def _tabulate(potential: Potential, dtype: torch.dtype) -> None:
    """Replace the network by its tabulated form, where it has one and that is accurate."""
    tabulated = getattr(potential.architecture, "tabulated", None)
    if tabulated is not None:
        potential.architecture = tabulated(dtype, _TABLE_TOLERANCE)
        potential.requires_grad_(False)
