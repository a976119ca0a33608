"""Keep files that this version writes, for every later one to read.

    python tests/data/kept/keep.py

Writes into a folder of the version's name: a model of every architecture, a propagator, a run that
was stopped half way with what it would have come to, and a training. tests/unit/test_upgrade.py
reads all such folders. A folder that is there is left alone: what a version wrote, it wrote.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import ase.io
import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # small_models

from small_models import ETHANOL_FRAMES, POTENTIALS, small_options  # noqa: E402

import eqcalc  # noqa: E402
from eqcalc import EqCalculator  # noqa: E402
from eqcalc.architectures import build  # noqa: E402
from eqcalc.dynamics import GMNDynamics, Propagator, export_propagator  # noqa: E402
from eqcalc.export import export_model  # noqa: E402
from eqcalc.potential import Potential  # noqa: E402
from eqcalc.simulate import MDSettings, run_md  # noqa: E402
from eqcalc.simulate.checkpoint import CHECKPOINT  # noqa: E402
from eqcalc.training.config import read_config  # noqa: E402
from eqcalc.training.finish import export_run  # noqa: E402
from eqcalc.training.run import train  # noqa: E402
from eqcalc.training.training_folder import TrainingFolder  # noqa: E402

REFERENCES = {"H": -13.6, "C": -1029.5, "O": -2042.0}
N_STEPS, N_STOPPED = 20, 12
TRAINING = """\
name = "tiny"
seed = 1
[data]
path = "frames.xyz"
train_rows = "0:4"
validation_rows = "4:6"
[architecture]
name = "painn"
n_channels = 8
n_layers = 1
n_radial_basis = 6
cutoff = 4.0
[training]
batch_size = 2
max_epochs = 2
"""


def main() -> None:
    """Write the folder of this version."""
    folder = HERE / eqcalc.__version__
    if folder.exists():
        raise SystemExit(f"{folder} is there; remove it if this version was never released.")
    (folder / "models").mkdir(parents=True)
    kept = {
        "models": {name: keep_model(name, folder / "models" / f"{name}.pt") for name in POTENTIALS},
        "propagator": keep_propagator(folder / "models" / "propagator.pt"),
        "run": keep_run(folder / "run", folder / "models" / "painn.pt"),
        "training": keep_training(folder / "training"),
    }
    (folder / "expected.json").write_text(json.dumps(kept, indent=1) + "\n")


def structure() -> ase.Atoms:
    """Return the ethanol that all is calculated for."""
    atoms = ase.io.read(ETHANOL_FRAMES, index=0)
    return ase.Atoms(atoms.numbers, atoms.positions)


def results(path: Path) -> dict[str, object]:
    """Return what a model gives."""
    atoms = structure()
    atoms.calc = EqCalculator(path, device="cpu", engine="torchscript")
    return {"energy": float(atoms.get_potential_energy()), "forces": atoms.get_forces().tolist()}


def keep_model(name: str, path: Path) -> dict[str, object]:
    """Export a small network of random weights."""
    torch.manual_seed(0)
    network = build(name, **small_options(name)).double()
    export_model(Potential(network, REFERENCES).eval(), path, elements=REFERENCES)
    return results(path)


def keep_propagator(path: Path) -> dict[str, object]:
    """Export a small propagator; return a state after two steps."""
    torch.manual_seed(0)
    dynamics = GMNDynamics(hidden_dim=8, num_layers=2).double()
    export_propagator(
        dynamics,
        path,
        timestep=0.5,
        description="kept",
        training_data={"samples": 1},
        errors={"position_mse": 1.0},
        licence="MIT",
    )
    atoms = particles()
    Propagator(path, device="cpu").run(atoms, 2, OBJECTS)
    return {"positions": atoms.positions.tolist(), "momenta": atoms.get_momenta().tolist()}


OBJECTS = {"isolated": [0], "stick": [[1], [2]], "hinge": [[3], [4], [5]]}


def particles() -> ase.Atoms:
    """Return a particle, a stick and a hinge."""
    rng = np.random.default_rng(1)
    atoms = ase.Atoms("X6", rng.normal(size=(6, 3)), charges=[1, -1, 1, 1, -1, -1])
    atoms.set_momenta(0.3 * rng.normal(size=(6, 3)))
    return atoms


def keep_run(folder: Path, model: Path) -> dict[str, object]:
    """Run half of a run, and the whole of it elsewhere."""
    with tempfile.TemporaryDirectory() as elsewhere:
        whole = Path(elsewhere) / "run"
        settings = MDSettings(
            "nvt-langevin", temperature_K=200.0, timestep_fs=0.2, n_steps=N_STEPS, seed=3
        )
        run_md(structure(), EqCalculator(model, engine="torchscript"), settings, whole)
        expected = ase.io.read(whole / "final.xyz").positions.tolist()
    settings = MDSettings(
        "nvt-langevin", temperature_K=200.0, timestep_fs=0.2, n_steps=N_STOPPED, seed=3
    )
    run_md(structure(), EqCalculator(model, engine="torchscript"), settings, folder)
    for path in folder.iterdir():
        if path.suffix == ".png" or path.name == f"{CHECKPOINT}.previous":
            path.unlink()
    return {"positions": expected}


def keep_training(folder: Path) -> dict[str, object]:
    """Train two epochs."""
    with tempfile.TemporaryDirectory() as name:
        elsewhere = Path(name)
        (elsewhere / "train.toml").write_text(TRAINING)
        shutil.copy(ETHANOL_FRAMES, elsewhere / "frames.xyz")
        train(read_config(elsewhere / "train.toml"), elsewhere / "run")
        found = export_run(TrainingFolder(elsewhere / "run"), elsewhere / "model")
        folder.mkdir()
        for path in (elsewhere / "run").iterdir():
            if path.is_file():
                shutil.copy(path, folder)
        return results(found.path)


if __name__ == "__main__":
    main()
