"""Load models: choose an engine, start it, and have it reproduce the model's passport."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Optional
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from eqcalc.device_use import is_out_of_memory, loading_on, using_device
from eqcalc.devices import resolve_device, resolve_dtype
from eqcalc.engines.committee import CommitteeEngine
from eqcalc.engines.cuda_graph import CudaGraphEngine
from eqcalc.engines.engine import Engine, Target
from eqcalc.engines.full_precision import FullPrecision
from eqcalc.engines.inductor import InductorEngine
from eqcalc.engines.patience import Patience
from eqcalc.engines.torchscript import TorchScriptEngine
from eqcalc.engines.traced import TritonEngine
from eqcalc.errors import CacheError, ConfigError, EngineError, ModelFileError, did_you_mean
from eqcalc.graph import AtomicGraph
from eqcalc.host_memory import keep_freed_memory
from eqcalc.model_file import ModelCard, ModelFile, Source, open_potential
from eqcalc.model_file.passport import read_passport, verify
from eqcalc.threads import check_threads, threads_for, using_threads

__all__ = [
    "ENGINES",
    "Model",
    "engines_on",
    "errors_of_the_program",
    "faster_and_ready",
    "load_committee",
    "load_model",
    "reload_model",
]

ENGINES: dict[str, type[Engine]] = {
    engine.name: engine
    for engine in (CudaGraphEngine, InductorEngine, TritonEngine, TorchScriptEngine)
}
"""Fastest first; the last one is always there."""


@dataclass(frozen=True)
class Model:
    """A loaded model that has passed its passport; call it with a graph.

    file : path, card and checksum
    engine : what runs it
    not_used : faster engines, and why they do not run it
    threads : of a call on a CPU, as asked for; None: see :mod:`eqcalc.threads`
    patience : with the slowest engine, which nobody asked for by name
    """

    file: ModelFile
    engine: Engine
    not_used: Mapping[str, str] = field(default_factory=dict)
    threads: Optional[int] = None
    patience: Optional[Patience] = None

    def __call__(self, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        """Return energies (n_atoms,) in eV and edge_gradients (n_edges, 3) in eV/Å.

        Parameters
        ----------
        graph : see :mod:`eqcalc.graph`; on the model's device and in its dtype

        Raises
        ------
        DeviceError : see :func:`eqcalc.device_use.using_device`.
        """
        threads = self.using_threads(graph.atomic_numbers.shape[0])
        timed = nullcontext() if self.patience is None else self.patience.timed()
        with threads, FullPrecision(self.device.type), timed, using_device(self.device):
            return self.engine(graph)

    def n_threads(self, n_atoms: int) -> Optional[int]:
        """Return the number of threads of a call with so many atoms; None on a GPU."""
        return threads_for(n_atoms, self.threads) if self.device.type == "cpu" else None

    def using_threads(self, n_atoms: int) -> AbstractContextManager[None]:
        """Let torch use the threads of a call with so many atoms, within a ``with`` block."""
        return using_threads(self.device, n_atoms, self.threads)

    def engine_report(self) -> str:
        """Return which engine runs, and why no faster one does, in a few lines."""
        target = Target(self.device, self.dtype)
        lines = [f"{self.engine.report()} on {target}, passport reproduced"]
        return "\n".join([*lines, *(f"not {name}: {why}" for name, why in self.not_used.items())])

    @property
    def plain(self) -> Model:
        """The same model without replays, which take their memory once and show none of it."""
        return replace(self, engine=self.engine.plain)

    @property
    def card(self) -> ModelCard:
        """What the model is."""
        return self.file.card

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.engine.device

    @property
    def dtype(self) -> torch.dtype:
        """The model's working precision."""
        return self.engine.dtype


_live: WeakValueDictionary[tuple[str, str, Optional[str], str, Optional[int]], Model] = (
    WeakValueDictionary()
)
"""Models in use, by checksum, device, dtype, engine and threads as they were asked for."""
_OF_A_PROGRAM = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)
_said: set[str] = set()
"""Checksums of the files of which it was said that they have no digest."""


def reload_model(
    source: Source,
    sha256: str,
    *,
    device: str = "auto",
    dtype: Optional[str] = None,
    engine: str = "auto",
    threads: Optional[int] = None,
    trust: bool = False,
) -> Model:
    """Return the model of a checksum: one in use in this process, else that of a file.

    Raises
    ------
    ModelFileError : the file holds another model.
    Exception : as :func:`load_model`.
    """
    found = _live.get((sha256, device, dtype, engine, threads))
    if found is not None:
        return found
    loaded = load_model(
        source, device=device, dtype=dtype, engine=engine, threads=threads, trust=trust
    )
    if loaded.file.sha256 != sha256:
        raise ModelFileError(
            f"'{source}' holds another model than when this calculator was stored (its sha256 was "
            f"{sha256[:12]}..., now {loaded.file.sha256[:12]}...); put the old file back, or build "
            "an EqCalculator of the new one."
        )
    return loaded


def load_model(
    source: Source,
    *,
    device: str = "auto",
    dtype: Optional[str] = None,
    engine: str = "auto",
    threads: Optional[int] = None,
    trust: bool = False,
) -> Model:
    """Load a model and replay its passport.

    Parameters
    ----------
    source : a shipped model's name, or the path of a model file
    device : "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N"
    dtype : "float32", "float64", or None for the file's own
    engine : "torchscript"; "inductor", compiled at the first use; on a GPU "triton", and
        "cudagraph", which replays inductor where it is compiled, else triton, else torchscript; or
        "auto", the fastest that is ready and passes: it compiles nothing (``eqcalc compile`` does)
    threads : of a call on a CPU; None: one per hundred atoms, at most as many as torch has
    trust : run whatever program the file holds. Otherwise it may only compute, with operators
        that eqcalc knows (docs/model-file.md)

    Raises
    ------
    ModelFileError : the file is missing, damaged, foreign, a propagator, gives other
        numbers here, or holds a program that eqcalc does not know.
    DeviceError : CUDA was asked for and there is none, or none that can be used.
    NotEnoughMemoryError : the device's memory does not suffice for the passport's frames.
    EngineError : the engine that was asked for cannot run the model here.
    ConfigError : an unknown device, dtype or engine, or no number of threads.
    """
    check_threads(threads)
    where = resolve_device(device)
    with using_threads(where, 1, threads), loading_on(where):  # the passport is replayed
        model = replace(_load(source, device, dtype, engine, trust), threads=threads)
    _live[model.file.sha256, str(device), dtype, engine, threads] = model
    return model


@torch.inference_mode(False)  # what is made there can never be differentiated
def _load(source: Source, device: str, dtype: Optional[str], engine: str, trust: bool) -> Model:
    if engine != "auto" and engine not in ENGINES:
        known = ["auto", *ENGINES]
        raise ConfigError(
            f"unknown engine '{engine}'; known: {', '.join(known)}." + did_you_mean(engine, known)
        )
    where = resolve_device(device)
    if where.type == "cpu":
        keep_freed_memory()
    file = open_potential(source, trust=trust)
    file.require_checked()  # a package that was compiled from it is its program too
    _say_that_it_has_no_digest(file)
    target = Target(where, resolve_dtype(dtype if dtype is not None else file.card.dtype))
    if engine != "auto":
        return _load_with(ENGINES[engine], file, target)
    *faster, always = engines_on(where)
    not_used: dict[str, str] = {}
    for name in faster:
        try:
            found = _proven(ENGINES[name], file, target)
        except (EngineError, ModelFileError) as error:
            not_used[name] = str(error)
            continue
        return Model(file, found, {**not_used, **found.not_used})
    why = not_used.get(InductorEngine.name) if where.type == "cpu" else None
    patience = None if why is None else Patience(file.card.name, why)
    return Model(file, _proven(ENGINES[always], file, target), not_used, patience=patience)


def _load_with(kind: type[Engine], file: ModelFile, target: Target) -> Model:
    """Load what a user asked for by name: that or nothing."""
    try:
        kind.prepare(file, target)
        found = _proven(kind, file, target)
    except EngineError as error:
        others = [name for name in engines_on(target.device) if name != kind.name]
        reason = str(error).rstrip(".")
        raise (CacheError if isinstance(error, CacheError) else EngineError)(
            f"engine '{kind.name}' cannot run '{file.card.name}': {reason}; or take "
            f"engine='auto' or '{others[-1] if others else 'torchscript'}'."
        ) from error
    return Model(file, found, found.not_used)


def engines_on(device: torch.device) -> list[str]:
    """Return the names of the engines that exist for a kind of device, fastest first."""
    return [name for name, engine in ENGINES.items() if device.type in engine.device_types]


def faster_and_ready(model: Model) -> list[str]:
    """Return the engines that could run a loaded model now, and are faster than its own."""
    target = Target(model.device, model.dtype)
    names = engines_on(model.device)
    faster = names[: names.index(model.engine.name)]
    return [name for name in faster if ENGINES[name].can_run(model.file, target) is None]


def load_committee(
    models: Sequence[Model], engine: str = "auto"
) -> tuple[Optional[CommitteeEngine], str]:
    """Return what runs loaded models in one pass, or None, and one line that says why.

    Parameters
    ----------
    models : on one device, in one precision
    engine : as for :func:`load_model`; "inductor" compiles them together at the first use

    Raises
    ------
    EngineError : "inductor" was asked for, and the models cannot be compiled together.
    """
    if engine not in ("auto", "inductor"):
        return None, f"one by one: {engine} was asked for"
    target = Target(models[0].device, models[0].dtype)
    files = [model.file for model in models]
    try:
        if engine == "inductor":
            CommitteeEngine.prepare(files, target)
        precise = FullPrecision(target.device.type)
        with models[0].using_threads(1), using_device(target.device), precise:
            together = CommitteeEngine.load(files, target)
    except (EngineError, ModelFileError) as error:
        if engine == "inductor":
            raise
        return None, f"one by one: {error}"
    return together, (
        f"all {len(files)} in one pass: {together.name} on {target}, passports reproduced"
    )


def _proven(kind: type[Engine], file: ModelFile, target: Target) -> Engine:
    """Start an engine and replay the passport."""
    with FullPrecision(target.device.type):  # a program that is traced keeps the casts around it
        engine = kind.load(file, target)
    passport = read_passport(file)
    # As calls of a Model are made.
    with errors_of_the_program(file), FullPrecision(target.device.type):
        verify(passport, engine, file.card.cutoff, target.dtype, target.device, str(file.path))
    return engine


@contextmanager
def errors_of_the_program(file: ModelFile) -> Iterator[None]:
    """Turn what a model's program raises while its passport is replayed into one error.

    Raises
    ------
    ModelFileError : the program raised, or a frame of the passport is no structure.
    """
    try:
        yield
    except (ModelFileError, EngineError):
        raise
    except (*_OF_A_PROGRAM, torch.jit.Error) as error:
        if is_out_of_memory(error):  # says nothing of the program
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelFileError(
            f"'{file.path}' does not reproduce its own passport: {lines[-1].strip()}. Export the "
            "model again."
        ) from error


def _say_that_it_has_no_digest(file: ModelFile) -> None:
    if not file.card.digest and file.sha256 not in _said:
        _said.add(file.sha256)
        warnings.warn(
            f"the model file '{file.path}' is older than the digest that ties card, passport and "
            "weights together; what can be compared was compared. Export the model again.",
            stacklevel=4,
        )
