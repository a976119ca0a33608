"""Molecular dynamics with ASE's integrators, kept in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from eqcalc.errors import ConfigError, NonFiniteError
from eqcalc.simulate.cell_state import CellChange, CellState
from eqcalc.simulate.checkpoint import MDCheckpoint, read_checkpoint
from eqcalc.simulate.degrees_of_freedom import degrees_of_freedom
from eqcalc.simulate.failures import (
    keep_last_structure,
    rescuing,
    telling_where,
    trusted_frame,
)
from eqcalc.simulate.frame_content import unkept_constraints, warn_of_unkept_constraints
from eqcalc.simulate.guard_rails import Clock, GuardRails, sizes_of_guards
from eqcalc.simulate.guards import Alarm
from eqcalc.simulate.interrupts import StopOnSignal, StopRequested
from eqcalc.simulate.manifest import RunManifest, earlier_parts, engine_fields, has_broken_off
from eqcalc.simulate.md_result import MDProgress, MDResult, energy_drift
from eqcalc.simulate.md_state import KEPT, MDState
from eqcalc.simulate.minimization import minimize_positions
from eqcalc.simulate.pace import Pace
from eqcalc.simulate.plots import plot_md, require_plots
from eqcalc.simulate.restart import (
    RunLock,
    differences,
    keep_settings,
    require_resumable,
    require_same_energy,
    require_unchanged,
    restore_state,
    settings_to_go_on,
)
from eqcalc.simulate.rigid_motion import conserved_zero_momenta, reach_of
from eqcalc.simulate.run_folder import RunFolder
from eqcalc.simulate.settings import MDSettings
from eqcalc.simulate.thermo import (
    Thermo,
    is_ramped,
    read_columns,
    read_table,
    row_of,
    second_half,
    spread_summary,
    temperature_of,
)
from eqcalc.simulate.velocities import has_velocities
from eqcalc.simulate.writers import (
    FrameWriter,
    TableWriter,
    open_trajectory,
    trajectory_name,
)

__all__ = ["MDProgress", "MDResult", "MDRun", "resume_md", "run_md"]


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


class _Course(NamedTuple):
    """What a run writes to and listens to until its end.

    start : the cell at the run's first step
    begun : when this process took its first step, of ``time.perf_counter``
    """

    target: RunFolder
    stop: StopOnSignal
    manifest: RunManifest
    progress: Callable[[MDProgress], None] | None
    start: CellState | None
    begun: float


class _Files(NamedTuple):
    """What a stretch of a run writes; its guards have files of their own."""

    table: TableWriter
    trajectory: FrameWriter
    rails: GuardRails

    def extents(self) -> dict[str, Any]:
        """Return how far table and trajectory go, as a checkpoint keeps it."""
        return {"table": self.table.size, "trajectory": self.trajectory.extent()}

    def require_present(self) -> None:
        """Refuse to go on where table or trajectory was removed or replaced."""
        self.table.require_present()
        self.trajectory.require_present()


class MDRun(MDState):
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
    projected_share (of their kinetic energy, taken away because constraints forbid it),
    rigid_share (of it, in motion as a whole: taken away where a chain thermostat could not change
    it, kept and counted in NVE) and
    start_temperature_K, that of the first velocities; minimization (what it did; None without);
    not_exact (of a resumed run, in words:
    why it may not go on bit for bit)

    Raises
    ------
    ConfigError : the ensemble does not fit the structure or the calculator, no atom is free to
        move, two constraints do not both hold, or a chain of thermostats has nothing to scale.
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
        warn_of_unkept_constraints(self.atoms, "and the run cannot be resumed")
        self.kept_velocities = has_velocities(self.atoms)
        if not np.isfinite(self.atoms.get_momenta()).all():
            raise NonFiniteError(
                "the velocities of the structure are NaN or infinite; remove them from the file "
                "to have new ones drawn."
            )
        self.minimization: dict[str, Any] | None = None
        if settings.minimize:
            self.minimization = minimize_positions(
                self.atoms, fmax=settings.minimize_fmax, max_steps=settings.minimize_steps
            )
            # Those of the structure belonged to other positions.
            self.minimization["velocities_left_out"] = self.kept_velocities
            self.kept_velocities = False
        reach = reach_of(calculator)
        self._take_velocities(reach)
        self.n_dof = degrees_of_freedom(self.atoms)
        if settings.ensemble != "nvt-langevin":
            self.n_dof -= conserved_zero_momenta(self.atoms, reach)
        if self.n_dof < 1:
            raise ConfigError(
                "the constraints of the structure leave no atom free to move, or nothing but the "
                "motion of the whole."
            )
        self.start_temperature_K = temperature_of(self.atoms, self.n_dof)
        self._begin_dynamics(0)
        self._rails = self._guard_rails()

    @classmethod
    def resume(
        cls, folder: str | Path, calculator: Calculator, *, n_steps: int | None = None
    ) -> MDRun:
        """Return the run of a folder as it was at its last checkpoint; ``run(folder)`` goes on.

        With the same calculator on the same machine the trajectory and the table are, bit for
        bit, those of a run that was never interrupted. One that was killed after its last step
        writes what is missing of its end.

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
        has_ended = not has_broken_off(Path(folder) / "manifest.json")
        settings = settings_to_go_on(checkpoint, n_steps, has_ended=has_ended)
        facts = checkpoint.facts
        run = cls.__new__(cls)
        run._take(checkpoint.atoms, calculator, settings, facts["source"], goes_on=True)
        require_resumable(run.atoms, checkpoint)
        run.not_exact = differences(run.atoms, checkpoint)
        for name in KEPT:
            setattr(run, name, facts.get(name))  # an older version may not have kept all
        run.n_dof = int(run.n_dof)  # which one has kept as a word
        run.rng.bit_generator.state = facts["random"]
        run._clock = Clock(*facts.get("clock", run._clock))
        run._begin_dynamics(checkpoint.step)
        restore_state(checkpoint, calculator, run.dynamics)
        require_same_energy(run.atoms, checkpoint)
        run._resumed = run._begin = checkpoint
        run._folder = Path(folder)
        run._is_regular = facts.get("regular", True)
        run._rails = run._guard_rails(facts.get("guards"))
        return run

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
        ``max_hours``, the minimization among them, it ends as Ctrl-C ends it.

        Raises
        ------
        OutputExistsError : the folder holds a run and ``overwrite`` is false.
        ConfigError : a resumed run is given another folder, or another process goes on with it
            or has done so meanwhile; another one runs in the folder; the hours are no time; steps
            have been made.
        MissingDependencyError : matplotlib cannot be imported.
        OutputError : a file cannot be written; what was written before is complete.
        NonFiniteError : the structure flew apart, or the model returned NaN; final.xyz is the
            last structure that can be trusted, as it is after a GuardError.
        GuardError : a guard rail or a failed self-audit stopped the run.
        OutputLostError : the folder or a file in it was removed; the last structure is rescued.
        StopRequested : Ctrl-C, SIGTERM, SIGHUP, the time limit or a display that nobody reads any
            more, after all files were completed.
        """
        used_s = 0.0
        if self._resumed is None and self.minimization is not None:
            used_s = self.minimization["wall_s"]
        stop = StopOnSignal(max_hours, used_s=used_s)
        if self._folder is not None and self._folder.resolve() != Path(folder).resolve():
            raise ConfigError(
                f"this run goes on in its own folder, '{self._folder}', not in '{folder}'."
            )
        if self.dynamics.nsteps != self._first_step:
            raise ConfigError(
                f"this run is at step {self.dynamics.nsteps} and began at {self._first_step}: it "
                "has been run. Go on with its folder by MDRun.resume, or make another MDRun."
            )
        target = RunFolder(folder, overwrite=overwrite or self._resumed is not None)
        require_plots()
        # A model or structure that cannot start must not cost an older run.
        if not np.isfinite(self.atoms.get_forces()).all():
            raise NonFiniteError(
                "the forces on the first structure are NaN or infinite; check the structure, and "
                "that the model was trained on such systems."
            )
        first = self._measure()
        start, self._columns = self._cell_state(first), list(row_of(first))
        if self._resumed is None:
            self._rails.require_start()
            target.make()
        takes_over = overwrite and self._resumed is None
        with closing(RunLock(target.path, required=not takes_over)):
            if self._resumed is None:
                target.claim()  # once no other that begins at the same time can do so
            else:
                require_unchanged(target.path, self._resumed)
                sizes = self._sizes(self._resumed)
                target.require_sizes(sizes)
                self._columns = read_columns(target / "thermo.csv", self._columns)
                target.require_whole_lines(sizes)
                keep_settings(target.path, self._resumed, self.settings)
                target.remove("final.xyz", "plot.png")
                target.remove_made_of_it()  # of an earlier end
                self._last_frame = self._frame(step=first.step, time_fs=first.time_fs)
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
        parts = [] if self._resumed is None else earlier_parts(path, self._first_step)
        if self._resumed is not None and self._resumed.facts["start"] is not None:
            start = CellState(**self._resumed.facts["start"])
        manifest = RunManifest(path, self._manifest_fields(parts))
        final_path = target / "final.xyz"
        rescue = rescuing(final_path, lambda: self._trusted_frame(target), manifest)
        with stop, manifest, rescue:
            begun = time.perf_counter()
            course = _Course(target, stop, manifest, progress, start, begun)
            try:
                self._all_stretches(course)
            finally:
                manifest.update(guards=self.guard_summary())
            wall_s = time.perf_counter() - begun
            step = self.dynamics.nsteps
            final = self._frame(step=step, time_fs=self._clock.at(step))
            keep_last_structure(final_path, final, manifest)
            result = self._finish(target, final, wall_s, start)
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

    def _all_stretches(self, course: _Course) -> None:
        """Run until the end or a signal, also where guards take it back."""
        while True:
            try:
                alarm = self._all_steps(course)
            except NonFiniteError as error:
                if self._rails.settings.on_alarm not in ("halve", "roll-back"):
                    self._rails.distrust(self.dynamics.nsteps)
                    raise
                alarm = self._rails.of_error(error, self.dynamics.nsteps)
            if alarm is None:
                return
            self._go_back(course.target, alarm, course.start)

    def _all_steps(self, course: _Course) -> Alarm | None:
        """Run until the end, a signal, or an alarm for which the run has to go back."""
        first = 0 if self._begin is None else self._begin.step
        pace = Pace(self.settings.n_steps)
        with (
            self._open_files(course.target) as files,
            telling_where(self.dynamics, files.trajectory),
            # ASE's barostat overflows, and then takes inf times 0, where a structure
            # explodes; the checks below say so in words.
            np.errstate(over="ignore", invalid="ignore"),
        ):
            for _ in self._steps(self.settings.n_steps - first):
                if self._begin is not None and self.dynamics.nsteps == first:
                    if first == self.settings.n_steps and first % self.settings.log_every:
                        self._record(files.table, files.trajectory)  # the end of a run alone has it
                    continue  # it is in the files
                # Positions follow momenta, so a NaN is caught before a step is built on it.
                if not np.isfinite(self.atoms.arrays["momenta"]).all():
                    raise NonFiniteError("the velocities are NaN or infinite")
                stopping = course.stop.is_due()
                alarm = self._after_step(course, files, pace, stopping=stopping)
                if alarm is not None:
                    return alarm
                if stopping:
                    break
            files.require_present()
        return None

    @contextmanager
    def _open_files(self, target: RunFolder) -> Iterator[_Files]:
        """Open what a stretch writes, as it was at the checkpoint from which it goes on."""
        kept = {"table": None, "trajectory": None}
        if self._begin is not None:
            kept = self._begin.facts["files"]
        trajectory_format = self.settings.trajectory_format
        path = target / trajectory_name(trajectory_format)
        with (
            closing(TableWriter(target / "thermo.csv", self._columns, kept["table"])) as table,
            closing(open_trajectory(path, trajectory_format, kept["trajectory"])) as trajectory,
            closing(self._rails.open(target.path, kept)) as rails,
        ):
            yield _Files(table, trajectory, rails)

    def _after_step(
        self, course: _Course, files: _Files, pace: Pace, *, stopping: bool
    ) -> Alarm | None:
        """Look at the present step and write what is due; return an alarm that takes it back."""
        step, settings = self.dynamics.nsteps, self.settings
        at_end = step == settings.n_steps
        ending = stopping or at_end
        regular = step % settings.log_every == 0
        keeping = step % settings.checkpoint_every == 0
        # Not where a signal has come: a run that goes on has to find the same.
        if files.rails.is_due(step) or regular or keeping or at_end:
            now_fs, closely = self._clock.at(step), keeping or at_end
            alarm = files.rails.look(step, now_fs, self._frame, closely=closely)
            if alarm is not None:
                return alarm
        # A row that is there only because the run ends here is none of a run that goes on.
        extents = files.extents()
        if ending or regular:
            thermo = self._record(files.table, files.trajectory)
            course.manifest.update(steps_done=step)
            pace.mark(step)
            self._tell(course, thermo, pace, files.rails.said())
        if regular:
            extents = files.extents()
        extents |= files.rails.extents()
        if ending or keeping:
            files.require_present()
            self._keep_state(course.target, extents, course.start)
        return None

    def _tell(self, course: _Course, thermo: Thermo, pace: Pace, said: Iterable[str]) -> None:
        """Tell who watches where the run is, until nobody listens any more."""
        now = MDProgress(
            thermo,
            self.settings.n_steps,
            self._ns_per_day(time.perf_counter() - course.begun, thermo.step),
            left_s=pace.left_s,
            limit_s=course.stop.limit_s,
            step_s=pace.step_s,
            said=tuple(said),
        )
        course.stop.tell(course.progress, now)

    def _record(self, table: TableWriter, trajectory: FrameWriter) -> Thermo:
        """Write the present step, unless it is one nobody wants to keep."""
        thermo = self._measure()
        frame = self._frame(step=thermo.step, time_fs=thermo.time_fs)
        self._last_frame = frame
        trajectory.write(frame)
        row = row_of(thermo)
        table.write([row[name] for name in table.columns])
        return thermo

    def _trusted_frame(self, target: RunFolder) -> Atoms | None:
        """Return the last frame of the trajectory, or that before something was wrong."""
        trajectory = target / trajectory_name(self.settings.trajectory_format)
        until = self._rails.trusted_until
        return trusted_frame(self._last_frame, until, trajectory, target / "thermo.csv")

    def _finish(
        self, target: RunFolder, final: Atoms, wall_s: float, start: CellState | None
    ) -> MDResult:
        settings = self.settings
        table = read_table(target / "thermo.csv")
        goal = None if settings.ensemble == "nve" else settings.temperature_K
        plot_md(target / "plot.png", table, n_atoms=len(self.atoms), goal_K=goal)
        temperature = table["temperature_K"]
        end = self._cell_state(self._measure())
        half = second_half(table["time_fs"])
        return MDResult(
            folder=target.path,
            atoms=final,
            n_steps=self.dynamics.nsteps,
            n_frames=len(temperature),
            wall_s=wall_s,
            time_fs=self._clock.at(self.dynamics.nsteps),
            ns_per_day=self._ns_per_day(wall_s, self.dynamics.nsteps),
            ms_per_step=1000 * wall_s / max(1, self.dynamics.nsteps - self._first_step),
            mean_temperature_K=float(temperature[half].mean()),
            drift_mev_per_atom_ps=(
                energy_drift(table, len(self.atoms)) if settings.ensemble == "nve" else None
            ),
            cell_change=None if start is None or end is None else CellChange(start, end),
            minimization=self.minimization,
            spread=spread_summary(table),
            mean_pressure_gpa=(
                float(table["pressure_gpa"][half].mean()) if "pressure_gpa" in table else None
            ),
            guards=self.guard_summary(),
            is_ramped=is_ramped(table),
        )

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
            **({"minimization": self.minimization} if self.minimization is not None else {}),
            "steps_done": self._first_step,
            "guards": self.guard_summary(),
            **({"earlier_parts": parts, **going_on} if self._resumed is not None else {}),
        }
