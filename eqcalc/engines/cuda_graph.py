"""The engine that replays CUDA graphs captured from another engine.

A call of a network starts hundreds of kernels; for some hundred atoms starting them takes
longer than running them. A captured graph starts all at once. It can only repeat what it
saw, with the same tensors: :mod:`eqcalc.engines.buckets` says how graphs of any size are
brought into tensors of few sizes.
"""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, Optional, Protocol

import torch
from torch import Tensor

from eqcalc.device_use import is_out_of_memory, reason_of
from eqcalc.engines.buckets import Bucket, Buffers, bucket_of
from eqcalc.engines.engine import Engine, Target
from eqcalc.engines.inductor import InductorEngine
from eqcalc.engines.torchscript import TorchScriptEngine
from eqcalc.engines.traced import TritonEngine
from eqcalc.errors import EngineError
from eqcalc.graph import AtomicGraph
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


class CudaGraphEngine(Engine):
    """Replay the fastest engine that can run a model.

    What a call returns are copies: the next one overwrites the graph's own outputs. Where
    memory runs out, all graphs give up theirs, fewer are kept from then on, and the engine
    inside runs the call as it is. A call raises EngineError where the model cannot be captured,
    because it waits for the device (as networks of angles do).

    Parameters
    ----------
    inner : the engine to capture; it also runs sizes that are not worth a capture
    not_used : engines that would be faster inside, and why they are not used
    reach : Å; beyond the network's cutoff

    Attributes
    ----------
    n_captures : graphs captured so far
    """

    name = "cudagraph"
    device_types = ("cuda",)

    def __init__(self, inner: Engine, not_used: Mapping[str, str], *, reach: float) -> None:
        self.device, self.dtype = inner.device, inner.dtype
        self.inner, self._not_used = inner, not_used
        self.n_captures = 0
        self._reach = reach
        self._recorder: Recorder = CudaRecorder(self.device)
        self._kept: OrderedDict[Bucket, tuple[Buffers, Recording]] = OrderedDict()  # oldest first
        self._asked: Counter[Bucket] = Counter()
        self._most_kept = _MOST_KEPT  # fewer once memory ran out

    @classmethod
    def load(cls, file: ModelFile, target: Target) -> CudaGraphEngine:
        """Load the fastest engine that can be captured.

        Raises
        ------
        EngineError : the device is not CUDA.
        """
        why = cls.can_run(file, target)
        if why is not None:
            raise EngineError(why)
        not_used: dict[str, str] = {}
        kinds: tuple[type[Engine], ...] = (InductorEngine, TritonEngine)
        for kind in kinds:
            if target.device.type not in kind.device_types:
                continue
            try:
                return cls(kind.load(file, target), not_used, reach=2.0 * file.card.cutoff)
            except EngineError as error:
                not_used[kind.name] = str(error)
        inner = TorchScriptEngine.load(file, target)
        return cls(inner, not_used, reach=2.0 * file.card.cutoff)

    @property
    def plain(self) -> Engine:
        """The engine inside."""
        return self.inner

    @property
    def not_used(self) -> Mapping[str, str]:
        """Engines that would be faster inside, and why they are not used."""
        return self._not_used

    def report(self) -> str:
        """Return what runs, and inside of what."""
        return f"{self.name} over {self.inner.report()}"

    def __call__(self, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        """Replay the graph's bucket, capturing it first where that is worth it."""
        n_atoms, n_edges = graph.atomic_numbers.shape[0], graph.edge_index.shape[1]
        bucket = bucket_of(n_atoms, n_edges, graph.n_owned, with_weights=self.inner.takes_weights)
        if bucket in self._kept:
            self._kept.move_to_end(bucket)
            self._kept[bucket][0].fill(graph)
        elif self._is_worth_a_capture(bucket):
            captured = self._captured(bucket, graph)
            if captured is None:
                self.give_up_memory()
                return self.inner(graph)
            self._kept[bucket] = captured
        else:
            return self._run_inner(graph)
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

    def _run_inner(self, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        try:
            return self.inner(graph)
        except RuntimeError as error:
            if not self._kept or not is_out_of_memory(error):
                raise
        # Not inside the handler: there, the traceback still holds what the call had made.
        self.give_up_memory()
        return self.inner(graph)

    def give_up_memory(self) -> bool:
        """Forget all graphs; so many are not kept again, else the same would happen."""
        had_any = bool(self._kept)
        self._most_kept = max(len(self._kept) - 1, 0)
        self._kept.clear()
        return had_any

    def _captured(self, bucket: Bucket, graph: AtomicGraph) -> Optional[tuple[Buffers, Recording]]:
        """Return buffers that hold a graph and their recording; None without memory for them."""
        try:
            buffers = Buffers(bucket, self._reach, self.dtype, self.device)
            buffers.fill(graph)  # before the capture, which runs on them
        except RuntimeError as error:
            if is_out_of_memory(error):
                return None
            raise
        recording = self._capture(buffers)
        return None if recording is None else (buffers, recording)

    def _capture(self, buffers: Buffers) -> Optional[Recording]:
        """Return the recording, or None where memory does not suffice."""
        try:
            recording = self._recorder.record(lambda: self._run(buffers))
        except RuntimeError as error:  # of the model, of CUDA, out of memory: no other class
            if is_out_of_memory(error):
                return None
            raise EngineError(
                f"{self.inner.name} cannot be captured as a CUDA graph (for "
                f"{buffers.bucket.n_atoms} atoms and {buffers.bucket.n_edges} edges): "
                f"{reason_of(error)}; engine='{self.inner.name}' runs it without"
            ) from error
        self.n_captures += 1
        return recording

    def _run(self, buffers: Buffers) -> tuple[Tensor, Tensor]:
        return self.inner.run(buffers.graph, buffers.weights)


class CudaRecorder:
    """Record CUDA graphs on one device, one after the other in the same work space.

    Sharing is safe: two recordings never run at once (:mod:`eqcalc.device_use`), and what both
    may overwrite is neither input nor output of either.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream()
        self._is_tried = False

    def record(self, work: Work) -> Recording:
        """Capture work of one engine; see :class:`Recorder`."""
        with torch.cuda.device(self._device):
            present = torch.cuda.current_stream()
            self._stream.wait_stream(present)
            try:
                with torch.cuda.stream(self._stream):
                    self._warm_up(work)
            finally:  # work that failed may still read what is freed, and filled again, now
                present.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may take memory meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                outputs = work()
            return Recording(graph.replay, outputs)

    def _warm_up(self, work: Work) -> None:
        for _ in range(_WARM_UP):
            work()
        # A capture that fails half-way may leave the allocator in a bad state. Once is enough,
        # and is while the model is loaded: waiting is refused to all threads.
        if not self._is_tried:
            with _waiting_refused():
                work()
            self._is_tried = True


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
