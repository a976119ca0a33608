"""Engines: ways to run a loaded model, each proven by the model's passport."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional, Protocol

import torch
from torch import Tensor

from eqcalc.engines.committee import CommitteeEngine, compile_committee_package
from eqcalc.engines.cuda_graph import CudaGraphEngine
from eqcalc.engines.devices import resolve_device, resolve_dtype
from eqcalc.engines.inductor import InductorEngine, compile_package
from eqcalc.engines.torchscript import TorchScriptEngine
from eqcalc.errors import ConfigError, EngineError, EngineWarning, ModelFileError, did_you_mean
from eqcalc.host_memory import keep_freed_memory
from eqcalc.model_file import ModelCard, ModelFile, Source, open_potential
from eqcalc.passport import Passport, verify

__all__ = [
    "ENGINES", "CommitteeEngine", "Engine", "Model", "engines_on", "load_committee", "load_model",
    "resolve_device",
]  # fmt: skip


class Engine(Protocol):
    """What runs a model: built from a file, a device and a precision.

    device_types : "cpu", "cuda"; the devices on which it can run at all
    """

    name: str
    device_types: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype

    def __init__(self, file: ModelFile, device: torch.device, dtype: torch.dtype) -> None: ...

    def __call__(
        self, atomic_numbers: Tensor, edge_vectors: Tensor, edge_index: Tensor, n_owned: int
    ) -> tuple[Tensor, Tensor]:
        """Return energies (n_atoms,) in eV and edge_gradients (n_edges, 3) in eV/Å."""


ENGINES: dict[str, type[Engine]] = {
    "cudagraph": CudaGraphEngine,
    "inductor": InductorEngine,
    "torchscript": TorchScriptEngine,
}
"""Fastest first; the last one is always there."""


@dataclass(frozen=True)
class Model:
    """A loaded model that has passed its passport; call it with a graph's tensors.

    file : path, card and checksum
    engine : what runs it
    not_used : faster engines, and why they do not run it
    """

    file: ModelFile
    engine: Engine
    not_used: Mapping[str, str] = field(default_factory=dict)

    def __call__(
        self, atomic_numbers: Tensor, edge_vectors: Tensor, edge_index: Tensor, n_owned: int
    ) -> tuple[Tensor, Tensor]:
        """Return energies (n_atoms,) in eV and edge_gradients (n_edges, 3) in eV/Å.

        The tensors follow :mod:`eqcalc.graph`, on ``device`` and in ``dtype``.
        """
        return self.engine(atomic_numbers, edge_vectors, edge_index, n_owned)

    def engine_report(self) -> str:
        """Return which engine runs, and why no faster one does, in a few lines."""
        precision = str(self.dtype).removeprefix("torch.")
        name = self.engine.name
        if isinstance(self.engine, CudaGraphEngine):
            name += f" over {self.engine.inner.name}"
        lines = [f"{name} on {self.device} in {precision}, passport reproduced"]
        return "\n".join([*lines, *(f"not {name}: {why}" for name, why in self.not_used.items())])

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


@torch.inference_mode(False)  # what is made there can never be differentiated
def load_model(
    source: Source, *, device: str = "auto", dtype: Optional[str] = None, engine: str = "auto"
) -> Model:
    """Load a model and replay its passport.

    Parameters
    ----------
    source : a shipped model's name, or the path of a model file
    device : "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N"
    dtype : "float32", "float64", or None for the file's own
    engine : "torchscript"; "inductor", compiled at the first use; "cudagraph", which replays
        inductor where it is compiled, else torchscript; or "auto", the fastest that is ready
        and passes: it compiles nothing (``eqcalc compile`` does)

    Raises
    ------
    ModelFileError : the file is missing, damaged, foreign, a propagator, or gives other
        numbers here.
    DeviceError : CUDA was asked for and there is none.
    ConfigError : an unknown device, dtype or engine.

    Warns
    -----
    EngineWarning : the engine that was asked for cannot run the model; torchscript does.
    """
    if engine != "auto" and engine not in ENGINES:
        known = ["auto", *ENGINES]
        raise ConfigError(
            f"unknown engine '{engine}'; known: {', '.join(known)}." + did_you_mean(engine, known)
        )
    where = resolve_device(device)
    if where.type == "cpu":
        keep_freed_memory()
    file = open_potential(source)
    precision = resolve_dtype(dtype if dtype is not None else file.card.dtype)
    *faster, always = engines_on(where) if engine == "auto" else [engine, list(ENGINES)[-1]]
    not_used: dict[str, str] = {}
    for name in faster:
        if name == always:
            break
        try:
            if engine == "inductor":
                compile_package(file, where, precision)
            found = _proven(name, file, where, precision)
        except (EngineError, ModelFileError) as error:
            not_used[name] = str(error)
            if name == engine:
                warnings.warn(f"running '{file.card.name}' with {always}: {error}",
                              EngineWarning, stacklevel=2)  # fmt: skip
            continue
        if isinstance(found, CudaGraphEngine):
            not_used |= found.not_inner
        return Model(file, found, not_used)
    return Model(file, _proven(always, file, where, precision), not_used)


def engines_on(device: torch.device) -> list[str]:
    """Return the names of the engines that exist for a kind of device, fastest first."""
    return [name for name, engine in ENGINES.items() if device.type in engine.device_types]


def load_committee(
    models: Sequence[Model], engine: str = "auto"
) -> tuple[Optional[CommitteeEngine], str]:
    """Return what runs loaded models in one pass, or None, and one line that says why.

    Parameters
    ----------
    models : on one device, in one precision
    engine : as for :func:`load_model`; "inductor" compiles them together at the first use
    """
    if engine not in ("auto", "inductor"):
        return None, f"one by one: {engine} was asked for"
    device, dtype = models[0].device, models[0].dtype
    files = [model.file for model in models]
    try:
        if engine == "inductor":
            compile_committee_package(files, device, dtype)
        together = CommitteeEngine(files, device, dtype)
    except (EngineError, ModelFileError) as error:
        return None, f"one by one: {error}"
    precision = str(dtype).removeprefix("torch.")
    return together, (
        f"all {len(files)} in one pass: {together.name} on {device} in {precision}, "
        "passports reproduced"
    )


def _proven(
    name: str, file: ModelFile, device: torch.device, dtype: torch.dtype
) -> Engine:
    """Start an engine and replay the passport."""
    engine = ENGINES[name](file, device, dtype)
    try:
        passport = Passport.from_json(file.passport)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"the passport inside '{file.path}' is not readable: {error}."
        ) from error
    verify(passport, engine, file.card.cutoff, dtype, device, str(file.path))
    return engine
