"""schnetpack, an untrained PaiNN or SchNet of 128 channels and 3 blocks, 5 Å, float32.

python peer_schnetpack.py {painn,schnet} STRUCTURE_FILE
"""

import os
import sys
import tempfile
import typing

import torch
import torch.utils.data.dataloader as dataloader
from step_time import report

if not hasattr(dataloader, "T_co"):  # schnetpack 2.1 imports what newer torch has renamed
    dataloader.T_co = typing.TypeVar("T_co", covariant=True)

import schnetpack as spk
from schnetpack.transform import MatScipyNeighborList

CUTOFF = 5.0
kind, structure = sys.argv[1:]
torch.set_num_threads(1)
network = {"painn": spk.representation.PaiNN, "schnet": spk.representation.SchNet}[kind](
    n_atom_basis=128,
    n_interactions=3,
    radial_basis=spk.nn.GaussianRBF(n_rbf=20, cutoff=CUTOFF),
    cutoff_fn=spk.nn.CosineCutoff(CUTOFF),
)
model = spk.model.NeuralNetworkPotential(
    representation=network,
    input_modules=[spk.atomistic.PairwiseDistances()],
    output_modules=[spk.atomistic.Atomwise(n_in=128, output_key="energy"), spk.atomistic.Forces()],
)

# Its calculator reads a pickled model, which torch.load refuses unless told otherwise.
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "model.pt")
    torch.save(model.eval(), path)
    calculator = spk.interfaces.SpkCalculator(
        path,
        neighbor_list=MatScipyNeighborList(cutoff=CUTOFF),
        energy_key="energy",
        force_key="forces",
        energy_unit="eV",
        position_unit="Ang",
        device="cpu",
    )
report(calculator, structure)
