"""The other processes of a training: begun, watched and ended by the first."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from eqcalc.errors import EqcalcError, ProcessError
from eqcalc.training.config import TrainingConfig
from eqcalc.training.team import ALONE, LostContact, Team

__all__ = ["training_team"]

_READY = "ready"
_LONGEST_WAIT = timedelta(minutes=30)  # for another process, as while it compiles
_PATIENCE_S = 10.0


@contextmanager
def training_team(config: TrainingConfig, folder: Path, *, resume: bool) -> Iterator[Team]:
    """Start the other processes of a training; end them with what is done inside.

    Raises
    ------
    ProcessError : one of them ended before the training did.
    Exception : what another process raised, where it was the first.
    """
    size = config.training.devices
    if size == 1:
        yield ALONE
        return
    n_threads = torch.get_num_threads()
    each = max(1, n_threads // size)
    with tempfile.TemporaryDirectory(prefix="eqcalc-") as meeting:
        others = [
            _Other(Team(rank, size), config, folder, meeting, each, resume)
            for rank in range(1, size)
        ]
        try:
            for other in others:
                other.wait_until_ready()
            torch.set_num_threads(each)
            with _group(Team(0, size), meeting):
                yield Team(0, size)
            for other in others:
                other.process.join(_PATIENCE_S)
        except LostContact as error:
            for other in others:
                other.raise_its_error(error)
            raise ProcessError(f"the processes of the training lost contact: {error}") from error
        finally:
            torch.set_num_threads(n_threads)
            for other in others:
                other.end()


class _Other:
    """Another process, as the first one sees it."""

    def __init__(self, team: Team, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
        self._team = team
        self._messages, theirs = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_work, args=(theirs, team, *arguments), daemon=True, name=f"eqcalc-{team.rank}"
        )
        self.process.start()
        theirs.close()

    def wait_until_ready(self) -> None:
        """Wait until its data are read, and raise what it raised meanwhile."""
        wait([self._messages, self.process.sentinel])
        message = self._message()
        if message != _READY:
            self._raise(message)

    def raise_its_error(self, seen: LostContact) -> None:
        """Raise what ended the process, if something did."""
        self.process.join(_PATIENCE_S)
        message = self._message()
        if message is not None or self.process.exitcode not in (0, None):
            self._raise(message, seen)

    def end(self) -> None:
        """End the process where it still runs."""
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(_PATIENCE_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._messages.close()

    def _message(self) -> Any:
        try:
            return self._messages.recv() if self._messages.poll() else None
        except EOFError:
            return None

    def _raise(self, message: Any, seen: Exception | None = None) -> None:
        if isinstance(message, EqcalcError):
            raise message from seen
        self.process.join(_PATIENCE_S)
        code = self.process.exitcode
        by = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        reason = f": {message}" if message else ""
        raise ProcessError(
            f"process {self._team.rank + 1} of {self._team.size} ended ({by}) before the training "
            f"did{reason}. What finished epochs left is whole: go on with resume=True."
        ) from seen


@contextmanager
def _group(team: Team, meeting: str) -> Iterator[None]:
    """Let the processes find each other by a file, and part again."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend,
        init_method=f"file://{meeting}/meeting",
        rank=team.rank,
        world_size=team.size,
        timeout=_LONGEST_WAIT,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def _work(
    messages: Connection,
    team: Team,
    config: TrainingConfig,
    folder: Path,
    meeting: str,
    n_threads: int,
    resume: bool,
) -> None:
    """Train along, in a process of its own, without a word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    try:
        warnings.simplefilter("ignore")  # the first process says it all
        logging.disable(logging.CRITICAL)
        torch.set_num_threads(n_threads)
        _train_along(messages, team, replace(config), folder, meeting, resume)
    except EqcalcError as error:
        messages.send(error)
    except LostContact:
        pass  # another process says why
    except Exception:  # the first process raises it again
        messages.send(traceback.format_exc().strip().rpartition("\n")[2])
        os._exit(1)  # what waits for other processes in its destructors would wait long


def _train_along(
    messages: Connection,
    team: Team,
    config: TrainingConfig,
    folder: Path,
    meeting: str,
    resume: bool,
) -> None:
    from eqcalc.training.early_stop import early_stop
    from eqcalc.training.job import build_job
    from eqcalc.training.trainer import fit
    from eqcalc.training.training_folder import TrainingFolder

    run = TrainingFolder(folder)
    job = build_job(config, run, from_folder=True)
    job.module.team = team
    messages.send(_READY)
    with _group(team, meeting):
        fit(
            job.module,
            job.training_batches(team),
            job.validation_batches(),
            run,
            early_stop(config.training),
            resume=resume,
        )
