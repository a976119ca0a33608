"""The engine that replays CUDA graphs captured from another engine.

A call of a network starts hundreds of kernels; for some hundred atoms starting them takes
longer than running them. A captured graph starts all at once. It can only repeat what it
saw, with the same tensors: :mod:`eqcalc.engines.buckets` says how graphs of any size are
brought into tensors of few sizes.
"""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Optional, Protocol, Union

import torch
from torch import Tensor

from eqcalc.engines.buckets import Bucket, Buffers, bucket_of
from eqcalc.engines.inductor import InductorEngine
from eqcalc.engines.torchscript import TorchScriptEngine
from eqcalc.errors import EngineError
from eqcalc.model_file import ModelFile

__all__ = ["CudaGraphEngine", "CudaRecorder", "Recorder", "Recording"]

# Captured buckets. Work space is shared between them, inputs and outputs are not.
_MOST_KEPT = 8
# Calls of a bucket before it takes the place of another: a capture costs tens of calls, and
# sizes that never come again (a list of different structures) shall not pay for one.
_PATIENCE = 20
# Calls before a capture: the first profiles a script, the second compiles it, and libraries
# take their work space at their first use.
_WARM_UP = 3

Work = Callable[[], tuple[Tensor, Tensor]]


class Recording(NamedTuple):
    """Work that can be repeated.

    outputs : where each replay leaves its results; before the first there is nothing there
    """

    replay: Callable[[], None]
    outputs: tuple[Tensor, Tensor]


class Recorder(Protocol):
    """What makes recordings; tests bring one that needs no GPU."""

    def record(self, work: Work) -> Recording:
        """Capture work on tensors that stay in place.

        Raises
        ------
        RuntimeError : the work cannot be captured.
        """


class CudaGraphEngine:
    """Replay the compiled package of a model, or its archive where it is not compiled.

    What a call returns are copies: the next one overwrites the graph's own outputs. Where
    there is no memory for another graph, the engine inside runs the call as it is.

    Attributes
    ----------
    inner : the engine that was captured; it also runs sizes that are not worth a capture
    not_inner : engines that would be faster inside, and why they are not used
    n_captures : graphs captured so far

    Raises
    ------
    EngineError : the device is not CUDA; at a call: the model cannot be captured, because
        it waits for the device (as networks of angles do).
    """

    name = "cudagraph"
    device_types: tuple[str, ...] = ("cuda",)

    def __init__(self, file: ModelFile, device: torch.device, dtype: torch.dtype) -> None:
        if device.type not in self.device_types:
            raise EngineError(f"CUDA graphs need a CUDA device, this is '{device}'")
        self.device = device
        self.dtype = dtype
        self.not_inner: dict[str, str] = {}
        self.inner: Union[InductorEngine, TorchScriptEngine]
        try:
            self.inner = InductorEngine(file, device, dtype)
        except EngineError as error:
            self.not_inner["inductor"] = str(error)
            self.inner = TorchScriptEngine(file, device, dtype)
        self.n_captures = 0
        self._reach = 2.0 * file.card.cutoff
        self._recorder: Recorder = CudaRecorder(device)
        self._kept: OrderedDict[Bucket, tuple[Buffers, Recording]] = OrderedDict()  # oldest first
        self._asked: Counter[Bucket] = Counter()
        self._most_kept = _MOST_KEPT  # fewer once memory ran out

    def __call__(
        self, atomic_numbers: Tensor, edge_vectors: Tensor, edge_index: Tensor, n_owned: int
    ) -> tuple[Tensor, Tensor]:
        arguments = (atomic_numbers, edge_vectors, edge_index, n_owned)
        n_atoms, n_edges = atomic_numbers.shape[0], edge_index.shape[1]
        with_weights = isinstance(self.inner, InductorEngine)
        bucket = bucket_of(n_atoms, n_edges, n_owned, with_weights=with_weights)
        if bucket in self._kept:
            self._kept.move_to_end(bucket)
            self._kept[bucket][0].fill(*arguments)
        elif self._is_worth_a_capture(bucket):
            buffers = Buffers(bucket, self._reach, self.dtype, self.device)
            buffers.fill(*arguments)  # before the capture, which runs on them
            captured = self._capture(buffers)
            if captured is None:
                self._most_kept = len(self._kept)
                return self.inner(*arguments)
            self._kept[bucket] = buffers, captured
        else:
            return self.inner(*arguments)
        recording = self._kept[bucket][1]
        recording.replay()
        energies, gradients = recording.outputs
        return energies[:n_atoms].clone(), gradients[:n_edges].clone()

    def _is_worth_a_capture(self, bucket: Bucket) -> bool:
        """Whether there is room, or the bucket is asked for so often that room is made."""
        if len(self._kept) < self._most_kept:
            return True
        if self._most_kept == 0:
            return False
        if len(self._asked) > _MOST_KEPT * _PATIENCE:  # sizes that never came again
            self._asked.clear()
        self._asked[bucket] += 1
        if self._asked[bucket] <= _PATIENCE:
            return False
        self._asked.clear()
        self._kept.popitem(last=False)
        return True

    def _capture(self, buffers: Buffers) -> Optional[Recording]:
        """Return the recording, or None where memory does not suffice."""
        try:
            recording = self._recorder.record(lambda: self._run(buffers))
        except RuntimeError as error:  # of the model, of CUDA, out of memory: no other class
            if "out of memory" in str(error):  # TorchScript hides torch's class for it
                return None
            raise EngineError(
                f"{self.inner.name} cannot be captured as a CUDA graph (for "
                f"{buffers.bucket.n_atoms} atoms and {buffers.bucket.n_edges} edges): "
                f"{_reason(error)}; engine='{self.inner.name}' runs it without"
            ) from error
        self.n_captures += 1
        return recording

    def _run(self, buffers: Buffers) -> tuple[Tensor, Tensor]:
        tensors = (buffers.atomic_numbers, buffers.edge_vectors, buffers.edge_index)
        if isinstance(self.inner, InductorEngine):
            return self.inner.run(*tensors, buffers.weights)
        return self.inner(*tensors, buffers.bucket.n_owned)


class CudaRecorder:
    """Record CUDA graphs on one device, one after the other in the same work space.

    Sharing is safe: two recordings never run at once, and what both may overwrite is
    neither input nor output of either.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream()

    def record(self, work: Work) -> Recording:
        """Capture work; see :class:`Recorder`."""
        with torch.cuda.device(self._device):
            present = torch.cuda.current_stream()
            self._stream.wait_stream(present)
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UP):
                    work()
                # A capture that fails half-way may leave the allocator in a bad state.
                with _waiting_refused():
                    work()
            present.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                outputs = work()
            return Recording(graph.replay, outputs)


@contextmanager
def _waiting_refused() -> Iterator[None]:
    """Let operations that wait for the device raise a RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        # That it does not know all of them: the capture itself refuses the others.
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _reason(error: RuntimeError) -> str:
    """Return the one line that says why, from a message that may hold two tracebacks."""
    lines = [line.strip().removeprefix("RuntimeError: ") for line in str(error).splitlines()]
    telling = [line for line in lines if "CUDA" in line]
    found = (telling or [line for line in lines if line] or [type(error).__name__])[0]
    return found.rstrip(".")
