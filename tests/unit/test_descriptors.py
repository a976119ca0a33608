"""Descriptors of atoms: invariant, local, and what the energy is read out of."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation
from small_models import (
    POTENTIALS,
    REFERENCE_ENERGIES,
    crystal,
    ethanol,
    export_small,
    small_options,
)
from torch import Tensor, nn

from eqcalc import EqCalculator, architectures
from eqcalc.architectures import nequip
from eqcalc.errors import (
    ConfigError,
    GraphError,
    ModelFileError,
    NonFiniteError,
    UnsupportedElementError,
)
from eqcalc.export import export_model, rebuild_potential
from eqcalc.export.descriptors import DescriptorNetwork, readouts_of
from eqcalc.model_file import open_potential
from eqcalc.potential import Potential

TURN = Rotation.from_euler("xyz", [0.3, -1.1, 2.0]).as_matrix()
WIDTHS = {"dimenet": 3 * 16, "dimenetpp": 3 * 16}  # three output blocks; of all others 16


@pytest.fixture(scope="module")
def calculators(tmp_path_factory):
    """Return a function name of an architecture -> its calculator, in float64."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def calculator(name: str) -> EqCalculator:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = architectures.build(name, **small_options(name)).to(torch.float64)
        path = folder / f"{name}.pt"
        export_model(
            Potential(network, REFERENCE_ENERGIES, scale=1.5), path, elements=REFERENCE_ENERGIES
        )
        return EqCalculator(path, device="cpu")

    return calculator


def turned(atoms: Atoms, matrix: np.ndarray) -> Atoms:
    return Atoms(
        atoms.numbers, atoms.positions @ matrix.T, cell=atoms.cell @ matrix.T, pbc=atoms.pbc
    )


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("make", [ethanol, crystal])
@pytest.mark.parametrize("name", POTENTIALS)
def test_descriptors_are_invariant(name, make, calculators):
    get = calculators(name).get_descriptors
    atoms = make()
    expected = get(atoms)
    assert expected.shape == (len(atoms), WIDTHS.get(name, expected.shape[1]))
    assert expected.dtype == np.float64
    close(get(turned(atoms, TURN)), expected)
    moved = atoms.copy()
    moved.positions += [0.7, -3.1, 12.0]
    close(get(moved), expected)
    order = np.random.default_rng(0).permutation(len(atoms))
    close(get(atoms[order]), expected[order])
    close(get(turned(atoms, -TURN)), expected)  # none of these gives up mirror images


@pytest.mark.parametrize("name", POTENTIALS)
def test_descriptors_tell_environments_apart(name, calculators):
    get = calculators(name).get_descriptors
    atoms = ethanol()
    expected = get(atoms)
    hydrogens = expected[atoms.numbers == 1]
    assert np.ptp(hydrogens, axis=0).max() > 1e-4 * np.abs(expected).max()
    atoms.positions[0, 0] += 0.1
    assert np.abs(get(atoms) - expected).max() > 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", POTENTIALS)
def test_energies_are_read_out_of_the_descriptors(name, calculators):
    calculator, atoms = calculators(name), crystal()
    rows = torch.from_numpy(calculator.get_descriptors(atoms))
    network = rebuild_potential(open_potential(calculator.models[0].file.path)).architecture
    modules = readouts_of(network, name).values()
    width = rows.shape[1] // len(modules)
    energies = torch.zeros(len(atoms), dtype=torch.float64)
    for module, part in zip(modules, rows.split(width, dim=1), strict=True):
        energies += module(part).sum(dim=1)
    own = np.array([REFERENCE_ENERGIES[symbol] for symbol in atoms.symbols])
    expected = calculator.get_property("energies", atoms) - own
    np.testing.assert_allclose(1.5 * energies.detach().numpy(), expected, atol=1e-8)


def test_images_of_a_supercell_have_the_same_descriptors(calculators):
    get = calculators("painn").get_descriptors
    close(get(crystal().repeat((2, 1, 1))), np.tile(get(crystal()), (2, 1)))


def test_without_parity_mirror_images_have_other_descriptors(tmp_path):
    # The third layer is the first that can make a scalar with a sign of three directions.
    options = small_options("nequip") | {"parity": False, "mirror_symmetric": False}
    options["num_layers"] = 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nequip.NequIP(**options).to(torch.float64)
    path = tmp_path / "handed.pt"
    export_model(Potential(network, REFERENCE_ENERGIES), path, elements=REFERENCE_ENERGIES)
    get = EqCalculator(path, device="cpu").get_descriptors
    expected = get(crystal())
    close(get(turned(crystal(), TURN)), expected)
    assert np.abs(get(turned(crystal(), -TURN)) - expected).max() > 1e-7 * np.abs(expected).max()


def test_descriptors_leave_atoms_and_results_as_they_are(models):
    calculator, atoms = EqCalculator(models["double"], device="cpu"), ethanol()
    atoms.calc = calculator
    atoms.get_forces()
    kept, results = atoms.copy(), calculator.results
    first = calculator.get_descriptors(crystal())
    with torch.inference_mode():
        np.testing.assert_array_equal(calculator.get_descriptors(crystal()), first)
    assert atoms == kept
    assert calculator.results is results


def test_a_network_that_is_rebuilt_draws_none_of_the_callers_random_numbers(models):
    state = torch.get_rng_state()
    EqCalculator(models["double"], device="cpu").get_descriptors(ethanol())
    assert torch.equal(torch.get_rng_state(), state)


def test_precision_is_that_of_the_calculator(models):
    double = EqCalculator(models["single"], device="cpu", dtype="float64").get_descriptors(
        ethanol()
    )
    single = EqCalculator(models["single"], device="cpu").get_descriptors(ethanol())
    error = np.abs(single - double).max() / np.abs(double).max()
    assert 0.0 < error < 1e-5
    np.testing.assert_array_equal(single, single.astype(np.float32))


def test_an_atom_alone_has_descriptors(models):
    found = EqCalculator(models["double"], device="cpu").get_descriptors(Atoms("C"))
    assert found.shape == (1, 16)


def test_a_committee_has_no_descriptors(models):
    calculator = EqCalculator([models["double"], models["other"]], device="cpu")
    with pytest.raises(ConfigError, match=r"those of its 2 members have nothing in common"):
        calculator.get_descriptors(ethanol())


def test_what_is_no_structure_is_refused(models):
    calculator = EqCalculator(models["double"], device="cpu")
    with pytest.raises(ConfigError, match=r"get_descriptors expects ase\.Atoms, found list"):
        calculator.get_descriptors([ethanol()])
    with pytest.raises(GraphError, match="the structure has zero atoms"):
        calculator.get_descriptors(Atoms())
    with pytest.raises(UnsupportedElementError, match="model 'double' does not know N"):
        calculator.get_descriptors(Atoms("N"))


def test_descriptors_that_are_not_finite_are_refused(models):
    calculator = EqCalculator(models["double"], device="cpu")
    calculator._descriptors._network = lambda graph: torch.full((len(graph[0]), 4), torch.nan)
    with pytest.raises(NonFiniteError, match="NaN or infinity among the descriptors of these 9"):
        calculator.get_descriptors(ethanol())


@dataclass(frozen=True)
class Config:
    """Options of :class:`Counting`."""

    cutoff: float = 4.0


class Counting(nn.Module):
    """Energies of elements alone."""

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.config = Config(cutoff)
        self.cutoff, self.n_hops = float(cutoff), 1
        self.embedding = nn.Embedding(119, 4)
        self.read = nn.Linear(4, 1)
        self.of_edges = nn.Linear(3, 1)

    def atomic_energies(self, graph) -> Tensor:
        """Return energies (n_atoms,)."""
        nothing = 0.0 * self.of_edges(graph.edge_vectors).sum()
        return self.read(self.embedding(graph.atomic_numbers)).squeeze(1) + nothing


def test_a_network_that_does_not_say_where_they_are_is_refused():
    with pytest.raises(ConfigError, match=r"'counting' has no descriptors: .* readout_modules = "):
        readouts_of(Counting(4.0), "counting")


def test_a_readout_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(Counting, "readout_modules", ("reed",), raising=False)
    with pytest.raises(ConfigError, match=r"names 'reed', .* it has embedding, read, of_edges"):
        readouts_of(Counting(4.0), "counting")


def test_a_readout_of_edges_is_refused(monkeypatch, models):
    monkeypatch.setattr(Counting, "readout_modules", ("of_edges",), raising=False)
    potential = Potential(Counting(4.0).double(), REFERENCE_ENERGIES)
    monkeypatch.setattr("eqcalc.export.descriptors.rebuild_potential", lambda file: potential)
    calculator = EqCalculator(models["double"], device="cpu")
    network = DescriptorNetwork(calculator.models[0].file, torch.float64, torch.device("cpu"))
    calculator._descriptors._network = network
    with pytest.raises(ConfigError, match=r"a row for each of 9 atoms, found the shape \(\d+, 3\)"):
        calculator.get_descriptors(ethanol())


def test_a_network_of_a_users_own_has_to_be_registered(monkeypatch, tmp_path):
    path = export_small(tmp_path / "own.pt")
    calculator = EqCalculator(path, device="cpu")
    hidden = [name for name in architectures._shipped() if name != "painn"]
    monkeypatch.setattr(architectures, "_shipped", lambda: hidden)
    with pytest.raises(ModelFileError, match=r"cannot be rebuilt .*\.register in a script"):
        calculator.get_descriptors(ethanol())


def test_networks_are_imported_when_descriptors_are_asked_for(models):
    code = (
        "import sys; from eqcalc import EqCalculator; from ase.build import molecule\n"
        f"a = molecule('H2O'); a.calc = c = EqCalculator({str(models['double'])!r}, device='cpu')\n"
        "a.get_forces(); assert 'eqcalc.architectures' not in sys.modules\n"
        "c.get_descriptors(a); assert 'eqcalc.architectures' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "scope",
    [lambda: torch.autocast("cpu", dtype=torch.bfloat16), lambda: torch.device("meta")],
    ids=["autocast", "default device"],
)
def test_the_first_descriptors_are_those_of_any_time(scope, models):
    expected = EqCalculator(models["single"], device="cpu").get_descriptors(ethanol())
    calculator = EqCalculator(models["single"], device="cpu")
    with scope():
        found = calculator.get_descriptors(ethanol())
    np.testing.assert_array_equal(found, expected)
