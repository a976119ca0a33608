"""Lattice constants and bulk moduli of twelve solids by one calculator, as JSON.

    python examples/results/solids_of.py eqcalc sevennet-0
    ENV/bin/python examples/results/solids_of.py sevenn 7net-0

In an environment that has the package of the first argument, and ase. A Birch-Murnaghan fit to
seven volumes within 6 % of the minimum that the calculator itself has.
"""

import json
import sys
from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.eos import EquationOfState
from ase.units import GPa

SOLIDS = {
    "Al": ("fcc", 4.02),
    "Cu": ("fcc", 3.60),
    "Ag": ("fcc", 4.06),
    "Pd": ("fcc", 3.88),
    "W": ("bcc", 3.16),
    "Mo": ("bcc", 3.14),
    "Si": ("diamond", 5.42),
    "Ge": ("diamond", 5.64),
    "NaCl": ("rocksalt", 5.57),
    "CaO": ("rocksalt", 4.78),
    "MgS": ("rocksalt", 5.19),
    "GaP": ("zincblende", 5.44),
}
"""Crystal structure, and a lattice constant in Å from which to start."""


def calculator_of(package: str, model: str):
    if package == "eqcalc":
        from eqcalc import EqCalculator

        return EqCalculator(model, device="cpu")
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator(model, device="cpu")


def equation_of_state(cell: Callable[[float], Atoms], a: float, calculator) -> tuple[float, float]:
    """Return the lattice constant in Å and the bulk modulus in GPa."""
    for widest in (0.04, 0.02, 0.02):  # of the lattice constant; three times as much of volumes
        volumes, energies = [], []
        for strain in np.linspace(-widest, widest, 7):
            atoms = cell(a * (1.0 + strain))
            atoms.calc = calculator
            volumes.append(atoms.get_volume())
            energies.append(atoms.get_potential_energy())
        volume, _, modulus = EquationOfState(volumes, energies, eos="birchmurnaghan").fit()
        a = float(np.cbrt(volume / (cell(1.0).get_volume())))
    return a, float(modulus / GPa)


def main(package: str, model: str) -> None:
    calculator = calculator_of(package, model)
    found = {}
    for name, (structure, a) in SOLIDS.items():

        def cell(a: float, name: str = name, structure: str = structure) -> Atoms:
            return bulk(name, structure, a=a, cubic=True)

        found[name] = equation_of_state(cell, a, calculator)
        print(f"{name}: a = {found[name][0]:.4f} Å, B = {found[name][1]:.1f} GPa", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
