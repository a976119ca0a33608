"""Structures in which every element of a model meets every other."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

__all__ = ["element_clusters"]

_MANY = 12
"""Elements of which a frame can hold two atoms each and stay small."""


def element_clusters(numbers: list[int]) -> list[Atoms]:
    """Return an open frame, a periodic one, and an atom alone.

    Of more than 12 elements the open frame has an atom of each, the periodic one some of them.
    """
    generator = np.random.default_rng(0)
    if len(numbers) > _MANY:
        cluster, _ = _frames(numbers, generator)
        _, crystal = _frames(numbers[:: -(-len(numbers) // (2 * _MANY))], generator)
    else:
        cluster, crystal = _frames([z for z in numbers for _ in range(2)], generator)
    return [cluster, crystal, Atoms([numbers[0]], [[0.0, 0.0, 0.0]])]


def _frames(symbols: list[int], generator: np.random.Generator) -> tuple[Atoms, Atoms]:
    """Return atoms on the disturbed sites of a simple cubic lattice, open and periodic."""
    spacing = 2.2 * float(np.mean([covalent_radii[z] for z in symbols])) + 0.3
    side = int(np.ceil(len(symbols) ** (1 / 3)))
    sites = np.array(list(np.ndindex(side, side, side)))[: len(symbols)] * spacing
    positions = sites + generator.uniform(-0.15, 0.15, sites.shape) * spacing
    cluster = Atoms(symbols, positions)
    crystal = cluster.copy()
    crystal.set_cell(np.full(3, side * spacing) * (1.0, 1.05, 1.1))
    crystal.pbc = True
    return cluster, crystal
