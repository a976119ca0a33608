"""eqcalc verify rejects models that are wrong, each by the check that it fails, and no others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import wrong_models as wrong
from ase import Atoms
from ase.build import bulk, molecule
from small_models import crystal, ethanol
from torch import Tensor

from eqcalc.calculator import EqCalculator
from eqcalc.concessions import Concessions
from eqcalc.engines import Engine, Model, load_model
from eqcalc.errors import ConfigError, GraphError, ModelFileError, UnsupportedElementError
from eqcalc.export import model as export
from eqcalc.graph import AtomicGraph
from eqcalc.model_file import open_model_file
from eqcalc.model_file.seen import seen_in
from eqcalc.verification import Finding, Verdict, agreement, approach, card, laws, verify_model
from eqcalc.verification.approach import Approach
from eqcalc.verification.dynamics import nve_slope
from eqcalc.verification.plots import verification_plot
from eqcalc.verification.specimen import Specimen, default_structure, specimen_of


@pytest.fixture(scope="module")
def specimen(tmp_path_factory) -> Callable[..., Specimen]:
    """Return a function (network, structure) -> what the checks take."""
    folder = tmp_path_factory.mktemp("wrong")

    @cache
    def calculator(network: type) -> EqCalculator:
        path = wrong.exported(network, folder)
        return EqCalculator(path, device="cpu", dtype="float64", engine="torchscript")

    def make(network: type, atoms: Atoms | None = None) -> Specimen:
        return specimen_of(calculator(network), ethanol() if atoms is None else atoms)

    return make


def nve(specimen: Specimen) -> Finding:
    return nve_slope(specimen)[0]


def two_atoms(specimen: Specimen) -> Finding:
    return approach.approach_alone(specimen)[0]


def pushed(specimen: Specimen) -> Finding:
    return approach.approach_in_structure(specimen)[0]


OF_CRYSTALS = (laws.stress, laws.wrapping, laws.supercell)
CHECKS = (
    laws.forces,
    laws.rotation,
    laws.reflection,
    laws.translation,
    laws.permutation,
    laws.smooth_cutoff,
    laws.kinks,
    laws.isolated_atoms,
    nve,
    two_atoms,
    pushed,
    card.reference_energies,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_sound_potential_passes_on_a_molecule(specimen, check):
    found = check(specimen(wrong.Morse))
    assert (found.verdict, found.advice) == (Verdict.OK, "")
    assert found.share is not None
    assert 0.0 <= found.share <= 1.0


@pytest.mark.parametrize("check", OF_CRYSTALS, ids=lambda check: check.__name__)
def test_sound_potential_passes_on_a_crystal(specimen, check):
    assert check(specimen(wrong.Morse, crystal())).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("network", "check", "detail"),
    [
        (wrong.WrongForces, laws.forces, "the structure, against finite differences .* differ by"),
        (wrong.WrongForces, nve, r"dt\^-?[01]\.\d\d: .* meV/atom at 0\.125 fs"),
        (wrong.NotRotated, laws.rotation, "the structure, rotation 11: energy differ by"),
        (wrong.Handed, laws.reflection, "the structure, mirror x: energy differ by"),
        (wrong.FirstAtomCounts, laws.permutation, "atoms permuted: energy differ by"),
        (wrong.Jump, laws.smooth_cutoff, r"effect of an edge on energy vanishes .* as δ\^-?0\.\d"),
        (wrong.Cosine, laws.smooth_cutoff, r"on energy vanishes at the cutoff as δ\^2\.0"),
        (wrong.DeclaredJump, laws.smooth_cutoff, r"as δ\^-?0\.\d\d, expected δ\^2"),
        (wrong.Kink, laws.kinks, r"C between two H: the force constant .* a kink"),
        (wrong.Hole, pushed, r"\w+-\w+ turns at \d\.\d\d Å"),
        (wrong.NotANumber, two_atoms, "energy: NaN or infinite values"),
    ],
)
def test_wrong_potential_fails_by_the_check_that_it_breaks(specimen, network, check, detail):
    found = check(specimen(network))
    assert found.verdict is Verdict.FAILED
    assert found.share is None or found.share > 1.0
    assert found.advice
    assert re.search(detail, found.detail)


@pytest.mark.parametrize(
    ("network", "check"),
    [(wrong.WrongForces, laws.stress), (wrong.NotExtensive, laws.supercell)],
)
def test_wrong_potential_fails_on_a_crystal(specimen, network, check):
    found = check(specimen(network, crystal()))
    assert found.verdict is Verdict.FAILED
    assert "differ by" in found.detail


def test_where_elements_are_few_several_neighbours_are_pushed(specimen):
    few = approach.approach_in_structure(specimen(wrong.Morse, bulk("C", cubic=True).repeat(2)))[1]
    assert len(few) == len({path.name for path in few}) == 6
    many = approach.approach_in_structure(specimen(wrong.Morse))[1]  # ethanol
    kinds = [frozenset(re.sub(r"\d", "", path.name).split("-")) for path in many]
    assert len(kinds) == len(set(kinds)) == 4


# --- what a network gives up


@pytest.mark.parametrize(
    ("network", "check", "words"),
    [
        (wrong.DeclaredCosine, laws.smooth_cutoff, "with 1 vanishing derivative, as the card"),
        (wrong.DeclaredKink, laws.kinks, "within 1e-6 Å only: the card declares a kink beyond"),
    ],
)
def test_declared_concession_is_held_to_the_weaker_law(specimen, network, check, words):
    found = check(specimen(network))
    assert found.verdict is Verdict.OK
    assert words in found.detail


def test_declared_handedness_skips_reflection_and_nothing_else(specimen):
    handed = specimen(wrong.DeclaredHanded)
    found = laws.reflection(handed)
    assert (found.verdict, found.measured, found.limit) == (Verdict.SKIPPED, "-", "-")
    assert found.detail == "the card says that mirror images differ in energy"
    assert laws.rotation(handed).verdict is Verdict.OK


def test_forces_of_a_network_that_may_jump_still_have_to_be_derivatives(specimen):
    declared = type("Declared", (wrong.WrongForces,), {"vanishing_derivatives": 1})
    assert laws.forces(specimen(declared)).verdict is Verdict.FAILED


def test_concessions_are_read_back_from_the_sentences_of_a_card():
    for concessions in (
        Concessions(),
        Concessions(mirror_symmetric=False),
        Concessions(vanishing_derivatives=1, smooth_at_symmetric_sites=False),
    ):
        sentences = [*concessions.sentences(), "An atom alone has another energy."]
        assert Concessions.from_sentences(sentences) == concessions


# --- the card


def test_lone_atom_that_differs_as_the_card_says_passes(specimen):
    found = card.reference_energies(specimen(wrong.OwnEnergy))
    assert found.verdict is Verdict.OK
    assert found.found == pytest.approx(0.5)
    assert "+0.5 eV from its reference energy; the card says up to 0.5 eV" in found.detail


def test_lone_atom_that_differs_where_the_card_says_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_said_of_atoms", lambda *arguments: [])
    path = wrong.exported(wrong.OwnEnergy, tmp_path)
    calculator = EqCalculator(path, device="cpu", dtype="float64", engine="torchscript")
    found = card.reference_energies(specimen_of(calculator, ethanol()))
    assert found.verdict is Verdict.FAILED
    assert (found.found, found.allowed) == (pytest.approx(0.5), 1e-5)
    assert found.advice.startswith("Atomisation and dissociation energies")


KEPT = {
    "reference energies by": "kept",
    "parent's reference energies by": "kept",
    "parent's parent's reference energies by": "shifted",
}


@pytest.mark.parametrize("training_data", [{"reference energies by": "least_squares"}, KEPT])
def test_fitted_reference_energies_are_noted_and_not_judged(training_data, tmp_path):
    """Also those that a fine-tuning has kept of a model before it."""
    path = wrong.exported(wrong.OwnEnergy, tmp_path, training_data=training_data)
    calculator = EqCalculator(path, device="cpu", dtype="float64", engine="torchscript")
    found = card.reference_energies(specimen_of(calculator, ethanol()))
    assert found.verdict is Verdict.NOTED
    assert "a fit to totals: a single one means nothing" in found.detail
    assert "(a fit to totals; a single one means nothing)" in calculator.card.to_markdown()


@pytest.mark.parametrize("by", ["isolated_atoms", None])
def test_kept_reference_energies_that_were_no_fit_are_judged(by, tmp_path):
    texts = {"reference energies by": "kept", "parent's reference energies by": by}
    path = wrong.exported(wrong.OwnEnergy, tmp_path, training_data=texts)
    calculator = EqCalculator(path, device="cpu", dtype="float64", engine="torchscript")
    found = card.reference_energies(specimen_of(calculator, ethanol()))
    assert found.verdict is Verdict.OK


@pytest.mark.parametrize(
    ("training_data", "verdict", "detail"),
    [
        ({}, Verdict.SKIPPED, "not recorded on the card"),
        ({"compositions": ["C2H6O"]}, Verdict.OK, "C2H6O"),
        ({"compositions": ["H2O"]}, Verdict.NOTED, "C2H6O is none of those trained on: H2O"),
        (
            {"universal": True, "not good for": "molecules"},
            Verdict.SKIPPED,
            "universal, 3 elements, compositions not on its card; not good for molecules",
        ),
    ],
)
def test_composition_is_compared_with_the_card(tmp_path, training_data, verdict, detail):
    path = wrong.exported(wrong.Morse, tmp_path, training_data=training_data)
    calculator = EqCalculator(path, device="cpu", dtype="float64", engine="torchscript")
    found = card.composition(specimen_of(calculator, ethanol()))
    assert (found.verdict, found.detail) == (verdict, detail)


def test_a_low_wall_between_lone_atoms_is_noted_of_a_special_model_and_fails_a_universal_one(
    specimen, tmp_path
):
    special = two_atoms(specimen(wrong.Hole))
    assert special.verdict is Verdict.NOTED
    path = wrong.exported(wrong.Hole, tmp_path, training_data={"universal": True})
    calculator = EqCalculator(path, device="cpu", dtype="float64", engine="torchscript")
    universal = two_atoms(specimen_of(calculator, ethanol()))
    assert universal.verdict is Verdict.FAILED
    assert universal.found == special.found
    assert "hole in the wall" in universal.advice


@pytest.mark.parametrize(
    ("scale", "verdict", "detail"),
    [
        (1.0, Verdict.OK, r"5 pairs of elements; closest .*H-C 1\.\d\d Å"),
        (0.8, Verdict.NOTED, r"no \w-\w at 0\.\d\d Å in the training data \(atoms \d, \d\)"),
    ],
)
def test_distances_are_compared_with_those_of_the_card(tmp_path, scale, verdict, detail):
    path = wrong.exported(wrong.Morse, tmp_path, seen=seen_in([ethanol()], 4.0))
    calculator = EqCalculator(path, device="cpu", dtype="float64", engine="torchscript")
    atoms = ethanol()
    atoms.positions *= scale
    found = card.distances(specimen_of(calculator, atoms))
    assert found.verdict is verdict
    assert re.search(detail, found.detail)
    assert bool(found.advice) == (verdict is Verdict.NOTED)


# --- walls


def path_of(energies: list[float], shortest_bond: float = 0.5) -> Approach:
    distances = np.linspace(1.5, 0.3, len(energies))
    return Approach("C-O", distances, np.array(energies, dtype=float), shortest_bond)


def test_a_wall_that_only_rises_has_no_turn():
    path = path_of([1.0, 0.0, 3.0, 40.0, 300.0])
    assert path.turn() is None
    assert path.height == 300.0


def test_a_wall_that_falls_turns_at_its_top():
    path = path_of([1.0, 0.0, 3.0, 2.0, 300.0])
    assert path.turn() == (pytest.approx(0.9), 3.0)
    assert path.height == 3.0


def test_a_dent_that_holds_no_atom_is_no_turn():
    assert path_of([1.0, 0.0, 3.0, 2.96, 300.0]).turn() is None


def test_a_well_inside_every_bond_is_no_wall():
    path = path_of([5.0, 4.0, 3.0, 2.0, 1.0])
    assert path.turn() == (pytest.approx(0.3), 0.0)


def test_atoms_out_of_reach_have_no_approach_in_the_structure(specimen):
    apart = Atoms("CO", [[0, 0, 0], [0, 0, 3.9]])
    found = pushed(specimen(wrong.Morse, apart))
    assert (found.verdict, found.detail) == (
        Verdict.SKIPPED,
        "no two atoms of the structure are neighbours",
    )


# --- what is left out, with its reason


@pytest.mark.parametrize(
    "check",
    [laws.forces, laws.rotation, laws.reflection, laws.translation, laws.permutation],
    ids=lambda check: check.__name__,
)
def test_laws_of_atoms_out_of_reach_are_not_called_right(specimen, check):
    apart = Atoms("CO", [[0, 0, 0], [0, 0, 9]])
    found = check(specimen(wrong.WrongForces, apart))
    assert found.verdict is Verdict.SKIPPED
    assert found.detail.startswith("atoms stand out of each other's reach")


def test_laws_of_a_crystal_out_of_reach_are_not_called_right(specimen):
    apart = Atoms("CO", [[0, 0, 0], [0, 0, 5]], cell=[10, 10, 10], pbc=True)
    for check in OF_CRYSTALS:
        assert check(specimen(wrong.Morse, apart)).verdict is Verdict.SKIPPED


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (laws.stress, "a stress is defined where all three directions are periodic"),
        (laws.wrapping, "the structure is not periodic"),
        (laws.supercell, "the structure is not periodic"),
        (card.distances, "not recorded on the card"),
    ],
)
def test_check_that_is_left_out_says_why(specimen, check, reason):
    found = check(specimen(wrong.Morse))
    assert (found.verdict, found.detail) == (Verdict.SKIPPED, reason)


@pytest.mark.parametrize(
    ("atoms", "reason"),
    [
        (Atoms("C"), "one atom alone does not move against anything"),
        (Atoms("CO", [[0, 0, 0], [0, 0, 30.0]]), "no energy is exchanged: atoms stand out of"),
    ],
)
def test_nve_is_left_out_where_nothing_moves(specimen, atoms, reason):
    found = nve(specimen(wrong.Morse, atoms))
    assert found.verdict is Verdict.SKIPPED
    assert found.detail.startswith(reason)


# --- engines


def test_float32_agrees_with_float64(specimen):
    found = agreement.agreement(
        specimen(wrong.Morse), agreement.Way("torchscript", "cpu", "float32")
    )
    assert found.verdict is Verdict.OK
    assert 0.0 < found.share < 1.0


class Shifted:
    """An engine whose atoms have 1 meV too much."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __call__(self, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        energies, gradients = self._engine(graph)
        return energies + 1e-3, gradients

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)


class WithoutForces(Shifted):
    def __call__(self, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        energies, gradients = self._engine(graph)
        return energies, gradients * float("nan")


@pytest.mark.parametrize(
    ("engine", "quantity", "difference"),
    [(Shifted, "energy", 1e-3), (WithoutForces, "forces", float("nan"))],
)
def test_an_engine_that_gives_other_numbers_fails(
    specimen, engine, quantity, difference, monkeypatch
):
    def broken(*words: object, **options: object) -> Model:
        model = load_model(*words, **options)
        return replace(model, engine=engine(model.engine))

    monkeypatch.setattr(agreement, "load_model", broken)
    way = agreement.Way("torchscript", "cpu", "float32")
    found = agreement.agreement(specimen(wrong.Morse), way)
    assert found.verdict is Verdict.FAILED
    assert found.detail == f"{quantity} against torchscript cpu float64"
    assert found.found == pytest.approx(difference, rel=1e-2, nan_ok=True)
    assert "--dtype float64" in found.advice


def test_an_engine_that_breaks_the_passport_fails_with_its_message(specimen, monkeypatch):
    def refuse(*words, **options):
        raise ModelFileError("the model does not reproduce its own passport")

    monkeypatch.setattr(agreement, "load_model", refuse)
    way = agreement.Way("torchscript", "cpu", "float32")
    found = agreement.agreement(specimen(wrong.Morse), way)
    assert found.verdict is Verdict.FAILED
    assert found.detail == "the model does not reproduce its own passport"


def test_an_engine_that_is_not_compiled_is_left_out_with_the_command(
    specimen, monkeypatch, tmp_path
):
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path / "none"))
    found = agreement.agreement(specimen(wrong.Morse), agreement.Way("inductor", "cpu", "float32"))
    assert found.verdict is Verdict.SKIPPED
    assert "eqcalc compile" in found.detail


# --- the whole


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    """Return what verifying the sound potential found, and the calls of its progress."""
    calls = []
    path = wrong.exported(wrong.Morse, tmp_path_factory.mktemp("verified"))
    return verify_model(path, crystal(), progress=lambda *call: calls.append(call)), calls


def test_sound_model_passes_every_check_that_is_applied(verified):
    found, calls = verified
    assert found.passed
    assert found.failures == []
    assert found.count(Verdict.OK) >= 15
    assert calls[0][0] == 0
    assert calls[-1][0] == calls[-1][1]
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    names = {name for _, _, name in calls}
    assert {finding.check for finding in found.findings} == names - {"done"}


def test_json_of_a_verification_has_numbers_and_reasons(verified):
    content = json.loads(json.dumps(verified[0].as_dict()))
    assert content["passed"] is True
    assert content["structure"]["pbc"] == [True, True, True]
    (rotation,) = (check for check in content["checks"] if check["check"] == "rotation")
    assert rotation["verdict"] == "ok"
    assert rotation["found"] <= rotation["allowed"]
    assert content["nve"]["slope"] == pytest.approx(2.0, abs=0.3)
    assert len(content["approaches"][0]["energies_eV"]) == len(
        content["approaches"][0]["distances_A"]
    )


def test_picture_is_a_png_whatever_the_name_of_the_model(verified):
    file = verified[0].file
    named = replace(file, card=replace(file.card, name=r"$\x$"))
    assert verification_plot(replace(verified[0], file=named)).startswith(b"\x89PNG")


def test_without_a_structure_the_first_frame_of_the_passport_is_taken():
    atoms = default_structure(open_model_file("painn-ethanol"))
    assert atoms.get_chemical_formula() == "C2H6O"


@pytest.mark.parametrize(
    ("atoms", "error", "match"),
    [
        (Atoms("Xe"), UnsupportedElementError, "Xe"),
        (Atoms("CC", np.zeros((2, 3))), GraphError, "atoms"),
        (Atoms(), GraphError, "zero atoms"),
    ],
)
def test_a_structure_that_has_no_energy_is_refused(specimen, atoms, error, match):
    with pytest.raises(error, match=match):
        specimen(wrong.Morse, atoms)


def test_a_cell_of_one_atom_is_repeated_until_atoms_move_against_one_another(specimen):
    repeated = specimen(wrong.Morse, bulk("C", "fcc", a=2.9))
    assert len(repeated.atoms) == 4
    assert (
        np.abs(repeated.subject.call(repeated.subject.graph(repeated.rattled())).forces).max() > 0.1
    )
    assert nve(repeated).verdict is Verdict.OK
    assert pushed(repeated).verdict is Verdict.OK


def test_a_structure_that_is_too_large_is_refused(specimen):
    with pytest.raises(ConfigError, match=r"up to 20000 edges, found \d+ \(of 4000 atoms\)"):
        specimen(wrong.Morse, crystal().repeat((5, 10, 10)))


def test_supercells_that_are_too_large_are_left_out(specimen, monkeypatch):
    small = specimen(wrong.Morse, crystal())
    monkeypatch.setattr(laws, "_MOST_EDGES", 2 * small.n_edges)
    assert laws.supercell(small).verdict is Verdict.OK
    monkeypatch.setattr(laws, "_MOST_EDGES", 2 * small.n_edges - 1)
    found = laws.supercell(small)
    assert (found.verdict, found.detail[:32]) == (
        Verdict.SKIPPED,
        "two cells are too large for one ",
    )


def test_water_is_verified_like_every_other_molecule(specimen):
    assert laws.smooth_cutoff(specimen(wrong.Morse, molecule("H2O"))).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("pair", "bond", "is_bond"),
    [(("N", "N"), 1.10, True), (("C", "C"), 1.0, False), (("Cr", "Cr"), 1.68, True)],
)
def test_shortest_bonds_are_those_of_molecules(pair, bond, is_bond):
    assert (bond > approach._shortest_bond(*pair)) is is_bond


def test_of_a_molecule_in_a_box_no_crystal_is_invented():
    boxed = ethanol()
    boxed.set_cell([12.0] * 3)
    boxed.pbc = True
    found = specimen_of(EqCalculator("painn-ethanol", device="cpu", dtype="float64"), boxed)
    assert not any("rock salt" in name for name in found.symmetric_sites())
    silicon = bulk("Si", cubic=True)
    found = specimen_of(EqCalculator("nequip-silicon", device="cpu", dtype="float64"), silicon)
    assert "Si in an fcc crystal" in found.symmetric_sites()
