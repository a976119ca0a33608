"""A molecule of springs: harmonic in every distance, so it drifts and turns freely."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes


class Springs(Calculator):
    """E = k/2 Σ_{i<j} (d_ij - d0_ij)², with d0 taken from ``reference``."""

    implemented_properties = ("energy", "free_energy", "forces")

    def __init__(self, reference: Atoms, stiffness: float = 5.0, fail_at: int | None = None):
        super().__init__()
        self.rest = reference.get_all_distances()
        self.stiffness = stiffness
        self.fail_at = fail_at
        self.n_calls = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.n_calls += 1
        vectors = atoms.positions[None, :] - atoms.positions[:, None]  # (n_atoms, n_atoms, 3)
        distances = np.linalg.norm(vectors, axis=-1)
        stretch = distances - self.rest
        pull = self.stiffness * stretch / np.where(distances > 0, distances, 1.0)
        forces = (pull[:, :, None] * vectors).sum(axis=1)
        if self.fail_at is not None and self.n_calls >= self.fail_at:
            forces = forces * np.nan
        energy = self.stiffness * float((stretch**2).sum()) / 4
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}


def ethanol() -> Atoms:
    """Return nine atoms in the vacuum."""
    return molecule("CH3CH2OH")
