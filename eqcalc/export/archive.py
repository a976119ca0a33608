"""Write and read the TorchScript archive of a model file."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save as save_safetensors
from torch import nn

from eqcalc.errors import ConfigError
from eqcalc.model_file.archive import MODEL_NAME, unknown_to_eqcalc
from eqcalc.model_file.card import ModelCard
from eqcalc.model_file.entries import (
    CARD,
    PASSPORT,
    WEIGHTS,
    pack,
    read_entries,
    stamp,
    without_sources,
)
from eqcalc.model_file.weight_records import share_weights

__all__ = ["default_name", "read_archive", "require_readable", "write_archive"]


def write_archive(module: nn.Module, weights_of: nn.Module, card: str, passport: str) -> bytes:
    """Script a module and return the archive's bytes, extra files and their digest included.

    Parameters
    ----------
    module : what the archive runs
    weights_of : the network whose state goes into ``weights.safetensors``
    card, passport : texts of ``card.json`` and ``passport.json``

    Raises
    ------
    RuntimeError, torch.jit.frontend.FrontendError : TorchScript cannot express the module.
    """
    weights = {k: v.contiguous() for k, v in weights_of.state_dict().items()}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # torch deprecates TorchScript as a whole; the file format is chosen with that known.
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=Warning)
        torch.jit.save(
            torch.jit.script(module),
            buffer,
            _extra_files={CARD: card, PASSPORT: passport, WEIGHTS: save_safetensors(weights)},
        )
    entries = share_weights(without_sources(read_entries(buffer.getvalue())))
    content = stamp(pack(entries))
    unknown = unknown_to_eqcalc(content)
    if unknown is not None:
        warnings.warn(
            "the exported model has to be loaded with trust=True (on the command line --trust): "
            f"its program holds what eqcalc's own networks do not ({unknown}).",
            stacklevel=3,
        )
    return content


def require_readable(card: ModelCard) -> None:
    """Refuse a card that could not be read again, before a file is written or replaced.

    Raises
    ------
    ConfigError : it holds something that JSON does not, or that no card has.
    """
    try:
        json.dumps(asdict(card), allow_nan=False)
        type(card).from_json(card.to_json())
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the model's card cannot hold what is to be said on it: {error}."
        ) from error


def default_name(path: Path) -> str:
    """Return what a model is called that is given no name: as its file, or the file's folder."""
    return path.resolve().parent.name if path.name == MODEL_NAME else path.stem


def read_archive(content: bytes) -> torch.jit.ScriptModule:
    """Return the module that :func:`write_archive` wrote, or :meth:`ModelFile.archive` checked."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=Warning)
        return torch.jit.load(io.BytesIO(content))
