"""Give model files that are older than it the digest that ties their parts together.

    python models/stamp.py models/*/model.pt

Each file is checked and loaded before and after; a file that has the digest stays as it is.
"""

import sys
import warnings
from pathlib import Path

from eqcalc import load_model
from eqcalc.dynamics import Propagator
from eqcalc.files import write_whole
from eqcalc.model_file import open_model_file
from eqcalc.model_file.entries import stamp


def load(path: Path) -> None:
    """Load a file and replay its passport."""
    is_potential = open_model_file(path).card.kind == "potential"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the digest is missing
        load_model(path, device="cpu") if is_potential else Propagator(path, device="cpu")


for name in sys.argv[1:]:
    path = Path(name)
    if open_model_file(path).card.digest:
        print(f"{path}: has a digest")
        continue
    load(path)
    write_whole(path, stamp(path.read_bytes()))
    load(path)
    print(f"{path}: {open_model_file(path).card.digest}")
