"""Energy and forces of one structure, and what the model says of itself."""

from pathlib import Path

import numpy as np
from ase.io import read

from eqcalc import EqCalculator

atoms = read(Path(__file__).parent / "ethanol.xyz")
atoms.calc = EqCalculator("painn-ethanol")

print(f"energy        {atoms.get_potential_energy():.4f} eV")
print(f"largest force {np.linalg.norm(atoms.get_forces(), axis=1).max():.4f} eV/Å")
print("energy of each atom (eV):")
for symbol, energy in zip(atoms.symbols, atoms.get_potential_energies(), strict=True):
    print(f"  {symbol:2s} {energy:12.4f}")

card = atoms.calc.card
print(f"{card.name}: {card.architecture}, cutoff {card.cutoff} Å, elements {card.elements}")
print(f"test errors: forces {card.errors['forces_mae_mev_per_a']:.1f} meV/Å (MAE)")
