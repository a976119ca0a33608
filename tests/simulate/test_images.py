"""Images that share a calculator, against ASE's NEB with one calculator per image."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor, TimeoutError

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.mep import NEB
from ase.optimize import BFGS
from small_models import crystal, ethanol, slab, water

from eqcalc import EqCalculator
from eqcalc.engines import Model
from eqcalc.errors import ConfigError, GraphError
from eqcalc.simulate import share_calculator


@pytest.fixture
def calculator(models) -> EqCalculator:
    return EqCalculator(models["double"], device="cpu")


class Counted:
    """A model that counts the structures and the calls."""

    def __init__(self, model: Model) -> None:
        self.model, self.card, self.device, self.n_calls = model, model.card, model.device, 0

    def __call__(self, graph):
        self.n_calls += 1
        return self.model(graph)

    def using_threads(self, n_atoms):
        return self.model.using_threads(n_atoms)


def count_calls(calculator: EqCalculator) -> Counted:
    counted = Counted(calculator.models[0])
    calculator.models = [counted]
    return counted


def images(make=ethanol, n_inside: int = 3) -> list[Atoms]:
    """Return a band between a structure and a rattled copy of it."""
    first, last = make(), make()
    last.rattle(0.1, seed=2)
    found = [first, *(first.copy() for _ in range(n_inside)), last]
    NEB(found, method="improvedtangent").interpolate()
    return found


@pytest.mark.parametrize("make", [ethanol, slab])
@pytest.mark.parametrize(
    ("method", "climb"),
    [
        ("aseneb", True),
        ("improvedtangent", False),
        ("improvedtangent", True),
        ("eb", False),
        ("string", False),
        ("spline", False),
    ],
)
def test_a_band_has_the_forces_of_one_calculator_per_image(make, method, climb, models, calculator):
    alone, together = images(make), images(make)
    for image in alone:
        image.calc = EqCalculator(models["double"], device="cpu")
    share_calculator(together, calculator)
    bands = [NEB(band, method=method, climb=climb) for band in (alone, together)]
    expected, found = (band.get_forces() for band in bands)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(bands[1].energies[1:-1], bands[0].energies[1:-1], rtol=1e-13)
    assert np.abs(expected).max() > 1e-2


def test_a_relaxed_band_is_the_same_and_takes_one_call_per_step(models, calculator):
    alone, together = images(), images()
    own = []
    for image in alone:
        image.calc = EqCalculator(models["double"], device="cpu")
        own.append(count_calls(image.calc))
    share_calculator(together, calculator)
    counted = count_calls(calculator)
    for band in (alone, together):
        optimizer = BFGS(NEB(band, method="improvedtangent"), logfile=None)
        optimizer.run(fmax=0.0, steps=4)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other.positions, one.positions, atol=1e-9)
    assert counted.n_calls == 5  # the start and four steps
    assert sum(each.n_calls for each in own) == 2 + 3 * 5


def test_images_that_stay_are_not_evaluated_again(calculator):
    band = images()
    share_calculator(band, calculator)
    counted = count_calls(calculator)
    sizes = []
    many = calculator.calculate_many
    calculator.calculate_many = lambda atoms, **options: (
        sizes.append(len(atoms)) or many(atoms, **options)
    )
    band[0].get_forces()
    for image in band:
        image.get_potential_energy()
    band[1].positions[0, 0] += 0.01
    band[3].positions[0, 0] += 0.01
    for image in band:
        image.get_forces()
    assert sizes == [5, 2]
    assert counted.n_calls == 2


def test_an_image_with_another_calculator_is_left_out(calculator):
    band = images()
    share_calculator(band, calculator)
    band[0].calc = SinglePointCalculator(band[0], energy=-1.0)
    asked = []
    many = calculator.calculate_many
    calculator.calculate_many = lambda atoms, **options: (
        asked.append(options["names"]) or many(atoms, **options)
    )
    band[2].get_forces()
    assert asked == [["image 1", "image 2", "image 3", "image 4"]]
    assert band[0].get_potential_energy() == -1.0


def test_the_calculator_of_an_image_serves_another_structure_too(calculator, models):
    band = images()
    share_calculator(band, calculator)
    forces = band[1].get_forces()
    expected = EqCalculator(models["double"], device="cpu").get_forces(water())
    np.testing.assert_allclose(band[1].calc.get_forces(water()), expected, atol=1e-12)
    np.testing.assert_allclose(band[1].get_forces(), forces, atol=1e-12)


def test_stress_comes_where_it_is_defined(calculator, models):
    mixed = [crystal(), ethanol(), slab()]
    share_calculator(mixed, calculator)
    expected = EqCalculator(models["double"], device="cpu").get_stress(crystal())
    np.testing.assert_allclose(mixed[0].get_stress(), expected, atol=1e-13)
    for atoms in mixed[1:]:
        with pytest.raises(PropertyNotImplementedError, match="stress not present"):
            atoms.get_stress()


def test_constraints_of_an_image_hold(calculator):
    band = images()
    for image in band:
        image.set_constraint(FixAtoms([0]))
    share_calculator(band, calculator)
    np.testing.assert_array_equal(band[1].get_forces()[0], 0.0)
    assert np.abs(band[1].get_forces(apply_constraint=False)[0]).max() > 1e-3


def test_the_globally_shared_results_of_the_calculator_stay(calculator):
    other = crystal()
    other.calc = calculator
    energy = other.get_potential_energy()
    counted = count_calls(calculator)
    band = images()
    share_calculator(band, calculator)
    band[0].get_forces()
    assert other.get_potential_energy() == energy
    assert counted.n_calls == 1


def test_a_band_is_copied_pickled_and_written(calculator, tmp_path):
    band = images()
    share_calculator(band, calculator)
    forces = band[1].get_forces()
    for twin in (copy.deepcopy(band), pickle.loads(pickle.dumps(band))):
        np.testing.assert_allclose(twin[1].get_forces(), forces, atol=1e-12)
        twin[1].positions[0, 0] += 0.1
        assert np.abs(twin[1].get_forces() - forces).max() > 1e-3
    ase.io.write(tmp_path / "band.traj", band)
    back = ase.io.read(tmp_path / "band.traj", index=1)
    np.testing.assert_allclose(back.get_forces(), forces, atol=1e-12)


def test_a_committee_gives_spreads_for_each_image(models):
    committee = EqCalculator([models["double"], models["other"]], device="cpu")
    band = images()
    share_calculator(band, committee)
    band[2].get_forces()
    assert band[3].calc.results["energy_spread"] > 0
    assert "energy_spread" not in band[3].calc.export_properties()


def test_a_bad_image_is_named_and_no_old_result_is_returned(calculator):
    band = images()
    share_calculator(band, calculator)
    band[0].get_forces()
    good = band[3].positions.copy()
    band[2].positions[0, 0] += 0.01
    band[3].positions[4, 1] = np.nan
    for _ in range(2):
        with pytest.raises(GraphError, match=r"^image 3: positions must be finite"):
            band[3].get_forces()
        assert band[3].calc.results == band[2].calc.results == {}
    band[3].positions = good
    assert np.isfinite(band[2].get_forces()).all()


def test_an_image_that_its_thread_moves_meanwhile_has_no_results_of_before(
    calculator, models, monkeypatch
):
    band = images()
    share_calculator(band, calculator)
    evaluate = calculator.calculate_many

    def evaluate_and_move(structures, **options):
        found = evaluate(structures, **options)
        band[1].rattle(0.1, seed=3)
        return found

    monkeypatch.setattr(calculator, "calculate_many", evaluate_and_move)
    band[0].get_forces()
    monkeypatch.undo()
    expected = EqCalculator(models["double"], device="cpu").get_forces(band[1])
    np.testing.assert_allclose(band[1].get_forces(), expected, atol=1e-11)


def test_an_image_waits_for_the_thread_of_another(calculator):
    """Each evaluates both: what one of them reads, the other would be writing."""
    band = images()
    share_calculator(band, calculator)
    band[0].get_forces()
    with ThreadPoolExecutor(1) as pool:
        with calculator._lock:
            asked = pool.submit(band[0].get_forces)
            with pytest.raises(TimeoutError):
                asked.result(timeout=0.3)
        assert asked.result(timeout=600).shape == (9, 3)


def test_the_same_structure_twice_is_refused(calculator):
    atoms = ethanol()
    with pytest.raises(ConfigError, match="images 0, 2 are the same structure"):
        share_calculator([atoms, ethanol(), atoms], calculator)
    assert atoms.calc is None
