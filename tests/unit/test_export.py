"""Export: what is refused, what is left alone, and what the file promises."""

from __future__ import annotations

import copy
import json
import resource
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from safetensors.torch import load as load_safetensors
from small_models import (
    POTENTIALS,
    REFERENCE_ENERGIES,
    crystal,
    ethanol,
    export_small,
    potential,
    small_options,
)

import eqcalc
from eqcalc import EqCalculator
from eqcalc.architectures import build
from eqcalc.engines import load_model
from eqcalc.errors import (
    ConfigError,
    ModelFileError,
    OutputError,
    OutputExistsError,
    UnsupportedElementError,
)
from eqcalc.export import export_model, rebuild_potential
from eqcalc.model_file import PASSPORT, open_model_file
from eqcalc.model_file.entries import read_entries
from eqcalc.model_file.passport import Passport
from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential


def entry(path: Path, ending: str) -> bytes:
    """Return what the archive holds under a name that ends so."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith(ending)))


def scripted(path: Path) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(str(path))


# --- refusals ----------------------------------------------------------------------------


def test_no_elements_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="at least one element, found none"):
        export_model(potential(), tmp_path / "model.pt", elements=[])


def test_an_element_without_reference_energy_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no reference energy for N, Si; give one"):
        export_model(potential(), tmp_path / "model.pt", elements=["H", "Si", "N"])


@pytest.mark.parametrize(
    ("element", "named"),
    [
        ("Xx", r"'Xx' is no element"),
        ("carbon", "'carbon' is no element"),
        (0, "'0' is no element"),
        (119, "'119' is no element"),
        ("h", r"'h' is no element.*Did you mean 'H'"),
    ],
)
def test_an_unknown_element_is_refused(element, named, tmp_path):
    with pytest.raises(ConfigError, match=named):
        export_model(potential(), tmp_path / "model.pt", elements=["H", element])


def test_no_passport_frames_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="passport needs at least one frame"):
        export_model(potential(), tmp_path / "model.pt", elements="H", frames=[])


def test_a_passport_frame_of_another_element_is_refused(tmp_path):
    with pytest.raises(UnsupportedElementError, match=r"potential does not know O \(atoms 2\)"):
        export_model(potential(), tmp_path / "model.pt", elements="CH", frames=[ethanol()])
    assert list(tmp_path.iterdir()) == []


def test_what_a_card_cannot_hold_is_refused(tmp_path):
    content = {"n_frames": np.int64(3)}
    with pytest.raises(ConfigError, match=r"card cannot hold .* int64 is not JSON serializable"):
        export_model(potential(), tmp_path / "model.pt", elements="H", training_data=content)
    assert list(tmp_path.iterdir()) == []


def test_a_dtype_that_no_engine_runs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="unknown dtype 'bfloat16'; known: float32, float64"):
        export_model(potential(torch.bfloat16), tmp_path / "model.pt", elements="H")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_refused_and_kept(tmp_path):
    path = tmp_path / "model.pt"
    path.write_text("precious")
    with pytest.raises(OutputExistsError, match=r"model\.pt' exists; pass overwrite=True"):
        export_model(potential(), path, elements="H")
    assert path.read_text() == "precious"


def test_parameters_of_two_precisions_are_refused(tmp_path):
    mixed = potential()
    next(m for m in mixed.modules() if isinstance(m, torch.nn.Linear)).to(torch.float32)
    with pytest.raises(ConfigError, match=r"of several precisions, float32, float64; take one"):
        export_model(mixed, tmp_path / "model.pt", elements="H")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", POTENTIALS)
def test_a_cutoff_may_be_a_whole_number(name, tmp_path):
    options = small_options(name)
    (key,) = {"cutoff", "cut_off"} & set(options)
    network = build(name, **options | {key: 4})
    card = export_model(Potential(network, REFERENCE_ENERGIES), tmp_path / "model.pt", elements="H")
    assert card.cutoff == 4.0


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot create the folder of '.*model\.pt'"):
        export_model(potential(), tmp_path / "file" / "model.pt", elements="H")


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    path.mkdir()
    with pytest.raises(OutputError, match=r"cannot write '.*model\.pt'"):
        export_model(potential(), path, elements="H", overwrite=True)
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_that_does_not_reproduce_itself_is_not_written(tmp_path):
    broken = potential()
    with torch.no_grad():
        broken.architecture.embedding.weight[6] = torch.nan
    with pytest.raises(ModelFileError, match=r"export of '.*': the model does not reproduce"):
        export_model(broken, tmp_path / "model.pt", elements="CH")
    assert list(tmp_path.iterdir()) == []


# --- the potential and the file system ---------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_potential_is_not_changed(training, tmp_path):
    original = potential(torch.float32).train(training)
    original.architecture.embedding.weight.requires_grad_(False)
    twin = copy.deepcopy(original)
    export_model(original, tmp_path / "model.pt", elements="CH")
    assert original.training is training
    for (name, found), expected in zip(
        original.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        assert torch.equal(found.nan_to_num(), expected.nan_to_num()), name
        assert found.dtype == expected.dtype
    for found, expected in zip(original.parameters(), twin.parameters(), strict=True):
        assert (found.requires_grad, found.device) == (expected.requires_grad, expected.device)
        assert found.grad is None


def test_a_file_may_be_replaced(tmp_path):
    path = export_small(tmp_path / "model.pt")
    first = open_model_file(path).sha256
    export_model(potential(seed=4), path, elements="CHO", overwrite=True)
    assert open_model_file(path).sha256 != first
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = export_small(tmp_path / "model.pt")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write '.*model\.pt': File too large"):
            export_model(potential(seed=4), path, elements="CHO", overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_created_and_name_the_model(tmp_path):
    card = export_model(potential(), tmp_path / "models" / "mine" / "model.pt", elements="H")
    assert card.name == "mine"
    assert export_model(potential(), tmp_path / "other.pt", elements="H").name == "other"
    named = export_model(potential(), tmp_path / "x.pt", elements="H", name="painn-h")
    assert named.name == "painn-h"


@pytest.mark.parametrize(
    "context",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.device("meta"),  # stands for a GPU
    ],
    ids=["no_grad", "inference_mode", "autocast", "default device"],
)
def test_export_needs_nothing_of_the_caller(context, tmp_path):
    network = potential(torch.float32)
    with context():
        export_model(network, tmp_path / "model.pt", elements="H")
    assert load_model(tmp_path / "model.pt").card.elements == ["H"]


def test_a_network_is_rebuilt_in_inference_mode_too(models):
    file = open_model_file(models["double"])
    with torch.inference_mode():
        network = rebuild_potential(file)
    graph = build_graph(ethanol(), network.cutoff)
    expected = EqCalculator(models["double"], device="cpu").get_forces(ethanol())
    np.testing.assert_allclose(network.evaluate(graph).forces, expected, atol=1e-11)


# --- the file ----------------------------------------------------------------------------


def test_the_card_states_the_potential(tmp_path):
    path = tmp_path / "model.pt"
    card = export_model(
        potential(torch.float32),
        path,
        elements=[8, "H", 1],
        description="a test",
        licence="MIT",
        training_data={"frames": 3},
        errors={"energy_mae_mev": 2.0},
    )
    assert open_model_file(path).card == card
    assert card.elements == ["H", "O"]
    assert card.reference_energies == {z: REFERENCE_ENERGIES[z] for z in ("H", "O")}
    assert (card.architecture, card.cutoff, card.n_hops, card.dtype, card.scale) == (
        "painn",
        4.0,
        2,
        "float32",
        1.5,
    )
    assert card.config["embedding_dim"] == 16
    assert card.units == {"energy": "eV", "length": "Angstrom"}
    assert (card.description, card.licence) == ("a test", "MIT")
    assert (card.training_data, card.errors) == ({"frames": 3}, {"energy_mae_mev": 2.0})
    assert set(card.versions) == {"eqcalc", "torch"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_passport_is_recorded_in_float64(dtype, tmp_path):
    network = potential(dtype)
    export_model(network, tmp_path / "model.pt", elements="CHO", frames=[ethanol(), crystal()])
    passport = Passport.from_json(entry(tmp_path / "model.pt", PASSPORT).decode())
    assert set(passport.tolerances) == {"float32", "float64"}
    exact = copy.deepcopy(network).double()
    for frame, atoms in zip(passport.frames, (ethanol(), crystal()), strict=True):
        assert frame.atoms() == atoms
        found = exact.evaluate(build_graph(atoms, 4.0))
        assert frame.energy == pytest.approx(float(found.energy), rel=1e-14)
        np.testing.assert_allclose(frame.forces, found.forces, atol=1e-12)
        references = sum(REFERENCE_ENERGIES[symbol] for symbol in atoms.symbols)
        assert frame.interaction_energy == pytest.approx(frame.energy - references, abs=1e-9)


def test_the_default_passport_has_open_periodic_and_single_atom_frames(models):
    frames = json.loads(entry(models["double"], PASSPORT))["frames"]
    assert [frame["pbc"][0] for frame in frames] == [False, True, False]
    assert [len(frame["numbers"]) for frame in frames] == [6, 6, 1]
    assert all(set(frame["numbers"]) == {1, 6, 8} for frame in frames[:2])
    assert max(np.abs(frame["forces"]).max() for frame in frames) > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", POTENTIALS)
def test_weights_and_card_rebuild_the_eager_network(name, dtype, tmp_path):
    path = tmp_path / "model.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = build(name, **small_options(name)).to(dtype)
    original = Potential(network, REFERENCE_ENERGIES, scale=0.7).eval()
    export_model(original, path, elements="CHO")

    file = open_model_file(path)
    card, weights = file.card, load_safetensors(file.weights())
    rebuilt = Potential(
        build(card.architecture, **card.config).to(getattr(torch, card.dtype)),
        card.reference_energies,
        scale=card.scale,
    ).eval()
    rebuilt.load_state_dict(weights)

    expected = EqCalculator(path)
    for atoms in (ethanol(), crystal()):
        graph = build_graph(atoms, card.cutoff, dtype=dtype)
        found, same = rebuilt.evaluate(graph), original.evaluate(graph)
        assert float(found.energy) == float(same.energy)
        assert torch.equal(found.forces, same.forces)
        # The file's sums may run in another order.
        scale = 1.0 if dtype == torch.float64 else 1e6  # of float32's unit roundoff
        size = max(1.0, float(found.forces.abs().max()))
        assert float(found.energy) == pytest.approx(
            expected.get_potential_energy(atoms), abs=1e-11 * scale * size
        )
        np.testing.assert_allclose(
            found.forces, expected.get_forces(atoms), atol=1e-12 * scale * size
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", POTENTIALS)
def test_exact_isolated_atoms_become_reference_energies_of_the_file(name, dtype, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = build(name, **small_options(name)).to(dtype)
    original = Potential(network, REFERENCE_ENERGIES, scale=0.7, exact_isolated_atoms=True).eval()
    card = export_model(original, tmp_path / "model.pt", elements="CHO")
    assert original.exact_isolated_atoms
    assert float(original.reference_energies[8]) == REFERENCE_ENERGIES["O"]

    calculator = EqCalculator(tmp_path / "model.pt")
    rebuilt = rebuild_potential(open_model_file(tmp_path / "model.pt"))
    assert not rebuilt.exact_isolated_atoms
    alone, rounding = (1e-12, 1e-11) if dtype == torch.float64 else (2e-6, 2e-5)
    for symbol, energy in REFERENCE_ENERGIES.items():
        atom = Atoms(symbol)
        assert calculator.get_potential_energy(atom) == pytest.approx(energy, abs=alone)
        assert not calculator.get_forces(atom).any()
        found = rebuilt.evaluate(build_graph(atom, card.cutoff, dtype=dtype))
        assert float(found.energy) == pytest.approx(energy, abs=alone)
    for atoms in (ethanol(), crystal()):
        expected = original.evaluate(build_graph(atoms, card.cutoff, dtype=dtype))
        found = calculator.get_potential_energy(atoms)
        assert found == pytest.approx(float(expected.energy), rel=1e-14, abs=rounding)
        np.testing.assert_allclose(
            calculator.get_forces(atoms), expected.forces, rtol=rounding, atol=rounding
        )


def test_exact_isolated_atoms_of_elements_left_out_stay_unknown(tmp_path):
    original = Potential(
        build("nequip", **small_options("nequip") | {"elements": ["C", "H"]}).double(),
        REFERENCE_ENERGIES,
        exact_isolated_atoms=True,
    )
    card = export_model(original, tmp_path / "model.pt", elements="CH")
    assert set(card.reference_energies) == {"C", "H"}
    calculator = EqCalculator(tmp_path / "model.pt")
    energy = calculator.get_potential_energy(Atoms("C"))
    assert energy == pytest.approx(REFERENCE_ENERGIES["C"], abs=1e-12)
    with pytest.raises(UnsupportedElementError, match=r"does not know O"):
        calculator.get_forces(ethanol())


@pytest.mark.parametrize("name", ["painn", "gvp"])
def test_a_file_from_before_an_option_is_rebuilt_as_it_was(name, tmp_path):
    network = build(name, **small_options(name) | {"vector_norm": "published"}).double()
    potential = Potential(network, REFERENCE_ENERGIES).eval()
    export_model(potential, tmp_path / "model.pt", elements="CHO")
    file = open_model_file(tmp_path / "model.pt")
    del file.card.config["vector_norm"]
    found = rebuild_potential(file).evaluate(build_graph(ethanol(), file.card.cutoff))
    expected = EqCalculator(tmp_path / "model.pt").get_potential_energy(ethanol())
    assert float(found.energy) == pytest.approx(expected, abs=1e-10)


def test_a_network_that_computes_something_else_than_its_passport_is_not_rebuilt(tmp_path):
    network = build("painn", **small_options("painn") | {"vector_norm": "published"}).double()
    potential = Potential(network, REFERENCE_ENERGIES).eval()
    export_model(potential, tmp_path / "model.pt", elements="CHO")
    file = open_model_file(tmp_path / "model.pt")
    file.card.config["vector_norm"] = "smooth"
    with pytest.raises(ModelFileError, match=r"cannot be rebuilt .*does not reproduce its own"):
        rebuild_potential(file)


def test_the_file_names_no_folder_of_its_maker(tmp_path):
    entries = read_entries(export_small(tmp_path / "model.pt").read_bytes())
    folders = Path(eqcalc.__file__).parents[1], Path(torch.__file__).parent, tmp_path, Path.home()
    found = [(k, f) for k, v in entries.items() for f in folders if str(f).encode() in v]
    assert not found


def test_the_module_returns_plain_tensors_without_history(models):
    graph = build_graph(ethanol(), 4.0)
    module = scripted(models["double"])
    energies, gradients = module(
        graph.atomic_numbers, graph.edge_vectors, graph.edge_index, graph.n_owned
    )
    assert (energies.dtype, gradients.dtype) == (torch.float64, torch.float64)
    assert not energies.requires_grad
    assert not gradients.requires_grad
    assert not graph.edge_vectors.requires_grad


def test_ghost_atoms_carry_messages_and_no_energy(models):
    graph = build_graph(ethanol(), 4.0)
    module = scripted(models["double"])
    arguments = (graph.atomic_numbers, graph.edge_vectors, graph.edge_index)
    energies, whole = module(*arguments, 9)
    owned, part = module(*arguments, 4)
    torch.testing.assert_close(owned[:4], energies[:4], rtol=0, atol=0)
    shifted = graph.edge_vectors.clone()
    shifted[0, 0] += 1e-5
    above, _ = module(graph.atomic_numbers, shifted, graph.edge_index, 4)
    shifted[0, 0] -= 2e-5
    below, _ = module(graph.atomic_numbers, shifted, graph.edge_index, 4)
    slope = float(above[:4].sum() - below[:4].sum()) / 2e-5
    assert float(part[0, 0]) == pytest.approx(slope, abs=1e-6)
    assert not torch.allclose(part, whole)


def test_the_module_gives_nan_for_an_element_outside(models):
    module = scripted(models["double"])
    graph = build_graph(Atoms("CN", [[0, 0, 0], [1.2, 0, 0]]), 4.0)
    energies, _ = module(graph.atomic_numbers, graph.edge_vectors, graph.edge_index, 2)
    assert torch.isfinite(energies).tolist() == [True, False]


def test_elements_left_out_of_the_export_are_unknown_to_the_file(tmp_path):
    export_model(potential(), tmp_path / "ch.pt", elements="CH")
    with pytest.raises(UnsupportedElementError, match=r"does not know O"):
        EqCalculator(tmp_path / "ch.pt").get_forces(ethanol())
    module = scripted(tmp_path / "ch.pt")
    graph = build_graph(Atoms("O"), 4.0)
    energies, _ = module(graph.atomic_numbers, graph.edge_vectors, graph.edge_index, 1)
    assert torch.isnan(energies).all()
