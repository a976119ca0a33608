"""What ``eqcalc train --help-config`` says of a training file: every key of every section."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from types import MappingProxyType
from typing import Any, get_type_hints

from eqcalc.cli.architecture_options import option_groups

__all__ = ["key_meanings", "print_config_help"]

_WIDTH = 80


def print_config_help() -> None:
    """Print type, default and meaning of every key that a training file may have."""
    from eqcalc.cli.console import show
    from eqcalc.training.config import OF_NO_FILE, SECTIONS, TrainingConfig

    lines = ["A training file is TOML; its keys and their defaults:", ""]
    sections = {"architecture", *SECTIONS}
    lines += _section(TrainingConfig, {*OF_NO_FILE, *sections})
    for name, options in SECTIONS.items():
        inner = {other.rpartition(".")[2] for other in SECTIONS if other.startswith(f"{name}.")}
        title = (options.__doc__ or "").partition(": ")[2].partition("\n")[0].rstrip(".")
        lines += ["", f"[{name}]  {title}", *_section(options, inner)]
    lines += ["", *_architectures()]
    show("\n".join(lines), markup=False, emoji=False, soft_wrap=True)


def key_meanings(options: type) -> dict[str, str]:
    """Return what the docstrings of a section's dataclass and its bases say of every key."""
    found: dict[str, str] = {}
    for each in reversed(options.__mro__[:-1]):
        for group in option_groups(each):
            found |= {name: group.meaning for name in group.names if group.meaning}
    return found


def _section(
    options: type, without: Collection[str] = (), also: Mapping[str, str] = MappingProxyType({})
) -> Iterator[str]:
    """Yield the lines of a section's keys; ``also`` are other names of some."""
    meanings, hints = key_meanings(options), get_type_hints(options)
    # What must be given comes first.
    for each in sorted(fields(options), key=lambda field: field.default is not MISSING):
        if each.name not in without:
            other = (
                f" (also: {also[each.name]})" if also.get(each.name, each.name) != each.name else ""
            )
            yield from _entry(
                each.name, hints[each.name], _default(each), meanings.get(each.name, "") + other
            )


def _entry(name: str, hint: Any, default: str, meaning: str) -> Iterator[str]:
    from eqcalc.training.sections import type_name

    kind = re.sub(r"\ban? ", "", type_name(hint))
    yield f"  {name}: {kind}{default}"
    indent = 6 * " "
    text = re.sub(r":\w+:`([\w.]+)`", r"\1", meaning).replace("``", "")
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _default(field: Field[Any]) -> str:
    from eqcalc.training.overrides import to_toml

    if field.default is MISSING:
        return ", required"
    if field.default is None:
        return ""
    return " = " + to_toml({"x": field.default}).partition("= ")[2].strip()


def _architectures() -> Iterator[str]:
    """Say which networks there are, and the options of each."""
    from eqcalc import architectures

    networks = [name for name in architectures.available() if architectures.is_potential(name)]
    yield "[architecture]  the network, and its options"
    yield from _entry("name", str, ", required without start_from", ", ".join(networks))
    own = "the Python file of a network that is not eqcalc's own"
    yield from _entry("file", str, "", own)
    for name in networks:
        config = architectures.config_class(name)
        yield from ("", f'[architecture]  with name = "{name}"')
        also = {option: common for common, option in architectures.common_names(config).items()}
        yield from _section(config, also=also)
