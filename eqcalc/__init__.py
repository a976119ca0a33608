"""eqcalc: trained equivariant networks as an ASE calculator.

from eqcalc import EqCalculator
atoms.calc = EqCalculator("painn-ethanol")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eqcalc.calculator import EqCalculator
    from eqcalc.engines import load_model
    from eqcalc.model_file import available_models

__version__ = "0.1.0"

__all__ = ["EqCalculator", "__version__", "available_models", "load_model"]

_HOMES = {
    "EqCalculator": "eqcalc.calculator",
    "load_model": "eqcalc.engines",
    "available_models": "eqcalc.model_file",
}


def __getattr__(name: str) -> Any:
    # torch and ase take a second to import; ``eqcalc --help`` should not wait for them.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'eqcalc' has no attribute '{name}'.")
