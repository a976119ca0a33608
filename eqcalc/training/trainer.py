"""Lightning's trainer, set up for a run, and what it does to its surroundings undone."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from eqcalc.data.batches import LabelledGraph
from eqcalc.errors import EqcalcError, OutputError, OutputLostError
from eqcalc.host_memory import HeapLimit
from eqcalc.training.averaging import warming_average
from eqcalc.training.checkpoints import whole_epoch
from eqcalc.training.loaders import FilledBatches
from eqcalc.training.module import PotentialModule
from eqcalc.training.training_folder import EVENTS, TrainingFolder

__all__ = ["fit"]

# Warnings of Lightning that mean nothing here: the folder is meant to hold the run, the graphs
# are ready in memory, the third is between Lightning and torch, and errors are added up over
# processes before they are logged.
_EXPECTED_WARNINGS = (
    "Checkpoint directory .* exists and is not empty",
    r"The '\w+_dataloader' does not have many workers",
    r".*isinstance\(treespec, LeafSpec\)",
    r"It is recommended to use `self\.log\(.*sync_dist=True",
)


def fit(
    module: PotentialModule,
    train: DataLoader[LabelledGraph],
    validation: Sequence[DataLoader[LabelledGraph]],
    run: TrainingFolder,
    callbacks: Sequence[Callback],
    *,
    resume: bool,
) -> None:
    """Train a module, from the folder's last checkpoint where resuming.

    Parameters
    ----------
    validation : batches of new frames, and of old ones where some are replayed

    Raises
    ------
    KeyboardInterrupt : Ctrl-C; the last finished epoch can be resumed from.
    OutputError : the folder takes no more, as on a full disk.
    OutputLostError : the folder was removed.
    """
    if resume:
        # Lightning draws the first batch before it sets the epoch that the order depends on.
        batches = cast("FilledBatches", train.batch_sampler)
        cast("Any", batches.sampler).set_epoch(whole_epoch(run.last_checkpoint))
    on_interrupt = signal.getsignal(signal.SIGINT)
    # Lightning enables gradients and leaves them so.
    with warnings.catch_warnings(), torch.enable_grad(), _quiet_event_writer():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        trainer = _trainer(module, run, callbacks)
        try:
            trainer.fit(
                module,
                train,
                validation,
                ckpt_path=str(run.last_checkpoint) if resume else None,
                weights_only=True,
            )
        except SystemExit as stop:
            if not trainer.interrupted:
                raise
            # Lightning ignores Ctrl-C from here on, and ends the process.
            signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt from stop
        except (EqcalcError, BrokenPipeError):  # the latter of a display that nobody reads
            raise
        except OSError as error:
            if isinstance(error, FileNotFoundError) or not run.path.is_dir():
                raise OutputLostError(
                    f"'{run.path}' was removed during the training; train again, in a folder that "
                    "stays."
                ) from error
            raise OutputError(
                f"cannot write to '{run.path}': {error.strerror or error}; checkpoints of finished "
                "epochs are whole. Free some space and go on with resume=True."
            ) from error


@contextmanager
def _quiet_event_writer() -> Iterator[None]:
    """Keep quiet a thread of TensorBoard that cannot write: the checkpoints cannot either."""
    show = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        is_event_writer = type(arguments.thread).__module__.startswith("tensorboard.")
        if not (is_event_writer and isinstance(arguments.exc_value, OSError)):
            show(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = show


class _LimitedHeap(Callback):
    """Give back, between two batches, what batches of other sizes have left in the heap."""

    def __init__(self) -> None:
        self._limit = HeapLimit()

    def on_fit_start(self, *_: object) -> None:
        self._limit.begin()

    def on_train_batch_end(self, *_: object) -> None:
        self._limit.end_step()

    def on_validation_batch_end(self, *_: object) -> None:
        self._limit.end_step()


def _trainer(
    module: PotentialModule, run: TrainingFolder, callbacks: Sequence[Callback]
) -> pl.Trainer:
    device = module.options.device_of(module.team.rank)
    # Told where, since it looks at the network before that is moved there.
    averaging = WeightAveraging(
        device, use_buffers=False, multi_avg_fn=warming_average(module.options.ema_decay)
    )
    leads = module.team.leads
    return pl.Trainer(
        accelerator=device.type,
        devices=[device.index] if device.type == "cuda" else 1,
        max_epochs=module.options.max_epochs,
        callbacks=[averaging, *(_checkpoints(run) if leads else []), _LimitedHeap(), *callbacks],
        logger=TensorBoardLogger(run.path, name="", version=EVENTS) if leads else False,
        enable_checkpointing=leads,
        log_every_n_steps=1,  # nothing is logged within an epoch
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,  # validation needs forces, hence autograd
        num_sanity_val_steps=0,
    )


class _MovableCheckpoint(ModelCheckpoint):
    """Lightning's, which forgets the best score where the folder of the run was moved."""

    @property
    def state_key(self) -> str:
        # By its own name the class would not find what it, or an older version, has left.
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        scores = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        paths = {name: self._here(state_dict[name]) for name in names}
        super().load_state_dict(
            {**state_dict, **paths, "best_k_models": scores, "dirpath": self.dirpath}
        )

    def _here(self, path: str) -> str:
        """Return the file of that name in the present folder; an empty path names none."""
        return str(Path(str(self.dirpath)) / Path(path).name) if path else path


def _checkpoints(run: TrainingFolder) -> list[Callback]:
    # Two of them: with save_last, an epoch that is no better would leave the last one as it was.
    best = _MovableCheckpoint(
        run.path, filename="best", monitor="validation_loss", enable_version_counter=False
    )
    return [best, _MovableCheckpoint(run.path, filename="last", enable_version_counter=False)]
