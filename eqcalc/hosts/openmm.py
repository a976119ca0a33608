"""A model as a force of OpenMM, for a whole system.

    from ase.io import read
    from eqcalc import EqCalculator
    from eqcalc.hosts.openmm import create_system, from_atoms

    topology, positions = from_atoms(read("ethanol.xyz"))
    system = create_system(topology, EqCalculator("painn-ethanol"))

OpenMM calls the model through its ``PythonForce`` (8.5 and later; the extra ``openmm``), with
energies and forces alone: its barostats ask for no virial. nm and kJ/mol are converted here.

An error in the middle of a run, and Ctrl-C, reach the caller as ``openmm.OpenMMException`` with
eqcalc's message: what Python raised does not get through OpenMM.

Shapes: n_atoms.
"""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from ase import Atoms
from ase.data import atomic_masses
from numpy.typing import NDArray

from eqcalc.calculator import EqCalculator
from eqcalc.calculator.committee import shared_elements
from eqcalc.elements import first_other_mass, require_elements
from eqcalc.errors import ConfigError, HostError, MissingDependencyError, import_extra
from eqcalc.units import energy_unit, force_unit, length_unit

__all__ = ["create_system", "from_atoms", "model_force"]

_NM, _KJ_PER_MOL = length_unit("nm"), energy_unit("kJ/mol")
_KJ_PER_MOL_NM = force_unit("kJ/mol/nm")


def create_system(
    topology: Any, calculator: EqCalculator, *, periodic: Optional[bool] = None
) -> Any:
    """Return an ``openmm.System`` of the topology's masses in which the model is the only force.

    No bond is constrained, whatever the topology says: the timestep must resolve the vibrations
    of hydrogen.

    Parameters
    ----------
    topology, periodic : see :func:`model_force`

    Raises
    ------
    MissingDependencyError, ConfigError, UnsupportedElementError : see :func:`model_force`.
    """
    force = model_force(calculator, topology, periodic=periodic)
    openmm = _openmm()
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    if force.usesPeriodicBoundaryConditions():
        system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
    system.addForce(force)
    return system


def model_force(calculator: EqCalculator, topology: Any, *, periodic: Optional[bool] = None) -> Any:
    """Return an ``openmm.PythonForce`` of the model, for a system with these atoms.

    It is the force of all of them: together with a force field the same bonds count twice. Of a
    committee it is the mean. It can be serialized with its system as long as the model's file
    stays where it is; reading it runs pickled code, as of any PythonForce.

    Parameters
    ----------
    topology : ``openmm.app.Topology``; every atom with its element, in the order of the system
    periodic : whether the model sees images in the box; by default, whether the topology has one

    Raises
    ------
    MissingDependencyError : OpenMM is not installed, or too old.
    ConfigError : an atom without an element (a virtual site); no atoms; ``periodic`` without a box.
    UnsupportedElementError : an element that a model was not trained on.
    """
    openmm = _openmm()
    numbers = _atomic_numbers(topology)
    known = shared_elements(calculator.models)
    require_elements(numbers.tolist(), known, f"model '{calculator.card.name}'")
    has_box = topology.getPeriodicBoxVectors() is not None
    if periodic and not has_box:
        raise ConfigError(
            "periodic=True needs a topology with a box, found none; call "
            "topology.setPeriodicBoxVectors, or leave periodic out."
        )
    force = openmm.PythonForce(
        _Computation(calculator, numbers, has_box if periodic is None else periodic)
    )
    force.setUsesPeriodicBoundaryConditions(has_box if periodic is None else periodic)
    force.setName(f"eqcalc {calculator.card.name}")
    return force


def from_atoms(atoms: Atoms) -> tuple[Any, Any]:
    """Return an ``openmm.app.Topology`` without bonds, and positions (n_atoms, 3) in nm.

    The structure is turned so that its cell has OpenMM's reduced form: a along x, b in the xy
    plane, both of its angles and c's cut to half a vector. Energies and distances stay.

    Raises
    ------
    MissingDependencyError : OpenMM is not installed, or too old.
    ConfigError : periodic in some directions only, which OpenMM does not know; a cell without
        volume; masses of isotopes or constraints, which a topology has no place for.
    """
    openmm = _openmm()
    _refuse_isotopes(atoms)
    if atoms.constraints:
        raise ConfigError(
            "the structure has constraints "
            f"({', '.join(type(each).__name__ for each in atoms.constraints)}), and a topology "
            "has no place for them: give it without (atoms.set_constraint()), and hold an atom "
            "with system.setParticleMass(atom, 0)."
        )
    app, unit = openmm.app, openmm.unit
    topology = app.Topology()
    residue = topology.addResidue("UNL", topology.addChain())
    for symbol in atoms.symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    positions = atoms.positions
    if atoms.pbc.any():
        box, positions = _reduced(atoms)
        topology.setPeriodicBoxVectors([openmm.Vec3(*row) for row in box / _NM] * unit.nanometer)
    return topology, positions / _NM * unit.nanometer


def _refuse_isotopes(atoms: Atoms) -> None:
    natural = atomic_masses[atoms.numbers]
    atom = first_other_mass(atoms.get_masses(), natural)
    if atom is not None:
        raise ConfigError(
            f"atom {atom} has the mass {atoms.get_masses()[atom]:g} amu, and a topology says the "
            f"element alone ({natural[atom]:g} amu): give the structure without masses "
            "(atoms.set_masses()), and set them with system.setParticleMass."
        )


class _Computation:
    """What OpenMM calls at every step; it can be pickled, as the calculator can."""

    def __init__(self, calculator: EqCalculator, numbers: NDArray, periodic: bool) -> None:
        self.calculator, self.numbers, self.periodic = calculator, numbers, periodic

    def __call__(self, state: Any) -> tuple[float, NDArray]:
        """Return energy in kJ/mol and forces (n_atoms, 3) in kJ/mol/nm of an openmm.State."""
        unit = _openmm().unit
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        if len(positions) != len(self.numbers):
            raise HostError(
                f"the system has {len(positions)} particles, the topology of the force has "
                f"{len(self.numbers)} atoms; make both of one topology."
            )
        cell = None
        if self.periodic:
            cell = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer) * _NM
        atoms = Atoms(self.numbers, positions * _NM, cell=cell, pbc=self.periodic)
        try:
            self.calculator.calculate(atoms, ["energy", "forces"])
        except KeyboardInterrupt as stop:  # of which OpenMM would keep the empty text alone
            raise HostError("interrupted (Ctrl-C) while the model computed forces.") from stop
        results = self.calculator.results
        return results["energy"] / _KJ_PER_MOL, results["forces"] / _KJ_PER_MOL_NM


def _openmm() -> Any:
    """Import OpenMM.

    Raises
    ------
    MissingDependencyError : it is not installed, or has no PythonForce.
    """
    openmm = import_extra("openmm", "openmm", "a model as a force of OpenMM")
    import_extra("openmm.app", "openmm", "a model as a force of OpenMM")
    if not hasattr(openmm, "PythonForce"):
        raise MissingDependencyError(
            f"a model as a force of OpenMM needs its PythonForce, which OpenMM "
            f"{openmm.version.version} does not have; run pip install 'eqcalc[openmm]' (8.5 or "
            "later)."
        )
    return openmm


def _atomic_numbers(topology: Any) -> NDArray:
    """Return the atomic numbers of a topology.

    Raises
    ------
    ConfigError : an atom has none, or there are no atoms.
    """
    numbers = []
    for atom in topology.atoms():
        if atom.element is None:
            raise ConfigError(
                f"atom {atom.index} of the topology ({atom.name} in residue {atom.residue.name} "
                f"{atom.residue.id}) has no element: a model sees atoms, no virtual sites or "
                "beads. Set its element, or delete it."
            )
        numbers.append(atom.element.atomic_number)  # of deuterium too, whose symbol is D
    if not numbers:
        raise ConfigError("the topology has no atoms; at least one is needed.")
    return np.array(numbers)


def _reduced(atoms: Atoms) -> tuple[NDArray, NDArray]:
    """Return a cell (3, 3) in OpenMM's reduced form and the positions turned with it, in Å.

    Raises
    ------
    ConfigError : see :func:`from_atoms`.
    """
    if not atoms.pbc.all():
        raise ConfigError(
            "OpenMM is periodic along all three directions or along none, found "
            f"pbc={atoms.pbc.tolist()}; add vacuum and set pbc=True, or pbc=False."
        )
    lattice = atoms.cell.copy()
    if lattice.rank < 3:
        raise ConfigError(
            f"the cell has no volume: {lattice.array.tolist()}; set it, or pbc=False."
        )
    if lattice.handedness < 0:
        lattice[2] *= -1.0  # the same lattice
    standard, turn = lattice.standard_form()
    box = standard.array.copy()
    box[2] -= np.rint(box[2, 1] / box[1, 1]) * box[1]
    box[2] -= np.rint(box[2, 0] / box[0, 0]) * box[0]
    box[1] -= np.rint(box[1, 0] / box[0, 0]) * box[0]
    return box, atoms.positions @ turn.T
