"""``eqcalc relax``: relaxation of positions, or of positions and cell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eqcalc.cli.cell_summary import cell_as_json, cell_pairs
from eqcalc.cli.console import note, print_json, say, say_pairs
from eqcalc.cli.guard_options import (
    AuditEvery,
    MaxForce,
    MinDistance,
    NoGuards,
    OnAlarm,
    OnDoubt,
    about_guards,
    chosen_guards,
    note_guards,
    say_guards,
)
from eqcalc.cli.md_lines import note_pressure_left_out, tell_pressure
from eqcalc.cli.options import (
    AsJson,
    CalculatorOptions,
    Device,
    Dtype,
    Engine,
    Index,
    MaxEdges,
    Model,
    Output,
    Overwrite,
    Quiet,
    Skin,
    Structure,
    Threads,
    TrajectoryFormat,
    Trust,
)

if TYPE_CHECKING:
    from eqcalc.simulate import RelaxResult, RelaxRun, RelaxSettings, RelaxStep

__all__ = ["relax"]

_FMAX = "eV/Å; all forces below it, and with --cell the virial per atom (eV)."


def relax(
    context: typer.Context,
    structure: Structure,
    model: Model = None,
    fmax: Annotated[float, typer.Option(help=_FMAX)] = 0.01,
    steps: Annotated[int, typer.Option("--steps", "-n", help="Steps at most.")] = 500,
    cell: Annotated[bool, typer.Option("--cell", help="Relax the cell as well.")] = False,
    pressure: Annotated[float, typer.Option(help="GPa, with --cell.")] = 0.0,
    optimizer: Annotated[str, typer.Option(metavar="NAME", help="bfgs, lbfgs or fire.")] = "bfgs",
    index: Index = None,
    output: Output = None,
    trajectory_format: TrajectoryFormat = "traj",
    on_alarm: OnAlarm = None,
    on_doubt: OnDoubt = None,
    min_distance: MinDistance = None,
    max_force: MaxForce = None,
    audit_every: AuditEvery = None,
    no_guards: NoGuards = False,
    device: Device = "auto",
    dtype: Dtype = None,
    engine: Engine = "auto",
    skin: Skin = 0.5,
    max_edges: MaxEdges = None,
    threads: Threads = None,
    trust: Trust = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Relax a structure; leaves a folder with relaxed.xyz, trajectory, relax.csv and plot.

    Example: [bold]eqcalc relax examples/ethanol.xyz --fmax 0.001[/bold]

    A relaxation that does not converge keeps its files and ends with exit code 1.
    """
    from eqcalc.simulate import RelaxRun, RelaxSettings, StopRequested
    from eqcalc.simulate.run_folder import RunFolder

    settings = RelaxSettings(
        fmax=fmax,
        max_steps=steps,
        cell=cell,
        pressure_gpa=pressure,
        optimizer=optimizer,
        trajectory_format=trajectory_format,
        guards=chosen_guards(context.params),
    )
    from eqcalc.cli.setup_run import note_others, run_folder_of, set_up_run, stopped_run

    folder = run_folder_of(structure, "relax", output)
    note_others(RunFolder(folder, overwrite=overwrite))  # refused before the model is loaded
    options = CalculatorOptions(model, device, dtype, engine, skin, max_edges, threads, trust)
    atoms, calculator, source = set_up_run(structure, options, index)
    run = RelaxRun(atoms, calculator, settings, source)
    tell_pressure(settings.pressure_gpa)
    note_pressure_left_out(run.atoms)
    say_guards(run.guard_summary(), settings.max_steps)
    if run.velocities_left_out:
        say("velocities of the file belong to other positions: they are left out")
    try:
        result = _run_with_progress(run, settings, folder, overwrite)
    except StopRequested as stop:
        note(str(stop))
        if as_json:
            print_json(stopped_run(folder))
        raise typer.Exit(128 + stop.signal_number) from stop
    _note_unconverged(result, settings)
    if as_json:
        print_json(_as_json(result))
    else:
        _summarise(result)
    if not result.converged:
        raise typer.Exit(1)


def _run_with_progress(
    run: RelaxRun, settings: RelaxSettings, folder: Path, overwrite: bool
) -> RelaxResult:
    from eqcalc.cli.progress import StepProgress

    with StepProgress("relax", settings.max_steps, line_every=10) as display:

        def show(now: RelaxStep) -> None:
            note_guards(tuple(run.said()))
            unit = "" if settings.cell else " eV/Å"
            display.show(now.step, f"E {now.energy:.4f} eV  fmax {now.fmax:.3g}{unit}")

        result = run.run(folder, overwrite=overwrite, progress=show)
        note_guards(tuple(run.said()))
        return result


def _note_unconverged(result: RelaxResult, settings: RelaxSettings) -> None:
    from eqcalc.simulate.settings import criterion_of

    if not result.converged:
        what, unit = criterion_of(cell=settings.cell)
        note(
            f"not converged after {result.n_steps} steps: the {what} is "
            f"{result.fmax:.3g} {unit} and should be below {settings.fmax:g}. Continue from "
            f"{result.folder / 'relaxed.xyz'}, or allow more steps (--steps)."
        )


def _summarise(result: RelaxResult) -> None:
    from eqcalc.simulate.barostats import has_vacuum
    from eqcalc.simulate.settings import criterion_of

    if result.converged:
        say(f"converged in {result.n_steps} steps")
    what, unit = criterion_of(cell=result.cell_change is not None)
    pairs = {"energy": f"{result.energy:.6f} eV", what: f"{result.fmax:.4g} {unit}"}
    if result.cell_change is not None:
        pairs |= cell_pairs(result.cell_change)
    elif (pressure := _pressure_gpa(result)) is not None:
        of = "with its layer of vacuum" if has_vacuum(result.atoms) else "(--cell relaxes it)"
        pairs["pressure"] = f"{pressure:.4g} GPa, in the cell as it was {of}"
    pairs |= about_guards(result.guards)
    say_pairs({**pairs, "files": str(result.folder)})


def _pressure_gpa(result: RelaxResult) -> float | None:
    """Return what presses on the cell in the end; None where no pressure is defined."""
    from eqcalc.simulate.thermo import has_inner_constraints
    from eqcalc.units import pressure_gpa

    stress = result.atoms.calc.results.get("stress")
    if stress is None or not result.atoms.pbc.all() or has_inner_constraints(result.atoms):
        return None
    return pressure_gpa(stress)


def _as_json(result: RelaxResult) -> dict[str, Any]:
    forces = result.atoms.get_forces()
    return {
        "status": "complete",
        "folder": str(result.folder),
        "converged": result.converged,
        "steps": result.n_steps,
        "energy_eV": result.energy,
        "fmax": result.fmax,  # as in relax.csv: with a cell it may be the virial, in eV
        "fmax_eV_per_A": float((forces**2).sum(axis=1).max() ** 0.5),
        "pressure_gpa": _pressure_gpa(result),
        "cell": cell_as_json(result.cell_change),
        "guards": result.guards,
    }
