"""Python in a process of its own: what may crash, or may never end, is tried there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Answer", "ask", "first_that_fails"]

_PATIENCE = 300.0  # s; imports from a network's file system are slow
_IMPORTS = """
import importlib
for name in words:
    print(name, flush=True)
    importlib.import_module(name)
print("all", flush=True)
"""


class Answer(NamedTuple):
    """What a program printed, and why it failed; "" where it did not."""

    lines: list[str]
    failure: str


def ask(program: str, *words: str) -> Answer:
    """Run a program with this process's Python and import path; ``words`` is a list in it."""
    start = "import json, sys; sys.path[:], words = json.loads(sys.argv[1])\n"
    try:
        done = subprocess.run(
            [sys.executable, "-c", start + program, json.dumps([sys.path, words])],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except OSError as error:
        return Answer([], f"Python cannot be started, '{sys.executable}': {error}")
    except subprocess.TimeoutExpired:
        return Answer([], f"no answer within {_PATIENCE:g} s")
    lines = done.stdout.splitlines()
    if done.returncode == 0:
        return Answer(lines, "")
    if done.returncode < 0:
        return Answer(lines, f"the process was killed by {_name_of(-done.returncode)}")
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return Answer(lines, said[-1] if said else f"the process ended with {done.returncode}")


def first_that_fails(modules: Sequence[str]) -> tuple[str, str] | None:
    """Import modules one after the other; return the first that fails, and why."""
    answer = ask(_IMPORTS, *modules)
    if not answer.failure:
        return None
    return (answer.lines[-1] if answer.lines else "python"), answer.failure


def _name_of(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    meaning = {"SIGILL": " (code for another processor)", "SIGKILL": " (often: out of memory)"}
    return name + meaning.get(name, "")
