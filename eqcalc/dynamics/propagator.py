"""Propagator: a learned dynamics as a dynamics object of ASE.

from eqcalc.dynamics import Propagator

propagator = Propagator("gmn-nbody", trajectory="run.traj")
propagator.attach(lambda: print(propagator.get_time()), interval=10)
propagator.run(atoms, steps=50)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.io.trajectory import Trajectory
from torch import Tensor

from eqcalc.arguments import require_at_least
from eqcalc.devices import resolve_device, resolve_dtype
from eqcalc.dynamics.objects import find_objects, object_tensors
from eqcalc.dynamics.propagator_file import (
    PropagatorCard,
    PropagatorPassport,
    open_propagator_file,
    verify_steps,
)
from eqcalc.engines.engine import Target
from eqcalc.engines.full_precision import FullPrecision
from eqcalc.engines.loading import errors_of_the_program
from eqcalc.engines.torchscript import TorchScriptEngine
from eqcalc.errors import ConfigError, GraphError, ModelFileError, NonFiniteError, listing
from eqcalc.model_file import Source

__all__ = ["Propagator"]


class Propagator:
    """Move atoms by a learned dynamics, one large step at a time.

    It takes the place of an ASE molecular dynamics class: ``run`` moves the atoms it
    is given (positions and momenta), observers and trajectories see the first state
    and every step, and a second ``run`` of the same atoms goes on where the first
    ended. There are no forces and no energy, so the atoms need no calculator.

    Parameters
    ----------
    model : a shipped propagator's name, or the path of a file of ``export_propagator``
    device : "auto", "cpu", "cuda" or "cuda:N"
    dtype : "float32", "float64" or None for the file's own
    trajectory : path of a trajectory, or an object with ``write(atoms)``
    loginterval : steps between two of its frames
    append_trajectory : add to an existing file instead of replacing it
    trust : run whatever program the file holds; see :func:`eqcalc.load_model`

    Attributes
    ----------
    card, nsteps, atoms (those of the last run, or None)

    Raises
    ------
    ModelFileError : the file is missing, damaged, foreign, a potential, or gives other
        numbers here.
    DeviceError, ConfigError : see :func:`eqcalc.load_model`.
    """

    def __init__(
        self,
        model: Source,
        *,
        device: str = "auto",
        dtype: str | None = None,
        trajectory: Any = None,
        loginterval: int = 1,
        append_trajectory: bool = False,
        trust: bool = False,
    ) -> None:
        require_at_least(1, loginterval=loginterval)
        self._engine, self.card = _load(model, device, dtype, trust)
        self.nsteps = 0
        self.atoms: Atoms | None = None
        self._objects: dict[str, Tensor] = {}
        self._observers: list[tuple[Callable[..., Any], int, tuple[Any, ...], dict[str, Any]]] = []
        if trajectory is not None:
            if not hasattr(trajectory, "write"):
                trajectory = _TrajectoryFile(Path(trajectory), append_trajectory)
            self.attach(lambda: trajectory.write(self.atoms), interval=loginterval)

    def attach(self, function: Any, interval: int = 1, *args: Any, **kwargs: Any) -> None:
        """Call ``function(*args, **kwargs)`` during a run, as ASE's MD classes do.

        Parameters
        ----------
        function : a callable, or an object with ``write``
        interval : steps between two calls; zero or negative: only at step ``-interval``
        """
        called = function if callable(function) else function.write
        self._observers.append((called, interval, args, kwargs))

    def run(self, atoms: Atoms, steps: int = 50, objects: Mapping[str, Any] | None = None) -> bool:
        """Move ``atoms`` by ``steps`` steps; see :meth:`irun`. Returns True."""
        for _ in self.irun(atoms, steps, objects):
            pass
        return True

    def irun(
        self, atoms: Atoms, steps: int = 50, objects: Mapping[str, Any] | None = None
    ) -> Iterator[bool]:
        """Move ``atoms`` step by step; yields before the first step and after each.

        Parameters
        ----------
        atoms : positions and momenta are changed; velocities are momenta / masses, charges
            are ``atoms.get_initial_charges()``
        objects : array-likes "isolated" (K0,), "stick" (2, K1), "hinge" (3, K2), row 0 the
            joint; None takes them from FixBondLengths constraints and the array
            ``rigid_group`` (:func:`eqcalc.dynamics.objects.find_objects`)

        Yields
        ------
        whether the last step is done

        Raises
        ------
        GraphError : no atoms, a box, NaN positions or velocities, or bad objects.
        ConfigError : charges, masses or objects that the model was not trained on; another run
            has begun before this one's end.
        NonFiniteError : the model returned NaN or infinity; the atoms stay as they were.
        """
        require_at_least(0, steps=steps)
        self._objects = run = self._checked(atoms, objects)
        if atoms is not self.atoms:
            self.atoms, self.nsteps = atoms, 0
        last = self.nsteps + steps
        if self.nsteps == 0:
            self._call_observers()
        yield self.nsteps == last
        while self.nsteps < last:
            if self._objects is not run:
                raise ConfigError(
                    "another run of this propagator has begun meanwhile; take a propagator for "
                    "each of runs that take turns."
                )
            self.step()
            self._call_observers()
            yield self.nsteps == last

    def step(self) -> None:
        """Move the atoms of the present run by one step.

        Raises
        ------
        ConfigError : there is no run yet.
        NonFiniteError : the model returned NaN or infinity; the atoms stay as they were.
        """
        atoms = self.atoms
        if atoms is None:
            raise ConfigError("step needs the atoms of a run; call run or irun first.")
        state = (atoms.get_initial_charges(), atoms.positions, atoms.get_velocities())
        positions, velocities = self._engine.step(*state, self._objects)
        if not (np.isfinite(positions).all() and np.isfinite(velocities).all()):
            raise NonFiniteError(
                f"propagator '{self.card.name}' returned NaN or infinity at step "
                f"{self.nsteps + 1}; the state is far outside what it was trained on."
            )
        # The model keeps the rods' lengths itself: ASE's constraints have nothing to correct.
        atoms.set_positions(positions, apply_constraint=False)
        momenta = velocities * atoms.get_masses()[:, np.newaxis]
        atoms.set_momenta(momenta, apply_constraint=False)
        self.nsteps += 1

    def get_time(self) -> float:
        """Return the time since the run's first state, in the model's unit."""
        return self.nsteps * self.card.timestep

    def get_number_of_steps(self) -> int:
        """Return the number of steps since the run's first state."""
        return self.nsteps

    def todict(self) -> dict[str, Any]:
        """Return what ASE writes about a dynamics."""
        return {
            "type": "molecular-dynamics",
            "md-type": "Propagator",
            "model": self.card.name,
            "timestep": self.card.timestep,
        }

    def _call_observers(self) -> None:
        for function, interval, args, kwargs in self._observers:
            due = self.nsteps % interval == 0 if interval > 0 else self.nsteps == -interval
            if due:
                function(*args, **kwargs)

    def _checked(self, atoms: Atoms, objects: Mapping[str, Any] | None) -> dict[str, Tensor]:
        _require_state(atoms)
        card = self.card
        _require_known("charges", atoms.get_initial_charges(), card.charges, card.name)
        _require_known("masses", atoms.get_masses(), [card.mass], card.name)
        found = object_tensors(find_objects(atoms) if objects is None else objects, atoms)
        for kind, index in found.items():
            if index.numel() > 0 and kind not in card.objects:
                raise ConfigError(
                    f"propagator '{card.name}' was not trained on objects of kind '{kind}' (atoms "
                    f"{listing(index.flatten().tolist())}); it knows {', '.join(card.objects)}."
                )
        return {kind: index.to(self._engine.device) for kind, index in found.items()}


class _TrajectoryFile:
    """A trajectory that is closed between frames, so that others can read it at any time."""

    def __init__(self, path: Path, append: bool) -> None:
        self._path = str(path)
        if not append:
            path.unlink(missing_ok=True)

    def write(self, atoms: Atoms) -> None:
        with Trajectory(self._path, "a") as trajectory:
            trajectory.write(atoms)


class _StepEngine(TorchScriptEngine):
    """The archive of a propagator: numpy in, numpy out."""

    @torch.no_grad()
    def step(
        self, charges: Any, positions: Any, velocities: Any, objects: dict[str, Tensor]
    ) -> tuple[np.ndarray, np.ndarray]:
        tensors = (
            torch.as_tensor(np.array(values), dtype=self.dtype, device=self.device)
            for values in (charges, positions, velocities)
        )
        with FullPrecision(self.device.type):
            x, v = self._module(*tensors, objects)
        return x.cpu().double().numpy(), v.cpu().double().numpy()

    def tensors_step(
        self, charges: Tensor, positions: Tensor, velocities: Tensor, objects: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        return self._module(charges, positions, velocities, objects)


def _load(
    source: Source, device: str, dtype: str | None, trust: bool
) -> tuple[_StepEngine, PropagatorCard]:
    where = resolve_device(device)
    file, card = open_propagator_file(source, trust=trust)
    precision = resolve_dtype(dtype if dtype is not None else card.dtype)
    engine = _StepEngine.load(file, Target(where, precision))
    try:
        passport = PropagatorPassport.from_json(file.passport)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(
            f"the passport inside '{file.path}' is not readable: {error}."
        ) from error
    precise = FullPrecision(where.type)
    # The passport is replayed on the CPU, whatever device the process makes its own tensors on.
    with errors_of_the_program(file), precise, torch.device("cpu"):
        verify_steps(passport, engine.tensors_step, precision, where, str(file.path))
    return engine, card


def _require_state(atoms: Atoms) -> None:
    if len(atoms) == 0:
        raise GraphError("a propagator needs at least one atom, found none.")
    if atoms.pbc.any():
        raise GraphError(f"a propagator knows no box; this structure has pbc={atoms.pbc.tolist()}.")
    for name, values in (("positions", atoms.positions), ("velocities", atoms.get_velocities())):
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist()
        if bad:
            raise GraphError(f"{name} of atoms {listing(bad)} are NaN or infinite.")


def _require_known(what: str, values: Any, known: list[float], name: str) -> None:
    strange = np.flatnonzero(~np.isclose(values[:, np.newaxis], known, atol=1e-9).any(axis=1))
    if len(strange) > 0:
        found = sorted({float(values[k]) for k in strange})
        raise ConfigError(
            f"propagator '{name}' was trained on {what} of {listing(known)}; atoms "
            f"{listing(strange.tolist())} have {listing(found)}. Set them with "
            f"atoms.set_{'initial_charges' if what == 'charges' else what}."
        )
