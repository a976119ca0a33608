"""The structures on which models of other packages are compared: needs ASE alone.

The recording scripts beside this file run them in the environments of those packages and keep
what they got; the coordinates are kept with it.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule, surface
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator


def structures() -> dict[str, Atoms]:
    """Return crystals, molecules, a slab and an atom alone, none of them at rest."""
    silicon = bulk("Si", "diamond", a=5.43, cubic=True) * (2, 2, 2)
    silicon.rattle(0.1, seed=1)
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    salt.positions[0] += (0.1, 0.2, -0.1)
    copper = bulk("Cu", "fcc", a=3.61, cubic=True) * (3, 3, 3)
    copper.rattle(0.1, seed=2)
    slab = surface(bulk("MgO", "rocksalt", a=4.21, cubic=True), (0, 0, 1), 2, vacuum=6.0)
    slab.set_pbc(True)
    slab.rattle(0.08, seed=3)
    ethanol = molecule("CH3CH2OH")
    # No plane of symmetry is left: a network that knows left from right shows it.
    twist = np.random.default_rng(4).normal(scale=0.12, size=(len(ethanol), 3))
    ethanol.positions += twist
    return {
        "si64": silicon,
        "nacl8": salt,
        "h2o": molecule("H2O"),
        "cu108": copper,
        "mgo-slab": slab,
        "ethanol": ethanol,
        "hydrogen-atom": Atoms("H", positions=[(0.3, 0.2, 0.1)]),
    }


def labelled_frames(seed: int) -> list[Atoms]:
    """Return disordered cells of three elements with energies, forces and stresses."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(6):
        sites = 2.1 * np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)
        atoms = Atoms(random.choice(["H", "O", "Mg"], size=27), sites, cell=[6.3] * 3, pbc=True)
        atoms.rattle(0.2, seed=int(random.integers(1000)))
        atoms.calc = LennardJones(sigma=1.8, epsilon=0.3 * seed, rc=4.0, smooth=True)
        atoms.calc = SinglePointCalculator(
            atoms,
            energy=atoms.get_potential_energy() + random.normal(),
            forces=atoms.get_forces(),
            stress=atoms.get_stress(),
        )
        found.append(atoms)
    return found
