"""How long a step of dynamics takes with a model, and where the time goes."""

from eqcalc.bench.measurement import (
    N_BLOCKS,
    BenchCalculator,
    Measurement,
    Timing,
    check_elements,
    growth_exponent,
    machine,
    measure,
    ready_engines,
)

__all__ = [
    "N_BLOCKS",
    "BenchCalculator",
    "Measurement",
    "Timing",
    "check_elements",
    "growth_exponent",
    "machine",
    "measure",
    "ready_engines",
]
