"""Whether a run can be begun in a folder, or go on there, and what is refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Optional

from eqcalc.errors import ConfigError, ModelFileError, OutputExistsError, UnknownModelError
from eqcalc.training.checkpoints import damage, read_checkpoint, shown_network, whole_epoch
from eqcalc.training.config import TrainingConfig
from eqcalc.training.early_stop import stopped_early
from eqcalc.training.job import Job
from eqcalc.training.parent import open_parent
from eqcalc.training.reports import Progress, Report
from eqcalc.training.training_folder import TrainingFolder

__all__ = [
    "check_folder",
    "is_done",
    "refuse_another_network",
    "refuse_another_parent",
    "refuse_another_run",
    "refuse_lost_best",
]


def check_folder(
    run: TrainingFolder, config: TrainingConfig, resume: bool, overwrite: bool
) -> None:
    """Refuse to begin a run where one or files of its names are, and to go on where none is.

    Raises
    ------
    ConfigError : resume where there is no checkpoint, or with overwrite.
    OutputExistsError : the folder holds a run, and neither resume nor overwrite; or files of a
        run's names, and not overwrite.
    """
    if resume and overwrite:
        raise ConfigError(
            "resume=True continues a run and overwrite=True replaces it; give one of them, "
            "not both."
        )
    if resume and not run.last_checkpoint.exists():
        ended = (
            " The run ended before its first epoch was done; overwrite=True begins it anew."
            if run.exists()
            else ""
        )
        raise ConfigError(
            f"there is nothing to resume: '{run.last_checkpoint}' does not exist.{ended}"
        )
    if run.exists() and not (resume or overwrite):
        raise OutputExistsError(
            f"'{run.path}' already holds a training run; pass resume=True to continue it, "
            "overwrite=True to replace it, or another output."
        )
    if not resume:
        run.refuse_files_of_others(config, overwrite)


def refuse_another_run(run: TrainingFolder, config: TrainingConfig) -> None:
    """Refuse a configuration that does not continue the folder's run.

    Raises
    ------
    ConfigError : it differs in what must stay.
    """
    begun = run.read_config()
    names = ["architecture", "data", "dtype", "replay", "seed"]
    changed = [name for name in names if getattr(begun, name) != getattr(config, name)]
    # The optimiser goes on with what it began with; another value would be recorded, not used.
    # Only the number of epochs may grow, unless the schedule was planned for it.
    free = {"compile", "accelerator", "devices", "kernels"}
    if config.training.schedule != "cosine":
        free.add("max_epochs")
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


def refuse_another_parent(run: TrainingFolder, config: TrainingConfig, trust: bool) -> None:
    """Refuse a parent of that name which is another one now; it may be gone.

    Raises
    ------
    ConfigError : it is.
    """
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


def refuse_another_network(run: TrainingFolder, job: Job) -> None:
    """Refuse a checkpoint whose weights are not those of this run's network.

    Raises
    ------
    ModelFileError : its last one is such.
    """
    content, _ = _read_last(run)
    built = job.module.state_dict()
    found = content.get("state_dict", {})
    if {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in built.items()}:
        return
    theirs = shown_network(content.get("architecture", {}))
    own = shown_network(job.start.architecture)
    raise ModelFileError(
        f"'{run.last_checkpoint}' is of another network: {theirs}; this run's is {own}. Put back "
        "the run's own checkpoint, or start the run again with overwrite=True."
    )


def refuse_lost_best(run: TrainingFolder) -> None:
    """Refuse to go on without the best weights so far, which only the end would miss.

    Raises
    ------
    ModelFileError : that checkpoint is gone or damaged.
    """
    best = run.best_checkpoint
    reason = damage(best) if best.exists() else "it is gone"
    if reason is not None:
        raise ModelFileError(
            f"'{best}' cannot be read, and the best weights so far were there: {reason}. Copy "
            f"'{run.last_checkpoint}' over it to go on: the last epoch counts as the best then, "
            "until one has a lower validation loss than that which is lost."
        )


def is_done(run: TrainingFolder, config: TrainingConfig, progress: Optional[Progress]) -> bool:
    """Tell whether nothing is left to train, and say so of a run that had stopped early.

    Raises
    ------
    ConfigError : more epochs are done than are wanted.
    ModelFileError : the last checkpoint is damaged.
    """
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
            f"{other}start the run again with overwrite=True."
        ) from error
