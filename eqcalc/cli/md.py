"""``eqcalc md``: molecular dynamics."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from eqcalc.cli.cell_summary import cell_as_json, cell_pairs, fixed_cell_pairs
from eqcalc.cli.console import note, print_json, say, say_pairs, working
from eqcalc.cli.duration import duration
from eqcalc.cli.guard_options import (
    AuditEvery,
    MaxDrift,
    MaxForce,
    MaxRollBacks,
    MaxTemperature,
    MinDistance,
    NoGuards,
    OnAlarm,
    OnDoubt,
    about_guards,
    note_guards,
    say_guards,
)
from eqcalc.cli.md_lines import (
    TimeLimit,
    note_pressure_left_out,
    ramp_pairs,
    spread_pairs,
    tell_minimization,
    tell_pressure,
)
from eqcalc.cli.md_options import (
    LogEvery,
    LogEveryFs,
    Minimize,
    MinimizeFmax,
    MinimizeSteps,
    RampSteps,
    ToPressure,
    ToTemperature,
    chosen_settings,
)
from eqcalc.cli.options import (
    AsJson,
    CalculatorOptions,
    Device,
    Dtype,
    Engine,
    Index,
    MaxEdges,
    Model,
    NoReport,
    Output,
    Overwrite,
    Quiet,
    Skin,
    Threads,
    TrajectoryFormat,
    Trust,
)
from eqcalc.cli.report import report_of_run
from eqcalc.errors import ConfigError

if TYPE_CHECKING:
    from eqcalc.simulate import MDProgress, MDResult, MDRun, MDSettings

__all__ = ["md"]


def md(
    context: typer.Context,
    structure: Annotated[
        Optional[Path],
        typer.Argument(
            help="Structure file: extxyz, traj, cif, POSCAR, ...; the last frame. "
            "None with --resume.",
        ),
    ] = None,
    model: Model = None,
    ensemble: Annotated[
        str,
        typer.Option(
            "--ensemble",
            "-e",
            metavar="NAME",
            help="nve, nvt-langevin, nvt-nhc, npt, npt-anisotropic or npt-flexible.",
        ),
    ] = "nvt-langevin",
    temperature: Annotated[
        float, typer.Option("--temperature", "-T", help="Temperature, K.")
    ] = 300.0,
    timestep: Annotated[float, typer.Option("--timestep", "-t", help="Time step, fs.")] = 0.5,
    steps: Annotated[
        int,
        typer.Option("--steps", "-n", help="Number of time steps; with --resume, in all."),
    ] = 2000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same run.")] = 0,
    friction: Annotated[
        Optional[float], typer.Option(help="1/fs, of nvt-langevin. Default: 0.01.")
    ] = None,
    thermostat_time: Annotated[
        Optional[float], typer.Option(help="fs, of nvt-nhc and npt. Default: 100.")
    ] = None,
    barostat_time: Annotated[
        Optional[float], typer.Option(help="fs, of npt. Default: 1000.")
    ] = None,
    pressure: Annotated[Optional[float], typer.Option(help="GPa, of npt. Default: 0.")] = None,
    to_temperature: ToTemperature = None,
    to_pressure: ToPressure = None,
    ramp_steps: RampSteps = None,
    minimize: Minimize = False,
    minimize_fmax: MinimizeFmax = None,
    minimize_steps: MinimizeSteps = None,
    index: Index = None,
    output: Output = None,
    trajectory_format: TrajectoryFormat = "traj",
    log_every: LogEvery = None,
    log_every_fs: LogEveryFs = None,
    checkpoint_every: Annotated[
        int, typer.Option(help="Steps between two checkpoints, from which --resume goes on.")
    ] = 1000,
    resume: Annotated[
        Optional[Path],
        typer.Option(
            metavar="RUN",
            help="Go on with the run in this folder, bit for bit, with the options it had.",
        ),
    ] = None,
    max_hours: Annotated[
        Optional[float],
        typer.Option(
            metavar="HOURS", help="End in good order after so long, before a batch system's limit."
        ),
    ] = None,
    on_alarm: OnAlarm = None,
    on_doubt: OnDoubt = None,
    min_distance: MinDistance = None,
    max_force: MaxForce = None,
    max_temperature: MaxTemperature = None,
    max_drift: MaxDrift = None,
    audit_every: AuditEvery = None,
    max_roll_backs: MaxRollBacks = None,
    no_guards: NoGuards = False,
    device: Device = "auto",
    dtype: Dtype = None,
    engine: Engine = "auto",
    skin: Skin = 0.5,
    max_edges: MaxEdges = None,
    threads: Threads = None,
    trust: Trust = False,
    overwrite: Overwrite = False,
    no_report: NoReport = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run molecular dynamics; leaves a folder with trajectory, thermo.csv, plot and report.html.

    Example: [bold]eqcalc md examples/ethanol.xyz --temperature 350 --steps 10000[/bold]

    Ctrl-C ends the run after the present step with all files complete. After that, or a crash:
    [bold]eqcalc md --resume ethanol-md[/bold]
    """
    if resume is not None:
        from eqcalc.cli.resumed_run import resumed_run

        run = resumed_run(context, resume, trust)
        with report_of_run(resume, wanted=not no_report):
            _run_and_tell(run, resume, False, as_json, max_hours)
        return
    if structure is None:
        raise ConfigError("md needs a structure file, or --resume and the folder of a run.")
    settings = chosen_settings(context.params)
    from eqcalc.cli.setup_run import note_others, run_folder_of
    from eqcalc.simulate.run_folder import RunFolder

    folder = run_folder_of(structure, "md", output)
    note_others(RunFolder(folder, overwrite=overwrite))  # refused before the model is loaded
    options = CalculatorOptions(model, device, dtype, engine, skin, max_edges, threads, trust)
    run = _set_up(structure, index, options, settings)
    with report_of_run(folder, wanted=not no_report):
        _run_and_tell(run, folder, overwrite, as_json, max_hours)


def _set_up(
    structure: Path, index: Optional[str], options: CalculatorOptions, settings: MDSettings
) -> MDRun:
    """Return the run, and say what was minimized and whose velocities it starts with."""
    from eqcalc.cli.setup_run import set_up_run
    from eqcalc.simulate import MDRun
    from eqcalc.simulate.doubts import timestep_doubt

    atoms, calculator, source = set_up_run(structure, options, index)
    doubt = timestep_doubt(atoms, settings.timestep_fs)
    if doubt is not None:
        note(f"note: {doubt}")
    with working("minimizing") if settings.minimize else nullcontext():
        run = MDRun(atoms, calculator, settings, source)
    note_pressure_left_out(run.atoms)
    if run.minimization is not None:
        tell_minimization(run.minimization, settings.minimize_fmax)
    if run.kept_velocities:
        say(_about_kept_velocities(run))
    return run


def _run_and_tell(
    run: MDRun, folder: Path, overwrite: bool, as_json: bool, max_hours: Optional[float]
) -> None:
    from eqcalc.cli.setup_run import stopped_run
    from eqcalc.simulate import StopRequested

    settings = run.settings
    tell_pressure(settings.pressure_gpa, settings.to_pressure_gpa)
    say_guards(run.guard_summary(), settings.n_steps)
    try:
        result = _run_with_progress(run, settings, folder, overwrite, max_hours)
    except StopRequested as stop:
        note(str(stop))
        if as_json:
            print_json(stopped_run(folder))
        raise typer.Exit(128 + stop.signal_number) from stop
    if as_json:
        print_json(_as_json(result))
    else:
        _summarise(result, settings)


def _about_kept_velocities(run: MDRun) -> str:
    seed = "only seeds the noise" if run.settings.ensemble == "nvt-langevin" else "has no effect"
    if run.settings.ensemble == "nve":
        effect = "--temperature and --seed have no effect"
    else:
        effect = f"--temperature only sets the thermostat, --seed {seed}"
    taken = ""
    if run.projected_share > 1e-6:
        share = f"{100 * run.projected_share:.2g} %"
        taken = f", of which constraints took {share} of the kinetic energy"
    if (run.rigid_share or 0.0) > 1e-6:
        share = f"{100 * run.rigid_share:.2g} %"
        if run.settings.ensemble == "nve":
            taken += f"; {share} of the kinetic energy move or turn the whole, and stay so"
        else:
            taken += f"; {share} more moved or turned the whole, which the thermostat cannot change"
    return f"velocities from the file ({run.start_temperature_K:.0f} K{taken}); {effect}"


def _run_with_progress(
    run: MDRun,
    settings: MDSettings,
    folder: Path,
    overwrite: bool,
    max_hours: Optional[float],
) -> MDResult:
    from eqcalc.cli.progress import StepProgress

    limit = TimeLimit(folder)
    with StepProgress("md", settings.n_steps, line_every=settings.n_steps // 10) as display:

        def show(now: MDProgress) -> None:
            thermo = now.thermo
            note_guards(now.said)
            values = f"T {thermo.temperature_K:.0f} K  E_tot {thermo.total_energy:.4f} eV"
            if thermo.step > 0:
                values += f"  {now.ns_per_day:.3g} ns/day"
            if now.left_s and not display.has_bar:
                values += f"  {duration(now.left_s)} left"
            display.show(thermo.step, values)
            news = limit.news(now)
            if news is not None:
                display.say(news)

        return run.run(folder, overwrite=overwrite, progress=show, max_hours=max_hours)


def _summarise(result: MDResult, settings: MDSettings) -> None:
    from eqcalc.simulate.md_result import SHORTEST_DRIFT_PS
    from eqcalc.simulate.plots import ENOUGH_FOR_A_MEAN

    length_ps = result.time_fs / 1000
    pairs = {
        "steps": f"{result.n_steps} of {result.guards['timestep_fs']:g} fs, {length_ps:g} ps",
        "wall time": f"{result.wall_s:.1f} s, {result.ms_per_step:.2f} ms/step",
        "speed": f"{result.ns_per_day:.3g} ns/day",
    }
    pairs |= ramp_pairs(settings)
    over = f"over the second half{', of a ramp' if result.is_ramped else ''}"
    if result.n_frames >= ENOUGH_FOR_A_MEAN:
        pairs["mean temperature"] = f"{result.mean_temperature_K:.0f} K {over}"
    if result.drift_mev_per_atom_ps is not None and length_ps >= SHORTEST_DRIFT_PS:
        pairs["energy drift"] = f"{result.drift_mev_per_atom_ps:.2g} meV/atom/ps"
    if result.cell_change is not None:
        pairs |= cell_pairs(result.cell_change)
    elif result.atoms.pbc.all():
        pairs |= fixed_cell_pairs(result.atoms)
    if result.mean_pressure_gpa is not None:
        pairs["mean pressure"] = f"{result.mean_pressure_gpa:.3g} GPa {over}"
    pairs |= spread_pairs(result.spread)
    pairs |= about_guards(result.guards)
    pairs["files"] = str(result.folder)
    say_pairs(pairs)


def _as_json(result: MDResult) -> dict[str, Any]:
    return {
        "status": "complete",
        "folder": str(result.folder),
        "minimization": result.minimization,
        "steps": result.n_steps,
        "time_ps": result.time_fs / 1000,
        "frames": result.n_frames,
        "wall_s": result.wall_s,
        "ns_per_day": result.ns_per_day,
        "energy_eV": float(result.atoms.get_potential_energy()),
        "mean_temperature_K": result.mean_temperature_K,
        "drift_meV_per_atom_ps": result.drift_mev_per_atom_ps,
        "mean_pressure_gpa": result.mean_pressure_gpa,
        "means_of_a_ramp": result.is_ramped,
        "spread": result.spread,
        "cell": cell_as_json(result.cell_change),
        "guards": result.guards,
    }
