"""Record on the card of a model that is older than it what its training data held.

    python models/record_seen.py models/painn-ethanol DATA ROWS

DATA and ROWS are those of the folder's train.toml. Weights and numbers stay as they are; the file
is loaded, and its passport replayed, before and after.
"""

import json
import sys
from pathlib import Path

from eqcalc import load_model
from eqcalc.data import read_dataset
from eqcalc.files import write_whole
from eqcalc.model_file import CARD, open_model_file
from eqcalc.model_file.entries import pack, read_entries, stamp
from eqcalc.model_file.seen import seen_in

folder, data, rows = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
path = folder / "model.pt"
load_model(path, device="cpu", engine="torchscript")
frames = (frame.atoms for frame in read_dataset(data, rows=rows).frames)
entries = read_entries(path.read_bytes())
card = json.loads(entries[f"extra/{CARD}"])
card["seen"] = seen_in(frames, card["cutoff"])
entries[f"extra/{CARD}"] = json.dumps(card, indent=1).encode()
write_whole(path, stamp(pack(entries)))
load_model(path, device="cpu", engine="torchscript")
known = open_model_file(path).card
write_whole(folder / "card.md", known.to_markdown().encode())
print(f"{path}: {known.seen_in_training}")
