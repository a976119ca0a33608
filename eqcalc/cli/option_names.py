"""Errors that speak of the options a user typed, where the package speaks of its arguments."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, get_type_hints

from typer.models import ArgumentInfo

from eqcalc.errors import EqcalcError

__all__ = ["FILLED_FROM", "naming_options", "with_options"]

FILLED_FROM = {
    "fit_ps": "fit",
    "n_bins": "bins",
    "n_steps": "steps",
    "max_steps": "steps",
    "temperature_K": "temperature",
    "timestep_fs": "timestep",
    "friction_per_fs": "friction",
    "thermostat_time_fs": "thermostat_time",
    "barostat_time_fs": "barostat_time",
    "pressure_gpa": "pressure",
    "to_temperature_K": "to_temperature",
    "to_pressure_gpa": "to_pressure",
}
"""Arguments of the package -> the parameter of a verb that they are filled from."""

_SPELLED = {"trajectory_format": "--format", "n_frames": "--frames", "settings": "--set"}
"""Parameters whose option has another name."""


def naming_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Return a verb whose errors name ``--max-edges`` instead of ``max_edges``.

    A message about a key of a training file, which has the file's own names, stays as it is:
    only the verb's own parameters are looked for.
    """

    @functools.wraps(verb)
    def renamed(*args: Any, **kwargs: Any) -> None:
        try:
            verb(*args, **kwargs)
        except EqcalcError as error:
            message = with_options(str(error), verb)
            if message == str(error):
                raise
            raise type(error)(message) from error

    return renamed


def with_options(message: str, verb: Callable[..., None]) -> str:
    """Return a message that names the options of a verb in place of the package's arguments."""
    return _renamed(message, _options(verb))


def _options(verb: Callable[..., None]) -> set[str]:
    """Return the parameters of a verb that are options, not positional."""
    hints = get_type_hints(verb, include_extras=True)
    return {
        name
        for name, hint in hints.items()
        if not any(isinstance(part, ArgumentInfo) for part in getattr(hint, "__metadata__", ()))
    }


def _renamed(message: str, parameters: set[str]) -> str:
    names = {name: name for name in parameters}
    names |= {name: filled for name, filled in FILLED_FROM.items() if filled in parameters}
    # Longest first, lest a name be taken for the beginning of another.
    for name in sorted(names, key=len, reverse=True):
        option = _SPELLED.get(names[name], "--" + names[name].replace("_", "-"))
        # A word of one piece is also a word of English: an option only before " must" or "=".
        follows = "" if "_" in name else r"(?= must\b|=)"
        before = r"(?<![\w\-'\[./])"  # not within a word, a quotation, a path or another option
        argument = rf"{before}{name}(?![\w(./]\w){follows}"
        # As a training file writes it: key = 'x' and flag = true become what a shell takes.
        written = rf"{before}{name}(?![\w(./]\w) = "
        message = re.sub(rf"{written}true\b", option, message)
        message = re.sub(rf"{written}'([\w.:/-]+)'", rf"{option} \1", message)
        message = re.sub(rf"{written}(?=\S)", f"{option} ", message)
        message = re.sub(rf"{argument}=(?=\S)(?!True\b)", f"{option} ", message)
        message = re.sub(rf"{argument}(=True\b)?", option, message)
    return message
