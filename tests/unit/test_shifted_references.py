"""Reference energies of a fine-tuning."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from fine_tunings import (
    DATA,
    REFERENCES,
    SHIFT,
    config_of,
    data_text,
    labelled_molecules,
    small_potential,
    start_of,
)
from small_models import ETHANOL_FRAMES

from eqcalc.data import read_dataset
from eqcalc.elements import atomic_number
from eqcalc.engines import load_model
from eqcalc.errors import (
    DataError,
)
from eqcalc.evaluation import evaluate
from eqcalc.export import export_model
from eqcalc.neighbours import build_graph
from eqcalc.training.data import read_training_data
from eqcalc.training.finish import export_run
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder


@pytest.mark.parametrize("method", [None, "shifted"])
def test_another_level_of_theory_is_taken_into_the_reference_energies(method, parent, tmp_path):
    labelled_molecules(tmp_path / "new.xyz", small_potential(), SHIFT)
    keys = {} if method is None else {"reference_energies": method}
    text = data_text(tmp_path / "new.xyz", trust_data=True, **keys)
    start = start_of(config_of(tmp_path, text))
    for symbol, change in SHIFT.items():
        found = float(start.potential.reference_energies[atomic_number(symbol)])
        assert found == pytest.approx(REFERENCES[symbol] + change, abs=1e-5)
    assert start.parent["validation errors of the file as it is"]["energy_per_atom_mae_mev"] > 1000
    assert start.parent["validation errors before training"]["energy_per_atom_mae_mev"] < 0.01
    assert start.parent["validation errors before training"]["forces_mae_mev_per_a"] < 0.01
    assert float(start.potential.scale) == 1.5


def test_energies_of_one_composition_are_shifted_by_the_smallest_change(parent, tmp_path):
    config = config_of(tmp_path)
    start = start_of(config)
    changes = start.parent["reference energies changed by (eV)"]
    assert changes["H"] == pytest.approx(6 * changes["O"])  # as the numbers in C2H6O
    assert changes["C"] == pytest.approx(2 * changes["O"])
    data = read_training_data(config)
    model = load_model(parent, device="cpu")
    found = evaluate(model, data.train.frames).energy
    mean = np.mean(found.expected - found.predicted)
    total = 6 * changes["H"] + 2 * changes["C"] + changes["O"]
    assert total == pytest.approx(mean, abs=1e-6)


def test_kept_reference_energies_are_those_of_the_file(parent, tmp_path):
    start = start_of(config_of(tmp_path, data_text(ETHANOL_FRAMES, reference_energies="kept")))
    for symbol in ("H", "C", "O"):
        assert (
            float(start.potential.reference_energies[atomic_number(symbol)]) == REFERENCES[symbol]
        )
    errors = [
        start.parent[f"validation errors {when}"]
        for when in ("of the file as it is", "before training")
    ]
    assert errors[0] == errors[1]


def test_given_reference_energies_replace_those_of_the_file(parent, tmp_path):
    text = (
        data_text(ETHANOL_FRAMES) + "\nreference_energies = {H = -14.0, C = -1030.0, O = -2050.0}"
    )
    start = start_of(config_of(tmp_path, text))
    found = {s: float(start.potential.reference_energies[atomic_number(s)]) for s in "HCO"}
    assert found == {"H": -14.0, "C": -1030.0, "O": -2050.0}
    lacking = config_of(tmp_path, data_text(ETHANOL_FRAMES) + "\nreference_energies = {H = -14.0}")
    with pytest.raises(DataError, match="no reference energy for C, O in the given"):
        start_of(lacking)


def test_elements_of_old_frames_take_given_energies_and_those_of_isolated_atoms(parent, tmp_path):
    """N, of the replayed frames alone, is at the level of the others, which were given with it."""
    bpa = DATA / "3bpa_frames.xyz"
    replay = f'\n[replay]\npath = "{bpa}"\ntrust_data = true'
    given = {"H": -14.0, "C": -1030.0, "N": -1490.0, "O": -2050.0}
    atoms = {chemical_symbols[z]: e for z, e in read_dataset(bpa).isolated_atoms.items()}
    table = ", ".join(f"{symbol} = {energy}" for symbol, energy in given.items())
    files = ", ".join(f'"{path}"' for path in (ETHANOL_FRAMES.with_suffix(".xyz"), bpa))
    rows = 'train_rows = "0:4"\nvalidation_rows = "4:6"'
    for where, method, expected in (
        (f'"{ETHANOL_FRAMES}"', f"{{{table}}}", given),
        (f"[{files}]", '"isolated_atoms"', atoms),
    ):
        text = f"[data]\npath = {where}\n{rows}\nreference_energies = {method}{replay}"
        start = start_of(config_of(tmp_path, text))
        references = start.potential.reference_energies
        assert {s: float(references[atomic_number(s)]) for s in given} == pytest.approx(expected)
        change = start.parent["reference energies changed by (eV)"]["N"]
        assert abs(change) > 1.0  # and the old energies with it


def test_refitted_reference_energies_are_those_of_a_training_from_scratch(parent, tmp_path):
    from eqcalc.data import reference_energies

    text = data_text(ETHANOL_FRAMES, reference_energies="least_squares")
    config = config_of(tmp_path, text)
    start = start_of(config)
    frames = read_training_data(config).train.frames
    for number, energy in reference_energies(frames, "least_squares").items():
        assert float(start.potential.reference_energies[number]) == pytest.approx(energy, abs=1e-9)


def test_an_isolated_atom_has_the_energy_of_the_data_set(parent, tmp_path):
    bpa = DATA / "3bpa_frames.xyz"
    text = data_text(
        bpa, reference_energies="isolated_atoms", train_rows="0:7", validation_rows="7:8"
    )
    config = config_of(tmp_path, text)
    train(config, tmp_path / "run")
    finished = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model")
    model = load_model(finished.path, device="cpu")
    begun = load_model(tmp_path / "run" / "start.pt", device="cpu")
    expected = read_dataset(bpa).isolated_atoms
    assert sorted(expected) == [1, 6, 7, 8]
    for number, energy in expected.items():
        graph = build_graph(Atoms([number], [[0.0, 0.0, 0.0]]), model.card.cutoff)
        assert float(model(graph)[0]) == pytest.approx(energy, abs=1e-9)
        assert float(begun(graph)[0]) == pytest.approx(energy, abs=1e-9)


def test_a_card_calls_no_energy_of_an_atom_that_of_the_data_which_have_no_such_atom(
    parent, tmp_path
):
    """N, of the replayed frames alone, keeps the energy that the parent gives its atom."""
    bpa = DATA / "3bpa_frames.xyz"
    energies = {z: e for z, e in read_dataset(bpa).isolated_atoms.items() if z != 7}
    frames = ase.io.read(ETHANOL_FRAMES.with_suffix(".xyz"), index=":6")
    for number, energy in energies.items():
        atom = Atoms([number], info={"config_type": "IsolatedAtom"})
        atom.calc = SinglePointCalculator(atom, energy=energy, forces=np.zeros((1, 3)))
        frames.append(atom)
    ase.io.write(tmp_path / "new.xyz", frames)
    text = data_text(tmp_path / "new.xyz", reference_energies="isolated_atoms")
    start = start_of(config_of(tmp_path, f'{text}\n[replay]\npath = "{bpa}"\ntrust_data = true'))
    card = export_model(start.potential, tmp_path / "model.pt", elements="HCNO")
    alone = small_potential().evaluate(build_graph(Atoms("N"), 4.0)).energy
    energies[7] = float(alone)
    said = ", ".join(f"{chemical_symbols[z]} {energies[z]:.6f}" for z in (1, 6, 7, 8))
    assert f"eV), held in training at {said} eV." in card.gives_up[-1]
