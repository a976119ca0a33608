"""What another package computed, as its recording script kept it, beside a potential here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential

HERE = Path(__file__).parent
ENERGY, FORCE, STRESS = 1e-8, 1e-7, 1e-9
"""Largest differences where both compute in float64: eV per atom, eV/Å, eV/Å³."""


class Oracle:
    """The content of one recording: structures, and results of every model on them."""

    def __init__(self, name: str) -> None:
        with np.load(HERE / f"{name}.npz") as arrays:
            self._arrays = dict(arrays)
        self.structures: dict[str, Atoms] = {}
        for key in self._arrays:
            kind, _, rest = key.partition("/")
            if kind == "structures":
                structure = rest.partition("/")[0]
                self.structures[structure] = self._atoms(structure)
        self.models = sorted(
            {key.partition("/")[0] for key in self._arrays} - {"structures", "versions"}
        )

    def _atoms(self, name: str) -> Atoms:
        def of(quantity: str) -> np.ndarray:
            return self._arrays[f"structures/{name}/{quantity}"]

        return Atoms(of("numbers"), of("positions"), cell=of("cell"), pbc=of("pbc"))

    def recorded(self, model: str, structure: str) -> dict[str, np.ndarray]:
        """Return energies (n_atoms,), forces (n_atoms, 3) and, of a crystal, stress (6,)."""
        prefix = f"{model}/{structure}/"
        return {k.removeprefix(prefix): v for k, v in self._arrays.items() if k.startswith(prefix)}

    def differences(self, potential: Potential, model: str) -> dict[str, dict[str, float]]:
        """Return the largest difference of each quantity on each structure."""
        found = {}
        for name, atoms in self.structures.items():
            recorded = self.recorded(model, name)
            values = potential.evaluate(build_graph(atoms, potential.cutoff))
            here = {"energies": values.energies.numpy(), "forces": values.forces.numpy()}
            if values.stress is not None:
                here["stress"] = full_3x3_to_voigt_6_stress(values.stress[0].numpy())
            assert here.keys() == recorded.keys()
            found[name] = {q: float(np.abs(here[q] - recorded[q]).max()) for q in here}
        return found


def assert_equal(differences: dict[str, dict[str, float]]) -> None:
    """Hold every difference of a model against the limits of float64."""
    limits = {"energies": ENERGY, "forces": FORCE, "stress": STRESS}
    assert differences
    for structure, by_quantity in differences.items():
        for quantity, difference in by_quantity.items():
            assert difference <= limits[quantity], (structure, quantity, difference)
