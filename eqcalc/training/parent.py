"""The model that a fine-tuning starts from: found, read, and held against the training file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from eqcalc import architectures
from eqcalc.data import Dataset
from eqcalc.elements import atomic_number, symbols_of
from eqcalc.errors import (
    ConfigError,
    UnknownModelError,
    UnsupportedElementError,
    did_you_mean,
    listing,
)
from eqcalc.model_file import ModelCard, ModelFile, available_models, open_potential
from eqcalc.model_file.trained_frames import trained_among
from eqcalc.potential import Potential
from eqcalc.training.config import TrainingConfig
from eqcalc.training.data import named
from eqcalc.training.sections import read_section, require_types

__all__ = [
    "about_parent",
    "chosen_elements",
    "notes_on_trained",
    "open_parent",
    "refuse_contradictions",
    "refuse_unknown_elements",
]

# Of its training data: what says nothing about a model that was trained on other frames.
_NOT_CARRIED_ON = (
    *("compositions", "training rows"),
    *("units in the source", "elements"),
)


def open_parent(config: TrainingConfig, *, trust: bool = False) -> ModelFile:
    """Find and read the file that ``start_from`` names: a shipped model, or a path.

    Raises
    ------
    UnknownModelError : there is none.
    ModelFileError : it is no potential, or damaged.
    """
    source = str(config.training.start_from)
    shipped, beside = available_models(), config.resolve(source)
    if source in shipped:
        return open_potential(source, trust=trust)
    if not beside.exists():
        raise UnknownModelError(
            f"start_from = '{source}' is no model: neither a shipped one "
            f"({', '.join(shipped)}) nor a file '{beside}'.{did_you_mean(source, shipped)}"
        )
    return open_potential(beside, trust=trust)


def refuse_contradictions(config: TrainingConfig, card: ModelCard, potential: Potential) -> None:
    """Refuse options of ``[architecture]`` that are not those of the file.

    Raises
    ------
    ConfigError : there are some; the message says which and what the file has.
    """
    name = config.architecture.get("name", card.architecture)
    if name.lower() != card.architecture:
        raise ConfigError(
            f"[architecture] says name = '{name}', but '{card.name}' is of {card.architecture}; "
            "a training that starts from a model keeps its network: leave [architecture] out."
        )
    options = _given(config, card)
    if not options:
        return
    config_class = architectures.config_class(card.architecture)
    network: Any = potential.architecture
    of_file = asdict(network.config)
    wanted = asdict(config_class(**{**of_file, **options}))
    spelled = {meant: common for common, meant in architectures.common_names(config_class).items()}
    changed = [
        f"{spelled[key] if spelled.get(key) in config.architecture else key} = {options[key]!r} "
        f"(it has {of_file[key]!r})"
        for key in options
        if key != "elements" and _plain(wanted[key]) != _plain(of_file[key])
    ]
    if changed:
        raise ConfigError(
            f"[architecture] contradicts '{card.name}', which start_from names: "
            f"{'; '.join(changed)}. A training that starts from a model keeps its network: leave "
            "these options out, or the whole section."
        )


def refuse_unknown_elements(card: ModelCard, datasets: Mapping[str, Dataset]) -> None:
    """Refuse frames with elements that the model has no parameters for.

    Parameters
    ----------
    datasets : by what messages call their frames

    Raises
    ------
    UnsupportedElementError : there are some; the message names them.
    """
    for role, dataset in datasets.items():
        unknown = sorted(set(dataset.elements) - {atomic_number(s) for s in card.elements})
        if unknown:
            frames = [f for f in dataset.frames if set(f.atoms.numbers.tolist()) & set(unknown)]
            raise UnsupportedElementError(
                f"'{card.name}', which start_from names, does not know "
                f"{listing(symbols_of(unknown))} of the {role} frames ({named(frames, dataset)}); "
                f"it knows {listing(card.elements, limit=100)}. Leave these "
                "frames out, or train without start_from."
            )


def notes_on_trained(card: ModelCard, datasets: Mapping[str, Dataset]) -> list[str]:
    """Return what is odd about frames that shall judge, and that the model was trained on.

    Parameters
    ----------
    datasets : by what messages call their frames
    """
    notes = []
    for role, dataset in datasets.items():
        known = trained_among(card.trained_frames, [frame.atoms for frame in dataset.frames])
        if known:
            frames = [dataset.frames[k] for k in known]
            notes.append(
                f"'{card.name}', which start_from names, or a model before it was trained on "
                f"{len(frames)} of {len(dataset)} {role} frames ({named(frames, dataset)}); an "
                "error on them says little about others."
            )
    return notes


def chosen_elements(config: TrainingConfig, card: ModelCard, needed: Collection[int]) -> list[str]:
    """Return the elements that stay: ``elements`` of ``[architecture]``, else those needed.

    Parameters
    ----------
    needed : atomic numbers of the frames' elements

    Raises
    ------
    ConfigError : a chosen element is unknown to the file, or a needed one is not chosen.
    """
    given = _given(config, card).get("elements")
    if given is None:
        return symbols_of(needed)
    chosen = {atomic_number(element) for element in given}
    unknown = chosen - {atomic_number(symbol) for symbol in card.elements}
    if unknown:
        raise ConfigError(
            f"elements in [architecture] has {listing(symbols_of(unknown))}, which '{card.name}' "
            f"does not know; it knows {listing(card.elements, limit=100)}."
        )
    if set(needed) - chosen:
        raise ConfigError(
            f"elements in [architecture] lacks {listing(symbols_of(set(needed) - chosen))}, which "
            "the frames have; add them, or leave elements out."
        )
    return symbols_of(chosen)


def about_parent(file: ModelFile) -> dict[str, Any]:
    """Return what the card of a fine-tuned model says of the one that it comes from."""
    card = file.card
    content: dict[str, Any] = {
        "fine-tuned from": card.name,
        "parent's sha256": file.sha256,
        "parent's digest": card.digest,
        "parent's licence": card.licence or "not stated",
        "parent's description": card.description,
    }
    # Where the weights of an imported model came from, where the card says so.
    told: Mapping[str, Any] = {**card.training_data, **(asdict(card).get("origin") or {})}
    content |= {f"parent's {k}": v for k, v in told.items() if k not in _NOT_CARRIED_ON}
    return {key: value for key, value in content.items() if value not in ("", None)}


def _given(config: TrainingConfig, card: ModelCard) -> dict[str, Any]:
    """Return the options of ``[architecture]`` under the names of the network's Config."""
    given = {k: v for k, v in config.architecture.items() if k not in ("name", "file")}
    config_class = architectures.config_class(card.architecture)
    with architectures.spelled_by_user(config_class, given):
        options = architectures.field_names(config_class, given)
        require_types(config_class, options, "[architecture]")
        read_section(config_class, options, "[architecture]")
    return options


def _plain(value: Any) -> Any:
    """Return a value in which lists and tuples are the same."""
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
