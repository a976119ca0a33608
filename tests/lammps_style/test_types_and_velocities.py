"""Types become elements by their masses, and velocities are LAMMPS's own."""

import numpy as np
import pytest
from ase import Atoms, units

from eqcalc.errors import ConfigError, DataWarning
from eqcalc.simulate.lammps_style.created_velocities import create_velocities
from eqcalc.simulate.lammps_style.type_elements import elements_by_mass, require_masses

# Å/ps, what LAMMPS (22 Jul 2025) gives five atoms O H H O H for
# "velocity all create 330 4928459 dist ..." under "units metal".
OF_LAMMPS = {
    "uniform": [
        [-0.20261688475119086, 2.8209799610032134, 5.979335216510655],
        [-11.77233886898398, -0.15291645395919093, -10.922290306214757],
        [-4.584436097678596, 34.15776331765761, -2.097898381342563],
        [0.6496510224381205, -3.684680328803688, -4.984228865075753],
        [9.261438489625696, -20.296174061674815, -2.7741630154258217],
    ],
    "gaussian": [
        [3.1973455537322217, 3.9904951209678683, -0.5846350780660481],
        [9.268849309290813, -26.575124177092288, -2.3924984232935262],
        [6.863692940643166, -0.9352458012945273, 27.81553930810066],
        [-3.1685704750783996, -2.711838709387654, -2.4631435312741514],
        [-16.589260983448366, 7.215504969585385, 22.951373768797872],
    ],
}


def five_atoms() -> Atoms:
    return Atoms("OH2OH", np.zeros((5, 3)), masses=[15.999, 1.008, 1.008, 15.999, 1.008])


@pytest.mark.parametrize("dist", ["uniform", "gaussian"])
def test_created_velocities_are_those_of_lammps(dist):
    atoms = five_atoms()
    create_velocities(atoms, 330.0, 4928459, 12, dist=dist, mom=True)
    # LAMMPS's k_B and its unit of kinetic energy are of an older set of constants.
    scale = np.sqrt(8.617343e-5 / 1.0364269e-4 / (units.kB * (1000 * units.fs) ** 2))
    found = atoms.get_velocities() * 1000 * units.fs * scale
    assert np.allclose(found, OF_LAMMPS[dist], rtol=1e-12, atol=0)
    assert scale == pytest.approx(1.0, abs=1e-6)


def test_created_velocities_may_keep_their_momentum():
    atoms = five_atoms()
    create_velocities(atoms, 330.0, 4928459, 12, dist="uniform", mom=False)
    assert np.abs(atoms.get_momenta().sum(axis=0)).min() > 0.1
    assert atoms.get_kinetic_energy() == pytest.approx(6 * units.kB * 330, rel=1e-12)


@pytest.mark.parametrize(
    ("temperature", "seed", "dist", "message"),
    [
        (-1.0, 1, "uniform", "must be 0 K or more, not -1.0"),
        (np.nan, 1, "uniform", "must be 0 K or more"),
        (300.0, 0, "uniform", "whole number from 1 to 2147483646, not 0"),
        (300.0, 1.5, "uniform", "not 1.5"),
        (300.0, True, "uniform", "not True"),
        (300.0, 1, "normal", "unknown distribution 'normal'"),
    ],
)
def test_velocities_that_lammps_would_not_draw_are_refused(temperature, seed, dist, message):
    with pytest.raises(ConfigError, match=message):
        create_velocities(five_atoms(), temperature, seed, 12, dist=dist, mom=True)


@pytest.mark.parametrize(
    ("masses", "symbols"),
    [
        ([15.9994, 1.00794], ["O", "H"]),
        ([28.0855, 16.0], ["Si", "O"]),
        ([58.933, 58.693], ["Co", "Ni"]),
        ([39.948, 39.0983, 40.078], ["Ar", "K", "Ca"]),
        ([2.014], ["H"]),
    ],
)
def test_elements_follow_from_masses(masses, symbols):
    assert elements_by_mass(np.array(masses)) == symbols
    require_masses(symbols, np.array(masses))


@pytest.mark.parametrize(
    ("mass", "nearest"), [(3.024, "He"), (4.032, "He"), (15.035, "O"), (500.0, "Og"), (0.001, "H")]
)
def test_mass_of_no_element_is_not_taken_for_the_nearest(mass, nearest):
    with pytest.raises(ConfigError, match=rf"mass {mass:g} of type 2 is no element's .*{nearest}"):
        elements_by_mass(np.array([15.9994, mass]))


def test_mass_of_two_elements_names_them():
    with pytest.raises(ConfigError, match="type 2 is that of Bi and of Po; name the elements"):
        elements_by_mass(np.array([16.0, 208.98]))
    require_masses(["O", "Po"], np.array([16.0, 208.98]))


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (["H", "O"], r"type 1 is H \(mass 1.008\), and its mass in the data file is 15.999, that "),
        (["O"], "names 1 elements .* has 2 atom types"),
        (["O", "H", "C"], "names 3 elements"),
        (["O", "Hx"], "'Hx' is no element"),
        (["O", "He"], "type 2 is He"),
    ],
)
def test_elements_that_are_not_the_types_are_refused(elements, message):
    with pytest.raises(ConfigError, match=message):
        require_masses(elements, np.array([15.999, 1.008]))


def test_cobalt_and_nickel_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match=r"type 1 is Ni .* that of Co"):
        require_masses(["Ni", "Co"], np.array([58.933, 58.693]))


def test_mass_of_no_element_is_a_warning():
    with pytest.warns(DataWarning, match=r"type 2 is H with a mass of 4.032 \(commonly 1.008\)"):
        require_masses(["O", "H"], np.array([15.999, 4.032]))
    with pytest.warns(DataWarning, match="type 1 is H with a mass of 3.016"):
        require_masses(["H"], np.array([3.016]))


def test_mass_that_was_shifted_to_hydrogen_is_a_warning():
    """Water's oxygen then has the mass of carbon, and hydrogen that of helium."""
    with pytest.warns(DataWarning) as said:
        require_masses(["H", "O"], np.array([3.024, 11.967]))
    assert [str(each.message)[:11] for each in said] == ["type 1 is H", "type 2 is O"]
    with pytest.warns(DataWarning, match="type 1 is H with a mass of 4"):
        require_masses(["H", "O"], np.array([4.0, 11.967]))
    for elements, masses in ((["H", "O"], [2.014, 12.011]), (["H", "O", "He"], [4.0, 12.0, 1.0])):
        with pytest.raises(ConfigError, match="that of"):
            require_masses(elements, np.array(masses))
