"""The passport of a model: reference frames that any engine must reproduce.

A file that merely loads may still be wrong: another torch, device or engine can
change the numbers. So the file carries a few frames with the energies and forces
of the eager float64 network, and loading replays them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from eqcalc.derivatives import forces_from_edge_gradients
from eqcalc.elements import N_ELEMENTS
from eqcalc.errors import ModelFileError
from eqcalc.graph import AtomicGraph
from eqcalc.model_file.archive import ModelFile
from eqcalc.model_file.fields import require_number, require_numbers
from eqcalc.neighbours import build_graph

__all__ = [
    "Evaluate",
    "Passport",
    "PassportFrame",
    "Tolerance",
    "compare_frame",
    "read_passport",
    "record",
    "verify",
]

Evaluate = Callable[[AtomicGraph], tuple[Tensor, Tensor]]
"""graph -> energies (n_atoms,) in eV, edge_gradients (n_edges, 3) in eV/Å."""


@dataclass(frozen=True)
class Tolerance:
    """Largest difference from the recorded numbers: absolute plus relative part.

    energy : eV per atom; forces : eV/Å
    relative : fraction of the frame's largest force component (forces), or of its
        mean |atomic energy - reference energy| (energy)
    """

    energy: float
    forces: float
    relative: float


# float32 has a unit roundoff of 6e-8; sums over some hundred edges and three to six
# layers lose about two digits of it.
TOLERANCES: dict[str, Tolerance] = {
    "float64": Tolerance(energy=1e-9, forces=1e-8, relative=1e-10),
    "float32": Tolerance(energy=2e-5, forces=5e-4, relative=2e-5),
}


# A file may allow more than today's tolerances, but not so much that everything passes.
_LARGEST = Tolerance(energy=1e-3, forces=1e-2, relative=1e-3)
_MOST_FRAMES, _MOST_ATOMS, _FARTHEST = 1000, 100_000, 1e5  # Å


@dataclass(frozen=True)
class PassportFrame:
    """A structure with the float64 energy (eV) and forces (eV/Å) of the network."""

    numbers: list[int]
    positions: list[list[float]]
    cell: list[list[float]]
    pbc: list[bool]
    energy: float
    interaction_energy: float  # energy without the reference energies, eV
    forces: list[list[float]]

    def atoms(self) -> Atoms:
        """Return the structure."""
        return Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc)


@dataclass(frozen=True)
class Passport:
    """Reference frames and the tolerance of each dtype."""

    frames: list[PassportFrame]
    tolerances: dict[str, Tolerance] = field(default_factory=lambda: dict(TOLERANCES))

    def to_json(self) -> str:
        """Return the text of ``passport.json``."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Passport:
        """Read the text of ``passport.json``.

        Raises
        ------
        ValueError, KeyError, TypeError : it is not one.
        """
        content = json.loads(text)
        frames = [PassportFrame(**frame) for frame in content["frames"]]
        if not 0 < len(frames) <= _MOST_FRAMES:
            raise ValueError(f"it holds {len(frames) or 'no'} frames")
        for index, frame in enumerate(frames):
            expected = (len(frame.numbers), 3)
            if not np.shape(frame.positions) == np.shape(frame.forces) == expected:
                raise ValueError(f"positions and forces of frame {index} are not {expected}")
            _check_frame(frame, f"of frame {index}")
        tolerances = {k: Tolerance(**v) for k, v in content["tolerances"].items()}
        for name, tolerance in tolerances.items():
            for what, value in asdict(tolerance).items():
                largest = getattr(_LARGEST, what)
                require_number(f"the tolerance of {what} in {name}", value, 0.0, largest)
        return cls(frames, tolerances)


def _check_frame(frame: PassportFrame, where: str) -> None:
    """Refuse a frame that is no structure; that its energies are finite is looked at later."""
    n_atoms = len(frame.numbers)
    if not 0 < n_atoms <= _MOST_ATOMS:
        raise ValueError(f"the number of atoms {where} is {n_atoms}")
    if not all(type(z) is int and 0 < z < N_ELEMENTS for z in frame.numbers):
        raise ValueError(f"the atomic numbers {where} are not between 1 and {N_ELEMENTS - 1}")
    require_numbers(f"positions {where}", frame.positions, (n_atoms, 3))
    require_numbers(f"cell {where}", frame.cell, (3, 3))
    if max(map(abs, chain(*frame.positions, *frame.cell))) > _FARTHEST:
        raise ValueError(f"positions or cell {where} are farther than {_FARTHEST:g} Å")
    if len(frame.pbc) != 3 or not all(type(periodic) is bool for periodic in frame.pbc):
        raise ValueError(f"pbc {where} is not three times true or false")
    for value in (frame.energy, frame.interaction_energy, *chain(*frame.forces)):
        if type(value) not in (int, float):
            raise ValueError(f"energy and forces {where} are not numbers")


def record(
    structures: Sequence[Atoms],
    cutoff: float,
    evaluate: Callable[[AtomicGraph], Any],
    reference_energies: Tensor,
) -> Passport:
    """Evaluate structures with a float64 potential and keep the numbers.

    Parameters
    ----------
    cutoff : Å
    evaluate : graph -> object with ``energy`` (1,) and ``forces`` (n_atoms, 3)
    reference_energies : (119,), eV
    """
    frames = []
    for atoms in structures:
        graph = build_graph(atoms, cutoff)
        found = evaluate(graph)
        energy = float(found.energy[0])
        frames.append(
            PassportFrame(
                numbers=atoms.numbers.tolist(),
                positions=atoms.positions.tolist(),
                cell=atoms.cell.array.tolist(),
                pbc=[bool(periodic) for periodic in atoms.pbc],
                energy=energy,
                interaction_energy=energy - float(reference_energies[graph.atomic_numbers].sum()),
                forces=found.forces.tolist(),
            )
        )
    return Passport(frames)


def read_passport(file: ModelFile) -> Passport:
    """Return the passport of a model file.

    Raises
    ------
    ModelFileError : it is not readable.
    """
    try:
        return Passport.from_json(file.passport)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(
            f"the passport inside '{file.path}' is not readable: {error}."
        ) from error


def compare_frame(
    frame: PassportFrame,
    tolerance: Tolerance,
    evaluate: Evaluate,
    cutoff: float,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, tuple[float, float, str]]:
    """Return the difference from a frame's numbers, what is allowed, and the unit, by quantity."""
    graph = build_graph(frame.atoms(), cutoff, dtype=dtype, device=device)
    energies, gradients = evaluate(graph)
    n_atoms = len(frame.numbers)
    forces = forces_from_edge_gradients(gradients, graph.edge_index, n_atoms)
    expected = np.array(frame.forces)
    return {
        "energy": (
            abs(float(energies.sum()) - frame.energy) / n_atoms,
            tolerance.energy + tolerance.relative * abs(frame.interaction_energy) / n_atoms,
            "eV/atom",
        ),
        "forces": (
            float(np.abs(forces.detach().cpu().numpy() - expected).max()),
            tolerance.forces + tolerance.relative * float(np.abs(expected).max()),
            "eV/Å",
        ),
    }


def verify(
    passport: Passport,
    evaluate: Evaluate,
    cutoff: float,
    dtype: torch.dtype,
    device: torch.device,
    label: str,
) -> None:
    """Replay every frame and compare.

    Raises
    ------
    ModelFileError : a frame's energy or forces differ by more than the tolerance, or
        the recorded ones are not finite.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in passport.tolerances:
        raise ModelFileError(
            f"{label}: the passport has no tolerance for {name}; "
            f"it knows {', '.join(passport.tolerances)}."
        )
    for index, frame in enumerate(passport.frames):
        if not (np.isfinite(frame.energy) and np.isfinite(frame.forces).all()):
            raise ModelFileError(
                f"{label}: the model does not reproduce its own passport, whose numbers are not "
                f"finite (frame {index}). Its weights come from a training that diverged: train "
                "with a lower learning_rate and export again."
            )
        differences = compare_frame(
            frame, passport.tolerances[name], evaluate, cutoff, dtype, device
        )
        for quantity, (found, allowed, unit) in differences.items():
            if not found <= allowed:  # NaN fails too
                raise ModelFileError(
                    f"{label}: the model does not reproduce its own passport. Frame {index} "
                    f"({len(frame.numbers)} atoms): {quantity} differs by {found:.3g} {unit}, "
                    f"allowed {allowed:.3g}, on {device} in {name} with torch {torch.__version__}. "
                    "This combination would give wrong results; try dtype='float64', "
                    "device='cpu' or engine='torchscript', or export the model again."
                )
