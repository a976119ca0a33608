"""Laws of locality: atoms feel their surroundings out to the cutoff and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.errors import ConfigError, ContractError
from eqcalc.graph import AtomicGraph
from eqcalc.potential import Evaluation
from eqcalc.testing import geometries
from eqcalc.testing.geometries import Structures
from eqcalc.testing.measurements import keep
from eqcalc.testing.subjects import (
    Subject,
    assert_close,
    assert_same_evaluation,
    evaluate,
    require,
)
from eqcalc.testing.tolerances import (
    MINIMAL_EFFECT,
    VANISHING_DISTANCES,
    VANISHING_SLACK,
    vanishing_orders,
)

__all__ = [
    "REPEATS",
    "assert_distant_molecules_add_up",
    "assert_edges_act_on_their_receiver",
    "assert_ghosts_stand_for_images",
    "assert_isolated_atoms_are_exact",
    "assert_isolated_atoms_feel_nothing",
    "assert_neighbours_matter",
    "assert_no_effect_beyond_cutoff",
    "assert_smooth_at_cutoff",
    "assert_supercell_scales",
]

REPEATS = ((2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1))
"""Supercells, as numbers of cells along each lattice vector."""

_LARGEST_HALO = 3000  # atoms; only crystals, and ranges beyond 20 Å, have more


def assert_neighbours_matter(subject: Subject) -> None:
    """An atom's energy depends on where its neighbours are and on what they are.

    What they are is left out for a subject that knows one element only.
    """
    base = evaluate(subject, geometries.dimer("C", "O", 1.4), "CO")
    changes = {"distance of the only neighbour": geometries.dimer("C", "O", 1.6)}
    other = subject.another("O", preferred="H")
    if other is not None:
        changes["species of the only neighbour"] = geometries.dimer("C", other, 1.4)
    for what, atoms in changes.items():
        found = evaluate(subject, atoms, what)
        _assert_seen(subject, float(found.energies[0] - base.energies[0]), f"CO: {what}")
    if other is None:
        return
    # One edge only: what arrives can be nothing but the sender's own features.
    sent = [
        evaluate(subject, _one_edge(subject, element), f"one edge from {element}").energies[0]
        for element in ("O", other)
    ]
    _assert_seen(subject, float(sent[1] - sent[0]), "CO, one edge: species of the sender")
    molecule = geometries.ethanol()
    before = evaluate(subject, molecule, "ethanol")
    for changed, symbol in enumerate(molecule.symbols):
        exchanged = molecule.copy()
        exchanged.symbols[changed] = subject.another(symbol, preferred="Na")
        after = evaluate(subject, exchanged, "ethanol")
        nearest = int(np.argsort(molecule.get_distances(changed, range(len(molecule))))[1])
        change = float(after.energies[nearest] - before.energies[nearest])
        _assert_seen(
            subject, change, f"ethanol: species of atom {changed} as seen by atom {nearest}"
        )


def assert_edges_act_on_their_receiver(subject: Subject) -> None:
    """An atom that receives no edge has the energy of an isolated atom.

    Row 0 of ``edge_index`` sends and row 1 receives. Hosts rely on it: LAMMPS lists for
    the outermost ghosts only what owned atoms receive.
    """
    atoms = geometries.ethanol()
    graph = subject.graph(atoms)
    for k in (0, 2, 5):
        alone = evaluate(subject, Atoms([atoms.numbers[k]], [[0.0, 0.0, 0.0]]), "isolated atom")
        kept = graph.edge_index[1] != k
        found = evaluate(subject, _select(graph, kept), f"ethanol, atom {k} receives no edge")
        assert_close(
            found.energies[k : k + 1],
            alone.energies,
            subject.tolerance,
            f"{subject.label}: ethanol, atom {k} receives no edge",
            "energies",
        )


def assert_isolated_atoms_feel_nothing(subject: Subject) -> None:
    """One atom alone: a finite energy, a force of exactly zero, no stress."""
    box = max(50.0, 2.0 * subject.cutoff)
    for element in subject.elements:
        case = f"isolated {element}"
        vacuum = evaluate(subject, geometries.isolated(element), case)
        _assert_exactly_zero(subject, vacuum.forces, f"{case}: forces")
        boxed = evaluate(subject, geometries.isolated(element, cell=box), f"{case} in a box")
        assert_close(
            boxed.energies,
            vacuum.energies,
            subject.tolerance,
            f"{subject.label}: {case} in a box and in the vacuum",
            "energies",
        )
        if boxed.stress is None:
            raise ContractError(f"{subject.label}: {case} in a box has no stress")
        _assert_exactly_zero(subject, boxed.stress, f"{case}: stress")


def assert_isolated_atoms_are_exact(subject: Subject) -> None:
    """An atom alone, or out of every other's reach, has the reference energy of its element.

    A law of potentials that promise it, by ``exact_isolated_atoms``.

    Raises
    ------
    ConfigError : the subject promises nothing.
    """
    if not subject.isolated_energies:
        raise ConfigError(f"{subject.label}: this law needs exact_isolated_atoms.")
    far = 3.0 * subject.cutoff * subject.n_hops
    for element, energy in subject.isolated_energies.items():
        alone = geometries.isolated(element)
        beside = geometries.ethanol() + Atoms(element, [[far, 0.0, 0.0]])
        for case, structure in (
            (f"isolated {element}", alone),
            (f"{element} at {far:g} Å from ethanol", beside),
        ):
            assert_close(
                evaluate(subject, structure, case).energies[-1:],
                torch.tensor([energy], dtype=torch.float64),
                subject.tolerance,
                f"{subject.label}: {case}, against its reference energy",
                "energies",
            )


def assert_distant_molecules_add_up(subject: Subject) -> None:
    """Two molecules out of reach: energies, and so the energy, are those of each alone."""
    first, second = geometries.ethanol(0), geometries.triatomic()
    alone = [evaluate(subject, atoms, "molecule alone") for atoms in (first, second)]
    for distance in (3.0 * subject.cutoff * subject.n_hops, 1e4):
        far = second.copy()
        far.translate([distance, 0.3, -0.2])
        together = evaluate(subject, first + far, "two molecules")
        expected = Evaluation(
            alone[0].energy + alone[1].energy,
            torch.cat([part.energies for part in alone]),
            torch.cat([part.forces for part in alone]),
            None,
        )
        case = f"ethanol and water {distance:g} Å apart"
        assert_same_evaluation(subject, together, expected, case)


def assert_supercell_scales(
    subject: Subject,
    structures: Structures | None = None,
    repeats: Sequence[tuple[int, int, int]] = REPEATS,
) -> None:
    """n copies of a cell: n times the energy, the same atomic energies, forces and stress."""
    for case, atoms in (structures or geometries.generic()).items():
        if not atoms.pbc.any():
            continue
        expected = evaluate(subject, atoms, case)
        for repeat in repeats:
            repeat = tuple(np.where(atoms.pbc, repeat, 1).tolist())
            n = math.prod(repeat)
            copies = expected._replace(
                energy=n * expected.energy,
                energies=expected.energies.repeat(n),
                forces=expected.forces.repeat(n, 1),
            )
            found = evaluate(subject, atoms.repeat(repeat), case)
            assert_same_evaluation(subject, found, copies, f"{case} repeated {repeat}")


def assert_ghosts_stand_for_images(subject: Subject) -> None:
    """Owned atoms with explicit ghosts have the energies and forces of the whole system.

    Crystals that would need more than 3000 ghosts are left to the slab and the wire.
    """
    for case, atoms in geometries.generic().items():
        if not atoms.pbc.any():
            continue
        cluster, homes = _with_halo(atoms, subject.n_hops * subject.cutoff)
        if atoms.pbc.all() and len(cluster) > _LARGEST_HALO:
            continue
        expected = evaluate(subject, atoms, case)
        _assert_owned(subject, [(cluster, homes, len(atoms))], expected, f"{case} with ghosts")
    # Two domains, each seeing the other's atoms as ghosts, together hold a molecule.
    atoms = geometries.ethanol()
    whole = evaluate(subject, atoms, "ethanol")
    order = np.arange(len(atoms))
    domains = [(atoms[turn], turn, n) for turn, n in ((order, 4), (np.roll(order, -4), 5))]
    _assert_owned(subject, domains, whole, "ethanol in two domains")


def assert_no_effect_beyond_cutoff(subject: Subject) -> None:
    """Edges at and beyond the cutoff change nothing; a force through them is exactly zero."""
    c = subject.cutoff
    alone = [evaluate(subject, geometries.isolated(x), f"isolated {x}") for x in ("C", "O")]
    energies = torch.cat([part.energies for part in alone])
    for distance in (c, c * (1 + 1e-6), 1.2 * c, 3.0 * c):
        # Along an axis the float32 length of the vector is the distance itself.
        pair = Atoms("CO", [[0.0, 0.0, 0.0], [0.0, distance, 0.0]])
        graph = subject.graph(pair, cutoff=4.0 * c)
        case = f"CO at {distance / c:.7g} cutoffs"
        found = evaluate(subject, graph, case)
        _assert_exactly_zero(subject, found.forces, f"{case}: forces")
        what = f"{subject.label}: {case}"
        assert_close(found.energies, energies, subject.tolerance, what, "energies")
    for case, atoms in geometries.generic().items():
        expected = evaluate(subject, subject.graph(atoms), case)
        found = evaluate(subject, subject.graph(atoms, cutoff=1.5 * c), case)
        assert_same_evaluation(
            subject, found, expected, f"{case}, edges beyond the cutoff listed as well"
        )


def assert_smooth_at_cutoff(subject: Subject, structures: Structures | None = None) -> None:
    """What the longest edge does vanishes at the cutoff with its first two derivatives.

    Each structure is scaled until its longest pair is δ short of the cutoff, and
    evaluated with and without that pair's edges. The differences of energies, forces and
    their derivative along the scaling must vanish as δ³, δ² and δ; as δ², δ and 1 for a network
    that declares one vanishing derivative. (float64 only.)
    """
    orders = vanishing_orders(subject.concessions.vanishing_derivatives)
    if structures is None:
        structures = {
            "CO": geometries.dimer("C", "O", 1.0),
            "water": geometries.triatomic(),
            "ethanol": geometries.ethanol(),
        }
    for case, atoms in structures.items():
        # Several, because at one of them a network's effect may happen to change its sign.
        *further, nearest = (fraction * subject.cutoff for fraction in VANISHING_DISTANCES)
        near = _longest_edge_effects(subject, atoms, nearest, case)
        far = {delta: _longest_edge_effects(subject, atoms, delta, case) for delta in further}
        for quantity, order in orders.items():
            # What near would be if it shrank with the required power from any point farther.
            expected = max(
                effects[quantity] * (nearest / delta) ** order for delta, effects in far.items()
            )
            found = max(near[quantity] - _negligible(subject, quantity), 0.0)
            excess = found / expected if expected > 0.0 else float(found > 0.0)
            missing = math.log(max(excess, 1e-300)) / math.log(min(further) / nearest)
            what = f"{case}: effect of an edge on {quantity}"
            keep(what, max(missing, 0.0), VANISHING_SLACK, "powers of δ")
            require(
                missing <= VANISHING_SLACK,
                f"{subject.label}: {case}: the effect of an edge on {quantity} vanishes at the "
                f"cutoff as δ^{order - missing:.2f}, expected δ^{order:g}",
            )


def _negligible(subject: Subject, quantity: str) -> float:
    """Return what rounding may leave of an effect: a force is taken over 0.1 Å, then a step."""
    return subject.negligible * {"energy": 1.0, "forces": 10.0, "curvature": 1e4}[quantity]


def _longest_edge_effects(
    subject: Subject, atoms: Atoms, delta: float, case: str
) -> dict[str, float]:
    """Return how much the longest pair, at cutoff - delta, changes each quantity."""
    distances = atoms.get_all_distances()
    first, second = np.unravel_index(int(distances.argmax()), distances.shape)

    def effect(delta: float) -> tuple[torch.Tensor, torch.Tensor]:
        scaled = atoms.copy()
        scaled.positions *= (subject.cutoff - delta) / distances.max()
        graph = subject.graph(scaled)
        senders, receivers = graph.edge_index
        is_longest = (senders == first) & (receivers == second)
        is_longest |= (senders == second) & (receivers == first)
        whole = evaluate(subject, graph, case)
        without = evaluate(subject, _select(graph, ~is_longest), case)
        return whole.energies - without.energies, whole.forces - without.forces

    step = 0.1 * delta
    energies, forces = effect(delta)
    curvature = (effect(delta - step)[1] - effect(delta + step)[1]) / (2.0 * step)
    effects = {"energy": energies, "forces": forces, "curvature": curvature}
    return {name: float(tensor.abs().max()) for name, tensor in effects.items()}


def _with_halo(atoms: Atoms, radius: float) -> tuple[Atoms, NDArray]:
    """Return the atoms followed by every image within ``radius`` of one of them.

    Returns
    -------
    cluster : an open structure; homes : (n_all,), the owned atom behind each
    """
    extent = np.ptp(atoms.positions, axis=0).sum()
    completed = np.array(atoms.cell.complete())
    heights = 1.0 / np.linalg.norm(np.linalg.inv(completed), axis=0)
    reach = np.where(atoms.pbc, np.ceil((radius + extent) / heights), 0).astype(int)
    ghosts, homes = [], list(range(len(atoms)))
    for shift in np.ndindex(*(2 * reach + 1)):
        steps = np.array(shift) - reach
        if not steps.any():
            continue
        images = atoms.positions + steps @ completed
        gaps = np.linalg.norm(images[:, None] - atoms.positions[None], axis=2).min(axis=1)
        for k in np.flatnonzero(gaps < radius):
            ghosts.append(images[k])
            homes.append(int(k))
    positions = np.vstack([atoms.positions, *ghosts])
    return Atoms(atoms.numbers[homes], positions), np.array(homes)


def _assert_owned(
    subject: Subject, domains: list[tuple[Atoms, NDArray, int]], expected: Evaluation, case: str
) -> None:
    """Sum the domains' energies and forces at each atom's home and compare."""
    n_atoms = len(expected.energies)
    energies = torch.zeros(n_atoms, dtype=torch.float64)
    forces = torch.zeros((n_atoms, 3), dtype=torch.float64)
    for atoms, homes, n_owned in domains:
        found = evaluate(subject, subject.graph(atoms)._replace(n_owned=n_owned), case)
        index = torch.from_numpy(homes)
        energies = energies.index_add(0, index[:n_owned], found.energies[:n_owned])
        forces = forces.index_add(0, index, found.forces)
    summed = expected._replace(energy=energies.sum().reshape(1), energies=energies, forces=forces)
    assert_same_evaluation(subject, summed, expected, case)


def _one_edge(subject: Subject, element: str) -> AtomicGraph:
    """Return carbon and a neighbour, with the edge to the carbon and not the one back."""
    graph = subject.graph(geometries.dimer("C", element, 1.4))
    return _select(graph, graph.edge_index[1] == 0)


def _select(graph: AtomicGraph, kept: torch.Tensor) -> AtomicGraph:
    return graph._replace(
        edge_index=graph.edge_index[:, kept], edge_vectors=graph.edge_vectors[kept]
    )


def _assert_seen(subject: Subject, change: float, what: str) -> None:
    require(
        abs(change) > MINIMAL_EFFECT,
        f"{subject.label}: {what} changes the energy by {change:.3g} eV, expected more than "
        f"{MINIMAL_EFFECT:g}",
    )


def _assert_exactly_zero(subject: Subject, tensor: torch.Tensor, what: str) -> None:
    largest = float(tensor.abs().max())
    keep(what, largest, 0.0, "eV/Å³" if what.endswith("stress") else "eV/Å")
    require(largest == 0.0, f"{subject.label}: {what} must be exactly zero, found {largest:.3g}")
