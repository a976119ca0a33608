"""Structure file and options in, atoms and calculator out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eqcalc.cli.console import note, say
from eqcalc.cli.engine_lines import say_engine
from eqcalc.cli.model_choice import choose_model, model_line
from eqcalc.cli.options import CalculatorOptions
from eqcalc.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

    from eqcalc.calculator import EqCalculator
    from eqcalc.model_file import ModelFile
    from eqcalc.simulate.run_folder import RunFolder

__all__ = [
    "note_others",
    "run_folder_of",
    "say_last_frame",
    "set_up_calculator",
    "set_up_run",
    "stopped_run",
]


def set_up_run(
    structure: Path, options: CalculatorOptions, index: str | None = None
) -> tuple[Atoms, EqCalculator, dict[str, Any]]:
    """Read the structure, choose the model and build the calculator.

    Parameters
    ----------
    index : what the user typed, of one frame as ASE counts; None is the last

    Returns
    -------
    the atoms; the calculator; what the manifest shall say about both

    Raises
    ------
    StructureError : the structure cannot be read, or there is no such frame.
    ConfigError : no model was given and no shipped one fits; the index is not that of one frame.
    ModelFileError : the model is no potential, or cannot be read.
    NotEnoughMemoryError : memory does not suffice for the structure, not even in blocks.
    """
    from eqcalc.simulate.structures import count_structures, read_structure

    number = -1 if index is None else _frame_of(index)
    atoms = read_structure(structure, number)
    if index is None:
        say_last_frame(structure, " (--index)")
    else:
        n_structures = count_structures(structure)
        frames = "" if n_structures is None else f" of 0 to {n_structures - 1}"
        from_start = number + n_structures if n_structures and number < 0 else number
        say(f"structure: frame {from_start}{frames} in {structure.name}")
    calculator, source = set_up_calculator([atoms], options)
    forecast = calculator.memory_forecast(atoms)
    if forecast is not None and forecast.n_blocks > 1:
        note(f"memory: {forecast}")
    elif forecast is not None:
        say(f"memory: {forecast}")
    return atoms, calculator, {"structure": str(structure), "frame": number, **source}


def say_last_frame(structure: Path, hint: str = "") -> None:
    """Say that the last frame of a file is taken, where it holds several."""
    from eqcalc.simulate.structures import count_structures

    n_structures = count_structures(structure)
    if n_structures is not None and n_structures > 1:
        say(f"structure: the last of {n_structures} frames in {structure.name}{hint}")


def _frame_of(index: str) -> int:
    """Return the number of one frame that the user typed."""
    try:
        return int(index)
    except ValueError:
        raise ConfigError(
            f"--index takes the number of one frame (0 the first, -1 the last), not '{index}'; a "
            "run starts from one structure."
        ) from None


def set_up_calculator(
    structures: Sequence[Atoms], options: CalculatorOptions
) -> tuple[EqCalculator, dict[str, Any]]:
    """Choose the model of structures, say what it was trained on, and build the calculator.

    Raises
    ------
    See :func:`set_up_run`.
    """
    from eqcalc.calculator import EqCalculator
    from eqcalc.elements import trained_on
    from eqcalc.errors import listing
    from eqcalc.model_file import open_potential
    from eqcalc.simulate.doubts import doubts_of_many

    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)  # the process belongs to the command line
    names = [options.model] if isinstance(options.model, str) else options.model
    chosen = names or [choose_model(structures)]
    files = [open_potential(model, trust=options.trust) for model in chosen]
    for file in files:
        say(model_line(file.card, file.path, was_chosen=not names))
        foreign = {
            atoms.get_chemical_formula(mode="hill"): None
            for atoms in structures
            if not file.card.is_universal and not trained_on(file.card.compositions, atoms)
        }
        if foreign:
            known = ", ".join(file.card.compositions) or "compositions that its card does not name"
            note(
                f"note: it was trained on {known}, not on {listing(list(foreign))}; check its "
                "results."
            )
    for doubt in doubts_of_many(structures, max(file.card.cutoff for file in files)):
        note(f"note: {doubt}")
    calculator = EqCalculator(
        chosen[0] if len(chosen) == 1 else chosen,
        device=options.device,
        dtype=options.dtype,
        engine=options.engine,
        skin=options.skin,
        max_edges=options.max_edges,
        threads=options.threads,
        trust=options.trust,
    )
    say_engine(calculator, max(map(len, structures)))
    source = {
        "model": _about(files),
        "calculator": {
            "device": options.device,
            "dtype": options.dtype,
            "engine": options.engine,
            "skin": options.skin,
            "max_edges": options.max_edges,
            "threads": options.threads,
        },
    }
    return calculator, source


def _about(files: Sequence[ModelFile]) -> dict[str, Any]:
    """Return what a manifest says of a model, or of a committee and its members."""
    members = [
        {"name": file.card.name, "path": str(file.path.absolute()), "sha256": file.sha256}
        for file in files
    ]
    if len(members) == 1:
        return members[0]
    return {"name": ", ".join(member["name"] for member in members), "members": members}


def run_folder_of(structure: Path, verb: str, output: Path | None) -> Path:
    """Return ``output``, or a folder in the working directory named after the structure."""
    return output if output is not None else Path(f"{structure.stem}-{verb}")


def note_others(folder: RunFolder) -> None:
    """Name what stays in the folder of a run that is replaced, and may be of that run."""
    from eqcalc.errors import listing

    if folder.holds_run and (others := folder.others()):
        note(
            f"note: '{folder.path}' also holds {listing(others)}, which the run leaves alone; what "
            "was made of the older run is not true of the new one."
        )


def stopped_run(folder: Path) -> dict[str, Any]:
    """Return what ``--json`` says of a run that a signal stopped: its manifest knows."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return {
        "status": manifest["status"],
        "folder": str(folder),
        "steps": manifest["steps_done"],
    }
