"""Train tiny SevenNet models with sevenn's own command, for the tests of the importer.

    python tests/imports/make_sevennet.py

in the environment of ``record_sevennet.py``. Each is trained for two epochs on some frames that
a Lennard-Jones potential labelled: their numbers mean nothing, their files are real ones.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ase.io
import yaml
from structures import labelled_frames

HERE = Path(__file__).parent
XPLOR = {"cutoff_function_name": "XPLOR", "cutoff_on": 3.4}
POLYNOMIAL = {"cutoff_function_name": "poly_cut", "poly_cut_p_value": 5}
UNEQUAL = ["8x0e", "8x0e+4x1e+2x2e", "8x0e"]
VARIANTS: dict[str, dict[str, Any]] = {
    "xplor": {"irreps_manual": UNEQUAL, "cutoff_function": XPLOR},
    "polynomial": {
        "irreps_manual": ["6x0e", "6x0e+4x1e+3x2e+2x3e", "6x0e+4x1e+3x2e+2x3e", "6x0e"],
        "lmax": 3,
        "num_convolution_layer": 3,
        "cutoff_function": POLYNOMIAL,
        "train_denominator": True,
        "train_shift_scale": True,
    },
    "modal": {
        "irreps_manual": UNEQUAL,
        "cutoff_function": XPLOR,
        "use_modal_self_inter_intro": True,
        "use_modal_self_inter_outro": True,
        "use_modal_output_block": True,
    },
    # Four layers are the fewest of which 0o and 1e reach the energy.
    "parity": {
        "is_parity": True,
        "channel": 3,
        "num_convolution_layer": 4,
        "cutoff_function": POLYNOMIAL,
        "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 4},
    },
    # Natural parity alone, two levels of theory: as SevenNet-MF-ompa is by its documentation.
    "natural": {
        "is_parity": True,
        "irreps_manual": ["5x0e", "6x0e+4x1o+3x2e", "6x0e+4x1o+3x2e", "6x0e"],
        "num_convolution_layer": 3,
        "cutoff_function": XPLOR,
        "self_connection_type": "nequip",
        "use_modal_self_inter_intro": True,
        "use_modal_output_block": True,
    },
    # The package's own defaults: one number of channels, self-connections by species.
    "species": {"channel": 4, "cutoff_function": POLYNOMIAL, "self_connection_type": "nequip"},
}


def main() -> None:
    target = HERE / "sevennet"
    target.mkdir(exist_ok=True)
    for name, options in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            ase.io.write(work / "one.extxyz", labelled_frames(1))
            ase.io.write(work / "two.extxyz", labelled_frames(2))
            (work / "input.yaml").write_text(yaml.safe_dump(settings(options)))
            sevenn = Path(sys.executable).with_name("sevenn")
            subprocess.run([sevenn, "train", "input.yaml"], cwd=work, check=True)
            shutil.copy(work / "checkpoint_2.pth", target / f"{name}.pth")
        print(name, (target / f"{name}.pth").stat().st_size // 1000, "kB")


def settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return the content of an input.yaml."""
    is_modal = any(option.startswith("use_modal") for option in options)
    model = {
        "chemical_species": ["O", "H", "Mg"],
        "cutoff": 4.0,
        "channel": 8,
        "lmax": 2,
        "num_convolution_layer": 2,
        "is_parity": False,
        "weight_nn_hidden_neurons": [7, 7],
        "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 5},
        "self_connection_type": "linear",
    } | options
    train = {
        "random_seed": 1,
        "epoch": 2,
        "per_epoch": 1,
        "optimizer": "adam",
        "optim_param": {"lr": 0.02},
        "scheduler": "exponentiallr",
        "scheduler_param": {"gamma": 0.99},
        "force_loss_weight": 1.0,
        "use_modality": is_modal,
    }
    data: dict[str, Any] = {"batch_size": 2, "shift": "elemwise_reference_energies"}
    data |= {"scale": "force_rms", "load_trainset_path": ["one.extxyz"]}
    if is_modal:
        data |= {"use_modal_wise_shift": True, "use_modal_wise_scale": False}
        data["load_trainset_path"] = [
            {"data_modality": "PBE", "file_list": [{"file": "one.extxyz"}]},
            {"data_modality": "R2SCAN", "file_list": [{"file": "two.extxyz"}]},
        ]
    return {"model": model, "train": train, "data": data}


if __name__ == "__main__":
    main()
