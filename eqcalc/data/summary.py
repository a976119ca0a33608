"""What a set of labelled frames holds, and what a training would say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from eqcalc.data.consistency import label_factors
from eqcalc.data.data_files import DataPath
from eqcalc.data.duplicates import repeated_structures
from eqcalc.data.frames import (
    FloatArray,
    LabelledFrame,
    LabelRequest,
    has_neighbours,
    lacking_labels,
)
from eqcalc.data.plausibility import (
    Contacts,
    contact_findings,
    contacts_of,
    energy_deviations,
    find_implausible,
)
from eqcalc.data.readers import WholeFrames, read_whole_frames
from eqcalc.data.rows import Rows
from eqcalc.data.stiffness import BondStiffness, bond_stiffnesses
from eqcalc.errors import ConfigError, GraphError, listing
from eqcalc.graph import AtomicGraph
from eqcalc.neighbours import build_graph

__all__ = ["ClosestPair", "DataSummary", "Extreme", "LabelCount", "summarise"]

_SAME_ENERGY = 1e-3  # eV/atom: what two calculations of one structure may differ by


class Extreme(NamedTuple):
    """The frame that lies furthest out in one quantity."""

    quantity: str
    value: float
    unit: str
    frame: str


class ClosestPair(NamedTuple):
    """The smallest distance between two elements, in Å, and its ratio to their covalent radii.

    atoms : numbers of the two within the frame
    """

    pair: str
    distance: float
    ratio: float
    frame: str
    atoms: tuple[int, int]


class LabelCount(NamedTuple):
    """How many frames have a label, and which of those that should have it have none.

    expected : every frame for energy and forces, those periodic in all directions for stress
    """

    present: int
    expected: int
    missing: list[str]


@dataclass(frozen=True, eq=False)
class DataSummary:
    """Counts, extremes and findings of a set of frames, in eV and Å.

    n_frames : that were asked for; n_read of them could be read
    n_atoms : (n_read,) atoms of each frame
    isolated : frames of one atom with ``config_type=IsolatedAtom``, not among those read
    isolated_atoms : symbol -> energy, eV
    compositions : formula -> frames
    periodic : "no direction", "all directions", ... -> frames
    units : as they stood in the files
    copies : groups of frames that are one structure, by their names
    consistency : label -> the factor that fits it to the energies; 1 where they belong together
    stiffness : force constants of bonds by the forces, the surest first
    cutoff : within which pairs are looked for, Å
    refused, odd : what a training refuses, and what it says and takes
    deviations, forces, distances, stresses : for pictures: energies per atom beside the fit of
        energies per element; force components; each atom's nearest distance; stress components
    """

    source: str
    n_frames: int
    n_read: int
    n_atoms: list[int]
    elements: dict[str, int]
    compositions: dict[str, int]
    periodic: dict[str, int]
    units: str
    labels: dict[str, LabelCount]
    isolated: list[int]
    isolated_atoms: dict[str, float]
    copies: list[list[str]]
    extremes: list[Extreme]
    closest: list[ClosestPair]
    consistency: dict[str, float]
    stiffness: list[BondStiffness]
    cutoff: float
    refused: list[str]
    odd: list[str]
    deviations: FloatArray
    forces: FloatArray
    distances: FloatArray
    stresses: FloatArray

    def to_json(self) -> dict[str, Any]:
        """Return everything but the arrays, as JSON holds it."""
        left = ("deviations", "forces", "distances", "stresses", "n_atoms")
        content = {key: value for key, value in vars(self).items() if key not in left}
        for key in ("extremes", "closest", "stiffness"):
            content[key] = [each._asdict() for each in getattr(self, key)]
        content["labels"] = {name: count._asdict() for name, count in self.labels.items()}
        content["atoms_per_frame"] = {
            "smallest": min(self.n_atoms),
            "largest": max(self.n_atoms),
            "all": sum(self.n_atoms),
        }
        return content


@dataclass
class _Geometry:
    """What one walk over the graphs finds."""

    contacts: list[Contacts] = field(default_factory=list)
    frames: list[LabelledFrame] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    nearest: list[FloatArray] = field(default_factory=list)
    closest: dict[tuple[int, int], ClosestPair] = field(default_factory=dict)


def summarise(
    path: DataPath,
    request: LabelRequest | None = None,
    *,
    rows: Rows = None,
    cutoff: float = 5.0,
) -> DataSummary:
    """Read frames and count what they hold; frames without labels are counted, not refused.

    Parameters
    ----------
    request : keys and units, where the files do not say them
    rows : as :func:`read_dataset` takes them
    cutoff : within which pairs and atoms without neighbours are looked for, Å

    Raises
    ------
    ConfigError : the cutoff is not positive, or an option that the format does not have.
    DataError : no frame at all can be read.
    """
    if not (np.isfinite(cutoff) and cutoff > 0.0):
        raise ConfigError(f"the cutoff must be a positive number of Å, found {cutoff}.")
    read = read_whole_frames(path, request or LabelRequest(), rows=rows)
    dataset, frames = read.dataset, read.dataset.frames
    if not frames:
        raise ConfigError(
            f"{dataset.source} holds nothing but isolated atoms; a summary needs "
            "frames to train on."
        )
    geometry = _geometry(frames, cutoff)
    labels = _labels(read)
    copies = repeated_structures(frames)
    found = find_implausible(frames)
    contacts = contact_findings(geometry.frames, geometry.contacts, cutoff)
    several = [frame for frame in frames if has_neighbours(frame.atoms)]
    deviations = energy_deviations(several) if several else np.zeros(0)
    counts = Counter(z for frame in frames for z in frame.atoms.numbers.tolist())
    refused = [read.refused] if read.refused is not None else []
    refused += _missing_labels(frames)
    return DataSummary(
        source=dataset.source,
        n_frames=len(frames) + len(read.unread) + len(dataset.left_out),
        n_read=len(frames),
        n_atoms=[len(frame.atoms) for frame in frames],
        elements={chemical_symbols[z]: n for z, n in sorted(counts.items())},
        compositions=_counted(f.atoms.get_chemical_formula(mode="hill") for f in frames),
        periodic=_counted(_periodicity(frame) for frame in frames),
        units=dataset.units,
        labels=labels,
        isolated=dataset.left_out,
        isolated_atoms={
            chemical_symbols[z]: energy for z, energy in sorted(dataset.isolated_atoms.items())
        },
        copies=[_all_names(group) for group in copies],
        extremes=_extremes(frames, several, deviations),
        closest=sorted(geometry.closest.values(), key=lambda each: each.ratio),
        consistency=label_factors(frames),
        stiffness=bond_stiffnesses(frames),
        cutoff=cutoff,
        refused=[
            _sentence(text)
            for text in (*refused, *geometry.refused, *found.refused, *contacts.refused)
        ],
        odd=[
            _sentence(text)
            for text in (*dataset.notes, *found.odd, *contacts.odd, *_odd_frames(frames, copies))
        ],
        deviations=deviations,
        forces=_components([frame.forces for frame in frames]),
        distances=_components(geometry.nearest),
        stresses=_components([frame.stress for frame in frames]),
    )


def _geometry(frames: Sequence[LabelledFrame], cutoff: float) -> _Geometry:
    """Walk over the frames' graphs, of which one at a time is in memory."""
    found = _Geometry()
    for frame in frames:
        try:
            graph = build_graph(frame.atoms, cutoff)
        except GraphError as error:
            found.refused.append(f"{_name(frame)}: {error}")
            continue
        found.frames.append(frame)
        found.contacts.append(contacts_of(graph))
        if graph.edge_index.shape[1] > 0:
            _look_at_pairs(frame, graph, found)
    return found


def _look_at_pairs(frame: LabelledFrame, graph: AtomicGraph, found: _Geometry) -> None:
    senders, receivers = graph.edge_index.numpy()
    distances = np.linalg.norm(graph.edge_vectors.numpy(), axis=1)
    numbers = frame.atoms.numbers
    nearest = np.full(len(numbers), np.inf)
    np.minimum.at(nearest, receivers, distances)
    found.nearest.append(nearest[np.isfinite(nearest)])
    one, other = numbers[senders], numbers[receivers]
    kinds = np.minimum(one, other) * len(chemical_symbols) + np.maximum(one, other)
    for kind in np.unique(kinds).tolist():
        where = np.flatnonzero(kinds == kind)
        edge = int(where[distances[where].argmin()])
        low, high = divmod(kind, len(chemical_symbols))
        distance = float(distances[edge])
        if (low, high) in found.closest and found.closest[low, high].distance <= distance:
            continue
        atoms = sorted((int(senders[edge]), int(receivers[edge])))
        found.closest[low, high] = ClosestPair(
            f"{chemical_symbols[low]}-{chemical_symbols[high]}",
            distance,
            distance / float(covalent_radii[low] + covalent_radii[high]),
            _name(frame),
            (atoms[0], atoms[1]),
        )


def _labels(read: WholeFrames) -> dict[str, LabelCount]:
    frames = read.dataset.frames
    unread = [str(origin) for origin in read.unread]
    periodic = [frame for frame in frames if frame.atoms.pbc.all()]
    bare = [_name(frame) for frame in frames if frame.forces is None]
    slack = [_name(frame) for frame in periodic if frame.stress is None]
    n_all = len(frames) + len(unread)
    labels = {
        "energy": LabelCount(len(frames), n_all, unread),
        "forces": LabelCount(len(frames) - len(bare), n_all, [*bare, *unread]),
    }
    if periodic:
        labels["stress"] = LabelCount(len(periodic) - len(slack), len(periodic), slack)
    return labels


def _missing_labels(frames: Sequence[LabelledFrame]) -> list[str]:
    """Return what a training says of forces and stress that some frames do not have."""
    if all(frame.forces is None for frame in frames):
        return ["no frame has forces, which a training needs"]
    sentences = []
    bare = lacking_labels(frames).get("forces", [])
    if bare:
        sentences.append(
            f"a training needs forces in every frame; there are none in {listing(_all_names(bare))}"
        )
    by_file: dict[object, list[LabelledFrame]] = {}
    for frame in frames:
        by_file.setdefault(frame.origin and frame.origin.path, []).append(frame)
    slack = [frame for own in by_file.values() for frame in lacking_labels(own).get("stress", [])]
    if slack:
        sentences.append(
            "a training needs a stress in every periodic frame of a file or in none; there is "
            f"none in {listing(_all_names(slack))}"
        )
    return sentences


def _extremes(
    frames: Sequence[LabelledFrame], several: Sequence[LabelledFrame], deviations: FloatArray
) -> list[Extreme]:
    found = []
    if len(deviations) > 1:
        for what, k in (
            ("lowest", int(deviations.argmin())),
            ("highest", int(deviations.argmax())),
        ):
            found.append(
                Extreme(f"{what} energy", float(deviations[k]), "eV/atom", _name(several[k]))
            )
    for what, unit in (("forces", "eV/Å"), ("stress", "eV/Å³")):
        given = [frame for frame in frames if getattr(frame, what) is not None]
        if given:
            largest = [float(np.abs(getattr(frame, what)).max()) for frame in given]
            k = int(np.argmax(largest))
            name = "largest force component" if what == "forces" else "largest stress component"
            found.append(Extreme(name, largest[k], unit, _name(given[k])))
    return found


def _odd_frames(
    frames: Sequence[LabelledFrame], copies: Sequence[Sequence[LabelledFrame]]
) -> list[str]:
    sentences = []
    alone = [_name(frame) for frame in frames if len(frame.atoms) == 1 and not any(frame.atoms.pbc)]
    if alone:
        sentences.append(
            f"one atom alone in {listing(alone)}: trained on as any other frame; an energy for "
            "reference_energies needs config_type=IsolatedAtom"
        )
    if copies:
        extra = sum(len(group) - 1 for group in copies)
        shown = "; ".join(_names(group) for group in copies[:3])
        sentences.append(
            f"{extra} frames are copies of others ({shown}"
            f"{'; ...' if len(copies) > 3 else ''}): a split that trains on one and tests on the "
            "other is refused"
        )
    unlike = [group for group in copies if _disagrees(group)]
    if unlike:
        sentences.append(
            f"copies with different energies: {'; '.join(_names(group) for group in unlike[:3])}"
        )
    return sentences


def _disagrees(group: Sequence[LabelledFrame]) -> bool:
    energies = [frame.energy for frame in group]
    return max(energies) - min(energies) > _SAME_ENERGY * len(group[0].atoms)


def _names(frames: Sequence[LabelledFrame]) -> str:
    return " = ".join(_name(frame) for frame in frames[:4]) + (" = ..." if len(frames) > 4 else "")


def _all_names(frames: Sequence[LabelledFrame]) -> list[str]:
    return [_name(frame) for frame in frames]


def _name(frame: LabelledFrame) -> str:
    return str(frame.origin or "a frame")


def _periodicity(frame: LabelledFrame) -> str:
    return {0: "in no direction", 3: "in all directions"}.get(
        int(frame.atoms.pbc.sum()), "in some directions"
    )


def _counted(names: Any) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _components(arrays: Sequence[Optional[FloatArray]]) -> FloatArray:
    given = [array.ravel() for array in arrays if array is not None]
    return np.concatenate(given) if given else np.zeros(0)


def _sentence(text: str) -> str:
    return text.rstrip(".") + "."
