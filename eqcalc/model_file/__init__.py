"""The model file: the archive, the card that says what it is, the passport that proves it.

Nothing here runs a model or knows a network.
"""

from eqcalc.model_file.archive import (
    CARD,
    MODEL_NAME,
    PASSPORT,
    WEIGHTS,
    ModelFile,
    Source,
    available_models,
    find_model,
    open_model_file,
    open_potential,
    read_card,
    refuse_twins,
)
from eqcalc.model_file.card import FORMAT_VERSION, ModelCard, PropagatorCard

__all__ = [
    "CARD",
    "FORMAT_VERSION",
    "MODEL_NAME",
    "PASSPORT",
    "WEIGHTS",
    "ModelCard",
    "ModelFile",
    "PropagatorCard",
    "Source",
    "available_models",
    "find_model",
    "open_model_file",
    "open_potential",
    "read_card",
    "refuse_twins",
]
