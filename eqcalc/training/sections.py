"""Sections of a training file as dataclasses: known keys, and values of the right type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any, Union, get_args, get_origin, get_type_hints

from eqcalc.errors import ConfigError, did_you_mean

__all__ = ["fits", "read_section", "require_types", "type_name"]

_TYPE_NAMES: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
    tuple: "an array",
    Sequence: "an array",
    Mapping: "a table",
}


def read_section(
    options: type, content: Any, where: str, origin: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    """Return a section's options; refuse what is no table, unknown keys and missing ones.

    Parameters
    ----------
    options : the section's dataclass
    where : what messages call the section
    origin : fields that no file may set

    Raises
    ------
    ConfigError : one of these, or what the dataclass itself refuses.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{where} must be a table, found {content!r}.")
    known = {f.name: f for f in fields(options) if f.name not in origin}
    for key in content:
        if key not in known:
            raise ConfigError(
                f"unknown key '{key}' in {where}; known: {', '.join(known)}."
                + did_you_mean(key, known)
            )
    for name, f in known.items():
        required = f.default is MISSING and f.default_factory is MISSING
        if required and name not in content:
            raise ConfigError(f"{where} needs the key '{name}'.")
    return options(**content, **origin)


def require_types(options: type, values: Mapping[str, Any], where: str) -> None:
    """Refuse values that are not of the types of a dataclass's fields.

    Raises
    ------
    ConfigError : there is one; the message names it.
    """
    hints = get_type_hints(options)
    for key, value in values.items():
        if key in hints and not fits(value, hints[key]):
            raise ConfigError(f"{key} in {where} must be {type_name(hints[key])}, found {value!r}.")


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a value of a TOML file is of a type."""
    if get_origin(hint) is Union:
        return any(fits(value, option) for option in get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float))
    kind = get_origin(hint) or hint
    # TOML's only sequence is the array; what is no class says nothing that could be checked.
    return not isinstance(kind, type) or isinstance(value, (list, tuple) if kind is tuple else kind)


def type_name(hint: Any) -> str:
    """Return what messages call a type; None beside another one is left out."""
    if get_origin(hint) is Union:
        names = [type_name(option) for option in get_args(hint) if option is not type(None)]
        return " or ".join(names)
    kind = get_origin(hint) or hint
    return _TYPE_NAMES.get(kind, f"a {kind.__name__}")
