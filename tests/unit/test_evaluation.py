"""Errors of a model on labelled frames, and their picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from ase import Atoms
from matplotlib.figure import Figure
from matplotlib.image import imread
from small_models import REFERENCE_ENERGIES, crystal, ethanol, slab, water

from eqcalc import EqCalculator
from eqcalc.data.frames import LabelledFrame
from eqcalc.engines import Model, load_model
from eqcalc.errors import DataError, GraphError, UnsupportedElementError
from eqcalc.evaluation import Comparison, Quantity, evaluate
from eqcalc.evaluation.plots import _panel, parity_plot


@pytest.fixture
def model(models) -> Model:
    return load_model(models["double"], device="cpu")


def frames() -> list[LabelledFrame]:
    """Return molecules, crystals, a slab and an atom; some without forces or stress."""
    generator = np.random.default_rng(0)
    structures = [ethanol(), crystal(), water(), slab(), crystal().repeat((2, 1, 1)), Atoms("O")]
    labelled = []
    for k, atoms in enumerate(structures):
        energy = sum(REFERENCE_ENERGIES[s] for s in atoms.symbols) + generator.normal()
        forces = generator.normal(size=(len(atoms), 3)) if k != 2 else None
        stress = generator.normal(scale=0.01, size=6) if atoms.pbc.all() else None
        labelled.append(LabelledFrame(atoms, energy, forces, stress))
    return labelled


def expected_errors(models, labelled: list[LabelledFrame]) -> dict[str, np.ndarray]:
    """Return all differences, from the calculator frame by frame."""
    calculator = EqCalculator(models["double"])
    found: dict[str, list] = {"energy": [], "energy_per_atom": [], "forces": [], "stress": []}
    for frame in labelled:
        difference = calculator.get_potential_energy(frame.atoms) - frame.energy
        found["energy"].append([difference])
        found["energy_per_atom"].append([difference / len(frame.atoms)])
        if frame.forces is not None:
            found["forces"].append((calculator.get_forces(frame.atoms) - frame.forces).ravel())
        if frame.stress is not None:
            found["stress"].append(calculator.get_stress(frame.atoms) - frame.stress)
    return {name: np.concatenate(values) for name, values in found.items() if values}


def test_errors_equal_those_of_the_calculator_frame_by_frame(model, models):
    labelled = frames()
    comparison = evaluate(model, labelled)
    assert comparison.n_frames == 6
    assert [q.name for q in comparison.quantities] == [
        "energy",
        "energy_per_atom",
        "forces",
        "stress",
    ]
    expected = expected_errors(models, labelled)
    for quantity in comparison.quantities:
        difference = expected[quantity.name]
        np.testing.assert_allclose(
            quantity.predicted - quantity.expected, difference, rtol=1e-7, atol=1e-9
        )
        assert quantity.errors.mae == pytest.approx(np.abs(difference).mean(), rel=1e-8)
        assert quantity.errors.rmse == pytest.approx(np.sqrt((difference**2).mean()), rel=1e-8)


def test_the_summary_names_units_and_counts_in_mev(model, models):
    labelled = frames()
    summary = evaluate(model, labelled).summary()
    assert set(summary) == {
        "energy_per_atom_mae_mev",
        "energy_per_atom_rmse_mev",
        "forces_mae_mev_per_a",
        "forces_rmse_mev_per_a",
        "stress_mae_mev_per_a3",
        "stress_rmse_mev_per_a3",
    }
    forces = expected_errors(models, labelled)["forces"]
    assert summary["forces_mae_mev_per_a"] == pytest.approx(1e3 * np.abs(forces).mean(), rel=1e-6)


def test_errors_do_not_depend_on_how_frames_are_batched(model, monkeypatch):
    labelled = frames() * 3
    expected = evaluate(model, labelled)
    monkeypatch.setattr("eqcalc.blockwise.grouping.MAX_EDGES", 1)
    found = evaluate(model, labelled)
    for one, other in zip(found.quantities, expected.quantities, strict=True):
        np.testing.assert_array_equal(one.expected, other.expected)
        np.testing.assert_allclose(one.predicted, other.predicted, rtol=1e-12, atol=1e-12)


def test_a_model_is_exact_on_its_own_results(model, models):
    calculator = EqCalculator(models["double"])
    labelled = [
        LabelledFrame(atoms, calculator.get_potential_energy(atoms), calculator.get_forces(atoms))
        for atoms in (ethanol(), water())
    ]
    comparison = evaluate(model, labelled)
    assert comparison.energy.errors.rmse < 1e-10
    assert comparison.forces.errors.rmse < 1e-11
    assert comparison.stress is None


def test_an_offset_is_a_mean_and_a_standard_deviation():
    quantity = Quantity("energy", "eV", np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 6.0]))
    assert quantity.offset == pytest.approx((4.0 / 3.0, np.sqrt(14.0) / 3.0))


def test_frames_without_forces_compare_energies_alone(model):
    labelled = [LabelledFrame(ethanol(), -4200.0), LabelledFrame(water(), -2070.0)]
    comparison = evaluate(model, labelled)
    assert [q.name for q in comparison.quantities] == ["energy", "energy_per_atom"]
    per_atom = {"energy_per_atom_mae_mev", "energy_per_atom_rmse_mev"}
    assert set(comparison.summary()) == per_atom


def test_errors_of_total_energies_are_in_the_summary_of_frames_of_one_size_alone(model):
    totals = {"energy_mae_mev", "energy_rmse_mev"}
    assert totals <= set(evaluate(model, [LabelledFrame(ethanol(), -4200.0)] * 2).summary())
    mixed = [LabelledFrame(ethanol(), -4200.0), LabelledFrame(water(), -2070.0)]
    assert not totals & set(evaluate(model, mixed).summary())


def test_progress_counts_every_frame(model):
    done: list[int] = []
    evaluate(model, frames() * 2, done.append)
    assert done[-1] == 12
    assert done == sorted(done)


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.device("meta")],  # stands for a GPU
    ids=["no_grad", "inference_mode", "default device"],
)
def test_evaluation_needs_nothing_of_the_caller(context, model):
    expected = evaluate(model, frames()).forces.predicted
    with context():
        found = evaluate(model, frames()).forces.predicted
    np.testing.assert_array_equal(found, expected)


def test_a_float32_model_is_judged_in_float32(models):
    model = load_model(models["single"], device="cpu")
    comparison = evaluate(model, frames())
    exact = evaluate(load_model(models["single"], device="cpu", dtype="float64"), frames())
    difference = np.abs(comparison.forces.predicted - exact.forces.predicted).max()
    assert 0 < difference < 1e-4


def test_no_frames_are_refused(model):
    with pytest.raises(DataError, match="at least one frame, found none"):
        evaluate(model, [])


def test_a_frame_of_an_unknown_element_is_refused(model):
    labelled = [*frames(), LabelledFrame(Atoms("NH3", np.eye(4, 3)), -1.0)]
    with pytest.raises(
        UnsupportedElementError,
        match=r"model 'double' does not know N \(frame 6\); it was trained on H, C, O\.",
    ):
        evaluate(model, labelled)


@pytest.mark.parametrize(("source", "where"), [("", "frame 6"), ("a.xyz", r"frame 6 of a\.xyz")])
def test_coincident_atoms_are_refused_with_their_frame(source, where, model):
    labelled = [*frames(), LabelledFrame(Atoms("OH", np.zeros((2, 3))), -1.0)]
    with pytest.raises(GraphError, match=rf"^{where}: atoms 0 and 1 coincide"):
        evaluate(model, labelled, source=source)


# --- picture -----------------------------------------------------------------------------


def test_a_parity_plot_is_a_png_with_a_panel_per_quantity(model):
    png = parity_plot(evaluate(model, frames()), "double")
    assert png.startswith(b"\x89PNG")
    height, width, _ = imread(io.BytesIO(png)).shape
    assert 2.5 < width / height < 3.3
    energies = evaluate(model, [LabelledFrame(ethanol(), -4200.0)])
    height, width, _ = imread(io.BytesIO(parity_plot(energies, r"$\x$, one frame"))).shape
    assert 0.7 < width / height < 1.3


@pytest.mark.parametrize(
    ("outlier", "corner"), [((4.0, -4.0), (0.04, 0.96)), ((-4.0, 4.0), (0.96, 0.04))]
)
def test_the_errors_of_a_parity_plot_stand_where_no_points_are(outlier, corner):
    expected = np.append(np.linspace(-4.0, 4.0, 30), outlier[0])
    predicted = np.append(np.linspace(-4.0, 4.0, 30), outlier[1])
    axes = Figure().subplots()
    _panel(axes, Quantity("forces", "eV/Å", expected, predicted))
    assert axes.texts[0].get_position() == corner


def test_a_parity_plot_survives_equal_values():
    same = np.full(4, -3.5)
    energy = Quantity("energy_per_atom", "eV/atom", same, same)
    comparison = Comparison(4, energy, energy, None, None)
    assert parity_plot(comparison, "constant").startswith(b"\x89PNG")


def test_a_panel_names_its_axes_and_keeps_its_text_readable(model):
    axes = Figure().subplots()
    _panel(axes, evaluate(model, frames()).energy_per_atom)
    assert axes.get_xlabel() == "reference - mean (eV/atom)"
    assert axes.get_ylabel() == "model - reference mean (eV/atom)"
    (text,) = axes.texts
    assert text.get_text().startswith("MAE ")
    assert text.get_bbox_patch() is not None


def test_drawing_leaves_no_figure_open(model):
    from matplotlib import _pylab_helpers

    parity_plot(evaluate(model, frames()), "double")
    assert _pylab_helpers.Gcf.get_num_fig_managers() == 0
