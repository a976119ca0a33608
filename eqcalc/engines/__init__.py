"""Engines: ways to run a model file, each proven by the model's passport.

What belongs here: an engine is one class in one file (:mod:`eqcalc.engines.engine`) and a name
in the list of :mod:`eqcalc.engines.loading`. Nothing here knows a network.
"""

from eqcalc.engines.committee import CommitteeEngine
from eqcalc.engines.engine import Engine, Target
from eqcalc.engines.loading import (
    ENGINES,
    Model,
    engines_on,
    load_committee,
    load_model,
    reload_model,
)

__all__ = [
    "ENGINES",
    "CommitteeEngine",
    "Engine",
    "Model",
    "Target",
    "engines_on",
    "load_committee",
    "load_model",
    "reload_model",
]
