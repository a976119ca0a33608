"""Write a learned dynamics as the file of a propagator."""

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn
from torch.jit.frontend import FrontendError

from eqcalc.arguments import require_positive
from eqcalc.dynamics.learned import complete_edges
from eqcalc.dynamics.propagator_file import (
    PropagatorCard,
    PropagatorPassport,
    record_steps,
    verify_steps,
)
from eqcalc.errors import ConfigError, OutputError, did_you_mean
from eqcalc.export.archive import (
    default_name,
    read_archive,
    require_readable,
    write_archive,
)
from eqcalc.files import refuse_existing, write_whole
from eqcalc.nn.object_index import OBJECT_SIZES

__all__ = ["export_propagator"]


class ExportedPropagator(nn.Module):
    """The module inside the file: a state in, the state one timestep later out."""

    def __init__(self, dynamics: nn.Module) -> None:
        super().__init__()
        self.dynamics = dynamics

    def forward(
        self,
        charges: Tensor,
        positions: Tensor,
        velocities: Tensor,
        object_index: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return positions and velocities (n, 3) of one system of n particles."""
        edge_index = complete_edges(positions.shape[0], positions.device)
        return self.dynamics(charges, positions, velocities, edge_index, object_index)


def export_propagator(
    dynamics: nn.Module,
    path: Union[str, "os.PathLike[str]"],
    *,
    timestep: float,
    objects: Sequence[str] = ("isolated", "stick", "hinge"),
    charges: Sequence[float] = (-1.0, 1.0),
    name: Optional[str] = None,
    description: str = "",
    licence: str = "",
    training_data: Optional[Mapping[str, Any]] = None,
    errors: Optional[Mapping[str, Any]] = None,
    overwrite: bool = False,
) -> PropagatorCard:
    """Script a learned dynamics, prove the result and write it whole or not at all.

    The dynamics itself is not changed.

    Parameters
    ----------
    dynamics : such as :class:`eqcalc.dynamics.learned.GMNDynamics`
    timestep : time that one step covers, in the unit of the training data
    objects, charges : what the dynamics was trained on; a propagator refuses others
    name : for the card; the file's or folder's name by default

    Returns
    -------
    The card that was written.

    Raises
    ------
    ConfigError : a timestep that is not positive, no or unknown objects or charges, texts that
        the card cannot hold, or a dynamics that TorchScript cannot run.
    OutputExistsError : the file exists and ``overwrite`` is False.
    OutputError : the file cannot be written.
    ModelFileError : the scripted dynamics does not reproduce the eager one.
    """
    path = Path(path)
    refuse_existing([path], overwrite)
    require_positive(timestep=timestep)
    _require_training(objects, charges)
    dynamics = copy.deepcopy(dynamics).cpu().eval().requires_grad_(False)
    card = _card(dynamics, name or default_name(path), timestep, objects, charges)
    card = PropagatorCard(
        **{
            **vars(card),
            "description": description,
            "licence": licence,
            "training_data": dict(training_data or {}),
            "errors": dict(errors or {}),
        }
    )
    require_readable(card)
    states = [_random_state(counts, charges, objects) for counts in ((1, 1, 1), (0, 3, 3))]
    reference = ExportedPropagator(copy.deepcopy(dynamics).double())
    passport = record_steps(states, reference)
    content = _archive(dynamics, card, passport)
    _prove(content, passport, card, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder of '{path}': {error}.") from error
    write_whole(path, content)
    return card


def _require_training(objects: Sequence[str], charges: Sequence[float]) -> None:
    unknown = [kind for kind in objects if kind not in OBJECT_SIZES]
    if unknown or len(objects) == 0:
        raise ConfigError(
            f"objects must name some of {', '.join(OBJECT_SIZES)}, found {list(objects)}."
            + (did_you_mean(unknown[0], OBJECT_SIZES) if unknown else "")
        )
    if len(charges) == 0:
        raise ConfigError("charges must hold at least one value, found none.")


def _card(
    dynamics: nn.Module,
    name: str,
    timestep: float,
    objects: Sequence[str],
    charges: Sequence[float],
) -> PropagatorCard:
    from eqcalc import __version__

    return PropagatorCard(
        name=name,
        architecture=type(dynamics).__name__.removesuffix("Dynamics").lower(),
        config=dict(getattr(dynamics, "config", {})),
        elements=[],
        cutoff=0.0,
        n_hops=0,
        dtype=str(next(dynamics.parameters()).dtype).removeprefix("torch."),
        reference_energies={},
        scale=1.0,
        versions={"eqcalc": __version__, "torch": torch.__version__},
        timestep=float(timestep),
        objects=list(objects),
        charges=[float(charge) for charge in charges],
    )


def _random_state(
    counts: tuple[int, int, int], charges: Sequence[float], kinds: Sequence[str]
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Return a float64 state with as many objects of each kind as ``counts`` says."""
    generator = torch.Generator().manual_seed(sum(counts))
    objects, n = {}, 0
    for (kind, size), count in zip(OBJECT_SIZES.items(), counts, strict=True):
        if kind in kinds:
            index = torch.arange(n, n + size * count)
            objects[kind] = index if size == 1 else index.reshape(size, count)
            n += size * count
    if n == 0:  # only isolated particles, and this state has none
        objects, n = {"isolated": torch.arange(2)}, 2
    picks = torch.randint(len(charges), (n,), generator=generator)
    positions, velocities = (
        scale * torch.randn((n, 3), generator=generator, dtype=torch.float64)
        for scale in (1.2, 0.4)
    )
    return torch.tensor(charges, dtype=torch.float64)[picks], positions, velocities, objects


def _archive(dynamics: nn.Module, card: PropagatorCard, passport: PropagatorPassport) -> bytes:
    try:
        return write_archive(
            ExportedPropagator(dynamics), dynamics, card.to_json(), passport.to_json()
        )
    except (RuntimeError, FrontendError) as error:
        raise ConfigError(_not_scriptable(dynamics, error)) from error


def _prove(content: bytes, passport: PropagatorPassport, card: PropagatorCard, path: Path) -> None:
    module = read_archive(content)
    dtype = getattr(torch, card.dtype)
    try:
        verify_steps(passport, module, dtype, torch.device("cpu"), f"export of '{path}'")
    except torch.jit.Error as error:  # a method marked as unused by TorchScript
        raise ConfigError(_not_scriptable(module, error)) from error


def _not_scriptable(dynamics: nn.Module, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = getattr(dynamics, "original_name", type(dynamics).__name__)
    return f"{name} cannot be exported, because TorchScript cannot run it: {lines[-1]}"
