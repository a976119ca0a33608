"""What ``eqcalc info`` says of an architecture: its options, defaults and published values."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import asdict, fields
from typing import Any, NamedTuple

__all__ = ["OptionGroup", "describe", "option_groups", "print_architecture", "print_architectures"]


class OptionGroup(NamedTuple):
    """Options that the docstring of a Config explains together."""

    names: tuple[str, ...]
    meaning: str


def option_groups(config: type) -> list[OptionGroup]:
    """Return a Config's options in its docstring's order, undocumented ones last.

    An entry is ``name, name : meaning``; several on a line are separated by semicolons.

    >>> from eqcalc.architectures import config_class
    >>> option_groups(config_class("gmn"))[2]
    OptionGroup(names=('hidden_dim',), meaning='channels F')
    """
    known = [field.name for field in fields(config)]
    text = re.sub(r"\n +", " ", inspect.cleandoc(config.__doc__ or ""))
    word = "|".join(map(re.escape, known))
    entry = re.compile(rf"(?:^|; )((?:{word})(?:, (?:{word}))*) : ", re.MULTILINE)
    found = list(entry.finditer(text))
    groups = []
    for match, following in zip(found, [*found[1:], None], strict=True):
        meaning = text[match.end() : following.start() if following else len(text)]
        names = tuple(match[1].split(", "))
        groups.append(OptionGroup(names, meaning.partition("\n")[0].strip().rstrip(".")))
    documented = {name for group in groups for name in group.names}
    return groups + [OptionGroup((name,), "") for name in known if name not in documented]


def describe(name: str) -> dict[str, Any]:
    """Return what there is to say of an architecture, ready for JSON."""
    from eqcalc import architectures

    config = architectures.config_class(name)
    defaults, published = asdict(config()), asdict(architectures.published(name))
    network = architectures.load(name)
    title, source = _title_and_source(network)
    common = {field: name for name, field in architectures.common_names(config).items()}
    meanings = {n: group.meaning for group in option_groups(config) for n in group.names}
    return {
        "architecture": network.__name__.lower(),
        "title": title,
        "source": source,
        "is_potential": architectures.is_potential(name),
        "options": {
            option: {
                "default": defaults[option],
                "published": published[option],
                "meaning": meanings[option],
                "common_name": common.get(option),
            }
            for option in defaults
        },
    }


def print_architectures() -> None:
    """Print one line for each architecture; of a broken one, what is wrong with it."""
    from eqcalc import architectures
    from eqcalc.cli.console import say
    from eqcalc.errors import EqcalcError

    say("Architectures (eqcalc info NAME shows the options of one):")
    for name in architectures.available():
        try:
            line = _title_and_source(architectures.load(name))[0]
        except EqcalcError as error:
            line = f"broken: {error}"
        say(f"  {name:<9}  {line}".rstrip())


def print_architecture(name: str) -> None:
    """Print the options of an architecture: default, published value, meaning."""
    from rich.table import Table
    from rich.text import Text

    from eqcalc import architectures
    from eqcalc.cli.console import say, show

    content = describe(name)
    config = architectures.config_class(name)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("option", "default", "published", "meaning"):
        table.add_column(column, no_wrap=column != "meaning")
    for group in option_groups(config):
        options = [content["options"][option] for option in group.names]
        cells = ["\n".join(group.names)]
        cells += ["\n".join(_shown(o[key]) for o in options) for key in ("default", "published")]
        also = [
            o["common_name"] + f" for {option}" * (len(group.names) > 1)
            for option, o in zip(group.names, options, strict=True)
            if o["common_name"] is not None
        ]
        meaning = group.meaning + f" (also: {', '.join(also)})" * bool(also)
        table.add_row(*map(Text, [*cells, meaning.strip()]))
    say(content["title"])
    say(content["source"])
    say(_first_line(config))
    say("")
    show(table)


def _title_and_source(network: type) -> tuple[str, str]:
    paragraphs = inspect.cleandoc(sys.modules[network.__module__].__doc__ or "").split("\n\n")
    source = paragraphs[1] if len(paragraphs) > 1 and paragraphs[1].startswith("Source:") else ""
    source = " ".join(source.split()).partition("; equation numbers")[0]
    return paragraphs[0], _without_roles(source)


def _first_line(config: type) -> str:
    return _without_roles(inspect.cleandoc(config.__doc__ or "").partition("\n")[0])


def _without_roles(text: str) -> str:
    return re.sub(r":\w+:`([\w.]+)`", r"\1", text)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
