"""Frames of any files in one file of another format, each with the labels that it has."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from eqcalc.data.data_files import DataPath, find_files
from eqcalc.data.frames import Dataset, LabelRequest, have_label, lacking_labels
from eqcalc.data.readers import WholeFrames, read_whole_frames, refuse_implausible
from eqcalc.data.rows import Rows
from eqcalc.data.writers import write_frames, writer_of
from eqcalc.errors import DataError, DataWarning
from eqcalc.files import refuse_own_input, require_folders

__all__ = ["Conversion", "convert"]


@dataclass(frozen=True, eq=False)
class Conversion:
    """What a conversion wrote, and what it did not.

    dataset : the frames that were written
    lacking : label -> names of the frames that were written without it, where others have it
    left_out : names of the frames that are not in the file, with ``complete_only``
    lost_info : entries of the frames' info that the format does not hold as they were
    """

    dataset: Dataset
    lacking: dict[str, list[str]]
    left_out: list[str]
    lost_info: list[str]

    @property
    def labels(self) -> list[str]:
        """The labels that any frame of the file has."""
        frames = self.dataset.frames
        return ["energy", *(label for label in ("forces", "stress") if have_label(frames, label))]


def convert(
    path: DataPath,
    output: Path,
    request: LabelRequest,
    *,
    rows: Rows = None,
    complete_only: bool = False,
    trust_data: bool = False,
) -> Conversion:
    """Read frames, isolated atoms included, and write them in eV and Å.

    Parameters
    ----------
    path, rows, trust_data : as of :func:`eqcalc.data.read_dataset`
    output : its suffix chooses the format, see ``eqcalc.data.writers.WRITERS``; an older file is
        replaced in one step
    complete_only : leave out what a training refuses: frames without an energy, with values that
        are not finite, or without forces or a stress among others that have them

    Raises
    ------
    ConfigError : an option makes no sense for a file, or the output is a file that is read.
    DataError : a file or frame cannot be read, or no frame is complete.
    OutputError : the file cannot be written where it shall be, or does not hold what was written.

    Warns
    -----
    DataWarning : for each note of the data set.
    """
    writer_of(output)  # what is wrong with the output is said before anything is read
    require_folders([output])
    # A pattern such as "*.xyz" would, the second time, take the frames of the output besides.
    refuse_own_input([output], find_files(path))
    whole = read_whole_frames(path, request, rows=rows, exclude_isolated=False)
    if whole.refused is not None and not complete_only:
        raise DataError(
            f"{whole.refused} complete_only=True leaves out {_counted(len(whole.unread))} that "
            "cannot be used."
        )
    dataset, left_out = whole.dataset, [str(origin) for origin in whole.unread]
    if complete_only:
        dataset, left_out = _complete(whole)
    dataset = refuse_implausible(dataset, trust_data)
    for note in dataset.notes:
        warnings.warn(note, DataWarning, stacklevel=2)
    written = write_frames(output, dataset.frames)
    lacking = {k: [str(f.origin) for f in v] for k, v in lacking_labels(dataset.frames).items()}
    return Conversion(dataset, lacking, left_out, written.lost_info)


def _complete(whole: WholeFrames) -> tuple[Dataset, list[str]]:
    """Return the frames that lack nothing which others have, and the names of the others."""
    frames = whole.dataset.frames
    lacking = {id(frame) for found in lacking_labels(frames).values() for frame in found}
    kept = [k for k, frame in enumerate(frames) if id(frame) not in lacking]
    if not kept:
        raise DataError(
            f"no frame of {whole.dataset.source} has every label that others have; leave "
            "complete_only out to keep what each frame has."
        )
    left_out = [str(origin) for origin in whole.unread]
    return whole.dataset.subset(kept), left_out + [
        str(frame.origin) for frame in frames if id(frame) in lacking
    ]


def _counted(n: int) -> str:
    return "the frame" if n == 1 else f"the {n} frames"
