"""What network the modules of a nequip package are, from their attributes.

A package has modules, not the options that made them. Every module has a name and a class that are
known here, and every attribute that could change what it computes is read or held against the one
value that is known; anything else is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from eqcalc.errors import ModelFileError
from eqcalc.importers.e3nn import silu_factor, tanh_factor
from eqcalc.importers.inert import Inert
from eqcalc.importers.nequip_shape import Shape, symbols_in
from eqcalc.importers.options import integer, is_same, positive

__all__ = ["shape_of_modules"]

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
    cutoff = positive({"r_max": _attribute(modules["edge_norm"], "r_max")}, "r_max")
    harmonics = _child(modules["spharm"], "sh")
    known: list[tuple[Inert, str, Any]] = [
        (modules["factor"], "factor", 2.0 * math.pi / cutoff**2),
        (modules["total_energy_sum"], "constant", 1.0),
        (modules["total_energy_sum"], "reduce", "sum"),
        (harmonics, "normalize", True),
        (harmonics, "normalization", "component"),
    ]
    for module, attribute, value in known:
        _require(module, attribute, value)
    hidden = [_irreps(modules[n].attribute("feature_irreps_hidden")) for n in layers]
    channels, parity = _channels(hidden)
    l_max = max(l for _, l, _ in _irreps(modules["spharm"].attribute("irreps_edge_sh")))
    radial = [_radial_widths(modules[name], name, k > 0) for k, name in enumerate(layers)]
    if any(w != radial[0] for w in radial) or len(set(radial[0])) != 1:
        raise ModelFileError(
            f"the radial networks have hidden layers of widths {radial}; one width is expected."
        )
    channels += [1] * (l_max + 1 - len(channels))  # of one layer, which has no other degrees
    zbl = modules.get("pair_potential")
    type_names = symbols_in(str(metadata.get("type_names")).split())
    return Shape(
        type_names=type_names,
        num_layers=len(layers),
        l_max=l_max,
        parity=parity,
        channels=channels,
        embedding_size=_attribute(_child(modules["type_embed"], "embed_module"), "embedding_dim"),
        cutoff=cutoff,
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


def _require(module: Inert, name: str, expected: Any) -> None:
    """Check an attribute that the network would compute something else with.

    Raises
    ------
    ModelFileError : it has another value.
    """
    found = module.attribute(name)
    if isinstance(expected, float):
        is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
        same = is_number and math.isclose(found, expected, rel_tol=1e-9)
    else:
        same = is_same(found, expected)
    if not same:
        raise ModelFileError(
            f"the package's {module.name} has {name} = {found!r}, where {expected!r} is expected."
        )


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
    scalars = [(l, parity) for _, l, parity in _irreps(gate.attribute("irreps_scalars"))]
    if scalars not in ([(0, 1)], [(0, 1), (0, -1)]):
        raise ModelFileError(f"the package's {name} has the scalars {scalars} in its gate.")
    _require_activations(_child(gate, "act_scalars"), ["silu", "tanh"][: len(scalars)], name)
    gated = len(_irreps(gate.attribute("irreps_gated")))
    _require_activations(_child(gate, "act_gates"), ["silu"] * gated, name)
    return _mlp_widths(_child(convolution, "edge_mlp"), name)


def _require_activations(activation: Inert, expected: list[str], name: str) -> None:
    """Check functions and factors of a gate."""
    found = list(_children(_child(activation, "acts")).values())
    names = [_function_name(f.attribute("f") if isinstance(f, Inert) else f) for f in found]
    if names != expected:
        raise ModelFileError(
            f"the package's {name} has the activations {names} in its gate, where {expected} are "
            "expected."
        )
    factors = {"silu": silu_factor(), "tanh": tanh_factor()}
    for function, kind in zip(found, names, strict=True):
        _require(function, "cst", factors[kind])


def _function_name(function: Any) -> str:
    """Return the name of a function of torch, however its pickle names it."""
    if not isinstance(function, Inert):
        return repr(function)
    if function.class_path == "builtins.getattr" and function.args is not None:
        return str(function.args[-1])  # of a table of functions, such as torch.tanh
    return function.name


def _mlp_widths(mlp: Inert, name: str) -> list[int]:
    """Return the widths of the hidden layers of a ScalarMLPFunction with silu and no bias."""
    dims = mlp.attribute("dims")
    parts = list(_children(_child(mlp, "mlp")).values())
    kinds = [part.name if isinstance(part, Inert) else repr(part) for part in parts]
    expected = ["ScalarLinearLayer", *["SiLU", "ScalarLinearLayer"] * (len(kinds) // 2)]
    if (
        not isinstance(dims, list)
        or not all(type(n) is int and n > 0 for n in dims)
        or len(dims) != len(kinds) // 2 + 2
        or mlp.attribute("bias") is not False
        or kinds != expected
    ):
        raise ModelFileError(
            f"the package's {name} has a multilayer network of {kinds} with widths {dims}; linear "
            "maps without bias and silu between them are imported."
        )
    for k, (linear, n_in) in enumerate(zip(parts[::2], dims, strict=False)):
        gain = math.sqrt(2.0) if k > 0 else 1.0
        alpha = linear.attribute("alpha")
        # It is rounded to the network's precision.
        if not isinstance(alpha, Tensor) or abs(alpha.sum() * math.sqrt(n_in) / gain - 1.0) > 1e-6:
            raise ModelFileError(
                f"the package's {name} has a linear map with the factor {alpha!r}, where "
                f"{gain / math.sqrt(n_in):g} is expected."
            )
    return dims[1:-1]
