"""Frames that a model was trained on are known again, whatever happened to their file."""

from __future__ import annotations

import base64

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from hypothesis import given
from hypothesis import strategies as st
from small_models import ETHANOL_FRAMES, potential
from test_model_file import with_card

from eqcalc.errors import ModelFileError
from eqcalc.export import export_model
from eqcalc.model_file import open_model_file
from eqcalc.model_file.trained_frames import (
    MOST_FRAMES,
    require_trained_frames,
    trained_among,
    trained_frames,
)


def structures() -> list[Atoms]:
    """Return one of each kind: no, one, two and three periodic directions, 1 to 108 atoms."""
    chain = Atoms("C2", [[0.1, 0.2, 0.3], [1.3, 0.2, 0.4]], cell=[2.5, 0.0, 0.0], pbc=(1, 0, 0))
    skewed = bulk("ZnO", "wurtzite", a=3.25, c=5.2)
    skew = [[0.0, 0.0, 0.0], [3.1, 0.0, 0.0], [-1.7, 2.2, 0.0]]
    skewed.set_cell(np.add(skewed.cell.array, skew), scale_atoms=True)
    mirrored = bulk("NaCl", "rocksalt", a=5.6)
    mirrored.set_cell(mirrored.cell.array[[1, 0, 2]], scale_atoms=True)
    large = bulk("Cu", cubic=True) * 3
    kinds = [molecule("CH3CH2OH"), chain, fcc111("Al", (2, 2, 3), 6.0), skewed, mirrored, large]
    rng = np.random.default_rng(0)
    for atoms in kinds:
        atoms.positions += rng.normal(scale=0.1, size=(len(atoms), 3))
    return [*kinds, bulk("Si"), bulk("Fe")]


KEPT = trained_frames(structures())
NUMBERS = st.sampled_from(range(len(structures())))


@given(NUMBERS, st.integers(0, 2**32 - 1))
def test_a_copy_with_fewer_digits_and_atoms_in_other_cells_is_known(k, seed):
    atoms, rng = structures()[k], np.random.default_rng(seed)
    shifts = rng.integers(-2, 3, size=(len(atoms), 3)) * atoms.pbc
    atoms.positions += shifts @ atoms.cell.array
    if rng.random() < 0.5:
        atoms.positions = atoms.positions.astype(np.float32)
    else:
        atoms.positions, atoms.cell[:] = atoms.positions.round(5), atoms.cell.array.round(5)
    assert trained_among(KEPT, [atoms]) == [0]


@given(NUMBERS, st.integers(0, 2**32 - 1))
def test_what_differs_by_a_hundredth_is_another_frame(k, seed):
    atoms, rng = structures()[k], np.random.default_rng(seed)
    if len(atoms) > 1 and rng.random() < 0.7:
        step = rng.normal(size=3)
        atoms.positions[rng.integers(len(atoms))] += 0.01 * step / np.linalg.norm(step)
    else:
        axes = atoms.pbc if atoms.pbc.any() else np.ones(3, dtype=bool)
        factor = np.where(axes, 1.01, 1.0)
        atoms.set_cell(atoms.cell.array * factor, scale_atoms=False)
        atoms.positions *= factor
    assert trained_among(KEPT, [atoms]) == []


def test_other_atoms_in_the_same_places_are_another_frame():
    ethanol, salt = structures()[0], structures()[4]
    ethanol.numbers[0] = 7
    salt.pbc = (True, True, False)
    assert trained_among(KEPT, [ethanol, salt]) == []
    assert trained_among("", structures()) == []
    assert trained_among(KEPT, [Atoms(), Atoms("H")]) == []


def test_neighbouring_frames_of_a_trajectory_are_told_apart():
    """Two hundred thousand pairs of steps of 0.001 Å in the same box, none taken for another."""
    rng = np.random.default_rng(1)
    box = Atoms("OH2" * 8, rng.uniform(0, 6, size=(24, 3)), cell=[6.0] * 3, pbc=True)
    steps = np.cumsum(rng.normal(scale=0.001, size=(900, 24, 3)), axis=0)
    frames = [Atoms(box, positions=box.positions + step) for step in steps]
    assert trained_among(trained_frames(frames[::2]), frames) == list(range(0, 900, 2))


def test_frames_of_the_models_before_are_kept_and_none_twice():
    first, second = structures()[:3], structures()[2:]
    kept = trained_frames(second, trained_frames(first))
    assert kept == KEPT
    assert len(kept) == 32 * len(structures())
    assert trained_frames([], kept) == kept
    assert trained_frames([]) == ""


def test_of_too_many_frames_nothing_is_kept():
    frames = (Atoms("H2", [[0, 0, 0], [0, 0, 1.0 + 0.001 * k]]) for k in range(MOST_FRAMES + 1))
    assert trained_frames(frames) == ""


def test_card_keeps_frames_and_its_page_does_not_print_them(tmp_path):
    frames = ase.io.read(ETHANOL_FRAMES, index=":4")
    kept = trained_frames(frames)
    path = tmp_path / "model.pt"
    export_model(potential(), path, elements=["H", "C", "O"], trained_frames=kept)
    card = open_model_file(path).card
    assert trained_among(card.trained_frames, ase.io.read(ETHANOL_FRAMES, index=":")) == [
        0,
        1,
        2,
        3,
    ]
    assert kept not in card.to_markdown()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (4, "expected base64 of whole frames"),
        ("no base64!", "expected base64 of whole frames"),
        (KEPT[:-4], "expected base64 of whole frames"),
        (base64.b64encode(b"\xff" * 24).decode(), "expected finite numbers of at most 100000"),
        ("AAAA" * 8 * (MOST_FRAMES + 1), "expected finite numbers of at most 100000 .* 100001"),
    ],
)
def test_what_are_no_frames_is_refused(wrong, message, models, tmp_path):
    require_trained_frames(KEPT)
    require_trained_frames("")
    with pytest.raises(ValueError, match=message):
        require_trained_frames(wrong)
    path = with_card(models["double"], tmp_path / "model.pt", trained_frames=wrong)
    with pytest.raises(ModelFileError, match=message):
        open_model_file(path)
