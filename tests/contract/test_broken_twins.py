"""The contract rejects networks that are wrong, each by the law that it breaks."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from small import small_potential

from eqcalc.errors import ConfigError, ContractError
from eqcalc.potential import Potential
from eqcalc.testing import check_contract, twins
from eqcalc.testing.laws import (
    ANY_PRECISION,
    FLOAT64,
    ISOLATED_ATOMS,
    NETWORK,
    assert_isolated_atoms_are_exact,
    assert_rotation,
    law_name,
)
from eqcalc.testing.subjects import potential_subject
from eqcalc.testing.twins import BROKEN, Sound, TwinPotential, twin_potential

EVERY = {law_name(law): law for law in (*ANY_PRECISION, *FLOAT64, *NETWORK)}
LAWS = EVERY | {law_name(law): law for law in ISOLATED_ATOMS}

REJECTIONS: list[tuple[type, str, str]] = [
    (twins.FirstComponent, "rotation", r"ethanol, rotation 11: energy differ by"),
    (twins.FirstComponent, "reflection", r"mirror x: energy differ by"),
    (twins.SumOfComponents, "rotation", r"ethanol, rotation 11: energy differ by"),
    (twins.GatePerAxis, "rotation", r"ethanol, rotation 11: energy differ by"),
    (twins.Handed, "reflection", r"ethanol, mirror x: energy differ by"),
    (twins.Numbered, "atom_permutation", r"ethanol, atoms permuted: energy differ by"),
    (twins.FirstEdgeCounts, "edge_permutation", r"ethanol, edges permuted: energy differ by"),
    (twins.UsesCell, "supercell_scales", r"repeated \(2, 1, 1\): energy differ by"),
    (twins.UsesCell, "stress_is_derivative", r"finite differences of the energy: stress differ"),
    (twins.OneImageOnly, "supercell_scales", r"repeated \(.*\): energy differ by"),
    (twins.OneImageOnly, "ghosts_stand_for_images", r"with ghosts: energy differ by"),
    (twins.NoSelfImages, "supercell_scales", r"repeated \(.*\): energy differ by"),
    (twins.NoSelfImages, "ghosts_stand_for_images", r"with ghosts: energy differ by"),
    (twins.SharpCutoff, "smooth_at_cutoff", r"effect of an edge on energy vanishes .* δ\^-?0\.\d"),
    (twins.NoCutoff, "no_effect_beyond_cutoff", r"CO at 1 cutoffs: forces must be exactly zero"),
    (twins.CosineCutoff, "smooth_at_cutoff", r"effect of an edge on energy vanishes .* δ\^2\.0"),
    (twins.BiasOutsideEnvelope, "no_effect_beyond_cutoff", r"energies differ by"),
    (twins.BiasOutsideEnvelope, "smooth_at_cutoff", r"effect of an edge on energy"),
    (twins.MeanOverNeighbours, "no_effect_beyond_cutoff", r"beyond the cutoff listed as well"),
    (twins.MeanOverNeighbours, "smooth_at_cutoff", r"water: the effect of an edge on energy"),
    (twins.OwnFeatures, "neighbours_matter", r"species of the only neighbour changes .* by 0 eV"),
    (twins.OwnScalars, "neighbours_matter", r"one edge: species of the sender changes .* by 0 eV"),
    (twins.BlindToDistance, "neighbours_matter", r"distance of the only neighbour changes"),
    (twins.SumAtSender, "edges_act_on_their_receiver", r"atom 0 receives no edge: energies differ"),
    (twins.TooFewHops, "ghosts_stand_for_images", r"with ghosts: energy differ by"),
    (twins.GlobalMean, "batch_equals_singles", r"batch of .*: energy differ by"),
    (twins.StructureMean, "distant_molecules_add_up", r"ethanol and water .*: energy differ by"),
    (twins.NotExtensive, "distant_molecules_add_up", r"ethanol and water .*: energy differ by"),
    (twins.NotExtensive, "supercell_scales", r"energy differ by"),
    (twins.DetachedDistances, "forces_are_derivatives", r"ethanol, against .*: forces differ by"),
    (twins.SeparateForces, "forces_are_derivatives", r"ethanol, against .*: forces differ by"),
    (twins.SeparateForces, "stress_is_derivative", r"stress differ by"),
    (
        twins.ForgetsOwnEnergy,
        "isolated_atoms_are_exact",
        r"from ethanol, against its reference energy: energies differ by",
    ),
    (twins.DiscardedUpdate, "every_parameter_learns", r"without a gradient: .*updates\.0"),
    (twins.PublishedNorm, "smooth_at_symmetric_sites", r"diamond: the force constant .* a kink"),
    (twins.NormWithoutEpsilon, "finite_second_derivatives", r"isolated C .* NaN or infinite"),
    (twins.NormWithoutEpsilon, "batch_equals_singles", r"forces: NaN or infinite"),
    (twins.TorchNorm, "finite_second_derivatives", r"NaN or infinite second derivatives"),
    (twins.AnglesByArccosine, "finite_second_derivatives", r"CO2 along z .* NaN or infinite"),
    (twins.AnglesExcludedByIndex, "supercell_scales", r"repeated \(.*\): energy differ by"),
    (twins.AnglesExcludedByIndex, "ghosts_stand_for_images", r"with ghosts: energy differ by"),
    (twins.BareSqueeze, "isolated_atoms_feel_nothing", r"isolated H: evaluation failed with"),
    (twins.BareSqueeze, "batch_equals_singles", r"single: evaluation failed with"),
    (twins.AssumesEdges, "isolated_atoms_feel_nothing", r"isolated H: evaluation failed with"),
    (twins.AssumesEdges, "batch_equals_singles", r"evaluation failed with"),
    (twins.WritesToInput, "inputs_unchanged", r"changed its input atomic_numbers"),
    (twins.RunningMean, "no_memory", r"evaluated again: energy differ by"),
    (twins.RandomNoise, "no_memory", r"evaluated again: energy differ by"),
    (twins.RandomNoise, "globals_untouched", r"used torch's random numbers"),
    (
        twins.DefaultPrecision,
        "globals_untouched",
        r"default dtype torch.float64: energ.* differ",
    ),
    (twins.SinglePrecisionInside, "forces_are_derivatives", r"forces differ by"),
    (twins.AlwaysDouble, "energies_keep_the_dtype", r"vectors in torch.float32 are torch.float64"),
    (twins.SetsDefaultDtype, "globals_untouched", r"the default dtype was changed to"),
]


def _apply(law: str, twin: type) -> None:
    """Apply a law, leaving the default dtype as it was even where a twin changes it."""
    try:
        LAWS[law](potential_subject(twin_potential(twin), "twin"))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("law", EVERY)
def test_sound_network_passes(law):
    _apply(law, Sound)


@pytest.mark.parametrize(
    ("twin", "law", "match"), REJECTIONS, ids=[f"{t.__name__}-{law}" for t, law, _ in REJECTIONS]
)
def test_broken_twin_is_rejected(twin, law, match):
    with pytest.raises(ContractError, match=match):
        _apply(law, twin)


def test_sound_network_keeps_its_promise_of_exact_isolated_atoms():
    promising = twin_potential(Sound)
    promising.exact_isolated_atoms = True
    assert_isolated_atoms_are_exact(potential_subject(promising, "twin"))


def test_every_twin_has_a_law_that_rejects_it():
    wrong = {
        member
        for _, member in inspect.getmembers(twins, inspect.isclass)
        if issubclass(member, (Sound, TwinPotential)) and member not in (Sound, TwinPotential)
    }
    assert wrong == {twin for twin, _, _ in REJECTIONS} == set(BROKEN)


@pytest.mark.parametrize("promised", [True, False])
def test_exact_isolated_atoms_are_held_to_their_promise_and_no_others(promised):
    network = small_potential("schnet").architecture
    report = check_contract(Potential(network, exact_isolated_atoms=promised))
    applied = {check.form for check in report.checks if check.law == "isolated_atoms_are_exact"}
    everywhere = {check.form for check in report.checks if check.law == "rotation"}
    assert applied == (everywhere if promised else set())
    assert len(everywhere) == 4


def test_exact_isolated_atoms_are_no_law_of_a_potential_that_does_not_promise_them():
    with pytest.raises(ConfigError, match=r"twin: this law needs exact_isolated_atoms"):
        assert_isolated_atoms_are_exact(potential_subject(twin_potential(Sound), "twin"))


def test_every_law_says_what_failed_and_by_how_much():
    with pytest.raises(ContractError) as caught:
        assert_rotation(potential_subject(twin_potential(twins.SumOfComponents), "twin"))
    assert re.fullmatch(
        r"twin: ethanol, rotation 11: energy differ by \S+, allowed \S+", str(caught.value)
    )
