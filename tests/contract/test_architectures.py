"""The contract, for every potential of the registry, eager and from its model file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import geometries
import laws
import numpy as np
import pytest
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from small import POTENTIALS, REAL_REFERENCE_ENERGIES, small_potential
from subjects import assert_close, evaluate, exported_subject, potential_subject
from tolerances import TOLERANCES

from eqcalc import EqCalculator, architectures
from eqcalc.derivatives import VOIGT, forces_from_edge_gradients
from eqcalc.engines import load_model
from eqcalc.errors import GraphError
from eqcalc.export import export_model
from eqcalc.neighbours import build_graph


def test_registry_holds_potentials():
    assert {"schnet", "painn"} <= set(POTENTIALS)


# --- symmetry


def test_energies_stay_and_forces_turn_under_rotation(subject):
    laws.assert_rotation(subject)


def test_mirror_images_have_equal_energies_and_mirrored_forces(subject):
    laws.assert_reflection(subject)


def test_translation_changes_nothing(subject):
    laws.assert_translation(subject)


def test_renumbering_atoms_renumbers_the_results(subject):
    laws.assert_atom_permutation(subject)


def test_order_of_edges_has_no_meaning(subject):
    laws.assert_edge_permutation(subject)


def test_atom_moved_by_a_lattice_vector_is_the_same_atom(subject):
    laws.assert_lattice_shift(subject)


# --- derivatives


def test_forces_are_the_energy_derivative(exact_subject):
    laws.assert_forces_are_derivatives(exact_subject)


def test_stress_is_the_strain_derivative(exact_subject):
    laws.assert_stress_is_derivative(exact_subject)


def test_every_parameter_receives_a_gradient(potential):
    laws.assert_every_parameter_learns(potential)


def test_second_derivatives_are_finite_at_collinear_and_planar_geometries(potential):
    laws.assert_finite_second_derivatives(potential)


# --- locality


def test_neighbour_species_and_distances_matter(subject):
    laws.assert_neighbours_matter(subject)


def test_edges_act_on_their_receiver(subject):
    laws.assert_edges_act_on_their_receiver(subject)


def test_isolated_atom_has_finite_energy_and_exactly_zero_force(subject):
    laws.assert_isolated_atoms_feel_nothing(subject)


def test_distant_molecules_add_up(subject):
    laws.assert_distant_molecules_add_up(subject)


def test_supercell_has_n_times_the_energy(subject):
    laws.assert_supercell_scales(subject)


def test_owned_and_ghost_atoms_equal_the_whole_system(subject):
    laws.assert_ghosts_stand_for_images(subject)


def test_edges_at_and_beyond_the_cutoff_have_exactly_no_effect(subject):
    laws.assert_no_effect_beyond_cutoff(subject)


def test_edges_vanish_smoothly_at_the_cutoff(exact_subject):
    laws.assert_smooth_at_cutoff(exact_subject)


# --- conduct


def test_batch_equals_singles(subject):
    laws.assert_batch_equals_singles(subject)


def test_inputs_are_not_changed(subject):
    laws.assert_inputs_unchanged(subject)


def test_repeated_evaluation_gives_the_same_numbers(subject):
    laws.assert_no_memory(subject)


def test_global_dtype_seed_and_grad_mode_neither_matter_nor_change(subject):
    laws.assert_globals_untouched(subject)


def test_large_box_costs_no_precision(subject):
    laws.assert_large_box_is_exact(subject)


def test_atomic_energies_come_in_the_dtype_of_the_edges(name, potential):
    for dtype in (torch.float64, torch.float32):
        network = potential.architecture.to(dtype)
        graph = _ethanol_graph(potential, dtype)
        found = network.atomic_energies(graph)
        assert found.dtype == dtype
        assert found.shape == (len(graph.atomic_numbers),)


def test_float32_agrees_with_float64(name, subjects):
    laws.assert_same_numbers(subjects(name, "eager", "float32"), subjects(name, "eager", "float64"))


def test_unsorted_edges_are_refused(potential):
    graph = _ethanol_graph(potential, torch.float64)
    flipped = graph._replace(
        edge_index=graph.edge_index.flip(1), edge_vectors=graph.edge_vectors.flip(0)
    )
    with pytest.raises(GraphError, match=r"edges must be sorted by receiver \(edge_index\[1\]\)"):
        potential.evaluate(flipped)


# --- the exported file


def test_exported_file_gives_the_eager_numbers(name, subjects):
    for dtype in ("float64", "float32"):
        laws.assert_same_numbers(subjects(name, "exported", dtype), subjects(name, "eager", dtype))


@pytest.mark.slow
def test_compiled_package_gives_the_eager_numbers(name, subjects):
    compiled, eager = (subjects(name, form, "float32") for form in ("compiled", "eager"))
    laws.assert_same_numbers(compiled, eager)


def test_reference_energies_keep_float64_in_a_float32_model(name, tmp_path):
    potential = small_potential(name, REAL_REFERENCE_ENERGIES)
    export_model(potential, tmp_path / "model.pt", elements=REAL_REFERENCE_ENERGIES)
    subject = exported_subject(load_model(tmp_path / "model.pt", device="cpu", dtype="float32"))
    atoms = geometries.ethanol()
    expected = evaluate(potential_subject(potential.double()), atoms, "eager, float64")
    found = evaluate(subject, atoms, "exported, float32")
    references = np.array([REAL_REFERENCE_ENERGIES[symbol] for symbol in atoms.symbols])
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


FRESH_PROCESS = """
import json, sys

class OnlyTorch:
    blocked = {"ase", "e3nn", "eqcalc", "safetensors", "scipy", "torch_scatter", "vesin"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.blocked:
            raise ImportError(f"{name} is blocked")
        return None

sys.meta_path.insert(0, OnlyTorch())
import warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
model = torch.jit.load(sys.argv[1])
inputs = torch.load(sys.argv[2], weights_only=True)
found = {}
for case, (numbers, vectors, index, n_owned) in inputs.items():
    for _ in range(3):  # the optimised form as well
        energies, gradients = model(numbers, vectors, index, n_owned)
    found[case] = [energies.tolist(), gradients.tolist()]
loaded = sorted(set(name.split(".")[0] for name in sys.modules) & OnlyTorch.blocked)
print(json.dumps({"found": found, "loaded": loaded}))
"""


def test_exported_file_runs_in_a_fresh_process_that_has_only_torch(
    name, model_files, subjects, tmp_path
):
    eager = subjects(name, "eager", "float32")
    structures = geometries.generic() | {"isolated C": geometries.isolated("C")}
    inputs, expected = {}, {}
    for case, atoms in structures.items():
        graph = eager.graph(atoms)
        inputs[case] = (graph.atomic_numbers, graph.edge_vectors, graph.edge_index, len(atoms))
        expected[case] = evaluate(eager, graph, case)
    torch.save(inputs, tmp_path / "inputs.pt")
    answer = _run_alone(FRESH_PROCESS, model_files(name), tmp_path / "inputs.pt")
    assert answer["loaded"] == []
    for case, (energies, gradients) in answer["found"].items():
        tolerance = TOLERANCES[torch.float32]
        found = torch.tensor(energies, dtype=torch.float64)
        assert_close(found, expected[case].energies, tolerance, case, "energies")
        numbers, _, index, _ = inputs[case]
        gradients = torch.tensor(gradients).reshape(-1, 3)
        forces = forces_from_edge_gradients(gradients, index, len(numbers))
        assert_close(forces, expected[case].forces, tolerance, case, "forces")


def _ethanol_graph(potential, dtype: torch.dtype):
    """Return the graph of an ethanol frame for a potential."""
    return build_graph(geometries.ethanol(), potential.cutoff, dtype=dtype)


def _run_alone(script: str, *arguments: Path) -> dict:
    """Run a script in a fresh, isolated interpreter and return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
