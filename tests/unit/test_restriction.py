"""A fine-tuning keeps the network of its file, for the elements that it needs."""

from __future__ import annotations

import pytest
import torch
from ase.build import molecule
from fine_tunings import (
    REFERENCES,
    config_of,
    data_text,
    export_parent,
    pairs_potential,
    small_potential,
    start_of,
)
from small_models import ETHANOL_FRAMES, POTENTIALS
from torch import nn

from eqcalc.data import read_dataset
from eqcalc.elements import atomic_number
from eqcalc.engines import load_model
from eqcalc.errors import (
    ConfigError,
    ModelFileError,
)
from eqcalc.model_file import read_card
from eqcalc.neighbours import build_graph
from eqcalc.training.finish import export_run
from eqcalc.training.restriction import restrict
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder


@pytest.mark.parametrize("name", POTENTIALS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_training_starts_with_the_energies_and_forces_of_the_file(name, dtype, tmp_path):
    path = export_parent(tmp_path / "parent.pt", small_potential(name, dtype))
    config = config_of(tmp_path, data_text(ETHANOL_FRAMES, reference_energies="kept"))
    start = start_of(config)
    weight = next(start.potential.parameters())
    assert weight.dtype == dtype
    assert weight.requires_grad
    assert start.potential.training
    model = load_model(path, device="cpu", engine="torchscript")
    scale = 1e-9 if dtype == torch.float64 else 2e-5
    for frame in read_dataset(ETHANOL_FRAMES).frames:
        graph = build_graph(frame.atoms, model.card.cutoff, dtype=dtype)
        energies, gradients = start.potential(graph)
        expected = model(graph)
        torch.testing.assert_close(energies.detach(), expected[0], rtol=0, atol=scale)
        torch.testing.assert_close(gradients.detach(), expected[1], rtol=0, atol=scale)


@pytest.mark.parametrize("elements", [None, ["O", "N", "C", "H"]])
def test_a_network_with_rows_per_element_keeps_those_that_are_needed(elements, tmp_path):
    whole = small_potential("nequip", elements=elements, first_self_connection=True)
    export_parent(tmp_path / "parent.pt", whole)
    start = start_of(config_of(tmp_path, data_text(ETHANOL_FRAMES, reference_energies="kept")))
    assert start.architecture["elements"] == ["H", "C", "O"]
    rows = [whole.architecture.species_of[atomic_number(s)] for s in ("H", "C", "O")]
    kept = whole.architecture.embedding.weight[torch.stack(rows)]
    assert torch.equal(start.potential.architecture.embedding.weight, kept)
    n_rows = {
        p.shape[0] for p in start.potential.architecture.interactions[0].self_connection.weights
    }
    assert n_rows == {3}
    assert len(start.model) < (tmp_path / "parent.pt").stat().st_size
    known = torch.nonzero(~torch.isnan(start.potential.reference_energies)).flatten().tolist()
    assert known == [1, 6, 8]


@pytest.mark.parametrize(
    "options",
    [
        {
            "avg_num_neighbors": [3.0, 5.0, 7.0, 9.0],
            "pair_cutoffs": [
                [3.0, 3.1, 3.2, 3.3],
                [3.1, 3.4, 3.5, 3.6],
                [3.2, 3.5, 3.7, 3.8],
                [3.3, 3.6, 3.8, 4.0],
            ],
            "per_species_shift": True,
        },
        {"parity": False, "mirror_symmetric": False, "num_features": [8, 4], "modalities": 2},
        {"self_connection": "linear", "xplor_onset": 3.0, "readout_mlp": [8]},
    ],
)
def test_a_network_as_others_make_them_is_restricted(options, tmp_path):
    """The order of elements is that of atomic numbers: H, C, N, O without N."""
    whole = small_potential("nequip", l_max=1, elements=list(REFERENCES), **options)
    export_parent(tmp_path / "parent.pt", whole)
    start = start_of(config_of(tmp_path, data_text(ETHANOL_FRAMES, reference_energies="kept")))
    if "pair_cutoffs" in options:
        assert start.architecture["avg_num_neighbors"] == [3.0, 5.0, 9.0]
        rows = [[3.0, 3.1, 3.3], [3.1, 3.4, 3.6], [3.3, 3.6, 4.0]]
        assert start.architecture["pair_cutoffs"] == rows
    for frame in read_dataset(ETHANOL_FRAMES).frames:
        graph = build_graph(frame.atoms, 4.0)
        expected, found = whole.evaluate(graph), start.potential.eval().evaluate(graph)
        torch.testing.assert_close(found.energies, expected.energies, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-9)


def test_elements_of_the_training_file_stay(tmp_path):
    export_parent(tmp_path / "parent.pt", small_potential("nequip", elements=list(REFERENCES)))
    text = '[architecture]\nelements = ["H", "C", "O", "N"]'
    config = config_of(tmp_path, text)
    assert start_of(config).architecture["elements"] == ["H", "C", "N", "O"]
    train(config, tmp_path / "run")
    finished = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model")
    assert finished.card.elements == ["H", "C", "N", "O"]
    for elements, message in (
        ('["H", "C", "O", "S"]', "has S, which 'parent' does not know; it knows H, C, N, O"),
        ('["H", "C"]', "lacks O, which the frames have"),
    ):
        with pytest.raises(ConfigError, match=message):
            start_of(config_of(tmp_path, f"[architecture]\nelements = {elements}"))


def test_options_with_an_entry_per_element_are_cut_where_they_are_declared(tmp_path, monkeypatch):
    declared = 'PER_ELEMENT = ("strengths",)'
    potential = pairs_potential(tmp_path, monkeypatch, declared)
    export_parent(tmp_path / "parent.pt", potential)
    card = read_card(tmp_path / "parent.pt")
    smaller = restrict(potential, card, ["H", "O"])
    assert smaller.architecture.config.strengths == [[1.0, 4.0], [4.0, 0.5]]
    atoms = molecule("H2O")
    graph = build_graph(atoms, 4.0)
    expected, found = (each.evaluate(graph).energies for each in (potential, smaller))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert float((expected - potential.reference_energies[graph.atomic_numbers]).abs().min()) > 0.1


def test_undeclared_options_per_element_are_refused(tmp_path, monkeypatch):
    potential = pairs_potential(tmp_path, monkeypatch)
    export_parent(tmp_path / "parent.pt", potential)
    message = (
        r"'parent' cannot be restricted to H, O: its energies change by [\d.e+-]+\. .* must stand "
        r"in PER_ELEMENT .*; or keep all elements: elements = \[\.\.\.\]"
    )
    with pytest.raises(ModelFileError, match=message):
        restrict(potential, read_card(tmp_path / "parent.pt"), ["H", "O"])


def test_energies_that_change_with_the_number_of_elements_are_refused(tmp_path, monkeypatch):
    declared = 'PER_ELEMENT = ("strengths",)'
    factor = "float(len(elements))"
    potential = pairs_potential(tmp_path, monkeypatch, declared, factor=factor)
    export_parent(tmp_path / "parent.pt", potential)
    with pytest.raises(ModelFileError, match=r"to H, O: its energies change by \d"):
        restrict(potential, read_card(tmp_path / "parent.pt"), ["H", "O"])


def test_rows_that_cannot_be_told_apart_are_refused(tmp_path, monkeypatch):
    declared = 'PER_ELEMENT = ("strengths",)'
    potential = pairs_potential(tmp_path, monkeypatch, declared, "len(numbers)", "i")
    export_parent(tmp_path / "parent.pt", potential)
    message = r"cannot be restricted to H, O: 8 rows cannot be those of 4 elements"
    with pytest.raises(ModelFileError, match=message):
        restrict(potential, read_card(tmp_path / "parent.pt"), ["H", "O"])


def test_another_number_of_axes_for_fewer_elements_is_refused(tmp_path, monkeypatch):
    declared = 'PER_ELEMENT = ("strengths",)'
    potential = pairs_potential(tmp_path, monkeypatch, declared)
    export_parent(tmp_path / "parent.pt", potential)
    card = read_card(tmp_path / "parent.pt")
    potential.architecture.weight = nn.Parameter(potential.architecture.weight.detach()[None])
    with pytest.raises(ModelFileError, match="a tensor has 2 axes, and 1 for fewer elements"):
        restrict(potential, card, ["H", "O"])
