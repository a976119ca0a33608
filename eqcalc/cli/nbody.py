"""``eqcalc nbody``: data of constrained n-body systems."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eqcalc.cli.console import say_pairs
from eqcalc.cli.options import Quiet

if TYPE_CHECKING:
    from eqcalc.dynamics.nbody_data import NBodyData

__all__ = ["nbody"]


def nbody(
    output: Annotated[Path, typer.Argument(help="File to write: .npz, or .xyz for extended xyz.")],
    isolated: Annotated[int, typer.Option(help="Free particles.")] = 3,
    sticks: Annotated[int, typer.Option(help="Rods of two particles.")] = 2,
    hinges: Annotated[int, typer.Option(help="Two rods with a joint.")] = 1,
    samples: Annotated[int, typer.Option(help="Number of trajectories.")] = 500,
    steps: Annotated[int, typer.Option("--steps", "-n", help="Number of time steps.")] = 5000,
    save_every: Annotated[int, typer.Option(help="Steps between two frames.")] = 100,
    timestep: Annotated[float, typer.Option("--timestep", "-t", help="Without unit.")] = 0.001,
    seed: Annotated[int, typer.Option(help="The same seed gives the same data.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    quiet: Quiet = False,
) -> None:
    """Simulate charged particles, rigid sticks and hinges; leaves one file.

    Example: [bold]eqcalc nbody nbody.npz --isolated 1 --sticks 2 --hinges 0[/bold]

    Sample k is the same however many there are.
    """
    from eqcalc.cli.progress import StepProgress
    from eqcalc.dynamics.nbody import simulate
    from eqcalc.dynamics.nbody_data import NBodySystem, require_suffix, write_nbody
    from eqcalc.files import refuse_existing
    from eqcalc.simulate.run_folder import refuse_run_files

    system = NBodySystem(isolated, sticks, hinges)
    require_suffix(output)
    refuse_run_files([output])
    refuse_existing([output], overwrite)
    with StepProgress("nbody", samples, line_every=samples // 10) as display:

        def show(done: int, total: int) -> None:
            display.show(done * samples // total, "samples")

        data = simulate(
            system,
            samples,
            n_steps=steps,
            save_every=save_every,
            timestep=timestep,
            seed=seed,
            progress=show,
        )
    write_nbody(output, data)
    _summarise(data, output)


def _summarise(data: NBodyData, output: Path) -> None:
    import numpy as np

    from eqcalc.dynamics.nbody import total_energy

    pairs = {
        "trajectories": f"{len(data)} of {data.system.n_particles} particles, "
        f"{data.n_frames} frames every {data.frame_time:g}",
    }
    if data.system.rods.shape[1] > 0:
        lengths = data.rod_lengths()
        change = np.abs(lengths - lengths[:, :1]).max()
        pairs["rods"] = f"lengths kept to {change:.1g}"
    energies = total_energy(data)  # (n_samples, n_frames)
    drift = np.abs(energies - energies[:, :1]).max(axis=1)
    pairs["energy"] = f"kept to {np.median(drift):.1g} (median), {drift.max():.1g} (worst)"
    pairs["file"] = f"{output} ({output.stat().st_size / 1e6:.1f} MB)"
    say_pairs(pairs)
