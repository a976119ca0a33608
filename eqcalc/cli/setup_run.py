"""Structure file and options in, atoms and calculator out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from eqcalc.cli.console import say
from eqcalc.cli.model_choice import choose_model, trained_on
from eqcalc.cli.options import CalculatorOptions

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

__all__ = ["run_folder_of", "set_up_run"]

# Below this, splitting the work of one step costs more than it saves.
_ATOMS_FOR_THREADS = 100


def set_up_run(
    structure: Path, options: CalculatorOptions
) -> tuple[Atoms, Calculator, dict[str, Any]]:
    """Read the structure, choose the model and build the calculator.

    Returns
    -------
    the atoms; the calculator; what the manifest shall say about both

    Raises
    ------
    StructureError : the structure cannot be read.
    ConfigError : no model was given and no shipped one fits.
    ModelFileError : the model is no potential, or cannot be read.
    NotEnoughMemoryError : memory does not suffice for the structure, not even in blocks.
    """
    from eqcalc.calculator import EqCalculator
    from eqcalc.model_file import open_potential
    from eqcalc.simulate.frame_content import unkept_constraints
    from eqcalc.simulate.structures import count_structures, read_structure

    atoms = read_structure(structure)
    n_structures = count_structures(structure)
    if n_structures is not None and n_structures > 1:
        say(f"structure: the last of {n_structures} frames in {structure.name}")
    lost = unkept_constraints(atoms)
    if lost:
        say(
            f"note: what the run writes cannot hold the constraints {', '.join(lost)}; set them "
            "again before going on from it.",
            style="yellow",
        )
    _set_threads(options.threads, len(atoms))
    model = choose_model(atoms) if options.model is None else options.model
    file = open_potential(model, trust=options.trust)
    if options.model is None:
        known = ", ".join(file.card.compositions)
        # only formulas were compared, and the user did not choose
        say(f"model {file.card.name}: shipped, trained on {known} (isomers are not told apart)")
    else:
        say(f"model {file.card.name} ({file.path})")
    if not trained_on(file.card.compositions, atoms):
        known = ", ".join(file.card.compositions) or "compositions that its card does not name"
        say(
            f"note: it was trained on {known}, not on "
            f"{atoms.get_chemical_formula(mode='hill')}; check its results.",
            style="yellow",
        )
    calculator = EqCalculator(
        model,
        device=options.device,
        dtype=options.dtype,
        engine=options.engine,
        skin=options.skin,
        max_edges=options.max_edges,
        trust=options.trust,
    )
    forecast = calculator.memory_forecast(atoms)
    if forecast is not None:
        say(f"memory: {forecast}", style="yellow" if forecast.n_blocks > 1 else "")
    source = {
        "structure": str(structure),
        "model": {"name": file.card.name, "path": str(file.path), "sha256": file.sha256},
        "calculator": {
            "device": options.device,
            "dtype": options.dtype,
            "engine": options.engine,
            "skin": options.skin,
            "max_edges": options.max_edges,
        },
    }
    return atoms, calculator, source


def run_folder_of(structure: Path, verb: str, output: Path | None) -> Path:
    """Return ``output``, or a folder in the working directory named after the structure."""
    return output if output is not None else Path(f"{structure.stem}-{verb}")


def _set_threads(threads: int | None, n_atoms: int) -> None:
    import torch

    # The process belongs to the command line, so this global is ours to set.
    if threads is None and n_atoms < _ATOMS_FOR_THREADS:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
