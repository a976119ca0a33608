"""Runs of the real OpenMM."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from small_models import crystal, ethanol, export_small, slab, water

from eqcalc import EqCalculator
from eqcalc.errors import ConfigError, MissingDependencyError, UnsupportedElementError
from eqcalc.hosts.openmm import create_system, from_atoms, model_force

pytestmark = pytest.mark.hosts

TIMESTEP_FS = 0.5
KJ = units.kJ / units.mol


@pytest.fixture(scope="module")
def openmm():
    import openmm
    import openmm.app

    return openmm


@pytest.fixture
def calculator(model) -> EqCalculator:
    return EqCalculator(model, device="cpu", engine="torchscript")


@pytest.fixture(scope="module")
def painn() -> EqCalculator:
    return EqCalculator("painn-ethanol", device="cpu", dtype="float64", engine="torchscript")


def start(openmm, system, positions, integrator=None, platform="Reference"):
    """Return a context at some positions."""
    integrator = integrator or openmm.VerletIntegrator(TIMESTEP_FS * 1e-3)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions)
    return context


def atoms_in(openmm, context, numbers, pbc: bool) -> Atoms:
    """Return what a context holds, in Å."""
    state = context.getState(getPositions=True)
    positions = state.getPositions(asNumpy=True).value_in_unit(openmm.unit.angstrom)
    cell = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(openmm.unit.angstrom)
    return Atoms(numbers, positions, cell=cell if pbc else None, pbc=pbc)


def energy_and_forces(openmm, context) -> tuple[float, np.ndarray]:
    """Return them in eV and eV/Å."""
    unit = openmm.unit
    state = context.getState(getEnergy=True, getForces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return energy * KJ, forces * KJ / 10.0


def left_handed() -> Atoms:
    atoms = crystal()
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    assert atoms.cell.handedness == -1
    return atoms


def hexagonal() -> Atoms:
    return bulk("C", "hcp", a=2.5, c=4.1)


def turned() -> Atoms:
    atoms = crystal()
    atoms.rotate(40.0, (1.0, -2.0, 0.5), rotate_cell=True)
    return atoms


def skewed() -> Atoms:
    atoms = crystal()
    cell = atoms.cell.array
    atoms.set_cell([cell[0], cell[1] + 2.0 * cell[0], cell[2] - cell[1] + 3.0 * cell[0]])
    return atoms


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("make", [ethanol, crystal, left_handed, hexagonal, turned, skewed])
def test_energy_and_forces_are_those_of_the_calculator(openmm, calculator, make, platform):
    atoms = make()
    topology, positions = from_atoms(atoms)
    context = start(openmm, create_system(topology, calculator), positions, platform=platform)
    energy, forces = energy_and_forces(openmm, context)
    expected = calculator.calculate_many([atoms])[0]
    assert energy == pytest.approx(expected["energy"], rel=0, abs=1e-8)
    lengths = np.linalg.norm(expected["forces"], axis=1)
    np.testing.assert_allclose(np.linalg.norm(forces, axis=1), lengths, rtol=0, atol=1e-6)
    seen = atoms_in(openmm, context, atoms.numbers, bool(atoms.pbc.any()))
    exact = calculator.calculate_many([seen])[0]["forces"]
    np.testing.assert_allclose(forces, exact, rtol=0, atol=1e-5)
    assert len(atoms) < 3 or lengths.max() > 0.1


def test_masses_of_isotopes_are_refused_where_a_topology_has_no_place_for_them(openmm):
    atoms = ethanol()
    masses = atoms.get_masses()
    masses[-1] = 2.014
    atoms.set_masses(masses)
    with pytest.raises(ConfigError, match=r"atom 8 has the mass 2\.014 amu, .* \(1\.008 amu\)"):
        from_atoms(atoms)


def test_constraints_are_refused_where_a_topology_has_no_place_for_them(openmm):
    atoms = ethanol()
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(ConfigError, match=r"\(FixAtoms\).*setParticleMass\(atom, 0\)"):
        from_atoms(atoms)


def test_half_vectors_that_rounding_lengthens_are_a_reduced_form(openmm):
    longer = 0
    for k in range(40):
        atoms = hexagonal()
        atoms.rotate(7.0 * k, (1.0, 0.3 * k, -2.0), rotate_cell=True)
        a, b, _ = atoms.cell.standard_form()[0].array
        longer += 2.0 * abs(b[0]) > a[0]
        topology, positions = from_atoms(atoms)
        system = openmm.System()
        system.addParticle(1.0)
        system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
        start(openmm, system, positions[:1])
    assert longer > 0


def velocity_verlet(openmm):
    integrator = openmm.CustomIntegrator(TIMESTEP_FS * 1e-3)
    integrator.addComputePerDof("v", "v+0.5*dt*f/m")
    integrator.addComputePerDof("x", "x+dt*v")
    integrator.addComputePerDof("v", "v+0.5*dt*f/m")
    return integrator


def test_nve_trajectory_is_that_of_ase(openmm, painn):
    atoms = ethanol()
    topology, positions = from_atoms(atoms)
    system = create_system(topology, painn)
    context = start(openmm, system, positions, velocity_verlet(openmm))
    dalton = openmm.unit.dalton
    atoms.set_masses([system.getParticleMass(k).value_in_unit(dalton) for k in range(9)])
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    context.setVelocities(atoms.get_velocities() * 1000.0 * units.fs / 10.0)  # nm/ps
    context.getIntegrator().step(100)
    atoms.calc = EqCalculator("painn-ethanol", device="cpu", dtype="float64", engine="torchscript")
    VelocityVerlet(atoms, TIMESTEP_FS * units.fs).run(100)
    found = atoms_in(openmm, context, atoms.numbers, pbc=False)
    np.testing.assert_allclose(found.positions, atoms.positions, rtol=0, atol=1e-7)
    assert np.abs(found.positions - ethanol().positions).max() > 0.1


def test_nve_energy_is_conserved_as_in_ase(openmm, painn):
    atoms = ethanol()
    topology, positions = from_atoms(atoms)
    context = start(openmm, create_system(topology, painn), positions)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    context.setVelocities(atoms.get_velocities() * 1000.0 * units.fs / 10.0)
    totals = []
    for _ in range(40):
        context.getIntegrator().step(5)
        state = context.getState(getEnergy=True)
        total = state.getPotentialEnergy() + state.getKineticEnergy()
        totals.append(total.value_in_unit(openmm.unit.kilojoule_per_mole) * KJ)
    atoms.calc = EqCalculator("painn-ethanol", device="cpu", dtype="float64", engine="torchscript")
    dynamics, expected = VelocityVerlet(atoms, TIMESTEP_FS * units.fs), []
    for _ in range(40):
        dynamics.run(5)
        expected.append(atoms.get_total_energy())
    # OpenMM's integrator leaps; its velocities are half a step behind until energies are asked for.
    assert np.std(totals) < 2.0 * np.std(expected) + 1e-4
    assert np.std(expected) < 5e-3


def test_barostat_changes_the_box_that_the_model_sees(openmm, calculator):
    topology, positions = from_atoms(crystal())
    system = create_system(topology, calculator)
    barostat = openmm.MonteCarloBarostat(20000.0, 300.0, 1)
    barostat.setRandomNumberSeed(1)
    system.addForce(barostat)
    context = start(openmm, system, positions)
    context.getIntegrator().step(40)
    after = atoms_in(openmm, context, crystal().numbers, pbc=True)
    assert abs(after.get_volume() / crystal().get_volume() - 1.0) > 1e-3
    energy, _ = energy_and_forces(openmm, context)
    expected = calculator.calculate_many([after])[0]["energy"]
    assert energy == pytest.approx(expected, rel=0, abs=1e-7)


def test_system_can_be_serialized(openmm, calculator):
    topology, positions = from_atoms(crystal())
    system = create_system(topology, calculator)
    copy = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    first, second = (start(openmm, each, positions) for each in (system, copy))
    assert energy_and_forces(openmm, second)[0] == energy_and_forces(openmm, first)[0]


def test_committee_drives_by_its_mean(openmm, model, tmp_path):
    other = export_small(tmp_path / "other.pt", seed=1)
    committee = EqCalculator([model, other], device="cpu", engine="torchscript")
    topology, positions = from_atoms(water())
    energy, _ = energy_and_forces(
        openmm, start(openmm, create_system(topology, committee), positions)
    )
    expected = committee.calculate_many([water()])[0]["energy"]
    assert energy == pytest.approx(expected, rel=0, abs=1e-8)


def test_deuterium_is_hydrogen_of_another_mass(openmm, calculator):
    _, positions = from_atoms(water())
    topology = openmm.app.Topology()
    residue = topology.addResidue("D2O", topology.addChain())
    for symbol in ("O", "D", "D"):
        topology.addAtom(symbol, openmm.app.Element.getBySymbol(symbol), residue)
    system = create_system(topology, calculator)
    assert system.getParticleMass(1).value_in_unit(openmm.unit.dalton) > 2.0
    energy, _ = energy_and_forces(openmm, start(openmm, system, positions))
    expected = calculator.calculate_many([water()])[0]["energy"]
    assert energy == pytest.approx(expected, rel=0, abs=1e-8)


def test_molecule_in_a_box_can_be_open(openmm, calculator):
    boxed = ethanol()
    boxed.set_cell(3.0 * np.eye(3))
    boxed.pbc = True
    topology, positions = from_atoms(boxed)
    system = create_system(topology, calculator, periodic=False)
    assert not system.usesPeriodicBoundaryConditions()
    energy, _ = energy_and_forces(openmm, start(openmm, system, positions))
    expected = calculator.calculate_many([ethanol(), boxed])
    assert energy == pytest.approx(expected[0]["energy"], rel=0, abs=1e-8)
    assert abs(expected[1]["energy"] - expected[0]["energy"]) > 1e-3


# --- refusals


def test_unknown_element_is_refused_by_its_atom(calculator):
    topology, _ = from_atoms(Atoms("HNa", [[0, 0, 0], [0, 0, 2.0]]))
    with pytest.raises(UnsupportedElementError, match=r"does not know Na \(atoms 1\)"):
        create_system(topology, calculator)


def test_atom_without_an_element_is_refused(openmm, calculator):
    topology, _ = from_atoms(water())
    topology.addAtom("M", None, next(topology.residues()))
    with pytest.raises(ConfigError, match=r"atom 3 of the topology \(M in residue UNL 1\)"):
        model_force(calculator, topology)


def test_topology_without_atoms_is_refused(openmm, calculator):
    with pytest.raises(ConfigError, match="the topology has no atoms"):
        model_force(calculator, openmm.app.Topology())


def test_periodic_force_needs_a_box(calculator):
    topology, _ = from_atoms(water())
    with pytest.raises(ConfigError, match="periodic=True needs a topology with a box"):
        model_force(calculator, topology, periodic=True)


def test_slab_is_refused():
    with pytest.raises(ConfigError, match=r"along none, found pbc=\[True, True, False\]"):
        from_atoms(slab())


def test_cell_without_volume_is_refused():
    with pytest.raises(ConfigError, match="the cell has no volume"):
        from_atoms(Atoms("H", cell=[3.0, 3.0, 0.0], pbc=True))


def test_system_of_other_atoms_is_refused(openmm, calculator):
    topology, positions = from_atoms(water())
    system = create_system(topology, calculator)
    system.addParticle(1.0)
    context = start(openmm, system, [*positions.tolist(), [1.0, 1.0, 1.0]])
    with pytest.raises(openmm.OpenMMException, match=r"has 4 particles, the topology .* has 3"):
        energy_and_forces(openmm, context)


def test_error_of_the_model_ends_the_run_with_its_message(openmm, calculator):
    topology, positions = from_atoms(water())
    positions[2] = positions[1]
    context = start(openmm, create_system(topology, calculator), positions)
    with pytest.raises(openmm.OpenMMException, match="atoms 1 and 2 coincide"):
        context.getIntegrator().step(1)


def test_ctrl_c_in_the_model_ends_the_run_and_says_so(openmm, calculator, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    topology, positions = from_atoms(water())
    context = start(openmm, create_system(topology, calculator), positions)
    monkeypatch.setattr(calculator, "calculate", interrupted)
    with pytest.raises(openmm.OpenMMException, match=r"interrupted \(Ctrl-C\) while the model"):
        context.getIntegrator().step(1)


def test_openmm_without_python_force_is_refused(openmm, calculator, monkeypatch):
    topology, _ = from_atoms(water())
    monkeypatch.delattr(openmm, "PythonForce")
    with pytest.raises(MissingDependencyError, match=r"needs its PythonForce.*8\.5 or"):
        model_force(calculator, topology)
