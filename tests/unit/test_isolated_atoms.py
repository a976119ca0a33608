"""Potentials that promise it give an atom alone exactly its reference energy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from small_models import POTENTIALS, REFERENCE_ENERGIES, crystal, ethanol, small_options

from eqcalc import EqCalculator
from eqcalc.architectures import build
from eqcalc.engines import Target
from eqcalc.engines.packages import make_package
from eqcalc.export import export_model
from eqcalc.model_file import open_model_file
from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential

EV = {"float64": 1e-9, "float32": 5e-6}


def small(name: str, *, exact: bool) -> Potential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = build(name, **small_options(name))
    return Potential(network, REFERENCE_ENERGIES, scale=1.7, exact_isolated_atoms=exact)


@pytest.mark.parametrize("name", POTENTIALS)
def test_an_exported_model_gives_an_atom_alone_its_reference_energy(name, tmp_path):
    potential = small(name, exact=True).double().eval()
    expected = {
        case: potential.evaluate(build_graph(atoms, potential.cutoff))
        for case, atoms in (("ethanol", ethanol()), ("crystal", crystal()))
    }
    export_model(small(name, exact=True), tmp_path / "m.pt", elements=REFERENCE_ENERGIES)
    for dtype, allowed in EV.items():
        calculator = EqCalculator(tmp_path / "m.pt", device="cpu", dtype=dtype)
        for symbol, energy in REFERENCE_ENERGIES.items():
            far_apart = Atoms([symbol, symbol], [[0, 0, 0], [0, 0, 30.0]])
            assert calculator.get_potential_energy(Atoms(symbol)) == pytest.approx(
                energy, abs=allowed
            )
            assert calculator.get_potential_energy(far_apart) == pytest.approx(
                2 * energy, abs=2 * allowed
            )
    calculator = EqCalculator(tmp_path / "m.pt", device="cpu", dtype="float64")
    for case, atoms in (("ethanol", ethanol()), ("crystal", crystal())):
        found = calculator.calculate_many([atoms])[0]
        assert found["energy"] == pytest.approx(float(expected[case].energy), abs=1e-5)
        np.testing.assert_allclose(found["forces"], expected[case].forces.detach(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["schnet", "painn"])
def test_a_compiled_model_gives_an_atom_alone_its_reference_energy(name, tmp_path, monkeypatch):
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path / "cache"))
    exact = small(name, exact=True).eval()
    export_model(exact, tmp_path / "m.pt", elements=REFERENCE_ENERGIES)
    target = Target(torch.device("cpu"), torch.float32)
    make_package([open_model_file(tmp_path / "m.pt")], target)
    calculator = EqCalculator(tmp_path / "m.pt", engine="inductor")
    for symbol, energy in REFERENCE_ENERGIES.items():
        found = calculator.calculate_many([Atoms(symbol)])[0]["energy"]
        assert found == pytest.approx(energy, abs=EV["float32"])
    found = calculator.calculate_many([ethanol()])[0]
    expected = exact.double().evaluate(build_graph(ethanol(), exact.cutoff))
    assert found["energy"] == pytest.approx(float(expected.energy), abs=2e-5)
    np.testing.assert_allclose(found["forces"], expected.forces.detach(), atol=2e-4)


def test_without_the_promise_the_network_has_its_say():
    """What the others rest on: this network does give an atom alone an energy."""
    potential = small("painn", exact=False).double().eval()
    found = potential.evaluate(build_graph(Atoms("C"), potential.cutoff))
    assert abs(float(found.energy) - REFERENCE_ENERGIES["C"]) > 1e-3


def test_forces_are_those_without_the_promise():
    graph = build_graph(ethanol(), small("painn", exact=True).cutoff)
    found, expected = (
        small("painn", exact=exact).double().eval().evaluate(graph).forces
        for exact in (True, False)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_state_that_is_loaded_keeps_the_promise():
    empty = Potential(build("painn", **small_options("painn")), exact_isolated_atoms=True)
    empty.load_state_dict(small("painn", exact=True).state_dict())
    found = empty.double().eval().evaluate(build_graph(Atoms("O"), empty.cutoff))
    assert float(found.energy) == pytest.approx(REFERENCE_ENERGIES["O"], abs=1e-9)


def test_own_energies_are_trained_with_the_rest():
    potential = small("schnet", exact=True).double().train()
    energies, _ = potential(build_graph(Atoms("CO", [[0, 0, 0], [1.2, 0, 0]]), potential.cutoff))
    energies.sum().backward()
    assert all(p.grad is not None for p in potential.parameters())
