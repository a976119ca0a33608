"""What a training file's data must be, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from small_models import ETHANOL_FRAMES
from test_training import metrics_of, write_config
from trainings import crystals

from eqcalc.errors import ConfigError, DataError, DataWarning, GraphError
from eqcalc.training.config import read_config
from eqcalc.training.data import read_training_data, refuse_unfit_data
from eqcalc.training.run import train


def ethanol() -> list[Atoms]:
    return ase.io.read(ETHANOL_FRAMES, index=":")


def check(path: Path) -> list[str]:
    config = read_config(path)
    return refuse_unfit_data(config, read_training_data(config))


def mixed(folder: Path, train: str = "0:5", validation: str = "5:8") -> Path:
    """Write crystals with stress and molecules without, by turns; rows of them are chosen."""
    frames = []
    for crystal, molecule in zip(crystals(4), ethanol(), strict=False):
        frames += [crystal, molecule]
    ase.io.write(folder / "mixed.xyz", frames)
    return write_config(
        folder,
        data__path="mixed.xyz",
        data__train_rows=train,
        data__validation_rows=validation,
        training__stress_weight=10.0,
    )


def test_crystals_with_stress_train_beside_molecules_without(tmp_path):
    train(read_config(mixed(tmp_path)), tmp_path / "run")
    rows = metrics_of(tmp_path / "run")
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert rows[-1]["validation_stress_mae_mev_per_a3"] > 0
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_frames_none_of_which_is_periodic_are_named_and_not_their_whole_file(tmp_path):
    path = mixed(tmp_path, train="0:3", validation="3:4")
    match = r"needs frames that are periodic in all three .*: none of frames 3 of mixed\.xyz is\."
    with pytest.raises(DataError, match=match):
        check(path)


def test_periodic_frames_without_stress_are_named(tmp_path):
    path = mixed(tmp_path)
    frames = ase.io.read(tmp_path / "mixed.xyz", index=":")
    del frames[2].calc.results["stress"]
    ase.io.write(tmp_path / "mixed.xyz", frames)
    match = r"no stress 'stress' in 1 of 3 frames, rows 2; .* Give stress_key, or choose other rows"
    with pytest.raises(DataError, match=match):
        check(path)


def test_a_periodic_part_without_stress_is_refused_with_the_names_that_may_hold_it(tmp_path):
    frames = crystals(4)
    for atoms in frames:
        atoms.info["virial"] = -np.eye(3)
        del atoms.calc.results["stress"]
    ase.io.write(tmp_path / "bare.xyz", frames)
    path = write_config(
        tmp_path,
        data__path="bare.xyz",
        data__train_rows="0:2",
        data__validation_rows="2:4",
        training__stress_weight=1.0,
    )
    match = r"periodic frame needs stress .* frames 0, 1 of bare\.xyz\. .* virial_key = 'virial'"
    with pytest.raises(DataError, match=match):
        check(path)


def test_lists_and_patterns_of_files_are_read(tmp_path):
    frames = ethanol()
    for k in range(3):
        ase.io.write(tmp_path / f"part{k}.xyz", frames[2 * k : 2 * k + 2])
    path = write_config(
        tmp_path,
        data__path=["part0.xyz", "part[1]*"],
        data__train_rows=None,
        data__validation_path="part2.*",
        data__validation_rows=None,
    )
    data = read_training_data(read_config(path))
    assert (data.train.rows, data.train.source) == ([0, 1, 2, 3], "part0.xyz, part1.xyz")
    assert data.validation.source == "part2.xyz"
    assert check(path) == []


def test_the_same_frames_by_another_list_of_files_are_refused(tmp_path):
    ase.io.write(tmp_path / "a.xyz", ethanol()[:2])
    ase.io.write(tmp_path / "b.xyz", ethanol()[2:])
    path = write_config(
        tmp_path,
        data__path=["a.xyz", "b.xyz"],
        data__train_rows="0:4",
        data__validation_path="b.xyz",
        data__validation_rows="1:3",
    )
    with pytest.raises(ConfigError, match=r"rows of b\.xyz must not overlap, found in both: 1;"):
        check(path)


@pytest.mark.parametrize("role", ["validation", "test"])
@pytest.mark.parametrize(("rows", "said"), [("0:2", "2 of 2"), ("3:6", "1 of 3")])
def test_copies_of_training_frames_are_refused_and_taken_on_demand(role, rows, said, tmp_path):
    ase.io.write(tmp_path / "copy.xyz", ethanol())
    options = {f"data__{role}_path": "copy.xyz", f"data__{role}_rows": rows}
    named = "frames 0, 1" if said == "2 of 2" else "frames 3"
    match = rf"{said} {role} frames \({named} of copy\.xyz\) (are|is a) struct.* trained on too"
    with pytest.raises(DataError, match=match + ".* trust_data = true"):
        check(write_config(tmp_path, **options))
    assert said in check(write_config(tmp_path, **options, data__trust_data=True))[0]


def test_copies_on_both_sides_of_a_drawn_split_are_refused(tmp_path):
    ase.io.write(tmp_path / "twice.xyz", 2 * ethanol())
    options = {"data__path": "twice.xyz", "data__train_rows": None, "data__validation_rows": None}
    path = write_config(tmp_path, **options, data__validation_fraction=0.5)
    with pytest.raises(DataError, match=r"validation frames .* of twice\.xyz\) .* trained on too"):
        check(path)


def test_a_test_of_nothing_but_validation_frames_is_refused_and_of_some_is_said(tmp_path):
    frames = ethanol()
    moved = frames[5].copy()
    moved.positions[0] += 0.01
    moved.calc = SinglePointCalculator(moved, **frames[5].calc.results)
    ase.io.write(tmp_path / "copy.xyz", [*frames, moved])
    path = write_config(tmp_path, data__test_path="copy.xyz", data__test_rows="4:6")
    with pytest.raises(DataError, match=r"2 of 2 test frames \(frames 4, 5 .* validated on too"):
        check(path)
    path = write_config(tmp_path, data__test_path="copy.xyz", data__test_rows="4:7")
    said = "2 of 3 test frames (frames 4, 5 of copy.xyz) are structures that are validated on too"
    assert check(path)[0].startswith(said)


def test_copies_that_are_taken_are_said_in_the_manifest(tmp_path):
    ase.io.write(tmp_path / "copy.xyz", ethanol())
    options = {"data__validation_path": "copy.xyz", "data__validation_rows": "3:6"}
    path = write_config(tmp_path, **options, data__trust_data=True)
    with pytest.warns(DataWarning, match=r"1 of 3 validation frames \(frames 3 of copy\.xyz\)"):
        train(read_config(path), tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert "1 of 3 validation frames" in manifest["data"]["notes"][0]


@pytest.mark.parametrize("role", ["validation", "test"])
def test_elements_that_are_not_trained_on_are_refused(role, tmp_path):
    frames = ethanol()
    for atoms in frames:
        results = dict(atoms.calc.results)
        atoms.numbers[2] = 16
        atoms.calc = SinglePointCalculator(atoms, **results)
    ase.io.write(tmp_path / "sulphur.xyz", frames)
    options = {f"data__{role}_path": "sulphur.xyz", f"data__{role}_rows": "0:2"}
    match = rf"S in the {role} frames \(frames 0, 1 of sulphur\.xyz\) but in no training frame"
    with pytest.raises(DataError, match=match):
        check(write_config(tmp_path, **options))


def test_an_outlier_among_few_validation_frames_is_refused(tmp_path):
    frames = ethanol()
    results = dict(frames[5].calc.results)
    frames[5].calc = SinglePointCalculator(frames[5], **(results | {"energy": -3000.0}))
    ase.io.write(tmp_path / "data.xyz", frames)
    path = write_config(tmp_path, data__path="data.xyz")
    match = r"energies far from all others .* in frame 5 of data\.xyz: -3000 eV.* in \[data\] to"
    with pytest.raises(DataError, match=match):
        check(path)
    path = write_config(tmp_path, data__path="data.xyz", data__trust_data=True)
    assert "frame 5 of data.xyz" in check(path)[0]


def test_a_bad_frame_is_named_by_its_number_in_the_file(tmp_path):
    frames = ethanol()
    frames[5].positions[1] = frames[5].positions[0]
    frames[5].calc.atoms = frames[5].copy()
    ase.io.write(tmp_path / "bad.xyz", frames)
    config = read_config(write_config(tmp_path, data__path="bad.xyz"))
    with pytest.raises(GraphError, match=r"^frame 5 of bad\.xyz: atoms 0 and 1 coincide"):
        train(config, tmp_path / "run")


def test_units_and_keys_of_a_training_file_reach_the_reader(tmp_path):
    frames = ethanol()
    for atoms in frames:
        results = dict(atoms.calc.results)
        atoms.calc = SinglePointCalculator(atoms, energy=results["energy"] / 27.211386024367243)
        atoms.arrays["gradient"] = -results["forces"] / 51.42206747
    ase.io.write(tmp_path / "atomic.xyz", frames)
    path = write_config(
        tmp_path,
        data__path="atomic.xyz",
        data__energy_unit="Hartree",
        data__forces_unit="Hartree/Bohr",
        data__gradient_key="gradient",
    )
    data = read_training_data(read_config(path))
    expected = ethanol()[1].get_forces()
    np.testing.assert_allclose(data.train.frames[1].forces, expected, atol=1e-5)
    assert data.train.units == "Hartree, Angstrom, forces in Hartree/Bohr"
    assert data.notes == []


def test_charges_of_training_and_validation_are_compared(tmp_path):
    frames = ethanol()
    for k, atoms in enumerate(frames):
        atoms.info["charge"] = 0 if k < 4 else 1
    ase.io.write(tmp_path / "charged.xyz", frames)
    rows = {"data__train_rows": "0:4", "data__validation_rows": "4:6"}
    (note,) = check(write_config(tmp_path, data__path="charged.xyz", **rows))
    assert note.startswith("frames differ in their charge (charge: 0, 1)")


def test_groups_of_the_test_that_are_trained_on_are_said(tmp_path):
    frames = ethanol()
    for k, atoms in enumerate(frames):
        atoms.info["traj"] = f"t{k // 2}"
    ase.io.write(tmp_path / "grouped.xyz", frames)
    options = {
        "data__path": "grouped.xyz",
        "data__train_rows": "0:5",
        "data__validation_rows": None,
        "data__validation_fraction": 0.4,
        "data__group_key": "traj",
        "data__test_rows": "5:6",
    }
    (note,) = check(write_config(tmp_path, **options))
    assert note.startswith("1 of 1 test frames belong to groups that are trained on (t2)")
