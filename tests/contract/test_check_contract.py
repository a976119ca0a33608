"""check_contract: what a user sees who holds a network of his own to the contract."""

from __future__ import annotations

import copy
import random
import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eqcalc.architectures import NequIP
from eqcalc.concessions import Concessions, declared
from eqcalc.elements import symbols_of
from eqcalc.engines import load_model
from eqcalc.errors import ConfigError, ContractError, EqcalcError
from eqcalc.export import export_model
from eqcalc.graph import AtomicGraph
from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential
from eqcalc.testing import check_contract, contract, twins
from eqcalc.testing.fresh_process import assert_needs_torch_alone
from eqcalc.testing.geometries import ELEMENTS, ethanol, generic, substituted, substitution
from eqcalc.testing.laws import (
    ANY_PRECISION,
    FLOAT64,
    NETWORK,
    assert_energies_keep_the_dtype,
    assert_every_parameter_learns,
    assert_finite_second_derivatives,
    assert_isolated_atoms_feel_nothing,
    assert_neighbours_matter,
    assert_reflection,
    assert_rotation,
    assert_smooth_at_cutoff,
    assert_stress_is_derivative,
    reason_to_leave_out,
)
from eqcalc.testing.preparation import interaction_energy, prepared_copy
from eqcalc.testing.subjects import exported_subject, known_elements, potential_subject
from eqcalc.testing.twins import Sound, twin_potential


@pytest.fixture
def few_laws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let check_contract apply a few laws only: enough to see what it does with them."""
    few = (assert_rotation, assert_reflection, assert_neighbours_matter)
    monkeypatch.setattr(contract, "ANY_PRECISION", few)
    monkeypatch.setattr(contract, "FLOAT64", (assert_smooth_at_cutoff,))
    monkeypatch.setattr(contract, "NETWORK", (assert_every_parameter_learns,))
    monkeypatch.setattr(contract, "assert_needs_torch_alone", _no_fresh_process)


def _no_fresh_process(models: object) -> None:
    """Take no time."""


# --- the report


def test_report_of_a_sound_network_is_a_table_without_failures():
    report = check_contract(twin_potential(Sound), exported=False)
    assert report.passed
    assert report.failures == ()
    report.raise_for_failures()
    n = 2 * (len(ANY_PRECISION)) + len(FLOAT64) + len(NETWORK) + 1
    assert len(report.checks) == n
    lines = str(report).splitlines()
    assert lines[0] == f"Sound: {n} of {n} checks passed"
    assert lines[2].split("  ")[0] == "law"
    assert re.search(r"^rotation +ok +ok$", str(report), re.MULTILINE)
    assert re.search(r"^smooth_at_cutoff +ok +-$", str(report), re.MULTILINE)
    assert re.search(r"^same_numbers +- +ok$", str(report), re.MULTILINE)
    assert lines[-1].startswith("note: parameters were moved by noise of 0.05 (perturb=False")


@pytest.mark.usefixtures("few_laws")
def test_broken_network_raises_an_error_that_names_law_case_and_number():
    with pytest.raises(ContractError) as caught:
        check_contract(twin_potential(twins.SumOfComponents), exported=False)
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, EqcalcError)
    assert re.fullmatch(
        r"SumOfComponents breaks 2 of the contract's laws:\n"
        r"- rotation: Energies stay, forces and stress turn with the structure\.\n"
        r"    eager float64: ethanol, rotation 11: energy differ by \S+, allowed \S+\n"
        r"    eager float32: ethanol, rotation 11: energy differ by \S+, allowed \S+\n"
        r"- reflection: Mirror images have the same energies and mirrored forces\.\n"
        r"    eager float64: ethanol, mirror x: energy differ by \S+, allowed \S+\n"
        r"    eager float32: ethanol, mirror x: energy differ by \S+, allowed \S+",
        str(caught.value),
    )


@pytest.mark.usefixtures("few_laws")
def test_report_of_a_broken_network_can_be_had_without_an_error():
    potential = twin_potential(twins.CosineCutoff)
    report = check_contract(potential, exported=False, raise_on_failure=False)
    assert not report.passed
    (failed,) = report.failures
    assert (failed.law, failed.form) == ("smooth_at_cutoff", "eager float64")
    assert failed.failure is not None
    assert "vanishes at the cutoff as δ^2.0" in failed.failure
    n = len(report.checks)
    assert str(report).startswith(f"CosineCutoff: {n - 1} of {n} checks passed\n")
    assert re.search(r"^smooth_at_cutoff +FAILED +-$", str(report), re.MULTILINE)
    assert f"    eager float64: {failed.failure}\n" in str(report)
    with pytest.raises(ContractError, match="CosineCutoff breaks 1 of the contract's laws"):
        report.raise_for_failures()


@pytest.mark.usefixtures("few_laws")
def test_a_network_that_changes_globals_is_reported_and_the_next_law_starts_afresh():
    potential = twin_potential(twins.SetsDefaultDtype)
    report = check_contract(potential, exported=False, raise_on_failure=False)
    assert torch.get_default_dtype() == torch.float32
    assert {check.law for check in report.checks} >= {"rotation", "smooth_at_cutoff"}


# --- the exported forms


@pytest.mark.usefixtures("few_laws")
def test_a_network_that_torchscript_refuses_fails_as_a_model_file():
    report = check_contract(twin_potential(Sound), raise_on_failure=False)
    (failed,) = report.failures
    assert (failed.law, failed.form) == ("model_file", "exported float64")
    assert failed.failure is not None
    assert failed.failure.startswith("the export failed with RuntimeError: ")


class Pairs(nn.Module):
    """Pair energies, the smallest sound network that TorchScript runs."""

    def __init__(self, cutoff: float = 4.0, *, needs_float64: bool = False) -> None:
        super().__init__()
        self.cutoff, self.n_hops, self.needs_float64 = cutoff, 1, needs_float64
        self.weights = nn.Parameter(torch.linspace(0.0, 1.0, 119 * 119).reshape(119, 119))

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,)."""
        if self.needs_float64 and graph.edge_vectors.dtype != torch.float64:
            raise ValueError("in float64 only")
        senders, receivers = graph.edge_index[0], graph.edge_index[1]
        x = torch.linalg.vector_norm(graph.edge_vectors, dim=1) / self.cutoff
        envelope = torch.where(x < 1.0, (1.0 - x * x) ** 3, torch.zeros_like(x))
        numbers = graph.atomic_numbers
        pairs = self.weights[numbers[receivers], numbers[senders]] * envelope
        return torch.zeros_like(numbers, dtype=x.dtype).index_add(0, receivers, pairs)


@pytest.mark.usefixtures("few_laws")
def test_a_sound_network_passes_in_its_model_file_in_both_dtypes():
    report = check_contract(Potential(Pairs().double()))
    checked = {(check.law, check.form) for check in report.checks}
    for dtype in ("float64", "float32"):
        for law in ("model_file", "rotation", "same_numbers"):
            assert (law, f"exported {dtype}") in checked
    assert ("_no_fresh_process", "exported float64") in checked


@pytest.mark.usefixtures("few_laws")
def test_a_model_file_that_does_not_load_in_a_dtype_is_reported():
    potential = Potential(Pairs(needs_float64=True).double())
    report = check_contract(potential, raise_on_failure=False)
    failed = {(c.law, c.form): c.failure for c in report.failures}
    assert {form for _, form in failed} == {"eager float32", "exported float32"}
    assert "evaluation failed with ValueError: in float64 only" in str(
        failed["rotation", "eager float32"]
    )
    assert str(failed["model_file", "exported float32"]).startswith("the file does not load: ")


def test_a_file_that_needs_more_than_torch_breaks_the_law(tmp_path):
    subject = potential_subject(Potential(Pairs()))
    path = tmp_path / "model.pt"
    path.write_text("no archive")
    with pytest.raises(ContractError, match=r"fails where only torch is installed: (?s:.*)Error"):
        assert_needs_torch_alone({path: subject})


def test_a_file_that_has_other_numbers_breaks_the_law(tmp_path):
    path = tmp_path / "model.pt"
    export_model(Potential(Pairs()), path, elements=ELEMENTS)
    other = potential_subject(Potential(Pairs(), scale=1.1))
    with pytest.raises(
        ContractError, match=r"ethanol, in a process that has only torch: energies differ"
    ):
        assert_needs_torch_alone({path: other})


# --- elements


def test_structures_take_the_elements_of_the_potential():
    potential = Potential(Sound().double(), {"O": -2041.8, "H": -13.6})
    report = check_contract(potential, exported=False)
    assert (
        "the structures hold elements of the potential: H for C, O for Na, H for Cl, O for Cu."
    ) in report.notes


def test_a_potential_of_one_element_is_tested_on_distances_alone():
    report = check_contract(Potential(Sound().double(), {"Si": -100.0}), exported=False)
    assert (
        "neighbours_matter was applied to distances alone: Si is the only element."
    ) in report.notes
    blind = potential_subject(twin_potential(twins.BlindToDistance), elements=["Si"])
    with pytest.raises(ContractError, match="distance of the only neighbour changes"):
        assert_neighbours_matter(blind)


@pytest.mark.usefixtures("few_laws")
def test_a_network_of_few_elements_is_tested_on_these():
    options = {"num_layers": 2, "num_features": 4, "cut_off": 4.0, "radial_mlp_width": 8}
    potential = Potential(NequIP(1, True, elements=["O", "H", "Fe"], **options))
    assert known_elements(potential) == ("H", "O", "Fe")
    report = check_contract(potential, exported=False)
    assert any("Fe for C" in note for note in report.notes)
    with pytest.raises(ContractError, match="NaN or infinite"):
        check_contract(potential, elements=ELEMENTS, exported=False)


def test_elements_are_those_of_reference_energies_and_network_unless_named():
    network = Sound()
    assert known_elements(Potential(network)) == ELEMENTS
    some = Potential(network, {"Fe": 0.0, 8: 0.0, 1: 0.0})
    assert known_elements(some) == ("H", "O", "Fe")
    assert known_elements(some, ["Fe", 1]) == ("H", "Fe")
    assert known_elements(Potential(network), [14]) == ("Si",)
    limited = NequIP(1, True, num_layers=1, num_features=2, elements=["H", "C", "O"])
    assert known_elements(Potential(limited, {"O": 0.0, "H": 0.0, "Fe": 0.0})) == ("H", "O")


@pytest.mark.parametrize(
    ("references", "elements", "match"),
    [
        (None, "HO", r"elements must be a list such as \['H', 'C'\], found 'HO'"),
        (None, [], r"elements must name at least one element, found none"),
        ({"H": 0.0}, ["H", "Fe", "O"], r"has no reference energy for O, Fe; give one to Potential"),
        ({}, None, r"no element is left to test: .* energies for none, its network is for none"),
        (None, ["Xx"], r"'Xx' is no element's symbol"),
    ],
)
def test_elements_that_cannot_be_tested_are_refused(references, elements, match):
    with pytest.raises(ConfigError, match=match):
        check_contract(Potential(Sound(), references), elements=elements)


def test_reference_energies_and_network_without_a_common_element_are_refused():
    network = NequIP(1, True, num_layers=1, num_features=2, elements=["H", "C"])
    with pytest.raises(ConfigError, match=r"energies for O, its network is for H, C\.$"):
        check_contract(Potential(network, {"O": 0.0}))


KNOWN = [*combinations(ELEMENTS, 2), *combinations(("H", "C", "Fe", "Ni", "Si"), 2)]
KNOWN += [("C",), ("Si",), ("Al", "Fe", "Ni"), ("H", "C", "N", "O"), ("H", "Ni", "Cu"), ELEMENTS]


@pytest.mark.parametrize("known", KNOWN, ids="-".join)
def test_substitution_uses_every_known_element_and_keeps_neighbours_apart(known):
    image = substitution(known)
    assert set(image) == set(ELEMENTS)
    assert set(image.values()) == set(known)
    assert all(image[element] == element for element in known if element in ELEMENTS)
    if len(known) > 1:
        for first, second in (("C", "O"), ("Na", "Cl"), ("Cu", "H")):
            assert image[first] != image[second]


def test_every_element_of_many_is_tested_alone():
    potential = Potential(Pairs().double())
    names = [*symbols_of(range(1, 31))]
    subject = potential_subject(potential, elements=names)
    assert substitution(subject.elements) == {element: element for element in ELEMENTS}
    with torch.no_grad():
        potential.reference_energies[30] = torch.nan
    with pytest.raises(ContractError, match="isolated Zn"):
        assert_isolated_atoms_feel_nothing(subject)


def test_substituted_structures_leave_the_original_alone():
    atoms = ethanol()
    copied = substituted(atoms, ("H", "O"))
    assert atoms == ethanol()
    assert str(copied.symbols) == "H2OH6"


# --- what is tested is a copy


@pytest.mark.usefixtures("few_laws")
def test_the_potential_and_the_globals_stay_as_they_are():
    potential = Potential(Pairs(), {"H": -13.6, "C": -1000.0, "O": -2000.0}, scale=3.0).train()
    potential.architecture.weights.grad = torch.ones(119, 119)
    before = copy.deepcopy(potential.state_dict())
    torch.manual_seed(4)
    np.random.seed(4)  # noqa: NPY002
    random.seed(4)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    try:
        check_contract(potential)
        assert torch.get_default_dtype() == torch.float64
        assert not torch.is_grad_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(states[0], after[0])
    assert states[1:] == after[1:]
    assert potential.training
    assert torch.equal(potential.architecture.weights.grad, torch.ones(119, 119))
    for name, tensor in potential.state_dict().items():
        assert torch.equal(tensor.nan_to_num(), before[name].nan_to_num())


@pytest.mark.usefixtures("few_laws")
def test_a_network_of_tiny_effects_neither_passes_nor_fails_by_accident():
    check_contract(Potential(Sound().double(), scale=1e-9), exported=False)
    broken = Potential(twins.SumOfComponents().double(), {"H": -13.6, "O": -2e3}, scale=1e-9)
    report = check_contract(broken, exported=False, raise_on_failure=False)
    assert {(check.law, check.form) for check in report.failures} == {
        (law, f"eager {dtype}")
        for law in ("rotation", "reflection")
        for dtype in ("float64", "float32")
    }


@pytest.mark.usefixtures("few_laws")
def test_a_last_layer_of_zeros_hides_nothing_unless_asked_for():
    broken = twin_potential(twins.SumOfComponents)
    nn.init.zeros_(broken.architecture.readout[-1].weight)
    with pytest.raises(ContractError, match="- rotation: "):
        check_contract(broken, exported=False)
    with pytest.raises(ContractError, match=r"changes the energy by 0 eV") as caught:
        check_contract(broken, exported=False, perturb=False)
    assert "- rotation: " not in str(caught.value)


def test_interactions_of_the_copy_are_of_one_electronvolt():
    potential = Potential(Pairs().double(), scale=1e-3)
    prepared = prepared_copy(potential, ELEMENTS)
    assert interaction_energy(prepared, ELEMENTS) == pytest.approx(1.0)
    assert float(potential.scale) == 1e-3


def test_noise_leaves_frozen_parameters_alone():
    potential = Potential(Pairs())
    potential.architecture.weights.requires_grad_(False)
    prepared = prepared_copy(potential, ELEMENTS)
    assert torch.equal(prepared.architecture.weights, potential.architecture.weights)


@pytest.mark.usefixtures("few_laws")
def test_laws_of_training_are_left_out_for_a_frozen_network():
    potential = Potential(Pairs()).requires_grad_(False)
    report = check_contract(potential, exported=False, perturb=False)
    assert report.notes == (
        "every_parameter_learns was not applied: no parameter of the network requires a gradient.",
    )
    assert "every_parameter_learns" not in {check.law for check in report.checks}


@pytest.mark.parametrize(
    ("potential", "match"),
    [
        (Sound(), r"needs a Potential, found Sound; wrap a network as Potential\(network\)"),
        (Potential(Sound().half()), r"all float32 or all float64, found float16\.$"),
        (Potential(Pairs(2.5)), r"needs a cutoff of at least 3 Å, .* found 2\.5 Å\.$"),
    ],
)
def test_what_cannot_be_tested_is_refused(potential, match):
    with pytest.raises(ConfigError, match=match):
        check_contract(potential)


# --- what an architecture gives up


class Declared(twins.Handed, twins.CosineCutoff):
    """Says that mirror images differ, and that one derivative vanishes at the cutoff."""

    mirror_symmetric, vanishing_derivatives = False, 1


class DeclaredHanded(twins.Handed):
    """Says that mirror images differ."""

    mirror_symmetric = False


class DeclaredCosine(twins.CosineCutoff):
    """Says that one derivative vanishes at the cutoff."""

    vanishing_derivatives = 1


class DeclaredSharp(twins.SharpCutoff):
    """Says that one derivative vanishes, and none does."""

    vanishing_derivatives = 1


def test_a_network_that_declares_what_it_gives_up_passes_every_other_law():
    report = check_contract(twin_potential(Declared), exported=False)
    assert report.notes[:2] == (
        "reflection was not applied: the network declares mirror_symmetric = False.",
        "smooth_at_cutoff was applied with 1 vanishing derivative instead of 2: the network "
        "declares vanishing_derivatives = 1.",
    )
    laws = {check.law for check in report.checks}
    assert "reflection" not in laws
    assert {"rotation", "smooth_at_cutoff"} <= laws


@pytest.mark.usefixtures("few_laws")
def test_a_declaration_excuses_from_nothing_else():
    for network, law in ((DeclaredHanded, "reflection"), (DeclaredCosine, "smooth_at_cutoff")):
        check_contract(twin_potential(network), exported=False)
        with pytest.raises(ContractError, match=f"- {law}: "):
            check_contract(twin_potential(network.__base__), exported=False)
    handed_and_cosine = type("Half", (DeclaredHanded, twins.CosineCutoff), {})
    with pytest.raises(ContractError, match=r"breaks 1 of .*\n- smooth_at_cutoff: "):
        check_contract(twin_potential(handed_and_cosine), exported=False)
    # A sharp cutoff is a whole power short of what one vanishing derivative asks for.
    with pytest.raises(ContractError, match=r"energy vanishes at the cutoff as δ\^.*expected δ\^2"):
        check_contract(twin_potential(DeclaredSharp), exported=False)


def test_subjects_carry_what_their_network_declares():
    subject = potential_subject(twin_potential(DeclaredHanded))
    assert subject.concessions == Concessions(mirror_symmetric=False)
    assert reason_to_leave_out(assert_reflection, subject) is not None
    assert reason_to_leave_out(assert_rotation, subject) is None
    assert declared(Sound()) == Concessions(mirror_symmetric=True, vanishing_derivatives=2)


@pytest.mark.parametrize(
    ("attribute", "value", "match"),
    [
        ("mirror_symmetric", 1, r"^Sound\.mirror_symmetric must be True or False, found 1\.$"),
        ("smooth_at_symmetric_sites", 1, r"smooth_at_symmetric_sites must be True or False"),
        ("vanishing_derivatives", 0, r"^Sound\.vanishing_derivatives must be 2 or 1, found 0\.$"),
        ("vanishing_derivatives", True, r"vanishing_derivatives must be 2 or 1, found True"),
        ("vanishing_derivatives", 3, r"vanishing_derivatives must be 2 or 1, found 3"),
    ],
)
def test_a_declaration_of_another_value_is_refused(attribute, value, match):
    network = Sound()
    setattr(network, attribute, value)
    with pytest.raises(ConfigError, match=match):
        check_contract(Potential(network))


# --- details of the laws


def test_laws_of_the_network_need_the_eager_potential(tmp_path):
    export_model(Potential(Pairs()), tmp_path / "model.pt", elements=["H"])
    subject = exported_subject(load_model(tmp_path / "model.pt", device="cpu"), "file")
    with pytest.raises(ConfigError, match=r"file: this law needs the eager network; use potential"):
        assert_every_parameter_learns(subject)


@pytest.mark.parametrize(
    ("law", "match"),
    [
        (
            assert_energies_keep_the_dtype,
            r"eager: energies of ethanol .*32: ValueError: in float64",
        ),
        (assert_finite_second_derivatives, r"torch\.float32: no second derivative: ValueError: in"),
    ],
)
def test_a_network_that_fails_breaks_the_law_at_hand(law, match):
    subject = potential_subject(Potential(Pairs(needs_float64=True).double()))
    with pytest.raises(ContractError, match=match):
        law(subject)


@pytest.mark.parametrize(
    ("law", "match"),
    [
        (assert_stress_is_derivative, "eager: triclinic salt has no stress"),
        (assert_isolated_atoms_feel_nothing, "eager: isolated H in a box has no stress"),
    ],
)
def test_a_crystal_without_stress_breaks_the_law(law, match):
    potential = Potential(Pairs().double())
    subject = replace(
        potential_subject(potential),
        call=lambda graph: potential.evaluate(graph)._replace(stress=None),
    )
    with pytest.raises(ContractError, match=match):
        law(subject)


def test_graphs_of_a_subject_are_its_own():
    subject = potential_subject(twin_potential(Sound))
    for atoms in generic().values():
        expected = build_graph(atoms, subject.cutoff)
        for _ in range(2):
            graph = subject.graph(atoms)
            for name, tensor in expected._asdict().items():
                found = getattr(graph, name)
                same = torch.equal(found, tensor) if isinstance(tensor, Tensor) else found == tensor
                assert same, name
            graph.edge_vectors.zero_()
            graph.atomic_numbers.zero_()
