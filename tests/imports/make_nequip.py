"""Train tiny NequIP models with nequip's own commands, for the tests of the importer.

    python tests/imports/make_nequip.py

in an environment of its own with nequip (0.19.1) and torch. Each is trained for an epoch on some
frames that a Lennard-Jones potential labelled: their numbers mean nothing, their files are real.
``nequip/*.ckpt`` are Lightning's checkpoints, ``nequip/*.nequip.zip`` what ``nequip-package``
made of them; of these the source code of nequip and e3nn, nine tenths of the size, and the
second copy of the network, for training, are left out, and the rest is packed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import ase.io
import yaml
from structures import labelled_frames

HERE = Path(__file__).parent
TYPES = ["O", "H", "Mg"]  # in no order
SHIFTS = {"O": -1.5, "H": 0.25, "Mg": -3.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "parity": {
        "model_dtype": "float64",
        "num_layers": 4,  # the fewest of which 0o and 1e reach the energy
        "l_max": 2,
        "parity": True,
        "num_features": 3,
        "radial_mlp_depth": 2,
        "avg_num_neighbors": 17.3,
        "per_type_energy_scales": 40.0,
        "per_type_energy_shifts": SHIFTS,
    },
    # What NequIP's published foundation models use.
    "foundation": {
        "model_dtype": "float64",
        "num_layers": 3,
        "l_max": 3,
        "parity": False,
        "num_features": [6, 4, 3, 2],
        "type_embed_num_features": 5,
        "bessel_trainable": True,
        "polynomial_cutoff_p": 5,
        "avg_num_neighbors": {"O": 12.5, "H": 9.0, "Mg": 21.0},
        "per_edge_type_cutoff": {"H": 2.5, "O": {"H": 3.0, "Mg": 3.5}},
        "per_type_energy_scales": {"O": 1.5, "H": 0.5, "Mg": 2.0},
        "per_type_energy_shifts": SHIFTS,
        "per_type_energy_scales_trainable": True,
        "per_type_energy_shifts_trainable": True,
        "pair_potential": {
            "_target_": "nequip.nn.pair_potential.ZBL",
            "units": "metal",
            "chemical_species": TYPES,
        },
    },
    "readout": {
        "model_dtype": "float32",
        "num_layers": 2,
        "l_max": 1,
        "parity": True,
        "num_features": 4,
        "avg_num_neighbors": 2.3,
        "readout_mlp_hidden_layers_depth": 2,
        "readout_mlp_hidden_layers_width": 7,
        "per_type_energy_scales": None,
        "per_type_energy_shifts": SHIFTS,
    },
}
WITHOUT_AVERAGE = {"readout"}
PACKAGED = {"parity", "readout", "foundation"}


def main() -> None:
    target = HERE / "nequip"
    target.mkdir(exist_ok=True)
    bin_folder = Path(sys.executable).parent
    for name, options in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            ase.io.write(work / "frames.xyz", labelled_frames(1))
            (work / "run.yaml").write_text(yaml.safe_dump(settings(name, options)))
            train = [bin_folder / "nequip-train", "-cp", work, "-cn", "run"]
            subprocess.run([*train, f"hydra.run.dir={work}/run"], cwd=work, check=True)
            shutil.copy(work / "run/last.ckpt", target / f"{name}.ckpt")
            if name in PACKAGED:
                package = [bin_folder / "nequip-package", "build", work / "run/last.ckpt"]
                subprocess.run([*package, work / "m.nequip.zip"], cwd=work, check=True)
                without_code(work / "m.nequip.zip", target / f"{name}.nequip.zip")
    for path in sorted(target.iterdir()):
        print(path.name, path.stat().st_size // 1000, "kB")


def settings(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a training file of nequip."""
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": 1}
    metrics = {
        "_target_": "nequip.train.EnergyForceMetrics",
        "coeffs": {"total_energy_mae": 1.0, "forces_mae": 1.0},
    }
    module = "NequIPLightningModule" if name in WITHOUT_AVERAGE else "EMALightningModule"
    average = {} if name in WITHOUT_AVERAGE else {"ema_decay": 0.7}
    return {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "split_dataset": {"file_path": "frames.xyz", "train": 4, "val": 1, "test": 1},
            "seed": 1,
            "transforms": [
                {
                    "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
                    "model_type_names": TYPES,
                },
                {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": 4.0},
            ],
            "train_dataloader": loader,
            "val_dataloader": loader,
            "test_dataloader": loader,
            "stats_manager": {
                "_target_": "nequip.data.CommonDataStatisticsManager",
                "type_names": TYPES,
                "dataloader_kwargs": {"batch_size": 1},
            },
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": True,
            "callbacks": [
                {
                    "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "dirpath": "${hydra:runtime.output_dir}",
                    "save_last": True,
                }
            ],
        },
        "training_module": {
            "_target_": f"nequip.train.{module}",
            **average,
            "loss": {
                "_target_": "nequip.train.EnergyForceLoss",
                "per_atom_energy": True,
                "coeffs": {"total_energy": 1.0, "forces": 1.0},
            },
            "val_metrics": metrics,
            "train_metrics": metrics,
            "test_metrics": metrics,
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
            "model": {
                "_target_": "nequip.model.NequIPGNNModel",
                "seed": 123,
                "type_names": TYPES,
                "r_max": 4.0,
                "num_bessels": 5,
                "radial_mlp_depth": 1,
                "radial_mlp_width": 7,
            }
            | options,
        },
        "global_options": {"allow_tf32": False},
    }


def without_code(source: Path, target: Path) -> None:
    """Copy an archive without the Python files in it and the copy of the network for training."""
    with (
        zipfile.ZipFile(source) as read,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as write,
    ):
        for entry in read.infolist():
            if not entry.filename.endswith((".py", "/compile_model.pkl")):
                write.writestr(entry.filename, read.read(entry.filename))


if __name__ == "__main__":
    main()
