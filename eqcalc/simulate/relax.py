"""Relaxation with ASE's optimizers, kept in a folder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS

from eqcalc.errors import ConfigError, NonFiniteError
from eqcalc.simulate.barostats import require_filled_cell
from eqcalc.simulate.cell_state import CellChange, CellState, cell_state
from eqcalc.simulate.failures import (
    keep_last_structure,
    rescuing,
    telling_where,
    trusted_frame,
)
from eqcalc.simulate.frame_content import warn_of_unkept_constraints
from eqcalc.simulate.guard_rails import GuardRails
from eqcalc.simulate.integrators import require_atoms_of_constraints, require_cell
from eqcalc.simulate.interrupts import StopOnSignal, StopRequested
from eqcalc.simulate.manifest import RunManifest, engine_fields
from eqcalc.simulate.plots import plot_relaxation, require_plots
from eqcalc.simulate.run_folder import RunFolder
from eqcalc.simulate.settings import RelaxSettings
from eqcalc.simulate.thermo import read_table, snapshot
from eqcalc.simulate.writers import (
    FrameWriter,
    TableWriter,
    open_trajectory,
    trajectory_name,
)
from eqcalc.units import pressure_gpa

__all__ = ["RelaxResult", "RelaxRun", "RelaxStep", "run_relax"]

# Both far above any chemistry; only a structure that collapses or flies apart gets there.
_LARGEST_CHANGE_EV_PER_ATOM = 1e3
_LARGEST_FORCE = 1e6  # eV/Å

_OPTIMIZERS = {"bfgs": BFGS, "lbfgs": LBFGS, "fire": FIRE}


# What holds while atoms move with their cell: fractional coordinates, and symmetry.
_LASTING = ("FixAtoms", "FixScaled", "FixSymmetry", "FixScaledParametricRelations")


class RelaxStep(NamedTuple):
    """One row of ``relax.csv``.

    ``fmax`` (eV/Å) is what has to fall below the criterion: the largest force, with a cell
    the largest row (eV) of the virial per atom where that is larger. ``enthalpy`` (eV),
    ``volume`` (Å³) and ``pressure_gpa`` are None without a cell.
    """

    step: int
    energy: float
    fmax: float
    enthalpy: float | None
    volume: float | None
    pressure_gpa: float | None


@dataclass(frozen=True)
class RelaxResult:
    """A finished relaxation; ``converged`` tells whether it reached a minimum.

    ``cell_change`` is None unless the cell was relaxed as well; ``guards`` is what the manifest
    says of them.
    """

    folder: Path
    atoms: Atoms
    converged: bool
    n_steps: int
    energy: float
    fmax: float
    cell_change: CellChange | None = None
    guards: dict[str, Any] = field(default_factory=dict)


def run_relax(
    atoms: Atoms,
    calculator: Calculator,
    settings: RelaxSettings,
    folder: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[RelaxStep], None] | None = None,
) -> RelaxResult:
    """Relax a structure; short for ``RelaxRun(...).run(...)``, which has the details."""
    run = RelaxRun(atoms, calculator, settings)
    return run.run(folder, overwrite=overwrite, progress=progress)


def _require_lasting_constraints(atoms: Atoms) -> None:
    """Refuse constraints in Å where a change of the cell takes all atoms along."""
    for constraint in atoms.constraints:
        name = type(constraint).__name__
        holds_whole = name == "FixCartesian" and constraint.mask.all()
        if name not in _LASTING and not holds_whole:
            raise ConfigError(
                f"relaxing the cell moves all atoms with it, and {name} would not hold; remove "
                "it, relax without the cell, or fix atoms with FixAtoms or FixScaled, which then "
                "keep their fractional coordinates."
            )


class RelaxRun:
    """A relaxation of positions, or of positions and cell.

    The run works on a copy of ``atoms``; constraints of the structure hold. Where the cell is
    relaxed, atoms that are fixed keep their places in it, fractional coordinates.

    Parameters
    ----------
    atoms : structure to start from; not changed
    calculator : any ASE calculator with energy and forces, and stress for a cell
    settings : criterion, optimizer, cell, ...
    source : what else the manifest shall say, such as the model and the file

    Attributes
    ----------
    atoms, optimizer (ASE's), settings, velocities_left_out (whether the structure had some)

    Raises
    ------
    ConfigError : a cell is to be relaxed that is not periodic in three
        directions, without a stress, or with a constraint that a changing cell breaks; a
        constraint holds an atom that is not there; a guard is asked for that the calculator
        cannot have.
    """

    def __init__(
        self,
        atoms: Atoms,
        calculator: Calculator,
        settings: RelaxSettings,
        source: dict[str, Any] | None = None,
    ):
        self.settings = settings
        self.source = dict(source or {})
        self.atoms = atoms.copy()
        # They belonged to other positions; a run from the relaxed structure draws its own.
        momenta = self.atoms.arrays.pop("momenta", None)
        self.velocities_left_out = momenta is not None and bool(np.any(momenta))
        self.atoms.calc = calculator
        require_atoms_of_constraints(self.atoms)
        again = "and they are to be set again before going on from one"
        warn_of_unkept_constraints(self.atoms, again)
        self._target: Atoms | FrechetCellFilter = self.atoms
        if settings.cell:
            require_cell(self.atoms, "relaxing the cell")
            advice = "Relax the positions alone, or a cell that is filled."
            require_filled_cell(self.atoms, "relaxing the cell", advice)
            _require_lasting_constraints(self.atoms)
            self._target = FrechetCellFilter(
                self.atoms, scalar_pressure=settings.pressure_gpa * units.GPa
            )
        self._first_energy: float | None = None
        self._last_frame: Atoms | None = None
        self._rails = GuardRails(self.atoms, settings.guards, None, n_steps=settings.max_steps)
        self.optimizer = _OPTIMIZERS[settings.optimizer](self._target, logfile=None)

    def said(self) -> list[str]:
        """Return what guards have found since the last call, in sentences."""
        return self._rails.said()

    def run(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        progress: Callable[[RelaxStep], None] | None = None,
    ) -> RelaxResult:
        """Relax and write trajectory, relax.csv, plot, relaxed.xyz and manifest.

        Not to converge within ``max_steps`` is a result, not an error: the files
        hold the last step, and ``converged`` is false there and in the manifest.

        Raises
        ------
        OutputExistsError : the folder holds a run and ``overwrite`` is false.
        MissingDependencyError : matplotlib cannot be imported.
        OutputError : a file cannot be written; what was written before is complete.
        NonFiniteError : the structure collapsed or flew apart, or the model returned NaN;
            relaxed.xyz is the last structure that can be trusted, as it is after a GuardError.
        GuardError : a guard rail or a failed self-audit stopped the relaxation.
        OutputLostError : the folder or a file in it was removed; the last structure is rescued.
        StopRequested : Ctrl-C, SIGTERM, SIGHUP or a display that nobody reads any more, after
            all files were completed.
        """
        target = RunFolder(folder, overwrite=overwrite)
        require_plots()
        start = self._cell_state(self._measure())  # must not cost an older run if it fails
        target.claim()
        manifest = RunManifest(target / "manifest.json", self._manifest_fields())
        final_path = target / "relaxed.xyz"
        rescue = rescuing(final_path, lambda: self._trusted_frame(target), manifest)
        with StopOnSignal() as stop, manifest, rescue:
            try:
                last = self._all_steps(target, stop, progress)
            finally:
                manifest.update(guards=self.guard_summary())
            converged = last.fmax < self.settings.fmax
            manifest.update(steps_done=last.step, converged=converged)
            final = self._frame(step=last.step)
            keep_last_structure(final_path, final, manifest)
            plot_relaxation(
                target / "plot.png",
                read_table(target / "relax.csv"),
                n_atoms=len(self.atoms),
                fmax=self.settings.fmax,
            )
            trajectory = trajectory_name(self.settings.trajectory_format)
            target.require_files("manifest.json", "relax.csv", trajectory, "relaxed.xyz")
            if stop.signal_number is not None and not converged:
                raise StopRequested(
                    f"stopped at step {last.step} of at most {self.settings.max_steps}; "
                    f"everything up to there is in {target.path}; eqcalc relax "
                    f"{target / 'relaxed.xyz'} goes on from there",
                    stop.signal_number,
                )
        end = self._cell_state(last)
        change = None if start is None or end is None else CellChange(start, end)
        return RelaxResult(
            folder=target.path,
            atoms=final,
            converged=converged,
            n_steps=last.step,
            energy=last.energy,
            fmax=last.fmax,
            cell_change=change,
            guards=self.guard_summary(),
        )

    def _all_steps(
        self,
        target: RunFolder,
        stop: StopOnSignal,
        progress: Callable[[RelaxStep], None] | None,
    ) -> RelaxStep:
        settings = self.settings
        self._rails.guards.forgive()
        names = ["step", "energy_eV", "fmax"]
        if settings.cell:
            names += ["enthalpy_eV", "volume_A3", "pressure_gpa"]
        path = target / trajectory_name(settings.trajectory_format)
        with (
            closing(TableWriter(target / "relax.csv", names)) as table,
            closing(open_trajectory(path, settings.trajectory_format)) as trajectory,
            closing(self._rails.open(target.path, {})) as rails,
            telling_where(self.optimizer, trajectory),
        ):
            for _ in self.optimizer.irun(fmax=settings.fmax, steps=settings.max_steps):
                alarm = rails.look(self.optimizer.nsteps, 0.0, self._frame, closely=True)
                if alarm is not None:
                    rails.stop(alarm, self.optimizer.nsteps)
                last = self._record(table, trajectory)
                stop.tell(progress, last)
                if stop.signal_number is not None:
                    break
            table.require_present()
            trajectory.require_present()
        return last

    def _record(self, table: TableWriter, trajectory: FrameWriter) -> RelaxStep:
        row = self._measure()
        self._last_frame = self._frame(step=row.step)
        trajectory.write(self._last_frame)
        table.write([value for value in row if value is not None])
        return row

    def _trusted_frame(self, target: RunFolder) -> Atoms | None:
        """Return the last frame of the trajectory, or that before something was wrong."""
        trajectory = target / trajectory_name(self.settings.trajectory_format)
        until = self._rails.trusted_until
        return trusted_frame(self._last_frame, until, trajectory, target / "relax.csv")

    def _frame(self, **info: Any) -> Atoms:
        return snapshot(self.atoms, list(self.atoms.constraints), **info)

    def guard_summary(self) -> dict[str, Any]:
        """Return what is watched, what is not and why, and what happened, as in the manifest."""
        return self._rails.summary()

    def _cell_state(self, now: RelaxStep) -> CellState | None:
        return None if now.pressure_gpa is None else cell_state(self.atoms, now.pressure_gpa)

    def _measure(self) -> RelaxStep:
        """Return the present step; the criterion is ASE's. Refuse one beyond all chemistry."""
        step = self.optimizer.nsteps
        forces = self._target.get_forces()
        energy = float(self.atoms.get_potential_energy())
        if not (np.isfinite(forces).all() and np.isfinite(energy)):
            raise NonFiniteError("energy or forces are NaN or infinite")
        enthalpy = volume = pressure = None
        if self.settings.cell:
            volume = float(self.atoms.get_volume())
            enthalpy = energy + self.settings.pressure_gpa * units.GPa * volume
            pressure = pressure_gpa(self.atoms.get_stress())
        fmax = float(np.sqrt((forces**2).sum(axis=1).max()))
        self._refuse_absurd(energy, fmax)
        return RelaxStep(step, energy, fmax, enthalpy, volume, pressure)

    def _refuse_absurd(self, energy: float, fmax: float) -> None:
        if fmax > _LARGEST_FORCE:
            raise NonFiniteError(
                f"the largest force is {fmax:.3g} eV/Å, as between atoms on top of each other."
            )
        if self._first_energy is None:
            self._first_energy = energy
        change = (energy - self._first_energy) / len(self.atoms)
        if abs(change) > _LARGEST_CHANGE_EV_PER_ATOM:
            raise NonFiniteError(
                f"the structure falls apart (energy changed by {change:.3g} eV/atom since the "
                "start)."
            )

    def _manifest_fields(self) -> dict[str, Any]:
        return {
            "kind": "relax",
            **self.source,
            **engine_fields(self.atoms),
            "settings": asdict(self.settings),
            "formula": self.atoms.get_chemical_formula(mode="hill"),
            "n_atoms": len(self.atoms),
            "velocities_left_out": self.velocities_left_out,
            "steps_done": 0,
            "converged": False,
            "guards": self.guard_summary(),
        }
