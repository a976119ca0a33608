"""Parts of a structure that no link joins."""

import numpy as np
import pytest

from eqcalc.simulate.connected import connected_parts


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_atoms_of_a_part_have_its_number(kind):
    parts = connected_parts(6, np.array([0, 4, 2], dtype=kind), np.array([2, 1, 5], dtype=kind))
    assert parts[0] == parts[2] == parts[5]
    assert parts[1] == parts[4]
    assert sorted(set(parts.tolist())) == [0, 1, 2]


def test_without_links_each_atom_is_a_part():
    none = np.zeros(0, dtype=np.int64)
    assert connected_parts(3, none, none).tolist() == [0, 1, 2]
