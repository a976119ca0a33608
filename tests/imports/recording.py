"""What the recording scripts share: how structures and results stand in an oracle's file."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ase import Atoms


class Recording:
    """Arrays by name: ``structures/NAME/positions``, ``MODEL/NAME/forces``, ``versions``."""

    def __init__(self, structures: Mapping[str, Atoms], *packages: str) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        for name, atoms in structures.items():
            self.arrays[f"structures/{name}/numbers"] = atoms.numbers
            self.arrays[f"structures/{name}/positions"] = atoms.positions
            self.arrays[f"structures/{name}/cell"] = np.array(atoms.cell)
            self.arrays[f"structures/{name}/pbc"] = atoms.pbc
        versions = {package: importlib.metadata.version(package) for package in packages}
        print(versions)
        self.arrays["versions"] = np.array(json.dumps(versions))

    def add(self, model: str, structure: str, results: Mapping[str, np.ndarray]) -> None:
        """Keep energies (n_atoms,), forces (n_atoms, 3) and, of a crystal, stress (6,)."""
        for quantity, value in results.items():
            if value.dtype != np.float64:
                raise SystemExit(f"{model} computed {quantity} in {value.dtype}")
            self.arrays[f"{model}/{structure}/{quantity}"] = value
        print(f"{model:24} {structure:14} {float(results['energies'].sum()):16.9f} eV")

    def write(self, path: Path) -> None:
        np.savez_compressed(path, **self.arrays)
