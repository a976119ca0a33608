"""Engines: ways to run a loaded model, each proven by the model's passport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from eqcalc.engines.devices import resolve_device, resolve_dtype
from eqcalc.engines.torchscript import TorchScriptEngine
from eqcalc.errors import ConfigError, ModelFileError, did_you_mean
from eqcalc.model_file import ModelCard, ModelFile, Source, open_potential
from eqcalc.passport import Passport, verify

__all__ = ["Model", "load_model", "resolve_device"]

ENGINES = {"torchscript": TorchScriptEngine}


@dataclass(frozen=True)
class Model:
    """A loaded model that has passed its passport; call it with a graph's tensors.

    file : path, card and checksum
    engine : what runs it
    """

    file: ModelFile
    engine: TorchScriptEngine

    def __call__(
        self, atomic_numbers: Tensor, edge_vectors: Tensor, edge_index: Tensor, n_owned: int
    ) -> tuple[Tensor, Tensor]:
        """Return energies (n_atoms,) in eV and edge_gradients (n_edges, 3) in eV/Å.

        The tensors follow :mod:`eqcalc.graph`, on ``device`` and in ``dtype``.
        """
        return self.engine(atomic_numbers, edge_vectors, edge_index, n_owned)

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
    engine : "auto" or "torchscript"

    Raises
    ------
    ModelFileError : the file is missing, damaged, foreign, a propagator, or gives other
        numbers here.
    DeviceError : CUDA was asked for and there is none.
    ConfigError : an unknown device, dtype or engine.
    """
    if engine != "auto" and engine not in ENGINES:
        known = ["auto", *ENGINES]
        raise ConfigError(
            f"unknown engine '{engine}'; known: {', '.join(known)}." + did_you_mean(engine, known)
        )
    where = resolve_device(device)
    file = open_potential(source)
    precision = resolve_dtype(dtype if dtype is not None else file.card.dtype)
    runner = ENGINES["torchscript" if engine == "auto" else engine](file, where, precision)
    try:
        passport = Passport.from_json(file.passport)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"the passport inside '{file.path}' is not readable: {error}."
        ) from error
    verify(passport, runner, file.card.cutoff, precision, where, str(file.path))
    return Model(file, runner)
