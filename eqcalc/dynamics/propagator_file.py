"""The file of a propagator: its card, its passport, and how both are read.

Like a potential's file it is a TorchScript archive that needs torch alone. Its
module maps

    (charges (n,), positions (n, 3), velocities (n, 3), object_index)
        -> positions (n, 3), velocities (n, 3)

one timestep later, with ``object_index`` a dict of int64 tensors "isolated" (K0,),
"stick" (2, K1) and "hinge" (3, K2), row 0 the joint. There are no units: lengths,
times and charges are those of the training data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from eqcalc.errors import ModelFileError
from eqcalc.model_file import ModelFile, Source, open_model_file
from eqcalc.model_file.card import PropagatorCard
from eqcalc.model_file.fields import require_number, require_numbers

__all__ = [
    "PropagatorCard",
    "PropagatorFrame",
    "PropagatorPassport",
    "Step",
    "open_propagator_file",
    "record_steps",
    "verify_steps",
]

Step = Callable[[Tensor, Tensor, Tensor, dict[str, Tensor]], tuple[Tensor, Tensor]]
"""(charges, positions, velocities, object_index) -> positions, velocities."""

# Relative to the largest number of the frame. float32 has a unit roundoff of 6e-8, and
# four layers of sums over a few neighbours lose two to three digits of it.
TOLERANCES: dict[str, float] = {"float64": 1e-10, "float32": 1e-4}

# A file may allow more than today's tolerances, but not so much that everything passes.
_LARGEST_TOLERANCE = 1e-2
_MOST_FRAMES = 1000
_VECTORS = ("positions", "velocities", "next_positions", "next_velocities")


@dataclass(frozen=True)
class PropagatorFrame:
    """A state and the state one step later, by the float64 network."""

    charges: list[float]
    positions: list[list[float]]
    velocities: list[list[float]]
    objects: dict[str, Any]
    next_positions: list[list[float]]
    next_velocities: list[list[float]]

    def inputs(
        self, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Return the arguments of a step."""
        charges, positions, velocities = (
            torch.tensor(values, dtype=dtype, device=device)
            for values in (self.charges, self.positions, self.velocities)
        )
        objects = {
            kind: torch.tensor(index, dtype=torch.int64, device=device)
            for kind, index in self.objects.items()
        }
        return charges, positions, velocities, objects


@dataclass(frozen=True)
class PropagatorPassport:
    """Reference steps, and the relative tolerance of each dtype."""

    frames: list[PropagatorFrame]
    tolerances: dict[str, float] = field(default_factory=lambda: dict(TOLERANCES))

    def to_json(self) -> str:
        """Return the text of ``passport.json``."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PropagatorPassport:
        """Read the text of ``passport.json``.

        Raises
        ------
        ValueError, KeyError, TypeError : it is not one.
        """
        content = json.loads(text)
        frames = [PropagatorFrame(**frame) for frame in content["frames"]]
        if not 0 < len(frames) <= _MOST_FRAMES:
            raise ValueError(f"it holds {len(frames) or 'no'} frames")
        for index, frame in enumerate(frames):
            n = len(frame.charges)
            require_numbers(f"charges of frame {index}", frame.charges, (n,))
            for name in _VECTORS:
                require_numbers(f"{name} of frame {index}", getattr(frame, name), (n, 3))
            for kind, members in frame.objects.items():
                _check_members(f"{kind} of frame {index}", members, n)
        for name, tolerance in content["tolerances"].items():
            require_number(f"the tolerance of {name}", tolerance, 0.0, _LARGEST_TOLERANCE)
        return cls(frames, content["tolerances"])


def _check_members(name: str, members: Any, n_atoms: int) -> None:
    rows = members if members and isinstance(members[0], list) else [members]
    for row in rows:
        require_numbers(name, row, (len(rows[0]),))
        if not all(type(k) is int and 0 <= k < n_atoms for k in row):
            raise ValueError(f"{name} names atoms that are not there")


def open_propagator_file(
    source: Source, *, trust: bool = False
) -> tuple[ModelFile, PropagatorCard]:
    """Find, check and read a propagator given by path, folder or shipped name.

    Raises
    ------
    UnknownModelError : there is none.
    ModelFileError : it is unreadable, damaged or foreign, or a potential.
    """
    file = open_model_file(source, trust=trust)
    if not isinstance(file.card, PropagatorCard):
        raise ModelFileError(
            f"'{file.path}' is a potential ({file.card.architecture}), not a propagator: use it "
            "with eqcalc.EqCalculator."
        )
    return file, file.card


def record_steps(
    states: Sequence[tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]], step: Step
) -> PropagatorPassport:
    """Keep what a float64 network makes of some states."""
    frames = []
    for charges, positions, velocities, objects in states:
        later_x, later_v = step(charges, positions, velocities, objects)
        frames.append(
            PropagatorFrame(
                charges.tolist(),
                positions.tolist(),
                velocities.tolist(),
                {kind: index.tolist() for kind, index in objects.items()},
                later_x.tolist(),
                later_v.tolist(),
            )
        )
    return PropagatorPassport(frames)


@torch.no_grad()
def verify_steps(
    passport: PropagatorPassport, step: Step, dtype: torch.dtype, device: torch.device, label: str
) -> None:
    """Replay every frame and compare.

    Raises
    ------
    ModelFileError : a frame differs by more than the tolerance.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in passport.tolerances:
        raise ModelFileError(
            f"{label}: the passport has no tolerance for {name}; "
            f"it knows {', '.join(passport.tolerances)}."
        )
    for number, frame in enumerate(passport.frames):
        found = step(*frame.inputs(dtype, device))
        for what, values, expected in zip(
            ("positions", "velocities"),
            found,
            (frame.next_positions, frame.next_velocities),
            strict=True,
        ):
            reference = torch.tensor(expected, dtype=torch.float64)
            error = float((values.cpu().double() - reference).abs().max())
            allowed = passport.tolerances[name] * max(1.0, float(reference.abs().max()))
            if not error <= allowed:  # NaN fails too
                raise ModelFileError(
                    f"{label}: the propagator does not reproduce its own passport. Frame {number}: "
                    f"{what} differ by {error:.3g}, allowed {allowed:.3g}, on {device} in {name} "
                    f"with torch {torch.__version__}. Try dtype='float64' or device='cpu', or "
                    "export it again."
                )
