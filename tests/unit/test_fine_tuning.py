"""Fine-tuning: the parent, its elements and reference energies, frozen parts, old frames."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from small_models import ETHANOL_FRAMES, POTENTIALS, small_options
from torch import nn

from eqcalc import architectures
from eqcalc.data import read_dataset
from eqcalc.elements import atomic_number
from eqcalc.engines import load_model
from eqcalc.errors import (
    ConfigError,
    DataError,
    ModelFileError,
    UnknownModelError,
    UnsupportedElementError,
)
from eqcalc.evaluation import evaluate
from eqcalc.export import export_model, rebuild_potential
from eqcalc.model_file import open_model_file, read_card
from eqcalc.neighbours import build_graph
from eqcalc.nn.zbl import ZBL
from eqcalc.potential import Potential
from eqcalc.training.config import read_config
from eqcalc.training.data import read_training_data
from eqcalc.training.fine_tuning import build_fine_tuning
from eqcalc.training.finish import export_run, load_potential
from eqcalc.training.freezing import freeze
from eqcalc.training.loaders import training_batches
from eqcalc.training.replay import read_replay
from eqcalc.training.restriction import restrict
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder

DATA = Path(__file__).parents[1] / "data"
REFERENCES = {"H": -13.5, "C": -1029.0, "N": -1484.0, "O": -2042.0}


def small_potential(name: str = "painn", dtype: torch.dtype = torch.float64, **options: object):
    """Return a small untrained potential for H, C, N and O."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = architectures.build(name, **{**small_options(name), **options})
    return Potential(network.to(dtype), REFERENCES, scale=1.5).eval()


def export_parent(path: Path, potential: Potential | None = None, **texts: object) -> Path:
    texts = {"name": "parent", "licence": "MIT", "description": "PBE, many molecules", **texts}
    export_model(potential or small_potential(), path, elements=REFERENCES, **texts)
    return path


@pytest.fixture
def parent(tmp_path) -> Path:
    """Return the file of a small PaiNN for H, C, N and O in double precision."""
    return export_parent(tmp_path / "parent.pt")


def config_of(folder: Path, text: str = "", **keys: str):
    """Return a fine-tuning on four frames of ethanol; ``keys`` are lines of ``[training]``."""
    lines = {"start_from": '"parent.pt"', "batch_size": "2", "max_epochs": "2", **keys}
    training = "\n".join(f"{key} = {value}" for key, value in lines.items())
    content = f'name = "tuned"\nseed = 3\n{text}\n[training]\n{training}\n'
    if "[data]" not in text:
        content += (
            f'[data]\npath = "{ETHANOL_FRAMES}"\ntrain_rows = "0:4"\nvalidation_rows = "4:6"\n'
        )
    path = folder / "train.toml"
    path.write_text(content)
    return read_config(path)


def start_of(config, **options: object):
    return build_fine_tuning(config, read_training_data(config), read_replay(config), **options)


def data_text(path: object, **keys: object) -> str:
    lines = {"path": str(path), "train_rows": "0:4", "validation_rows": "4:6", **keys}
    return "[data]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in lines.items())


def labelled_molecules(path: Path, potential: Potential, shift: dict[str, float]) -> Path:
    """Write molecules of several compositions, labelled by a potential plus a shift."""
    frames = []
    for k, name in enumerate(["H2O", "CH4", "C2H2", "H2O2", "CO2", "CH3OH"]):
        atoms = molecule(name)
        atoms.rattle(0.05, seed=k)
        found = potential.evaluate(build_graph(atoms, potential.cutoff))
        energy = float(found.energy) + sum(shift[symbol] for symbol in atoms.symbols)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=found.forces.numpy())
        frames.append(atoms)
    ase.io.write(path, frames)
    return path


def weights_of(checkpoint: Path, key: str = "state_dict") -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)[key]


# --- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[architecture]\nname = "nequip"', "says name = 'nequip', but 'parent' is of painn"),
        (
            "[architecture]\nembedding_dim = 32\ncut_off = 3.5",
            r"contradicts 'parent', .*: embedding_dim = 32 \(it has 16\); cut_off = 3\.5 \(it has "
            r"4\.0\)\. .* leave these options out, or the whole section",
        ),
        ("[architecture]\nn_channels = 32", r"start_from names: n_channels = 32 \(it has 16\)"),
        ("[architecture]\nembeding_dim = 16", "unknown key 'embeding_dim' in .* 'embedding_dim'"),
        ('[architecture]\ncut_off = "4"', r"cut_off in \[architecture\] must be a number"),
        ('[architecture]\nfile = "own.py"', r"file in \[architecture\] needs the name of its"),
        ('[architecture]\nelements = ["H"]', "unknown key 'elements'"),
    ],
)
def test_options_that_contradict_the_file_are_refused_by_name(text, message, parent, tmp_path):
    with pytest.raises(ConfigError, match=message):
        start_of(config_of(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[architecture]\nname = "painn"',
        '[architecture]\nname = "PaiNN"\nn_channels = 16\ncut_off = 4',
        "[architecture]\nembedding_dim = 16",
    ],
)
def test_options_of_the_file_may_be_repeated_or_left_out(text, parent, tmp_path):
    start = start_of(config_of(tmp_path, text))
    assert start.architecture == {"name": "painn", **read_card(parent).config}


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (
            "painn-ethanl",
            UnknownModelError,
            r"start_from = 'painn-ethanl' is no model: neither a shipped one \(.*painn-ethanol\) "
            r"nor a file '.*/painn-ethanl'\. Did you mean 'painn-ethanol'\?",
        ),
        ("absent.pt", UnknownModelError, r"nor a file '.*/absent\.pt'"),
        (".", UnknownModelError, r"there is no model\.pt in the folder"),
        ("gmn-nbody", ModelFileError, "is a learned dynamics"),
        ("train.toml", ModelFileError, r"train\.toml' is not a model"),
    ],
)
def test_what_is_no_model_is_refused(source, error, message, tmp_path):
    with pytest.raises(error, match=message):
        start_of(config_of(tmp_path, start_from=f'"{source}"'))


def test_a_model_is_found_beside_the_training_file(parent, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert start_of(config_of(tmp_path)).parent["path"] == str(parent)


def test_a_model_of_the_working_directory_is_not_taken_for_one_beside_the_file(
    parent, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    shutil.move(parent, tmp_path / "here" / "parent.pt")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UnknownModelError, match=r"nor a file '.*/there/parent\.pt'"):
        start_of(config_of(tmp_path / "there"))


def test_a_checkpoint_is_refused_as_what_it_is(parent, tmp_path):
    train(config_of(tmp_path, max_epochs="1"), tmp_path / "run")
    with pytest.raises(
        ModelFileError, match=r"best\.ckpt' is an archive but not a model .* Export"
    ):
        start_of(config_of(tmp_path, start_from='"run/best.ckpt"'))


def test_a_damaged_parent_is_refused(parent, tmp_path):
    content = bytearray(parent.read_bytes())
    content[len(content) // 2] ^= 255
    parent.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"parent\.pt"):
        start_of(config_of(tmp_path))


@pytest.mark.parametrize("role", ["training", "validation", "test", "replayed"])
def test_an_element_that_the_file_does_not_know_is_refused(role, parent, tmp_path):
    frames = [ase.io.read(ETHANOL_FRAMES, index=k) for k in range(6)]
    argon = frames[0].copy() + Atoms("Ar", [[4.0, 4.0, 4.0]])
    argon.calc = SinglePointCalculator(
        argon, energy=frames[0].get_potential_energy(), forces=0.1 * np.ones((10, 3))
    )
    ase.io.write(tmp_path / "a.xyz", [*frames, *[argon] * 8])
    keys = {"train_rows": "0:4", "validation_rows": "4:6", "trust_data": True}
    if role in ("training", "validation"):
        keys["train_rows"] = "0:4" if role == "validation" else "6:8"
        keys["validation_rows"] = "8:9" if role == "validation" else "4:6"
    text = data_text(tmp_path / "a.xyz", **keys)
    if role == "test":
        text += '\ntest_rows = "10:11"'
    if role == "replayed":
        text += f'\n[replay]\npath = "{tmp_path / "a.xyz"}"\nrows = "6:10"\ntrust_data = true'
    message = (
        rf"'parent', which start_from names, does not know Ar of the {role} frames \(frames .* of "
        r"a\.xyz\); it knows H, C, N, O\. Leave these frames out, or train without start_from"
    )
    with pytest.raises(UnsupportedElementError, match=message):
        start_of(config_of(tmp_path, text))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('freeze = ["embedding"]', r"freeze keeps parameters of the model that start_from names"),
        ("freeze = [3]", r"freeze in \[training\] must be an array of strings, found \[3\]"),
        ('freeze = "embedding"', r"freeze in \[training\] must be an array, found 'embedding'"),
        ("start_from = 3", r"start_from in \[training\] must be a string, found 3"),
    ],
)
def test_wrong_options_of_fine_tuning_are_refused(line, message, tmp_path):
    path = tmp_path / "train.toml"
    path.write_text(
        'name = "x"\n[data]\npath = "x.xyz"\nvalidation_fraction = 0.1\n'
        f'[training]\n{line}\n[architecture]\nname = "painn"\n'
    )
    with pytest.raises(ConfigError, match=message):
        read_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'reference_energies = "kept"',
            'reference_energies = "kept" is for a training that starts from a model; name it with '
            "start_from",
        ),
        ('reference_energies = "shifted"', '"shifted" is for a training that starts from a model'),
        ('[replay]\npath = "old.xyz"', r"\[replay\] is for a training that starts from a model"),
    ],
)
def test_what_needs_a_model_to_start_from_is_refused_without(text, message, tmp_path):
    path = tmp_path / "train.toml"
    path.write_text(
        f'name = "x"\n[architecture]\nname = "painn"\n[data]\npath = "x.xyz"\n'
        f"validation_fraction = 0.1\n{text}\n"
    )
    with pytest.raises(ConfigError, match=message):
        read_config(path)


def test_an_unknown_method_for_reference_energies_is_refused(tmp_path):
    text = data_text(ETHANOL_FRAMES, reference_energies="shiftd")
    message = "unknown method 'shiftd' .*; known: kept, shifted, least_squares, .*'shifted'"
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, text)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("fraction = 1.0", r"fraction in \[replay\] must lie in \(0, 1\), found 1\.0"),
        ("validation_fraction = 0.0", r"validation_fraction in \[replay\] must lie in \(0, 1\)"),
        ('fraction = "half"', r"fraction in \[replay\] must be a number, found 'half'"),
        ("share = 0.2", r"unknown key 'share' in \[replay\]"),
        ("path = []", r"path in \[replay\] must be a string or an array of strings, found \[\]"),
    ],
)
def test_wrong_options_of_replay_are_refused(lines, message, tmp_path):
    path = "" if "path" in lines else f'path = "{ETHANOL_FRAMES}"\n'
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, f"[replay]\n{path}{lines}")


def test_one_old_frame_is_refused(parent, tmp_path):
    text = f'[replay]\npath = "{ETHANOL_FRAMES}"\nrows = "0:1"'
    with pytest.raises(DataError, match=r"\[replay\] needs at least two frames, .* found 1 in"):
        train(config_of(tmp_path, text), tmp_path / "run")


def test_validation_frames_that_are_all_replayed_are_refused(parent, tmp_path):
    text = f'[replay]\npath = "{ETHANOL_FRAMES}"\nvalidation_fraction = 0.01'
    text = data_text(ETHANOL_FRAMES, validation_rows="4:5") + "\n" + text
    with pytest.raises(DataError, match="1 of 1 validation frames are structures that are replay"):
        train(config_of(tmp_path, text), tmp_path / "run")


def test_old_energies_far_from_all_others_are_refused(parent, tmp_path):
    frames = ase.io.read(ETHANOL_FRAMES, index=":")
    frames[1].calc = SinglePointCalculator(
        frames[1], energy=frames[1].get_potential_energy() + 3000.0, forces=frames[1].get_forces()
    )
    ase.io.write(tmp_path / "old.xyz", frames)
    text = '[replay]\npath = "old.xyz"'
    with pytest.raises(DataError, match=r"old\.xyz: energies far from all others .* in frame 1 of"):
        train(config_of(tmp_path, text), tmp_path / "run")


# --- elements ----------------------------------------------------------------------------


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


PAIRS = '''
from dataclasses import dataclass
import torch
from torch import Tensor, nn

from eqcalc.graph import AtomicGraph

{declaration}

@dataclass(frozen=True)
class Config:
    """Options of :class:`Pairs`.

    elements : with parameters
    strengths : a row and a column for each element
    cutoff : Å
    """

    elements: tuple = ("H", "C", "N", "O")
    strengths: tuple = (
        (1.0, 2.0, 3.0, 4.0), (2.0, 5.0, 6.0, 7.0), (3.0, 6.0, 8.0, 9.0), (4.0, 7.0, 9.0, 0.5)
    )
    cutoff: float = 4.0


class Pairs(nn.Module):
    def __init__(self, elements, strengths, cutoff):
        super().__init__()
        self.config = Config(elements, strengths, cutoff)
        self.cutoff, self.n_hops, self.factor = cutoff, 1, {factor}
        numbers = [{{"H": 1, "C": 6, "N": 7, "O": 8}}[symbol] for symbol in elements]
        species = torch.zeros(119, dtype=torch.int64)
        species[numbers] = torch.arange(len(numbers))
        self.register_buffer("species", species, persistent=False)
        table = torch.tensor(strengths)[: len(numbers), : len(numbers)]
        self.register_buffer("strengths", table, persistent=False)
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, {n_rows}).repeat(2))

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        kind = self.species.index_select(0, graph.atomic_numbers)
        i, j = kind[graph.edge_index[1]], kind[graph.edge_index[0]]
        d = torch.linalg.vector_norm(graph.edge_vectors, dim=1)
        envelope = self.factor * (1 - d / self.cutoff) ** 3
        pair = self.strengths[i, j] * envelope * self.weight[{index}]
        zeros = torch.zeros_like(graph.atomic_numbers, dtype=pair.dtype)
        return zeros.index_add(0, graph.edge_index[1], pair)
'''
"""A network with options and rows for each pair of elements."""


def pairs_potential(folder: Path, monkeypatch, declaration="", rows="1", index="0", factor="1.0"):
    monkeypatch.setattr(architectures, "_registered", {})
    own = folder / "pairs.py"
    own.write_text(PAIRS.format(declaration=declaration, n_rows=rows, index=index, factor=factor))
    architectures.register_file(own, "pairs")
    return Potential(architectures.build("pairs").double(), REFERENCES).eval()


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


# --- reference energies ------------------------------------------------------------------

SHIFT = {"H": 0.75, "C": -2.5, "O": 31.0}


@pytest.mark.parametrize("method", [None, "shifted"])
def test_another_level_of_theory_is_taken_into_the_reference_energies(method, parent, tmp_path):
    labelled_molecules(tmp_path / "new.xyz", small_potential(), SHIFT)
    keys = {} if method is None else {"reference_energies": method}
    text = data_text(tmp_path / "new.xyz", trust_data=True, **keys)
    start = start_of(config_of(tmp_path, text))
    for symbol, change in SHIFT.items():
        found = float(start.potential.reference_energies[atomic_number(symbol)])
        assert found == pytest.approx(REFERENCES[symbol] + change, abs=1e-5)
    assert start.parent["validation errors of the file as it is"]["energy_mae_mev"] > 1000
    assert start.parent["validation errors before training"]["energy_mae_mev"] < 0.01
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


# --- frozen parts ------------------------------------------------------------------------


def test_frozen_parameters_stay_and_others_move(parent, tmp_path):
    config = config_of(tmp_path, freeze='["embedding", "messages.0", "*.out.bias"]')
    reports = []
    train(config, tmp_path / "run", progress=reports.append)
    before = dict(small_potential().named_parameters())
    frozen = {
        name
        for name in before
        if re.match(r"architecture\.(embedding\.|messages\.0\.)|.*\.out\.bias$", name)
    }
    assert 3 < len(frozen) < len(before)
    for name in ("best", "last"):
        for key in ("state_dict", "current_model_state"):
            after = weights_of(tmp_path / "run" / f"{name}.ckpt", key)
            same = {n for n, value in before.items() if torch.equal(after[f"potential.{n}"], value)}
            assert same == frozen
    n_frozen = sum(before[name].numel() for name in frozen)
    n_all = sum(p.numel() for p in before.values())
    said = [report.message for report in reports if report.event == "start"]
    assert any(line.startswith(f"frozen: {n_frozen} of {n_all} parameters") for line in said)
    optimiser = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["optimizer_states"]
    assert len(optimiser[0]["param_groups"][0]["params"]) == len(before) - len(frozen)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ["embeding"],
            r"freeze: no parameter is called 'embeding'; its parts are embedding, .*messages\.0, .*"
            r"Did you mean 'embedding'\?",
        ),
        (["embedding", "messages.7"], r"no parameter is called 'messages\.7'"),
        (["embed"], "no parameter is called 'embed'"),
        (["*"], r"freeze = \['\*'\] leaves no parameter to train"),
    ],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(patterns, message, parent, tmp_path):
    with pytest.raises(ConfigError, match=message):
        freeze(small_potential(), patterns)
    with pytest.raises(ConfigError, match=message):
        train(config_of(tmp_path, freeze=json.dumps(patterns)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_compiled_training_leaves_frozen_parameters_alone(parent, tmp_path):
    runs = {}
    for compiled in ("true", "false"):
        config = config_of(tmp_path, freeze='["embedding", "updates"]', compile=compiled)
        train(config, tmp_path / compiled)
        runs[compiled] = weights_of(tmp_path / compiled / "last.ckpt", "current_model_state")
    before = dict(small_potential().named_parameters())
    for name, value in runs["true"].items():
        torch.testing.assert_close(value, runs["false"][name], rtol=1e-6, atol=1e-8, equal_nan=True)
    name = "architecture.embedding.weight"
    assert torch.equal(runs["true"][f"potential.{name}"], before[name])


# --- old frames --------------------------------------------------------------------------


def test_old_frames_are_trained_on_and_reported_apart(parent, tmp_path):
    labelled_molecules(tmp_path / "old.xyz", small_potential(), dict.fromkeys("HCO", 0.0))
    text = (
        '[replay]\npath = "old.xyz"\nvalidation_fraction = 0.3\nfraction = 0.5\ntrust_data = true'
    )
    train(config_of(tmp_path, text), tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    for name in ("replay_loss", "replay_energy_per_atom_mae_mev", "replay_forces_mae_mev_per_a"):
        assert name in names
    assert [int(line.split(",")[1]) for line in lines[1:]] == [4, 8]  # 4 new and 4 old frames
    without = config_of(tmp_path)
    train(without, tmp_path / "plain")
    assert "replay_loss" not in (tmp_path / "plain" / "metrics.csv").read_text()


def test_old_energies_follow_the_reference_energies(parent, tmp_path):
    """Labels that the file reproduces stay so, whatever the new level of theory."""
    labelled_molecules(tmp_path / "old.xyz", small_potential(), dict.fromkeys("HCO", 0.0))
    labelled_molecules(tmp_path / "new.xyz", small_potential(), SHIFT)
    text = data_text(tmp_path / "new.xyz", trust_data=True)
    text += '\n[replay]\npath = "old.xyz"\nvalidation_fraction = 0.3\ntrust_data = true'
    start = start_of(config_of(tmp_path, text))
    graphs = [*start.replayed, *start.replay_validation]
    assert len(graphs) == 6
    for item in graphs:
        found = start.potential.eval().evaluate(item.graph)
        assert float(found.energy) == pytest.approx(float(item.energy), abs=1e-4)


def test_elements_of_old_frames_stay(tmp_path):
    export_parent(tmp_path / "parent.pt", small_potential("nequip", elements=list(REFERENCES)))
    text = f'[replay]\npath = "{DATA / "3bpa_frames.xyz"}"\ntrust_data = true'
    config = config_of(tmp_path, text)
    assert start_of(config).architecture["elements"] == ["H", "C", "N", "O"]
    train(config, tmp_path / "run")
    card = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model").card
    assert card.elements == ["H", "C", "N", "O"]
    assert card.training_data["replayed frames"] == "3 of 3bpa_frames.xyz"


def test_every_new_frame_and_a_fraction_of_old_ones_come_in_an_epoch(parent, tmp_path):
    start = start_of(config_of(tmp_path))
    new, old = start.train, [*start.train[:3], *start.validation]
    batches = training_batches(new, 3, 7, replayed=old, fraction=0.4)
    epochs = []
    for epoch in (0, 1, 0):
        batches.sampler.set_epoch(epoch)
        order = list(batches.sampler)
        assert sorted(k for k in order if k < 4) == [0, 1, 2, 3]
        drawn = [k for k in order if k >= 4]
        assert len(set(drawn)) == len(drawn) == 3  # 3 of 7 is 0.43, 2 of 6 is 0.33
        epochs.append(order)
    assert epochs[0] == epochs[2] != epochs[1]
    assert sum(batch.energy.shape[0] for batch in batches) == 7
    few = training_batches(new, 3, 7, replayed=old[:1], fraction=0.6)
    assert sorted(few.sampler) == [0, 1, 2, 3, *[4] * 6]


# --- runs --------------------------------------------------------------------------------


def test_the_learning_rate_is_lower_by_default(tmp_path):
    assert config_of(tmp_path).training.learning_rate == 1e-4
    assert config_of(tmp_path, learning_rate="0.01").training.learning_rate == 0.01


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_a_resumed_fine_tuning_equals_an_uninterrupted_one(schedule, parent, tmp_path):
    def interrupt(report) -> None:
        if (report.epoch, report.batch) == (2, 1):
            raise KeyboardInterrupt

    labelled_molecules(tmp_path / "old.xyz", small_potential(), dict.fromkeys("HCO", 0.0))
    text = '[replay]\npath = "old.xyz"\ntrust_data = true'
    options = {"max_epochs": "4", "schedule": f'"{schedule}"', "freeze": '["embedding"]'}
    config = config_of(tmp_path, text, **options)
    train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", progress=interrupt)
    (tmp_path / "parent.pt").unlink()  # the run has what it needs
    train(config, tmp_path / "parts", resume=True)
    found, expected = (TrainingFolder(tmp_path / name) for name in ("parts", "whole"))
    assert found.metrics.read_text() == expected.metrics.read_text()
    assert found.read_parent() == expected.read_parent()
    for name in ("best.ckpt", "last.ckpt"):
        for key in ("state_dict", "current_model_state"):
            for parameter, value in weights_of(expected.path / name, key).items():
                other = weights_of(found.path / name, key)[parameter]
                assert torch.equal(value.nan_to_num(), other.nan_to_num()), parameter


def test_starting_from_another_file_on_resume_is_refused(parent, tmp_path):
    config = config_of(tmp_path, max_epochs="1")
    train(config, tmp_path / "run")
    shutil.copy(parent, tmp_path / "other.pt")
    other = config_of(tmp_path, max_epochs="2", start_from='"other.pt"')
    with pytest.raises(ConfigError, match="cannot be resumed with another start_from"):
        train(other, tmp_path / "run", resume=True)
    frozen = config_of(tmp_path, max_epochs="2", freeze='["embedding"]')
    with pytest.raises(ConfigError, match="cannot be resumed with another freeze"):
        train(frozen, tmp_path / "run", resume=True)
    export_parent(parent, small_potential("schnet"), overwrite=True)
    message = r"'.*parent\.pt', which start_from names, is another model now \(its sha256 was"
    with pytest.raises(ConfigError, match=message):
        train(config_of(tmp_path, max_epochs="2"), tmp_path / "run", resume=True)


def test_a_run_whose_manifest_lost_its_parent_is_refused(parent, tmp_path):
    train(config_of(tmp_path, max_epochs="1"), tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    del manifest["start_from"]
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="does not say which model its training started from"):
        train(config_of(tmp_path), tmp_path / "run", resume=True)


def test_a_run_without_its_first_model_is_not_exported(parent, tmp_path):
    train(config_of(tmp_path, max_epochs="1"), tmp_path / "run")
    (tmp_path / "run" / "start.pt").unlink()
    message = r"start\.pt', the model that the run started from, is gone; put it back, or start"
    with pytest.raises(ModelFileError, match=message):
        export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model")
    with pytest.raises(ModelFileError, match=message):
        train(config_of(tmp_path), tmp_path / "run", resume=True)


def test_the_card_names_the_parent_and_has_its_errors_beside(parent, tmp_path):
    config = config_of(tmp_path, freeze='["embedding"]')
    train(config, tmp_path / "run")
    parent_card, sha256 = read_card(parent), open_model_file(parent).sha256
    parent.unlink()
    finished = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model")
    card = read_card(finished.path)
    told = card.training_data
    assert card.licence == "MIT"
    assert told["fine-tuned from"] == "parent"
    assert told["parent's sha256"] == sha256
    assert told["parent's digest"] == parent_card.digest
    assert told["parent's licence"] == "MIT"
    assert told["parent's description"] == "PBE, many molecules"
    assert told["reference energies by"] == "shifted"
    assert told["frozen"] == ["embedding"]
    assert re.fullmatch(r"\d+ of \d+", told["frozen parameters"])
    frames = read_dataset(ETHANOL_FRAMES, rows="4:6").frames
    begun = evaluate(load_model(tmp_path / "run" / "start.pt", device="cpu"), frames)
    tuned = evaluate(load_model(finished.path, device="cpu"), frames)
    for name, value in begun.summary().items():
        assert card.errors[f"before_{name}"] == pytest.approx(value, abs=2e-3)
        assert card.errors[name] == pytest.approx(tuned.summary()[name], abs=2e-3)
    manifest = TrainingFolder(tmp_path / "run").read_parent()
    assert manifest["validation errors before training"] == pytest.approx(begun.summary(), abs=2e-3)
    page = (tmp_path / "model" / "card.md").read_text()
    assert "- fine-tuned from: parent" in page
    assert "- before forces MAE (meV/Å): " in page


def test_a_fine_tuned_model_is_fine_tuned_again(parent, tmp_path):
    train(config_of(tmp_path, max_epochs="1"), tmp_path / "first")
    export_run(TrainingFolder(tmp_path / "first"), tmp_path / "model")
    config = config_of(tmp_path, 'licence = "CC0-1.0"', start_from='"model"', max_epochs="1")
    train(config, tmp_path / "second")
    card = export_run(TrainingFolder(tmp_path / "second"), tmp_path / "again").card
    assert card.licence == "CC0-1.0"
    assert card.training_data["fine-tuned from"] == "tuned"
    assert card.training_data["parent's fine-tuned from"] == "parent"
    assert card.training_data["parent's parent's licence"] == "MIT"


def test_the_trained_potential_is_loaded_with_the_constants_of_the_file(parent, tmp_path):
    config = config_of(tmp_path, max_epochs="1")
    train(config, tmp_path / "run")
    found = load_potential(TrainingFolder(tmp_path / "run"))
    whole = rebuild_potential(open_model_file(parent))
    expected = dict(whole.named_buffers())
    for name, buffer in found.named_buffers():
        if name != "reference_energies":
            assert torch.equal(buffer, expected[name]), name


def test_the_repulsion_of_nuclei_stays(tmp_path):
    network = small_potential().architecture
    whole = Potential(network, REFERENCES, scale=1.5, zbl=ZBL(2.0)).eval()
    export_parent(tmp_path / "parent.pt", whole)
    config = config_of(tmp_path, max_epochs="1")
    train(config, tmp_path / "run")
    card = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model").card
    assert card.zbl == read_card(tmp_path / "parent.pt").zbl
    graph = build_graph(Atoms("OH", [[0, 0, 0], [0, 0, 0.2]]), 4.0)
    found = load_potential(TrainingFolder(tmp_path / "run"))
    repulsion = float(ZBL(2.0)(graph).sum())
    assert repulsion > 100.0
    for potential in (start_of(config).potential.eval(), found):
        with_zbl = float(potential.evaluate(graph).energy)
        potential.zbl = None
        assert with_zbl - float(potential.evaluate(graph).energy) == pytest.approx(repulsion)


def test_a_training_in_another_precision_keeps_the_weights(parent, tmp_path):
    start = start_of(config_of(tmp_path, 'dtype = "float32"'))
    expected = dict(small_potential().named_parameters())
    for name, parameter in start.potential.named_parameters():
        assert torch.equal(parameter, expected[name].float())
    train(config_of(tmp_path, 'dtype = "float32"', max_epochs="1"), tmp_path / "run")
    finished = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model")
    assert finished.card.dtype == "float32"


def test_a_training_that_made_nothing_better_says_so(parent, tmp_path):
    messages = {}
    for rate in ("0.9", "1e-3"):
        reports = []
        config = config_of(tmp_path, learning_rate=rate)
        train(config, tmp_path / rate, progress=reports.append)
        messages[rate] = [report.message for report in reports if report.event == "end"]
    assert len(messages["0.9"]) == 1
    assert messages["0.9"][0].startswith("no epoch was better on the validation frames than the")
    assert messages["1e-3"] == []


def test_what_the_training_starts_from_is_said_before_it_begins(parent, tmp_path):
    reports = []
    train(config_of(tmp_path), tmp_path / "run", progress=reports.append)
    said = [report.message for report in reports if report.event == "start"]
    assert [report.event for report in reports[: len(said)]] == ["start"] * len(said)
    patterns = [
        r"starting from parent: painn, \d+ parameters, for H, C, O of its 4 elements",
        r'reference energies: shifted by H .* eV, fitted to 4 training frames; "kept" would',
        r"before training, MAE on 2 validation frames: energy [\d.]+ meV/atom \([\d.]+ with the "
        r"file's reference energies\), forces [\d.]+ meV/Å",
    ]
    for line, pattern in zip(said, patterns, strict=True):
        assert re.match(pattern, line)


def test_a_model_whose_program_is_unknown_needs_trust(tmp_path, monkeypatch):
    source = PAIRS.format(declaration="", n_rows="1", index="0", factor="1.0")
    source = source.replace(
        "return zeros", "zeros = zeros + 0.0 * torch.rand(1)\n        return zeros"
    )
    monkeypatch.setattr(architectures, "_registered", {})
    (tmp_path / "pairs.py").write_text(source)
    architectures.register_file(tmp_path / "pairs.py", "pairs")
    potential = Potential(architectures.build("pairs").double(), REFERENCES).eval()
    with pytest.warns(UserWarning, match="has to be loaded with trust=True"):
        export_parent(tmp_path / "parent.pt", potential)
    text = f'[architecture]\nname = "pairs"\nfile = "pairs.py"\nelements = {list(REFERENCES)}'
    config = config_of(tmp_path, text)
    with pytest.raises(ModelFileError, match=r"trust=True \(on the command line --trust\)"):
        train(config, tmp_path / "run")
    with pytest.warns(UserWarning, match="has to be loaded with trust=True"):
        train(config, tmp_path / "run", trust=True)


def test_a_network_of_ones_own_has_to_be_named(tmp_path, monkeypatch):
    potential = pairs_potential(tmp_path, monkeypatch)
    export_parent(tmp_path / "parent.pt", potential)
    monkeypatch.setattr(architectures, "_registered", {})
    with pytest.raises(ModelFileError, match=r"unknown architecture 'pairs'.*file in \[architectu"):
        start_of(config_of(tmp_path))


@pytest.mark.slow
@pytest.mark.data
def test_twenty_frames_of_another_level_make_more_of_a_model_than_of_random_weights(
    whole_data, tmp_path
):
    """MD17's labels of ethanol, in place of rMD17's: 5.2 eV and 0.18 eV/Å from them."""
    source = whole_data / "rmd17/npz_data/rmd17_ethanol.npz"
    rows = {"train_rows": "1000:1020", "validation_rows": "1020:1030", "test_rows": "1030:1130"}
    data = data_text(source, energy_key="old_energies", forces_key="old_forces", **rows)
    options = {"batch_size": "5", "max_epochs": "150", "schedule": '"cosine"'}
    changes = {"start_from": '"painn-ethanol"', "learning_rate": "5e-4"}
    config = config_of(tmp_path, data, **changes, **options)
    train(config, tmp_path / "tuned")
    tuned = export_run(TrainingFolder(tmp_path / "tuned"), tmp_path / "tuned" / "model")

    network = read_card("painn-ethanol").config
    architecture = "\n".join(f"{key} = {json.dumps(value)}" for key, value in network.items())
    text = f'{data}\n[architecture]\nname = "painn"\n{architecture}'
    path = config_of(tmp_path, text, learning_rate="2e-3", **options).source
    path.write_text(path.read_text().replace('start_from = "parent.pt"\n', ""))
    train(read_config(path), tmp_path / "scratch")  # as many steps of the same network
    scratch = export_run(TrainingFolder(tmp_path / "scratch"), tmp_path / "scratch" / "model")

    found, begun, other = (
        {q.name: 1e3 * q.errors.mae for q in comparison.quantities}
        for comparison in (tuned.comparison, tuned.before, scratch.comparison)
    )
    assert found["forces"] < 0.6 * min(begun["forces"], other["forces"])
    assert found["energy"] < 0.6 * min(begun["energy"], other["energy"])
