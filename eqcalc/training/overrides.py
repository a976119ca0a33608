"""Keys of a training file that are set for one run, and the file as it then is."""

from __future__ import annotations

import copy
import datetime
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from eqcalc.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["to_toml", "with_overrides"]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


def with_overrides(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the content of a training file with keys set, each as ``section.key=value``.

    A value is read as TOML; what is none, such as a bare word, is a string, and so is a date or
    a time, which no key takes: ``10:50:20`` are rows.

    Raises
    ------
    ConfigError : one is not of that form, leads through what is no table, or replaces a table.

    >>> with_overrides({"data": {"path": "a.xyz"}}, ["data.path=b.xyz", "training.max_epochs=5"])
    {'data': {'path': 'b.xyz'}, 'training': {'max_epochs': 5}}
    """
    changed = copy.deepcopy(dict(content))
    for override in overrides:
        place, separator, value = override.partition("=")
        keys = [key.strip() for key in place.split(".")]
        if not separator or not all(keys):
            raise ConfigError(
                f"a setting is section.key=value, such as training.max_epochs=5, found "
                f"'{override}'."
            )
        table = changed
        for depth, key in enumerate(keys[:-1], start=1):
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigError(
                    f"cannot set '{place.strip()}': '{'.'.join(keys[:depth])}' is no table, it is "
                    f"{table!r}."
                )
        new, old = _value(value.strip()), table.get(keys[-1])
        if isinstance(old, dict) and isinstance(new, dict):
            raise ConfigError(
                f"'{override}' would replace the whole table of {len(old)} keys: set them one by "
                f"one, such as {place.strip()}.{next(iter(old), 'key')}=..."
            )
        table[keys[-1]] = new
    return changed


def _value(text: str) -> Any:
    try:
        content = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    if len(content) > 1 or isinstance(content["value"], (datetime.date, datetime.time)):
        return text  # a line break may begin another key
    return content["value"]


def to_toml(content: Mapping[str, Any]) -> str:
    """Return TOML that is read as this content: strings, numbers, true and false, arrays, tables.

    >>> print(to_toml({"name": "a", "training": {"max_epochs": 5, "freeze": ["b"]}}), end="")
    name = "a"
    <BLANKLINE>
    [training]
    max_epochs = 5
    freeze = ["b"]
    """
    return "\n".join(_table(content, ())).lstrip("\n") + "\n"


def _table(content: Mapping[str, Any], place: tuple[str, ...]) -> list[str]:
    lines = [f"\n[{'.'.join(map(_key, place))}]"] if place else []
    tables = {key: value for key, value in content.items() if isinstance(value, Mapping)}
    # A key behind a table's heading would belong to the table.
    lines += [f"{_key(k)} = {_inline(v)}" for k, v in content.items() if k not in tables]
    for key, value in tables.items():
        lines += _table(value, (*place, key))
    return lines


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _string(value)
    return repr(value) if isinstance(value, (int, float)) else str(value)  # dates and times


def _key(key: str) -> str:
    return key if _BARE_KEY.match(key) else _string(key)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
