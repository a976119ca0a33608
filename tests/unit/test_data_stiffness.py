"""Forces of the wrong sign or unit are told by the force constants of bonds, in real sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from eqcalc.data import LabelledFrame, read_dataset
from eqcalc.data.plausibility import find_implausible
from eqcalc.data.stiffness import bond_stiffnesses, stiffness_refusal

EXAMPLES = Path(__file__).parents[2] / "examples" / "data"
SETS = {
    "ethanol": EXAMPLES / "ethanol_rmd17_test.npz",
    "water": EXAMPLES / "water_revpbe0d3_test.xyz.gz",
    "silicon": EXAMPLES / "silicon_mlearn_test.xyz.gz",
}
FACTORS = {
    "kcal/mol/Å": units.mol / units.kcal,
    "kJ/mol/Å": units.mol / units.kJ,
    "meV/Å": 1000.0,
    "Hartree/Bohr": units.Bohr / units.Hartree,
    "Hartree/Å": 1.0 / units.Hartree,
}


@pytest.fixture(scope="module")
def sets() -> dict[str, list[LabelledFrame]]:
    return {name: read_dataset(path).frames[:40] for name, path in SETS.items()}


def times(factor: float, frames: list[LabelledFrame]) -> list[LabelledFrame]:
    return [replace(frame, forces=frame.forces * factor) for frame in frames]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Spectroscopy: 4.7 to 5.1 mdyn/Å for C-H, 7.1 to 7.8 for O-H; 1 mdyn/Å is 6.24 eV/Å².
        ("ethanol", {("C", "H"): (28, 36), ("O", "H"): (40, 50)}),
        ("water", {("O", "H"): (38, 50)}),
        ("silicon", {("Si", "Si"): (1.5, 6)}),
    ],
)
def test_bonds_have_the_force_constants_of_spectroscopy(sets, name, expected):
    found = {each.elements: each for each in bond_stiffnesses(sets[name])}
    for elements, (low, high) in expected.items():
        assert low < found[elements].force_constant < high
    assert stiffness_refusal(sets[name]) is None


@pytest.mark.parametrize("name", list(SETS))
def test_forces_with_the_sign_of_a_gradient_are_refused(sets, name):
    wrong = times(-1.0, sets[name])
    assert "they have the sign of a gradient" in stiffness_refusal(wrong)
    assert any("sign of a gradient" in text for text in find_implausible(wrong).refused)


def every_third(k: int) -> bool:
    return k % 3 == 0


def in_the_second_half(k: int) -> bool:
    return k >= 20


@pytest.mark.parametrize("name", ["ethanol", "water"])
@pytest.mark.parametrize("is_other", [every_third, in_the_second_half])
def test_frames_of_both_signs_in_one_file_are_refused_by_name(sets, name, is_other):
    frames = [times(-1.0, [f])[0] if is_other(k) else f for k, f in enumerate(sets[name])]
    text = stiffness_refusal(frames)
    others = [frame.origin for k, frame in enumerate(frames) if is_other(k)]
    assert f"({len(others)} of {len(frames)} that were looked at: {others[0]}, {others[1]}" in text
    assert any(
        "gradients stand beside each other" in each for each in find_implausible(frames).refused
    )


def test_a_bond_that_breaks_is_no_frame_of_another_sign():
    frames = []
    for stretch in np.linspace(0.85, 1.3, 40):  # beyond its inflection it is pulled less by length
        atoms = molecule("CH3CH2OH")
        atoms.rattle(0.002, seed=len(frames))
        atoms.set_distance(0, 3, 1.1 * stretch, fix=0)
        vector = atoms.positions[3] - atoms.positions[0]
        well = np.exp(-5.0 * 1.1 * (stretch - 1.0))
        pull = -2 * 4.5 * 5.0 * (1.0 - well) * well * vector / np.linalg.norm(vector)
        forces = np.random.default_rng(len(frames)).normal(0, 0.02, (len(atoms), 3))
        forces[3] += pull
        forces[0] -= pull
        frames.append(LabelledFrame(atoms, 0.0, forces, None))
    assert stiffness_refusal(frames) is None


@pytest.mark.parametrize("name", ["ethanol", "water"])
@pytest.mark.parametrize("unit", list(FACTORS))
def test_forces_in_another_unit_are_refused_with_its_name(sets, name, unit):
    text = stiffness_refusal(times(FACTORS[unit], sets[name]))
    assert f"forces in {unit} read as eV/Å" in text


@pytest.mark.parametrize("name", list(SETS))
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_factor_that_may_be_chemistry_is_no_evidence(sets, name, factor):
    assert stiffness_refusal(times(factor, sets[name])) is None


def copper(k: int, amplitude: float) -> LabelledFrame:
    atoms = bulk("Cu", cubic=True) * 2
    atoms.rattle(amplitude, seed=k)
    atoms.calc = EMT()
    return LabelledFrame(atoms, atoms.get_potential_energy(), atoms.get_forces(), None)


def test_a_metal_is_judged_too():
    frames = [copper(k, 0.05) for k in range(10)]
    (found,) = bond_stiffnesses(frames)
    assert found.elements == ("Cu", "Cu")
    assert 0.5 < found.force_constant < 5.0
    assert stiffness_refusal(frames) is None
    assert "sign of a gradient" in stiffness_refusal(times(-1.0, frames))


def test_structures_at_rest_say_nothing():
    strained = []
    for scale in np.linspace(0.95, 1.05, 11):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell * scale, scale_atoms=True)
        atoms.calc = EMT()
        strained.append(
            LabelledFrame(atoms, atoms.get_potential_energy(), -atoms.get_forces(), None)
        )
    assert bond_stiffnesses(strained) == []
    # Bonds of different kinds, with what a relaxation leaves of forces.
    noise = np.random.default_rng(0)
    relaxed = []
    for name in ("CH4", "C2H6", "C2H4", "C2H2", "CH3OH", "H2CO", "HCN", "H3CNH2", "C6H6") * 3:
        atoms = molecule(name)
        relaxed.append(LabelledFrame(atoms, 0.0, noise.normal(0, 0.02, (len(atoms), 3)), None))
    assert stiffness_refusal(relaxed) is None
    assert stiffness_refusal(times(-1.0, relaxed)) is None


def relaxed_elsewhere(repeats: int) -> list[LabelledFrame]:
    """Return equilibria whose C-C bonds, of all kinds, are pulled by their length.

    So do the forces of one level in structures that were relaxed at another: these would make long
    ones longer and short ones shorter, by half an eV/Å.
    """
    frames = []
    for name in ("C2H6", "C2H4", "C2H2", "C6H6", "CH3CHO", "C3H8", "C3H4_C3v", "C4H4NH", "C4H4O"):
        for _ in range(repeats):
            atoms = molecule(name)
            forces = np.zeros((len(atoms), 3))
            for a in range(len(atoms)):
                for b in range(a):
                    vector = atoms.positions[a] - atoms.positions[b]
                    length = float(np.linalg.norm(vector))
                    if set(atoms.symbols[[a, b]]) == {"C"} and length < 1.7:
                        pull = 4.0 * (length - 1.4) * vector / length
                        forces[a] += pull
                        forces[b] -= pull
            frames.append(LabelledFrame(atoms, 0.0, forces, None))
    return frames


@pytest.mark.parametrize("repeats", [1, 5])
def test_bonds_of_several_kinds_are_not_compared_with_each_other(repeats):
    frames = relaxed_elsewhere(repeats)
    assert max(np.abs(frame.forces).max() for frame in frames) > 0.3
    assert stiffness_refusal(frames) is None


def test_frames_without_forces_or_bonds_say_nothing():
    alone = LabelledFrame(Atoms("Ar"), 0.0, np.zeros((1, 3)), None)
    without = LabelledFrame(molecule("C2H6"), 0.0, None, None)
    assert bond_stiffnesses([]) == bond_stiffnesses([alone, without] * 20) == []
    assert stiffness_refusal([alone, without]) is None
