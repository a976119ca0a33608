"""``eqcalc evaluate``: errors of a model on a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from eqcalc.cli.console import note, print_json, say, show
from eqcalc.cli.options import AsJson, Device, Dtype, Engine, MaxEdges, Quiet, Threads, Trust
from eqcalc.errors import import_extra

if TYPE_CHECKING:
    from eqcalc.data import Dataset
    from eqcalc.evaluation import Comparison
    from eqcalc.model_file import ModelCard

__all__ = ["evaluate"]

_OUTPUTS = ("errors.json", "parity.png")

# Written out, because eqcalc.units would load ASE for every --help.
_ENERGY_UNITS = "If the file does not say: eV, meV, kcal/mol, kJ/mol, Hartree or Rydberg."
_LENGTH_UNITS = "If the file does not say: Angstrom, Bohr or nm."
_FORCES_UNITS = "Such as Hartree/Bohr. Default: energy/length, per Bohr with Hartree or Rydberg."
_STRESS_UNITS = "Such as GPa or kbar. Default: energy/length^3."


def evaluate(
    model: Annotated[str, typer.Argument(help="A shipped model's name or a model file.")],
    data: Annotated[
        Path,
        typer.Argument(help='npz, extxyz, traj, db, OUTCAR, ... with labels, or "runs/*.xyz".'),
    ],
    rows: Annotated[
        Optional[str], typer.Option(help='Rows to use: "1000:2000", or a csv of indices.')
    ] = None,
    energy_key: Annotated[Optional[str], typer.Option(help="Key of the energy.")] = None,
    forces_key: Annotated[Optional[str], typer.Option(help="Key of the forces.")] = None,
    gradient_key: Annotated[
        Optional[str], typer.Option(help="Key of dE/dx, the forces' negative.")
    ] = None,
    stress_key: Annotated[Optional[str], typer.Option(help="Key of the stress.")] = None,
    virial_key: Annotated[
        Optional[str], typer.Option(help="Key of the virial, -stress x volume.")
    ] = None,
    positions_key: Annotated[
        Optional[str], typer.Option(help="Key of the positions, npz only.")
    ] = None,
    numbers_key: Annotated[
        Optional[str], typer.Option(help="Key of the atomic numbers, npz only.")
    ] = None,
    energy_unit: Annotated[Optional[str], typer.Option(help=_ENERGY_UNITS)] = None,
    length_unit: Annotated[Optional[str], typer.Option(help=_LENGTH_UNITS)] = None,
    forces_unit: Annotated[Optional[str], typer.Option(help=_FORCES_UNITS)] = None,
    stress_unit: Annotated[Optional[str], typer.Option(help=_STRESS_UNITS)] = None,
    trust_data: Annotated[
        bool, typer.Option("--trust-data", help="Take frames that are refused as implausible.")
    ] = False,
    output: Annotated[
        Optional[Path],
        typer.Option("--output", "-o", help="Folder for errors.json and parity.png."),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = None,
    engine: Engine = "auto",
    max_edges: MaxEdges = None,
    trust: Trust = False,
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the outputs.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Print MAE and RMSE of energy, forces and stress; draw a parity plot.

    Example: [bold]eqcalc evaluate painn-ethanol rmd17_ethanol.npz --rows 1000:2000[/bold]
    """
    from eqcalc.data import read_dataset
    from eqcalc.engines import load_model

    if output is not None:
        _refuse_existing(output, overwrite)
        import_extra("matplotlib.figure", "plot", "the parity plot of --output")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)  # the process belongs to the command line
    loaded = load_model(
        model, device=device, dtype=dtype, engine=engine, threads=threads, trust=trust
    )
    dataset = read_dataset(
        data,
        rows=rows,
        energy_key=energy_key,
        forces_key=forces_key,
        gradient_key=gradient_key,
        stress_key=stress_key,
        virial_key=virial_key,
        positions_key=positions_key,
        numbers_key=numbers_key,
        energy_unit=energy_unit,
        length_unit=length_unit,
        forces_unit=forces_unit,
        stress_unit=stress_unit,
        trust_data=trust_data,
    )
    _note_foreign_compositions(loaded.card, dataset)
    _note_training_rows(loaded.card, dataset)
    from eqcalc.cli.progress import StepProgress
    from eqcalc.evaluation import evaluate as compare

    n_frames = len(dataset.frames)
    with StepProgress("evaluate", n_frames, line_every=max(n_frames // 4, 1)) as display:
        comparison = compare(
            loaded,
            dataset.frames,
            progress=lambda done: display.show(done, "frames"),
            source=data.name,
            max_edges=max_edges,
        )
    title = f"{loaded.card.name} on {data.name}"
    if not as_json:
        say(f"{title}, {n_frames} frames")
        print_errors(comparison)
    if output is not None:
        _write(output, comparison, title)
        say(f"written: {output / _OUTPUTS[0]}, {output / _OUTPUTS[1]}")
    if as_json:
        content = {"model": loaded.card.name, "data": data.name, "frames": n_frames}
        print_json({**content, "errors": comparison.summary()})


def print_errors(comparison: Comparison, before: Optional[Comparison] = None) -> None:
    """Print the table of errors, beside those of the model that a fine-tuning started from."""
    from rich.table import Table

    table = Table("quantity", box=None, pad_edge=False)
    columns = ["MAE", "RMSE", *([] if before is None else ["MAE before", "RMSE before"]), "unit"]
    for column in columns:
        table.add_column(column, justify="right" if column != "unit" else "left")
    compared = [comparison] if before is None else [comparison, before]
    for quantities in zip(*(each.meaningful for each in compared), strict=True):
        errors = [quantity.errors for quantity in quantities]
        values = [value for each in errors for value in (each.mae, each.rmse)]
        table.add_row(
            quantities[0].name.replace("_", " "),
            *(f"{1e3 * value:.2f}" for value in values),
            f"m{quantities[0].unit}",
        )
    show(table)


def _note_foreign_compositions(card: ModelCard, dataset: Dataset) -> None:
    """Say when the model was never trained on what it is judged on."""
    from eqcalc.elements import trained_on
    from eqcalc.errors import listing

    if card.is_universal:
        return
    # A thousand frames have few kinds; periodic ones are compared in another way.
    kinds = {
        (frame.atoms.get_chemical_formula(mode="hill"), bool(frame.atoms.pbc.any())): frame.atoms
        for frame in dataset.frames
    }
    foreign = {
        formula for (formula, _), atoms in kinds.items() if not trained_on(card.compositions, atoms)
    }
    if foreign:
        known = listing(card.compositions) or "compositions that its card does not name"
        note(f"note: {card.name} was trained on {known}; the data hold {listing(sorted(foreign))}.")


def _note_training_rows(card: ModelCard, dataset: Dataset) -> None:
    """Say when frames were trained on: their errors say little about new ones.

    Files are told apart by their names alone, as the card keeps no more.
    """
    from eqcalc.data.rows import parse_rows
    from eqcalc.errors import ConfigError, DataError

    rows = card.training_data.get("training rows")
    if rows is None or card.training_data.get("source") != dataset.source:
        return
    try:
        trained = parse_rows(None if rows == "all" else rows, dataset.n_rows)
    except (ConfigError, DataError):
        return  # another file of that name, or rows from a csv that is not here
    n_shared = len(set(trained) & set(dataset.rows))
    if n_shared > 0:
        note(
            f"note: {card.name} was trained on {n_shared} of these {len(dataset)} frames (rows "
            f"{rows} of {dataset.source}); their errors say little about others."
        )


def _refuse_existing(output: Path, overwrite: bool) -> None:
    from eqcalc.errors import OutputExistsError

    existing = [name for name in _OUTPUTS if (output / name).exists()]
    if existing and not overwrite:
        raise OutputExistsError(
            f"'{output}' already holds {', '.join(existing)}; choose another folder (--output) "
            "or replace them (--overwrite)."
        )


def _write(output: Path, comparison: Comparison, title: str) -> None:
    from eqcalc.errors import OutputError
    from eqcalc.evaluation.plots import parity_plot
    from eqcalc.files import write_whole

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create '{output}': {error}.") from error
    content = {"title": title, "n_frames": comparison.n_frames, **comparison.summary()}
    write_whole(output / _OUTPUTS[0], (json.dumps(content, indent=2) + "\n").encode())
    write_whole(output / _OUTPUTS[1], parity_plot(comparison, title))
