"""What the callback of fix external hands over, with a stand-in for LAMMPS."""

from __future__ import annotations

import types

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.emt import EMT

from eqcalc.errors import ConfigError, EqcalcError, MissingDependencyError
from eqcalc.hosts.lammps.fix_external import attach

KCAL = units.kcal / units.mol


class StandIn:
    """Answers what the callback asks of a LAMMPS on one rank, and keeps what it is given."""

    def __init__(self, unit_system="metal", **settings):
        self.settings = {"box_exist": 1, "dimension": 3, "world_size": 1, **settings}
        self.unit_system = unit_system
        self.types = np.array([2, 1, 1])
        self.masses = np.array([0.0, 63.546, 107.868])
        self.numpy = types.SimpleNamespace(
            extract_atom=lambda name: {"mass": self.masses, "type": self.types}[name]
        )
        self.commands, self.given = [], {}

    def extract_setting(self, name):
        return self.settings[name]

    def extract_global(self, name):
        assert name == "units"
        return self.unit_system

    def get_mpi_comm(self):
        return None

    def extract_box(self):
        return [-1, -2, 0], [7, 6, 9], 0.5, -0.25, 1.0, [1, 1, 1], 0

    def command(self, text):
        self.commands.append(text)

    def set_fix_external_callback(self, fix_id, callback, caller):
        self.callback = callback

    def fix_external_set_energy_global(self, fix_id, energy):
        self.given["energy"] = energy

    def fix_external_set_virial_global(self, fix_id, virial):
        self.given["virial"] = virial

    def fix_external_set_energy_peratom(self, fix_id, energies):
        self.given["energies"] = energies

    def error(self, kind, text):
        self.given["error"] = (kind, text)


POSITIONS = np.array([[1.0, 1.0, 1.0], [3.2, 1.1, 1.2], [1.3, 3.3, 1.4]])
TAGS = np.array([30, 10, 20], dtype=np.int32)


def expected():
    """Return the atoms of the stand-in in the order of their tags."""
    cell = [[8, 0, 0], [0.5, 8, 0], [1.0, -0.25, 9]]
    atoms = Atoms("CuCuAg", POSITIONS[[1, 2, 0]], cell=cell, pbc=True)
    atoms.calc = EMT()
    return atoms


@pytest.mark.parametrize(("name", "energy"), [("metal", 1.0), ("real", KCAL)])
def test_callback_gives_energy_forces_and_virial_in_the_units_of_lammps(name, energy):
    lmp = StandIn(name)
    attach(lmp, EMT(), ["Cu", "Ag"], fix_id="e")
    assert lmp.commands == [
        "fix e all external pf/callback 1 1",
        "fix_modify e energy yes virial yes",
    ]
    forces = np.zeros((3, 3))
    lmp.callback(None, 0, 3, TAGS, POSITIONS, forces)
    atoms = expected()
    assert "error" not in lmp.given
    assert lmp.given["energy"] * energy == pytest.approx(atoms.get_potential_energy())
    assert np.allclose(forces[[1, 2, 0]] * energy, atoms.get_forces(), rtol=0, atol=1e-12)
    stress = atoms.get_stress(voigt=False) * -atoms.get_volume()
    virial = stress[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]  # xx yy zz xy xz yz
    assert np.allclose(np.array(lmp.given["virial"]) * energy, virial, rtol=0, atol=1e-10)
    each = np.array(lmp.given["energies"])[[1, 2, 0]] * energy
    assert np.allclose(each, atoms.get_potential_energies())


def test_callback_follows_atoms_that_come_and_go():
    lmp = StandIn()
    attach(lmp, EMT(), ["Cu", "Ag"])
    lmp.callback(None, 0, 3, TAGS, POSITIONS, np.zeros((3, 3)))
    lmp.types = np.array([2, 1])
    lmp.callback(None, 1, 2, TAGS[:2], POSITIONS[:2], np.zeros((2, 3)))
    pair = expected()[[2, 0]]
    pair.calc = EMT()
    assert lmp.given["energy"] == pytest.approx(pair.get_potential_energy())


class Broken(EMT):
    """EMT whose forces are no numbers."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["forces"] = self.results["forces"] * np.nan


class Interrupted(EMT):
    """EMT during which someone presses Ctrl-C."""

    def calculate(self, *args, **kwargs):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("calculator", "tags", "positions", "message"),
    [
        (Broken(), TAGS, POSITIONS, "eqcalc at step 7: the forces are NaN or infinite"),
        (EMT(), TAGS, POSITIONS * np.nan, "eqcalc at step 7: positions are NaN or infinite"),
        (Interrupted(), TAGS, POSITIONS, "eqcalc at step 7: KeyboardInterrupt"),
        (EMT(), 0 * TAGS, POSITIONS, "not unique numbers from 1 on; remove 'atom_modify id no'"),
    ],
)
def test_what_gives_no_forces_ends_lammps(calculator, tags, positions, message):
    lmp = StandIn()
    attach(lmp, calculator, ["Cu", "Ag"])
    forces = np.zeros((3, 3))
    lmp.callback(None, 7, 3, tags, positions, forces)
    kind, text = lmp.given["error"]
    assert kind == 2
    assert message in text
    assert np.isnan(forces).all()
    assert "energy" not in lmp.given


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"box_exist": 0}, ConfigError, "no box yet; call read_data or create_box"),
        ({"dimension": 2}, ConfigError, "three dimensions"),
        ({"world_size": 2}, MissingDependencyError, "on 2 ranks, and mpi4py is not installed"),
        ({"unit_system": "lj"}, ConfigError, "units 'lj' are not supported"),
    ],
)
def test_lammps_that_a_model_cannot_serve_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        attach(StandIn(**settings), EMT(), ["Cu", "Ag"])


def test_failure_of_the_first_rank_is_one_of_every_rank():
    """Each would wait for the first one's forces for ever."""
    lmp = StandIn(world_size=2)
    said = "there is no model 'painn-ethanoll'"
    second = types.SimpleNamespace(Get_rank=lambda: 1, bcast=lambda text: said)
    lmp.get_mpi_comm = lambda: second
    with pytest.raises(EqcalcError, match=f"the first rank failed: {said}"):
        attach(lmp, "painn-ethanoll", ["Cu", "Ag"])
    assert lmp.commands == []


def test_options_beside_a_calculator_are_refused():
    with pytest.raises(ConfigError, match="device, dtype: options of EqCalculator, and the calcul"):
        attach(StandIn(), EMT(), ["Cu", "Ag"], device="cuda", dtype="float32")


def test_elements_in_another_order_than_the_masses_are_refused():
    lmp = StandIn()
    with pytest.raises(ConfigError, match="type 1 is Ag"):
        attach(lmp, EMT(), ["Ag", "Cu"])
    assert lmp.commands == []
