"""Checkpoints and packages of nequip become potentials with the same numbers, or are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import Oracle, assert_equal

from eqcalc.errors import ConfigError, ModelFileError
from eqcalc.importers import Choices, Imported, read_foreign, state_of
from eqcalc.importers.foreign_file import ForeignFile
from eqcalc.importers.inert import Inert
from eqcalc.importers.nequip import read, recognises
from eqcalc.neighbours import build_graph

HERE = Path(__file__).parent
RECORDED = Oracle("nequip")
FILES = sorted(path.name for path in (HERE / "nequip").iterdir())
EV = Choices(energy_unit="eV", length_unit="Angstrom")


def load(name: str) -> ForeignFile:
    return read_foreign(HERE / "nequip" / name)


def imported(name: str, choices: Choices = EV) -> Imported:
    return read(load(name), choices)


@pytest.mark.parametrize("name", FILES)
def test_file_gives_the_numbers_of_its_package(name: str) -> None:
    found = imported(name)
    assert recognises(load(name))
    assert found.elements == ["H", "O", "Mg"]
    assert found.source["package"] == "nequip"
    assert "charge and spin" in found.description
    differences = RECORDED.differences(found.potential.double().eval(), name.partition(".")[0])
    assert_equal(differences)
    if "readout" not in name:  # it has float32 weights
        assert max(by["energies"] for by in differences.values()) < 1e-12


def test_float64_weights_stay_float64_and_float32_become_float32() -> None:
    for name, dtype in (("parity.ckpt", torch.float64), ("readout.ckpt", torch.float32)):
        parameters = imported(name).potential.parameters()
        assert {parameter.dtype for parameter in parameters} == {dtype}


def test_running_average_of_the_weights_is_what_is_imported() -> None:
    # The package was made of the average by nequip itself.
    checkpoint, package = imported("foundation.ckpt"), imported("foundation.nequip.zip")
    assert "running average" in checkpoint.description
    ours, theirs = checkpoint.potential.state_dict(), package.potential.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-14, atol=1e-14, equal_nan=True)
    file = load("foundation.ckpt")
    raw = {n: v for n, v in file.content["state_dict"].items() if not n.startswith("ema.")}
    plain = read(with_content(file, state_dict=raw), EV)
    assert "running average" not in plain.description
    graph = build_graph(RECORDED.structures["h2o"], plain.potential.cutoff)
    averaged = checkpoint.potential.eval().evaluate(graph).energy
    assert abs(averaged - plain.potential.eval().evaluate(graph).energy) > 1e-4


def test_energy_unit_scales_energies_and_references_and_is_that_of_the_repulsion() -> None:
    file = load("foundation.ckpt")
    options = file.content["hyper_parameters"]["model"]
    units = options["pair_potential"] | {"units": "real"}
    unit = 0.0433641
    state = {
        name: tensor / unit if name.endswith("_qqr2exesquare") else tensor
        for name, tensor in file.content["state_dict"].items()
    }
    real = with_content(with_options(file, pair_potential=units), state_dict=state)
    kcal = Choices(energy_unit="kcal/mol", length_unit="Angstrom")
    scaled, plain = read(real, kcal).potential.eval(), imported("foundation.ckpt").potential.eval()
    graph = build_graph(RECORDED.structures["h2o"], plain.cutoff)
    repulsion = plain.zbl(graph)
    np.testing.assert_allclose(scaled.zbl(graph), repulsion, rtol=1e-5)  # eV in both
    np.testing.assert_allclose(
        scaled.evaluate(graph).energies - repulsion,
        unit * (plain.evaluate(graph).energies - repulsion),
        rtol=1e-4,
    )
    with pytest.raises(ConfigError, match=r"ZBL is in units of eV and Angstrom, but .* kcal/mol"):
        read(file, kcal)
    # A package has no word for the unit of its ZBL, but its constant.
    with pytest.raises(ConfigError, match=r"ZBL has .* = 0\.62\d* eV Å .* nature has 14\.39"):
        read(load("foundation.nequip.zip"), kcal)


def test_units_have_to_be_said_and_lengths_are_angstrom() -> None:
    with pytest.raises(ConfigError, match="does not say its units: give energy_unit"):
        imported("parity.ckpt", Choices(length_unit="Angstrom"))
    with pytest.raises(ConfigError, match="does not say its units: give length_unit"):
        imported("parity.ckpt", Choices(energy_unit="eV"))
    with pytest.raises(ConfigError, match="in Angstrom alone, found Bohr"):
        imported("parity.ckpt", Choices(energy_unit="eV", length_unit="Bohr"))


def test_modality_and_unknown_elements_are_refused() -> None:
    with pytest.raises(ConfigError, match="have no modalities: 'PBE' cannot be chosen"):
        imported("parity.ckpt", Choices("eV", "Angstrom", modality="PBE"))
    with pytest.raises(ConfigError, match=r"that the network knows \(H, O, Mg\), found C"):
        imported("parity.ckpt", Choices("eV", "Angstrom", elements=("C", "H")))


def test_fewer_elements_give_the_same_numbers() -> None:
    # Cutoffs of pairs, averages, shifts and ZBL's table follow the elements.
    found = imported("foundation.ckpt", Choices("eV", "Angstrom", elements=("O", "H")))
    assert found.elements == ["H", "O"]
    recorded = RECORDED.recorded("foundation", "h2o")
    graph = build_graph(RECORDED.structures["h2o"], found.potential.cutoff)
    values = found.potential.eval().evaluate(graph)
    np.testing.assert_allclose(values.energies, recorded["energies"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(values.forces, recorded["forces"], rtol=0, atol=1e-12)


def with_content(file: ForeignFile, **parts: Any) -> ForeignFile:
    return ForeignFile(file.path, file.sha256, file.content | parts, file.members, file.is_package)


def with_options(file: ForeignFile, **options: Any) -> ForeignFile:
    given = dict(file.content["hyper_parameters"])
    given["model"] = given["model"] | options
    return with_content(file, hyper_parameters=given)


def with_info(file: ForeignFile, **parts: Any) -> ForeignFile:
    given = dict(file.content["hyper_parameters"])
    given["info_dict"] = given["info_dict"] | parts
    return with_content(file, hyper_parameters=given)


REFUSED_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "builder": ({"_target_": "nequip.model.FullNequIPGNNModel"}, "_target_ is .*Full.*imported"),
    "fine-tuned": ({"_target_": "nequip.model.ModelFromPackage"}, "nequip-package build.*package"),
    "activation": ({"readout_mlp_nonlinearity": "mish"}, "readout_mlp_nonlinearity is 'mish'"),
    "residual": ({"convnet_resnet": True}, "convnet_resnet is True"),
    "no own": ({"convnet_sc": False}, "convnet_sc is False"),
    "shift": ({"learnable_shift": True}, "learnable_shift is True"),
    "norm": ({"convnet_nonlinearity_type": "norm"}, "convnet_nonlinearity_type is 'norm'"),
    "fields": ({"categorical_graph_field_embed": [{}]}, "categorical_graph_field_embed is"),
    "unknown": ({"attention": True}, "option attention, which is not known here"),
    "types": ({"type_names": ["O", "H", "Mg1"]}, "must be chemical symbols.*Mg1"),
    "no types": ({"type_names": None}, "type_names must be a list, found None"),
    "channels": ({"num_features": [3, 3]}, "num_features must have 3 entries"),
    "parity": ({"parity": None}, "parity must be true or false, found None"),
    "neighbours": ({"avg_num_neighbors": {"O": 1.0}}, r"has \['O'\], where .* are needed"),
    "pairs": ({"pair_potential": {"_target_": "a.LennardJones"}}, "of these only ZBL is imported"),
    "species": (
        {"pair_potential": {"_target_": "a.ZBL", "chemical_species": ["H"], "units": "metal"}},
        "chemical_species are .* are expected",
    ),
    "zbl units": (
        {
            "pair_potential": {
                "_target_": "a.ZBL",
                "chemical_species": ["O", "H", "Mg"],
                "units": "si",
            }
        },
        "units are 'si'; known are metal and real",
    ),
    "zbl power": (
        {
            "pair_potential": {
                "_target_": "a.ZBL",
                "chemical_species": ["O", "H", "Mg"],
                "units": "metal",
                "polynomial_cutoff_p": 5.5,
            }
        },
        "polynomial_cutoff_p must be an integer, found 5.5",
    ),
    "preset": (
        {"_target_": "nequip.model.PresetNequIPGNNModel", "preset": "XXL"},
        "preset is 'XXL'; known are S, M, L, XL",
    ),
    "cutoff": ({"r_max": 3.0}, "has a cutoff of 4 Å, above r_max = 3 Å"),
}


@pytest.mark.parametrize("case", REFUSED_OPTIONS)
def test_what_is_not_known_of_a_checkpoint_is_refused_by_name(case: str) -> None:
    options, message = REFUSED_OPTIONS[case]
    with pytest.raises(ModelFileError, match=message):
        read(with_options(load("parity.ckpt"), **options), EV)


def test_preset_is_the_network_that_its_name_stands_for() -> None:
    # With every number of the preset given, the preset itself decides nothing.
    file = load("foundation.ckpt")
    preset = with_options(
        file, _target_="nequip.model.PresetNequIPGNNModel", preset="M", radial_mlp_width=7
    )
    by_preset, plain = read(preset, EV).potential, read(file, EV).potential
    assert by_preset.state_dict().keys() == plain.state_dict().keys()
    bare = dict(file.content["hyper_parameters"]["model"])
    bare.pop("num_layers")
    given = dict(file.content["hyper_parameters"])
    given["model"] = bare | {"_target_": "nequip.model.PresetNequIPGNNModel", "preset": "m"}
    # M has four layers, so that the third of this file is not the last one.
    with pytest.raises(ModelFileError, match="layer 2: the radial network must end in 81"):
        read(with_content(file, hyper_parameters=given), EV)


def test_other_versions_training_modules_and_ensembles_are_refused() -> None:
    file = load("parity.ckpt")
    with pytest.raises(ModelFileError, match=r"written by nequip 0\.6\.1; known is 0\.19"):
        read(with_info(file, versions={"nequip": "0.6.1"}), EV)
    with pytest.raises(ModelFileError, match="nequip of an unknown version"):
        read(with_info(file, versions=None), EV)
    with pytest.raises(ModelFileError, match=r"training module is 'a.ScheduleFree'"):
        read(with_info(file, training_module={"_target_": "a.ScheduleFree"}), EV)
    two = {n.replace("sole_model", "second"): v for n, v in file.content["state_dict"].items()}
    both = with_content(file, state_dict=file.content["state_dict"] | two)
    with pytest.raises(ModelFileError, match="models second, sole_model: an ensemble"):
        read(both, EV)


def test_packages_without_names_of_types_and_options_that_are_none_are_refused() -> None:
    file, _ = packaged()
    modules(file.content["model/eager_model.pkl"])["sole_model"].state.update(_metadata=None)
    with pytest.raises(ModelFileError, match="does not name its types"):
        read(file, EV)
    file = load("parity.ckpt")
    given = file.content["hyper_parameters"] | {"model": [1]}
    with pytest.raises(ModelFileError, match="options must be a table"):
        read(with_content(file, hyper_parameters=given), EV)


def test_averages_that_do_not_fit_are_refused() -> None:
    file = load("parity.ckpt")
    state = dict(file.content["state_dict"])
    swapped = state | {"ema._extra_state": {"is_holding_ema_weights": False}}
    with pytest.raises(ModelFileError, match="saved in the middle of a validation"):
        read(with_content(file, state_dict=swapped), EV)
    fewer = {n: v for n, v in state.items() if n != "ema.ema_weight_3"}
    with pytest.raises(ModelFileError, match=r"averages .* for \d+ parameters"):
        read(with_content(file, state_dict=fewer), EV)
    other = state | {"ema.ema_weight_0": state["ema.ema_weight_1"]}
    with pytest.raises(ModelFileError, match=r"'ema.ema_weight_0' has the shape \(9,\)"):
        read(with_content(file, state_dict=other), EV)


PREFIX = "model.sole_model.model.func."
DAMAGED: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor | None], str]] = {
    "missing": ("per_atom_energy_readout.mlp_module.mlp.0.weight", lambda t: None, "has no 'per_"),
    "half": ("type_embed.embed_module.weight", lambda t: t.half(), "float16; weights must be"),
    "short": ("layer0_convnet.conv.linear_1.weight", lambda t: t[1:], "must hold 16 numbers"),
    "own": ("layer1_convnet.conv.sc.weight", lambda t: t[1:], "self-connection' must hold"),
    "readout": (
        "per_atom_energy_readout.mlp_module.mlp.2.weight",
        lambda t: t[1:],
        r"a matrix of \(6, 7\) numbers, where \(7, 7\)",
    ),
    "shifts": ("per_type_energy_scale_shift.shifts", lambda t: t[1:], "one of each of 3 types"),
    "cutoffs": ("edge_norm._rmax_recip", lambda t: t.expand(2), "holds 2 inverse cutoffs"),
    "cutoff": (
        "edge_norm._rmax_recip",
        lambda t: 1.25 * t,
        r"is the inverse of 3.2 Å, where r_max = 4 Å",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_tensors_of_a_checkpoint_are_refused_by_name(case: str) -> None:
    name, change, message = DAMAGED[case]
    file = load("readout.ckpt")
    state = dict(file.content["state_dict"])
    changed = change(state.pop(PREFIX + name))
    if changed is not None:
        state[PREFIX + name] = changed
    with pytest.raises(ModelFileError, match=message):
        read(with_content(file, state_dict=state), EV)


def packaged() -> tuple[ForeignFile, Inert]:
    """Return a package whose modules can be changed, and its sequence of modules."""
    file = load("foundation.nequip.zip")
    models = copy.deepcopy(file.content["model/eager_model.pkl"])
    file = with_content(file, **{"model/eager_model.pkl": models})
    return file, models.attribute("sole_model").attribute("model").attribute("func")


def modules(module: Inert) -> dict[str, Any]:
    return module.state["_modules"]


def layer(network: Inert) -> Inert:
    return modules(network)["layer1_convnet"]


def radial_network(network: Inert) -> Inert:
    return modules(modules(layer(network))["conv"])["edge_mlp"]


def widen(network: Inert) -> None:
    """Give the radial network of one layer another width, and the factor that belongs to it."""
    n_in, _, *others = radial_network(network).state["dims"]
    radial_network(network).state["dims"] = [n_in, 28, *others]
    second = modules(modules(radial_network(network))["mlp"])["2"]
    second.state["_buffers"]["alpha"] = torch.tensor(28.0 / 2.0).rsqrt()


def average_over_pairs(network: Inert) -> None:
    """Give each layer two averages of neighbours, where there are three types."""
    for name, module in modules(network).items():
        if name.startswith("layer"):
            norm = modules(modules(module)["conv"])["avg_num_neighbors_norm"]
            norm.state["_buffers"]["norm_const"] = torch.ones(2, 1)


def stranger(kind: str) -> Inert:
    return Inert(f"nequip.nn.{kind}", (), {"_modules": {}})


REFUSED_MODULES: dict[str, tuple[Callable[[Inert], object], str]] = {
    "pair": (
        lambda n: modules(n).update(pair_potential=stranger("LennardJones")),
        "'pair_potential' of the class LennardJones",
    ),
    "more": (lambda n: modules(n).update(d3=stranger("D3")), "'d3' of the class D3"),
    "fewer": (lambda n: modules(n).pop("factor"), "has no module 'factor'"),
    "fields": (
        lambda n: modules(n)["type_embed"].state.update(do_categorical_graph_field_embed=True),
        "embeds fields of the whole structure",
    ),
    "residual": (lambda n: layer(n).state.update(resnet=True), "layer1_convnet is built otherwise"),
    "gate": (
        lambda n: modules(layer(n)).update(equivariant_nonlin=stranger("NormActivation")),
        "built otherwise .*NormActivation",
    ),
    "activation": (
        lambda n: modules(
            modules(modules(layer(n))["equivariant_nonlin"].state["_modules"]["act_gates"])["acts"]
        )["0"].state.update(f=stranger("ssp")),
        "activations .*ssp.* in its gate",
    ),
    "radial": (
        lambda n: modules(modules(radial_network(n))["mlp"]).update({"1": stranger("Mish")}),
        "multilayer network of .*Mish",
    ),
    "widths": (widen, r"hidden layers of widths .*28.*; one width is expected"),
    "factor": (
        lambda n: modules(n)["factor"].state.update(factor=1.0),
        "ApplyFactor has factor = 1.0",
    ),
    "mean": (
        lambda n: modules(n)["total_energy_sum"].state.update(reduce="mean"),
        "AtomwiseReduce has reduce = 'mean', where 'sum' is expected",
    ),
    "moment": (
        lambda n: modules(
            modules(modules(layer(n))["equivariant_nonlin"].state["_modules"]["act_gates"])["acts"]
        )["0"].state.update(cst=1.0),
        "normalize2mom has cst = 1.0",
    ),
    "gain": (
        lambda n: (
            modules(modules(radial_network(n))["mlp"])["2"]
            .state["_buffers"]
            .update(alpha=torch.ones(()))
        ),
        "linear map with the factor .*, where 0.534522 is expected",
    ),
    "odd scalars": (
        lambda n: modules(layer(n))["equivariant_nonlin"].state.update(
            irreps_scalars=modules(n)["spharm"].attribute("irreps_edge_sh")
        ),
        "has the scalars .* in its gate",
    ),
    "irreps": (
        lambda n: layer(n).state.update(feature_irreps_hidden=stranger("Irreps")),
        "irreps are not written as e3nn",
    ),
    "entries": (
        lambda n: layer(n).state.update(
            feature_irreps_hidden=Inert("e3nn.o3._irreps.Irreps", ((1,),), {})
        ),
        "irreps are not written as e3nn",
    ),
    "convolution": (lambda n: modules(layer(n)).pop("conv"), "ConvNetLayer has no module 'conv'"),
    "range": (lambda n: modules(n)["edge_norm"].state.pop("r_max"), "has no 'r_max'"),
    "averages": (average_over_pairs, "one number, or one of each of 3 types, found 2"),
    "features": (
        lambda n: layer(n).state.update(
            feature_irreps_hidden=modules(n)["spharm"].attribute("irreps_edge_sh")
        ),
        "layers have features",
    ),
    "charges": (
        lambda n: (
            modules(n)["pair_potential"]
            .state["_buffers"]
            .update(atomic_numbers=torch.tensor([1, 8, 12]))
        ),
        r"atomic_numbers'\) must be \[8, 1, 12\], .* O, H, Mg, found \[1, 8, 12\]",
    ),
    "no layers": (
        lambda n: [modules(n).pop(f"layer{k}_convnet") for k in range(3)],
        "no common avg_num_neighbors",
    ),
    "norms": (
        lambda n: (
            modules(modules(layer(n))["conv"])["avg_num_neighbors_norm"]
            .state["_buffers"]
            .update(norm_const=torch.ones(3, 1))
        ),
        "no common avg_num_neighbors",
    ),
}


@pytest.mark.parametrize("case", REFUSED_MODULES)
def test_what_is_not_known_of_a_package_is_refused_by_name(case: str) -> None:
    change, message = REFUSED_MODULES[case]
    file, network = packaged()
    read(file, EV)
    change(network)
    with pytest.raises(ModelFileError, match=message):
        read(file, EV)


def test_packages_of_other_versions_kinds_and_ensembles_are_refused() -> None:
    file, _ = packaged()
    old = ForeignFile(file.path, file.sha256, file.content, {}, True)
    with pytest.raises(ModelFileError, match="nequip of an unknown version"):
        read(old, EV)
    models = file.content["model/eager_model.pkl"]
    sole = modules(models)["sole_model"]
    for name, changed, message in (
        ("second", {"sole_model": sole, "second": sole}, "other models than 'sole_model'"),
        ("other", {"sole_model": stranger("Wrapped")}, "no GraphModel of ForceStressOutput"),
    ):
        content = {"model/eager_model.pkl": Inert(name, (), {"_modules": changed})}
        with pytest.raises(ModelFileError, match=message):
            read(ForeignFile(file.path, file.sha256, content, file.members, True), EV)


def test_other_files_are_not_taken_for_nequips() -> None:
    assert not recognises(read_foreign(HERE / "sevennet" / "xplor.pth"))
    file = load("parity.ckpt")
    assert not recognises(ForeignFile(file.path, file.sha256, [1], {}))
    assert not recognises(with_content(file, state_dict={"net.weight": torch.ones(1)}))
    package = load("readout.nequip.zip")
    assert not recognises(ForeignFile(package.path, "", {"a.pkl": 1}, {}, True))
    assert state_of(package.content["model/eager_model.pkl"])
