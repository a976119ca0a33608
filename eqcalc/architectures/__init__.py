"""The registry of architectures: this folder is the list, and users add to it.

A module ``name.py`` holds the class whose lower-case name is ``name`` and its
frozen ``Config``. To add an architecture, add one file; trainer, exporter,
command line and contract tests find it here. Modules whose names begin with an
underscore, and packages, are no architectures. An architecture that lives in a
user's own code is made known by :func:`register` or :func:`register_file`.

What a module may define besides, and what names mean:

PUBLISHED
    ``Config`` of the paper, where the defaults are others
BEFORE
    options that came later, and the value that a network had before: a model file whose card
    does not name such an option is older than it
SMALL
    ``Config`` for tests, where a width of 16 and two layers do not fit its options
PER_ELEMENT
    options that, where they are lists, have an entry (or a row and a column) for each of
    ``elements``, in the order of atomic numbers: a fine-tuning keeps those of its elements
options ``elements`` and ``avg_num_neighbors``
    filled by the training from its frames, where the training file leaves them out: atomic
    numbers of the elements, and the mean number of neighbours of an atom
attributes ``mirror_symmetric``, ``vanishing_derivatives`` and ``smooth_at_symmetric_sites``
    what the network gives up of the contract (:mod:`eqcalc.concessions`)
attribute ``no_exchange``
    why the ranks of a host cannot exchange features of its atoms, in words; a network that reads
    its neighbours by :mod:`eqcalc.nn.scatter` alone has none
attribute ``readout_modules``
    of the class, a tuple of names of the modules (``*`` stands for any) that read the energy out
    of each atom's features; what enters them, rotation invariant, are the atoms' descriptors
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import pkgutil
import re
import sys
import zlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn

from eqcalc.errors import ConfigError, UnknownArchitectureError, did_you_mean
from eqcalc.nn.spelling import common_names, field_names, spelled_by_user

__all__ = [
    "available",
    "build",
    "build_of_card",
    "common_names",
    "config_class",
    "field_names",
    "is_potential",
    "load",
    "published",
    "register",
    "register_file",
    "spelled_by_user",
]


class _Registered(NamedTuple):
    """A user's architecture; from the same origin it may be registered again."""

    network: type[nn.Module]
    config: type
    origin: str


_registered: dict[str, _Registered] = {}

_RESERVED = ("name", "file")  # keys of [architecture] in a training file that are no options


def available() -> list[str]:
    """Return the lower-case names of all architectures, registered ones included.

    No module is imported: one that is broken is named as well.

    >>> "painn" in available()
    True
    """
    return sorted([*_shipped(), *_registered])


def load(name: str) -> type[nn.Module]:
    """Return the network class of an architecture.

    Raises
    ------
    UnknownArchitectureError : ``name`` is not in :func:`available`.
    ConfigError : its file fails, or defines no such class or no Config.
    """
    return _find(name).network


def config_class(name: str) -> type:
    """Return the frozen dataclass of an architecture's options and defaults.

    Raises
    ------
    See :func:`load`.
    """
    return _find(name).config


def published(name: str) -> Any:
    """Return the Config of the paper: the module's PUBLISHED, else the defaults.

    Raises
    ------
    See :func:`load`.

    >>> published("schnet").num_filters, config_class("schnet")().num_filters
    (300, 50)
    """
    options = config_class(name)
    stated = getattr(sys.modules.get(options.__module__), "PUBLISHED", None)
    return stated if isinstance(stated, options) else options()


def build(name: str, **config: Any) -> nn.Module:
    """Build an architecture from its defaults and the options given.

    Options that most networks have may be given by one name for all: ``cutoff``,
    ``n_channels``, ``n_layers``, ``n_radial_basis``.

    >>> build("painn", n_channels=64, cutoff=4.0).config.embedding_dim
    64

    Raises
    ------
    UnknownArchitectureError : ``name`` is not in :func:`available`.
    ConfigError : an option is unknown or out of range; or see :func:`load`.
    """
    options = config_class(name)
    known = [field.name for field in fields(options)]
    chosen = field_names(options, config)
    for key in chosen:
        if key not in known:
            raise ConfigError(
                f"{name} has no option '{key}'; known: {', '.join(known)}."
                + did_you_mean(key, [*known, *common_names(options)])
            )
    with spelled_by_user(options, config):
        return load(name)(**asdict(options(**chosen)))


def build_of_card(name: str, config: Mapping[str, Any]) -> nn.Module:
    """Build the network of a model file: a card names every option that there was.

    Raises
    ------
    See :func:`build`.

    >>> build_of_card("painn", {}).config.vector_norm, build("painn").config.vector_norm
    ('published', 'smooth')
    """
    module = sys.modules.get(config_class(name).__module__)
    return build(name, **{**getattr(module, "BEFORE", {}), **config})


def is_potential(name: str) -> bool:
    """Tell a potential (it has ``atomic_energies``) from a learned dynamics."""
    return hasattr(load(name), "atomic_energies")


def register(network: type[nn.Module], config: type) -> str:
    """Make a potential of your own known, in this process, by its class's lower-case name.

    Training and export look it up; a model file runs without it. A class that is defined
    and registered again, as by a notebook's cell, replaces itself.

    Parameters
    ----------
    network : has ``atomic_energies``; its constructor takes the options of ``config`` by
        name, keeps them as ``self.config``, and sets ``cutoff`` (Å) and ``n_hops``
    config : frozen dataclass, every option with a default

    Returns
    -------
    The name.

    Raises
    ------
    ConfigError : one of these is not so, or the name is taken.
    """
    return _register(network, config, None)


def register_file(path: Path, name: str) -> None:
    """Register the architecture of a Python file, which is run as by ``import``.

    Parameters
    ----------
    path : of a file that defines ``Config`` and a class whose lower-case name is ``name``;
        moved into this folder, it would be found there

    Raises
    ------
    ConfigError : the file is missing, fails, or lacks one of them; see also :func:`register`.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise ConfigError(f"there is no file '{path}' to take the architecture '{name}' from.")
    module = _run(path)
    imported = {key.lower(): value for key, value in vars(module).items() if _is_network(value)}
    found = _pick(module, imported | _own_networks(module), name.lower())
    _register(found.network, found.config, str(path))


def _register(network: type[nn.Module], config: type, origin: str | None) -> str:
    if not _is_network(network):
        raise ConfigError(f"an architecture must be a subclass of nn.Module, found {network!r}.")
    name = network.__name__.lower()
    origin = origin or f"{network.__module__}.{network.__qualname__}"
    if name in _shipped() or (name in _registered and _registered[name].origin != origin):
        where = _registered[name].origin if name in _registered else "eqcalc"
        raise ConfigError(
            f"the name '{name}' is taken by {where}; rename the class, or take that one: leave "
            "'file' out of [architecture]."
        )
    if not callable(getattr(network, "atomic_energies", None)):
        raise ConfigError(f"{network.__name__} has no atomic_energies: it is not a potential.")
    _require_config(config, network.__name__)
    _require_contract(network, config())
    _registered[name] = _Registered(network, config, origin)
    return name


def _require_config(config: Any, network: str) -> None:
    parameters = getattr(config, "__dataclass_params__", None)
    if not isinstance(config, type) or parameters is None or not parameters.frozen:
        raise ConfigError(f"the Config of {network} must be a frozen dataclass, found {config!r}.")
    for field in fields(config):
        if field.name in _RESERVED:
            raise ConfigError(
                f"the Config of {network} must not have an option '{field.name}': in a training "
                "file that key says which architecture to take."
            )
        if field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"the Config of {network} needs a default for '{field.name}'.")


def _require_contract(network: type[nn.Module], defaults: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        try:
            built = network(**asdict(defaults))
        except TypeError as error:
            raise ConfigError(
                f"{network.__name__} cannot be built from the defaults of its Config: {error}."
            ) from error
    requirements = {
        "config": ("the Config that it was built from", getattr(built, "config", None) == defaults),
        "cutoff": ("a positive number of Å", _is_positive(getattr(built, "cutoff", None), float)),
        "n_hops": ("a positive integer", _is_positive(getattr(built, "n_hops", None), int)),
    }
    for attribute, (expected, is_met) in requirements.items():
        if not is_met:
            found = getattr(built, attribute, None)
            raise ConfigError(
                f"{network.__name__} must set self.{attribute} to {expected}, found {found!r}."
            )


def _is_positive(value: Any, kind: type) -> bool:
    kinds = (int, float) if kind is float else (int,)
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 < value < math.inf


def _is_network(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def _own_networks(module: ModuleType) -> dict[str, type[nn.Module]]:
    """Return the networks that a module defines itself, by lower-case name."""
    return {
        key.lower(): value
        for key, value in vars(module).items()
        if _is_network(value) and value.__module__ == module.__name__
    }


def _pick(module: ModuleType, networks: dict[str, type[nn.Module]], name: str) -> _Registered:
    """Return the network of a lower-case name, and the Config, of a module."""
    missing = [f"a network class named '{name}' (in any case)"] * (name not in networks)
    missing += ["a class Config"] * (not hasattr(module, "Config"))
    if missing:
        own = [network.__name__ for network in _own_networks(module).values()]
        raise ConfigError(
            f"'{module.__file__}' does not define {' and '.join(missing)}; its networks: "
            f"{', '.join(own) or 'none'}."
        )
    return _Registered(networks[name], module.Config, str(module.__file__))


def _run(path: Path) -> ModuleType:
    # TorchScript finds the source of a class by the name of its module.
    stem = re.sub(r"\W", "_", path.stem)
    module = ModuleType(f"architecture_{stem}_{zlib.crc32(str(path).encode()):08x}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
    except Exception as error:  # whatever a file of the user's does
        del sys.modules[module.__name__]
        raise ConfigError(
            f"the architecture file '{path}' fails: {type(error).__name__}: {error}."
        ) from error
    return module


def _shipped() -> list[str]:
    modules = pkgutil.iter_modules(__path__)
    return [m.name for m in modules if not m.ispkg and not m.name.startswith("_")]


def _find(name: str) -> _Registered:
    """Return what was registered under a name, or what its module in this folder defines."""
    if name.lower() in _registered:
        return _registered[name.lower()]
    module = _module(name)
    found = _pick(module, _own_networks(module), name.lower())
    _require_config(found.config, found.network.__name__)
    return found


def _module(name: str) -> ModuleType:
    if name.lower() not in _shipped():
        raise UnknownArchitectureError(
            f"unknown architecture '{name}'; available: {', '.join(available())}."
            + did_you_mean(name, available())
        )
    full_name = f"{__name__}.{name.lower()}"
    try:
        return importlib.import_module(full_name)
    except Exception as error:  # whatever a file in the folder does
        spec = importlib.util.find_spec(full_name)
        path = spec.origin if spec else full_name
        raise ConfigError(
            f"the architecture file '{path}' fails: {type(error).__name__}: {error}."
        ) from error


def __getattr__(attribute: str) -> Any:
    # ``from eqcalc.architectures import PaiNN`` imports only the modules it must.
    broken = []
    if not attribute.startswith("_") and attribute != "Config":
        for name in sorted(_shipped(), key=lambda name: name != attribute.lower()):
            try:
                module = _module(name)
            except ConfigError as error:  # another file may have the attribute
                broken.append(f" {error}")
                continue
            network = _own_networks(module).get(name)
            if network is not None and network.__name__ == attribute:
                return network
            if attribute in getattr(module, "__all__", ()) and hasattr(module, attribute):
                return getattr(module, attribute)
    raise AttributeError(
        f"module '{__name__}' has no attribute '{attribute}'."
        + did_you_mean(attribute, available())
        + "".join(broken)
    )
