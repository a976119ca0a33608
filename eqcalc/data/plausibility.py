"""Frames that no calculation of atoms gives: outliers, absurd labels, lengths in another unit.

Each check returns what it found as sentences: of what nothing useful can come, and of what is
odd and may be meant. Who reads data refuses the first and says the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from eqcalc.data.consistency import refusal
from eqcalc.data.frames import FloatArray, LabelledFrame, has_neighbours
from eqcalc.data.stiffness import stiffness_refusal
from eqcalc.errors import GraphError, listing
from eqcalc.graph import AtomicGraph
from eqcalc.neighbours import build_graph
from eqcalc.neighbours.nearest import is_as_in_bohr, nearest_ratios, typical_ratio
from eqcalc.neighbours.search import distances_of
from eqcalc.neighbours.structure import check_structure

__all__ = [
    "Contacts",
    "Findings",
    "contact_findings",
    "contacts_of",
    "energy_deviations",
    "energy_findings",
    "find_implausible",
    "neighbour_findings",
]

# eV/atom beside the other frames. No bond is stronger than a few eV; only nuclei that are pushed
# into each other cost more.
_IMPOSSIBLE_ENERGY, _ODD_ENERGY, _ODD_SPREADS = 50.0, 2.0, 20.0
_FEWEST_FRAMES = 4
_SHARE_OF_GROUP, _EMPTY = 0.05, 3.0  # of the frames; a gap over the width of what is beside it
_THOMAS_FERMI, _ENERGY_MARGIN = 20.9, 1.5  # eV; atoms have 0.6 (H) to 0.9 of it
_IMPOSSIBLE_FORCE, _ODD_FORCE, _IMPOSSIBLE_RMS = 1000.0, 100.0, 40.0  # eV/Å
_ODD_STRESS = 1.0  # eV/Å³, 160 GPa

# Distances over the sum of covalent radii: bonds are 0.9 to 1.3, in metals up to 1.4.
_COLLAPSED, _TOO_SHORT = 0.25, 0.45
_N_SAMPLED = 20  # frames of a file, that tell its unit of length
_SEARCH = 4.5  # Å


class Findings(NamedTuple):
    """Sentences on what must be refused, and on what is odd."""

    refused: list[str]
    odd: list[str]


class Contacts(NamedTuple):
    """How many edges a frame's graph has, and how many atoms that receive none."""

    n_edges: int
    n_lonely: int


def find_implausible(frames: Sequence[LabelledFrame]) -> Findings:
    """Look at the frames of one reading, in eV and Å."""
    parts = (
        _total_energy_findings(frames),
        energy_findings(frames),
        _force_findings(frames),
        _stress_findings(frames),
        _distance_findings(frames),
    )
    refused = [sentence for part in parts for sentence in part.refused]
    odd = [sentence for part in parts for sentence in part.odd]
    apart = None if refused else _labels_apart(frames)
    return Findings(refused + ([apart] if apart else []), odd)


def _labels_apart(frames: Sequence[LabelledFrame]) -> str | None:
    """Return a sentence where labels do not belong together, of one file or of all, else None.

    Each file has its own unit and sign: among those of others wrong ones would be averaged away.
    """
    files = _by_file(frames)
    for path, rows in files.items() if len(files) > 1 else ():
        own = [frames[k] for k in rows]
        found = refusal(own) or stiffness_refusal(own)
        if found:
            return f"in {path}, {found}"
    return refusal(frames) or stiffness_refusal(frames)


def _by_file(frames: Sequence[LabelledFrame]) -> dict[str, list[int]]:
    """Return which of the frames stand in each file."""
    files: dict[str, list[int]] = {}
    for k, frame in enumerate(frames):
        files.setdefault(str(frame.origin and frame.origin.path), []).append(k)
    return files


def energy_findings(frames: Sequence[LabelledFrame]) -> Findings:
    """Compare energies per atom after those of the elements, fitted so that outliers count little.

    What is compared is each frame with the median of all; fewer than four say nothing.
    """
    frames = [frame for frame in frames if has_neighbours(frame.atoms)]
    if len(frames) < _FEWEST_FRAMES:
        return Findings([], [])
    found = energy_deviations(frames)
    spread = 1.4826 * float(np.median(np.abs(found)))  # of a normal distribution
    refused: list[str] = []
    odd: list[str] = []
    order = np.argsort(-np.abs(found))
    impossible = [k for k in order if abs(found[k]) > max(_IMPOSSIBLE_ENERGY, 5.0 * spread)]
    strange = [
        k
        for k in order
        if abs(found[k]) > max(_ODD_ENERGY, _ODD_SPREADS * spread) and k not in impossible
    ]
    for chosen, sentences in ((impossible, refused), (strange, odd)):
        if chosen:
            worst = chosen[0]
            sentences.append(
                f"energies far from all others (spread {spread:.2g} eV/atom) in "
                f"{_named(frames, chosen)}: {frames[worst].energy:.6g} eV, "
                f"{found[worst]:+.3g} eV/atom beside what its elements have elsewhere"
            )
    apart = _groups_apart(frames)
    return Findings(refused + apart.refused, odd + apart.odd)


def _groups_apart(frames: Sequence[LabelledFrame]) -> Findings:
    """Look for energies of one composition in two groups, whose median is far from neither.

    So are those of two codes, units or zeros of energy in one file, or in two.
    """
    alike: dict[bytes, list[LabelledFrame]] = {}
    for frame in frames:
        alike.setdefault(np.sort(frame.atoms.numbers).tobytes(), []).append(frame)
    refused: list[str] = []
    odd: list[str] = []
    for group in alike.values():
        fewest = max(_FEWEST_FRAMES, int(np.ceil(_SHARE_OF_GROUP * len(group))))
        if len(group) < 2 * fewest:
            continue
        values = np.array([frame.energy / len(frame.atoms) for frame in group])
        order = np.argsort(values)
        gaps = np.diff(values[order])
        k = fewest - 1 + int(gaps[fewest - 1 : len(gaps) - fewest + 1].argmax())
        low, high = order[: k + 1], order[k + 1 :]
        width = max(float(np.ptp(values[low])), float(np.ptp(values[high])))
        if gaps[k] < max(_ODD_ENERGY, _EMPTY * width):
            continue
        fewer = min(low, high, key=len)
        (refused if gaps[k] > _IMPOSSIBLE_ENERGY else odd).append(
            f"energies of {group[0].atoms.get_chemical_formula(mode='hill')} in two groups of "
            f"{len(low)} and {len(high)} frames, {gaps[k]:.3g} eV/atom apart, of which the smaller "
            f"is {_named(group, fewer.tolist())}: they may be of two codes or levels of theory, in "
            "two units (energy_unit), or beside two zeros of energy"
        )
    return Findings(refused, odd)


def neighbour_findings(
    frames: Sequence[LabelledFrame], graphs: Sequence[AtomicGraph], cutoff: float
) -> Findings:
    """Look for frames that a cutoff (Å) leaves without edges, and atoms without neighbours."""
    return contact_findings(frames, [contacts_of(graph) for graph in graphs], cutoff)


def contacts_of(graph: AtomicGraph) -> Contacts:
    """Count what :func:`contact_findings` needs of a frame's graph."""
    receivers = graph.edge_index[1]
    n_atoms = int(graph.atomic_numbers.shape[0])
    return Contacts(int(receivers.numel()), n_atoms - int(receivers.unique().numel()))


def contact_findings(
    frames: Sequence[LabelledFrame], contacts: Sequence[Contacts], cutoff: float
) -> Findings:
    """Do as :func:`neighbour_findings`, where the graphs themselves are not kept."""
    several = [k for k, frame in enumerate(frames) if len(frame.atoms) > 1]
    if not several:
        return Findings([], [])
    if all(contacts[k].n_edges == 0 for k in several):
        shortest = min(_shortest(frames[k]) for k in several[:_N_SAMPLED])
        return Findings(
            [
                f"no atom has a neighbour within the cutoff of {cutoff:g} Å: the shortest "
                f"distance is {shortest:.3g} Å, so that a network would see atoms alone; take a "
                "larger cutoff, or say the unit of the positions (length_unit)"
            ],
            [],
        )
    lonely = [k for k in several if contacts[k].n_lonely > 0]
    n_atoms = sum(contacts[k].n_lonely for k in lonely)
    if not lonely:
        return Findings([], [])
    return Findings(
        [],
        [
            f"{n_atoms} atoms have no neighbour within the cutoff of {cutoff:g} Å, in "
            f"{_named(frames, lonely)}: whatever happens to them, their energy stays the same"
        ],
    )


def energy_deviations(frames: Sequence[LabelledFrame]) -> FloatArray:
    """Return (n_frames,) energies per atom beside a fit of energies per element, in eV."""
    numbers = np.unique(np.concatenate([frame.atoms.numbers for frame in frames]))
    counts = np.array([[(f.atoms.numbers == z).sum() for z in numbers] for f in frames], float)
    sizes = counts.sum(axis=1)
    target, fractions = np.array([f.energy for f in frames]) / sizes, counts / sizes[:, None]
    weights = np.ones(len(frames))
    left = target
    for _ in range(50):  # least absolute deviations, by weights of least squares
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(fractions * root[:, None], target * root, rcond=1e-10)[0]
        left = target - fractions @ solution
        weights = 1.0 / np.maximum(np.abs(left), 1e-6)
    return left - float(np.median(left))


def _total_energy_findings(frames: Sequence[LabelledFrame]) -> Findings:
    """Compare with the energy of all electrons, -20.9 Z^(7/3) eV an atom (Thomas and Fermi)."""
    bounds = np.array([(_THOMAS_FERMI * f.atoms.numbers ** (7 / 3)).sum() for f in frames])
    energies = np.array([frame.energy for frame in frames])
    beyond = np.flatnonzero(np.abs(energies) > _ENERGY_MARGIN * bounds).tolist()
    if not beyond:
        return Findings([], [])
    worst = max(beyond, key=lambda k: abs(energies[k]) / bounds[k])
    return Findings(
        [
            f"energies beyond what all electrons of the atoms are bound by in "
            f"{_named(frames, beyond)}: {energies[worst]:.6g} eV, where {bounds[worst]:.3g} eV are "
            "possible; say energy_unit if they are in another"
        ],
        [],
    )


def _force_findings(frames: Sequence[LabelledFrame]) -> Findings:
    largest = np.array([0.0 if f.forces is None else np.abs(f.forces).max() for f in frames])
    refused = _above(frames, largest, _IMPOSSIBLE_FORCE, np.inf, "forces", "eV/Å")
    odd = _above(frames, largest, _ODD_FORCE, _IMPOSSIBLE_FORCE, "forces", "eV/Å")
    given = [f.forces for f in frames if f.forces is not None]
    rms = float(np.sqrt(np.mean(np.concatenate(given) ** 2))) if given else 0.0
    if rms > _IMPOSSIBLE_RMS and not refused:
        refused.append(
            f"forces of {rms:.3g} eV/Å on average (thermal ones have 1 to 3); say forces_unit "
            "or energy_unit if they are in another"
        )
    # A perfect crystal has no forces; a molecule has some, where they were calculated.
    moving = [
        f for f in frames if f.forces is not None and len(f.atoms) > 1 and not f.atoms.pbc.any()
    ]
    if len(moving) > 1:
        odd += _all_zero(moving, [np.asarray(f.forces) for f in moving], "every force is")
    return Findings(refused, odd)


def _stress_findings(frames: Sequence[LabelledFrame]) -> Findings:
    largest = np.array([0.0 if f.stress is None else np.abs(f.stress).max() for f in frames])
    odd = _above(frames, largest, _ODD_STRESS, np.inf, "stress", "eV/Å³")
    hint = ", above 160 GPa; say stress_unit if the file is in GPa or kbar"
    given = [f for f in frames if f.stress is not None and has_neighbours(f.atoms)]
    zero = _all_zero(given, [np.asarray(f.stress) for f in given], "the stress is")
    return Findings([], [sentence + hint for sentence in odd] + zero)


def _all_zero(
    frames: Sequence[LabelledFrame], labels: Sequence[FloatArray], what: str
) -> list[str]:
    """Return what is odd about labels that are zero to the last digit, which no calculation gives.

    Parameters
    ----------
    labels : those of the frames; what : "every force is"
    """
    found = [k for k, label in enumerate(labels) if not np.any(label)]
    if not found:
        return []
    where = "" if len(found) == len(frames) else f" in {_named(frames, found)}"
    return [f"{what} exactly zero{where}, as where none was calculated"]


def _above(
    frames: Sequence[LabelledFrame],
    largest: FloatArray,
    low: float,
    high: float,
    what: str,
    unit: str,
) -> list[str]:
    found = [int(k) for k in np.argsort(-largest) if low < largest[k] <= high]
    if not found:
        return []
    return [f"{what} of up to {largest[found[0]]:.3g} {unit} in {_named(frames, found)}"]


def _distance_findings(frames: Sequence[LabelledFrame]) -> Findings:
    """Compare distances with covalent radii: a unit of length that is wrong is wrong everywhere.

    So a few frames tell it; two atoms in one place may be those of any frame.
    """
    several = [frame for frame in frames if len(frame.atoms) > 1]
    shortest: list[float] = []
    typical: dict[str, list[float]] = {}
    for path, rows in _by_file(several).items():  # each file has its own unit
        step = max(1, -(-len(rows) // _N_SAMPLED))
        for k in rows[::step]:
            try:
                graph = build_graph(several[k].atoms, _SEARCH)
            except GraphError:  # said with its reason where the frame's own graph is built
                continue
            if graph.edge_index.shape[1] == 0:
                continue
            shortest.append(float(nearest_ratios(graph).min()))
            ratio = typical_ratio(graph)
            if ratio is not None:
                typical.setdefault(path, []).append(ratio)
    if not shortest:
        return Findings([], [])
    middle = float(np.median(shortest))
    if middle < _COLLAPSED:
        return Findings(
            [
                f"the shortest distances are {middle:.2g} of the sum of covalent radii (bonds have "
                "about 1): positions in nm, or in fractions of the cell; say length_unit"
            ],
            [],
        )
    odd = []
    close = [k for k, each in enumerate(several) if _shortest_ratio(each.atoms) < _TOO_SHORT]
    if close:
        odd.append(
            f"atoms closer than {_TOO_SHORT} of the sum of their covalent radii in "
            f"{_named(several, close)}"
        )
    medians = {path: float(np.median(ratios)) for path, ratios in typical.items()}
    long = {path: ratio for path, ratio in medians.items() if is_as_in_bohr(ratio)}
    if long:
        where = f" in {listing(list(long))}" if len(medians) > 1 else ""
        odd.append(
            f"nearest neighbours{where} are {np.median(list(long.values())):.2f} times the sum of "
            "covalent radii apart (bonds have about 1): if positions are in Bohr, say length_unit"
        )
    return Findings([], odd)


def _shortest_ratio(atoms: Atoms) -> float:
    """Return the shortest distance over the sum of covalent radii, inf where none is too short."""
    radii = covalent_radii[atoms.numbers]
    try:
        i, j, distances = distances_of(
            check_structure(atoms), 2.0 * _TOO_SHORT * float(radii.max())
        )
    except GraphError:  # said with its reason where the frame's own graph is built
        return np.inf
    return float((distances / (radii[i] + radii[j])).min(initial=np.inf))


def _shortest(frame: LabelledFrame) -> float:
    distances = frame.atoms.get_all_distances(mic=bool(frame.atoms.pbc.any()))
    return float(distances[~np.eye(len(distances), dtype=bool)].min())


def _named(frames: Sequence[LabelledFrame], chosen: Sequence[int]) -> str:
    """Return what a sentence calls frames: by number and file, where they have one."""
    shown = sorted(chosen)
    names = [str(frames[k].origin or f"frame {k}") for k in shown[:5]]
    rest = f", ... ({len(shown)} in all)" if len(shown) > 5 else ""
    return ", ".join(names) + rest
