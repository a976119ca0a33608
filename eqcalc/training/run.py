"""One training run, from its configuration to the best checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Optional

from eqcalc.errors import (
    ConfigError,
    DataWarning,
    ModelFileError,
    OutputExistsError,
    UnknownModelError,
)
from eqcalc.training.checkpoints import read_checkpoint, whole_epoch
from eqcalc.training.config import TrainingConfig
from eqcalc.training.data import about_data, read_training_data, refuse_unfit_data
from eqcalc.training.early_stop import EarlyStop, stopped_early
from eqcalc.training.fine_tuning import LOSS_BEFORE, build_fine_tuning, resume_fine_tuning
from eqcalc.training.loaders import refuse_large_frames, training_batches, validation_batches
from eqcalc.training.module import PotentialModule
from eqcalc.training.network import build_start
from eqcalc.training.parent import open_parent
from eqcalc.training.replay import read_replay, refuse_unfit_replay
from eqcalc.training.reports import MetricsFile, Progress, Report
from eqcalc.training.trainer import fit
from eqcalc.training.training_folder import TrainingFolder

__all__ = ["train"]


def train(
    config: TrainingConfig,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Optional[Progress] = None,
    trust: bool = False,
) -> Path:
    """Train and return the path of the best checkpoint.

    The folder receives ``metrics.csv``, ``best.ckpt`` (lowest validation loss,
    averaged weights) and ``last.ckpt`` (to resume from). A resumed run gives what an
    uninterrupted one would have given; where all epochs are done, nothing happens.

    Every graph is built once, and the network once, or twice where the training frames
    complete its options (:func:`eqcalc.training.network.build_start`). Random numbers depend
    on the configuration's seed, the epoch and the batch alone; the global generators of
    torch, numpy and Python are left as they were.

    Parameters
    ----------
    progress : called with a :class:`~eqcalc.training.reports.Report` after every batch
    trust : the model that ``start_from`` names may hold any program

    Raises
    ------
    OutputExistsError : the folder holds a run, and neither resume nor overwrite.
    ConfigError : resume where there is no checkpoint, with overwrite, or with a
        configuration that does not continue the folder's run; rows that are both
        trained on and validated on; options of which no network can be built.
    DataError : a frame lacks a label that the loss needs, or the frames are nothing that
        could be learned from; see :func:`eqcalc.training.data.refuse_unfit_data`.
    GraphError : a frame has NaN positions or coincident atoms.
    ModelFileError : the checkpoint to resume from is damaged, or the model to start from.
    UnsupportedElementError : the model to start from does not know an element.
    NonFiniteError : the training diverged.
    OutputError : the folder takes no more, as on a full disk.
    OutputLostError : the folder, or a checkpoint in it, was removed meanwhile.
    KeyboardInterrupt : Ctrl-C; the last finished epoch can be resumed from.
    """
    run = TrainingFolder(folder)
    _check_folder(run, resume, overwrite)
    if resume:
        _refuse_another_run(run, config)
        _refuse_another_parent(run, config, trust)
        if _is_done(run, config, progress):
            return run.best_checkpoint
    data = read_training_data(config)
    replay = read_replay(config)
    odd = refuse_unfit_data(config, data)
    if replay is not None:
        odd += refuse_unfit_replay(config, data, replay)
    if not config.is_fine_tuning:
        start = build_start(config, data)
    elif resume:
        start = resume_fine_tuning(config, data, replay, run.start_model)
    else:
        start = build_fine_tuning(config, data, replay, trust=trust)
    refuse_large_frames(data.train.frames, start.train, config.training)
    if replay is not None:
        refuse_large_frames(replay.train.frames, start.replayed, config.training)
    odd += start.notes
    for note in odd:  # those of reading were said while reading
        warnings.warn(note, DataWarning, stacklevel=2)
    module = PotentialModule(
        start.potential,
        config.training,
        start.architecture,
        config.seed,
        one_size=len({item.graph.n_owned for item in start.validation}) == 1,
    )
    parent = run.read_parent() if config.is_fine_tuning and resume else start.parent
    read = [] if replay is None else replay.notes
    run.prepare(
        config, resume, about_data(data, [*read, *odd]), parent=parent, start_model=start.model
    )
    n_epochs = config.training.max_epochs
    if progress is not None:
        for line in start.said:
            progress(Report(0, n_epochs, 0, 0, {}, "start", message=line))
    metrics = MetricsFile(run.metrics, progress)
    early = [EarlyStop(config.training)] * (config.training.early_stop_patience is not None)
    fit(
        module,
        training_batches(
            start.train,
            config.training,
            config.seed,
            replayed=start.replayed,
            fraction=0.0 if config.replay is None else config.replay.fraction,
        ),
        [
            validation_batches(each, config.training)
            for each in (start.validation, start.replay_validation)
            if each
        ],
        run,
        [*early, metrics],
        resume=resume,
    )
    run.require_checkpoints()
    for line in (*(each.message for each in early), _about_gain(metrics, parent)):
        if line and progress is not None:
            progress(Report(n_epochs, n_epochs, 0, 0, metrics.metrics, "end", message=line))
    return run.best_checkpoint


def _check_folder(run: TrainingFolder, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ConfigError(
            "--resume continues a run and --overwrite replaces it; give one of them, not both."
        )
    if resume and not run.last_checkpoint.exists():
        raise ConfigError(f"there is nothing to resume: '{run.last_checkpoint}' does not exist.")
    if run.exists() and not (resume or overwrite):
        raise OutputExistsError(
            f"'{run.path}' already holds a training run; pass --resume to continue it, "
            "--overwrite to replace it, or another --output."
        )


def _refuse_another_run(run: TrainingFolder, config: TrainingConfig) -> None:
    begun = run.read_config()
    names = ["architecture", "data", "dtype", "replay", "seed"]
    changed = [name for name in names if getattr(begun, name) != getattr(config, name)]
    # The optimiser goes on with what it began with; another value would be recorded, not used.
    # Only the number of epochs may grow, unless the schedule was planned for it.
    free = {"compile"} if config.training.schedule == "cosine" else {"compile", "max_epochs"}
    changed += [
        field.name
        for field in fields(config.training)
        if field.name not in free
        and getattr(begun.training, field.name) != getattr(config.training, field.name)
    ]
    if changed:
        raise ConfigError(
            f"'{run.path}' cannot be resumed with another {', '.join(changed)}: use its own "
            "train.toml, or start a new run in another folder."
        )


def _refuse_another_parent(run: TrainingFolder, config: TrainingConfig, trust: bool) -> None:
    """Refuse a parent of that name which is another one now; it may be gone."""
    if not config.is_fine_tuning:
        return
    try:
        found = open_parent(config, trust=trust)
    except UnknownModelError:
        return
    begun = run.read_parent().get("parent's sha256")
    if found.sha256 != begun:
        raise ConfigError(
            f"'{run.path}' cannot be resumed: '{found.path}', which start_from names, is another "
            f"model now (its sha256 was {str(begun)[:12]}..., now {found.sha256[:12]}...). Put "
            "back what it was, or start a new run in another folder."
        )


def _about_gain(metrics: MetricsFile, parent: Optional[Mapping[str, Any]]) -> str:
    """Return what to say where a fine-tuning made nothing better."""
    before = None if parent is None else parent.get(LOSS_BEFORE)
    losses = [float(row["validation_loss"]) for row in metrics.rows]
    if before is None or not losses or min(losses) < float(before):
        return ""
    return (
        f"no epoch was better on the validation frames than the model that the training started "
        f"from (loss {min(losses):.3g}, before {float(before):.3g}): take that one, or try a lower "
        "learning_rate or more frames"
    )


def _is_done(run: TrainingFolder, config: TrainingConfig, progress: Optional[Progress]) -> bool:
    """Tell whether nothing is left to train, and say so of a run that had stopped early."""
    checkpoint, n_done = _read_last(run)
    n_wanted = config.training.max_epochs
    if n_done > n_wanted:
        raise ConfigError(f"{n_done} epochs are already done; max_epochs is {n_wanted}, raise it.")
    message = stopped_early(checkpoint)
    if message and progress is not None:
        progress(Report(n_done, n_wanted, 0, 0, {}, "end", message=message))
    return bool(message) or n_done == n_wanted


def _read_last(run: TrainingFolder) -> tuple[dict[str, Any], int]:
    """Return the last checkpoint and how many epochs it has behind it."""
    path = run.last_checkpoint
    try:
        # It holds the number of the last one, from 0.
        content = read_checkpoint(path)
        return content, int(content["epoch"]) + 1
    except (ModelFileError, KeyError, TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, ModelFileError) else f"no epoch in it: {error}"
        n_best = whole_epoch(run.best_checkpoint)
        other = ""
        if n_best is not None:
            best = f"'{run.best_checkpoint}', which is whole"
            other = f"copy {best}, over it to go on from epoch {n_best}, or "
        raise ModelFileError(
            f"'{path}' is damaged or no checkpoint, so there is nothing to resume from: {reason}; "
            f"{other}start the run again with --overwrite."
        ) from error
