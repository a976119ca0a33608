"""Laws of symmetry: nothing depends on how a structure is turned, placed, numbered or wrapped.

Those with ``structures`` take structures by name in place of :func:`geometries.generic`.
"""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.potential import Evaluation
from eqcalc.testing import geometries
from eqcalc.testing.geometries import Structures
from eqcalc.testing.subjects import Subject, assert_same_evaluation, evaluate

__all__ = [
    "assert_atom_permutation",
    "assert_edge_permutation",
    "assert_lattice_shift",
    "assert_reflection",
    "assert_rotation",
    "assert_translation",
]


def assert_rotation(subject: Subject, structures: Structures | None = None) -> None:
    """Energies stay, forces and stress turn with the structure."""
    for case, atoms in (structures or geometries.generic()).items():
        expected = evaluate(subject, atoms, case)
        for seed in (11, 12):
            _assert_turns(
                subject,
                atoms,
                expected,
                geometries.rotation_matrix(seed),
                f"{case}, rotation {seed}",
            )


def assert_reflection(subject: Subject, structures: Structures | None = None) -> None:
    """Mirror images have the same energies and mirrored forces."""
    mirrors = {
        "mirror x": np.diag([-1.0, 1.0, 1.0]),
        "inversion": -np.eye(3),
        "general improper rotation": -geometries.rotation_matrix(13),
    }
    for case, atoms in (structures or geometries.generic()).items():
        expected = evaluate(subject, atoms, case)
        for name, mirror in mirrors.items():
            _assert_turns(subject, atoms, expected, mirror, f"{case}, {name}")


def assert_translation(subject: Subject, structures: Structures | None = None) -> None:
    """Nothing changes when all atoms move together."""
    for case, atoms in (structures or geometries.generic()).items():
        expected = evaluate(subject, atoms, case)
        moved = atoms.copy()
        moved.translate([12.34, -5.6, 7.89])
        found = evaluate(subject, moved, case)
        assert_same_evaluation(subject, found, expected, f"{case}, translated")


def assert_atom_permutation(subject: Subject, structures: Structures | None = None) -> None:
    """Renumbering the atoms renumbers energies and forces."""
    for case, atoms in (structures or geometries.generic()).items():
        expected = evaluate(subject, atoms, case)
        order = np.random.default_rng(5).permutation(len(atoms))
        found = evaluate(subject, atoms[order], case)
        permuted = expected._replace(
            energies=expected.energies[order], forces=expected.forces[order]
        )
        assert_same_evaluation(subject, found, permuted, f"{case}, atoms permuted")


def assert_edge_permutation(subject: Subject) -> None:
    """The order of the edges that one atom receives has no meaning."""
    for case, atoms in geometries.generic().items():
        graph = subject.graph(atoms)
        expected = evaluate(subject, graph, case)
        generator = torch.Generator().manual_seed(6)
        order = torch.randperm(graph.edge_index.shape[1], generator=generator)
        # Stable: sorted by receiver again, shuffled within each.
        order = order[torch.argsort(graph.edge_index[1][order], stable=True)]
        shuffled = graph._replace(
            edge_index=graph.edge_index[:, order], edge_vectors=graph.edge_vectors[order]
        )
        found = evaluate(subject, shuffled, case)
        assert_same_evaluation(subject, found, expected, f"{case}, edges permuted")


def assert_lattice_shift(subject: Subject, structures: Structures | None = None) -> None:
    """An atom may be replaced by any of its periodic images."""
    for case, atoms in (structures or geometries.generic()).items():
        if not atoms.pbc.any():
            continue
        expected = evaluate(subject, atoms, case)
        moved = atoms.copy()
        shifts = np.random.default_rng(7).integers(-2, 3, (len(atoms), 3)) * atoms.pbc
        shifts[0] = np.where(atoms.pbc, [1, -1, 2], 0)
        moved.positions += shifts @ atoms.cell.array
        found = evaluate(subject, moved, case)
        assert_same_evaluation(subject, found, expected, f"{case}, atoms moved by lattice vectors")


def _assert_turns(
    subject: Subject, atoms: Atoms, expected: Evaluation, matrix: NDArray, case: str
) -> None:
    """Compare a structure turned by an orthogonal matrix with the turned expectation."""
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ matrix.T)
    turned.positions = atoms.positions @ matrix.T
    found = evaluate(subject, turned, case)
    rotation = torch.from_numpy(matrix)
    expected = expected._replace(forces=expected.forces @ rotation.T)
    if expected.stress is not None:
        expected = expected._replace(stress=rotation @ expected.stress @ rotation.T)
    assert_same_evaluation(subject, found, expected, case)
