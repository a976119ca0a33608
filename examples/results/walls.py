"""How high a model's wall is between atoms that are pushed together, in frames of a data set.

    python examples/results/walls.py MODEL FRAMES.xyz [--pairs 6] [--skip CONFIG_TYPE]

In each frame the nearest pair and drawn ones, all within 1.3 bonds, are pushed together as
``eqcalc verify`` does it. Printed are the lowest walls.
"""

from __future__ import annotations

import argparse

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.io import read
from ase.neighborlist import neighbor_list

from eqcalc import EqCalculator
from eqcalc.verification.approach import Approach, Turn

_FAR, _NEAR, _EXPECTED = 1.3, 0.3, 0.7  # bonds: pairs looked at; the end; where a wall must be
_POINTS = 40
_LOW = 5.0  # eV


def main() -> None:
    """Push pairs together and print what holds them apart."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="a shipped model's name or a model file")
    parser.add_argument("frames", help="a file of structures that ASE reads")
    parser.add_argument("--pairs", type=int, default=6, help="of each frame (default: 6)")
    parser.add_argument("--skip", help="leave out frames of this config_type")
    arguments = parser.parse_args()
    calculator = EqCalculator(arguments.model, dtype="float64")
    rng = np.random.default_rng(0)
    frames = [
        atoms
        for atoms in read(arguments.frames, ":")
        if arguments.skip is None or atoms.info.get("config_type") != arguments.skip
    ]
    walls = [wall for atoms in frames for wall in _walls(atoms, calculator, arguments.pairs, rng)]
    walls.sort(key=lambda wall: wall[0])
    low = sum(height < _LOW for height, _ in walls)
    print(f"{len(walls)} pairs in {len(frames)} frames; below {_LOW:g} eV: {low}")
    for height, turn in walls[:3]:
        where = "rises throughout" if turn is None else f"turns at {turn.distance:.2f} Å"
        print(f"wall of {height:.1f} eV, {where}")


def _walls(
    atoms: Atoms, calculator: EqCalculator, n_pairs: int, rng: np.random.Generator
) -> list[tuple[float, Turn | None]]:
    """Return height (eV) and turning point of the walls of one frame's pairs."""
    radii = covalent_radii[atoms.numbers]
    receivers, senders, vectors, lengths = neighbor_list("ijDd", atoms, _FAR * radii)
    bonds = radii[receivers] + radii[senders]
    if len(lengths) == 0:
        return []
    drawn = rng.choice(len(lengths), min(n_pairs - 1, len(lengths)), replace=False)
    found = []
    for pair in [int(np.argmin(lengths / bonds)), *drawn]:
        bond = bonds[pair]
        distances = np.linspace(lengths[pair], _NEAR * bond, _POINTS)
        energies = []
        for distance in distances:
            moved = atoms.copy()
            moved.positions[senders[pair]] -= (1.0 - distance / lengths[pair]) * vectors[pair]
            energies.append(calculator.get_potential_energy(moved))
        approach = Approach("", distances, np.array(energies), _EXPECTED * bond)
        found.append((approach.height, approach.turn()))
    return found


if __name__ == "__main__":
    main()
