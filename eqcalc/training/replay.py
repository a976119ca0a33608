"""Old frames that a fine-tuning is reminded of, so that it forgets less of what it knew.

Their energies are at the level of the model that the training starts from. Where its reference
energies change, an old energy changes by as much: E + Σ_z n_z c_z. What the network itself has
to say of an old frame stays what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Optional

from eqcalc.data import Dataset, LabelledFrame, random_split, read_dataset
from eqcalc.data.duplicates import shared_structures
from eqcalc.errors import DataError
from eqcalc.training.config import TrainingConfig
from eqcalc.training.data import TrainingData, named, refuse_missing_labels, rows_of

__all__ = ["Replay", "read_replay", "refuse_unfit_replay"]


class Replay(NamedTuple):
    """Old frames to train on, and others that show what is forgotten."""

    train: Dataset
    validation: Dataset

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that occur in them, in rising order."""
        return sorted({*self.train.elements, *self.validation.elements})

    @property
    def notes(self) -> list[str]:
        """What was left out, decided or found odd while reading."""
        return list(self.train.notes)

    def shifted(self, correction: Mapping[int, float]) -> Replay:
        """Return the frames with c_z (eV by atomic number) added for every atom."""
        return Replay(*(_shifted(dataset, correction) for dataset in self))

    def about(self, fraction: float) -> dict[str, Any]:
        """Return what a manifest or card says of them."""
        return {
            "replayed frames": f"{len(self.train)} of {self.train.source}",
            "replayed fraction of an epoch": fraction,
        }


def read_replay(config: TrainingConfig) -> Optional[Replay]:
    """Read the old frames of a configuration, if it names some, and draw those set aside.

    Raises
    ------
    DataError : a file, key, unit or row is not what was expected, or there are too few frames.
    """
    options = config.replay
    if options is None:
        return None
    files = config.resolve_data(options.path)
    whole = read_dataset(files, rows=rows_of(config, options.rows), **options.label_options())
    if len(whole) < 2:
        raise DataError(
            f"[replay] needs at least two frames, one to train on and one to judge by, found "
            f"{len(whole)} in {whole.source}."
        )
    alone = [None] * len(whole)
    train, aside = random_split(alone, options.validation_fraction, config.seed)
    return Replay(whole.subset(train), whole.subset(aside))


def refuse_unfit_replay(config: TrainingConfig, data: TrainingData, replay: Replay) -> list[str]:
    """Check old frames against the new ones; return what is odd.

    Raises
    ------
    DataError : a label is missing, a frame of validation or test is among the old ones, or one
        of those set aside is trained on.
    """
    refuse_missing_labels(config, replay)
    old = replay.train.source
    odd: list[str] = []
    refused: list[str] = []
    for name, dataset in data.by_role().items():
        shared = shared_structures(dataset.frames, replay.train.frames)
        if shared:
            sentence = f"{_shared(shared, dataset, name)} replayed from {old} too"
            (odd if name == "training" else refused).append(sentence)
    for trained, dataset in (("replayed", replay.train), ("trained on", data.train)):
        shared = shared_structures(replay.validation.frames, dataset.frames)
        if shared:
            refused.append(
                f"{_shared(shared, replay.validation, 'set-aside')} {trained} from "
                f"{dataset.source} too; an error on them does not say what is forgotten"
            )
    trust = config.replay is not None and config.replay.trust_data
    if refused and not trust:
        raise DataError(
            f"{'; '.join(refused)}. Choose other rows in [replay], or say trust_data = true in it "
            "to take them as they are."
        )
    return [f"{sentence}." for sentence in (*refused, *odd)]


def _shared(frames: Sequence[LabelledFrame], dataset: Dataset, role: str) -> str:
    return (
        f"{len(frames)} of {len(dataset)} {role} frames ({named(frames, dataset)}) are "
        "structures that are"
    )


def _shifted(dataset: Dataset, correction: Mapping[int, float]) -> Dataset:
    frames = [
        replace(frame, energy=frame.energy + sum(correction[z] for z in frame.atoms.numbers))
        for frame in dataset.frames
    ]
    return replace(dataset, frames=frames)
