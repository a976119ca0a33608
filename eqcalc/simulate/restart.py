"""What of a run goes into its checkpoints, and what must fit when it goes on from one."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.md.md import MolecularDynamics
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from eqcalc.errors import CheckpointError, ConfigError, listing
from eqcalc.simulate.checkpoint import MDCheckpoint, read_checkpoint, write_checkpoint
from eqcalc.simulate.frame_content import unkept_constraints
from eqcalc.simulate.guard_settings import GuardSettings
from eqcalc.simulate.integrators import integrator_state, restore_integrator
from eqcalc.simulate.manifest import engine_fields
from eqcalc.simulate.settings import MDSettings
from eqcalc.versions import package_versions

__all__ = [
    "RunLock",
    "differences",
    "keep_settings",
    "require_resumable",
    "require_same_energy",
    "require_unchanged",
    "restore_state",
    "settings_to_go_on",
    "state_of",
]

_LOCK = ".running"
_OTHER_EV_PER_ATOM = 1e-3
"""Difference of energies that no rounding and no convergence of a self-consistent one explains."""
_ORDER = "atom_order"  # among the arrays of a checkpoint


class RunLock:
    """Held by a run while it writes its folder, so that no second process does.

    A file system without locks has none. A new run that has been told to take the folder of
    another one goes without where that still holds it.

    Raises
    ------
    ConfigError : ``required``, and the run is still going on.
    """

    def __init__(self, folder: Path, *, required: bool) -> None:
        self._lock = FileLock(folder / _LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            if required:
                raise ConfigError(
                    f"the run in '{folder}' is still going on in another process; wait for "
                    "its end, or stop that one."
                ) from None
        except (OSError, NotImplementedError):  # no locks on this file system
            return

    def close(self) -> None:
        """Give the lock back."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):  # the folder is gone, and that was said already
                Path(self._lock.lock_file).unlink()  # before its release, or it could be another's
        self._lock.release()


def _conditions(atoms: Atoms) -> dict[str, Any]:
    """Return what, besides the state, the bits of the next steps depend on.

    Checksums of the calculator's models, engine, device, precision and threads; versions.
    """
    models = getattr(atoms.calc, "models", None)
    return {
        "calculator": type(atoms.calc).__name__,
        "models": None if models is None else [model.file.sha256 for model in models],
        **engine_fields(atoms),
        "versions": package_versions(),
    }


def require_resumable(atoms: Atoms, checkpoint: MDCheckpoint) -> None:
    """Refuse a checkpoint of another potential, or one that could not hold all constraints.

    Raises
    ------
    CheckpointError : it is one of these.
    """
    lost = checkpoint.facts["constraints_not_kept"]
    if lost:
        raise CheckpointError(
            f"the run had the constraints {', '.join(lost)}, which no file can hold, and cannot go "
            "on without them."
        )
    before, now = checkpoint.facts["conditions"], _conditions(atoms)
    for what, name in (("calculator", "calculator"), ("models", "model")):
        if before[what] != now[what]:
            raise CheckpointError(
                f"the run had another {name}: {_in_words(before[what])}, now "
                f"{_in_words(now[what])}; go on with that one, or start a new run from the last "
                "frame."
            )


def _known_energy(atoms: Atoms) -> float | None:
    """Return the energy (eV) that a calculator has computed of these positions, if it has."""
    is_required = getattr(atoms.calc, "calculation_required", None)
    if is_required is None or is_required(atoms, ["energy"]):
        return None  # a run was taken back, and has not gone on yet
    return float(atoms.get_potential_energy())


def require_same_energy(atoms: Atoms, checkpoint: MDCheckpoint) -> None:
    """Refuse a calculator that gives the structure of a checkpoint another energy.

    A class does not say what its parameters were; a model's checksum does.

    Raises
    ------
    CheckpointError : it is another by more than 1 meV/atom.
    """
    before = checkpoint.facts.get("energy")  # an older version kept none
    if before is None or checkpoint.facts["conditions"]["models"] is not None:
        return
    now = float(atoms.get_potential_energy())
    if abs(now - before) > _OTHER_EV_PER_ATOM * len(atoms):
        raise CheckpointError(
            f"at step {checkpoint.step} the run had the potential energy {before:.6f} eV, and this "
            f"{type(atoms.calc).__name__} gives {now:.6f} eV: it has other parameters, or parts. "
            "Go on with that of the run, or start a new run from the last frame."
        )


def require_unchanged(folder: Path, checkpoint: MDCheckpoint) -> None:
    """Refuse to go on where another process has done so since the checkpoint was read.

    Raises
    ------
    ConfigError : it has.
    """
    step = read_checkpoint(folder).step
    if step != checkpoint.step:
        raise ConfigError(
            f"the run in '{folder}' has gone on from step {checkpoint.step} to {step} meanwhile; "
            "resume it again."
        )


def differences(atoms: Atoms, checkpoint: MDCheckpoint) -> list[str]:
    """Return in words why the run may not go on bit for bit; empty where it does."""
    before, now = checkpoint.facts["conditions"], _conditions(atoms)
    on_gpu = any(model.device.type == "cuda" for model in getattr(atoms.calc, "models", ()))
    return ["a GPU, where the order of sums varies"] * on_gpu + [
        f"{name} {was}, now {now.get(part, {}).get(name)}"
        for part in ("engine", "versions")
        for name, was in before.get(part, {}).items()
        if name != "not_used" and was != now.get(part, {}).get(name)
    ]


def settings_to_go_on(
    checkpoint: MDCheckpoint, n_steps: int | None, *, has_ended: bool
) -> MDSettings:
    """Return the settings of the run, with another number of steps in all where it is given.

    Parameters
    ----------
    has_ended : nothing that a run writes at its end is missing, where all steps are done

    Raises
    ------
    ConfigError : there are no steps left.
    CheckpointError : the run has settings that this version does not know.
    """
    stored = checkpoint.facts["settings"]
    unknown = sorted(stored.keys() - {field.name for field in fields(MDSettings)})
    if unknown:
        raise CheckpointError(
            f"the run has the settings {listing(unknown)}, which this version of eqcalc does not "
            "know; go on with the version that wrote them."
        )
    changed = {
        "n_steps": stored["n_steps"] if n_steps is None else n_steps,
        "guards": GuardSettings.of_stored(stored.get("guards")),
    }
    settings = MDSettings(**{**stored, **changed})
    if settings.n_steps < checkpoint.step + has_ended:
        asked = f" of {n_steps}" if n_steps is not None else ""
        raise ConfigError(
            f"the run is at step {checkpoint.step} of {stored['n_steps']}: nothing{asked} is left "
            "to do. Give n_steps, the number that it shall have in all."
        )
    return settings


def keep_settings(folder: Path, checkpoint: MDCheckpoint, settings: MDSettings) -> None:
    """Put the settings with which a run goes on into its checkpoint, where they are others.

    Else a run that was made longer would be as short as before if it were killed now.

    Raises
    ------
    OutputError : it cannot be written.
    """
    if settings.n_steps != checkpoint.facts["settings"]["n_steps"]:
        facts = {**checkpoint.facts, "settings": asdict(settings)}
        write_checkpoint(folder, replace(checkpoint, facts=facts), instead=True)


def state_of(
    atoms: Atoms,
    calculator: Calculator,
    dynamics: MolecularDynamics,
    settings: MDSettings,
    **facts: Any,
) -> MDCheckpoint:
    """Return the present state of a run; ``atoms`` with the user's constraints alone."""
    arrays: dict[str, NDArray[Any]] = dict(integrator_state(dynamics))
    order = getattr(calculator, "atom_order", None)
    if order is not None:
        arrays[_ORDER] = order
    facts |= {
        "energy": _known_energy(dynamics.atoms),
        "settings": asdict(settings),
        "conditions": _conditions(dynamics.atoms),
        "constraints_not_kept": unkept_constraints(atoms),
    }
    return MDCheckpoint(dynamics.nsteps, atoms, arrays, facts)


def restore_state(
    checkpoint: MDCheckpoint, calculator: Calculator, dynamics: MolecularDynamics
) -> None:
    """Give integrator and calculator the state of a checkpoint.

    Raises
    ------
    ConfigError : see :func:`eqcalc.simulate.integrators.restore_integrator`.
    """
    arrays = dict(checkpoint.arrays)
    order = arrays.pop(_ORDER, None)
    if hasattr(calculator, "keep_atom_order"):
        calculator.keep_atom_order(dynamics.atoms, order)
    restore_integrator(dynamics, arrays)
    dynamics.nsteps = checkpoint.step


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"sha256 {each[:12]}..." for each in value)
    return str(value)
