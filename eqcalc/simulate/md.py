"""Molecular dynamics with ASE's integrators, kept in a folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from numpy.typing import NDArray

from eqcalc.errors import ConfigError, NonFiniteError
from eqcalc.simulate.cell_state import CellChange, CellState, cell_state
from eqcalc.simulate.checkpoint import (
    MDCheckpoint,
    read_checkpoint,
    restore_previous,
    write_checkpoint,
)
from eqcalc.simulate.failures import rescuing, telling_where
from eqcalc.simulate.frame_content import unkept_constraints
from eqcalc.simulate.guard_rails import Clock, GuardRails, sizes_of_guards
from eqcalc.simulate.guards import Alarm, Motion
from eqcalc.simulate.integrators import (
    build_integrator,
    check_fit,
    conserved_energy,
    hold_center_of_mass,
)
from eqcalc.simulate.interrupts import StopOnSignal, StopRequested
from eqcalc.simulate.manifest import RunManifest, earlier_parts, engine_fields
from eqcalc.simulate.md_result import MDProgress, MDResult
from eqcalc.simulate.plots import plot_md, require_plots
from eqcalc.simulate.restart import (
    RunLock,
    differences,
    require_resumable,
    require_unchanged,
    restore_state,
    settings_to_go_on,
    state_of,
)
from eqcalc.simulate.run_folder import RunFolder
from eqcalc.simulate.settings import MDSettings
from eqcalc.simulate.thermo import (
    Thermo,
    columns,
    has_pressure,
    observe,
    read_table,
    snapshot,
    temperature_of,
)
from eqcalc.simulate.velocities import (
    conserved_zero_momenta,
    has_velocities,
    project_velocities,
    redraw_velocities,
    set_velocities,
)
from eqcalc.simulate.writers import (
    FrameWriter,
    TableWriter,
    open_trajectory,
    trajectory_name,
    write_structure,
)

__all__ = ["MDProgress", "MDResult", "MDRun", "resume_md", "run_md"]

# What of a run its checkpoints keep as it is.
_KEPT = ("n_dof", "kept_velocities", "projected_share", "start_temperature_K")

# Far above any chemistry: only a structure that flies apart gets there.
_HOTTEST_K = 1e5


def run_md(
    atoms: Atoms,
    calculator: Calculator,
    settings: MDSettings,
    folder: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[MDProgress], None] | None = None,
    max_hours: float | None = None,
) -> MDResult:
    """Run molecular dynamics; short for ``MDRun(...).run(...)``, which has the details."""
    run = MDRun(atoms, calculator, settings)
    return run.run(folder, overwrite=overwrite, progress=progress, max_hours=max_hours)


def resume_md(
    folder: str | Path,
    calculator: Calculator,
    *,
    n_steps: int | None = None,
    progress: Callable[[MDProgress], None] | None = None,
    max_hours: float | None = None,
) -> MDResult:
    """Go on with the run of a folder; short for ``MDRun.resume(...).run(...)``."""
    run = MDRun.resume(folder, calculator, n_steps=n_steps)
    return run.run(folder, progress=progress, max_hours=max_hours)


class MDRun:
    """A molecular dynamics run: atoms, integrator and random numbers.

    The run works on a copy of ``atoms``. Velocities that the structure brings are
    kept; otherwise they are drawn from the seed at exactly the temperature
    asked for, without motion of the whole and, for an isolated molecule (except
    under Langevin, whose noise turns it), without rotation. The temperature
    counts only the degrees of freedom that can hold heat. Langevin holds the
    centre of mass unless the structure has constraints. The same seed gives the
    same trajectory.

    Parameters
    ----------
    atoms : structure to start from; not changed
    calculator : any ASE calculator with energy and forces
    settings : ensemble, length, temperature, ...
    source : what else the manifest shall say, such as the model and the file

    Attributes
    ----------
    atoms, dynamics (ASE's integrator), rng (the run's only random numbers),
    settings, n_dof; kept_velocities (whether the structure brought its own),
    projected_share (of their kinetic energy, taken away because constraints forbid it) and
    start_temperature_K, that of the first velocities; not_exact (of a resumed run, in words:
    why it may not go on bit for bit)

    Raises
    ------
    ConfigError : the ensemble does not fit the structure or the calculator, or no
        atom is free to move.
    NonFiniteError : the structure brings velocities that are NaN or infinite.
    """

    def __init__(
        self,
        atoms: Atoms,
        calculator: Calculator,
        settings: MDSettings,
        source: dict[str, Any] | None = None,
    ):
        self._take(atoms, calculator, settings, source)
        langevin = settings.ensemble == "nvt-langevin"
        self.kept_velocities = has_velocities(self.atoms)
        if not np.isfinite(self.atoms.get_momenta()).all():
            raise NonFiniteError(
                "the velocities of the structure are NaN or infinite; remove them from the file "
                "to have new ones drawn."
            )
        self.projected_share = 0.0
        if self.kept_velocities:
            self.projected_share = project_velocities(self.atoms)
        else:
            set_velocities(self.atoms, settings.temperature_K, self.rng, keep_rotation=langevin)
        self.n_dof = self.atoms.get_number_of_degrees_of_freedom()
        if not langevin:
            self.n_dof -= conserved_zero_momenta(self.atoms)
        if self.n_dof < 1:
            raise ConfigError("the constraints of the structure leave no atom free to move.")
        self.start_temperature_K = temperature_of(self.atoms, self.n_dof)
        self._begin_dynamics()
        self._rails = self._guard_rails()

    @classmethod
    def resume(
        cls, folder: str | Path, calculator: Calculator, *, n_steps: int | None = None
    ) -> MDRun:
        """Return the run of a folder as it was at its last checkpoint; ``run(folder)`` goes on.

        With the same calculator on the same machine the trajectory and the table are, bit for
        bit, those of a run that was never interrupted.

        Parameters
        ----------
        calculator : with the same model as before
        n_steps : of the whole run, from its first step; by default what it was to have

        Raises
        ------
        CheckpointError : the folder has no readable checkpoint, or one of another model.
        ConfigError : no steps are left.
        """
        checkpoint = read_checkpoint(Path(folder))
        settings = settings_to_go_on(checkpoint, n_steps)
        facts = checkpoint.facts
        run = cls.__new__(cls)
        run._take(checkpoint.atoms, calculator, settings, facts["source"])
        require_resumable(run.atoms, checkpoint)
        run.not_exact = differences(run.atoms, checkpoint)
        for name in _KEPT:
            setattr(run, name, facts[name])
        run.rng.bit_generator.state = facts["random"]
        run._clock = Clock(*facts.get("clock", run._clock))
        run._begin_dynamics()
        restore_state(checkpoint, calculator, run.dynamics)
        run._resumed = run._begin = checkpoint
        run._folder = Path(folder)
        run._is_regular = facts.get("regular", True)
        run._rails = run._guard_rails(facts.get("guards"))
        return run

    def _take(
        self,
        atoms: Atoms,
        calculator: Calculator,
        settings: MDSettings,
        source: dict[str, Any] | None,
    ) -> None:
        """Take what a new run and a resumed one are given."""
        self.settings = settings
        self.source = dict(source or {})
        self.rng = np.random.default_rng(settings.seed)
        self.atoms = atoms.copy()
        self.atoms.calc = calculator
        self.not_exact: list[str] = []
        self._constraints = list(self.atoms.constraints)
        self._last_frame: Atoms | None = None
        self._resumed: MDCheckpoint | None = None
        self._begin: MDCheckpoint | None = None  # from which the present stretch goes on
        self._folder: Path | None = None  # in which a resumed run goes on
        self._is_regular = True  # the last checkpoint is one of a run that is not interrupted
        self._clock = Clock(0, 0.0, float(settings.timestep_fs))
        check_fit(self.atoms, settings)
        hold_center_of_mass(self.atoms, settings)

    def _begin_dynamics(self) -> None:
        """Make the integrator, with the timestep of now."""
        settings = replace(self.settings, timestep_fs=self._clock.timestep_fs)
        self.dynamics = build_integrator(self.atoms, settings, self.n_dof, self.rng)

    def _guard_rails(self, state: dict[str, Any] | None = None) -> GuardRails:
        """Make the guards; what they watch follows the present integrator."""
        has_conserved = conserved_energy(self.dynamics) is not None
        goal_K = self.settings.temperature_K
        if self.settings.ensemble == "nve":  # nothing cools what the structure brings
            goal_K = max(goal_K, self.start_temperature_K)
        motion = Motion(self.n_dof, goal_K, self._conserved if has_conserved else None)
        settings = self.settings
        return GuardRails(
            self.atoms,
            settings.guards,
            motion,
            n_steps=settings.n_steps,
            seed=settings.seed,
            state=state,
        )

    def guard_summary(self) -> dict[str, Any]:
        """Return what is watched, what is not and why, and what happened, as in the manifest."""
        return self._rails.summary(self._clock.timestep_fs)

    def _conserved(self) -> float:
        compute = conserved_energy(self.dynamics)
        return math.nan if compute is None else compute()

    def run(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        progress: Callable[[MDProgress], None] | None = None,
        max_hours: float | None = None,
    ) -> MDResult:
        """Run all steps and write trajectory, thermo.csv, plot, final.xyz, manifest.

        Frames are written every ``log_every`` steps, at the first and the last. A resumed run
        goes on in its own folder, from which what came after the checkpoint is cut off. After
        ``max_hours`` it ends as Ctrl-C ends it.

        Raises
        ------
        OutputExistsError : the folder holds a run and ``overwrite`` is false.
        ConfigError : a resumed run is given another folder, or another process goes on with it
            or has done so meanwhile; the hours are no time.
        MissingDependencyError : matplotlib cannot be imported.
        OutputError : a file cannot be written; what was written before is complete.
        NonFiniteError : the structure flew apart, or the model returned NaN.
        GuardError : a guard rail or a failed self-audit stopped the run.
        OutputLostError : the folder or a file in it was removed; the last structure is rescued.
        StopRequested : Ctrl-C, SIGTERM, SIGHUP, the time limit or a display that nobody reads any
            more, after all files were completed.
        """
        stop = StopOnSignal(max_hours)
        if self._folder is not None and self._folder.resolve() != Path(folder).resolve():
            raise ConfigError(
                f"this run goes on in its own folder, '{self._folder}', not in '{folder}'."
            )
        target = RunFolder(folder, overwrite=overwrite or self._resumed is not None)
        require_plots()
        # A model or structure that cannot start must not cost an older run.
        if not np.isfinite(self.atoms.get_forces()).all():
            raise NonFiniteError(
                "the forces on the first structure are NaN or infinite; check the structure, and "
                "that the model was trained on such systems."
            )
        start = self._cell_state(self._measure())
        if self._resumed is None:
            self._rails.require_start()
            target.claim()
        with closing(RunLock(target.path, required=self._resumed is not None)):
            if self._resumed is not None:
                require_unchanged(target.path, self._resumed)
                target.require_sizes(self._sizes(self._resumed))
                target.remove("final.xyz", "plot.png")
            return self._run_in(target, stop, start, progress)

    def _sizes(self, checkpoint: MDCheckpoint) -> dict[str, int]:
        files = checkpoint.facts["files"]
        name = trajectory_name(self.settings.trajectory_format)
        sizes = {"thermo.csv": files["table"], name: files["trajectory"]["size"]}
        return sizes | sizes_of_guards(files)

    def _run_in(
        self,
        target: RunFolder,
        stop: StopOnSignal,
        start: CellState | None,
        progress: Callable[[MDProgress], None] | None,
    ) -> MDResult:
        path = target / "manifest.json"
        parts = [] if self._resumed is None else earlier_parts(path)
        if self._resumed is not None and self._resumed.facts["start"] is not None:
            start = CellState(**self._resumed.facts["start"])
        manifest = RunManifest(path, self._manifest_fields(parts))
        final_path = target / "final.xyz"
        rescue = rescuing(final_path, lambda: self._last_frame, manifest.is_in_place)
        with stop, manifest, rescue:
            wall_s = self._all_stretches(target, stop, manifest, progress, start)
            result = self._finish(target, wall_s, start)
            trajectory = trajectory_name(self.settings.trajectory_format)
            target.require_files("manifest.json", "thermo.csv", trajectory, "final.xyz")
            if stop.signal_number is not None and result.n_steps < self.settings.n_steps:
                raise StopRequested(
                    f"stopped at step {result.n_steps} of {self.settings.n_steps}; everything "
                    f"up to there is in {target.path}; eqcalc md --resume {target.path} goes on "
                    "from there",
                    stop.signal_number,
                )
        return result

    def _all_stretches(
        self,
        target: RunFolder,
        stop: StopOnSignal,
        manifest: RunManifest,
        progress: Callable[[MDProgress], None] | None,
        start_state: CellState | None,
    ) -> float:
        """Run until the end or a signal, also where guards take it back; return the seconds."""
        begun = time.perf_counter()
        try:
            while True:
                try:
                    alarm = self._all_steps(target, stop, manifest, progress, start_state, begun)
                except NonFiniteError as error:
                    if self._rails.settings.on_alarm not in ("halve", "roll-back"):
                        raise
                    alarm = self._rails.of_error(error, self.dynamics.nsteps)
                if alarm is None:
                    return time.perf_counter() - begun
                self._go_back(target, alarm, start_state)
        finally:
            manifest.update(guards=self.guard_summary())

    def _go_back(self, target: RunFolder, alarm: Alarm, start_state: CellState | None) -> None:
        """Take the state of the last good checkpoint, changed as the alarm's action says."""
        step = self.dynamics.nsteps
        checkpoint = self._rails.checkpoint_to_go_back_to(alarm, step, target.path)
        halving = self._rails.action(alarm) == "halve"
        timestep_fs = self._clock.timestep_fs / (2 if halving else 1)
        time_fs = Clock(*checkpoint.facts["clock"]).at(checkpoint.step)
        self._clock = Clock(checkpoint.step, time_fs, timestep_fs)
        self.atoms.set_cell(checkpoint.atoms.cell)
        for name in ("positions", "momenta"):
            self.atoms.arrays[name][:] = checkpoint.atoms.arrays[name]
        self.rng.bit_generator.state = checkpoint.facts["random"]
        if not halving:
            self.rng = self._rails.new_random()
            if self.settings.ensemble != "nvt-langevin":  # which has its noise
                redraw_velocities(self.atoms, self.rng)
        self._begin_dynamics()
        restore_state(checkpoint, self.atoms.calc, self.dynamics)
        queued = {"queued": self._rails.queued}  # frames that are wanted, whatever became of them
        files, self._is_regular = {**checkpoint.facts["files"], **queued}, False
        self._begin = self._keep_state(target, files, start_state)
        if self._rails.was_interrupted:
            restore_previous(target.path)

    def _all_steps(
        self,
        target: RunFolder,
        stop: StopOnSignal,
        manifest: RunManifest,
        progress: Callable[[MDProgress], None] | None,
        start_state: CellState | None,
        begun: float,
    ) -> Alarm | None:
        """Run until the end, a signal, or an alarm for which the run has to go back."""
        settings, first = self.settings, 0 if self._begin is None else self._begin.step
        trajectory_path = target / trajectory_name(settings.trajectory_format)
        kept = {"table": None, "trajectory": None}
        if self._begin is not None:
            kept = self._begin.facts["files"]
        names = columns(has_pressure(self.atoms))
        with (
            closing(TableWriter(target / "thermo.csv", names, kept["table"])) as table,
            closing(
                open_trajectory(trajectory_path, settings.trajectory_format, kept["trajectory"])
            ) as trajectory,
            closing(self._rails.open(target.path, kept)) as rails,
            telling_where(self.dynamics, trajectory),
            # ASE's barostat overflows, and then takes inf times 0, where a structure
            # explodes; the checks below say so in words.
            np.errstate(over="ignore", invalid="ignore"),
        ):
            for _ in self.dynamics.irun(settings.n_steps - first):
                step = self.dynamics.nsteps
                if self._begin is not None and step == first:
                    continue  # it is in the files
                # Positions follow momenta, so a NaN is caught before a step is built on it.
                if not np.isfinite(self.atoms.arrays["momenta"]).all():
                    raise NonFiniteError("the velocities are NaN or infinite")
                stopping = stop.is_due()
                ending = stopping or step == settings.n_steps
                regular = step % settings.log_every == 0
                keeping = step % settings.checkpoint_every == 0
                # Not where a signal has come: a run that goes on has to find the same.
                if rails.is_due(step) or regular or keeping or step == settings.n_steps:
                    alarm = rails.look(step, self._clock.at(step), self._frame)
                    if alarm is not None:
                        return alarm
                # A row that is there only because the run ends here is none of a run that goes on.
                files = {"table": table.size, "trajectory": trajectory.extent()}
                if ending or regular:
                    thermo = self._record(table, trajectory)
                    manifest.update(steps_done=step)
                    speed = self._ns_per_day(time.perf_counter() - begun, step)
                    now = MDProgress(thermo, settings.n_steps, speed, tuple(rails.said()))
                    stop.tell(progress, now)
                if regular:
                    files = {"table": table.size, "trajectory": trajectory.extent()}
                files |= rails.extents()
                if ending or keeping:
                    table.require_present()
                    trajectory.require_present()
                    self._keep_state(target, files, start_state)
                if stopping:
                    break
            table.require_present()
            trajectory.require_present()
        return None

    def _record(self, table: TableWriter, trajectory: FrameWriter) -> Thermo:
        """Write the present step, unless it is one nobody wants to keep."""
        thermo = self._measure()
        frame = self._frame(step=thermo.step, time_fs=thermo.time_fs)
        self._last_frame = frame
        trajectory.write(frame)
        table.write([value for value in thermo if value is not None])
        return thermo

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
            **{name: getattr(self, name) for name in _KEPT},
        )
        write_checkpoint(target.path, checkpoint, instead=not self._is_regular)
        self._is_regular = regular
        return checkpoint

    def _measure(self) -> Thermo:
        """Return the present step; refuse one that no longer means anything."""
        step = self.dynamics.nsteps
        thermo = observe(self.atoms, step, self._clock.at(step), self.n_dof)
        if not math.isfinite(thermo.total_energy):
            raise NonFiniteError(f"the energy is {thermo.total_energy}")
        if thermo.temperature_K > max(_HOTTEST_K, 100 * self.settings.temperature_K):
            raise NonFiniteError(
                f"the structure flies apart (temperature {thermo.temperature_K:.3g} K)"
            )
        return thermo

    def _cell_state(self, now: Thermo) -> CellState | None:
        if self.settings.ensemble != "npt" or now.pressure_gpa is None:
            return None
        return cell_state(self.atoms, now.pressure_gpa)

    def _finish(self, target: RunFolder, wall_s: float, start: CellState | None) -> MDResult:
        settings = self.settings
        final = snapshot(self.atoms, self._constraints, step=self.dynamics.nsteps)
        write_structure(target / "final.xyz", final)
        table = read_table(target / "thermo.csv")
        goal = None if settings.ensemble == "nve" else settings.temperature_K
        plot_md(target / "plot.png", table, n_atoms=len(self.atoms), goal_K=goal)
        temperature = table["temperature_K"]
        end = self._cell_state(self._measure())
        second_half = slice(len(temperature) // 2, None)
        return MDResult(
            folder=target.path,
            atoms=final,
            n_steps=self.dynamics.nsteps,
            n_frames=len(temperature),
            wall_s=wall_s,
            time_fs=self._clock.at(self.dynamics.nsteps),
            ns_per_day=self._ns_per_day(wall_s, self.dynamics.nsteps),
            ms_per_step=1000 * wall_s / max(1, self.dynamics.nsteps - self._first_step),
            mean_temperature_K=float(temperature[second_half].mean()),
            drift_mev_per_atom_ps=self._drift(table) if settings.ensemble == "nve" else None,
            cell_change=None if start is None or end is None else CellChange(start, end),
            mean_pressure_gpa=(
                None if start is None else float(table["pressure_gpa"][second_half].mean())
            ),
            guards=self.guard_summary(),
        )

    def _drift(self, table: dict[str, NDArray[np.float64]]) -> float | None:
        time_ps = table["time_fs"] / 1000
        if len(time_ps) < 2:
            return None
        energy_mev = 1000 * table["total_energy_eV"] / len(self.atoms)
        return float(np.polyfit(time_ps, energy_mev - energy_mev[0], deg=1)[0])

    @property
    def _first_step(self) -> int:
        return 0 if self._resumed is None else self._resumed.step

    def _ns_per_day(self, wall_s: float, step: int) -> float:
        """Return the speed since this process began; steps that were taken back count as time."""
        begun_fs = 0.0
        if self._resumed is not None:
            begun_fs = Clock(*self._resumed.facts.get("clock", self._clock)).at(self._first_step)
        return (self._clock.at(step) - begun_fs) * 1e-6 / max(wall_s, 1e-9) * 86400

    def _manifest_fields(self, parts: list[dict[str, Any]]) -> dict[str, Any]:
        going_on = {"resumed_at_step": self._first_step, "not_exact": self.not_exact}
        return {
            "kind": "md",
            **self.source,
            **engine_fields(self.atoms),
            "settings": asdict(self.settings),
            "formula": self.atoms.get_chemical_formula(mode="hill"),
            "n_atoms": len(self.atoms),
            "degrees_of_freedom": self.n_dof,
            "constraints_not_kept": unkept_constraints(self.atoms),
            "steps_done": self._first_step,
            "guards": self.guard_summary(),
            **({"earlier_parts": parts, **going_on} if self._resumed is not None else {}),
        }
