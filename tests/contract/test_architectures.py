"""The contract, for every potential of the registry, eager and from its model file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from small import POTENTIALS, small_potential

from eqcalc import EqCalculator, architectures
from eqcalc.derivatives import VOIGT
from eqcalc.engines import load_model
from eqcalc.errors import GraphError
from eqcalc.export import export_model
from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential
from eqcalc.testing import geometries
from eqcalc.testing.fresh_process import assert_needs_torch_alone
from eqcalc.testing.laws import assert_same_numbers, reason_to_leave_out
from eqcalc.testing.subjects import assert_close, evaluate, exported_subject, potential_subject
from eqcalc.testing.tolerances import TOLERANCES

REFERENCE_ENERGIES = {"H": -13.587222780835477, "C": -1029.4889999755, "O": -2041.9816003861}
"""eV; float32 would round them by up to 1e-4 eV."""


def test_registry_holds_potentials():
    assert {"schnet", "painn"} <= set(POTENTIALS)


def test_potential_obeys_the_law(subject, law):
    reason = reason_to_leave_out(law, subject)
    if reason:
        pytest.skip(reason)
    law(subject)


def test_float32_agrees_with_float64(name, subjects):
    assert_same_numbers(subjects(name, "eager", "float32"), subjects(name, "eager", "float64"))


def test_unsorted_edges_are_refused(name):
    potential = small_potential(name)
    graph = build_graph(geometries.ethanol(), potential.cutoff, dtype=torch.float32)
    flipped = graph._replace(
        edge_index=graph.edge_index.flip(1), edge_vectors=graph.edge_vectors.flip(0)
    )
    with pytest.raises(GraphError, match=r"edges must be sorted by receiver \(edge_index\[1\]\)"):
        potential.evaluate(flipped)


# --- the exported file


def test_exported_file_gives_the_eager_numbers(name, subjects):
    for dtype in ("float64", "float32"):
        assert_same_numbers(subjects(name, "exported", dtype), subjects(name, "eager", dtype))


def test_compiled_package_gives_the_eager_numbers(compiled_name, subjects):
    compiled, eager = (subjects(compiled_name, form, "float32") for form in ("compiled", "eager"))
    assert_same_numbers(compiled, eager)


def test_reference_energies_keep_float64_in_a_float32_model(name, tmp_path):
    small = small_potential(name)
    potential = Potential(small.architecture, REFERENCE_ENERGIES, scale=float(small.scale))
    export_model(potential, tmp_path / "model.pt", elements=REFERENCE_ENERGIES)
    subject = exported_subject(load_model(tmp_path / "model.pt", device="cpu", dtype="float32"))
    atoms = geometries.ethanol()
    expected = evaluate(potential_subject(potential.double()), atoms, "eager, float64")
    found = evaluate(subject, atoms, "exported, float32")
    references = np.array([REFERENCE_ENERGIES[symbol] for symbol in atoms.symbols])
    tolerance = TOLERANCES[torch.float32]
    assert_close(
        found.energies.numpy() - references,
        expected.energies.numpy() - references,
        tolerance,
        "ethanol without reference energies",
        "energies",
    )


def test_exported_file_names_its_architecture_and_options(name, model_files):
    card = EqCalculator(model_files(name), device="cpu").card
    assert card.architecture == name
    rebuilt = architectures.build(card.architecture, **card.config)
    assert (rebuilt.cutoff, rebuilt.n_hops) == (card.cutoff, card.n_hops)


def test_calculator_gives_the_eager_numbers_and_leaves_the_atoms_alone(name, model_files, subjects):
    calculator = EqCalculator(model_files(name), device="cpu", dtype="float64")
    eager = subjects(name, "eager", "float64")
    tolerance = TOLERANCES[torch.float64]
    for case, atoms in geometries.generic().items():
        expected = evaluate(eager, atoms, case)
        before = atoms.copy()
        atoms.calc = calculator
        energy = np.array([atoms.get_potential_energy()])
        assert_close(energy, expected.energy, tolerance, case, "energy")
        assert_close(atoms.get_potential_energies(), expected.energies, tolerance, case, "energies")
        assert_close(atoms.get_forces(), expected.forces, tolerance, case, "forces")
        if atoms.pbc.all():
            voigt = torch.stack([expected.stress[0, a, b] for a, b in VOIGT])
            assert_close(atoms.get_stress(), voigt, tolerance, case, "stress")
        else:
            with pytest.raises(PropertyNotImplementedError, match="all three directions"):
                atoms.get_stress()
        assert atoms == before


def test_exported_files_run_in_a_fresh_process_that_has_only_torch(model_files, subjects):
    assert_needs_torch_alone(
        {model_files(name): subjects(name, "eager", "float32") for name in POTENTIALS}
    )
