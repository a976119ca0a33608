"""``eqcalc evaluate``: errors of a model, or of a committee and its spread, on a data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from eqcalc.cli.console import note, print_json, say, show
from eqcalc.cli.data_options import (
    EnergyKey,
    EnergyUnit,
    ForcesKey,
    ForcesUnit,
    GradientKey,
    LengthUnit,
    NumbersKey,
    PositionsKey,
    Rows,
    StressKey,
    StressUnit,
    TrustData,
    VirialKey,
    label_options,
)
from eqcalc.cli.options import AsJson, Device, Dtype, Engine, MaxEdges, Quiet, Threads, Trust
from eqcalc.errors import ConfigError, import_extra

if TYPE_CHECKING:
    from eqcalc.data import Dataset, LabelledFrame
    from eqcalc.engines import Model
    from eqcalc.evaluation import Calibrations, Comparison
    from eqcalc.model_file import ModelCard

__all__ = ["evaluate"]

_OUTPUTS = ("errors.json", "parity.png")
_CONSTANT_OFFSET, _FAR_OFF = 0.01, 5.0  # eV/atom, and in spreads: what is no error of a network
_OF_COMMITTEES = ("calibration.csv", "calibration.png")


def evaluate(
    context: typer.Context,
    model: Annotated[
        Optional[list[str]],
        typer.Argument(
            help="Required: a shipped model's name or a model file; several are a committee.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Optional[Path],
        typer.Argument(
            help='Required: npz, extxyz, traj, db, OUTCAR, ... with labels, or "runs/*.xyz".',
            show_default=False,
        ),
    ] = None,
    rows: Rows = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    gradient_key: GradientKey = None,
    stress_key: StressKey = None,
    virial_key: VirialKey = None,
    positions_key: PositionsKey = None,
    numbers_key: NumbersKey = None,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    forces_unit: ForcesUnit = None,
    stress_unit: StressUnit = None,
    trust_data: TrustData = False,
    output: Annotated[
        Optional[Path],
        typer.Option(
            "--output",
            "-o",
            help="Folder for errors.json and parity.png; of a committee calibration.csv and .png.",
        ),
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

    Of several models also whether their spread tells the error of their mean, with a picture.

    Example: [bold]eqcalc evaluate painn-ethanol examples/data/ethanol_rmd17_test.npz[/bold]
    """
    from eqcalc.data import read_dataset
    from eqcalc.evaluation import breakdown
    from eqcalc.files import refuse_existing

    if not model or data is None:  # of one word click makes the last argument
        found = "neither" if data is None else f"only '{data}'"
        raise ConfigError(
            f"evaluate takes a model and a file of frames with labels, and found {found}: eqcalc "
            "evaluate MODEL DATA."
        )
    if output is not None:
        names = [*_OUTPUTS, *(_OF_COMMITTEES if len(model) > 1 else ())]
        refuse_existing([output / name for name in names], overwrite)
        import_extra("matplotlib.figure", "plot", "the parity plot of --output")
    models = _load(model, threads, device=device, dtype=dtype, engine=engine, trust=trust)
    labels = label_options(context.params)
    dataset = read_dataset(data, rows=rows, trust_data=trust_data, **labels)
    for loaded in models:
        _note_foreign_compositions(loaded.card, dataset)
        _note_trained_frames(loaded.card, dataset)
    comparison, calibrations = _compare(models, dataset, data.name, max_edges)
    name = ", ".join(loaded.card.name for loaded in models)
    title = f"{name} on {data.name}"
    parts = breakdown(comparison, dataset.frames)
    if not as_json:
        say(f"{title}, {len(dataset)} frames")
        print_errors(comparison)
        _print_breakdown(comparison, dataset.frames)
        if calibrations is not None:
            print_calibrations(calibrations)
    if output is not None:
        written = _write(output, comparison, parts, calibrations, title)
        say(f"written: {', '.join(str(path) for path in written)}")
    if as_json:
        content = {"model": name, "data": data.name, "frames": len(dataset)}
        errors = {"errors": comparison.summary(), **parts}
        print_json({**content, **errors, **_of_committee(calibrations)})


def _load(names: list[str], threads: Optional[int], **options: Any) -> list[Model]:
    """Return the models; a committee with one twice is refused."""
    from eqcalc.engines import load_model
    from eqcalc.model_file import refuse_twins

    if threads is not None:
        import torch

        torch.set_num_threads(threads)  # the process belongs to the command line
    models = [load_model(each, threads=threads, **options) for each in names]
    refuse_twins([model.file for model in models])
    return models


def _compare(
    models: list[Model], dataset: Dataset, source: str, max_edges: Optional[int]
) -> tuple[Comparison, Optional[Calibrations]]:
    """Return the comparison of a model, or of a committee's mean with the calibrations."""
    from eqcalc.cli.progress import StepProgress
    from eqcalc.evaluation import evaluate as compare
    from eqcalc.evaluation import evaluate_committee

    n_calls = len(models) * len(dataset.frames)
    with StepProgress("evaluate", n_calls, line_every=max(n_calls // 4, 1)) as display:

        def progress(done: int) -> None:
            display.show(done, "frames")

        if len(models) == 1:
            return compare(models[0], dataset.frames, progress, source, max_edges), None
        found = evaluate_committee(
            models, dataset.frames, progress, source=source, max_edges=max_edges
        )
        return found.mean, found


def _of_committee(calibrations: Optional[Calibrations]) -> dict[str, Any]:
    """Return what the json holds of a committee besides the errors of its mean."""
    if calibrations is None:
        return {}
    return {
        "members": [each.summary() for each in calibrations.members],
        "calibration": {each.name: each.summary() for each in calibrations.quantities},
    }


def print_calibrations(calibrations: Calibrations) -> None:
    """Print the table of spreads beside errors."""
    from rich.table import Table

    table = Table("spread of", box=None, pad_edge=False)
    for column in ("rms", "rms error", "corr.", "rank corr.", "scale", "in 1", "in 2"):
        table.add_column(column, justify="right")
    table.add_column("unit")
    for each in calibrations.quantities:
        spread, error = (1e3 * float((v**2).mean() ** 0.5) for v in (each.spread, each.error))
        table.add_row(
            each.name.replace("_", " "),
            f"{spread:.2f}",
            f"{error:.2f}",
            f"{each.correlation:.2f}",
            f"{each.rank_correlation:.2f}",
            f"{each.scale:.2f}",
            *(f"{100 * each.share_within(n):.0f} %" for n in (1, 2)),
            f"m{each.unit}",
        )
    show(table)
    first = calibrations.quantities[0]
    one, two = (100 * first.expected_share(n) for n in (1, 2))
    say(
        f"of {first.n_members} members (degrees of freedom: {first.n_members - 1}) a calibrated "
        f"spread has the scale 1 and {one:.0f} and {two:.0f} % of the errors within 1 and 2 spreads"
    )


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
    mean, around = comparison.energy_per_atom.offset
    if comparison.n_frames > 1 and abs(mean) > max(_FAR_OFF * around, _CONSTANT_OFFSET):
        note(
            f"note: nearly all of the error of the energies is a constant, {mean:+.6g} eV/atom, "
            f"with {1e3 * around:.3g} meV/atom around it: the labels have another zero of energy "
            "than the model (another level of theory, or atoms' energies taken off), or the model "
            "was hardly trained on such frames."
        )


def _print_breakdown(comparison: Comparison, frames: Sequence[LabelledFrame]) -> None:
    """Print where the errors are, as far as there is more than one place for them."""
    from rich.table import Table

    from eqcalc.evaluation import by_element, by_kind, worst_frames

    elements = by_element(comparison, frames)
    if len(elements) > 1:
        shown = ", ".join(f"{e} {1e3 * errors.mae:.1f}" for e, errors in elements.items())
        say(f"MAE of forces by element: {shown} meV/Å")
    worst = worst_frames(comparison, frames, most=1)
    if worst and len(frames) > 1:
        say(
            f"largest error of a force: {worst[0].force_error:.3g} eV/Å, on atom {worst[0].atom} "
            f"({worst[0].element}) of {worst[0].frame}"
        )
    kinds = by_kind(comparison, frames)
    if not kinds:
        return
    table = Table("config_type", "frames", "energy MAE", "forces MAE", box=None, pad_edge=False)
    for kind in kinds:
        forces = "" if kind.forces is None else f"{1e3 * kind.forces.mae:.1f} meV/Å"
        energy = f"{1e3 * kind.energy_per_atom.mae:.2f} meV/atom"
        table.add_row(kind.name, str(kind.n_frames), energy, forces)
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


def _note_trained_frames(card: ModelCard, dataset: Dataset) -> None:
    """Say when frames were trained on: their errors say little about new ones."""
    from eqcalc.errors import listing
    from eqcalc.model_file.trained_frames import trained_among
    from eqcalc.training.trained_rows import rows_by_file

    is_trained = "training frames" in card.training_data or (card.origin and not card.is_universal)
    if is_trained and not card.trained_frames:
        note(
            f"note: the card of {card.name} does not keep the frames that it was trained on; "
            "whether these are among them is not known."
        )
    known = trained_among(card.trained_frames, [frame.atoms for frame in dataset.frames])
    if not known:
        return
    parent = card.training_data.get("fine-tuned from")
    whose = card.name if parent is None else f"{card.name}, or what it was fine-tuned from,"
    rows = rows_by_file(dataset.frames[k] for k in known)
    said = listing([f"{listing(text.split(', '))} of {name}" for name, text in rows.items()])
    note(
        f"note: {whose} was trained on {len(known)} of these {len(dataset)} frames (rows "
        f"{said}); their errors say little about others."
    )


def _write(
    output: Path,
    comparison: Comparison,
    parts: dict[str, Any],
    calibrations: Optional[Calibrations],
    title: str,
) -> list[Path]:
    """Write the outputs and return their paths."""
    from eqcalc.errors import OutputError
    from eqcalc.evaluation.plots import calibration_plot, parity_plot
    from eqcalc.files import remove_files, write_whole

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create '{output}': {error}.") from error
    content = {"title": title, "n_frames": comparison.n_frames, **comparison.summary()}
    content |= parts | _of_committee(calibrations)
    contents = {
        _OUTPUTS[0]: (json.dumps(content, indent=2) + "\n").encode(),
        _OUTPUTS[1]: parity_plot(comparison, title),
    }
    if calibrations is not None:
        table, picture = _OF_COMMITTEES
        contents[table] = _bins_as_csv(calibrations).encode()
        contents[picture] = calibration_plot(calibrations, title)
    remove_files(output, [name for name in _OF_COMMITTEES if name not in contents])
    for name, text in contents.items():
        write_whole(output / name, text)
    return [output / name for name in contents]


def _bins_as_csv(calibrations: Calibrations) -> str:
    lines = ["quantity,unit,n,rms_spread,rms_error"]
    for each in calibrations.quantities:
        lines += [
            f"{each.name},{each.unit.replace('Å', 'A').replace('³', '3')},{part.n},"
            f"{part.spread:.8g},{part.error:.8g}"
            for part in each.bins()
        ]
    return "\n".join(lines) + "\n"
