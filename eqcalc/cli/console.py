"""What the verbs print, and where."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

__all__ = ["report_error", "say", "say_pairs"]


def say(message: str, style: str = "") -> None:
    """Print a line on stdout, as it is: no markup, never broken in the middle of a path."""
    Console(highlight=False).print(Text(message, style=style), soft_wrap=True)


def say_pairs(pairs: dict[str, str]) -> None:
    """Print names and values in two columns."""
    width = max(map(len, pairs))
    for name, value in pairs.items():
        say(f"  {name:<{width}}  {value}")


def report_error(error: Exception) -> None:
    """Print ``error: message`` on stderr, in red where there are colours."""
    message = Text.assemble(("error: ", "bold red"), (str(error), "red"))
    Console(stderr=True, highlight=False).print(message, soft_wrap=True)
