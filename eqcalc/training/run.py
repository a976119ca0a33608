"""One training run, from its configuration to the best checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

from eqcalc.errors import DataWarning, OutputError
from eqcalc.evaluation.plots import parity_plot
from eqcalc.files import write_whole
from eqcalc.training.checkpoints import read_checkpoint
from eqcalc.training.config import TrainingConfig
from eqcalc.training.data import about_data, data_checksums
from eqcalc.training.early_stop import early_stop
from eqcalc.training.fine_tuning import LOSS_BEFORE
from eqcalc.training.job import Job, build_job
from eqcalc.training.kernels import build_kernels, can_use_kernels
from eqcalc.training.log_file import TrainingLog
from eqcalc.training.pictures import compare_with_labels, learning_curve, require_pictures
from eqcalc.training.processes import training_team
from eqcalc.training.reports import MetricsFile, Progress, Report
from eqcalc.training.resuming import (
    check_folder,
    is_done,
    refuse_another_network,
    refuse_another_parent,
    refuse_another_run,
    refuse_lost_best,
)
from eqcalc.training.trainer import fit
from eqcalc.training.training_folder import TrainingFolder
from eqcalc.versions import package_versions

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
    averaged weights), ``last.ckpt`` (to resume from), ``train.log`` and, at the end, pictures of
    learning curve and errors. A resumed run gives what an uninterrupted one would have given;
    where all epochs are done, nothing happens.

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
    OutputExistsError : the folder holds a run, or files of its names, and neither resume nor
        overwrite; or another training is running there.
    ConfigError : resume where there is no checkpoint, with overwrite, or with a
        configuration that does not continue the folder's run; rows that are both
        trained on and validated on; options of which no network can be built.
    DataError : a frame lacks a label that the loss needs, or the frames are nothing that
        could be learned from; see :func:`eqcalc.training.data.refuse_unfit_data`.
    GraphError : a frame has NaN positions or coincident atoms.
    ModelFileError : the checkpoint to resume from is damaged, the best one so far is damaged or
        gone, or the model to start from is damaged.
    UnsupportedElementError : the model to start from does not know an element.
    DeviceError : this machine does not have the devices.
    ProcessError : one of several processes ended before the training did.
    NonFiniteError : the training diverged.
    OutputError : the folder takes no more, as on a full disk.
    OutputLostError : the folder, or a checkpoint in it, was removed meanwhile.
    KeyboardInterrupt : Ctrl-C; the last finished epoch can be resumed from.
    """
    run = TrainingFolder(folder)
    check_folder(run, config, resume, overwrite)
    if resume:
        refuse_another_run(run, config)
        refuse_another_parent(run, config, trust)
        if is_done(run, config, progress):
            run.require_checkpoints()
            if config.folder.resolve() != run.relative_to():
                run.refuse_changed_data(data_checksums(config))
                run.found_at(config.folder)
            return run.best_checkpoint
        refuse_lost_best(run)
        run.refuse_changed_data(data_checksums(config))
    require_pictures()
    config.training.device_of(0)
    job = build_job(config, run, from_folder=resume, trust=trust)
    if resume:
        refuse_another_network(run, job)
    for note in job.notes:  # those of reading were said while reading
        warnings.warn(note, DataWarning, stacklevel=2)
    parent = run.read_parent() if config.is_fine_tuning and resume else job.start.parent
    read = [] if job.replay is None else job.replay.notes
    about = about_data(job.data, [*read, *job.notes], data_checksums(config))
    with run.held():
        run.prepare(config, resume, about, parent=parent, start_model=job.start.model)
        log = TrainingLog(run.log)
        with log.until_its_end():
            log.say(f"{'resumed' if resume else 'started'}: {_about_job(job)}")
            for note in about["notes"]:
                log.say(f"note: {note}")
            _train(job, run, _both(log.show, progress), parent, resume=resume)
    return run.best_checkpoint


def _train(
    job: Job,
    run: TrainingFolder,
    progress: Progress,
    parent: Optional[Mapping[str, Any]],
    *,
    resume: bool,
) -> None:
    """Train, and leave checkpoints, metrics and pictures in the folder."""
    options = job.config.training
    n_epochs = options.max_epochs
    for line in _about_start(job):
        progress(Report(0, n_epochs, 0, 0, {}, "start", message=line))
    metrics = MetricsFile(run.metrics, progress)
    early = early_stop(options)
    with training_team(job.config, run.path, resume=resume) as team:
        job.module.team = team
        fit(
            job.module,
            job.training_batches(team),
            job.validation_batches(),
            run,
            [*early, metrics],
            resume=resume,
        )
    run.require_checkpoints()
    n_done = int(metrics.rows[-1]["epoch"]) + 1

    def say(line: str) -> None:
        if line:
            progress(Report(n_done, n_epochs, 0, 0, metrics.metrics, "end", message=line))

    for each in early:
        say(each.message)
    say(_about_gain(metrics, parent))
    say(_try_to_draw(job, run, metrics))


def _about_start(job: Job) -> Iterator[str]:
    """Yield what there is to say before the first step, and build the kernels that it uses."""
    yield from job.start.said
    options = job.config.training
    if options.kernels and can_use_kernels(job.module.potential, options.device_of(0)):
        yield from build_kernels()


def _try_to_draw(job: Job, run: TrainingFolder, metrics: MetricsFile) -> str:
    """Draw; return what to say where that failed, as the training itself has not."""
    try:
        _draw(job, run, metrics)
    except OutputError:  # what the folder does not take is missing in it
        raise
    except Exception as error:  # fonts, a backend: whatever matplotlib meets here
        return (
            f"the pictures could not be drawn ({type(error).__name__}: {error}); the checkpoints "
            "are whole"
        )
    return ""


def _draw(job: Job, run: TrainingFolder, metrics: MetricsFile) -> None:
    """Draw how the training went, and what its best checkpoint makes of the validation frames."""
    name, stage = job.config.name, job.config.training.stage_two
    started = None if stage is None else stage.start_epoch
    write_whole(run.learning_curve, learning_curve(metrics.rows, name, started))
    content, potential = read_checkpoint(run.best_checkpoint), job.start.potential.eval()
    weights = {k.removeprefix("potential."): v for k, v in content["state_dict"].items()}
    potential.load_state_dict(weights)
    compared = compare_with_labels(
        potential.cpu(),
        list(job.validation_batches()[0]),
        with_stress=job.config.training.needs_stress,
    )
    title = f"{name}, epoch {int(content['epoch']) + 1}, validation"
    write_whole(run.parity, parity_plot(compared, title))


def _both(log: Progress, progress: Optional[Progress]) -> Progress:
    def show(report: Report) -> None:
        log(report)
        if progress is not None:
            progress(report)

    return show


def _about_job(job: Job) -> str:
    n_parameters = sum(p.numel() for p in job.module.parameters() if p.requires_grad)
    frames = ", ".join(f"{len(found)} {role}" for role, found in job.data.by_role().items())
    versions = ", ".join(f"{k} {v}" for k, v in package_versions("lightning").items())
    return (
        f"{job.config.name}, {job.start.architecture['name']} with {n_parameters} parameters, on "
        f"frames: {frames}; {versions}"
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
