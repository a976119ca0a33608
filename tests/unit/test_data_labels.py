"""Labels under other names, units of forces and stress, several files, outputs of codes."""

from __future__ import annotations

import gzip
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import filetype
from numpy.typing import NDArray

from eqcalc.data import read_dataset
from eqcalc.data.frames import LabelRequest
from eqcalc.data.readers import read_whole_frames
from eqcalc.errors import ConfigError, DataError, DataWarning
from eqcalc.units import STRESS_UNITS, force_unit, stress_unit

SMALL = Path(__file__).parents[1] / "data"
ETHANOL = SMALL / "ethanol_rmd17_frames.xyz"
VASP = Path(ase.__file__).parent / "test" / "testdata" / "vasp"
HARTREE_PER_BOHR = units.Hartree / units.Bohr


def images(**names: str) -> list[Atoms]:
    """Return ethanol with labels under other names: ``forces="F"``."""
    found = []
    for atoms in ase.io.read(ETHANOL, index=":"):
        results = dict(atoms.calc.results)
        atoms.calc = None
        for old, new in names.items():
            target = atoms.arrays if old == "forces" else atoms.info
            target[new] = results.pop(old)
        atoms.calc = SinglePointCalculator(atoms, **results)
        found.append(atoms)
    return found


def periodic_images(**entries: NDArray) -> list[Atoms]:
    """Return ethanol in a periodic cell, with more entries in each frame."""
    frames = images()
    for atoms in frames:
        atoms.set_cell([9.0, 9.0, 9.0])
        atoms.pbc = True
        atoms.info |= entries
        atoms.calc.atoms = atoms.copy()
    return frames


def write(path: Path, frames: list[Atoms]) -> Path:
    ase.io.write(path, frames)
    return path


@pytest.mark.parametrize("name", ["F", "Forces", "REF_forces", "MACE_forces", "dft_force"])
def test_forces_by_another_name_are_named_and_taken_on_demand(name, tmp_path):
    path = write(tmp_path / "data.xyz", images(forces=name))
    with pytest.raises(DataError, match=f"has no 'forces', .* give forces_key = '{name}'"):
        read_dataset(path)
    expected = read_dataset(ETHANOL).frames[0].forces
    np.testing.assert_array_equal(read_dataset(path, forces_key=name).frames[0].forces, expected)


@pytest.mark.parametrize("name", ["gradient", "grad", "dE_dx", "energy_gradients"])
def test_a_gradient_is_the_negative_of_the_forces(name, tmp_path):
    frames = images(forces=name)
    for atoms in frames:
        atoms.arrays[name] *= -1.0
    path = write(tmp_path / "data.xyz", frames)
    with pytest.raises(DataError, match=f"has no 'forces', .* give gradient_key = '{name}'"):
        read_dataset(path)
    with pytest.raises(ConfigError, match=f"forces_key='{name}' names a gradient, .* gradient_key"):
        read_dataset(path, forces_key=name)
    expected = read_dataset(ETHANOL).frames[0].forces
    np.testing.assert_array_equal(read_dataset(path, gradient_key=name).frames[0].forces, expected)


@pytest.mark.parametrize("name", ["E", "Energy", "REF_energy", "TotEnergy", "dft_energy"])
def test_an_energy_by_another_name_is_named(name, tmp_path):
    path = write(tmp_path / "data.xyz", images(energy=name))
    with pytest.raises(DataError, match=f"no energy 'energy' .* Give energy_key = '{name}'"):
        read_dataset(path)
    assert read_dataset(path, energy_key=name).frames[0].energy < -4000


def test_labels_that_are_not_used_are_said(tmp_path):
    frames = images()
    for atoms in frames:
        atoms.info["REF_energy"] = 1.0
        atoms.arrays["REF_forces"] = np.zeros((len(atoms), 3))
        atoms.info["energy_weight"] = 2.0
        atoms.arrays["momenta"] = np.ones((len(atoms), 3))
    notes = read_dataset(write(tmp_path / "data.xyz", frames)).notes
    assert [note.partition(" may hold")[0] for note in notes] == [
        "data.xyz: REF_energy",
        "data.xyz: REF_forces",
    ]


@pytest.mark.parametrize("name", ["Stress", "virials", "dft_virial"])
def test_a_stress_by_another_name_is_said(name, tmp_path):
    path = write(tmp_path / "data.xyz", periodic_images(**{name: np.eye(3)}))
    option = "stress_key" if name == "Stress" else "virial_key"
    with pytest.warns(DataWarning, match=f"{name} may hold stress .* {option} = '{name}'"):
        assert read_dataset(path).frames[0].stress is None


def test_the_stress_of_a_slab_is_said_not_to_be_used(tmp_path):
    slab = Atoms("Cu2", [[0, 0, 5], [1.8, 1.8, 5]], cell=[3.6, 3.6, 20], pbc=[1, 1, 0])
    images = []
    for k in range(3):
        image = slab.copy()
        image.rattle(0.05, seed=k)
        stress = np.zeros(6) if k == 2 else np.full(6, 1e-3)  # zero is what codes write for none
        forces = 0.1 * k * np.array([[1.0, 0, 0], [-1.0, 0, 0]])
        image.calc = SinglePointCalculator(image, energy=-1.0 - k, forces=forces, stress=stress)
        images.append(image)
    ase.io.write(tmp_path / "slab.xyz", images)
    with pytest.warns(DataWarning, match="the stress 'stress' of frames 0, 1 is not used"):
        dataset = read_dataset(tmp_path / "slab.xyz", trust_data=True)
    assert [frame.stress for frame in dataset.frames] == [None] * 3
    assert dataset.unkept == ["stress"]


def test_a_pressure_is_no_stress_but_its_negative(tmp_path):
    path = write(tmp_path / "data.xyz", periodic_images(pressure=0.1 * np.eye(3)))
    with pytest.warns(DataWarning, match="give the negative of 'pressure' as 'stress' in the file"):
        assert read_dataset(path).frames[0].stress is None
    for option in ("stress_key", "virial_key"):
        with pytest.raises(ConfigError, match=f"{option}='pressure' names a pressure, .* negative"):
            read_dataset(path, **{option: "pressure"})


def test_a_virial_stress_is_a_stress(tmp_path):
    path = write(tmp_path / "data.xyz", periodic_images(virial_stress=0.1 * np.eye(3)))
    with pytest.warns(DataWarning, match="give stress_key = 'virial_stress'"):
        read_dataset(path)
    with pytest.raises(ConfigError, match=r"names a stress, .* give stress_key = 'virial_stress'"):
        read_dataset(path, virial_key="virial_stress")
    found = read_dataset(path, stress_key="virial_stress").frames[0].stress
    np.testing.assert_array_equal(found, [0.1, 0.1, 0.1, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"forces_key": "f", "gradient_key": "g"}, "forces_key and gradient_key name the same"),
        ({"stress_key": "s", "virial_key": "v"}, "stress_key and virial_key name the same label"),
        ({"virial_key": "v", "stress_unit": "GPa"}, "stress_unit is of a stress, and a virial"),
        ({"forces_unit": "eV"}, "unknown force unit 'eV'; expected an energy unit"),
        ({"forces_unit": "eV/furlong"}, "unknown force unit 'eV/furlong'"),
        ({"stress_unit": "psi"}, "unknown stress unit 'psi'; known: eV/Ang"),
    ],
)
def test_contradicting_or_unknown_options_are_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        read_dataset(ETHANOL, **options)


def test_units_of_forces_and_stress_have_their_values():
    assert force_unit("Ha/Bohr") == pytest.approx(51.42206747, rel=1e-8)
    assert force_unit("Ry/Bohr") == pytest.approx(51.42206747 / 2, rel=1e-8)
    assert force_unit("kcal/mol/Angstrom") == pytest.approx(0.0433641, rel=1e-6)
    assert stress_unit("eV/Å^3") == 1.0
    gpa = {
        "eV/Angstrom^3": 160.21766,
        "GPa": 1.0,
        "MPa": 1e-3,
        "kbar": 0.1,
        "bar": 1e-4,
        "atm": 1.01325e-4,
        "Hartree/Bohr^3": 29421.016,
        "Rydberg/Bohr^3": 14710.508,
        "kcal/mol/Angstrom^3": 6.9476955,
    }
    assert {name: stress_unit(name) * 160.21766 for name in STRESS_UNITS} == pytest.approx(
        gpa, rel=1e-6
    )


@pytest.mark.parametrize(
    ("energy", "factor"), [("Hartree", units.Hartree), ("Rydberg", units.Rydberg), ("eV", 1.0)]
)
def test_forces_beside_hartree_and_rydberg_are_per_bohr(energy, factor, tmp_path):
    frames, per_bohr = images(), energy != "eV"
    for atoms in frames:
        atoms.calc.results["energy"] /= factor
        atoms.calc.results["forces"] /= factor / units.Bohr if per_bohr else 1.0
    data = read_dataset(write(tmp_path / "data.xyz", frames), energy_unit=energy)
    expected = read_dataset(ETHANOL).frames[0]
    assert data.frames[0].energy == pytest.approx(expected.energy, rel=1e-9)
    np.testing.assert_allclose(data.frames[0].forces, expected.forces, rtol=0, atol=1e-6)
    assert (f"forces in {energy}/Bohr" in data.units) is per_bohr
    assert any(f"forces are taken to be in {energy}/Bohr" in n for n in data.notes) is per_bohr


def test_a_unit_of_forces_that_is_given_is_obeyed(tmp_path):
    with pytest.raises(DataError, match="of forces in eV/Å read as kcal/mol/Å"):
        read_dataset(ETHANOL, forces_unit="kcal/mol/Angstrom")
    data = read_dataset(ETHANOL, forces_unit="kcal/mol/Angstrom", trust_data=True)
    expected = read_dataset(ETHANOL).frames[0].forces * units.kcal / units.mol
    np.testing.assert_allclose(data.frames[0].forces, expected, rtol=1e-12)
    assert data.units == "eV, Angstrom, forces in kcal/mol/Angstrom"


def test_a_stress_beside_hartree_and_angstrom_needs_its_unit(tmp_path):
    atoms = Atoms("Si2", [[0, 0, 0], [1.3, 1.3, 1.3]], cell=[5, 5, 5], pbc=True)
    results = {"energy": -10.0, "forces": np.full((2, 3), 0.01), "stress": np.full(6, 0.01)}
    atoms.calc = SinglePointCalculator(atoms, **results)
    path = write(tmp_path / "data.xyz", [atoms])
    with pytest.raises(DataError, match=r"does not state the unit of 'stress': .* Give stress_u"):
        read_dataset(path, energy_unit="Hartree")
    stress = read_dataset(path, energy_unit="Hartree", stress_unit="GPa").frames[0].stress
    np.testing.assert_allclose(stress, 0.01 * units.GPa, rtol=1e-12)


def test_units_that_frames_state_are_obeyed(tmp_path):
    frames = images()
    for atoms in frames:
        atoms.info["energy_unit"], atoms.info["forces_unit"] = "kcal/mol", "kcal/mol/Bohr"
    path = write(tmp_path / "data.xyz", frames)
    data, plain = read_dataset(path, trust_data=True), read_dataset(ETHANOL)
    kcal = units.kcal / units.mol
    assert data.frames[0].energy == pytest.approx(plain.frames[0].energy * kcal, rel=1e-12)
    expected = plain.frames[0].forces * kcal / units.Bohr
    np.testing.assert_allclose(data.frames[0].forces, expected, rtol=1e-12)
    with pytest.raises(DataError, match="energy_unit='eV' contradicts the file: its entry"):
        read_dataset(path, energy_unit="eV")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (["eV", "meV"], "energy_unit must be the same in all frames, found 'eV' .* in frame 1"),
        (["eV", None], "energy_unit must stand in every frame or in none, missing in frames 1"),
        (["parsec", "parsec"], "entry energy_unit: unknown energy unit 'parsec'"),
    ],
)
def test_units_that_frames_state_in_two_ways_are_refused(values, match, tmp_path):
    frames = images()[:2]
    for atoms, value in zip(frames, values, strict=True):
        if value is not None:
            atoms.info["energy_unit"] = value
    with pytest.raises(DataError, match=match):
        read_dataset(write(tmp_path / "data.xyz", frames))


# --- what a network does not see


def test_frames_of_several_charges_are_said(tmp_path):
    frames = images()
    for k, atoms in enumerate(frames):
        atoms.info["charge"] = k % 2
    with pytest.warns(DataWarning, match=r"differ in their charge \(charge: 0, 1\)"):
        read_dataset(write(tmp_path / "data.xyz", frames))


def test_a_singlet_that_some_frames_do_not_say_is_none_of_several(tmp_path):
    frames = images()
    frames[0].info["multiplicity"] = 1
    assert read_dataset(write(tmp_path / "one.xyz", frames)).notes == []
    frames[0].info["multiplicity"] = 3
    with pytest.warns(DataWarning, match=r"differ in their spin \(multiplicity: 1, 3\)"):
        read_dataset(write(tmp_path / "three.xyz", frames))


def test_weights_of_single_frames_are_said_not_to_be_used(tmp_path):
    frames = images()
    for k, atoms in enumerate(frames):
        atoms.info |= {"config_type": "a", "molecular_weight": 46.0 + k, "my_weight": 0.5}
    frames[1].info["config_energy_weight"] = 0.0  # elsewhere 1
    match = r"differ in their 'config_energy_weight' \(0, 1\), which is not used: all count alike"
    with pytest.warns(DataWarning, match=match) as caught:
        dataset = read_dataset(write(tmp_path / "data.xyz", frames))
    assert sum("weight" in str(each.message) for each in caught) == 1
    assert dataset.frames[1].info["config_energy_weight"] == 0.0
    part = read_whole_frames(tmp_path / "data.xyz", LabelRequest()).dataset
    assert sum("weight" in note for note in part.notes) == 1


def test_charges_of_several_files_are_compared(tmp_path):
    paths = []
    for charge in (0, 1):
        frames = images()
        for atoms in frames:
            atoms.info["charge"] = charge
        paths.append(write(tmp_path / f"{charge}.xyz", frames))
        assert read_dataset(paths[-1]).notes == []
    with pytest.warns(DataWarning, match=r"differ in their charge \(charge: 0, 1\)") as caught:
        read_dataset(paths)
    assert len(caught) == 1
    whole = read_whole_frames(paths, LabelRequest()).dataset
    assert [note for note in whole.notes if "charge" in note] == [str(caught[0].message)]


def test_a_cell_without_periodicity_is_said(tmp_path):
    frames = images()
    for atoms in frames[:2]:
        atoms.set_cell([9.0, 9.0, 9.0])
    with pytest.warns(
        DataWarning, match=r"2 of 6 frames have a cell but pbc = F F F .*frames 0, 1"
    ):
        read_dataset(write(tmp_path / "data.xyz", frames))


# --- files


def test_several_files_count_through_and_frames_know_their_own(tmp_path):
    frames = images()
    one, two = write(tmp_path / "a.xyz", frames[:2]), write(tmp_path / "b.xyz", frames[2:])
    whole = read_dataset(ETHANOL)
    for path in ([one, two], str(tmp_path / "*.xyz"), [str(one), str(tmp_path / "b*")]):
        data = read_dataset(path, rows=[3, 1, 2])
        assert (data.rows, data.n_rows, data.source) == ([3, 1, 2], 6, "a.xyz, b.xyz")
        assert [f.energy for f in data.frames] == [whole.frames[k].energy for k in (3, 1, 2)]
        assert [str(f.origin) for f in data.frames] == [
            "frame 1 of b.xyz",
            "frame 1 of a.xyz",
            "frame 0 of b.xyz",
        ]


@pytest.mark.parametrize(
    ("path", "error", "match"),
    [
        ([], ConfigError, "found an empty list"),
        ("*.nothing", DataError, r"no data file fits the pattern .*\*\.nothing"),
        (["a.xyz", "./a.xyz"], DataError, r"a\.xyz is named twice"),
    ],
)
def test_paths_that_name_no_file_or_one_twice_are_refused(
    path, error, match, tmp_path, monkeypatch
):
    write(tmp_path / "a.xyz", images())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=match):
        read_dataset(path)


def test_isolated_atoms_that_disagree_between_files_are_refused(tmp_path):
    for name, energy in (("a", -13.5), ("b", -13.6)):
        atom = Atoms("H", info={"config_type": "IsolatedAtom"})
        atom.calc = SinglePointCalculator(atom, energy=energy)
        write(tmp_path / f"{name}.xyz", [atom])
    with pytest.raises(DataError, match=r"atomic number 1 disagree between files, found -13\.5"):
        read_dataset(str(tmp_path / "*.xyz"))


def test_compressed_text_is_read(tmp_path):
    path = tmp_path / "data.xyz.gz"
    path.write_bytes(gzip.compress(ETHANOL.read_bytes()))
    data = read_dataset(path)
    assert [f.energy for f in data.frames] == [f.energy for f in read_dataset(ETHANOL).frames]
    path.write_bytes(gzip.compress(ETHANOL.read_bytes() + b"\n" + ETHANOL.read_bytes()))
    with pytest.raises(DataError, match=r"a blank line 67 ends the file"):
        read_dataset(path)


def test_a_compressed_data_base_is_refused(tmp_path):
    path = tmp_path / "data.db.gz"
    path.write_bytes(gzip.compress(b"x"))
    with pytest.raises(DataError, match=r"has the suffix '\.gz'; known are"):
        read_dataset(path)


def test_an_outcar_is_read_with_all_its_frames(tmp_path):
    path = tmp_path / "OUTCAR"
    path.write_bytes((VASP / "OUTCAR_example_1").read_bytes())
    expected = ase.io.read(path, index=":", format="vasp-out")
    data = read_dataset(path)
    assert len(data) == len(expected)
    for frame, atoms in zip(data.frames, expected, strict=True):
        assert frame.energy == atoms.get_potential_energy()
        np.testing.assert_array_equal(frame.forces, atoms.get_forces())
    with pytest.raises(ConfigError, match=r"ASE reads OUTCAR files in eV and Angstrom.*leave ener"):
        read_dataset(path, energy_unit="eV")


QBOX = Path(ase.__file__).parent / "test" / "testdata" / "qbox_test.xml"


def test_output_whose_units_ase_does_not_convert_is_refused(tmp_path):
    """Of Qbox it hands on Hartree, Bohr and GPa as they are printed."""
    path = tmp_path / "run.out"
    path.write_bytes(QBOX.read_bytes())
    assert filetype(str(path), read=True, guess=False) == "qbox"
    with pytest.raises(DataError, match=r"has the suffix '\.out'; known are"):
        read_dataset(path)


GAUSSIAN = """\
 Entering Gaussian System, Link 0=g16
{blocks} SCF Done:  E(RHF) =  -1.11671432590     A.U. after    6 cycles
 -------------------------------------------------------------------
 Center     Atomic                   Forces (Hartrees/Bohr)
 Number     Number              X              Y              Z
 -------------------------------------------------------------------
      1        1           0.000000000    0.000000000    0.010000000
      2        1           0.000000000    0.000000000   -0.010000000
 -------------------------------------------------------------------
"""
BLOCK = """\
                         {orientation} orientation:
 ---------------------------------------------------------------------
 Center     Atomic      Atomic             Coordinates (Angstroms)
 Number     Number       Type             X           Y           Z
 ---------------------------------------------------------------------
      1          1           0        {first}
      2          1           0        {second}
 ---------------------------------------------------------------------
"""
ALONG_Z = ("0.000000    0.000000    0.350000", "0.000000    0.000000   -0.350000")
ALONG_X = ("0.350000    0.000000    0.000000", "-0.350000    0.000000    0.000000")


def gaussian_log(path: Path, *orientations: str) -> Path:
    """Write a log whose forces lie along z, as its input does, and its standard orientation not."""
    blocks = [
        BLOCK.format(orientation=name, first=places[0], second=places[1])
        for name in orientations
        for places in [ALONG_X if name == "Standard" else ALONG_Z]
    ]
    path.write_text(GAUSSIAN.format(blocks="".join(blocks)))
    return path


@pytest.mark.parametrize("orientations", [("Input", "Standard"), ("Input",), ("Z-Matrix",)])
def test_gaussian_s_forces_are_read_beside_positions_of_their_orientation(orientations, tmp_path):
    (frame,) = read_dataset(gaussian_log(tmp_path / "h2.log", *orientations)).frames
    np.testing.assert_allclose(frame.atoms.positions[:, 2], [0.35, -0.35])
    np.testing.assert_allclose(frame.forces[:, 2], np.array([0.01, -0.01]) * HARTREE_PER_BOHR)


def test_gaussian_s_forces_beside_turned_positions_are_refused(tmp_path):
    path = gaussian_log(tmp_path / "h2.log", "Standard")
    with pytest.raises(DataError, match=r"standard orientation alone.* Run it with NoSymm"):
        read_dataset(path)
