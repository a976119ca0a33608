"""The spread of a committee beside its errors, and their picture."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.stats import t as student
from small_models import crystal, ethanol

from eqcalc import EqCalculator
from eqcalc.data.frames import LabelledFrame
from eqcalc.engines import load_model
from eqcalc.errors import ConfigError
from eqcalc.evaluation import Calibration, evaluate, evaluate_committee
from eqcalc.evaluation.calibration import _calibration
from eqcalc.evaluation.comparison import Quantity
from eqcalc.evaluation.plots import _calibration_panel, calibration_plot


def drawn(n_members: int, n: int = 20_000, *, factor: float = 1.0, seed: int = 0) -> Calibration:
    """Return components whose error has a width of its own, of which the members are a sample.

    factor : by which the members are nearer to each other than that
    """
    generator = np.random.default_rng(seed)
    width = np.exp(generator.normal(scale=1.0, size=n))
    members = width * generator.normal(size=(n_members, n)) / factor
    error = width * generator.normal(size=n)
    spread = members.std(axis=0, ddof=1)
    return Calibration("forces", "eV/Å", spread, error, n_members)


@pytest.mark.parametrize("n_members", [2, 3, 8])
def test_a_calibrated_spread_has_the_scale_one_and_the_shares_of_student(n_members):
    found = drawn(n_members)
    assert found.scale == pytest.approx(1.0, rel=0.05)
    for n in (1, 2):
        expected = 2 * student.cdf(n, n_members - 1) - 1
        assert found.expected_share(n) == pytest.approx(expected)
        assert found.share_within(n) == pytest.approx(expected, abs=0.015)
    assert 0.1 < found.rank_correlation < 1


@pytest.mark.parametrize("n_members", [2, 4])
def test_the_scale_is_the_factor_by_which_members_are_too_near(n_members):
    found = drawn(n_members, factor=3.0)
    assert found.scale == pytest.approx(3.0, rel=0.05)
    assert found.share_within(1) < 0.75 * found.expected_share(1)
    assert found.share_within(1, scaled=True) == pytest.approx(found.expected_share(1), abs=0.015)


def test_the_scale_is_where_the_likelihood_is_largest():
    found = drawn(3, n=200)
    z = found.error / found.spread

    def likelihood(scale: float) -> float:
        return float((student.logpdf(z / scale, 2) - math.log(scale)).sum())

    around = [likelihood(found.scale * factor) for factor in (0.99, 1.01)]
    assert likelihood(found.scale) > max(around)


def test_bins_hold_every_component_with_a_spread_by_rising_spread():
    found = drawn(4, n=1003)
    spread = found.spread.copy()
    spread[:3] = 0.0
    found = Calibration("forces", "eV/Å", spread, found.error, 4)
    bins = found.bins()
    assert (found.n_without_spread, sum(each.n for each in bins), len(bins)) == (3, 1000, 16)
    assert np.all(np.diff([each.spread for each in bins]) > 0)
    total = sum(each.n * each.error**2 for each in bins)
    assert total == pytest.approx(np.square(found.error[3:]).sum())


def test_members_from_which_the_truth_is_as_far_as_they_from_each_other():
    generator = np.random.default_rng(1)
    drawn = generator.normal(size=(5, 20_000))
    members, truth = drawn[1:], drawn[0]
    error = members.mean(axis=0) - truth
    found = Calibration("forces", "eV/Å", members.std(axis=0, ddof=1), error, 4)
    assert found.scale == pytest.approx(math.sqrt(1 + 1 / 4), rel=0.02)


def test_components_without_a_spread_say_nothing():
    real = drawn(3, n=500)
    noise = 1e-7 * np.abs(np.random.default_rng(2).normal(size=(2, 500)))
    both = Calibration(
        "forces",
        "eV/Å",
        np.concatenate([real.spread, noise[0], np.zeros(100)]),
        np.concatenate([real.error, noise[1], np.zeros(100)]),
        3,
        left_out=np.arange(1100) >= 500,
    )
    assert both.n_without_spread == 600
    summaries = [each.summary() for each in (real, both)]
    for name in summaries[0]:
        if name not in {"n", "n_without_spread"} and not name.startswith("rms"):
            assert summaries[0][name] == summaries[1][name], name
    assert sum(each.n for each in both.bins()) == 500


def test_spreads_that_are_small_by_chance_are_not_left_out():
    generator = np.random.default_rng(3)
    width = 5e-5  # eV/atom, of a good committee: small spreads come near to float32's rounding
    expected = np.full(20_000, -100.0)
    members = [
        Quantity("energy_per_atom", "eV/atom", expected, expected + width * each)
        for each in generator.normal(size=(2, 20_000))
    ]
    labels = expected + width * generator.normal(size=20_000)
    members = [replace(each, expected=labels) for each in members]
    _, found = _calibration(members, float(np.finfo(np.float32).eps))
    assert found.n_without_spread < 0.03 * len(labels)
    assert found.scale == pytest.approx(1 * math.sqrt(1.5), rel=0.03)


def test_perfect_crystals_do_not_calibrate_a_committee(models):
    loaded = [
        load_model(models[name], device="cpu", dtype="float32") for name in ("double", "other")
    ]
    labelled = frames()
    diamond = bulk("C", cubic=True)
    perfect = [
        LabelledFrame(diamond, -5000.0 + k, np.zeros((len(diamond), 3)), None) for k in range(4)
    ]
    of_forces = [
        next(each for each in evaluate_committee(loaded, some).quantities if each.name == "forces")
        for some in (labelled, labelled + perfect)
    ]
    assert of_forces[1].n_without_spread == of_forces[0].n_without_spread + 12 * len(diamond)
    assert of_forces[1].scale == pytest.approx(of_forces[0].scale, rel=1e-4)
    assert of_forces[1].share_within(1) == pytest.approx(of_forces[0].share_within(1))


def test_a_model_is_no_committee_with_itself(models):
    twins = [load_model(models["double"], device="cpu") for _ in range(2)]
    with pytest.raises(ConfigError, match="needs different models"):
        evaluate_committee(twins, frames())


def test_what_is_not_defined_is_none_in_the_summary():
    nothing = Calibration("forces", "eV/Å", np.zeros(4), np.ones(4), 2)
    summary = nothing.summary()
    assert (summary["scale"], summary["correlation"]) == (None, None)
    assert (summary["n_without_spread"], summary["within_2"]) == (4, None)
    assert nothing.bins() == []


def frames() -> list[LabelledFrame]:
    """Return molecules and crystals with made labels; some without forces or stress."""
    generator = np.random.default_rng(0)
    labelled = []
    for k, atoms in enumerate([ethanol(), crystal(), ethanol(), crystal()]):
        atoms.rattle(0.03, seed=k)
        forces = generator.normal(size=(len(atoms), 3)) if k != 2 else None
        stress = generator.normal(scale=0.01, size=6) if atoms.pbc.all() else None
        labelled.append(LabelledFrame(atoms, -5000.0 + generator.normal(), forces, stress))
    return labelled


def test_means_and_spreads_are_those_of_the_calculator(models):
    names, labelled, done = ["double", "other", "short"], frames(), []
    loaded = [load_model(models[name], device="cpu") for name in names]
    found = evaluate_committee(loaded, labelled, progress=done.append)
    assert done[-1] == 12
    committee = EqCalculator([models[name] for name in names], device="cpu")
    results = committee.calculate_many([frame.atoms for frame in labelled])
    by_name = {each.name: each for each in found.quantities}
    assert list(by_name) == ["energy_per_atom", "forces", "stress"]
    for name, label in (("forces", "forces"), ("stress", "stress")):
        kept = [k for k, frame in enumerate(labelled) if getattr(frame, label) is not None]
        spread = np.concatenate([np.ravel(results[k][f"{name}_spread"]) for k in kept])
        mean = np.concatenate([np.ravel(results[k][name]) for k in kept])
        labels = np.concatenate([np.ravel(getattr(labelled[k], label)) for k in kept])
        np.testing.assert_allclose(by_name[name].spread, spread, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(by_name[name].error, mean - labels, rtol=1e-7, atol=1e-9)
    sizes = np.array([len(frame.atoms) for frame in labelled])
    energy = [result["energy_spread"] for result in results] / sizes
    np.testing.assert_allclose(by_name["energy_per_atom"].spread, energy, rtol=1e-7)
    alone = evaluate(loaded[1], labelled).summary()
    assert found.members[1].summary() == alone
    assert found.mean.summary() != alone


def test_a_calibration_of_one_model_is_refused(models):
    with pytest.raises(ConfigError, match="needs a committee of two models at least, found 1"):
        evaluate_committee([load_model(models["double"], device="cpu")], frames())


def test_the_picture_has_bins_and_the_line_of_perfect_calibration(models):
    axes = Figure().subplots()
    found = drawn(4, n=400, factor=2.0)
    _calibration_panel(axes, found)
    lines = {line.get_label(): line for line in axes.get_lines()}
    x, y = lines["calibrated"].get_data()
    np.testing.assert_array_equal(x, y)
    x, y = next(line for name, line in lines.items() if "spread ×" in name).get_data()
    np.testing.assert_allclose(y / x, found.scale)
    bins = found.bins()
    np.testing.assert_allclose(
        lines["bins, root mean squares"].get_xydata(),
        [[1e3 * each.spread, 1e3 * each.error] for each in bins],
    )
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_the_picture_is_one_panel_per_quantity_also_without_spread(models):
    loaded = [load_model(models[name], device="cpu") for name in ("double", "other")]
    image = imread(io.BytesIO(calibration_plot(evaluate_committee(loaded, frames()), r"$\a$")))
    assert image.shape[1] > 2.4 * image.shape[0]
    axes = Figure().subplots()
    _calibration_panel(axes, Calibration("forces", "eV/Å", np.zeros(4), np.ones(4), 2))
    assert [text.get_text() for text in axes.texts] == ["no spread"]
