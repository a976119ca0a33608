"""Use of a device: on a GPU one thread and one stream after the other, and its faults in words.

What a model keeps on a GPU, the buffers of captured graphs for example, is overwritten by its next
call, which may come from another thread or on another stream. CUDA itself knows no order there.
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Optional

import torch

from eqcalc.errors import DeviceError, EqcalcError, NotEnoughMemoryError

__all__ = ["evaluating_on", "is_out_of_memory", "loading_on", "reason_of", "using_device"]

_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|bad_alloc"
    r"|aoti_torch_empty_strided.*API call failed",  # all that a compiled package may tell
    re.IGNORECASE | re.DOTALL,
)
# Of what torch says where its threads for the gradients of a GPU are those of the parent.
_FORKED = "fork-based multiprocessing"


class _Turns:
    """The turns of one GPU: what a turn starts there waits for what the turn before started."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._is_taken = False
        self._done: Optional[torch.cuda.Event] = None

    @contextmanager
    def take(self, device: torch.device) -> Iterator[None]:
        with self.lock:
            if self._is_taken:  # by this thread, further out
                yield
                return
            self._is_taken = True
            try:
                if self._done is not None:
                    torch.cuda.current_stream(device).wait_event(self._done)
                yield
            finally:
                self._is_taken = False
                self._done = torch.cuda.current_stream(device).record_event()


_turns: defaultdict[int, _Turns] = defaultdict(_Turns)


@contextmanager
def using_device(device: torch.device) -> Iterator[None]:
    """Use a device within a ``with`` block; a GPU in turns. Memory that runs out is torch's error.

    Raises
    ------
    DeviceError : the GPU does not answer any more, or this process was forked from one that had
        used it.
    """
    with _telling_faults(device), _turn_on(device):
        yield


@contextmanager
def evaluating_on(device: torch.device) -> Iterator[None]:
    """Use a device as :func:`using_device` does, and refuse what its memory does not suffice for.

    Raises
    ------
    DeviceError : as :func:`using_device` does.
    NotEnoughMemoryError : in place of whatever torch raises where memory runs out.
    """
    with _telling_memory(device), using_device(device):
        yield


@contextmanager
def loading_on(device: torch.device) -> Iterator[None]:
    """Use a device as :func:`evaluating_on` does, and no other thread any GPU meanwhile.

    To see whether a model waits for its GPU, all waiting is refused in the whole process.
    """
    n_cards = torch.cuda.device_count() if device.type == "cuda" else 0
    with _telling_memory(device), _telling_faults(device), ExitStack() as turns:
        for index in range(n_cards):  # in one order, or two threads could wait for each other
            turns.enter_context(_turns[index].lock)
        turns.enter_context(_turn_on(device))
        yield


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a model call failed because an allocation did.

    torch has a class of its own for GPUs; TorchScript turns it into a RuntimeError, as the
    allocator of the CPU does.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def reason_of(error: BaseException) -> str:
    """Return the one line that says why, from a message that may hold two tracebacks."""
    lines = [line.strip().removeprefix("RuntimeError: ") for line in str(error).splitlines()]
    telling = [line for line in lines if "CUDA" in line]
    found = (telling or [line for line in lines if line] or [type(error).__name__])[0]
    return found.rstrip(".")


def _turn_on(device: torch.device) -> AbstractContextManager[None]:
    if device.type != "cuda":
        return nullcontext()
    return _turns[device.index or 0].take(device)


@contextmanager
def _telling_memory(device: torch.device) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, EqcalcError) or not is_out_of_memory(error):
            raise
        raise NotEnoughMemoryError(
            f"the memory of {device} does not suffice: {reason_of(error)}. Free memory, or take "
            "fewer atoms, float32, or a model of fewer channels or a shorter cutoff."
        ) from error


@contextmanager
def _telling_faults(device: torch.device) -> Iterator[None]:
    # Before the turn: a thread that this process does not have may hold it for ever.
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise _forked(device)
    try:
        yield
    except DeviceError:
        raise
    except RuntimeError as error:
        if _FORKED in str(error):
            raise _forked(device) from error
        if device.type == "cuda" and not _answers(device):
            raise DeviceError(
                f"device '{device}' does not answer any more: {reason_of(error)}. A process cannot "
                "use it again: start the program anew; a run goes on from its last checkpoint by "
                "eqcalc md --resume FOLDER. If that happens again, look at nvidia-smi and dmesg."
            ) from error
        raise


def _forked(device: torch.device) -> DeviceError:
    return DeviceError(
        f"a model on '{device}' cannot run in this process: it was forked from one that had used a "
        "GPU, and torch's CUDA and its gradients do not survive that. Start processes with "
        "multiprocessing.get_context('spawn'), and pass them the calculator or build it there."
    )


def _answers(device: torch.device) -> bool:
    """Whether a GPU still works: after a fault of its own every call fails, until the end."""
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True
