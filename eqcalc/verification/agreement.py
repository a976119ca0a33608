"""Engines and precisions against TorchScript in float64: what a simulation runs is the same model.

The comparison is that of the passport, with its tolerances, on the user's own structure.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from eqcalc.devices import resolve_dtype
from eqcalc.engines import ENGINES, Target, load_model
from eqcalc.errors import EngineError, ModelFileError
from eqcalc.graph import AtomicGraph
from eqcalc.model_file.passport import TOLERANCES, compare_frame, read_passport, record
from eqcalc.verification.finding import Finding, Verdict, skipped
from eqcalc.verification.specimen import Specimen, reference_energies_of

__all__ = ["Way", "agreement", "ways_to_run"]


class Way(NamedTuple):
    """An engine on a kind of device in a precision."""

    engine: str
    device: str
    dtype: str

    @property
    def check(self) -> str:
        """What the table calls its comparison."""
        return f"{self.engine} {self.device} {self.dtype}"


def ways_to_run() -> list[Way]:
    """Return each way to run a model on this machine's devices, but that of the other checks."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    ways = [
        Way(name, device, dtype)
        for device in devices
        for name, engine in reversed(ENGINES.items())
        for dtype in ("float32", "float64")
        if device in engine.device_types
    ]
    return [way for way in ways if way != Way("torchscript", "cpu", "float64")]


def agreement(specimen: Specimen, way: Way) -> Finding:
    """Compare energy and forces of one way to run the model with those of the other checks."""
    file = specimen.model.file
    target = Target(torch.device(way.device), resolve_dtype(way.dtype))
    why_not = ENGINES[way.engine].can_run(file, target)
    if why_not is not None:
        return skipped(way.check, why_not)
    advice = (
        "Do not simulate with it; take --engine torchscript or --dtype float64, or compile again."
    )
    try:
        model = load_model(
            file.path,
            device=way.device,
            dtype=way.dtype,
            engine=way.engine,
            threads=specimen.model.threads,
            trust=file.trusted,
        )
    except EngineError as error:
        return skipped(way.check, str(error))
    except ModelFileError as error:
        return Finding(way.check, Verdict.FAILED, str(error), advice=advice)
    references = reference_energies_of(model).to(model.device)

    def without_references(graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        energies, gradients = model(graph)
        return energies - references[graph.atomic_numbers], gradients

    nothing = torch.zeros(len(references), dtype=torch.float64)
    recorded = record([specimen.rattled()], specimen.subject.cutoff, specimen.subject.call, nothing)
    compared = compare_frame(
        recorded.frames[0],
        read_passport(file).tolerances.get(way.dtype, TOLERANCES[way.dtype]),
        without_references,
        specimen.subject.cutoff,
        model.dtype,
        model.device,
    )
    quantity = max(compared, key=lambda name: _excess(*compared[name][:2]))
    found, allowed, unit = compared[quantity]
    holds = found <= allowed  # NaN fails too
    return Finding(
        way.check,
        Verdict.OK if holds else Verdict.FAILED,
        f"{quantity} against torchscript cpu float64",
        found,
        allowed,
        unit,
        advice="" if holds else advice,
    )


def _excess(found: float, allowed: float) -> float:
    """Return by what factor a difference is too large: NaN is beyond all."""
    return math.inf if math.isnan(found) else found / allowed
