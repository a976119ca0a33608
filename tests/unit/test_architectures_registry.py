"""The registry: the folder is the list, and a new file is a new architecture."""

from __future__ import annotations

import sys
from dataclasses import FrozenInstanceError, asdict, fields
from pathlib import Path

import pytest
from torch import nn

from eqcalc import architectures
from eqcalc.architectures import available, build, config_class, is_potential, load
from eqcalc.errors import ConfigError, UnknownArchitectureError


def test_available_names_are_the_files_of_the_folder():
    folder = Path(architectures.__file__).parent
    files = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
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
        ("cutoff", r"Did you mean 'cut_off'\?$"),
    ],
)
def test_unknown_option_is_refused_with_a_suggestion(option, match):
    with pytest.raises(ConfigError, match=match):
        build("painn", **{option: 3})


@pytest.mark.parametrize(
    ("name", "option", "value", "match"),
    [
        ("painn", "embedding_dim", 1, "embedding_dim must be an integer >= 2, found 1"),
        ("painn", "embedding_dim", 64.0, r"embedding_dim must be an integer >= 2, found 64\.0"),
        ("painn", "num_blocks", 0, "num_blocks must be an integer >= 1, found 0"),
        ("painn", "num_radial_basis", -1, "num_radial_basis must be an integer >= 1, found -1"),
        ("painn", "out_dim", True, "out_dim must be an integer >= 1, found True"),
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

    def add(stem: str, name: str) -> None:
        (tmp_path / f"{stem}.py").write_text(NEW_ARCHITECTURE.format(name=name))
        monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(tmp_path)])
        monkeypatch.delitem(sys.modules, f"eqcalc.architectures.{stem}", raising=False)

    yield add
    for stem in ("newnet", "misnamed"):
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


def test_file_without_a_class_of_its_name_is_refused(folder_with):
    folder_with("misnamed", "Another")
    with pytest.raises(
        UnknownArchitectureError,
        match=r"architectures/misnamed\.py must list a class named like the file in __all__",
    ):
        load("misnamed")
