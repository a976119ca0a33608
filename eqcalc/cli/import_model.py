"""``eqcalc import``: a network that another package trained, as a model of eqcalc."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from eqcalc.cli.console import note, say, say_pairs, working
from eqcalc.cli.options import Quiet
from eqcalc.errors import MissingDependencyError

if TYPE_CHECKING:
    from eqcalc.importers import ImportedModel

__all__ = ["import_model"]


def import_model(
    file: Annotated[
        Path,
        typer.Argument(
            help="SevenNet .pth, nequip .ckpt or .nequip.zip, schnetpack best_model or .ckpt."
        ),
    ],
    output: Annotated[
        Optional[Path],
        typer.Option(
            "--output", "-o", help="Folder of the model, or a .pt file; default models/NAME."
        ),
    ] = None,
    name: Annotated[Optional[str], typer.Option(help="Name for the card.")] = None,
    energy_unit: Annotated[
        Optional[str],
        typer.Option(help="Unit of the network's energies, where the file does not say it: eV."),
    ] = None,
    length_unit: Annotated[
        Optional[str],
        typer.Option(help="Unit of its lengths, where the file does not say it: Angstrom."),
    ] = None,
    modality: Annotated[
        Optional[str], typer.Option(help="Which of several levels of theory to answer for.")
    ] = None,
    elements: Annotated[
        Optional[str],
        typer.Option(metavar="H,C,O", help="Elements that the model shall know; default all."),
    ] = None,
    licence: Annotated[
        Optional[str], typer.Option(help="Licence of the weights, for the card.")
    ] = None,
    level_of_theory: Annotated[
        Optional[str], typer.Option(help="Of the training data, such as PBE; for the card.")
    ] = None,
    trained_on: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE",
            help="Frames of its training data (extxyz, traj, ...), where they are at hand: the "
            "card keeps their pairs, distances and numbers of neighbours, for guards of runs.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Compare with the package that trained it, which must be installed; exit code 1 "
            "where they differ. That runs the file's own code: for files that you trust.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that is there.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Import a network trained with SevenNet, nequip or schnetpack. Nothing of its file is run.

    Example: [bold]eqcalc import best_model -o models/mine --energy-unit eV --length-unit
    Angstrom[/bold]
    """
    from eqcalc.importers import import_model as convert
    from eqcalc.simulate.doubts import doubts_of_many
    from eqcalc.simulate.structures import read_structures

    known = [] if trained_on is None else read_structures(trained_on)
    with working(f"importing {file}"):
        model = convert(
            file,
            output,
            name=name,
            energy_unit=energy_unit,
            length_unit=length_unit,
            modality=modality,
            elements=None if elements is None else elements.replace(",", " ").split(),
            licence=licence,
            level_of_theory=level_of_theory,
            trained_on=known,
            overwrite=overwrite,
        )
    _say_summary(model)
    if trained_on is not None:
        for doubt in doubts_of_many(known, model.card.cutoff):
            note(f"note: {trained_on.name}: {doubt}")
    if check:
        _check(model)


def _say_summary(model: ImportedModel) -> None:
    from eqcalc.errors import listing

    card = model.card
    if model.replaced:
        note(model.replaced)
    say(f"{card.name}: {model.kind}")
    say_pairs(
        {
            "network": f"{card.architecture}, {card.description}",
            "elements": listing(card.elements, limit=20),
            "range": f"cutoff {card.cutoff:g} Å, {card.n_hops} message-passing steps",
            "level": card.origin["level of theory"],
            "seen": card.seen_in_training,
            "licence": card.origin["licence"],
            "gives up": " ".join(card.gives_up) or "nothing",
            "source": f"{card.origin['file']}, sha256 {card.origin['sha256']}",
        }
    )
    if card.origin["licence"] == "not stated":
        note("note: the file states no licence of its weights; --licence puts it on the card")
    if card.origin["level of theory"] == "not stated":
        note("note: the file does not state its level of theory; --level-of-theory puts it there")
    say(f"written: {model.path}")


def _check(model: ImportedModel) -> None:
    from eqcalc import EqCalculator
    from eqcalc.elements import atomic_number
    from eqcalc.export.frames import element_clusters
    from eqcalc.importers import check_import

    frames = element_clusters([atomic_number(symbol) for symbol in model.card.elements])
    names = (f"{k}, {frame.get_chemical_formula()}" for k, frame in enumerate(frames, 1))
    calculator = EqCalculator(model.path, device="cpu", dtype="float64", engine="torchscript")
    try:
        differences = check_import(model, calculator, dict(zip(names, frames, strict=True)))
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"'{model.path}' is written, but not compared with the original: {error}"
        ) from error
    say("largest differences from the original package:")
    for found in differences:
        say(
            f"  {found.structure} ({found.n_atoms} atoms): energy {found.energy:.1e} eV/atom, "
            f"forces {found.forces:.1e} eV/Å (largest {found.largest_force:.2g} eV/Å)"
        )
    if not all(found.is_small for found in differences):
        note("the model differs from the original by more than rounding: do not use it")
        raise typer.Exit(1)
