"""The registry: the folder is the list, and a new file is a new architecture."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import FrozenInstanceError, asdict, dataclass, fields
from pathlib import Path

import pytest
import torch
from small_models import small_options
from torch import nn

from eqcalc import architectures
from eqcalc.architectures import (
    available,
    build,
    config_class,
    is_potential,
    load,
    published,
    register,
    register_file,
)
from eqcalc.cli.architecture_options import option_groups
from eqcalc.cli.info import info
from eqcalc.errors import ConfigError, UnknownArchitectureError


def test_available_names_are_the_files_of_the_folder():
    folder = Path(architectures.__file__).parent
    files = sorted(path.stem for path in folder.glob("[!_]*.py"))
    assert available() == files
    assert {"painn", "schnet"} <= set(files)


@pytest.mark.parametrize("name", available())
def test_every_architecture_builds_from_its_defaults(name):
    network = build(name)
    assert isinstance(network, load(name))
    assert type(network).__name__.lower() == name
    options = asdict(config_class(name)())
    assert asdict(network.config) == options


@pytest.mark.parametrize("name", available())
def test_every_config_is_frozen(name):
    config = config_class(name)()
    with pytest.raises(FrozenInstanceError, match="cannot assign to field"):
        setattr(config, fields(config)[0].name, 1)


@pytest.mark.parametrize("name", [name for name in available() if is_potential(name)])
def test_every_potential_states_its_cutoff_and_hops(name):
    network = build(name)
    assert network.cutoff > 0
    assert isinstance(network.n_hops, int)
    assert network.n_hops >= 1


@pytest.mark.parametrize("name", available())
def test_classes_are_importable_from_the_package(name):
    network = load(name)
    assert getattr(architectures, network.__name__) is network


PUBLISHED: dict[str, dict[str, object]] = {
    "schnet": {
        "num_interaction_blocks": 3,
        "hidden_dim": 64,
        "num_filters": 300,
        "lower_bound": 0.0,
        "upper_bound": 30.0,
        "gamma": 10.0,
    },
    "painn": {"embedding_dim": 128, "num_blocks": 3, "num_radial_basis": 20, "cut_off": 5.0},
    "dimenet": {
        "embedding_dim": 128,
        "num_interaction_blocks": 6,
        "bilinear_dim": 8,
        "num_spherical_basis": 7,
        "num_radial_basis": 6,
        "cut_off": 5.0,
        "envelope_exponent": 5,
        "num_layers_before_skip": 1,
        "num_layers_after_skip": 2,
        "num_output_linear_layers": 3,
    },
    "dimenetpp": {
        "embedding_dim": 128,
        "num_interaction_blocks": 4,
        "interaction_dim": 64,
        "basis_dim": 8,
        "output_dim": 256,
        "num_spherical_basis": 7,
        "num_radial_basis": 6,
        "cut_off": 5.0,
        "envelope_exponent": 5,
        "num_layers_before_skip": 1,
        "num_layers_after_skip": 2,
        "num_output_linear_layers": 3,
    },
    "egnn": {
        "hidden_dim": 128,
        "num_layers": 7,
        "attention": True,
        "swish_beta": 1.0,
        "update_coordinates": False,
    },
    "gvp": {
        "scalar_dim": 100,
        "vector_dim": 16,
        "edge_scalar_dim": 32,
        "edge_vector_dim": 1,
        "num_layers": 5,
        "num_radial_basis": 16,
        "cutoff": 4.5,
        "drop_rate": 0.1,
    },
    "gmn": {"hidden_dim": 64, "num_layers": 4, "learnable": False},
    "nequip": {
        "l_max": 3,
        "parity": True,
        "num_layers": 5,
        "num_features": 64,
        "cut_off": 4.0,
        "num_bessels": 8,
        "polynomial_cutoff_p": 6,
        "radial_mlp_depth": 3,
        "radial_mlp_width": 64,
    },
}
"""What the papers state, and what their authors' code for them has."""


@pytest.mark.parametrize("name", available())
def test_published_settings_build_and_are_the_papers(name):
    config = published(name)
    assert isinstance(config, config_class(name))
    papers = PUBLISHED.get(name, {})  # of the seven networks
    assert {option: getattr(config, option) for option in papers} == papers
    assert build(name, **asdict(config)).config == config


@pytest.mark.parametrize("name", available())
def test_published_settings_and_every_option_are_documented(name):
    config = config_class(name)
    groups = option_groups(config)
    assert sorted(n for group in groups for n in group.names) == sorted(
        field.name for field in fields(config)
    )
    assert all(group.meaning for group in groups)
    # Where the defaults are not the paper's, the module says what is.
    module = sys.modules[config.__module__]
    assert "paper's" in config.__doc__ or hasattr(module, "PUBLISHED"), (
        f"{module.__name__}: give PUBLISHED, the Config of the paper, or say in Config's docstring "
        "that the defaults are the paper's"
    )


def test_names_are_case_insensitive():
    assert load("PaiNN") is load("painn")
    assert config_class("SCHNET") is config_class("schnet")


def test_options_reach_the_network():
    network = build("painn", embedding_dim=24, cut_off=3.5)
    assert (network.config.embedding_dim, network.config.cut_off) == (24, 3.5)
    assert network.config.num_blocks == config_class("painn")().num_blocks


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("pain", r"^unknown architecture 'pain'; available: .*painn.*\. Did you mean 'painn'\?$"),
        ("schnett", r"Did you mean 'schnet'\?$"),
        ("zzzzzz", r"^unknown architecture 'zzzzzz'; available: [a-z_, 0-9]+\.$"),
        ("", r"^unknown architecture ''; available: "),
    ],
)
@pytest.mark.parametrize("ask", [load, config_class, build, is_potential])
def test_unknown_name_is_refused_with_a_suggestion(ask, name, match):
    with pytest.raises(UnknownArchitectureError, match=match) as caught:
        ask(name)
    assert isinstance(caught.value, ValueError)


def test_unknown_attribute_is_refused_with_a_suggestion():
    with pytest.raises(AttributeError, match=r"no attribute 'Painn'\. Did you mean 'painn'\?"):
        architectures.Painn  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute '_private'"):
        architectures._private  # noqa: B018


def test_private_and_shared_names_are_not_architectures():
    with pytest.raises(AttributeError, match="no attribute 'Config'"):
        architectures.Config  # noqa: B018


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ("embeding_dim", r"^painn has no option 'embeding_dim'; known: embedding_dim, num_blocks"),
        ("embeding_dim", r"Did you mean 'embedding_dim'\?$"),
        ("cutof", r"Did you mean 'cutoff'\?$"),
    ],
)
def test_unknown_option_is_refused_with_a_suggestion(option, match):
    with pytest.raises(ConfigError, match=match):
        build("painn", **{option: 3})


@pytest.mark.parametrize("name", [n for n in available() if architectures.is_potential(n)])
def test_every_potential_takes_the_names_that_all_networks_share(name):
    common = architectures.common_names(config_class(name))
    fields_of = {field.name for field in fields(config_class(name))}
    for option, value in (("cutoff", 3.5), ("n_channels", 8), ("n_layers", 2)):
        assert getattr(build(name, **{option: value}).config, common.get(option, option)) == value
    assert build(name, cutoff=3.5).cutoff == 3.5
    assert set(common.values()) <= fields_of
    assert not set(common) & fields_of


def test_own_and_common_name_of_an_option_together_are_refused():
    with pytest.raises(ConfigError, match=r"^cutoff and cut_off are the same option; give one"):
        build("painn", cutoff=3.0, cut_off=3.0)


def test_errors_about_an_option_use_the_name_that_was_given():
    with pytest.raises(ConfigError, match=r"^cutoff must be a positive number, found -1"):
        build("painn", cutoff=-1.0)
    with pytest.raises(ConfigError, match=r"^cut_off must be a positive number, found -1"):
        build("painn", cut_off=-1.0)


@pytest.mark.parametrize("name", available())
def test_every_architecture_refuses_an_unknown_option(name):
    match = rf"^{name} has no option 'spin'; known: {fields(config_class(name))[0].name}"
    with pytest.raises(ConfigError, match=match):
        build(name, spin=1)


@pytest.mark.parametrize(
    ("name", "option", "value", "match"),
    [
        ("painn", "embedding_dim", 1, "embedding_dim must be an integer >= 2, found 1"),
        ("painn", "embedding_dim", 64.0, r"embedding_dim must be an integer >= 2, found 64\.0"),
        ("painn", "num_blocks", 0, "num_blocks must be an integer >= 1, found 0"),
        ("painn", "num_radial_basis", -1, "num_radial_basis must be an integer >= 1, found -1"),
        ("painn", "out_dim", True, "out_dim must be an integer >= 1, found True"),
        ("painn", "return_potential_energy", "no", "return_.* must be True or False, found 'no'"),
        ("egnn", "attention", "no", "attention must be True or False, found 'no'"),
        ("gmn", "learnable", 0, "learnable must be True or False, found 0"),
        ("painn", "cut_off", -5.0, r"cut_off must be a positive number, found -5\.0"),
        ("schnet", "num_interaction_blocks", 0, "num_interaction_blocks must be an integer >= 1"),
        ("schnet", "hidden_dim", "8", "hidden_dim must be an integer >= 1, found '8'"),
        ("schnet", "num_filters", 1, "num_filters must be an integer >= 2, found 1"),
        ("schnet", "cutoff", 0.0, r"cutoff must be a positive number, found 0\.0"),
        ("schnet", "gamma", float("nan"), "gamma must be a positive number, found nan"),
        ("schnet", "lower_bound", 5.0, r"upper_bound must exceed lower_bound \(5\.0\), found 5\.0"),
    ],
)
def test_option_out_of_range_is_refused_by_name(name, option, value, match):
    with pytest.raises(ConfigError, match=match):
        build(name, **{option: value})


NEW_ARCHITECTURE = '''
"""A network in a file of its own."""
from dataclasses import dataclass
from torch import nn

__all__ = ["Config", "{name}"]

@dataclass(frozen=True)
class Config:
    width: int = 3

class {name}(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = Config(width)
'''


@pytest.fixture
def folder_with(tmp_path, monkeypatch):
    """Return a function that adds an architecture file to the registry for one test."""
    stems = []

    def add(stem: str, name: str, text: str = NEW_ARCHITECTURE) -> None:
        stems.append(stem)
        (tmp_path / f"{stem}.py").write_text(text.format(name=name))
        importlib.invalidate_caches()
        if str(tmp_path) not in architectures.__path__:
            monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(tmp_path)])

    yield add
    for stem in stems:
        sys.modules.pop(f"eqcalc.architectures.{stem}", None)
        vars(architectures).pop(stem, None)


def test_new_file_is_a_new_architecture(folder_with):
    folder_with("newnet", "NewNet")
    assert "newnet" in available()
    network = build("newnet", width=7)
    assert isinstance(network, nn.Module)
    assert network.config.width == 7
    assert not is_potential("newnet")
    assert architectures.NewNet is type(network)


@pytest.mark.parametrize("replacement", ["", '__all__ = ["Config"]', '__all__ = ["Absent"]'])
def test_new_file_needs_no_list_of_its_names(folder_with, replacement):
    text = NEW_ARCHITECTURE.replace('__all__ = ["Config", "{name}"]', replacement)
    folder_with("newnet", "NewNet", text)
    assert build("newnet").config == config_class("newnet")()
    assert architectures.NewNet is load("newnet")
    with pytest.raises(AttributeError, match="no attribute 'Absent'"):
        architectures.Absent  # noqa: B018


def test_settings_of_the_paper_are_the_modules_published(folder_with):
    folder_with("newnet", "NewNet", NEW_ARCHITECTURE + "\nPUBLISHED = Config(5)\n")
    assert published("newnet").width == 5
    folder_with("other", "Other", NEW_ARCHITECTURE + "\nPUBLISHED = 5\n")
    assert published("other").width == 3


def test_small_options_are_the_modules_small_or_cut_down_by_rule(folder_with):
    wide = NEW_ARCHITECTURE.replace("width: int = 3", "width: int = 64")
    folder_with("newnet", "NewNet", wide + "\nSMALL = Config(48)\n")
    folder_with("other", "Other", wide)
    assert small_options("newnet") == {"width": 48}
    assert small_options("other") == {"width": 16}


BROKEN_FILES = [
    (NEW_ARCHITECTURE.replace("class {name}", "class Another"), "a network class"),
    (NEW_ARCHITECTURE.replace("class Config", "class Options"), "a class Config"),
    ("class NewNet: ...", r"'newnet' \(in any case\) and a class Config"),
    ("from torch.nn import Linear as NewNet", "its networks: none"),
    (NEW_ARCHITECTURE + "\nimport absent_package", "fails: ModuleNotFoundError: "),
    (NEW_ARCHITECTURE + "\nclass", r"newnet\.py' fails: SyntaxError: "),
    (NEW_ARCHITECTURE.replace("(frozen=True)", ""), "must be a frozen dataclass"),
]


@pytest.mark.parametrize(("text", "match"), BROKEN_FILES)
def test_broken_file_is_refused_and_breaks_nothing_else(folder_with, capsys, text, match):
    folder_with("newnet", "NewNet", text)
    for ask in (load, config_class, build, is_potential, published):
        with pytest.raises(ConfigError, match=match):
            ask("newnet")
    with pytest.raises(ConfigError, match=match):
        info("newnet")
    assert architectures.PaiNN is load("painn")
    assert architectures.GMNLayer.__name__ == "GMNLayer"
    info()
    lines = capsys.readouterr().out.splitlines()
    (broken,) = [line for line in lines if line.startswith("  newnet ")]
    assert re.match(rf"  newnet     broken: .*{match}", broken)
    assert {"painn", "schnet"} <= {line.split()[0] for line in lines if line.startswith("  ")}


def test_message_of_a_broken_file_names_the_file_and_what_is_missing(folder_with, tmp_path):
    folder_with("misnamed", "Another")
    path = re.escape(str(tmp_path / "misnamed.py"))
    with pytest.raises(
        ConfigError,
        match=rf"^'{path}' does not define a network class named 'misnamed' \(in any case\); its "
        r"networks: Another\.$",
    ):
        load("misnamed")


def test_unknown_attribute_tells_of_broken_files(folder_with):
    folder_with("newnet", "NewNet", "import absent_package")
    with pytest.raises(
        AttributeError, match=r"attribute 'NewNet'.*newnet\.py' fails: ModuleNotFou"
    ):
        architectures.NewNet  # noqa: B018


def test_private_modules_and_packages_are_no_architectures(folder_with, tmp_path):
    folder_with("_shared", "Shared")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    assert {"_shared", "package"} & set(available()) == set()
    with pytest.raises(UnknownArchitectureError, match="unknown architecture '_shared'"):
        load("_shared")


# --- architectures of the user's own ------------------------------------------------------


@pytest.fixture
def registry(monkeypatch) -> None:
    """Forget after the test what it registers."""
    monkeypatch.setattr(architectures, "_registered", {})


@dataclass(frozen=True)
class MineConfig:
    """Options of the network below."""

    width: int = 3
    cutoff: float = 4.0


class Mine(nn.Module):
    """Obeys the form, if not the contract, of an architecture."""

    n_hops = 1

    def __init__(self, width: int, cutoff: float) -> None:
        super().__init__()
        self.config = MineConfig(width, cutoff)
        self.cutoff = cutoff
        self.weights = nn.Parameter(torch.rand(width))

    def atomic_energies(self, graph):
        raise NotImplementedError


@pytest.mark.usefixtures("registry")
def test_registered_architecture_is_found_like_the_others():
    state = torch.get_rng_state()
    assert register(Mine, MineConfig) == "mine"
    assert torch.equal(torch.get_rng_state(), state)
    assert "mine" in available()
    assert load("Mine") is Mine
    assert config_class("mine") is MineConfig
    assert published("mine") == MineConfig()
    assert is_potential("mine")
    assert build("mine", width=7).config == MineConfig(width=7)
    with pytest.raises(ConfigError, match=r"mine has no option 'widht'.*Did you mean 'width'\?"):
        build("mine", widht=7)
    with pytest.raises(UnknownArchitectureError, match=r"available: .*mine.* mean 'mine'\?$"):
        load("miine")
    assert architectures.PaiNN is load("painn")


@pytest.mark.usefixtures("registry")
def test_a_class_that_is_defined_again_replaces_itself():
    register(Mine, MineConfig)
    again = type("Mine", (Mine,), {"__module__": Mine.__module__})
    register(again, MineConfig)
    assert load("mine") is again


@pytest.mark.usefixtures("registry")
def test_a_name_that_is_taken_is_refused():
    register(Mine, MineConfig)
    other = type("MINE", (Mine,), {"__module__": "elsewhere"})
    with pytest.raises(ConfigError, match=r"'mine' is taken by test_\w+_registry\.Mine"):
        register(other, MineConfig)
    assert load("mine") is Mine
    shipped = type("PaiNN", (Mine,), {})
    with pytest.raises(ConfigError, match=r"the name 'painn' is taken by eqcalc; rename the class"):
        register(shipped, MineConfig)


def _without(attribute: str) -> type:
    def init(self, **options):
        Mine.__init__(self, **options)
        delattr(self, attribute)

    return type("Mine", (Mine,), {"__init__": init})


def _with(**attributes: object) -> type:
    def init(self, **options):
        Mine.__init__(self, **options)
        for name, value in attributes.items():
            setattr(self, name, value)

    return type("Mine", (Mine,), {"__init__": init})


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("network", "match"),
    [
        (Mine(3, 4.0), r"an architecture must be a subclass of nn\.Module, found Mine\("),
        (MineConfig, r"an architecture must be a subclass of nn\.Module, found <class"),
        (type("Mine", (nn.Module,), {}), r"^Mine has no atomic_energies: it is not a potential"),
        (_without("cutoff"), r"Mine must set self\.cutoff to a positive number of Å, found None"),
        (_with(cutoff=-1.0), r"Mine must set self\.cutoff to a positive number of Å, found -1\.0"),
        (_with(n_hops=None), r"Mine must set self\.n_hops to a positive integer, found None"),
        (_with(n_hops=1.0), r"Mine must set self\.n_hops to a positive integer, found 1\.0"),
        (_without("config"), r"Mine must set self\.config to the Config .* built from, found None"),
        (_with(config=MineConfig(9)), r"self\.config to the Config .*, found MineConfig\(width=9"),
    ],
)
def test_a_class_that_breaks_the_form_is_refused(network, match):
    with pytest.raises(ConfigError, match=match):
        register(network, MineConfig)
    assert "mine" not in available()


@dataclass
class Thawed:
    """Not frozen."""

    width: int = 3


@dataclass(frozen=True)
class Demanding:
    """Has an option without a default."""

    width: int
    cutoff: float = 4.0


@dataclass(frozen=True)
class OddOptions:
    """Has an option that the class below does not take."""

    depth: int = 3


@dataclass(frozen=True)
class Reserved:
    """Has an option that a training file could not set."""

    file: str = ""


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("config", "match"),
    [
        (Thawed, r"the Config of Mine must be a frozen dataclass, found <class .*Thawed"),
        (dict, r"the Config of Mine must be a frozen dataclass, found <class 'dict'>"),
        (MineConfig(), r"the Config of Mine must be a frozen dataclass, found MineConfig\("),
        (Demanding, r"the Config of Mine needs a default for 'width'"),
        (OddOptions, r"Mine cannot be built from the defaults of its Config: .*'depth'"),
        (Reserved, r"the Config of Mine must not have an option 'file': in a training file"),
    ],
)
def test_a_config_that_breaks_the_form_is_refused(config, match):
    with pytest.raises(ConfigError, match=match):
        register(Mine, config)
    assert "mine" not in available()


OWN_FILE = '''
"""A network of its own."""
from dataclasses import dataclass
from eqcalc.nn.mlp import MLP
from torch import nn

@dataclass(frozen=True)
class Config:
    width: int = 3

class OwnNet(nn.Module):
    cutoff, n_hops = 4.0, 1

    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = Config(width)

    def atomic_energies(self, graph):
        raise NotImplementedError
'''


@pytest.mark.usefixtures("registry")
def test_a_file_of_ones_own_is_registered_and_read_again_after_a_change(tmp_path):
    path = tmp_path / "my net-1.py"
    path.write_text(OWN_FILE)
    register_file(path, "ownnet")
    assert build("ownnet", width=5).config.width == 5
    path.write_text(OWN_FILE.replace("width: int = 3", "width: int = 4"))
    register_file(path, "OwnNet")
    assert config_class("ownnet")().width == 4
    (tmp_path / "copy.py").write_text(OWN_FILE)
    with pytest.raises(ConfigError, match=r"'ownnet' is taken by .*my net-1\.py; rename"):
        register_file(tmp_path / "copy.py", "ownnet")


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("class OwnNet", "class Other", r"does not define a .* 'ownnet' .*; its networks: Other\."),
        ("class OwnNet(nn.Module)", "class OwnNet", r"'ownnet' \(in any .*; its networks: none\."),
        ("class Config", "class Settings", r"does not define a class Config; .*: OwnNet\."),
        ("class OwnNet", "class OwnNet (", r"own\.py' fails: SyntaxError: .*line 11"),
        ("import nn", "import nnn", r"own\.py' fails: ImportError: cannot import name 'nnn'"),
        ("(frozen=True)", "", r"the Config of OwnNet must be a frozen dataclass"),
    ],
)
def test_a_file_that_defines_no_such_architecture_is_refused(old, new, match, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN_FILE.replace(old, new, 1))
    modules = set(sys.modules)
    with pytest.raises(ConfigError, match=match):
        register_file(path, "ownnet")
    assert "ownnet" not in available()
    if " fails: " in match:
        assert set(sys.modules) == modules


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no file '.*absent\.py' to take .* 'ownnet' from"):
        register_file(tmp_path / "absent.py", "ownnet")


@pytest.mark.usefixtures("registry")
def test_a_file_may_state_the_papers_settings_and_small_ones(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN_FILE + "\nPUBLISHED, SMALL = Config(9), Config(2)\n")
    register_file(path, "ownnet")
    assert published("ownnet").width == 9
    assert small_options("ownnet") == {"width": 2}


def test_options_of_a_docstring_are_taken_apart():
    @dataclass(frozen=True)
    class Config:
        """Options of a network; none is the paper's.

        a, b : two of them,
            on two lines; with a semicolon : and a colon
        c : one; d : another
        """

        a: int = 1
        b: int = 2
        c: int = 3
        d: int = 4
        e: int = 5

    assert option_groups(Config) == [
        (("a", "b"), "two of them, on two lines; with a semicolon : and a colon"),
        (("c",), "one"),
        (("d",), "another"),
        (("e",), ""),
    ]
