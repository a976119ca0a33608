"""The values of a model file's JSON: types, and ranges that any model keeps.

A card that says that the cutoff is "4", or that a force may be wrong by infinity, is refused
where it is read, not where somebody trips over it.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from ase.data import atomic_numbers

from eqcalc.model_file.seen import require_seen
from eqcalc.model_file.trained_frames import require_trained_frames

__all__ = ["require_card", "require_number", "require_numbers"]

_DTYPES = ("float32", "float64")
_LARGEST_CUTOFF = 100.0  # Å; a sphere of it holds half a million atoms of a solid
_MOST_HOPS = 1000
_TEXTS = ("name", "architecture", "description", "licence", "kind", "digest")
_TABLES = (
    "config",
    "reference_energies",
    "units",
    "training_data",
    "errors",
    "versions",
    "origin",
    "zbl",
)
_POTENTIALS_UNITS = {"energy": "eV", "length": "Angstrom"}


def require_card(values: Mapping[str, Any]) -> None:
    """Refuse the fields of a card that no model has.

    Raises
    ------
    ValueError : the message says which field, what was expected and what was found.
    """
    _require_printable(values)
    for name in _TEXTS:
        _require(isinstance(values[name], str), name, "a text", values[name])
    for name in _TABLES:
        is_table = isinstance(values[name], dict)
        _require(is_table and all(isinstance(k, str) for k in values[name]), name, "a table", "")
    is_potential = values["kind"] == "potential"
    _require_elements(values["elements"])
    require_number("cutoff", values["cutoff"], 0.0, _LARGEST_CUTOFF)
    _require_count("n_hops", values["n_hops"], _MOST_HOPS)
    _require_count("format_version", values["format_version"], 1000)
    if is_potential:
        _require(values["cutoff"] > 0.0, "cutoff", "a length above 0 Å", values["cutoff"])
        units = {name: values["units"].get(name) for name in _POTENTIALS_UNITS}
        _require(units == _POTENTIALS_UNITS, "units", str(_POTENTIALS_UNITS), units)
        known = list(values["reference_energies"])
        _require(
            set(known) == set(values["elements"]),
            "reference_energies",
            f"one for each of {values['elements']}",
            known,
        )
    else:
        _require_propagator(values)
    _require(values["dtype"] in _DTYPES, "dtype", " or ".join(_DTYPES), values["dtype"])
    for symbol, energy in values["reference_energies"].items():
        require_number(f"reference_energies of {symbol}", energy)
    require_number("scale", values["scale"])
    sentences = values["gives_up"]
    is_list = isinstance(sentences, list) and all(isinstance(text, str) for text in sentences)
    _require(is_list, "gives_up", "a list of sentences", sentences)
    if values["zbl"]:
        require_number("cutoff of zbl", values["zbl"].get("cutoff"), 0.0, _LARGEST_CUTOFF)
    for name in ("units", "versions", "origin"):
        for key, text in values[name].items():
            _require(isinstance(text, str), f"{name} of {key}", "a text", text)
    require_seen(values["seen"])
    require_trained_frames(values["trained_frames"])
    compositions = values["training_data"].get("compositions", [])
    is_list = isinstance(compositions, list) and all(isinstance(c, str) for c in compositions)
    _require(is_list, "compositions", "a list of formulas", compositions)


def _require_printable(content: Any) -> None:
    """Refuse characters that would move a terminal's cursor or clear it."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            _require_printable(key)
            _require_printable(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            _require_printable(value)
    elif isinstance(content, str):
        is_text = all(unicodedata.category(c) != "Cc" or c in "\n\t" for c in content)
        _require(is_text, "text", "no control characters", content[:40])


def require_number(
    name: str, value: Any, smallest: float = -math.inf, largest: float = math.inf
) -> None:
    """Refuse what is no finite number within limits.

    Raises
    ------
    ValueError : it is none.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    ok = is_number and abs(value) < 1e300 and smallest <= value <= largest
    limits = "" if largest == math.inf else f" between {smallest:g} and {largest:g}"
    _require(ok, name, f"a finite number{limits}", value)


def require_numbers(name: str, values: Any, shape: tuple[int, ...]) -> None:
    """Refuse what is no nested list of finite numbers of a shape.

    Raises
    ------
    ValueError : it is none.
    """
    _require(
        isinstance(values, list) and len(values) == shape[0], name, f"{shape[0]} items", values
    )
    for value in values:
        if len(shape) > 1:
            require_numbers(name, value, shape[1:])
        else:
            require_number(name, value)


def _require_elements(elements: Any) -> None:
    ok = isinstance(elements, list) and all(
        isinstance(e, str) and e in atomic_numbers and e != "X" for e in elements
    )
    _require(ok and len(set(elements)) == len(elements), "elements", "a list of symbols", elements)


def _require_count(name: str, value: Any, largest: int) -> None:
    ok = type(value) is int and 0 <= value <= largest
    _require(ok, name, f"a whole number up to {largest}", value)


def _require_propagator(values: Mapping[str, Any]) -> None:
    require_number("timestep", values["timestep"])
    require_number("mass", values["mass"])
    for name in ("timestep", "mass"):
        _require(values[name] > 0, name, "a number above 0", values[name])
    objects, charges = values["objects"], values["charges"]
    is_list = isinstance(objects, list) and all(isinstance(kind, str) for kind in objects)
    _require(is_list, "objects", "a list of names", objects)
    _require(isinstance(charges, list), "charges", "a list of numbers", charges)
    require_numbers("charges", charges, (len(charges),))


def _require(ok: bool, name: str, expected: str, found: Any) -> None:
    if not ok:
        raise ValueError(f"{name}: expected {expected}, found {str(found)[:80]!r}")
