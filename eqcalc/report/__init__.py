"""One page that shows a run: figures, curves, the trajectory in three dimensions, settings.

What belongs here: reading the folder of a run for people, and the page itself. The page holds
all that it needs; the viewer is 3Dmol.js, whose file and licence lie in ``assets``.
"""

from __future__ import annotations

from pathlib import Path

from eqcalc.files import refuse_existing, write_whole
from eqcalc.report.page import page_of
from eqcalc.report.record import read_record
from eqcalc.simulate.run_folder import REPORT, refuse_run_files

__all__ = ["REPORT", "write_report"]


def write_report(
    folder: str | Path, output: str | Path | None = None, *, overwrite: bool = False
) -> Path:
    """Write the page of a run, from what its folder holds; return its path.

    A run that stopped early, failed or still goes on has a page too.

    Parameters
    ----------
    folder : of a run of molecular dynamics or a relaxation
    output : the file; by default ``report.html`` in the folder, of which an older one is replaced
    overwrite : replace the file that was named

    Raises
    ------
    ConfigError : it is no folder of a run; the file that was named is a run's own.
    OutputExistsError : the file that was named is there, and ``overwrite`` is false.
    OutputError : the page cannot be written.
    """
    path = Path(folder) / REPORT if output is None else Path(output)
    if output is not None:
        refuse_run_files([path])
        refuse_existing([path], overwrite)
    write_whole(path, page_of(read_record(folder)).encode())
    return path
