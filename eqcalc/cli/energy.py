"""``eqcalc energy``: energy, forces and stress of structures as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer

from eqcalc.cli.console import print_json, say, show
from eqcalc.cli.options import (
    AsJson,
    CalculatorOptions,
    Device,
    Dtype,
    Engine,
    MaxEdges,
    Model,
    Quiet,
    Threads,
    Trust,
)

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["energy"]

_FEW = 32  # frames that take no time worth showing
_MOST_ROWS = 40  # of the table; files and --json hold all


def energy(
    structure: Annotated[
        Path, typer.Argument(help="Structure file: extxyz, traj, cif, ...; all its frames.")
    ],
    model: Model = None,
    rows: Annotated[
        Optional[str], typer.Option(help='Frames to use: "0:10", or a csv of indices.')
    ] = None,
    output: Annotated[
        Optional[Path],
        typer.Option("--output", "-o", help="extxyz file for frames with energy, forces, stress."),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = None,
    engine: Engine = "auto",
    max_edges: MaxEdges = None,
    threads: Threads = None,
    trust: Trust = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compute energy, forces and, of periodic structures, stress; nothing moves.

    Several models are a committee: means, and how far the members differ.

    Example: [bold]eqcalc energy examples/ethanol.xyz -o labelled.xyz[/bold]
    """
    from eqcalc.cli.progress import StepProgress
    from eqcalc.cli.setup_run import set_up_calculator
    from eqcalc.data import parse_rows
    from eqcalc.files import refuse_existing, refuse_own_input
    from eqcalc.simulate.run_folder import refuse_run_files
    from eqcalc.simulate.single_points import single_points
    from eqcalc.simulate.structures import read_structures
    from eqcalc.simulate.writers import require_extxyz, write_structures

    if output is not None:
        require_extxyz(output)
        refuse_run_files([output])
        refuse_existing([output], overwrite)
        refuse_own_input([output], [structure])
    every = read_structures(structure)
    numbers = parse_rows(rows, len(every), structure.name)
    structures = [every[number] for number in numbers]
    options = CalculatorOptions(model, device, dtype, engine, 0.0, max_edges, threads, trust)
    calculator, source = set_up_calculator(structures, options)
    if len(structures) > _FEW:
        with StepProgress("energy", len(structures), line_every=len(structures) // 4) as display:
            frames = single_points(
                structures,
                calculator,
                source=structure.name,
                progress=lambda done: display.show(done, "frames"),
            )
    else:
        frames = single_points(structures, calculator, source=structure.name)
    if output is not None:
        write_structures(output, frames)
    if as_json:
        content = {"structure": str(structure), "model": source["model"]}
        results = [_as_json(k, atoms) for k, atoms in zip(numbers, frames, strict=True)]
        print_json({**content, "frames": results})
        return
    _print_table(numbers, frames)
    if output is not None:
        say(f"written: {output}")


def _as_json(number: int, atoms: Atoms) -> dict[str, Any]:
    found = atoms.calc.results
    spreads = {}
    if "forces_spread" in atoms.arrays:
        spreads["energy_spread_eV"] = atoms.info["energy_spread"]
        spreads["forces_spread_eV_per_A"] = atoms.arrays["forces_spread"]
    return {
        "frame": number,
        "formula": atoms.get_chemical_formula(mode="hill"),
        "n_atoms": len(atoms),
        "energy_eV": found["energy"],
        "forces_eV_per_A": found["forces"],
        "stress_eV_per_A3": found.get("stress"),
        **spreads,
    }


def _print_table(numbers: list[int], frames: list[Atoms]) -> None:
    import numpy as np
    from rich.table import Table

    from eqcalc.units import pressure_gpa

    periodic = any("stress" in atoms.calc.results for atoms in frames)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    committee = any("forces_spread" in atoms.arrays for atoms in frames)
    columns = ["frame", "formula", "E (eV)", "E/atom (eV)", "fmax (eV/Å)"]
    spreads = ["±E (eV)", "±F (eV/Å)"]  # F of the atom where the members differ most
    for column in [*columns, *spreads * committee, *["p (GPa)"] * periodic]:
        justify: Literal["left", "right"] = "left" if column == "formula" else "right"
        table.add_column(column, justify=justify, overflow="fold")  # no digit is cut off
    for number, atoms in list(zip(numbers, frames, strict=True))[:_MOST_ROWS]:
        found = atoms.calc.results
        cells = [
            str(number),
            atoms.get_chemical_formula(mode="hill"),
            f"{found['energy']:.6f}",
            f"{found['energy'] / len(atoms):.6f}",
            f"{np.linalg.norm(found['forces'], axis=1).max():.4f}",
        ]
        if committee:
            largest = np.linalg.norm(atoms.arrays["forces_spread"], axis=1).max()
            cells += [f"{atoms.info['energy_spread']:.4f}", f"{largest:.4f}"]
        if "stress" in found:
            cells.append(f"{pressure_gpa(found['stress']):.4f}")
        table.add_row(*cells)
    show(table)
    if len(frames) > _MOST_ROWS:
        say(f"... {len(frames)} frames in all; --output or --json gives every one.")
