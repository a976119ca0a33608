"""Models of schnetpack 2.1 give its own numbers, which record_schnetpack.py wrote down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from eqcalc.errors import ConfigError, ModelFileError
from eqcalc.importers import Choices, ForeignFile, Imported, Inert, read_foreign
from eqcalc.importers import schnetpack as importer
from eqcalc.neighbours import build_graph
from eqcalc.tabulated import tabulated_form
from eqcalc.units import energy_unit, length_unit

FOLDER = Path(__file__).parents[1] / "data" / "imports" / "schnetpack"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())["models"]
FILES = [f"{kind}.model" for kind in EXPECTED] + ["painn_gaussian.ckpt"]
IN_EV = Choices("eV", "Angstrom")


def load(name: str, choices: Choices = IN_EV) -> Imported:
    file = read_foreign(FOLDER / name)
    assert importer.recognises(file)
    return importer.read(file, choices)


def converted(record: dict[str, Any], choices: Choices) -> tuple[Atoms, dict[str, Any]]:
    """Return a recorded structure and its numbers in eV and Å."""
    energy, length = energy_unit(str(choices.energy_unit)), length_unit(str(choices.length_unit))
    atoms = Atoms(
        record["symbols"],
        np.array(record["positions"]) * length,
        cell=np.array(record["cell"]) * length,
        pbc=record["pbc"],
    )
    return atoms, {
        "energy": record["energy"] * energy,
        "forces": np.array(record["forces"]) * energy / length,
        "stress": np.array(record.get("stress", [])) * energy / length**3,
    }


@pytest.mark.parametrize(
    "choices",
    [IN_EV, Choices("kcal/mol", "Angstrom"), Choices("Hartree", "Bohr")],
    ids=lambda choices: f"{choices.energy_unit}, {choices.length_unit}",
)
@pytest.mark.parametrize("name", FILES)
def test_an_imported_model_gives_the_numbers_of_schnetpack(name, choices):
    potential = load(name, choices).potential.double()
    for record in EXPECTED[name.partition(".")[0]].values():
        atoms, expected = converted(record, choices)
        found = potential.evaluate(build_graph(atoms, potential.cutoff, dtype=torch.float64))
        assert abs(float(found.energy) - expected["energy"]) < 1e-8 * len(atoms)
        np.testing.assert_allclose(found.forces, expected["forces"], rtol=0, atol=1e-7)
        if found.stress is not None:
            np.testing.assert_allclose(found.stress[0], expected["stress"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", FILES)
def test_the_tabulated_form_of_an_imported_model_agrees(name):
    potential = load(name).potential.double()
    network = potential.architecture
    fast = tabulated_form(network, torch.float64, 1e-7)
    for record in EXPECTED[name.partition(".")[0]].values():
        atoms, _ = converted(record, IN_EV)
        graph = build_graph(atoms, potential.cutoff, dtype=torch.float64)
        expected, found = network.atomic_energies(graph), fast.atomic_energies(graph)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_weights_stay_those_of_the_file():
    file = read_foreign(FOLDER / "painn_gaussian.model")
    imported = importer.read(file, Choices("Hartree", "Bohr"))
    network = imported.potential.architecture
    representation = file.content.attribute("representation")
    table = representation.attribute("embedding").attribute("weight")
    assert torch.equal(network.embedding.weight[:100], table)
    assert torch.equal(
        network.radial_basis.centres, representation.attribute("radial_basis").attribute("offsets")
    )
    assert network.embedding.weight.dtype == torch.float32
    assert network.vanishing_derivatives == 1


def test_elements_are_those_with_a_reference_energy_or_those_that_were_named():
    assert load("schnet_bessel.model").elements == ["H", "C", "O", "Na", "Si", "Cl"]
    named = load("schnet_bessel.model", Choices("eV", "Angstrom", elements=("O", "H")))
    assert named.elements == ["H", "O"]
    energies = named.potential.reference_energies
    assert torch.isnan(energies[6])
    assert float(energies[1]) == pytest.approx(-13.6 - 3.1, abs=1e-6)


def test_the_source_names_package_and_version():
    assert load(FILES[0]).source == {"package": "schnetpack", "version": "2.1.1"}


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (Choices(), r"does not say in which units .* give energy_unit \(eV, .*and length_unit \("),
        (Choices(energy_unit="eV"), r"give length_unit \(Angstrom, Bohr, nm\)"),
        (Choices(length_unit="Bohr"), r"give energy_unit \(eV"),
        (Choices("eV", "furlong"), r"unknown length unit 'furlong'"),
        (Choices("eV", "Angstrom", elements=("N",)), r"no reference energy for N; it has one for"),
    ],
)
def test_what_the_file_does_not_say_must_be_said(choices, message):
    with pytest.raises(ConfigError, match=message):
        load(FILES[0], choices)


# --- what is refused, by name


def changed(name: str, change: Any) -> ForeignFile:
    file = read_foreign(FOLDER / name)
    change(file.content)
    return file


def module(content: Any, path: str) -> Inert:
    """Return a module of a model, or of the model in a checkpoint."""
    if isinstance(content, dict):
        parameters = content["hyper_parameters"]
        content = getattr(parameters, "entries", parameters)["model"]
    for part in path.split(".") if path else []:
        content = content.attribute(part)
    return content


def put(path: str, name: str, value: Any, table: str = "") -> Any:
    """Return a function that sets an attribute, or an entry of one of a module's tables."""

    def change(content: Any) -> None:
        state = module(content, path).state
        (state[table] if table else state)[name] = value

    return change


def share_blocks(content: Any) -> None:
    blocks = module(content, "representation.interactions").state["_modules"]
    blocks["1"] = blocks["0"]


def lose(path: str, name: str) -> Any:
    def change(content: Any) -> None:
        del module(content, path).state["_parameters"][name]

    return change


def strip_names(content: Any) -> None:
    saved = content["state_dict"]
    content["state_dict"] = {name.removeprefix("model."): saved[name] for name in saved}


def scale_of(key: str, factor: float = 2.5) -> Any:
    """Return a function that appends a scale of a property."""
    buffers = {"scale": torch.tensor(factor)}
    state = {"input_key": key, "output_key": "energy", "_buffers": buffers}
    scaled = Inert("schnetpack.transform.atomistic.ScaleProperty", state=state)
    return put("postprocessors", "2", scaled, "_modules")


DENSE = "representation.interactions.0.interatomic_context_net.0"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "painn_gaussian.model",
            put("output_modules.0", "aggregation_mode", "avg"),
            r"'output_modules.0.aggregation_mode' is avg, where eqcalc's network has sum",
        ),
        (
            "painn_gaussian.model",
            put("representation", "share_filters", True),
            r"'representation.share_filters' is True, where .* False",
        ),
        (
            "painn_gaussian.model",
            put("representation.embedding", "max_norm", 1.0),
            r"'representation.embedding.max_norm' is 1.0, where eqcalc's network has None",
        ),
        ("painn_gaussian.model", share_blocks, r"shares its weights between blocks"),
        (
            "painn_gaussian.model",
            put("representation.mixing.1", "epsilon", 1e-6),
            r"'representation.mixing.1.epsilon' is 1e-06, where .* 1e-08",
        ),
        (
            "painn_gaussian.model",
            put(DENSE, "activation", Inert("torch.nn.functional.relu")),
            rf"'{DENSE}.activation' is torch.nn.functional.relu, where .*silu",
        ),
        (
            "schnet_gaussian.model",
            put("representation", "n_filters", 32),
            r"'representation.n_filters' is 32, where eqcalc's network has 16",
        ),
        (
            "painn_gaussian.model",
            put(
                "representation",
                "cutoff_fn",
                Inert("schnetpack.nn.cutoff.MollifierCutoff"),
                "_modules",
            ),
            r"'representation.cutoff_fn' is schnetpack.nn.cutoff.MollifierCutoff, where .*Cosine",
        ),
        (
            "painn_gaussian.model",
            put(
                "representation",
                "radial_basis",
                Inert("schnetpack.nn.radial.GaussianRBFCentered"),
                "_modules",
            ),
            r"GaussianRBFCentered, where .*GaussianRBF or .*BesselRBF",
        ),
        (
            "painn_gaussian.model",
            put(
                "representation.electronic_embeddings",
                "0",
                Inert("schnetpack.nn.embedding.ElectronicEmbedding"),
                "_modules",
            ),
            r"'representation.electronic_embeddings' is not empty",
        ),
        (
            "painn_gaussian.model",
            put("", "representation", Inert("schnetpack.representation.so3net.SO3net"), "_modules"),
            r"'representation' is schnetpack.representation.so3net.SO3net, where .*PaiNN or",
        ),
        (
            "painn_gaussian.model",
            put(
                "output_modules",
                "2",
                Inert("schnetpack.atomistic.electrostatic.EnergyEwald"),
                "_modules",
            ),
            r"'output_modules.2' is .*EnergyEwald",
        ),
        (
            "painn_gaussian.model",
            put("postprocessors.1", "is_extensive", False),
            r"'postprocessors.1.is_extensive' is False",
        ),
        (
            "painn_gaussian.model",
            put("", "do_postprocessing", False),
            r"'do_postprocessing' is False",
        ),
        (
            "painn_gaussian.model",
            lose("representation.filter_net", "weight"),
            r"the tensor 'representation.filter_net.weight' is missing",
        ),
        (
            "painn_gaussian.model",
            put("representation.filter_net", "weight", torch.zeros(3, 4), "_parameters"),
            r"the shape of 'representation.filter_net.weight' is \(3, 4\), where .*\(96, 8\)",
        ),
        (
            "painn_gaussian.model",
            put("representation.filter_net", "gain", torch.zeros(1), "_parameters"),
            r"'representation.filter_net.gain' is a tensor of the model, where .* no place for it",
        ),
        (
            "painn_gaussian.model",
            put("output_modules", "0", Inert("schnetpack.atomistic.response.Forces"), "_modules"),
            r"'output_modules' is 0 of class Atomwise",
        ),
        (
            "painn_gaussian.model",
            put("output_modules.0.outnet", "2", Inert("schnetpack.nn.base.Dense"), "_modules"),
            r"'output_modules.0.outnet' is 3 layers, where .* two",
        ),
        (
            "painn_gaussian.model",
            put("representation.embedding", "weight", torch.zeros(130, 16), "_parameters"),
            r"'representation.embedding' is for 130 elements, where .* 119 at most",
        ),
        (
            "painn_gaussian.model",
            scale_of("dipole_moment"),
            r"'postprocessors.2.input_key' is dipole_moment, where eqcalc's network has energy",
        ),
        (
            "painn_gaussian.model",
            scale_of("energy"),
            r"'postprocessors.2' is 2.5 times the energy alone, where .* has forces of it too",
        ),
        (
            "painn_gaussian.ckpt",
            lambda content: content.pop("state_dict"),
            r"the key 'state_dict' is missing",
        ),
        (
            "painn_gaussian.ckpt",
            lambda content: content["state_dict"].pop("model.representation.filter_net.weight"),
            r"no 'model.representation.filter_net.weight' \(1 such .*trained values are not known",
        ),
        (
            "painn_gaussian.ckpt",
            strip_names,
            r"its state_dict has no 'model\..* \(\d\d such tensors",
        ),
        (
            "painn_gaussian.ckpt",
            lambda content: content["callbacks"].update(ExponentialMovingAverage={}),
            r"averaged weights .*Give the 'best_model'",
        ),
    ],
)
def test_what_eqcalc_does_not_have_is_refused_by_name(name, change, message):
    file = changed(name, change)
    with pytest.raises(ModelFileError, match=message):
        importer.read(file, IN_EV)


def test_a_file_of_another_package_holds_no_model():
    file = read_foreign(Path(__file__).parent / "sevennet" / "xplor.pth")
    assert not importer.recognises(file)
    with pytest.raises(ModelFileError, match=r"xplor\.pth' holds no model of schnetpack"):
        importer.read(file, IN_EV)


def test_a_model_without_reference_energies_needs_elements():
    file = changed("painn_gaussian.model", put("postprocessors.1", "add_atomrefs", False))
    with pytest.raises(ConfigError, match=r"does not say which elements it was trained on"):
        importer.read(file, IN_EV)
    found = importer.read(file, Choices("eV", "Angstrom", elements=("H",)))
    assert float(found.potential.reference_energies[1]) == pytest.approx(-3.1, abs=1e-6)


def test_a_mean_that_is_not_added_is_in_no_reference_energy():
    file = changed("painn_gaussian.model", put("postprocessors.1", "add_mean", False))
    found = importer.read(file, IN_EV).potential.reference_energies
    assert float(found[1]) == pytest.approx(-13.6, abs=1e-6)


def test_a_scale_of_energies_that_have_no_forces_is_taken():
    def change(content: Any) -> None:
        strain = Inert("schnetpack.atomistic.response.Strain")
        put("output_modules", "1", strain, "_modules")(content)
        scale_of("energy")(content)

    plain = importer.read(changed("painn_gaussian.model", lambda content: None), IN_EV)
    scaled = importer.read(changed("painn_gaussian.model", change), IN_EV)
    assert float(scaled.potential.scale) == 2.5 * float(plain.potential.scale)
    # It comes after mean and references have been added, and is one of them too.
    expected = 2.5 * plain.potential.reference_energies
    torch.testing.assert_close(scaled.potential.reference_energies, expected, equal_nan=True)
