"""What ``eqcalc data summary`` counts, finds and refuses."""

from __future__ import annotations

import struct
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from labelled_files import without, write
from small_models import ETHANOL_FRAMES

from eqcalc.data import read_dataset
from eqcalc.data.frames import LabelRequest
from eqcalc.data.pictures import summary_picture
from eqcalc.data.plausibility import neighbour_findings
from eqcalc.data.readers import read_whole_frames
from eqcalc.data.summary import summarise
from eqcalc.errors import ConfigError, DataError
from eqcalc.neighbours import build_graph


@pytest.fixture
def frames() -> list[Atoms]:
    return ase.io.read(ETHANOL_FRAMES, index=":")


def test_a_summary_counts_frames_atoms_and_labels(frames):
    found = summarise(ETHANOL_FRAMES)
    n = len(frames)
    assert (found.n_frames, found.n_read, found.n_atoms) == (n, n, [9] * n)
    assert found.elements == {"H": 6 * n, "C": 2 * n, "O": n}
    assert found.compositions == {"C2H6O": n}
    assert found.periodic == {"in no direction": n}
    assert found.labels["energy"] == found.labels["forces"] == (n, n, [])
    assert "stress" not in found.labels
    assert (found.refused, found.odd, found.copies) == ([], [], [])


def test_units_of_a_summary_are_those_of_the_file():
    assert summarise(ETHANOL_FRAMES.with_suffix(".npz")).units == "kcal/mol, Angstrom"


def test_the_closest_pair_of_each_kind_is_that_of_all_distances(frames):
    closest = {pair.pair: pair for pair in summarise(ETHANOL_FRAMES).closest}
    symbols = np.array(frames[0].get_chemical_symbols())
    for one, other in (("H", "C"), ("C", "O"), ("H", "H"), ("C", "C")):
        among = [
            (float(d), k, *sorted((int(i), int(j))))
            for k, atoms in enumerate(frames)
            for i in np.flatnonzero(symbols == one)
            for j in np.flatnonzero(symbols == other)
            if i != j and (d := atoms.get_distance(i, j)) > 0
        ]
        distance, k, *atoms = min(among)
        found = closest[f"{one}-{other}"]
        assert found.distance == pytest.approx(distance, abs=1e-9)
        assert (found.frame, list(found.atoms)) == (f"frame {k} of {ETHANOL_FRAMES.name}", atoms)


def test_frames_without_a_label_are_counted_and_a_training_would_refuse_them(frames, tmp_path):
    frames[2] = without(frames[2], "energy", "free_energy")
    frames[4] = without(frames[4], "forces")
    found = summarise(write(tmp_path / "some.xyz", frames))
    n = len(frames)
    assert found.n_frames == n
    assert found.labels["energy"] == (n - 1, n, ["frame 2 of some.xyz"])
    bare = ["frame 4 of some.xyz", "frame 2 of some.xyz"]
    assert found.labels["forces"] == (n - 2, n, bare)
    assert any("no energy 'energy' in 1 of" in said for said in found.refused)
    assert any("needs forces in every frame; there are none in frame 4" in s for s in found.refused)


def test_what_can_be_read_is_in_the_order_that_was_asked_for(frames, tmp_path):
    frames[3] = without(frames[3], "energy", "free_energy")
    path = write(tmp_path / "some.xyz", frames)
    (tmp_path / "rows.csv").write_text("5\n3\n0\n4\n1\n")
    read = read_whole_frames(path, LabelRequest(), rows=str(tmp_path / "rows.csv"))
    assert (read.dataset.rows, read.unread) == ([5, 0, 4, 1], [(path, 3)])
    assert [frame.origin.row for frame in read.dataset.frames] == [5, 0, 4, 1]


def test_frames_that_cannot_be_read_are_named_by_their_number_in_their_own_file(frames, tmp_path):
    n, last = len(frames), without(frames[3], "energy", "free_energy")
    files = [
        write(tmp_path / "one.xyz", frames),
        write(tmp_path / "two.xyz", [last, *frames[1:3], last]),
    ]
    found = summarise(files)
    missing = ["frame 0 of two.xyz", "frame 3 of two.xyz"]
    assert found.labels["energy"] == (n + 2, n + 4, missing)


def test_files_of_which_no_frame_can_be_read_are_refused(frames, tmp_path):
    path = write(tmp_path / "no.xyz", [without(a, "energy", "free_energy") for a in frames])
    with pytest.raises(DataError, match="no energy 'energy' in"):
        summarise(path)


def test_copies_are_named_and_so_are_energies_that_disagree(frames, tmp_path):
    again = without(frames[1], "energy", "free_energy")
    again.calc.results["energy"] = frames[1].get_potential_energy() + 1.0
    found = summarise(write(tmp_path / "twice.xyz", [*frames, frames[0], again]))
    n = len(frames)
    assert found.copies == [
        ["frame 0 of twice.xyz", f"frame {n} of twice.xyz"],
        ["frame 1 of twice.xyz", f"frame {n + 1} of twice.xyz"],
    ]
    assert any(said.startswith("2 frames are copies of others") for said in found.odd)
    unlike = [said for said in found.odd if said.startswith("copies with different energies")]
    assert len(unlike) == 1
    assert "frame 1 of" in unlike[0]
    assert "frame 0 of" not in unlike[0]


def test_the_frame_of_an_outlier_is_named(frames, tmp_path):
    frames[3].calc.results["energy"] += 900.0
    found = summarise(write(tmp_path / "wild.xyz", frames))
    assert any("energies far from all others" in said for said in found.refused)
    highest = next(each for each in found.extremes if each.quantity == "highest energy")
    assert highest.frame == "frame 3 of wild.xyz"
    assert highest.value == pytest.approx(100.0, abs=0.5)


def test_isolated_atoms_are_counted_apart_and_unmarked_ones_are_odd(frames, tmp_path):
    marked, plain = Atoms("H", info={"config_type": "IsolatedAtom"}), Atoms("O")
    for atoms, energy in ((marked, -13.6), (plain, -2041.0)):
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((1, 3)))
    found = summarise(write(tmp_path / "alone.xyz", [marked, *frames, plain]))
    assert (found.isolated, found.isolated_atoms) == ([0], {"H": -13.6})
    assert found.n_read == len(frames) + 1
    alone = [said for said in found.odd if said.startswith("one atom alone in")]
    assert len(alone) == 1
    assert f"frame {len(frames) + 1} of alone.xyz" in alone[0]


def test_atoms_out_of_reach_and_atoms_in_one_place_are_found(frames, tmp_path):
    far, same = frames[0].copy(), frames[1].copy()
    far.positions[8] += 50.0
    same.positions[3] = same.positions[4]
    for atoms, old in ((far, frames[0]), (same, frames[1])):
        atoms.calc = SinglePointCalculator(atoms, **old.calc.results)
    found = summarise(write(tmp_path / "odd.xyz", [*frames, far, same]))
    n = len(frames)
    assert any(f"frame {n} of odd.xyz" in said and "no neighbour" in said for said in found.odd)
    assert any(said.startswith(f"frame {n + 1} of odd.xyz: ") for said in found.refused)


def test_contacts_that_are_counted_say_what_whole_graphs_say(frames):
    data = read_dataset(ETHANOL_FRAMES).frames
    found = neighbour_findings(data, [build_graph(f.atoms, 1.0) for f in data], 1.0)
    assert "no neighbour within the cutoff of 1 Å" in found.odd[0]
    assert found.odd[0] + "." in summarise(ETHANOL_FRAMES, cutoff=1.0).odd


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan")])
def test_a_cutoff_must_be_a_length(cutoff):
    with pytest.raises(ConfigError, match="cutoff must be a positive number"):
        summarise(ETHANOL_FRAMES, cutoff=cutoff)


def test_isolated_atoms_alone_are_refused(tmp_path):
    atoms = Atoms("H", info={"config_type": "IsolatedAtom"})
    atoms.calc = SinglePointCalculator(atoms, energy=-13.6)
    with pytest.raises(ConfigError, match="nothing but isolated atoms"):
        summarise(write(tmp_path / "h.xyz", [atoms]))


def test_a_picture_shows_stress_only_where_there_is_one():
    pytest.importorskip("matplotlib")
    flat = summarise(ETHANOL_FRAMES)
    # A file's name is no formula either.
    stressed = replace(flat, stresses=np.linspace(-1.0, 1.0, 6), source=r"$\x$")
    # Width and height in pixels stand behind the PNG's signature and the name of its header.
    sizes = [struct.unpack(">II", summary_picture(each)[16:24]) for each in (flat, stressed)]
    assert sizes[0][0] > 2 * sizes[0][1]  # three panels beside each other
    assert sizes[1][0] < 2 * sizes[1][1]  # two rows of two
