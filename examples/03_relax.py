"""Relax ethanol, then its vibrations by finite differences: do the numbers make sense?"""

import tempfile
from pathlib import Path

from ase.io import read
from ase.optimize import BFGS
from ase.vibrations import Vibrations

from eqcalc import EqCalculator

atoms = read(Path(__file__).parent / "ethanol.xyz")
# Finite differences of forces want float64; the file's own float32 is enough for dynamics.
atoms.calc = EqCalculator("painn-ethanol", dtype="float64")

BFGS(atoms).run(fmax=1e-4, steps=500)
print(f"relaxed energy {atoms.get_potential_energy():.4f} eV")

with tempfile.TemporaryDirectory() as folder:
    vibrations = Vibrations(atoms, name=str(Path(folder) / "vib"))
    vibrations.run()
    wavenumbers = vibrations.get_frequencies().real  # 1/cm
print("six rigid motions (near 0):", " ".join(f"{w:.1f}" for w in wavenumbers[:6]), "1/cm")
print("vibrations:", " ".join(f"{w:.0f}" for w in wavenumbers[6:]), "1/cm")
