"""A vacancy of aluminium hops to a neighbouring site: the barrier by a nudged elastic band.

    python examples/results/vacancy.py [--model sevennet-0]

Writes vacancy.md and vacancy.png. 107 atoms, five images between the relaxed ends, climbing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.mep import NEB
from ase.optimize import FIRE

from eqcalc import EqCalculator
from eqcalc.files import write_whole

HERE = Path(__file__).parent
LATTICE = 4.0377  # Å, of the potential itself: solids.md
FMAX = 0.01  # eV/Å
SOURCES = """\
Beside it: PBE has a formation energy of 0.6 to 0.7 eV and a migration barrier of about 0.6 eV
(Mantina et al., Phys. Rev. Lett. 100, 215901 (2008), doi:10.1103/PhysRevLett.100.215901);
experiment 0.67 eV and 0.61 eV (Ehrhart, in Landolt-Börnstein III/25 (1991)).
"""


def ends() -> tuple[Atoms, Atoms, Atoms]:
    """Return the perfect crystal, and the vacancy at a site and at a neighbour's."""
    crystal = bulk("Al", cubic=True, a=LATTICE) * 3
    distances = crystal.get_distances(0, range(1, len(crystal)), mic=True)
    neighbour = 1 + int(np.argmin(distances))
    first = crystal.copy()
    moved = first.copy()
    # The neighbour moves into the vacancy at atom 0's site; both ends keep the order of atoms.
    moved.positions[neighbour] = crystal.positions[0]
    del first[0], moved[0]
    return crystal, first, moved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sevennet-0")
    model = parser.parse_args().model
    crystal, first, last = ends()
    calculator = EqCalculator(model, device="cpu")
    crystal.calc = calculator
    bulk_energy = crystal.get_potential_energy()
    for atoms in (first, last):
        atoms.calc = EqCalculator(model, device="cpu")
        FIRE(atoms, logfile=None).run(fmax=FMAX, steps=500)
    formation = first.get_potential_energy() - bulk_energy * len(first) / len(crystal)

    images = [first, *(first.copy() for _ in range(5)), last]
    for image in images[1:-1]:
        image.calc = EqCalculator(model, device="cpu")
    band = NEB(images, climb=True, method="improvedtangent")
    band.interpolate(mic=True)
    optimizer = FIRE(band, logfile=None)
    converged = optimizer.run(fmax=0.03, steps=300)
    energies = np.array([image.get_potential_energy() for image in images])
    energies -= energies[0]
    draw(energies)
    lines = [
        "# A vacancy of aluminium by sevennet-0",
        "",
        "    python examples/results/vacancy.py",
        "",
        f"107 atoms at a = {LATTICE} Å. Formation energy {formation:.3f} eV; migration barrier "
        f"{energies.max():.3f} eV (climbing image, {'converged' if converged else 'not converged'} "
        f"to 0.03 eV/Å in {optimizer.nsteps} steps).",
        "",
        "| image | energy (eV) |",
        "|---|---|",
        *(f"| {k} | {energy:.4f} |" for k, energy in enumerate(energies)),
        "",
        "![band](vacancy.png)",
        "",
        SOURCES,
    ]
    write_whole(HERE / "vacancy.md", "\n".join(lines).encode())
    print("\n".join(lines))


def draw(energies: np.ndarray) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.5, 3.5), layout="constrained")
    axis.plot(np.linspace(0, 1, len(energies)), energies, "o-")
    axis.set(xlabel="path of the atom into the vacancy", ylabel="energy (eV)")
    axis.set_title("Vacancy migration in aluminium, sevennet-0")
    figure.savefig(HERE / "vacancy.png", dpi=120)


if __name__ == "__main__":
    main()
