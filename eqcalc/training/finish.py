"""From a training run to a model: checkpoint, exported file, measured errors, card."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch

from eqcalc import architectures
from eqcalc.data import Dataset, LabelledFrame
from eqcalc.data.duplicates import shared_structures
from eqcalc.devices import resolve_dtype
from eqcalc.elements import symbols_of
from eqcalc.engines import load_model
from eqcalc.errors import (
    ConfigError,
    DataError,
    ModelFileError,
    UnknownArchitectureError,
)
from eqcalc.evaluation import Comparison, evaluate
from eqcalc.export import export_model
from eqcalc.export.model import refuse_texts_of_others
from eqcalc.files import refuse_existing, write_whole
from eqcalc.model_file import MODEL_NAME, ModelCard
from eqcalc.model_file.seen import seen_in
from eqcalc.model_file.trained_frames import trained_among, trained_frames
from eqcalc.potential import Potential
from eqcalc.training.checkpoints import UNREADABLE, read_checkpoint, shown_network, whole_epoch
from eqcalc.training.config import TrainingConfig
from eqcalc.training.data import TrainingData, data_checksums, read_training_data
from eqcalc.training.fine_tuning import CHANGED, OF_MANIFEST, read_start
from eqcalc.training.network import repulsion
from eqcalc.training.randomness import seeded
from eqcalc.training.replay import read_replay
from eqcalc.training.trained_rows import TRAINED_ROWS, rows_by_file
from eqcalc.training.training_folder import TrainingFolder

__all__ = ["Finished", "export_run", "load_potential"]

_N_PASSPORT_FRAMES = 3

# What reading something else as a checkpoint raises, from the file to its architecture.
_DAMAGED = (*UNREADABLE, ConfigError, UnknownArchitectureError)


@dataclass(frozen=True)
class Finished:
    """An exported model and what it was judged by.

    before : of the model that a fine-tuning started from, on the same frames, with the reference
        energies of the training
    """

    path: Path
    card: ModelCard
    comparison: Comparison
    judged_on: str
    before: Optional[Comparison] = None


def load_potential(run: TrainingFolder, checkpoint: Optional[Path] = None) -> Potential:
    """Rebuild the trained potential of a run from its averaged weights.

    Raises
    ------
    ModelFileError : the checkpoint is missing, damaged, does not belong to the run, or
        holds weights that are not finite; the message says whether another one is whole.
    """
    return _load(run, run.read_config(), checkpoint or run.best_checkpoint)


def export_run(
    run: TrainingFolder,
    folder: Path,
    *,
    overwrite: bool = False,
    checkpoint: Optional[Path] = None,
) -> Finished:
    """Export the best checkpoint, or another one, measure it, and write a model folder.

    The folder receives ``model.pt``, ``card.md``, ``metrics.json`` and ``train.toml``.
    Errors are those of the exported file on the configuration's test rows, or on
    its validation rows where it names no test.

    Raises
    ------
    OutputExistsError : the folder holds a model, or texts of that name that are no model's, and
        ``overwrite`` is False.
    ModelFileError : as :func:`load_potential` does.
    ConfigError : a file of the run's data has changed since the training began.
    DataError : one is not there.
    """
    path = folder / MODEL_NAME
    refuse_existing([path], overwrite)
    refuse_texts_of_others(path, overwrite)
    config = run.read_config()
    weights = checkpoint or run.best_checkpoint
    potential = _load(run, config, weights)
    # Rows of another file may be those that were trained on, and the card would not know.
    run.refuse_changed_data(_data_checksums(run, config), done="exported")
    data = read_training_data(config)
    judged, judged_on = _judged(config, data)
    elements, licence = symbols_of(data.train.elements), config.licence
    replay = read_replay(config)
    trained = [*data.train.frames, *([] if replay is None else replay.train.frames)]
    about = _training_data(config, data, trained)
    about[TRAINED_ROWS] = rows_by_file(trained)
    about["weights"] = f"{weights.name}, after {whole_epoch(weights)} epochs"
    before, of_parents = None, ""
    if config.is_fine_tuning:
        begun = load_model(run.start_model, device="cpu", trust=True)
        before = evaluate(begun, judged.frames, source=judged.source)
        elements, licence = begun.card.elements, config.licence or begun.card.licence
        about |= _about_parent(run)
        of_parents = begun.card.trained_frames
    judged_on += _trained_on(judged, trained, of_parents)
    write = functools.partial(
        export_model,
        potential,
        elements=elements,
        name=config.name,
        frames=[frame.atoms for frame in data.validation.frames[:_N_PASSPORT_FRAMES]],
        description=config.description,
        licence=licence,
        training_data=about,
        seen=seen_in((frame.atoms for frame in trained), potential.cutoff),
        trained_frames=trained_frames((frame.atoms for frame in trained), of_parents),
    )
    # Measured elsewhere: an end in the middle leaves an older model beside its own card.
    with tempfile.TemporaryDirectory() as elsewhere:
        draft = Path(elsewhere) / MODEL_NAME
        write(draft)
        model = load_model(draft, device="cpu", trust=True)
        comparison = evaluate(model, judged.frames, source=judged.source)
    errors: dict[str, Any] = {"measured on": judged_on, **comparison.summary()}
    if before is not None:
        errors |= {f"before_{name}": value for name, value in before.summary().items()}
    card = write(path, overwrite=overwrite, errors=errors)
    write_whole(folder / "card.md", card.to_markdown().encode())
    metrics = {"model": config.name, "n_frames": comparison.n_frames, **errors}
    write_whole(folder / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
    training_file = folder / "train.toml"
    # Where the training was started from the folder of its model, the file there is the user's.
    is_source = training_file.exists() and config.folder.resolve() == folder.resolve()
    is_free = overwrite or not training_file.exists()
    if config.text and is_free and not is_source:
        write_whole(training_file, config.text.encode())
    return Finished(path, card, comparison, judged_on, before)


def _data_checksums(run: TrainingFolder, config: TrainingConfig) -> dict[str, dict[str, str]]:
    try:
        return data_checksums(config)
    except DataError as error:
        raise DataError(
            f"{error} If the project of '{run.path}' was moved, 'eqcalc train TRAIN.TOML --resume "
            "--output RUN' with its train.toml at the new place compares the data and keeps the "
            "place; a finished training stays as it is."
        ) from error


def _load(run: TrainingFolder, config: TrainingConfig, path: Path) -> Potential:
    begun = read_start(run.start_model, config) if config.is_fine_tuning else None
    try:
        content = read_checkpoint(path)
        state = {
            key.removeprefix("potential."): value for key, value in content["state_dict"].items()
        }
        known = torch.nonzero(~state["reference_energies"].isnan()).flatten().tolist()
        if begun is None:
            _require_own_network(config, content["architecture"])
        potential = begun or _built(config, content["architecture"], known)
        potential.load_state_dict(state)
    except FileNotFoundError as error:
        raise ModelFileError(f"there is no checkpoint '{path}'; has the run started?") from error
    except _DAMAGED as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ModelFileError(
            f"'{path}' is not a checkpoint of this run: {reason}{_another(run, path)}"
        ) from error
    # Buffers may hold NaN: the reference energies of elements that were never seen.
    if not all(bool(torch.isfinite(weight).all()) for weight in potential.parameters()):
        raise ModelFileError(
            f"the weights in '{path}' are not finite: the training diverged; lower learning_rate "
            "and train again."
        )
    return potential.eval()


def _require_own_network(config: TrainingConfig, found: Any) -> None:
    """Refuse another run's network, which would be exported as this run's."""
    own = config.architecture_arguments()
    if any(found.get(name) != value for name, value in own.items()):
        raise ValueError(
            f"it is of another network, {shown_network(found)}, and this run's is "
            f"{shown_network(own)}"
        )


def _built(config: TrainingConfig, architecture: Any, elements: list[int]) -> Potential:
    """Return a potential of some elements (atomic numbers), to take a checkpoint's weights."""
    with seeded(config.seed):  # weights that are drawn, to be replaced by those of the file
        network = architectures.build(**architecture)
    return Potential(
        network.to(resolve_dtype(str(config.dtype))),
        exact_isolated_atoms=config.data.isolated_atoms_are_exact,
        zbl=repulsion(config, elements),
    )


def _another(run: TrainingFolder, damaged: Path) -> str:
    """Return what to do where a checkpoint cannot be read."""
    choices = {"best": run.best_checkpoint, "last": run.last_checkpoint}
    for name, path in choices.items():
        n_epochs = None if path == damaged else whole_epoch(path)
        if n_epochs is not None:
            return (
                f"; '{path}' of epoch {n_epochs} is whole, take it (--checkpoint {name}) or train "
                "again."
            )
    return "; there is no other whole one, train again."


def _judged(config: TrainingConfig, data: TrainingData) -> tuple[Dataset, str]:
    if data.test is None:
        return data.validation, f"validation frames of {data.validation.source}"
    rows = f"test rows {config.data.test_rows}" if config.data.test_rows else "all frames"
    return data.test, f"{rows} of {data.test.source}"


def _trained_on(judged: Dataset, trained: Sequence[LabelledFrame], of_parents: str) -> str:
    """Return how many frames say little about others, for the card; nothing where none do."""
    said = ""
    own = shared_structures(judged.frames, trained)
    if own:
        said += f", of which {len(own)} of {len(judged)} frames were trained on"
    old = trained_among(of_parents, [frame.atoms for frame in judged.frames])
    if old:
        said += f", of which its parents were trained on {len(old)} of {len(judged)} frames"
    return said


def _about_parent(run: TrainingFolder) -> dict[str, Any]:
    """Return what the card says of the model that a fine-tuning started from."""
    content = run.read_parent()
    for name in OF_MANIFEST:
        content.pop(name, None)
    changes = content.pop(CHANGED, {})
    content[CHANGED] = ", ".join(f"{symbol} {value:+.6f}" for symbol, value in changes.items())
    return content


def _training_rows(config: TrainingConfig) -> str:
    rows, share = config.data.train_rows or "all", config.data.validation_fraction
    return rows if share is None else f"{rows}, but for {share:.3g} of them drawn for validation"


def _training_data(
    config: TrainingConfig, data: TrainingData, trained: Sequence[LabelledFrame]
) -> dict[str, Any]:
    train, validation = data.train, data.validation
    formulas = {frame.atoms.get_chemical_formula(mode="hill") for frame in trained}
    elements = {int(number) for frame in trained for number in frame.atoms.numbers}
    content: dict[str, Any] = {
        "source": train.source,
        "units in the source": train.units,
        "training frames": len(train.frames),
        "training rows": _training_rows(config),
        "validation frames": len(validation.frames),
        "compositions": sorted(formulas),
        "elements": symbols_of(elements),
    }
    if isinstance(config.data.reference_energies, str):
        content["reference energies by"] = config.data.reference_energies
    if config.data.isolated_atoms_are_exact:
        content["isolated atoms"] = "exact"
    return content
