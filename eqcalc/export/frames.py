"""Structures in which every element of a model meets every other."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

__all__ = ["element_clusters"]


def element_clusters(numbers: list[int]) -> list[Atoms]:
    """Return an open frame, a periodic one, and an atom alone."""
    generator = np.random.default_rng(0)
    symbols = [z for z in numbers for _ in range(2)][:24]
    spacing = 2.2 * float(np.mean([covalent_radii[z] for z in symbols])) + 0.3
    side = int(np.ceil(len(symbols) ** (1 / 3)))
    sites = np.array(list(np.ndindex(side, side, side)))[: len(symbols)] * spacing
    positions = sites + generator.uniform(-0.15, 0.15, sites.shape) * spacing
    cluster = Atoms(symbols, positions)
    crystal = cluster.copy()
    crystal.set_cell(np.full(3, side * spacing) * (1.0, 1.05, 1.1))
    crystal.pbc = True
    return [cluster, crystal, Atoms([numbers[0]], [[0.0, 0.0, 0.0]])]
