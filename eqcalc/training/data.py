"""The frames that a training file names, and what is refused of them before a run."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

from eqcalc.data import Dataset, parse_rows, random_split, read_dataset
from eqcalc.errors import ConfigError, DataError, listing
from eqcalc.training.config import TrainingConfig

__all__ = ["TrainingData", "label_options", "read_training_data", "refuse_unfit_data", "rows_of"]


class TrainingData(NamedTuple):
    """Training and validation frames of a configuration."""

    train: Dataset
    validation: Dataset


def read_training_data(config: TrainingConfig) -> TrainingData:
    """Read the frames of a configuration.

    Raises
    ------
    DataError : a file, key, unit or row is not what was expected.
    """
    options = config.data
    labels = label_options(config)
    path = config.resolve(options.path)
    if options.validation_fraction is not None:
        rows = rows_of(config, options.train_rows)
        whole = read_dataset(path, rows=rows, group_key=options.group_key, **labels)
        groups = [frame.group for frame in whole.frames]
        train, aside = random_split(groups, options.validation_fraction, config.seed)
        return TrainingData(whole.subset(train), whole.subset(aside))
    validation = config.resolve(options.validation_path) if options.validation_path else path
    return TrainingData(
        read_dataset(path, rows=rows_of(config, options.train_rows), **labels),
        read_dataset(validation, rows=rows_of(config, options.validation_rows), **labels),
    )


def label_options(config: TrainingConfig) -> dict[str, Any]:
    """Return the keys and units of a configuration as ``read_dataset`` takes them."""
    names = (
        "energy_key",
        "forces_key",
        "stress_key",
        "positions_key",
        "numbers_key",
        "energy_unit",
        "length_unit",
    )
    return {name: getattr(config.data, name) for name in names}


def rows_of(config: TrainingConfig, rows: Optional[str]) -> Optional[str]:
    """Return rows as ``read_dataset`` takes them: a csv is relative to the file."""
    if rows is not None and rows.endswith(".csv"):
        return str(config.resolve(rows))
    return rows


def refuse_unfit_data(config: TrainingConfig, data: TrainingData) -> None:
    """Check that the frames can be trained and validated on.

    Raises
    ------
    ConfigError : a row is both trained on and validated on, or judged by the test.
    DataError : a frame lacks a label that the loss needs.
    """
    _refuse_shared_rows(config, data)
    _refuse_test_rows(config, data)
    _refuse_missing_labels(config, data)


def _refuse_shared_rows(config: TrainingConfig, data: TrainingData) -> None:
    options = config.data
    path = config.resolve(options.path)
    other = config.resolve(options.validation_path or options.path)
    if path.resolve() != other.resolve():
        return
    shared = sorted(set(data.train.rows) & set(data.validation.rows))
    if shared:
        raise ConfigError(
            f"training and validation rows of {path.name} must not overlap, found in both: "
            f"{listing(shared)}; change train_rows or validation_rows."
        )


def _refuse_test_rows(config: TrainingConfig, data: TrainingData) -> None:
    """Refuse test rows that were trained or validated on: an error on them means nothing."""
    options = config.data
    if options.test_path is None and options.test_rows is None:
        return
    test = config.resolve(options.test_path or options.path).resolve()
    seen: set[int] = set()
    for path, dataset in (
        (options.path, data.train),
        (options.validation_path or options.path, data.validation),
    ):
        if config.resolve(path).resolve() == test:
            seen |= set(dataset.rows)
    if not seen:
        return
    n_rows = max(data.train.n_rows, data.validation.n_rows)
    shared = sorted(seen & set(parse_rows(rows_of(config, options.test_rows), n_rows)))
    if shared:
        raise ConfigError(
            f"test rows of {test.name} must not be trained or validated on, found {len(shared)} "
            f"that are: {listing(shared)}; change test_rows, or set them apart by train_rows."
        )


def _refuse_missing_labels(config: TrainingConfig, data: TrainingData) -> None:
    needed = ["forces"] + ["stress"] * (config.training.stress_weight > 0)
    for dataset in data:
        for name in needed:
            missing = [k for k, f in enumerate(dataset.frames) if getattr(f, name) is None]
            if missing:
                raise DataError(
                    f"every frame needs {name}, found none in frames {listing(missing)} of "
                    f"{dataset.source}."
                    + (" Or set stress_weight = 0." if name == "stress" else "")
                )
