"""What network the options of a nequip checkpoint describe.

Everything that is not named in one of the lists below, or has another value, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from ase.data import chemical_symbols

from eqcalc.errors import ModelFileError
from eqcalc.importers.options import integer, is_same, positive, widths

__all__ = ["Shape", "shape_of_options", "symbols_in"]

_PRESETS: dict[str, dict[str, Any]] = {
    "S": {"num_layers": 2, "l_max": 1, "num_features": [128, 64]},
    "M": {"num_layers": 4, "l_max": 2, "num_features": [128, 64, 32]},
    "L": {"num_layers": 6, "l_max": 3, "num_features": [128, 64, 32, 32]},
    "XL": {"num_layers": 6, "l_max": 4, "num_features": [320, 96, 64, 32, 32]},
}
_OF_EVERY_PRESET = {
    "parity": False,
    "type_embed_num_features": 32,
    "radial_mlp_depth": 1,
    "radial_mlp_width": 128,
}
_DEFAULTS: dict[str, Any] = {
    "num_layers": 4,
    "l_max": 1,
    "parity": True,
    "num_features": 32,
    "type_embed_num_features": None,
    "radial_mlp_depth": 1,
    "radial_mlp_width": 128,
    "readout_mlp_hidden_layers_depth": 0,
    "readout_mlp_hidden_layers_width": None,
    "polynomial_cutoff_p": 6,
    "per_edge_type_cutoff": None,
    "bessel_trainable": False,
    "per_type_energy_scales_trainable": False,
    "per_type_energy_shifts_trainable": False,
    "pair_potential": None,
}
_FIXED: dict[str, Any] = {
    "readout_mlp_nonlinearity": "silu",
    "categorical_graph_field_embed": None,
    "convnet_sc": True,
    "learnable_shift": False,
    "convnet_resnet": False,
    "convnet_nonlinearity_type": "gate",
    "convnet_nonlinearity_scalars": {"e": "silu", "o": "tanh"},
    "convnet_nonlinearity_gates": {"e": "silu", "o": "tanh"},
}
"""Options that must have the value that the package gives them itself."""

_READ_ELSEWHERE = {
    "_target_",
    "seed",
    "model_dtype",
    "type_names",
    "r_max",
    "avg_num_neighbors",
    "num_bessels",
    "per_type_energy_scales",
    "per_type_energy_shifts",
    "do_derivatives",
    "compile_mode",
    "preset",
}
_BUILDERS = ("nequip.model.NequIPGNNModel", "nequip.model.PresetNequIPGNNModel")


class Shape(NamedTuple):
    """What is known of the network.

    type_names : chemical symbols, in the order of the tensors' rows
    channels : of each degree
    avg_num_neighbors : one number, or one of each type
    readout : widths of hidden layers
    zbl_power : exponent of the envelope of ZBL's repulsion; None where there is none
    zbl_units : "metal" or "real"; None where they stand in the tensors alone
    trainable : tensors that are parameters only where they were trained
    """

    type_names: list[str]
    num_layers: int
    l_max: int
    parity: bool
    channels: list[int]
    embedding_size: int
    cutoff: float
    polynomial_p: int
    radial_width: int
    radial_depth: int
    readout: list[int]
    avg_num_neighbors: list[float]
    has_pair_cutoffs: bool
    zbl_power: Optional[float]
    zbl_units: Optional[str]
    trainable: set[str]


def shape_of_options(options: Mapping[str, Any]) -> Shape:
    """Return the shape that a checkpoint's ``hyper_parameters["model"]`` describes.

    Raises
    ------
    ModelFileError : an option has a value that is not known here.
    """
    if not isinstance(options, Mapping):
        raise ModelFileError(f"the model's options must be a table, found {options!r}.")
    target = options.get("_target_")
    if not isinstance(target, str) or target not in _BUILDERS:
        raise ModelFileError(
            f"the model's _target_ is {target!r}; {' and '.join(_BUILDERS)} are imported"
            + (
                ". A network that was loaded from another file to be trained further: package it "
                "(nequip-package build), and import the package."
                if str(target).startswith("nequip.model.ModelFrom")
                else "."
            )
        )
    given = _with_defaults(options)
    for key, value in options.items():
        if key in _FIXED and not is_same(value, _FIXED[key]):
            raise ModelFileError(
                f"the model's option {key} is {value!r}; of nequip only networks with "
                f"{_FIXED[key]!r} are imported."
            )
        if key not in given and key not in _FIXED and key not in _READ_ELSEWHERE:
            raise ModelFileError(f"the model has an option {key}, which is not known here.")
    l_max, parity = integer(given, "l_max", 0), given["parity"]
    if not isinstance(parity, bool):
        raise ModelFileError(f"the model's option parity must be true or false, found {parity!r}.")
    if isinstance(given["num_features"], int):
        channels = [integer(given, "num_features")] * (l_max + 1)
    else:
        channels = widths(given, "num_features")
    if len(channels) != l_max + 1:
        raise ModelFileError(
            f"the model's num_features must have {l_max + 1} entries, found {channels}."
        )
    type_names = symbols_in(options.get("type_names"))
    depth = integer(given, "readout_mlp_hidden_layers_depth", 0)
    width = channels[0]
    if given["readout_mlp_hidden_layers_width"] is not None:
        width = integer(given, "readout_mlp_hidden_layers_width")
    embedding_size = channels[0]
    if given["type_embed_num_features"] is not None:
        embedding_size = integer(given, "type_embed_num_features")
    power, units = _zbl(given["pair_potential"], type_names)
    return Shape(
        type_names=type_names,
        num_layers=integer(given, "num_layers"),
        l_max=l_max,
        parity=parity,
        channels=channels,
        embedding_size=embedding_size,
        cutoff=positive(options, "r_max"),
        polynomial_p=integer(given, "polynomial_cutoff_p"),
        radial_width=integer(given, "radial_mlp_width"),
        radial_depth=integer(given, "radial_mlp_depth"),
        readout=[width] * depth,
        avg_num_neighbors=_neighbours(options.get("avg_num_neighbors"), type_names),
        has_pair_cutoffs=given["per_edge_type_cutoff"] is not None,
        zbl_power=power,
        zbl_units=units,
        trainable={
            name
            for name, option in (
                ("bessel_encode.bessel_weights", "bessel_trainable"),
                ("per_type_energy_scale_shift.scales", "per_type_energy_scales_trainable"),
                ("per_type_energy_scale_shift.shifts", "per_type_energy_shifts_trainable"),
            )
            if given[option] is True
        },
    )


def _with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(_DEFAULTS)
    if options["_target_"] == _BUILDERS[1]:
        preset = str(options.get("preset")).upper()
        if preset not in _PRESETS:
            raise ModelFileError(
                f"the model's preset is {options.get('preset')!r}; known are {', '.join(_PRESETS)}."
            )
        given |= _OF_EVERY_PRESET | _PRESETS[preset]
    return given | {key: value for key, value in options.items() if key in _DEFAULTS}


def symbols_in(names: Any) -> list[str]:
    """Return the names of atom types, which must be chemical symbols.

    Raises
    ------
    ModelFileError : one is not, or stands there twice.
    """
    if not isinstance(names, list) or not names:
        raise ModelFileError(f"the model's type_names must be a list, found {names!r}.")
    known = all(isinstance(name, str) and name in chemical_symbols[1:] for name in names)
    if not known or len(set(names)) < len(names):
        raise ModelFileError(
            f"the model's type_names must be chemical symbols, each once, found {list(names)}: "
            "a model file has one kind of atom of each element."
        )
    return list(names)


def _neighbours(given: Any, type_names: list[str]) -> list[float]:
    if isinstance(given, Mapping):
        if set(given) != set(type_names):
            raise ModelFileError(
                f"the model's avg_num_neighbors has {list(given)}, where {type_names} are needed."
            )
        return [positive(given, name) for name in type_names]
    return [positive({"avg_num_neighbors": given}, "avg_num_neighbors")]


def _zbl(given: Any, type_names: list[str]) -> tuple[Optional[float], Optional[str]]:
    if given is None:
        return None, None
    if not isinstance(given, Mapping) or str(given.get("_target_")).rpartition(".")[2] != "ZBL":
        raise ModelFileError(
            f"the model's pair_potential is {given!r}; of these only ZBL is imported."
        )
    if not is_same(given.get("chemical_species"), type_names):
        raise ModelFileError(
            f"ZBL's chemical_species are {given.get('chemical_species')!r}, where {type_names} "
            "are expected."
        )
    power = positive({"polynomial_cutoff_p": 6.0} | dict(given), "polynomial_cutoff_p")
    return power, str(given.get("units"))
