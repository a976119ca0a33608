"""Record in float64 what nequip computes with the models of ``make_nequip.py``.

    python tests/imports/record_nequip.py

in the environment of ``make_nequip.py``. It writes ``nequip.npz`` beside itself: the
structures, and for every checkpoint of ``nequip/`` energies, forces and stress. A package of the
same name holds the network of that checkpoint (``nequip-package`` compares the two before it
writes one); without its source code, which is not kept here, nequip could not load it.

A checkpoint of float32 weights is built again with ``model_dtype: float64`` from the same
weights; constants of the network that are rounded to the model's dtype are exact then.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from recording import Recording
from structures import structures

warnings.filterwarnings("ignore")

from nequip.ase import NequIPCalculator  # noqa: E402

HERE = Path(__file__).parent


def main() -> None:
    torch.set_num_threads(1)
    everything = structures()
    known = {name: everything[name] for name in ("mgo-slab", "h2o", "hydrogen-atom")}
    recording = Recording(known, "nequip", "e3nn", "torch", "ase")
    for path in sorted((HERE / "nequip").glob("*.ckpt")):
        calculator = in_float64(path)
        for name, atoms in known.items():
            calculator.calculate(atoms.copy())
            results = {q: np.asarray(calculator.results[q]) for q in ("energies", "forces")}
            if atoms.pbc.all():
                results["stress"] = calculator.results["stress"]
            recording.add(path.stem, name, results)
    recording.write(HERE / "nequip.npz")


def in_float64(path: Path) -> NequIPCalculator:
    """Return nequip's own calculator of a file."""
    content = torch.load(path, weights_only=True, map_location="cpu")
    content["hyper_parameters"]["model"]["model_dtype"] = "float64"
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / path.name
        torch.save(content, exact)
        # True: every chemical symbol is the type of the same name.
        return NequIPCalculator._from_saved_model(exact, chemical_species_to_atom_type_map=True)


if __name__ == "__main__":
    main()
