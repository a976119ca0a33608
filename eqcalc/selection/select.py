"""Choose frames for labelling: by the spread of a committee's forces, then far from each other.

Frames whose worst atom has a force spread within the limits are candidates. The first taken is
the one of the largest spread; each next one is that farthest from everything taken (and from the
structures that have labels), until there are enough or the rest are near-duplicates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray

from eqcalc.arguments import require_at_least
from eqcalc.electrons import ELECTRONS
from eqcalc.elements import require_elements
from eqcalc.errors import ConfigError, GraphError
from eqcalc.selection.candidates import Candidate
from eqcalc.selection.descriptor import closest_pair, descriptor, distances_to
from eqcalc.selection.displacement import Places, displacements, places_of
from eqcalc.simulate.frame_content import drop_stale

if TYPE_CHECKING:
    from eqcalc.calculator import EqCalculator

__all__ = ["Selected", "Selection", "SelectionSettings", "frames_to_label", "select_frames"]

_AT_ONCE = 32  # structures between two reports of progress
_N_FRAMES = 50
_ROUNDING = 1e-5  # of a score: what float32 leaves of two that are equal
_COPY = 1e-4  # Å; a structure whose atoms are in another order is no other one


class _Points(NamedTuple):
    """What frames are compared by.

    descriptors : (n, n_features), Å
    places : of each, where its atoms are
    """

    descriptors: NDArray
    places: list[Places | None]


@dataclass(frozen=True)
class SelectionSettings:
    """How frames are selected.

    n_frames : how many, at most; None: 50, or all where there are fewer
    min_spread : eV/Å; force spread of the worst atom (length of its three components' sample
        standard deviations) from which a frame is worth a label
    max_spread : eV/Å; above it a frame is taken to be beyond use; None: no limit
    min_distance : Å; frames nearer than this to one that is taken are near-duplicates: by the
        distance of :mod:`eqcalc.selection.descriptor`, and where atoms can be compared one by one
        (:mod:`eqcalc.selection.displacement`) by how far they moved too
    min_contact : of the sum of two atoms' covalent radii; a frame with a pair nearer than that is
        broken and left out
    seed : of the order in which equals are taken

    Raises
    ------
    ConfigError : a value is out of its range.
    """

    n_frames: int | None = None
    min_spread: float = 0.1
    max_spread: float | None = None
    min_distance: float = 0.05
    min_contact: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_frames is not None:
            require_at_least(1, n_frames=self.n_frames)
        require_at_least(0, seed=self.seed)
        for name in ("min_spread", "min_distance", "min_contact"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"{name} must be a number >= 0, found {value!r}.")
        if self.max_spread is not None and not self.max_spread > self.min_spread:
            raise ConfigError(
                f"max_spread must be larger than min_spread ({self.min_spread:g} eV/Å), found "
                f"{self.max_spread!r}."
            )


@dataclass(frozen=True)
class Selected:
    """A frame that was taken, and why.

    max_force_spread : eV/Å, of the worst atom, whose number is ``worst_atom``
    energy_spread : eV
    distance : Å to the nearest other frame that was taken or has a label; None if there is none
    closest : Å, the smallest distance of two atoms
    """

    candidate: Candidate
    max_force_spread: float
    worst_atom: int
    energy_spread: float
    distance: float | None
    closest: float


@dataclass(frozen=True)
class Selection:
    """The frames taken, in the order in which they were, and what became of the others.

    n_candidates : frames that were given; the numbers below and ``selected`` sum to it
    broken : what is wrong with each frame that was left out as broken
    n_agreed : below ``min_spread``; n_beyond : above ``max_spread``
    n_duplicates : near-duplicates of frames that were taken or have labels
    n_left : worth a label, and more than were asked for
    spreads : eV/Å, of the worst atom of each frame that is not broken, in their order
    """

    selected: list[Selected]
    n_candidates: int
    broken: list[str]
    n_agreed: int
    n_beyond: int
    n_duplicates: int
    n_left: int
    spreads: NDArray


def select_frames(
    candidates: Sequence[Candidate],
    calculator: EqCalculator,
    settings: SelectionSettings | None = None,
    *,
    known: Sequence[Atoms] = (),
    progress: Callable[[int], None] | None = None,
) -> Selection:
    """Select frames for labelling; the same input gives the same frames.

    Parameters
    ----------
    calculator : a committee
    known : structures that have labels, from which frames shall differ too
    progress : called with the number of frames evaluated

    Raises
    ------
    ConfigError : the calculator holds one model; there are no frames, or fewer than asked for.
    UnsupportedElementError : a frame holds an element that a member does not know.
    And what :meth:`eqcalc.EqCalculator.calculate_many` raises; the message names the frame.
    """
    settings = SelectionSettings() if settings is None else settings
    _require(candidates, calculator, settings)
    whole, closest, broken = _whole(candidates, settings.min_contact)
    forces, energies, worst = _spreads(whole, calculator, progress)
    limit = math.inf if settings.max_spread is None else settings.max_spread
    wanted = np.flatnonzero((forces >= settings.min_spread) & (forces <= limit))
    # Equals are taken in an order that the seed gives.
    wanted = np.random.default_rng(settings.seed).permutation(wanted)
    elements = sorted({int(z) for a in [*(c.atoms for c in whole), *known] for z in a.numbers})
    cutoff = calculator.neighbours.cutoff
    points = _points([whole[k].atoms for k in wanted], elements, cutoff)
    fixed = _points(known, elements, cutoff)
    taken: list[int] = []
    n_duplicates = 0
    if len(wanted) > 0:
        taken, n_duplicates = _farthest(points, forces[wanted], fixed, settings)
    selected = []
    for place in taken:
        k = int(wanted[place])
        others = points.descriptors[[t for t in taken if t != place]]
        near = [
            float(distances_to(rows, points.descriptors[place]).min())
            for rows in (others, fixed.descriptors)
            if len(rows)
        ]
        selected.append(
            Selected(
                whole[k],
                float(forces[k]),
                int(worst[k]),
                float(energies[k]),
                min(near, default=None),
                closest[k],
            )
        )
    return Selection(
        selected,
        len(candidates),
        broken,
        n_agreed=int((forces < settings.min_spread).sum()),
        n_beyond=int((forces > limit).sum()),
        n_duplicates=n_duplicates,
        n_left=len(wanted) - len(taken) - n_duplicates,
        spreads=forces,
    )


def frames_to_label(selection: Selection) -> list[Atoms]:
    """Return the selected frames without results, each with its reasons in ``info``.

    Charge, spin and multiplicity stay, which whoever labels them must know; of the rest of ``info``
    the file and the frame tell.
    ``source_file``, ``source_frame``, ``source_step`` (where known), ``max_force_spread_eV_per_A``,
    ``worst_atom``, ``total_spread_eV`` (of the energy; readers of data take names with "energy" for
    labels), ``distance_to_others_A`` (where there are others) and ``closest_distance_A`` (where two
    atoms are within 3 Å).
    """
    frames = []
    for each in selection.selected:
        frame = each.candidate.atoms.copy()
        drop_stale(frame)  # what a model said is no label
        reasons = {
            "source_file": str(each.candidate.source),
            "source_frame": each.candidate.frame,
            "source_step": each.candidate.step,
            "max_force_spread_eV_per_A": each.max_force_spread,
            "worst_atom": each.worst_atom,
            "total_spread_eV": each.energy_spread,
            "distance_to_others_A": each.distance,
            "closest_distance_A": each.closest if math.isfinite(each.closest) else None,
        }
        electrons = {name: frame.info[name] for name in ELECTRONS if name in frame.info}
        frame.info = electrons | {k: v for k, v in reasons.items() if v is not None}
        frames.append(frame)
    return frames


def _require(
    candidates: Sequence[Candidate], calculator: EqCalculator, settings: SelectionSettings
) -> None:
    """Refuse what cannot be selected from, before anything is computed."""
    if len(calculator.models) < 2:
        raise ConfigError(
            "select needs a committee: several models, trained with different seeds or on "
            f"different data, whose spread says where to label; found one, "
            f"'{calculator.card.name}'."
        )
    if len(candidates) == 0:
        raise ConfigError("select needs frames to choose from, found none.")
    if settings.n_frames is not None and settings.n_frames > len(candidates):
        raise ConfigError(
            f"n_frames asks for {settings.n_frames} frames, and there are {len(candidates)}; ask "
            "for fewer, or give more runs."
        )
    for model in calculator.models:
        for candidate in candidates:
            known = f"model '{model.card.name}'"
            require_elements(
                candidate.atoms.numbers, model.card.elements, known, where=str(candidate)
            )


def _whole(
    candidates: Sequence[Candidate], min_contact: float
) -> tuple[list[Candidate], list[float], list[str]]:
    """Return whole frames, their closest distances, and what is wrong with the others."""
    whole, closest, broken = [], [], []
    for candidate in candidates:
        try:
            nearest, share, pair = closest_pair(candidate.atoms, covalent_radii, min_contact)
        except GraphError as error:
            raise GraphError(f"{candidate}: {error}") from error
        if share < min_contact:
            broken.append(f"{candidate}: {pair}")
        else:
            whole.append(candidate)
            closest.append(nearest)
    return whole, closest, broken


def _spreads(
    candidates: list[Candidate],
    calculator: EqCalculator,
    progress: Callable[[int], None] | None,
) -> tuple[NDArray, NDArray, NDArray]:
    """Return each frame's largest force spread, its energy spread and its worst atom."""
    forces, energies, worst = [], [], []
    for first in range(0, len(candidates), _AT_ONCE):
        here = candidates[first : first + _AT_ONCE]
        names = [str(candidate) for candidate in here]
        for found in calculator.calculate_many([c.atoms for c in here], names=names):
            lengths = np.linalg.norm(found["forces_spread"], axis=1)
            forces.append(lengths.max())
            energies.append(found["energy_spread"])
            worst.append(lengths.argmax())
        if progress is not None:
            progress(first + len(here))
    return np.array(forces, dtype=float), np.array(energies, dtype=float), np.array(worst)


def _points(structures: Sequence[Atoms], elements: Sequence[int], cutoff: float) -> _Points:
    return _Points(
        np.array([descriptor(atoms, elements, cutoff) for atoms in structures]),
        [places_of(atoms) for atoms in structures],
    )


def _farthest(
    points: _Points, spreads: NDArray, fixed: _Points, settings: SelectionSettings
) -> tuple[list[int], int]:
    """Return the rows that are taken, in order, and how many are near-duplicates of them.

    Parameters
    ----------
    points : n frames; spreads : (n,), which decide about the first
    fixed : what has labels
    """
    distance = np.full(len(spreads), np.inf)
    is_near = np.zeros(len(spreads), dtype=bool)

    def look_at(descriptor: NDArray, places: Places | None) -> None:
        apart = distances_to(points.descriptors, descriptor)
        np.minimum(distance, apart, out=distance)
        rows = np.flatnonzero((apart < settings.min_distance) & ~is_near)
        moved = displacements([points.places[row] for row in rows], places)
        is_near[rows] = (moved < settings.min_distance) | (apart[rows] < _COPY)

    for one in zip(*fixed, strict=True):
        look_at(*one)
    free = np.ones(len(spreads), dtype=bool)
    taken: list[int] = []
    n_wanted = _N_FRAMES if settings.n_frames is None else settings.n_frames
    while len(taken) < n_wanted:
        open_ = free & ~is_near
        if not open_.any():
            break
        score = spreads if not taken else distance
        best = _first_of_the_highest(np.where(open_, score, -np.inf))
        taken.append(best)
        free[best] = False
        look_at(points.descriptors[best], points.places[best])
    return taken, int((free & is_near).sum())


def _first_of_the_highest(score: NDArray) -> int:
    """Return the first row that is the highest but for rounding, which places in a batch change."""
    highest = score.max()
    if np.isinf(highest):
        return int(score.argmax())
    return int((score >= highest - _ROUNDING * abs(highest)).argmax())
