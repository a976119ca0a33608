"""Models that speak together, one or a committee: what they must share, and what runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eqcalc.engines import Model
from eqcalc.errors import ConfigError, listing
from eqcalc.model_file import refuse_twins

__all__ = ["engine_facts", "engine_report", "shared_elements"]


def shared_elements(models: Sequence[Model]) -> set[str]:
    """Return the elements that every model knows; refuse models that are no committee.

    Raises
    ------
    ConfigError : there is none, one is there twice, or they differ in dtype or share no element.
    """
    if not models:
        raise ConfigError("a committee needs at least one model, found an empty list.")
    dtypes = {str(model.dtype) for model in models}
    if len(dtypes) > 1:
        raise ConfigError(
            f"the members of a committee differ in dtype ({listing(sorted(dtypes))}); pass "
            "dtype='float32' or 'float64'."
        )
    refuse_twins([model.file for model in models])
    shared = set.intersection(*(set(model.card.elements) for model in models))
    if not shared:
        known = "; ".join(f"{m.card.name} {', '.join(m.card.elements)}" for m in models)
        raise ConfigError(f"the members of a committee share no element: {known}.")
    return shared


def engine_report(models: Sequence[Model], together: str) -> str:
    """Return which engine runs each model, and why no faster one does.

    Parameters
    ----------
    together : whether a committee runs in one pass, and why not
    """
    if len(models) == 1:
        return models[0].engine_report()
    members = [
        f"{name}: {model.engine_report()}"
        for name, model in zip(_told_apart(models), models, strict=True)
    ]
    return "\n".join([*members, together])


def engine_facts(models: Sequence[Model], together: str, n_atoms: int) -> dict[str, Any]:
    """Return what runs a structure of so many atoms: see :meth:`EqCalculator.engine_facts`."""
    first = models[0]
    facts: dict[str, Any] = {
        "engine": first.engine.report(),
        "device": str(first.device),
        "dtype": str(first.dtype).removeprefix("torch."),
        "threads": first.n_threads(n_atoms),
        "not_used": dict(first.not_used),
    }
    if len(models) > 1:
        facts["engine"] = [model.engine.report() for model in models]
        facts["not_used"] = {
            f"{engine} of {name}": why
            for name, model in zip(_told_apart(models), models, strict=True)
            for engine, why in model.not_used.items()
        }
        facts["together"] = together
    return facts


def _told_apart(models: Sequence[Model]) -> list[str]:
    """Return what messages call the members: their names, of two alike with their files."""
    names = [model.card.name for model in models]
    return [
        name if names.count(name) == 1 else f"{name} ({model.file.lasting_source})"
        for name, model in zip(names, models, strict=True)
    ]
