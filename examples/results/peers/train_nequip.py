"""nequip's training by its own ``nequip-train``; NequIP of nequip_training.yaml.

python train_nequip.py FRAMES.xyz N_TRAIN BATCH_SIZE N_EPOCHS FOLDER {eager,compile} [DEVICE]
"""

import sys
from pathlib import Path

import torch
from ase.io import read
from nequip.scripts.train import main

frames, n_train, batch_size, n_epochs, folder, mode, *device = sys.argv[1:]
torch.set_num_threads(1)
sys.argv = [
    "nequip-train",
    "-cp",
    str(Path(__file__).parent.resolve()),
    "-cn",
    "nequip_training",
    f"hydra.run.dir={Path(folder).resolve()}",
    f"xyz={Path(frames).resolve()}",
    f"n_train={n_train}",
    f"n_test={len(read(frames, ':')) - int(n_train) - 2}",  # it wants to know of all
    f"batch_size={batch_size}",
    f"n_epochs={n_epochs}",
    f"compile_mode={mode}",
    f"accelerator={(device or ['cpu'])[0]}",
]
main()
