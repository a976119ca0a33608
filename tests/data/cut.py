"""Cut the small data files of this repository from the whole data sets.

python tests/data/cut.py DATA [REPOSITORY]

DATA is a folder with the whole sets as ``rmd17/``, ``3bpa/``, ``water/`` and ``silicon/``;
README.md beside this script says where they come from. The second folder is where the files
go, by default this repository. The same data give the same bytes.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

RMD17_ETHANOL = "rmd17/npz_data/rmd17_ethanol.npz"

ETHANOL_TEST_SET = "examples/data/ethanol_rmd17_test.npz"
TEST_ROWS = slice(1000, 2000)

WHOLE_TEST_SETS = {
    # compressed, as they are given away with the models that they judge
    "examples/data/silicon_mlearn_test.xyz.gz": "silicon/test.xyz",
    "examples/data/water_revpbe0d3_test.xyz.gz": "water/test.xyz",
}

FRAMES = {
    # file: (source, frames from 0, the isolated atoms counted)
    "tests/data/3bpa_frames.xyz": ("3bpa/train_300K.xyz", range(8)),
    "tests/data/water_frame.xyz": ("water/train.xyz", [0]),
    "tests/data/silicon_frames.xyz": ("silicon/train.xyz", [0, 65, 190]),
}


def cut(data: Path, repository: Path) -> list[Path]:
    """Write every file, and return the paths."""
    ethanol = repository / ETHANOL_TEST_SET
    ethanol.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(ethanol, **rows_1000_to_1999(data / RMD17_ETHANOL))
    written = [ethanol]
    for name, source in WHOLE_TEST_SETS.items():
        path = repository / name
        path.write_bytes(gzip.compress((data / source).read_bytes(), 9, mtime=0))
        written.append(path)
    for name, (source, wanted) in FRAMES.items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = list(frame_texts((data / source).read_text()))
        path.write_text("".join(texts[k] for k in wanted))
        written.append(path)
    return written


def rows_1000_to_1999(archive: Path) -> dict[str, np.ndarray]:
    """Return rMD17's test rows under the archive's own keys, without MD17's labels.

    Coordinates are rounded to float32, as the forces are in the archive: 1e-7 Å. Energies
    stay as they are; in float32 they would be wrong by 0.2 meV.
    """
    with np.load(archive, allow_pickle=False) as file:
        return {
            "nuclear_charges": file["nuclear_charges"],
            "coords": file["coords"][TEST_ROWS].astype(np.float32),
            "energies": file["energies"][TEST_ROWS],
            "forces": file["forces"][TEST_ROWS],
            "old_indices": file["old_indices"][TEST_ROWS].astype(np.int32),
        }


def frame_texts(text: str) -> Iterator[str]:
    """Yield the frames of an extxyz file as they stand."""
    lines = text.splitlines(keepends=True)
    start = 0
    while start < len(lines):
        end = start + 2 + int(lines[start])
        yield "".join(lines[start:end])
        start = end


def main(words: Sequence[str]) -> None:
    """Cut from the folder that the first word names into the one of the second."""
    if not 1 <= len(words) <= 2:
        sys.exit("usage: python tests/data/cut.py DATA [REPOSITORY]")
    repository = Path(words[1]) if len(words) > 1 else Path(__file__).parents[2]
    for path in cut(Path(words[0]), repository):
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
