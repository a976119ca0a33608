"""``eqcalc md``: molecular dynamics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eqcalc.cli.console import say, say_pairs
from eqcalc.cli.options import (
    CalculatorOptions,
    Device,
    Dtype,
    Engine,
    Model,
    Output,
    Overwrite,
    Skin,
    Structure,
    Threads,
    TrajectoryFormat,
)

if TYPE_CHECKING:
    from eqcalc.simulate import MDProgress, MDResult, MDRun, MDSettings

__all__ = ["md"]


def md(
    structure: Structure,
    model: Model = None,
    ensemble: Annotated[
        str, typer.Option("--ensemble", "-e", help="nve, nvt-langevin, nvt-nhc or npt.")
    ] = "nvt-langevin",
    temperature: Annotated[float, typer.Option("--temperature", "-T", help="K.")] = 300.0,
    timestep: Annotated[float, typer.Option("--timestep", "-t", help="fs.")] = 0.5,
    steps: Annotated[int, typer.Option("--steps", "-n", help="Number of time steps.")] = 2000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same run.")] = 0,
    friction: Annotated[float, typer.Option(help="1/fs, of nvt-langevin.")] = 0.01,
    thermostat_time: Annotated[float, typer.Option(help="fs, of nvt-nhc and npt.")] = 100.0,
    barostat_time: Annotated[float, typer.Option(help="fs, of npt.")] = 1000.0,
    pressure: Annotated[float, typer.Option(help="GPa, of npt.")] = 0.0,
    output: Output = None,
    trajectory_format: TrajectoryFormat = "traj",
    log_every: Annotated[int, typer.Option(help="Steps between two frames.")] = 10,
    device: Device = "auto",
    dtype: Dtype = None,
    engine: Engine = "auto",
    skin: Skin = 0.5,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Run molecular dynamics; leaves a folder with trajectory, thermo.csv and plot.

    Example: [bold]eqcalc md examples/ethanol.xyz --temperature 350 --steps 10000[/bold]

    Ctrl-C ends the run after the present step with all files complete.
    """
    from eqcalc.simulate import MDRun, MDSettings, StopRequested
    from eqcalc.simulate.run_folder import RunFolder

    settings = MDSettings(
        ensemble=ensemble,
        temperature_K=temperature,
        timestep_fs=timestep,
        n_steps=steps,
        seed=seed,
        friction_per_fs=friction,
        thermostat_time_fs=thermostat_time,
        barostat_time_fs=barostat_time,
        pressure_gpa=pressure,
        log_every=log_every,
        trajectory_format=trajectory_format,
    )
    from eqcalc.cli.setup_run import run_folder_of, set_up_run

    folder = run_folder_of(structure, "md", output)
    RunFolder(folder, overwrite=overwrite)  # refused before the model is loaded
    options = CalculatorOptions(model, device, dtype, engine, skin, threads)
    atoms, calculator, source = set_up_run(structure, options)
    run = MDRun(atoms, calculator, settings, source)
    try:
        result = _run_with_progress(run, settings, folder, overwrite)
    except StopRequested as stop:
        say(str(stop), style="yellow")
        raise typer.Exit(128 + stop.signal_number) from stop
    _summarise(result, settings)


def _run_with_progress(
    run: MDRun, settings: MDSettings, folder: Path, overwrite: bool
) -> MDResult:
    from eqcalc.cli.progress import StepProgress

    with StepProgress("md", settings.n_steps, line_every=settings.n_steps // 10) as display:

        def show(now: MDProgress) -> None:
            thermo = now.thermo
            values = f"T {thermo.temperature_K:.0f} K  E {thermo.total_energy:.4f} eV"
            if thermo.step > 0:
                values += f"  {now.ns_per_day:.3g} ns/day"
            display.show(thermo.step, values)

        return run.run(folder, overwrite=overwrite, progress=show)


def _summarise(result: MDResult, settings: MDSettings) -> None:
    length_ps = result.n_steps * settings.timestep_fs / 1000
    pairs = {
        "steps": f"{result.n_steps} of {settings.timestep_fs:g} fs, {length_ps:g} ps",
        "wall time": f"{result.wall_s:.1f} s, {1000 * result.wall_s / result.n_steps:.2f} ms/step",
        "speed": f"{result.ns_per_day:.3g} ns/day",
        "mean temperature": f"{result.mean_temperature_K:.0f} K over the second half",
    }
    if result.drift_mev_per_atom_ps is not None:
        pairs["energy drift"] = f"{result.drift_mev_per_atom_ps:.2g} meV/atom/ps"
    pairs["files"] = str(result.folder)
    say_pairs(pairs)
