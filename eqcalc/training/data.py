"""The frames that a training file names, and what is refused of them before a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

from ase.data import chemical_symbols

from eqcalc.data import Dataset, LabelledFrame, random_split, read_dataset
from eqcalc.data.data_files import find_files
from eqcalc.data.duplicates import shared_structures
from eqcalc.data.plausibility import energy_findings
from eqcalc.data.rows import is_row_file
from eqcalc.data.unseen import notes_on_electrons
from eqcalc.errors import ConfigError, DataError, listing
from eqcalc.training.config import TrainingConfig

__all__ = [
    "TrainingData",
    "about_data",
    "data_checksums",
    "named",
    "read_training_data",
    "refuse_missing_labels",
    "refuse_unfit_data",
    "rows_of",
]


class TrainingData(NamedTuple):
    """Training and validation frames of a configuration, and test frames where it names some."""

    train: Dataset
    validation: Dataset
    test: Optional[Dataset] = None

    @property
    def notes(self) -> list[str]:
        """What was left out, decided or found odd while reading, each once."""
        there = self.by_role().values()
        return list(dict.fromkeys(note for dataset in there for note in dataset.notes))

    def by_role(self) -> dict[str, Dataset]:
        """Return the data sets that there are, by what messages call them."""
        roles = {"training": self.train, "validation": self.validation, "test": self.test}
        return {role: dataset for role, dataset in roles.items() if dataset is not None}


def read_training_data(config: TrainingConfig) -> TrainingData:
    """Read the frames of a configuration.

    Raises
    ------
    DataError : a file, key, unit or row is not what was expected.
    """
    options = config.data
    test = None
    if options.test_path is not None or options.test_rows is not None:
        # Another file need not say its groups.
        grouped = {"group_key": options.group_key} if options.test_path is None else {}
        test = _read(config, options.test_path or options.path, options.test_rows, **grouped)
    if options.validation_fraction is not None:
        whole = _read(config, options.path, options.train_rows, group_key=options.group_key)
        groups = [frame.group for frame in whole.frames]
        train, aside = random_split(groups, options.validation_fraction, config.seed)
        return TrainingData(whole.subset(train), whole.subset(aside), test)
    return TrainingData(
        _read(config, options.path, options.train_rows),
        _read(config, options.validation_path or options.path, options.validation_rows),
        test,
    )


def _read(
    config: TrainingConfig,
    path: Union[str, tuple[str, ...]],
    rows: Optional[str],
    **options: Any,
) -> Dataset:
    files = config.resolve_data(path)
    labels = config.data.label_options()
    return read_dataset(files, rows=rows_of(config, rows), **labels, **options)


def rows_of(config: TrainingConfig, rows: Optional[str]) -> Optional[str]:
    """Return rows as ``read_dataset`` takes them: a file of rows is relative to the file."""
    return str(config.resolve(rows)) if rows is not None and is_row_file(rows) else rows


def refuse_unfit_data(config: TrainingConfig, data: TrainingData) -> list[str]:
    """Check that the frames can be trained, validated and judged on; return what is odd.

    Raises
    ------
    ConfigError : a row is both trained on and validated on, or judged by the test.
    DataError : a frame lacks a label that the loss needs, an element is not trained on, a frame
        of validation or test is trained on, or an energy is far from all others.
    """
    _refuse_shared_rows(data)
    refuse_missing_labels(config, (data.train, data.validation))
    _refuse_new_elements(data)
    every = [frame for dataset in data.by_role().values() for frame in dataset.frames]
    apart = [note for note in notes_on_electrons(every) if note not in data.notes]
    apart += _notes_on_shared_groups(data)
    return _refuse_shared_structures(config, data) + _refuse_outliers(config, data) + apart


def _notes_on_shared_groups(data: TrainingData) -> list[str]:
    """Say where the test judges frames of a group that is trained on or chosen by."""
    if data.test is None:
        return []
    used = {f.group for each in (data.train, data.validation) for f in each.frames}
    shared = [f for f in data.test.frames if f.group is not None and f.group in used]
    if not shared:
        return []
    groups = listing(sorted({str(frame.group) for frame in shared}))
    return [
        f"{len(shared)} of {len(data.test)} test frames belong to groups that are trained on "
        f"({groups}): the errors of the test are smaller than those of a new group."
    ]


def about_data(
    data: TrainingData, odd: Sequence[str], checksums: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Return what a run's manifest says of its data.

    Parameters
    ----------
    odd : notes beside those of reading
    checksums : those of :func:`data_checksums`
    """
    content: dict[str, Any] = {
        role: {"source": found.source, "frames": len(found), "units": found.units}
        for role, found in data.by_role().items()
    }
    return {**content, **checksums, "notes": [*data.notes, *odd]}


def data_checksums(config: TrainingConfig) -> dict[str, dict[str, str]]:
    """Return the sha256, by its path, of every file that says what is trained on.

    Returns
    -------
    "sha256" : of the files of frames
    "sha256 of rows" : of the files that list their rows

    Raises
    ------
    DataError : a file is not there.
    """
    options, replay = config.data, config.replay
    named = [options.path, options.validation_path, options.test_path]
    rows = [options.train_rows, options.validation_rows, options.test_rows]
    if replay is not None:
        named.append(replay.path)
        rows.append(replay.rows)
    files = [
        file for one in named if one is not None for file in find_files(config.resolve_data(one))
    ]
    lists = [config.resolve(one) for one in rows if one is not None and is_row_file(one)]
    return {"sha256": _sha256(files), "sha256 of rows": _sha256(lists)}


def _sha256(paths: Sequence[Path]) -> dict[str, str]:
    return {str(path.resolve()): _digest(path) for path in dict.fromkeys(paths)}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror or error}.") from error
    return digest.hexdigest()


def _refuse_shared_rows(data: TrainingData) -> None:
    """Refuse frames of one file with two roles: an error on them means nothing."""
    trained, validated = _origins(data.train), _origins(data.validation)
    shared = sorted(trained & validated)
    if shared:
        raise ConfigError(
            f"training and validation rows of {_files(shared)} must not overlap, found in both: "
            f"{listing([row for _, row in shared])}; change train_rows or validation_rows."
        )
    seen = sorted((trained | validated) & _origins(data.test))
    if seen:
        raise ConfigError(
            f"test rows of {_files(seen)} must not be trained or validated on, found {len(seen)} "
            f"that are: {listing([row for _, row in seen])}; change test_rows, or set them apart "
            "by train_rows."
        )


def _origins(dataset: Optional[Dataset]) -> set[tuple[str, int]]:
    frames = [] if dataset is None else dataset.frames
    origins = [frame.origin for frame in frames if frame.origin is not None]
    return {(str(origin.path.resolve()), origin.row) for origin in origins}


def _files(origins: Sequence[tuple[str, int]]) -> str:
    return listing(sorted({path.rpartition("/")[2] for path, _ in origins}))


def refuse_missing_labels(config: TrainingConfig, datasets: Sequence[Dataset]) -> None:
    """Check that every frame has the labels that the loss needs.

    Raises
    ------
    DataError : one has not.
    """
    for dataset in datasets:
        missing = [frame for frame in dataset.frames if frame.forces is None]
        if missing:
            raise DataError(f"every frame needs forces, found none in {named(missing, dataset)}.")
        if not config.training.needs_stress:
            continue
        if not any(frame.atoms.pbc.all() for frame in dataset.frames):
            raise DataError(
                f"stress_weight > 0 needs frames that are periodic in all three directions to "
                f"train on and to judge by: none of {named(dataset.frames, dataset)} is. Choose "
                "other frames, or set stress_weight = 0."
            )
        # A periodic frame without stress is refused by the reader where any other has one.
        if all(frame.stress is None for frame in dataset.frames):
            looks_like = [note for note in dataset.notes if "may hold stress" in note]
            raise DataError(
                f"every periodic frame needs stress where stress_weight > 0, found none in "
                f"{named(dataset.frames, dataset)}. Give stress_key or virial_key, or "
                f"set stress_weight = 0.{''.join(' ' + note for note in looks_like)}"
            )
        bare = [f for f in dataset.frames if f.stress is None and f.atoms.pbc.all()]
        if bare:
            raise DataError(
                f"every periodic frame needs stress where stress_weight > 0, found none in "
                f"{named(bare, dataset)}. Or set stress_weight = 0."
            )


def _refuse_new_elements(data: TrainingData) -> None:
    known = set(data.train.elements)
    for name, dataset in (("validation", data.validation), ("test", data.test)):
        if dataset is None:
            continue
        new = sorted(set(dataset.elements) - known)
        if new:
            frames = [f for f in dataset.frames if set(f.atoms.numbers.tolist()) & set(new)]
            raise DataError(
                f"{listing([chemical_symbols[z] for z in new])} in the {name} frames "
                f"({named(frames, dataset)}) but in no training frame: nothing is "
                "learned about it. Train on some of these frames, or leave them out."
            )


def _refuse_shared_structures(config: TrainingConfig, data: TrainingData) -> list[str]:
    """Compare structures, not names: copies of a file, and frames that stand in it twice."""
    refused: list[str] = []
    odd: list[str] = []
    for name, dataset in (("validation", data.validation), ("test", data.test)):
        if dataset is None:
            continue
        trained = shared_structures(dataset.frames, data.train.frames)
        if trained:
            refused.append(
                f"{_shared(trained, dataset, name)} trained on too; an error on them says little "
                "about others"
            )
    if data.test is not None:
        validated = shared_structures(data.test.frames, data.validation.frames)
        if validated:
            nothing_else = len(validated) == len(data.test)
            (refused if nothing_else else odd).append(
                f"{_shared(validated, data.test, 'test')} validated on too; by their errors the "
                "weights are chosen that the test judges"
            )
    if refused and not config.data.trust_data:
        raise DataError(
            f"{'; '.join(refused)}. Leave them out or choose other frames, or say "
            "trust_data = true in [data] to take them as they are."
        )
    return [f"{sentence}." for sentence in (*refused, *odd)]


def _shared(frames: Sequence[LabelledFrame], dataset: Dataset, role: str) -> str:
    one = len(frames) == 1
    return (
        f"{len(frames)} of {len(dataset)} {role} frames ({named(frames, dataset)}) "
        f"{'is a structure that is' if one else 'are structures that are'}"
    )


def _refuse_outliers(config: TrainingConfig, data: TrainingData) -> list[str]:
    """Compare the energies of all frames: a role of few frames tells nothing by itself."""
    frames = [f for dataset in data if dataset is not None for f in dataset.frames]
    found = energy_findings(frames)
    if found.refused and not config.data.trust_data:
        raise DataError(
            "; ".join(found.refused) + ". Mend or leave out the frames, or say trust_data = true "
            "in [data] to take them as they are."
        )
    return [f"{sentence}." for sentence in (*found.refused, *found.odd)]


def named(frames: Sequence[LabelledFrame], dataset: Dataset) -> str:
    """Return what messages call some frames of a data set: their numbers in their files."""
    rows: dict[str, list[object]] = {}
    for frame in frames:
        name = frame.origin.path.name if frame.origin else dataset.source
        rows.setdefault(name, []).append(frame.origin.row if frame.origin else "?")
    return listing([f"frames {listing(found)} of {name}" for name, found in rows.items()])
