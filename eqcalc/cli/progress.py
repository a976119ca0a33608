"""Progress over the steps of a run: a bar on a terminal, a few lines elsewhere."""

from __future__ import annotations

import errno
from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from eqcalc.cli.console import has_lost_reader, is_quiet, is_unread, text_console
from eqcalc.errors import OutputError

__all__ = ["Bar", "StepProgress", "print_line"]


class Bar(Progress):
    """A bar with ``values`` beside it, in 80 columns; nothing with ``--quiet`` or in a file."""

    def __init__(self) -> None:
        console = text_console()
        super().__init__(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal or is_quiet(),
        )

    def stop(self) -> None:
        """End it; before rich 14.3 one that was never shown leaves an empty line."""
        if not self.disable:
            super().stop()


class StepProgress:
    """Show how far a run is; nothing with ``--quiet``.

    Parameters
    ----------
    title : one word
    n_steps : where the run ends, or ends at the latest
    line_every : steps between two lines where the output is not a terminal
    """

    def __init__(self, title: str, n_steps: int, line_every: int):
        self._bar = Bar()
        self._console = self._bar.console
        self._n_steps = n_steps
        self._line_every = max(1, line_every)
        self._next_line = 0
        self._task = self._bar.add_task(title, total=n_steps, values="")

    def show(self, step: int, values: str) -> None:
        """Report ``step`` and what is worth seeing at it.

        Raises
        ------
        BrokenPipeError : nobody reads any more (``| head``).
        """
        if is_quiet():
            return
        if has_lost_reader():  # seen at once, though the next line may be hours away
            raise BrokenPipeError(errno.EPIPE, "nobody reads the output any more")
        if self._console.is_terminal:
            self._bar.update(self._task, completed=step, values=values)
        elif step >= self._next_line or step == self._n_steps:
            self._next_line = (step // self._line_every + 1) * self._line_every
            print_line(f"step {step}/{self._n_steps}  {values}")

    def say(self, line: str) -> None:
        """Print a line of its own, above the bar where there is one.

        Raises
        ------
        See :func:`print_line`.
        """
        if is_quiet():
            return
        if self._console.is_terminal:
            self._bar.console.print(Text(line), soft_wrap=True)
        else:
            print_line(line)

    @property
    def has_bar(self) -> bool:
        """Whether a bar is shown, which tells the time left by itself."""
        return self._console.is_terminal

    def __enter__(self) -> StepProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._bar.stop()
        except OSError as broken:  # the terminal was closed meanwhile
            if not is_unread(broken):
                raise


def print_line(line: str) -> None:
    """Print a line of progress at once: a batch system's log is watched while it grows.

    On a terminal that was closed nothing is printed: who should stop then gets SIGHUP.

    Raises
    ------
    BrokenPipeError : the reader of a pipe has gone.
    OutputError : the line cannot be written, as on a full disk.
    """
    try:
        print(line, file=text_console().file, flush=True)
    except OSError as error:
        if not is_unread(error):
            raise OutputError(f"cannot print progress: {error.strerror or error}.") from error
        if error.errno == errno.EPIPE:
            raise BrokenPipeError(error.errno, "nobody reads the output any more") from error
