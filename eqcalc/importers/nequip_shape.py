"""What network a nequip checkpoint or package describes.

A checkpoint has the options with which the network was built; a package has the modules
themselves, whose attributes say the same. Everything that is named in neither of the two lists
below, or has another value, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from ase.data import chemical_symbols

from eqcalc.errors import ModelFileError
from eqcalc.importers.inert import Inert
from eqcalc.importers.options import integer, is_same, positive, widths

__all__ = ["Shape", "shape_of_modules", "shape_of_options"]

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

_MODULES = {
    "type_embed": "NodeTypeEmbed",
    "spharm": "SphericalHarmonicEdgeAttrs",
    "edge_norm": "EdgeLengthNormalizer",
    "bessel_encode": "BesselEdgeLengthEncoding",
    "factor": "ApplyFactor",
    "per_atom_energy_readout": "ScalarMLP",
    "per_type_energy_scale_shift": "PerTypeScaleShift",
    "total_energy_sum": "AtomwiseReduce",
    "pair_potential": "ZBL",
}
"""Modules of a package's network by name, and their classes; besides layers."""

_LAYER = "layer{}_convnet"


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
    type_names = _type_names(options.get("type_names"))
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


def _type_names(names: Any) -> list[str]:
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


def shape_of_modules(network: Inert, metadata: Mapping[str, Any], cutoff_state: Any) -> Shape:
    """Return the shape of a packaged network: its modules in the order of evaluation.

    Parameters
    ----------
    network : the sequence of modules
    metadata : what the package says of the model, as texts
    cutoff_state : averages of neighbours of each layer, as the modules keep them

    Raises
    ------
    ModelFileError : a module or an attribute is not known here.
    """
    modules = _children(network)
    layers = [_LAYER.format(k) for k in range(sum(n.startswith("layer") for n in modules))]
    for name, module in modules.items():
        expected = "ConvNetLayer" if name in layers else _MODULES.get(name)
        if not isinstance(module, Inert) or module.name != expected:
            found = module.name if isinstance(module, Inert) else type(module).__name__
            raise ModelFileError(
                f"the package's network has a module '{name}' of the class {found}, which is not "
                "known here: packages of NequIPGNNModel as nequip writes it are imported."
            )
    missing = [n for n in _MODULES if n not in modules and n != "pair_potential"]
    if missing or not layers:
        raise ModelFileError(
            f"the package's network has no module '{(missing or ['layer0_convnet'])[0]}'."
        )
    if modules["type_embed"].attribute("do_categorical_graph_field_embed"):
        raise ModelFileError("the package's network embeds fields of the whole structure.")
    hidden = [_irreps(modules[n].attribute("feature_irreps_hidden")) for n in layers]
    channels, parity = _channels(hidden)
    l_max = max(l for _, l, _ in _irreps(modules["spharm"].attribute("irreps_edge_sh")))
    radial = [_radial_widths(modules[name], name, k > 0) for k, name in enumerate(layers)]
    if any(w != radial[0] for w in radial) or len(set(radial[0])) != 1:
        raise ModelFileError(
            f"the radial networks have hidden layers of widths {radial}; one width is expected."
        )
    channels += [0] * (l_max + 1 - len(channels))
    zbl = modules.get("pair_potential")
    type_names = _type_names(str(metadata.get("type_names")).split())
    return Shape(
        type_names=type_names,
        num_layers=len(layers),
        l_max=l_max,
        parity=parity,
        channels=channels,
        embedding_size=_attribute(_child(modules["type_embed"], "embed_module"), "embedding_dim"),
        cutoff=positive({"r_max": _attribute(modules["edge_norm"], "r_max")}, "r_max"),
        polynomial_p=integer(_child(modules["bessel_encode"], "cutoff").state, "p"),
        radial_width=radial[0][0],
        radial_depth=len(radial[0]),
        readout=_mlp_widths(_child(modules["per_atom_energy_readout"], "mlp_module"), "readout"),
        avg_num_neighbors=cutoff_state,
        has_pair_cutoffs=_attribute(modules["edge_norm"], "_per_edge_type") is True,
        zbl_power=None if zbl is None else positive(_child(zbl, "cutoff").state, "p"),
        zbl_units=None,
        trainable=set(),
    )


def _children(module: Inert) -> dict[str, Any]:
    table = module.state.get("_modules") if isinstance(module.state, dict) else None
    return table if isinstance(table, dict) else {}


def _child(module: Inert, name: str) -> Inert:
    child = _children(module).get(name)
    if not isinstance(child, Inert) or not isinstance(child.state, dict):
        raise ModelFileError(f"the package's {module.name} has no module '{name}'.")
    return child


def _attribute(module: Inert, name: str) -> Any:
    value = module.attribute(name)
    if value is None:
        raise ModelFileError(f"the package's {module.name} has no '{name}'.")
    return value


def _irreps(irreps: Any) -> list[tuple[int, int, int]]:
    """Return (channels, l, parity) of each irrep."""
    if not isinstance(irreps, Inert) or irreps.name != "Irreps" or not irreps.args:
        raise ModelFileError("the package's irreps are not written as e3nn 0.5 and 0.6 do.")
    try:
        pairs = [entry.args[0] for entry in irreps.args[0]]
        return [(n, *irrep.args[0]) for n, irrep in pairs]
    except (AttributeError, TypeError, IndexError, ValueError) as error:
        raise ModelFileError(
            "the package's irreps are not written as e3nn 0.5 and 0.6 do."
        ) from error


def _channels(hidden: list[list[tuple[int, int, int]]]) -> tuple[list[int], bool]:
    """Return channels by degree, and whether both parities are there."""
    last = hidden[-1]
    inner = hidden[0] if len(hidden) > 1 else last
    both = any(p != (-1) ** l for _, l, p in inner)
    by_degree = dict.fromkeys(sorted({l for _, l, _ in inner}), 0) | {l: n for n, l, _ in inner}
    signs = (1, -1) if both else (1,)
    wanted = [(n, l, (p if both else (-1) ** l)) for l, n in by_degree.items() for p in signs]
    same = all(irreps == inner for irreps in hidden[:-1])
    if not same or inner != wanted or last != [(by_degree[0], 0, 1)]:
        raise ModelFileError(
            f"the package's layers have features {hidden}; the same in each layer and scalars in "
            "the last are expected, all degrees, with one or both parities."
        )
    return list(by_degree.values()), both


def _radial_widths(layer: Inert, name: str, has_own: bool) -> list[int]:
    convolution, gate = _child(layer, "conv"), _child(layer, "equivariant_nonlin")
    product = _child(convolution, "tp_scatter")
    if (
        layer.attribute("resnet") is not False
        or convolution.attribute("use_sc") is not has_own
        or convolution.name != "InteractionBlock"
        or gate.name != "Gate"
        or product.name != "TensorProductScatter"
    ):
        raise ModelFileError(
            f"the package's {name} is built otherwise than NequIPGNNModel does by itself "
            f"({convolution.name}, {gate.name}, {product.name})."
        )
    for part, allowed in (("act_scalars", {"silu", "tanh"}), ("act_gates", {"silu"})):
        for activation in _children(_child(_child(gate, part), "acts")).values():
            function = activation.attribute("f")
            if not isinstance(function, Inert) or function.name not in allowed:
                raise ModelFileError(
                    f"the package's {name} has the activation {function!r} in its gate; silu and "
                    "tanh are imported."
                )
    return _mlp_widths(_child(convolution, "edge_mlp"), name)


def _mlp_widths(mlp: Inert, name: str) -> list[int]:
    """Return the widths of the hidden layers of a ScalarMLPFunction with silu and no bias."""
    dims = mlp.attribute("dims")
    kinds = {child.name for child in _children(_child(mlp, "mlp")).values()}
    if (
        not isinstance(dims, list)
        or not all(type(n) is int and n > 0 for n in dims)
        or len(dims) < 2
        or mlp.attribute("bias") is not False
        or not kinds <= {"ScalarLinearLayer", "SiLU"}
    ):
        raise ModelFileError(
            f"the package's {name} has a multilayer network of {sorted(kinds)}; linear maps "
            "without bias and silu are imported."
        )
    return dims[1:-1]
