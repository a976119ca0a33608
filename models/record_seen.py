"""Record on the card of a model that is older than it what its training data held.

    python models/record_seen.py models/painn-ethanol

The data are those of the folder's train.toml. Weights and numbers stay as they are; the file is
loaded, and its passport replayed, before and after. Where the frames of the passport are not
those that the training file leaves to validate on, the data or their draw have changed, and
nothing is written.
"""

import json
import sys
from pathlib import Path

import numpy as np

from eqcalc import load_model
from eqcalc.files import write_whole
from eqcalc.model_file import CARD, open_model_file
from eqcalc.model_file.entries import pack, read_entries, stamp
from eqcalc.model_file.passport import read_passport
from eqcalc.model_file.seen import seen_in
from eqcalc.model_file.trained_frames import trained_frames
from eqcalc.training.config import read_config
from eqcalc.training.data import read_training_data
from eqcalc.training.trained_rows import TRAINED_ROWS, rows_by_file

folder = Path(sys.argv[1])
path = folder / "model.pt"
load_model(path, device="cpu", engine="torchscript")
data = read_training_data(read_config(folder / "train.toml"))
proofs = read_passport(open_model_file(path)).frames
for proof, frame in zip(proofs, data.validation.frames, strict=False):
    if not np.allclose(proof.positions, frame.atoms.positions, rtol=0.0, atol=1e-6):
        sys.exit(f"{path}: its passport has other frames than {folder / 'train.toml'} says")
trained = [frame.atoms for frame in data.train.frames]
entries = read_entries(path.read_bytes())
card = json.loads(entries[f"extra/{CARD}"])
card["seen"] = card["seen"] or seen_in(trained, card["cutoff"])
card["trained_frames"] = trained_frames(trained)
card["training_data"][TRAINED_ROWS] = rows_by_file(data.train.frames)
entries[f"extra/{CARD}"] = json.dumps(card, indent=1).encode()
write_whole(path, stamp(pack(entries)))
load_model(path, device="cpu", engine="torchscript")
known = open_model_file(path).card
write_whole(folder / "card.md", known.to_markdown().encode())
print(f"{path}: {len(trained)} frames, {known.seen_in_training}")
