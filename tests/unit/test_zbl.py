"""The repulsion of nuclei, alone and below a network."""

from __future__ import annotations

import math

import pytest
import torch
from ase import Atoms
from rarely import rarely

from eqcalc import EqCalculator
from eqcalc.architectures import PaiNN
from eqcalc.errors import ConfigError
from eqcalc.export import export_model
from eqcalc.export.rebuild import rebuild_potential
from eqcalc.model_file import open_model_file
from eqcalc.neighbours import build_graph
from eqcalc.nn.zbl import COULOMB, ZBL
from eqcalc.potential import Potential
from eqcalc.testing import check_contract


def network() -> PaiNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PaiNN(8, 2, 6, 4.0, 1, True, False)


def by_formula(z_i: int, z_j: int, d: float, cutoff: float) -> float:
    """Return the energy of a pair, written out once more."""
    x = d * (z_i**0.23 + z_j**0.23) / 0.46850
    phi = sum(
        weight * math.exp(-decay * x)
        for weight, decay in (
            (0.18175, 3.19980),
            (0.50986, 0.94229),
            (0.28022, 0.40290),
            (0.02817, 0.20162),
        )
    )
    r = d / cutoff
    envelope = 1 - 28 * r**6 + 48 * r**7 - 21 * r**8
    return COULOMB * z_i * z_j / d * phi * envelope


@pytest.mark.parametrize(("pair", "d"), [("SiSi", 0.5), ("HO", 0.9), ("UU", 1.9), ("CO", 0.01)])
def test_a_pair_has_the_energy_of_the_formula_shared_by_its_atoms(pair, d):
    atoms = Atoms(pair, [[0.0, 0.0, 0.0], [0.0, 0.0, d]])
    energies = ZBL(2.0)(build_graph(atoms, 2.0))
    expected = by_formula(*atoms.numbers, d, 2.0)
    torch.testing.assert_close(
        energies, torch.tensor([expected / 2] * 2, dtype=torch.float64), rtol=1e-10, atol=0
    )


def test_each_pair_of_elements_has_its_own_cutoff():
    zbl = ZBL(2.0, elements=["H", "O"], pair_cutoffs=[[0.7, 1.5], [1.5, 2.0]])
    for pair, cutoff in {"HH": 0.7, "HO": 1.5, "OO": 2.0, "CO": 2.0}.items():
        atoms = Atoms(pair, [[0.0, 0.0, 0.0], [0.0, 0.0, 0.6]])
        expected = by_formula(*atoms.numbers, 0.6, cutoff)
        assert float(zbl(build_graph(atoms, 2.0)).sum()) == pytest.approx(expected, rel=1e-10)
    assert ZBL(**zbl.config()).config() == zbl.config()


@pytest.mark.parametrize("own_cutoffs", [rarely(False), True])
def test_a_potential_with_it_obeys_the_contract(own_cutoffs):
    rows = {"elements": ["H", "C"], "pair_cutoffs": [[1.4, 1.7], [1.6, 2.0]]} if own_cutoffs else {}
    check_contract(Potential(network(), {"H": 0.0, "C": 0.0, "O": 0.0}, zbl=ZBL(2.0, **rows)))


def test_a_model_file_has_it_on_its_card_and_is_rebuilt_with_it(tmp_path):
    zbl = ZBL(2.0, elements=["H", "O"], pair_cutoffs=[[0.7, 1.5], [1.5, 2.0]])
    potential = Potential(network(), {"H": -13.6, "O": -2041.0}, zbl=zbl)
    card = export_model(potential, tmp_path / "model.pt", elements=["H", "O"])
    assert card.zbl == zbl.config()
    assert "ZBL within 0.70 to 2.00 Å, by elements" in card.to_markdown()
    rebuilt = rebuild_potential(open_model_file(tmp_path / "model.pt"))
    assert rebuilt.zbl is not None
    near = Atoms("HO", [[0.0, 0.0, 0.0], [0.0, 0.0, 0.4]])
    near.calc = EqCalculator(tmp_path / "model.pt", dtype="float64", engine="torchscript")
    expected = potential.double().evaluate(build_graph(near, potential.cutoff)).energy.detach()
    assert near.get_potential_energy() == pytest.approx(expected.item(), abs=1e-9)


def test_a_model_without_it_says_nothing_of_it(tmp_path):
    card = export_model(Potential(network()), tmp_path / "model.pt", elements=["H"])
    assert card.zbl == {}
    assert "ZBL" not in card.to_markdown()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoff": 0.0}, "cutoff must be a positive number"),
        ({"cutoff": 2.0, "p": 2}, "p must be an integer >= 3, found 2"),
        ({"cutoff": 2.0, "coulomb": -1.0}, "coulomb must be a positive number"),
        ({"cutoff": 2.0, "elements": ["H"]}, "elements and pair_cutoffs of ZBL are given together"),
        (
            {"cutoff": 2.0, "elements": ["H", "O"], "pair_cutoffs": [[1.0, 1.0]]},
            "pair_cutoffs must be 2 rows of 2 numbers",
        ),
        (
            {"cutoff": 2.0, "elements": ["H"], "pair_cutoffs": [[2.5]]},
            "pair_cutoffs must be above 0 and at most cutoff = 2 Å, found 2.5 for H",
        ),
    ],
)
def test_numbers_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ZBL(**options)


def test_a_repulsion_that_reaches_farther_than_the_network_is_refused():
    with pytest.raises(ConfigError, match=r"cutoff of ZBL must be at most that of PaiNN, 4 Å"):
        Potential(network(), zbl=ZBL(4.5))
