"""Frames that no calculation gives, and labels that do not belong together."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from eqcalc.data import LabelledFrame, read_dataset
from eqcalc.data.consistency import label_factors, refusal
from eqcalc.data.duplicates import shared_structures
from eqcalc.data.plausibility import energy_findings, find_implausible
from eqcalc.errors import DataError, DataWarning

SMALL = Path(__file__).parents[1] / "data"


def copper(k: int, amplitude: float = 0.05, scale: float = 1.0) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell * scale, scale_atoms=True)
    if amplitude:
        atoms.rattle(amplitude, seed=k)
    atoms.calc = EMT()
    return atoms


def write(path: Path, images: list[Atoms], **factors: float) -> Path:
    """Write labels times factors: what a mistaken unit or sign makes of a file."""
    written = []
    for atoms in images:
        bare = atoms.copy()
        stress = atoms.get_stress() * factors.get("stress", 1.0)
        bare.calc = SinglePointCalculator(
            bare,
            energy=atoms.get_potential_energy() * factors.get("energy", 1.0),
            forces=atoms.get_forces() * factors.get("forces", 1.0),
            stress=stress,
        )
        bare.positions *= factors.get("length", 1.0)
        bare.cell *= factors.get("length", 1.0)
        bare.calc.atoms = bare.copy()  # so that the results count as those of this structure
        written.append(bare)
    ase.io.write(path, written)
    return path


@pytest.fixture(scope="module")
def rattled() -> list[Atoms]:
    return [copper(k) for k in range(8)]


@pytest.fixture(scope="module")
def strained() -> list[Atoms]:
    return [copper(k, 0.0, 0.97 + 0.01 * k) for k in range(7)]


def test_labels_that_belong_together_are_taken_without_a_word(tmp_path, rattled, strained):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_dataset(write(tmp_path / "rattled.xyz", rattled)).notes == []
        assert read_dataset(write(tmp_path / "strained.xyz", strained)).notes == []


def test_factors_of_right_labels_are_one(tmp_path, rattled, strained):
    found = label_factors(read_dataset(write(tmp_path / "a.xyz", rattled)).frames)
    assert found == {"forces": pytest.approx(1.0, abs=0.12)}
    found = label_factors(read_dataset(write(tmp_path / "b.xyz", strained)).frames)
    assert found == {"stress": pytest.approx(1.0, abs=0.01)}


def test_copies_do_not_make_right_labels_wrong(tmp_path, rattled):
    """Counted as pairs they would leave the answer to the one real pair that is near enough."""
    rng = np.random.default_rng(0)
    for k in range(6):
        chosen = [copper(100 + 20 * k + n, 0.08) for n in range(12)]
        path = write(tmp_path / f"{k}.xyz", [*chosen, *(chosen[n] for n in rng.permutation(8))])
        assert read_dataset(path, trust_data=False).notes == []
    wrong = write(tmp_path / "wrong.xyz", [*rattled, *rattled[:4]], forces=-1.0)
    with pytest.raises(DataError, match="times what follows from the forces"):
        read_dataset(wrong)


@pytest.mark.parametrize(
    ("factor", "match"),
    [
        (units.Bohr, r"are 1\.8\d times what follows from the forces\. .* forces per Bohr read as"),
        (1 / units.Bohr, r"are 0\.51\d* times .* or of positions in Bohr"),
        (-1.0, r"are -0\.9\d* times what follows from the forces.*sign of a gradient"),
        (units.mol / units.kcal, r"are 0\.04\d* times .*kcal/mol"),
        (units.kcal / units.mol, r"are 2\d\.\d times .*kcal/mol"),
    ],
)
def test_forces_in_another_unit_or_sign_than_energies_are_refused(factor, match, tmp_path, rattled):
    path = write(tmp_path / "data.xyz", rattled, forces=factor)
    with pytest.raises(DataError, match=match):
        read_dataset(path)
    with pytest.warns(DataWarning, match="energies and forces do not belong together"):
        taken = read_dataset(path, trust_data=True)
    assert len(taken) == 8


@pytest.mark.parametrize(
    ("factor", "match"),
    [
        (-1.0, r"are -1 times what follows from the stress.*sign of a gradient, or of a virial"),
        (1 / units.GPa, r"are 0\.0062\d times .* a stress in GPa read as"),
        (-10 / units.GPa, r"are -0\.00062\d times .*VASP"),
    ],
)
def test_a_stress_in_another_unit_or_sign_is_refused(factor, match, tmp_path, strained):
    with pytest.raises(DataError, match=match):
        read_dataset(write(tmp_path / "data.xyz", strained, stress=factor))


def test_frames_that_are_far_apart_say_nothing_of_the_forces():
    frames = read_dataset(SMALL / "ethanol_rmd17_frames.npz").frames
    assert label_factors(frames) == {}
    assert refusal(frames) is None


@pytest.mark.parametrize(
    ("factor", "match"),
    [(1 / 10.0, "shortest distances are .* of the sum of covalent radii .* positions in nm")],
)
def test_lengths_in_another_unit_are_refused(factor, match, tmp_path, rattled):
    with pytest.raises(DataError, match=match):
        read_dataset(write(tmp_path / "data.xyz", rattled, length=factor))


def ethanol() -> list[Atoms]:
    frames = []
    for atoms in ase.io.read(SMALL / "ethanol_rmd17_frames.xyz", index=":"):
        results = atoms.calc.results
        frames.append(atoms.copy())
        frames[-1].calc = SinglePointCalculator(
            frames[-1], energy=results["energy"], forces=results["forces"].copy()
        )
    return frames


def saved(path: Path, images: list[Atoms]) -> Path:
    for atoms in images:
        atoms.calc.atoms = atoms.copy()
    ase.io.write(path, images)
    return path


def test_positions_in_bohr_are_said(tmp_path):
    images = ethanol()
    for atoms in images:
        atoms.positions /= units.Bohr
    with pytest.warns(
        DataWarning, match=r"nearest neighbours are 1\.9\d times .* are in Bohr, say"
    ):
        read_dataset(saved(tmp_path / "data.xyz", images))


def test_positions_in_bohr_of_one_file_of_several_are_said_with_its_name(tmp_path):
    others = [saved(tmp_path / f"{k}.xyz", ethanol()) for k in range(2)]
    images = ethanol()
    for atoms in images:
        atoms.positions /= units.Bohr
    odd = saved(tmp_path / "bohr.xyz", images)
    with pytest.warns(DataWarning, match=r"nearest neighbours in \S*bohr\.xyz are 1\.9\d times"):
        read_dataset([*others, odd])


def test_atoms_that_nearly_meet_are_said_with_their_frame(tmp_path):
    images = ethanol()
    images[4].positions[1] = images[4].positions[0] + 0.3
    with pytest.warns(DataWarning, match=r"atoms closer than 0\.45 .* in frame 4 of data\.xyz"):
        read_dataset(saved(tmp_path / "data.xyz", images))


def test_a_file_with_the_sign_of_gradients_is_refused_beside_others(tmp_path, rattled):
    others = write(tmp_path / "others.xyz", [copper(k) for k in range(20, 44)])
    flipped = write(tmp_path / "flipped.xyz", rattled, forces=-1.0)
    match = r"in .*flipped\.xyz, energies and forces do not belong together: .* are -0\.9"
    for files in ([others, flipped], [flipped, others]):
        with pytest.raises(DataError, match=match):
            read_dataset(files)


def test_two_atoms_in_one_place_are_said_in_whichever_of_many_frames(tmp_path):
    images = [image for _ in range(20) for image in ethanol()]
    images[37].positions[4] = images[37].positions[3] + [0.003, 0.0, 0.0]
    with pytest.warns(DataWarning, match=r"atoms closer than 0\.45 .* in frame 37 of data\.xyz"):
        read_dataset(saved(tmp_path / "data.xyz", images))


@pytest.mark.parametrize(
    ("energy", "match"),
    [
        (1e6, r"energies beyond what all electrons .* in frame 2 of data\.xyz: 1e\+06 eV, where"),
        (
            -2000.0,
            r"energies far from all others .* in frame 2 of data\.xyz: -2000 eV, \+24\d eV/a",
        ),
    ],
)
def test_an_energy_far_from_all_others_is_refused_and_taken_on_demand(energy, match, tmp_path):
    images = ethanol()
    images[2].calc.results["energy"] = energy
    path = saved(tmp_path / "data.xyz", images)
    with pytest.raises(DataError, match=match + ".* trust_data = true to take them"):
        read_dataset(path)
    with pytest.warns(DataWarning, match=match):
        assert read_dataset(path, trust_data=True).frames[2].energy == energy
    assert len(read_dataset(path, rows=[0, 1, 3, 4, 5])) == 5


def test_an_odd_energy_is_said(tmp_path):
    images = ethanol()
    images[5].calc.results["energy"] += 9 * 5.0
    with pytest.warns(DataWarning, match=r"far from all others .* in frame 5 .* \+(4|5)\S* eV/at"):
        read_dataset(saved(tmp_path / "data.xyz", images))


def test_primitive_cells_are_compared_as_others_are(tmp_path):
    cells = [bulk("Cu", a=3.5 + 0.03 * k) for k in range(10)]
    for atoms in cells:
        atoms.calc = EMT()
    frames = read_dataset(write(tmp_path / "cells.xyz", cells)).frames
    assert shared_structures(frames[:4], frames) == frames[:4]
    lonely = Atoms("Cu", cell=[20, 20, 20], pbc=True)
    lonely.calc = EMT()
    alone = read_dataset(write(tmp_path / "alone.xyz", [*cells, lonely])).frames  # no outlier
    assert shared_structures(alone[-1:], alone) == []
    wrong = [replace(frame) for frame in frames]
    wrong[3] = replace(wrong[3], energy=wrong[3].energy + 500.0)
    assert "energies far from all others" in energy_findings(wrong).refused[0]


def test_energies_of_several_compositions_are_no_outliers():
    table = {1: -13.6, 6: -1029.0, 8: -2042.0}
    rng = np.random.default_rng(0)
    frames = []
    for symbols in ("CH4", "H2O", "CO2", "C2H6O", "H2", "CO", "C6H6") * 2:
        atoms = Atoms(symbols, rng.normal(size=(len(Atoms(symbols)), 3)) * 20)
        energy = sum(table[z] for z in atoms.numbers) - 4.0 * len(atoms)
        frames.append(LabelledFrame(atoms, energy + 0.1 * rng.normal()))
    assert find_implausible(frames) == ([], [])


@pytest.mark.parametrize("shift", [5.0, 500.0])
@pytest.mark.parametrize("n_shifted", [4, 6, 8])
def test_energies_in_two_groups_are_said_and_refused_where_no_bond_is_as_strong(n_shifted, shift):
    images = [copper(k) for k in range(12)]
    frames = [LabelledFrame(a, a.get_potential_energy(), a.get_forces()) for a in images]
    assert energy_findings(frames) == ([], [])
    joined = [
        replace(f, energy=f.energy + shift * len(f.atoms)) if k < n_shifted else f
        for k, f in enumerate(frames)
    ]
    found = energy_findings(joined)
    said = found.refused if shift > 50.0 else found.odd
    (sentence,) = [each for each in said if "two groups" in each]
    assert f"energies of Cu4 in two groups of {12 - n_shifted} and {n_shifted} frames" in sentence
    first = 0 if n_shifted < 6 else n_shifted
    assert n_shifted == 6 or f"the smaller is frame {first}, frame {first + 1}" in sentence
    # Each of them alone is no group, nor are frames of another composition.
    others = [replace(f, atoms=f.atoms * (1, 1, 2)) for f in joined[:n_shifted]]
    assert not any(
        "two groups" in each for each in energy_findings(joined[n_shifted:] + others).odd
    )


@pytest.mark.parametrize(
    ("force", "error", "match"),
    [
        (1e5, DataError, r"forces of up to 1e\+05 eV/Å in frame 1 of data\.xyz"),
        (300.0, DataWarning, r"forces of up to 300 eV/Å in frame 1 of data\.xyz"),
    ],
)
def test_absurd_forces_are_refused_or_said(force, error, match, tmp_path):
    images = ethanol()
    images[1].calc.results["forces"][3, 2] = force
    path = saved(tmp_path / "data.xyz", images)
    expected = pytest.raises if error is DataError else pytest.warns
    with expected(error, match=match):
        read_dataset(path)


def test_forces_that_are_absurd_everywhere_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"forces of \S+ eV/Å on average .* say forces_unit"):
        read_dataset(SMALL / "ethanol_rmd17_frames.xyz", forces_unit="Hartree/Bohr")


def test_forces_that_are_all_zero_are_said(tmp_path):
    images = ethanol()
    for atoms in images:
        atoms.calc.results["forces"] *= 0.0
    with pytest.warns(DataWarning, match="every force is exactly zero"):
        read_dataset(saved(tmp_path / "data.xyz", images))


def test_forces_that_are_zero_in_some_molecules_are_said_with_their_frames(tmp_path):
    images = ethanol()
    for atoms in images[1:3]:
        atoms.calc.results["forces"] *= 0.0
    match = r"every force is exactly zero in frame 1 of data\.xyz, frame 2 of data\.xyz, as where"
    with pytest.warns(DataWarning, match=match):
        read_dataset(saved(tmp_path / "data.xyz", images), trust_data=True)


@pytest.mark.parametrize("zero", [[0, 1, 2], [2]])
def test_a_stress_that_is_zero_is_said(zero, tmp_path):
    path = write(tmp_path / "all.xyz", [copper(k) for k in range(3)])
    images = ase.io.read(path, index=":")
    for k in zero:
        images[k].calc.results["stress"] = np.zeros(6)
    where = "" if len(zero) == 3 else r" in frame 2 of data\.xyz"
    with pytest.warns(DataWarning, match=f"the stress is exactly zero{where}, as where none was"):
        read_dataset(saved(tmp_path / "data.xyz", images))


def test_a_stress_above_160_gpa_is_said(tmp_path):
    atoms = copper(0)
    path = write(tmp_path / "data.xyz", [atoms], stress=1e3)
    with pytest.warns(DataWarning, match=r"stress of up to .* above 160 GPa; say stress_unit"):
        read_dataset(path)


def test_structures_are_shared_whatever_their_file_is_called():
    npz = read_dataset(SMALL / "ethanol_rmd17_frames.npz").frames
    xyz = read_dataset(SMALL / "ethanol_rmd17_frames.xyz", rows="2:4").frames
    assert shared_structures(xyz, npz) == xyz
    assert shared_structures(npz[:2], xyz) == []


@pytest.fixture(scope="module")
def trajectory() -> list[LabelledFrame]:
    """Copper that moves by 0.01 Å a step: so little that energies follow forces closely."""
    start, swing = copper(0), np.random.default_rng(1).normal(size=(2, 4, 3))
    frames = []
    for k in range(30):
        atoms = start.copy()
        atoms.positions += 0.06 * (np.sin(0.15 * k) * swing[0] + np.cos(0.11 * k) * swing[1])
        atoms.calc = EMT()
        frames.append(LabelledFrame(atoms, atoms.get_potential_energy(), atoms.get_forces()))
    return frames


def test_right_labels_of_a_tight_trajectory_pass(trajectory):
    assert label_factors(trajectory) == {"forces": pytest.approx(1.0, abs=0.02)}
    assert refusal(trajectory) is None
    noisy = [replace(f, energy=f.energy + 1e-4 * (-1) ** k) for k, f in enumerate(trajectory)]
    assert refusal(noisy) is None


@pytest.mark.parametrize("offset", [7, 9])
@pytest.mark.parametrize("label", ["energy", "forces"])
def test_labels_of_other_frames_are_refused(label, offset, trajectory):
    shifted = [
        replace(frame, **{label: getattr(later, label)})
        for frame, later in zip(trajectory, trajectory[offset:], strict=False)
    ]
    said = refusal(shifted)
    assert said is not None
    assert "energies and forces do not belong together" in said


@pytest.mark.parametrize("order", [1, -1])
def test_labels_of_other_frames_are_refused_at_the_end_of_a_long_file_too(order, trajectory):
    shifted = [
        replace(frame, energy=later.energy)
        for frame, later in zip(trajectory, trajectory[7:], strict=False)
    ]
    assert refusal((trajectory * 14)[:401]) is None
    assert "energies and forces do not" in refusal([*trajectory * 14, *shifted * 18][::order])


def test_forces_of_other_frames_are_refused_where_the_file_is_read(trajectory, tmp_path):
    images = []
    for frame, later in zip(trajectory, trajectory[7:], strict=False):
        atoms = frame.atoms.copy()
        atoms.calc = SinglePointCalculator(atoms, energy=frame.energy, forces=later.forces)
        images.append(atoms)
    ase.io.write(tmp_path / "data.xyz", images)
    match = r"do not belong together: in \d+ of \d+ pairs .* than the work of the forces, .*_key\)"
    with pytest.raises(DataError, match=match):
        read_dataset(tmp_path / "data.xyz")
    with pytest.warns(DataWarning, match=match):
        assert len(read_dataset(tmp_path / "data.xyz", trust_data=True)) == len(images)


@pytest.mark.parametrize("energy", [0.0, -3.5])
def test_one_energy_of_all_frames_is_refused_where_forces_work(energy, trajectory, tmp_path):
    images = []
    for frame in trajectory:
        atoms = frame.atoms.copy()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=frame.forces)
        images.append(atoms)
    ase.io.write(tmp_path / "data.xyz", images)
    match = (
        r"energies of \d+ pairs of similar frames are the same, where .* placeholder, .*energy_key"
    )
    with pytest.raises(DataError, match=match):
        read_dataset(tmp_path / "data.xyz")
    still = [replace(trajectory[0], energy=energy) for _ in trajectory]
    assert refusal(still) is None
