"""Progress over the steps of a run: a bar on a terminal, a few lines elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

__all__ = ["StepProgress"]


class StepProgress:
    """Show how far a run is.

    Parameters
    ----------
    title : one word
    n_steps : where the run ends, or ends at the latest
    line_every : steps between two lines where stdout is not a terminal
    """

    def __init__(self, title: str, n_steps: int, line_every: int):
        self._console = Console(highlight=False)
        self._n_steps = n_steps
        self._line_every = max(1, line_every)
        self._next_line = 0
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=12),  # the line has to fit 80 columns
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=n_steps, values="")

    def show(self, step: int, values: str) -> None:
        """Report ``step`` and what is worth seeing at it."""
        if self._console.is_terminal:
            self._bar.update(self._task, completed=step, values=values)
        elif step >= self._next_line or step == self._n_steps:
            # flushed at once: a batch system's log is watched while it grows
            print(f"step {step}/{self._n_steps}  {values}", flush=True)
            self._next_line = (step // self._line_every + 1) * self._line_every

    def __enter__(self) -> StepProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
