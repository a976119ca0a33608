"""Make small models of schnetpack and record what it computes with them, in float64.

Run in an environment that has schnetpack 2.1 (``OMP_NUM_THREADS=1 python record_schnetpack.py``);
it writes ``tests/data/imports/schnetpack/``: the models as schnetpack saves them, and
``expected.json`` with structures, energies, forces and stress in the models' own units. The tests
replay them without schnetpack.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.utils.data.dataloader as dataloader

dataloader.T_co = object  # a name for type checkers that schnetpack 2.1 imports from old torch

import schnetpack as spk  # noqa: E402
from ase import Atoms  # noqa: E402
from ase.build import bulk, molecule  # noqa: E402
from schnetpack import properties  # noqa: E402
from schnetpack.task import AtomisticTask, ModelOutput  # noqa: E402
from schnetpack.transform import AddOffsets, ASENeighborList, CastTo64  # noqa: E402

FOLDER = Path(__file__).resolve().parents[1] / "data" / "imports" / "schnetpack"
CUTOFF = 4.2
KINDS = {
    "painn_gaussian": (spk.representation.PaiNN, spk.nn.GaussianRBF),
    "painn_bessel": (spk.representation.PaiNN, spk.nn.BesselRBF),
    "schnet_gaussian": (spk.representation.SchNet, spk.nn.GaussianRBF),
    "schnet_bessel": (spk.representation.SchNet, spk.nn.BesselRBF),
}
ELEMENTS = {1: -13.6, 6: -1029.5, 8: -2042.0, 11: -4.1, 14: -7.3, 17: -9.25}


def model(kind: str, seed: int) -> torch.nn.Module:
    """Return a model of random weights, its last layers not small, in float32 as trained ones."""
    torch.manual_seed(seed)
    representation, basis = KINDS[kind]
    offsets = AddOffsets("energy", add_mean=True, add_atomrefs=True)
    offsets.mean = torch.tensor([-3.1], dtype=torch.float64)
    offsets.atomref = torch.zeros(100, dtype=torch.float64)
    for z, energy in ELEMENTS.items():
        offsets.atomref[z] = energy
    made = spk.model.NeuralNetworkPotential(
        representation=representation(
            n_atom_basis=16,
            n_interactions=2,
            radial_basis=basis(n_rbf=8, cutoff=CUTOFF),
            cutoff_fn=spk.nn.CosineCutoff(CUTOFF),
        ),
        input_modules=[spk.atomistic.Strain(), spk.atomistic.PairwiseDistances()],
        output_modules=[
            spk.atomistic.Atomwise(n_in=16, output_key="energy"),
            spk.atomistic.Forces(calc_stress=True),
        ],
        postprocessors=[CastTo64(), offsets],
    )
    for parameter in made.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def structures() -> dict[str, Atoms]:
    """Return what the models are asked for."""
    rng = np.random.default_rng(0)
    silicon = bulk("Si", cubic=True)  # its cell is smaller than two cutoffs
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    ethanol, water = molecule("CH3CH2OH"), molecule("H2O")
    for atoms in (silicon, salt, ethanol, water):
        atoms.positions += rng.normal(scale=0.12, size=(len(atoms), 3))
    strain = np.eye(3) + 0.03 * rng.normal(size=(3, 3))
    silicon.set_cell(silicon.cell.array @ strain, scale_atoms=True)
    return {
        "silicon": silicon,
        "salt": salt,
        "ethanol": ethanol,
        "water": water,
        "carbon atom": Atoms("C", [[0.1, 0.2, 0.3]]),
    }


def numbers(made: torch.nn.Module, atoms: Atoms) -> dict[str, object]:
    """Return a structure, and what schnetpack says of it in float64."""
    converter = spk.interfaces.AtomsConverter(
        ASENeighborList(cutoff=CUTOFF), device="cpu", dtype=torch.float64
    )
    inputs = converter(atoms)
    outputs = made(inputs)
    record = {
        "symbols": list(atoms.symbols),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
        "energy": float(outputs["energy"]),
        "forces": outputs["forces"].tolist(),
    }
    if atoms.pbc.all():
        record["stress"] = outputs[properties.stress].reshape(3, 3).tolist()
    return record


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    expected = {}
    for seed, kind in enumerate(KINDS):
        made = model(kind, seed)
        torch.save(made, FOLDER / f"{kind}.model")
        double = torch.load(FOLDER / f"{kind}.model", weights_only=False).double()
        expected[kind] = {name: numbers(double, atoms) for name, atoms in structures().items()}
        print(kind, {name: record["energy"] for name, record in expected[kind].items()})
    made = torch.load(FOLDER / "painn_gaussian.model", weights_only=False)
    output = ModelOutput("energy", torch.nn.MSELoss(), metrics={})
    task = AtomisticTask(made, [output], optimizer_args={"lr": 1e-3})
    torch.save(
        {
            "epoch": 3,
            "pytorch-lightning_version": "2.0",
            "state_dict": task.state_dict(),
            "hyper_parameters": task.hparams,
            "callbacks": {},
        },
        FOLDER / "painn_gaussian.ckpt",
    )
    versions = {"schnetpack": spk.__version__, "torch": torch.__version__}
    text = json.dumps({"versions": versions, "models": expected})
    (FOLDER / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
