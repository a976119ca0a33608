"""The moving state of a run: atoms, integrator, random numbers and guards, taken and kept.

What a run does with its files is in :mod:`eqcalc.simulate.md`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from eqcalc.errors import ConfigError, NonFiniteError
from eqcalc.simulate.cell_state import CellState, cell_state
from eqcalc.simulate.checkpoint import MDCheckpoint, restore_previous, write_checkpoint
from eqcalc.simulate.guard_kinds import Motion
from eqcalc.simulate.guard_rails import Clock, GuardRails
from eqcalc.simulate.guards import CONSERVING, Alarm
from eqcalc.simulate.integrators import (
    build_integrator,
    check_fit,
    conserved_energy,
    hold_center_of_mass,
)
from eqcalc.simulate.ramp import Ramp, targets_at
from eqcalc.simulate.restart import restore_state, state_of
from eqcalc.simulate.rigid_motion import reach_of, remove_rigid_motion, rigid_share
from eqcalc.simulate.run_folder import RunFolder
from eqcalc.simulate.settings import BAROSTATS, MDSettings
from eqcalc.simulate.thermo import Thermo, observe, snapshot
from eqcalc.simulate.velocities import project_velocities, redraw_velocities, set_velocities

__all__ = ["KEPT", "MDState"]

# What of a run its checkpoints keep as it is.
KEPT = (
    "n_dof",
    "kept_velocities",
    "projected_share",
    "rigid_share",
    "start_temperature_K",
    "minimization",
)

# Far above any chemistry: only a structure that flies apart gets there.
_HOTTEST_K = 1e5

_ALL = 1.0 - 1e-8  # of the kinetic energy; files keep 8 digits of a velocity


class MDState:
    """What moves in a run, and how it is taken up, kept in checkpoints, and taken back.

    Attributes: see :class:`eqcalc.simulate.md.MDRun`.
    """

    settings: MDSettings
    n_dof: int
    kept_velocities: bool
    projected_share: float
    rigid_share: float
    start_temperature_K: float
    minimization: dict[str, Any] | None
    _rails: GuardRails

    def _take(
        self,
        atoms: Atoms,
        calculator: Calculator,
        settings: MDSettings,
        source: dict[str, Any] | None,
        *,
        goes_on: bool = False,
    ) -> None:
        """Take what a new run and a resumed one, which ``goes_on``, are given."""
        self.settings = settings
        self.source = dict(source or {})
        self.rng = np.random.default_rng(settings.seed)
        self.atoms = atoms.copy()
        self.atoms.calc = calculator
        for name, values in list(self.atoms.arrays.items()):
            if values.dtype == object:  # which no checkpoint can hold: a resumed run has none
                del self.atoms.arrays[name]
        self.not_exact: list[str] = []
        self._constraints = list(self.atoms.constraints)
        self._last_frame: Atoms | None = None
        self._resumed: MDCheckpoint | None = None
        self._columns: list[str] = []  # of the table
        self._begin: MDCheckpoint | None = None  # from which the present stretch goes on
        self._folder: Path | None = None  # in which a resumed run goes on
        self._is_regular = True  # the last checkpoint is one of a run that is not interrupted
        self._clock = Clock(0, 0.0, float(settings.timestep_fs))
        check_fit(self.atoms, settings, goes_on=goes_on)
        hold_center_of_mass(self.atoms, settings)

    def _take_velocities(self, reach: float | None) -> None:
        """Keep the structure's velocities, as far as they can last, or draw new ones."""
        ensemble = self.settings.ensemble
        self.projected_share = self.rigid_share = 0.0
        if not self.kept_velocities:
            set_velocities(
                self.atoms,
                self.settings.temperature_K,
                self.rng,
                reach,
                keep_rotation=ensemble == "nvt-langevin",
            )
            return
        self.projected_share = project_velocities(self.atoms)
        if ensemble == "nve":
            self.rigid_share = rigid_share(self.atoms, reach)
        elif ensemble != "nvt-langevin":
            self.rigid_share = remove_rigid_motion(self.atoms, reach)
            if self.rigid_share > _ALL:
                raise ConfigError(
                    "the velocities of the structure do nothing but move or turn it as a "
                    "whole, which a chain of thermostats never changes; remove them to have "
                    "new ones drawn."
                )

    def _begin_dynamics(self, step: int) -> None:
        """Make the integrator with the targets of a step and the timestep of now.

        Its momenta may come back afterwards.
        """
        settings = replace(self.settings, timestep_fs=self._clock.timestep_fs)
        self.dynamics = build_integrator(self.atoms, settings, self.n_dof, self.rng)
        self._ramp = Ramp(self.dynamics, settings)
        self._ramp.at(step)

    def _guard_rails(self, state: dict[str, Any] | None = None) -> GuardRails:
        """Make the guards; what they watch follows the present integrator."""
        why_none = self._why_nothing_is_conserved()
        goal_K = max(self.settings.temperature_K, self.settings.to_temperature_K or 0.0)
        if self.settings.ensemble == "nve":  # nothing cools what the structure brings
            goal_K = max(goal_K, self.start_temperature_K)
        motion = Motion(self.n_dof, goal_K, None if why_none else self._conserved, why_none)
        settings = self.settings
        return GuardRails(
            self.atoms,
            settings.guards,
            motion,
            n_steps=settings.n_steps,
            seed=settings.seed,
            state=state,
        )

    def _why_nothing_is_conserved(self) -> str:
        """Return it in words, which are none where something is."""
        if self.settings.ensemble not in CONSERVING:
            return "nothing is conserved in this ensemble"
        if self.settings.ramp_steps is not None:
            return "targets that change do work on the system: nothing is conserved"
        if conserved_energy(self.dynamics) is None:
            return "the calculator gives no 'free_energy', of which what is conserved is made"
        return ""

    def guard_summary(self) -> dict[str, Any]:
        """Return what is watched, what is not and why, and what happened, as in the manifest."""
        return self._rails.summary(self._clock.timestep_fs)

    def _conserved(self) -> float:
        compute = conserved_energy(self.dynamics)
        return math.nan if compute is None else compute()

    def _go_back(self, target: RunFolder, alarm: Alarm, start_state: CellState | None) -> None:
        """Take the state of the last good checkpoint, changed as the alarm's action says."""
        step = self.dynamics.nsteps
        checkpoint = self._rails.checkpoint_to_go_back_to(alarm, step, target.path)
        halving = self._rails.action(alarm) == "halve"
        timestep_fs = self._clock.timestep_fs / (2 if halving else 1)
        time_fs = Clock(*checkpoint.facts.get("clock", self._clock)).at(checkpoint.step)
        self._clock = Clock(checkpoint.step, time_fs, timestep_fs)
        self.atoms.set_cell(checkpoint.atoms.cell)
        for name in ("positions", "momenta"):
            self.atoms.arrays[name][:] = checkpoint.atoms.arrays[name]
        self.rng.bit_generator.state = checkpoint.facts["random"]
        if not halving:
            self.rng = self._rails.new_random()
            if self.settings.ensemble != "nvt-langevin":  # which has its noise
                redraw_velocities(self.atoms, self.rng, reach_of(self.atoms.calc))
        self._begin_dynamics(checkpoint.step)
        restore_state(checkpoint, self.atoms.calc, self.dynamics)
        queued = {"queued": self._rails.queued}  # frames that are wanted, whatever became of them
        files, self._is_regular = {**checkpoint.facts["files"], **queued}, False
        self._last_frame = None  # it may be one that is taken back
        target.remove_made_of_it()  # by whoever looked at the frames that are taken back
        self._begin = self._keep_state(target, files, start_state)
        if self._rails.was_interrupted:
            restore_previous(target.path)

    def _steps(self, n_steps: int) -> Iterator[None]:
        """Let the integrator go on, each step with its targets; also before the first."""
        for _ in self.dynamics.irun(n_steps):
            yield
            self._ramp.at(self.dynamics.nsteps + 1)

    def _frame(self, **info: Any) -> Atoms:
        return snapshot(self.atoms, self._constraints, **info)

    def _keep_state(
        self, target: RunFolder, files: dict[str, Any], start: CellState | None
    ) -> MDCheckpoint:
        """Write a checkpoint of the present step and return it.

        One that is there because a run was interrupted makes room for the next.
        """
        regular = self.dynamics.nsteps % self.settings.checkpoint_every == 0
        atoms = self.atoms.copy()
        atoms.set_constraint(self._constraints)
        checkpoint = state_of(
            atoms,
            self.atoms.calc,
            self.dynamics,
            self.settings,
            files=files,
            random=self.rng.bit_generator.state,
            start=None if start is None else start._asdict(),
            source=self.source,
            clock=list(self._clock),
            guards=self._rails.state(),
            regular=regular,
            **{name: getattr(self, name) for name in KEPT},
        )
        write_checkpoint(target.path, checkpoint, instead=not self._is_regular)
        self._is_regular = regular
        return checkpoint

    def _measure(self) -> Thermo:
        """Return the present step; refuse one that no longer means anything."""
        step = self.dynamics.nsteps
        targets = targets_at(self.settings, step)
        thermo = observe(self.atoms, step, self._clock.at(step), self.n_dof)._replace(
            target_temperature_K=targets.get("temperature_K"),
            target_pressure_gpa=targets.get("pressure_gpa"),
        )
        if not math.isfinite(thermo.total_energy):
            raise NonFiniteError(f"the energy is {thermo.total_energy}")
        hottest = max(self.settings.temperature_K, self.settings.to_temperature_K or 0.0)
        if thermo.temperature_K > max(_HOTTEST_K, 100 * hottest):
            raise NonFiniteError(
                f"the structure flies apart (temperature {thermo.temperature_K:.3g} K)"
            )
        return thermo

    def _cell_state(self, now: Thermo) -> CellState | None:
        if self.settings.ensemble not in BAROSTATS or now.pressure_gpa is None:
            return None
        return cell_state(self.atoms, now.pressure_gpa)
