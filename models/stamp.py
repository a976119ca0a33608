"""Give older model files what a new export has: the digest, and no paths of its maker's folders.

    python models/stamp.py models/*/model.pt

Each file is checked and loaded before and after; a file that has nothing to gain stays as it is.
"""

import sys
import warnings
from pathlib import Path

from eqcalc import load_model
from eqcalc.dynamics import Propagator
from eqcalc.files import write_whole
from eqcalc.model_file import open_model_file
from eqcalc.model_file.entries import pack, read_entries, stamp, without_sources


def load(path: Path) -> None:
    """Load a file and replay its passport."""
    is_potential = open_model_file(path).card.kind == "potential"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the digest is missing
        load_model(path, device="cpu") if is_potential else Propagator(path, device="cpu")


for name in sys.argv[1:]:
    path = Path(name)
    entries = read_entries(path.read_bytes())
    clean = without_sources(entries)
    if open_model_file(path).card.digest and clean == entries:
        print(f"{path}: is up to date")
        continue
    load(path)
    write_whole(path, stamp(pack(clean)))
    load(path)
    print(f"{path}: {open_model_file(path).card.digest}")
