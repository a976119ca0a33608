"""schnetpack's training by its own task and data module; PaiNN, 128 channels, 3 blocks, 5 Å.

python train_schnetpack.py FRAMES.xyz N_TRAIN BATCH_SIZE N_EPOCHS FOLDER {lists,cached} [DEVICE]

``cached`` keeps the neighbour lists of the first epoch (its ``CachedNeighborList``).
"""

import os
import sys
import typing
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.utils.data.dataloader as dataloader
import torchmetrics
from ase.io import read
from batch_clock import BatchClock

if not hasattr(dataloader, "T_co"):  # schnetpack 2.1 imports what newer torch has renamed
    dataloader.T_co = typing.TypeVar("T_co", covariant=True)

import schnetpack as spk
from schnetpack import transform

CUTOFF = 5.0
frames, n_train, batch_size, n_epochs, folder, mode, *device = sys.argv[1:]
device = (device or ["cpu"])[0]
torch.set_num_threads(1)
folder = Path(folder).resolve()
atoms_list = read(frames, ":")
os.chdir(folder)  # it leaves a lock of its split where it runs
dataset = spk.data.ASEAtomsData.create(
    str(folder / "frames.db"),
    distance_unit="Ang",
    property_unit_dict={"energy": "eV", "forces": "eV/Ang"},
)
dataset.add_systems(
    [{"energy": [a.get_potential_energy()], "forces": a.get_forces()} for a in atoms_list],
    atoms_list,
)
lists = transform.MatScipyNeighborList(cutoff=CUTOFF)
if mode == "cached":
    lists = transform.CachedNeighborList(str(folder / "lists"), lists, keep_cache=False)
data = spk.data.AtomsDataModule(
    str(folder / "frames.db"),
    batch_size=int(batch_size),
    num_train=int(n_train),
    num_val=2,
    num_test=len(atoms_list) - int(n_train) - 2,
    transforms=[
        transform.RemoveOffsets("energy", remove_mean=True, remove_atomrefs=False),
        lists,
        transform.CastTo32(),
    ],
    split_file=None,
    num_workers=0,
    pin_memory=device != "cpu",
)
model = spk.model.NeuralNetworkPotential(
    representation=spk.representation.PaiNN(
        n_atom_basis=128,
        n_interactions=3,
        radial_basis=spk.nn.GaussianRBF(n_rbf=20, cutoff=CUTOFF),
        cutoff_fn=spk.nn.CosineCutoff(CUTOFF),
    ),
    input_modules=[spk.atomistic.PairwiseDistances()],
    output_modules=[spk.atomistic.Atomwise(n_in=128, output_key="energy"), spk.atomistic.Forces()],
    postprocessors=[
        transform.CastTo64(),
        transform.AddOffsets("energy", add_mean=True, add_atomrefs=False),
    ],
)
task = spk.task.AtomisticTask(
    model=model,
    outputs=[
        spk.task.ModelOutput(
            name=name,
            loss_fn=torch.nn.MSELoss(),
            loss_weight=1.0,
            metrics={"MAE": torchmetrics.MeanAbsoluteError()},
        )
        for name in ("energy", "forces")
    ],
    optimizer_cls=torch.optim.AdamW,
    optimizer_args={"lr": 1e-3},
)
clock = BatchClock(int(batch_size))


class Ends(pl.Callback):
    """Note the ends of batches."""

    def on_train_batch_end(self, trainer, *_):
        clock.note(trainer.current_epoch)


pl.Trainer(
    accelerator=device,
    devices=1,
    max_epochs=int(n_epochs),
    default_root_dir=str(folder),
    callbacks=[Ends(), spk.train.ExponentialMovingAverage(decay=0.999)],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    num_sanity_val_steps=0,
).fit(task, datamodule=data)
clock.report()
