"""What the verbs print, and where.

Without options all of it goes to stdout. With ``--json`` stdout holds one object and nothing
else, and what is meant for people goes to stderr. With ``--quiet`` progress and summaries are
left out; notes and errors stay, on stderr, and so does what was asked for (a table, an object).
"""

from __future__ import annotations

import errno
import json
import math
import os
import select
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from eqcalc.errors import OutputError

__all__ = [
    "be_quiet",
    "begin",
    "finite",
    "has_lost_reader",
    "is_quiet",
    "is_unread",
    "note",
    "print_json",
    "report_error",
    "say",
    "say_pairs",
    "show",
    "talk_on_stderr",
    "text_console",
    "working",
]


class _Mode:
    """What the options of the present call say; :func:`begin` resets it."""

    quiet = False
    on_stderr = False


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, "nobody reads the output any more")


def begin() -> None:
    """Begin a call of the command line: everything is printed, on stdout."""
    _Mode.quiet = _Mode.on_stderr = False


def be_quiet(wanted: bool) -> bool:
    """Leave out progress and summaries, if wanted; return it, as an option's callback must."""
    _Mode.quiet = _Mode.quiet or wanted
    return wanted


def is_quiet() -> bool:
    """Tell whether progress and summaries are left out."""
    return _Mode.quiet


def talk_on_stderr(wanted: bool) -> bool:
    """Keep stdout for what a program reads, if wanted; return it."""
    _Mode.on_stderr = _Mode.on_stderr or wanted
    return wanted


def text_console(**options: Any) -> Console:
    """Return where text for people goes."""
    return _Console(stderr=_Mode.on_stderr, highlight=False, **options)


def is_unread(error: OSError) -> bool:
    """Tell a closed pipe or terminal, for whom nothing is printed any more, from a full disk.

    What is printed later to the closed one goes nowhere, without an error.
    """
    if error.errno not in (errno.EPIPE, errno.EIO):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    return True


def has_lost_reader() -> bool:
    """Tell whether text for people goes into a pipe whose reader has gone."""
    stream = text_console().file
    if not hasattr(select, "poll"):
        return False
    try:
        number = stream.fileno()
        if not stat.S_ISFIFO(os.fstat(number).st_mode):
            return False
    except OSError:  # not a file of the system's
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def say(message: str, style: str = "") -> None:
    """Print a line as it is: no markup, never broken in the middle of a path."""
    if not _Mode.quiet:
        _print(text_console(), Text(message, style=style), soft_wrap=True)


def note(message: str) -> None:
    """Print, quiet or not, what the user must know to judge the results."""
    console = _Console(stderr=_Mode.on_stderr or _Mode.quiet, highlight=False)
    _print(console, Text(message, style="yellow"), soft_wrap=True)


def say_pairs(pairs: Mapping[str, str]) -> None:
    """Print names and values in two columns."""
    width = max(map(len, pairs))
    for name, value in pairs.items():
        say(f"  {name:<{width}}  {value}")


def show(result: RenderableType, **options: Any) -> None:
    """Print, quiet or not, a result that was asked for, such as a table."""
    _print(text_console(**options), result)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say that something goes on which takes a while; on a terminal until it is done."""
    console = _Console(stderr=True, highlight=False)
    if _Mode.quiet:
        yield
    elif console.is_terminal:
        with console.status(f"{what} ...", spinner="line"):
            yield
    else:
        _print(console, Text(f"{what} ..."), soft_wrap=True)
        yield


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; a number that is not finite becomes null."""
    text = json.dumps(finite(content), indent=2)
    _print(_Console(highlight=False), Text(text), soft_wrap=True)


def report_error(error: Exception) -> None:
    """Print ``error: message`` on stderr, in red where there are colours."""
    message = Text.assemble(("error: ", "bold red"), (str(error), "red"))
    _print(_Console(stderr=True, highlight=False), message, soft_wrap=True)


def _print(console: Console, what: RenderableType, **options: Any) -> None:
    """Print, or do nothing where nobody reads: the result of a run does not depend on it."""
    try:
        console.print(what, **options)
    except OSError as error:
        if not is_unread(error):
            raise OutputError(f"cannot print: {error.strerror or error}.") from error


def finite(value: Any) -> Any:
    """Return content of JSON, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        return finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
