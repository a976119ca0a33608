"""eqcalc's training, by its own trainer.

python train_ours.py {painn,nequip} FRAMES.xyz N_TRAIN BATCH_SIZE N_EPOCHS FOLDER MODE [DEVICE]

MODE is kernels or compiled; on a GPU the former has none, and is torch operations alone.
"""

import sys
from pathlib import Path

import torch
from batch_clock import BatchClock

from eqcalc.training.config import read_config
from eqcalc.training.reports import Report
from eqcalc.training.run import train

OPTIONS = {
    "painn": "embedding_dim = 128\nnum_blocks = 3\nnum_radial_basis = 20",
    "nequip": "num_features = 32\nl_max = 2\nparity = true\nnum_layers = 4\n"
    "num_bessels = 8\nradial_mlp_depth = 1\nradial_mlp_width = 128",
}

kind, frames, n_train, batch_size, n_epochs, folder, mode, *device = sys.argv[1:]
torch.set_num_threads(1)
path = Path(folder) / "train.toml"
path.write_text(
    f"""name = "{kind}"
[data]
path = "{Path(frames).resolve()}"
train_rows = "0:{n_train}"
validation_rows = "{n_train}:{int(n_train) + 2}"
[architecture]
name = "{kind}"
{OPTIONS[kind]}
cut_off = 5.0
[training]
batch_size = {batch_size}
max_epochs = {n_epochs}
learning_rate = 1e-3
compile = {str(mode == "compiled").lower()}
accelerator = "{(device or ["cpu"])[0]}"
"""
)
clock = BatchClock(int(batch_size))


def note(report: Report) -> None:
    """Note a batch that has ended."""
    if report.batch > 0 and not report.event:
        clock.note(report.epoch)


train(read_config(path), Path(folder) / "run", overwrite=True, progress=note)
clock.report()
