"""Checkpoints of SevenNet become potentials with the same numbers, or are refused by name."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import Oracle, assert_equal

from eqcalc.errors import ConfigError, ModelFileError
from eqcalc.importers import Choices, read_foreign
from eqcalc.importers.foreign_file import ForeignFile
from eqcalc.importers.sevennet import KNOWN, potential_of, read, recognises
from eqcalc.neighbours import build_graph

HERE = Path(__file__).parent
SMALL = Oracle("sevennet_small")
SHIPPED = Oracle("sevennet")
FILES = {
    "0_11Jul2024": "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    "0_22May2024": "SevenNet_0__22May2024/checkpoint_sevennet_0.pth",
    "l3i5": "SevenNet_l3i5/checkpoint_l3i5.pth",
    "MF_0": "SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
}


def small(name: str) -> ForeignFile:
    return read_foreign(HERE / "sevennet" / f"{name}.pth")


def altered(name: str, change: Callable[[dict[str, Any]], object]) -> ForeignFile:
    """Return a small checkpoint with something else in it."""
    file = small(name)
    content = {
        "config": copy.deepcopy(file.content["config"]),
        "model_state_dict": dict(file.content["model_state_dict"]),
    }
    change(content)
    return ForeignFile(file.path, file.sha256, content, file.members)


@pytest.mark.parametrize("model", SMALL.models)
def test_small_checkpoint_gives_the_numbers_of_its_package(model: str) -> None:
    name, _, modality = model.partition(":")
    content = small(name).content
    potential = potential_of(content["config"], content["model_state_dict"], modality or None)
    assert_equal(SMALL.differences(potential.eval(), model))


def test_small_checkpoint_is_recognised_and_read_in_its_precision() -> None:
    file = small("xplor")
    assert recognises(file)
    imported = read(file, Choices())
    assert imported.elements == ["H", "O", "Mg"]
    assert {p.dtype for p in imported.potential.parameters()} == {torch.float32}
    assert imported.source == {"package": "sevenn", "version": "0.13.0"}
    assert "ignored" in imported.description
    assert imported.licence == imported.level_of_theory == ""  # the file does not say them
    # The weights are those of the file: nothing was rounded.
    assert_equal(SMALL.differences(imported.potential.double().eval(), "xplor"))


def test_checkpoint_with_fewer_elements_gives_the_same_numbers() -> None:
    imported = read(small("xplor"), Choices(elements=("O", "H")))
    assert imported.elements == ["H", "O"]
    potential = imported.potential.double().eval()
    assert potential.architecture.embedding.weight.shape[0] == 2
    recorded = SMALL.recorded("xplor", "h2o")
    found = potential.evaluate(build_graph(SMALL.structures["h2o"], potential.cutoff))
    np.testing.assert_allclose(found.energies, recorded["energies"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.forces, recorded["forces"], rtol=0, atol=1e-12)


def test_modalities_differ_and_one_has_to_be_chosen() -> None:
    file = small("modal")
    with pytest.raises(ConfigError, match=r"'PBE', 'R2SCAN'.*choose a modality"):
        read(file, Choices())
    with pytest.raises(ConfigError, match=r"no modality 'pbe'.*Did you mean 'PBE'"):
        read(file, Choices(modality="pbe"))
    with pytest.raises(ConfigError, match="has no modalities: 'PBE' cannot be chosen"):
        read(small("xplor"), Choices(modality="PBE"))
    imported = read(file, Choices(modality="R2SCAN"))
    assert imported.source["modality"] == "R2SCAN"
    assert "modality R2SCAN" in imported.description


def test_other_units_and_elements_than_the_network_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="speak in eV, but energy_unit = kcal/mol was said"):
        read(small("xplor"), Choices(energy_unit="kcal/mol"))
    with pytest.raises(ConfigError, match="speak in Angstrom, but length_unit = Bohr was said"):
        read(small("xplor"), Choices(length_unit="Bohr"))
    read(small("xplor"), Choices(energy_unit="eV", length_unit="Angstrom"))
    with pytest.raises(ConfigError, match=r"that the network knows \(H, O, Mg\), found Si"):
        read(small("xplor"), Choices(elements=("H", "Si")))


def setting(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["config"][key] = value

    return change


REFUSED = {
    "parity": (setting("is_parity", "yes"), "is_parity'] must be True or False, found 'yes'"),
    "norm": (setting("_normalize_sph", "x"), "_normalize_sph'] must be True or False, found 'x'"),
    "even": (setting("is_parity", True), "not those of any network here.*1o has 0 channels"),
    "readout": (setting("readout_as_fcn", True), "readout_as_fcn'] is True"),
    "bias": (setting("use_bias_in_linear", True), "use_bias_in_linear'] is True"),
    "interaction": (setting("interaction_type", "mace"), "interaction_type'] is 'mace'"),
    "radial": (setting("act_radial", "ssp"), "act_radial'] is 'ssp'"),
    "gate": (setting("act_gate", {"e": "ssp", "o": "tanh"}), "act_gate'] is .*silu"),
    "odd scalars": (setting("act_scalar", {"e": "silu", "o": "abs"}), "act_scalar'] is .*tanh"),
    "twice": (setting("irreps_manual", ["8x0e", "8x0e+8x0e", "8x0e"]), "must stand there once"),
    "scalar": (setting("act_scalar", None), "act_scalar'] is None"),
    "edges": (setting("lmax_edge", 3), "lmax_edge'] is 3"),
    "model": (setting("_model_type", "other"), "_model_type'] is 'other'"),
    "flash": (setting("use_flash_tp", True), "layout of FlashTP"),
    "cueq": (setting("cuequivariance_config", {"use": True}), "layout of cuEquivariance"),
    "newer": (setting("version", "0.14.0"), "written by SevenNet 0.14.0; known are 0.9 to 0.13"),
    "older": (setting("version", "0.8.3"), "written by SevenNet 0.8.3"),
    "versionless": (setting("version", None), "version'] must be a version .* found None"),
    "none": (setting("self_connection_type", "none"), "self_connection_type'] is 'none'"),
    "mixed": (setting("self_connection_type", ["linear", "nequip"]), "the same in every layer"),
    "basis": (setting("radial_basis", {"radial_basis_name": "gauss"}), "only Bessel functions"),
    "envelope": (setting("cutoff_function", {"cutoff_function_name": "cos"}), "XPLOR.*poly_cut"),
    "widths": (setting("weight_nn_hidden_neurons", [7, 8]), "must have one width"),
    "no widths": (setting("weight_nn_hidden_neurons", []), "must be a list of widths"),
    "layers": (setting("irreps_manual", ["8x0e", "8x0e"]), "must have 3 entries"),
    "odd": (
        setting("irreps_manual", ["8x0e", "8x0e+4x1o", "8x0e"]),
        "all of them even, were expected",
    ),
    "vectors last": (setting("irreps_manual", ["8x0e"] + 2 * ["8x0e+4x1e"]), "scalars alone"),
    "wider": (setting("irreps_manual", ["8x0e", "8x0e+4x1e", "9x0e"]), "same channels in every"),
    "degrees": (setting("lmax", 1), "degrees above lmax = 1"),
    "rows": (setting("_type_map", {1: 0, 8: 2}), "must give each atomic number a row"),
    "cutoff": (setting("cutoff", "5"), "cutoff'] must be a positive number, found '5'"),
    "degrees beyond every network": (setting("lmax", 10**9), "is more than any network has"),
    "depth": (setting("num_convolution_layer", 2.5), "must be an integer of at least 1, found 2.5"),
    "modalities": (setting("_modal_map", None), "is no list of modalities"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_of_a_checkpoint_is_refused_by_name(case: str) -> None:
    change, message = REFUSED[case]
    name = "modal" if case == "modalities" else "xplor"
    with pytest.raises(ModelFileError, match=message):
        read(altered(name, change), Choices(modality="PBE" if name == "modal" else None))


def state(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda content: change(content["model_state_dict"])


W3J = "1_convolution.convolution._compiled_main_left_right._w3j_1_1_2"
W1 = "1_self_interaction_1.linear.weight"
DAMAGED = {
    "missing": (state(lambda s: s.pop(W1)), f"no '{W1}'.*incomplete"),
    "half": (state(lambda s: s.update({W1: s[W1].half()})), "float16; weights must be float32"),
    "nan": (state(lambda s: s.update({W1: s[W1] * torch.nan})), "holds NaN or infinity"),
    "short": (state(lambda s: s.update({W1: s[W1][:-1]})), "first map' must hold 84 numbers"),
    "denominator": (
        state(lambda s: s.update({"1_convolution.denominator": torch.zeros(1)})),
        r"'1_convolution.denominator'\] must be above zero, found 0",
    ),
    "more": (state(lambda s: s.update(more=s[W1])), "has 'more.' .1 such entries"),
    "bias": (state(lambda s: s.update({"a.linear.bias": s[W1]})), "is not empty: biases"),
    "no state": (lambda content: content.pop("model_state_dict"), "an optimizer's state alone"),
    "no tensor": (state(lambda s: s.update({W1: 3})), "is no tensor"),
    "rows": (
        state(lambda s: s.update({"onehot_to_feature_x.linear.weight": s[W1][:7]})),
        "holds 7 numbers, which are no 3 × 8",
    ),
    "radial": (
        state(
            lambda s: s.update(
                {k: v[:, :-1] for k, v in s.items() if k == "0_convolution.weight_nn.layer2.weight"}
            )
        ),
        "layer 0: the radial network must end in",
    ),
    "shift": (
        state(lambda s: s.update({"rescale_atomic_energy.shift": s[W1][:2]})),
        "one number, or one of each of 3 elements",
    ),
    "couplings": (
        state(lambda s: s.update({W3J: torch.ones(3, 3, 5)})),
        r"holds no Wigner 3j symbols of \(1, 1, 2\)",
    ),
    "shape of couplings": (
        state(lambda s: s.update({W3J: torch.ones(3, 3, 3)})),
        r"must have the shape \(3, 3, 5\), found \(3, 3, 3\)",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_tensors_of_a_checkpoint_are_refused_by_name(case: str) -> None:
    change, message = DAMAGED[case]
    with pytest.raises(ModelFileError, match=message):
        read(altered("xplor", change), Choices())


def test_missing_3j_symbols_are_refused_as_their_sign_is_not_known() -> None:
    name = "1_convolution.convolution._compiled_main_left_right._w3j_1_2_3"
    with pytest.raises(ModelFileError, match=r"layer 1: the Wigner 3j symbols of \(1, 2, 3\)"):
        read(altered("polynomial", state(lambda s: s.pop(name))), Choices())


def test_flipped_signs_of_3j_symbols_flip_the_weights_of_their_paths() -> None:
    # As between versions of e3nn: the stored symbols say with which sign a path was trained.
    def flip(content: dict[str, Any]) -> None:
        tensors = content["model_state_dict"]
        for name in [n for n in tensors if "_w3j_" in n]:
            tensors[name] = -tensors[name]

    plain = read(small("polynomial"), Choices()).potential.double().eval()
    flipped = read(altered("polynomial", flip), Choices()).potential.double().eval()
    graph = build_graph(SMALL.structures["h2o"], plain.cutoff)
    assert abs(plain.evaluate(graph).energy - flipped.evaluate(graph).energy) > 1e-6


def wheel() -> Path | None:
    """Return the folder of the checkpoints that the wheel of sevenn carries."""
    folder = os.environ.get("EQCALC_SEVENNET_CHECKPOINTS")
    if folder:
        return Path(folder)
    found = importlib.util.find_spec("sevenn")
    return None if found is None else Path(str(found.origin)).parent / "pretrained_potentials"


@pytest.mark.data
@pytest.mark.parametrize("model", SHIPPED.models)
def test_published_checkpoint_gives_the_numbers_of_its_package(model: str) -> None:
    folder = wheel()
    assert folder is not None, "set EQCALC_SEVENNET_CHECKPOINTS: CONTRIBUTING.md"
    name, _, modality = model.partition(":")
    file = read_foreign(folder / FILES[name])
    imported = read(file, Choices(modality=modality or None))
    assert file.sha256 in KNOWN
    assert len(imported.elements) == 89
    assert imported.licence == "MIT, Copyright (c) 2024 Yutack Park"
    assert imported.level_of_theory
    # float32 weights, exactly those of the file: what is folded would be off by 1e-7 eV/atom.
    assert {p.dtype for p in imported.potential.parameters()} == {torch.float32}
    assert_equal(SHIPPED.differences(imported.potential.double().eval(), model))
