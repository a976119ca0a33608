"""What training data held of pairs, distances and neighbours, and what lies outside of it."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from small_models import ETHANOL_FRAMES, potential
from test_model_file import with_card

from eqcalc.errors import ConfigError, ModelFileError
from eqcalc.export import export_model
from eqcalc.model_file import open_model_file
from eqcalc.model_file.seen import SeenRanges, require_seen, seen_in
from eqcalc.neighbours import build_graph

CUTOFF = 4.0


@pytest.fixture(scope="module")
def frames() -> list[Atoms]:
    return ase.io.read(ETHANOL_FRAMES, ":")


def finding(ranges: SeenRanges, atoms: Atoms):
    graph = build_graph(atoms, CUTOFF)
    senders, receivers = graph.edge_index.numpy()
    distances = np.linalg.norm(graph.edge_vectors.numpy(), axis=1)
    return ranges.outside(atoms.numbers, senders, receivers, distances)


def test_every_frame_of_the_data_was_seen(frames):
    ranges = SeenRanges(seen_in(frames, CUTOFF), CUTOFF)
    assert [finding(ranges, atoms) for atoms in frames] == [None] * len(frames)


def test_pairs_distances_and_neighbours_are_those_of_the_frames(frames):
    seen = seen_in(frames, CUTOFF)
    assert set(seen["distances"]) == {"H-H", "H-C", "H-O", "C-C", "C-O"}
    bonds = [atoms.get_distance(0, 1) for atoms in frames if set(atoms.numbers[:2]) == {6}]
    begin, end = seen["distances"]["C-C"][0][0], seen["distances"]["C-C"][-1][1]
    assert begin <= min(bonds) <= max(bonds) <= end
    # A molecule's pairs have a gap between bonds and the rest.
    assert len(seen["distances"]["H-C"]) >= 2
    assert set(seen["neighbours"]) == {"H", "C", "O"}
    low, high = seen["neighbours"]["C"]
    assert 0 < low <= high <= 8


def test_bond_that_breaks_is_outside(frames):
    ranges = SeenRanges(seen_in(frames, CUTOFF), CUTOFF)
    atoms = frames[0].copy()
    h, bonded = next(
        (int(k), int(np.argsort(atoms.get_distances(k, range(9)))[1]))
        for k in atoms.symbols.search("H")
    )
    atoms.set_distance(bonded, h, 1.5, fix=0)
    text, atoms_named = finding(ranges, atoms)
    assert "in the training data" in text
    assert " Å " in text
    assert h in atoms_named or bonded in atoms_named


def test_distances_beside_those_seen_are_not_outside():
    seen = seen_in([Atoms("N2", [[0, 0, 0], [0, 0, 1.12]])], CUTOFF)
    ranges = SeenRanges(seen, CUTOFF)
    near, far = (Atoms("N2", [[0, 0, 0], [0, 0, d]]) for d in (1.21, 1.31))
    assert finding(ranges, near) is None
    assert finding(ranges, far) == ("no N-N at 1.31 Å in the training data", [1, 0])


def test_more_neighbours_than_ever_are_outside():
    copper = bulk("Cu", cubic=True) * 3
    seen = seen_in([copper], CUTOFF)
    ranges = SeenRanges(seen, CUTOFF)
    assert finding(ranges, copper) is None
    surface = copper.copy()
    surface.pbc = (True, True, False)
    text, _ = finding(ranges, surface)
    assert text == "no Cu with 13 neighbours within 4 Å in the training data"  # 18 inside


def test_element_and_pair_that_were_not_there_are_outside():
    ranges = SeenRanges(seen_in([molecule("H2"), molecule("O2")], CUTOFF), CUTOFF)
    assert finding(ranges, molecule("N2")) == ("no N in the training data", [0])
    text, _ = finding(ranges, molecule("H2O"))
    assert text.startswith("no H-O at 0.9") or text.startswith("no O-H at 0.9")


def test_card_keeps_what_was_seen_and_says_it(frames, tmp_path):
    path = tmp_path / "model.pt"
    seen = seen_in(frames, CUTOFF)
    export_model(potential(), path, elements=["H", "C", "O"], seen=seen)
    card = open_model_file(path).card
    assert card.seen == seen
    assert "5 pairs of elements; closest H-H " in card.to_markdown()
    plain = export_model(potential(), tmp_path / "plain.pt", elements=["H", "C", "O"])
    assert "distances and numbers of neighbours are not recorded" in plain.to_markdown()


GOOD = {"distances": {"H-O": [[0.9, 1.1]]}, "neighbours": {"H": [1, 2]}}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"distances": {}}, "expected tables 'distances' and 'neighbours'"),
        ({**GOOD, "distances": []}, "expected tables of pairs and of elements"),
        ({**GOOD, "distances": {"H2O": []}}, "expected a pair such as 'C-H', found 'H2O'"),
        ({**GOOD, "distances": {"H-O": [[1.1, 0.9]]}}, "H-O are no list of intervals in Å"),
        ({**GOOD, "distances": {"H-O": [[0.9, 1e9]]}}, "H-O are no list of intervals in Å"),
        ({**GOOD, "neighbours": {"H": [2, 1]}}, "neighbours of 'H' are no two numbers"),
        ({**GOOD, "neighbours": {"Xx": [1, 2]}}, "neighbours of 'Xx' are no two numbers"),
    ],
)
def test_what_is_no_record_is_refused(wrong, message):
    require_seen(GOOD)
    require_seen({})
    with pytest.raises(ValueError, match=message):
        require_seen(wrong)


def test_file_whose_card_has_no_proper_record_is_refused(models, tmp_path):
    path = with_card(models["double"], tmp_path / "model.pt", seen={"distances": {}})
    with pytest.raises(ModelFileError, match="expected tables 'distances' and 'neighbours'"):
        open_model_file(path)


def test_a_file_that_could_not_be_read_is_not_written(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(ConfigError, match=r"cannot hold .*: seen: expected tables 'distances'"):
        export_model(potential(), path, elements=["H", "C", "O"], seen={"distances": {}})
    assert not list(tmp_path.iterdir())
