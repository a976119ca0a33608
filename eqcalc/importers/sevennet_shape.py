"""What network the options of a SevenNet checkpoint describe.

Options named in :data:`FIXED` must have the one value that is known here, and the network's
shape is read from the others. Some entries are not what they say (``avg_num_neigh``,
``conv_denominator``, ``shift``, ``scale``) and are not read: their numbers stand in the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

from eqcalc.errors import ConfigError, ModelFileError, did_you_mean
from eqcalc.importers.options import integer, is_same, positive, widths
from eqcalc.nn.so3 import Irrep, Layout

__all__ = ["FIXED", "Shape", "reachable", "read_shape"]

_NEWEST = (0, 13)
_OLDEST = (0, 9)

FIXED: dict[str, tuple[Any, Any, str]] = {
    "_model_type": ("E3_equivariant_model", "E3_equivariant_model", "another kind of network"),
    "interaction_type": ("nequip", "nequip", "another kind of interaction"),
    "lmax_edge": (-1, -1, "harmonics of another degree than features"),
    "lmax_node": (-1, -1, "features of another degree than harmonics"),
    "act_radial": ("silu", "silu", "another activation of the radial network"),
    "use_bias_in_linear": (False, False, "biases of linear maps"),
    "readout_as_fcn": (False, False, "a readout with activations"),
    "use_modal_node_embedding": (False, False, "a species embedding of every modality"),
    "use_flash_tp": (False, False, "weights in the layout of FlashTP"),
    "use_oeq": (False, False, "weights in the layout of OpenEquivariance"),
}
"""Option -> (value that is known here, the package's own default, what another one means)."""


class Shape(NamedTuple):
    """What ``config`` says of the network.

    layouts : channels of each irrep before each layer and after the last; of SO(3) (parity 0)
        where features have no parity
    type_map : row of each atomic number
    modality : row of the chosen one, None where there is none; n_modalities : 0, or of all
    """

    layouts: list[Layout]
    l_max: int
    cutoff: float
    xplor_onset: Optional[float]
    polynomial_p: int
    radial_width: int
    radial_depth: int
    self_connection: str
    solid_harmonics: bool
    columns_sorted: bool
    type_map: dict[int, int]
    modality: Optional[int]
    n_modalities: int
    extra: tuple[int, int, int]


def read_shape(config: Mapping[str, Any], modality: Optional[str]) -> Shape:
    """Return what an importer needs to know of a checkpoint's ``config``.

    Raises
    ------
    ModelFileError : it describes a network that is not known here.
    ConfigError : the modality is missing or unknown.
    """
    version, before_sorting = _version(config)
    for key, (known, default, meaning) in FIXED.items():
        found = config.get(key, default)
        if not is_same(found, known):
            raise ModelFileError(
                f"config['{key}'] is {found!r} ({meaning}); of SevenNet only networks with "
                f"{known!r} are imported."
            )
    for key in ("is_parity", "_normalize_sph"):
        if not isinstance(config.get(key, True), bool):
            raise ModelFileError(f"config['{key}'] must be True or False, found {config[key]!r}.")
    if _is_used(config.get("cuequivariance_config")):
        raise ModelFileError(
            "config['cuequivariance_config'] is in use: weights are in the layout of "
            "cuEquivariance. Save the checkpoint again without it (sevenn cp)."
        )
    for key in ("act_scalar", "act_gate"):
        found = config.get(key)
        functions = found if isinstance(found, Mapping) else {}
        if not is_same(functions.get("e"), "silu") or not is_same(functions.get("o"), "tanh"):
            raise ModelFileError(
                f"config['{key}'] is {found!r}; of SevenNet only networks with silu for even "
                "scalars and tanh for odd ones are imported."
            )
    chosen, n_modalities = _modality(config, modality)
    xplor_onset, p = _envelope(config)
    hidden = widths(config, "weight_nn_hidden_neurons")
    if len(set(hidden)) != 1:
        raise ModelFileError(
            f"config['weight_nn_hidden_neurons'] is {hidden}; hidden layers of the radial "
            "network must have one width."
        )
    extra = [
        n_modalities if n_modalities > 0 and config.get(f"use_modal_{part}") is True else 0
        for part in ("self_inter_intro", "self_inter_outro", "output_block")
    ]
    return Shape(
        layouts=_layouts(config),
        l_max=integer(config, "lmax", 0),
        cutoff=positive(config, "cutoff"),
        xplor_onset=xplor_onset,
        polynomial_p=p,
        radial_width=hidden[0],
        radial_depth=len(hidden),
        self_connection=_self_connection(config),
        solid_harmonics=config.get("_normalize_sph", version >= (0, 10)) is False,
        columns_sorted=not before_sorting,
        type_map=_type_map(config),
        modality=chosen,
        n_modalities=n_modalities,
        extra=(extra[0], extra[1], extra[2]),
    )


def _version(config: Mapping[str, Any]) -> tuple[tuple[int, int], bool]:
    """Return major and minor number, and whether radial columns are not sorted by output."""
    text = config.get("version")
    match = re.match(r"(\d+)\.(\d+)\.(\d+)(.*)$", text) if isinstance(text, str) else None
    known = f"{'.'.join(map(str, _OLDEST))} to {'.'.join(map(str, _NEWEST))}"
    if match is None:
        raise ModelFileError(
            f"config['version'] must be a version of SevenNet from {known}, found {text!r}."
        )
    version = (int(match[1]), int(match[2]))
    if not _OLDEST <= version <= _NEWEST:
        raise ModelFileError(
            f"the checkpoint was written by SevenNet {text}; known are {known}. Another version "
            "may mean other things by the same names."
        )
    return version, version < (0, 11) or text == "0.11.0.dev0"


def _is_used(options: Any) -> bool:
    return isinstance(options, Mapping) and bool(options.get("use"))


def _layouts(config: Mapping[str, Any]) -> list[Layout]:
    """Return the channels of each irrep before each layer and after the last."""
    n_layers, l_max = integer(config, "num_convolution_layer"), integer(config, "lmax", 0)
    has_parity = config.get("is_parity", True) is True
    scalar = Irrep(0, 1 if has_parity else 0)
    manual = config.get("irreps_manual", False)
    if manual is False:
        n = integer(config, "channel")
        layouts: list[Layout] = [{scalar: n}]
        for _ in range(n_layers - 1):
            layouts.append(dict.fromkeys(reachable(layouts[-1], l_max), n))
        return [*layouts, {scalar: n}]
    if not isinstance(manual, Sequence) or len(manual) != n_layers + 1:
        raise ModelFileError(
            f"config['irreps_manual'] must have {n_layers + 1} entries, found {manual!r}."
        )
    layouts = [_layout(text, has_parity) for text in manual]
    if list(layouts[0]) != [scalar] or list(layouts[-1]) != [scalar]:
        raise ModelFileError(
            f"config['irreps_manual'] must begin and end with scalars alone, found {manual!r}."
        )
    if any(irrep.l > l_max for layout in layouts for irrep in layout):
        raise ModelFileError(
            f"config['irreps_manual'] has degrees above lmax = {l_max}: {manual!r}."
        )
    return layouts


def reachable(layout: Layout, l_max: int) -> list[Irrep]:
    """Return the irreps up to l_max that products of a layout with harmonics have, sorted."""
    parities = {0} if next(iter(layout)).parity == 0 else {-1, 1}
    irreps = [Irrep(l, p) for l in range(l_max + 1) for p in sorted(parities)]
    return [t for t in irreps if any(source.filters_to(t, l_max) for source in layout)]


def _layout(text: Any, has_parity: bool) -> Layout:
    """Return the channels of an entry such as '128x0e+64x1e+32x2e', scalars first."""
    layout: Layout = {}
    for term in str(text).replace(" ", "").split("+"):
        match = re.fullmatch(r"(\d+)x(\d+)([eo])", term)
        if match is None or int(match[1]) == 0 or (match[3] == "o" and not has_parity):
            raise ModelFileError(
                f"config['irreps_manual'] has the entry {text!r}, where irreps"
                f"{'' if has_parity else ', all of them even,'} were expected, such as "
                "'8x0e+4x1e'."
            )
        parity = {"e": 1, "o": -1}[match[3]] if has_parity else 0
        irrep = Irrep(int(match[2]), parity)
        if irrep in layout or (layout and irrep.l < max(t.l for t in layout)):
            raise ModelFileError(
                f"config['irreps_manual'] has the entry {text!r}; every irrep must stand there "
                "once, in the order of degrees."
            )
        layout[irrep] = int(match[1])
    return layout


def _modality(config: Mapping[str, Any], wanted: Optional[str]) -> tuple[Optional[int], int]:
    if config.get("use_modality", False) is not True:
        if wanted is not None:
            raise ConfigError(
                f"the network has no modalities: '{wanted}' cannot be chosen. Leave it out."
            )
        return None, 0
    known = config.get("_modal_map")
    if not isinstance(known, Mapping) or not _are_rows(known):
        raise ModelFileError(f"config['_modal_map'] is no list of modalities: {known!r}.")
    names = ", ".join(f"'{name}'" for name in known)
    if wanted is None:
        raise ConfigError(
            f"the network knows several levels of theory ({names}), and a model file has one: "
            "choose a modality."
        )
    if wanted not in known:
        raise ConfigError(
            f"the network has no modality '{wanted}'; it knows {names}."
            + did_you_mean(wanted, list(known))
        )
    return known[wanted], len(known)


def _envelope(config: Mapping[str, Any]) -> tuple[Optional[float], int]:
    basis = config.get("radial_basis")
    if not isinstance(basis, Mapping) or not is_same(basis.get("radial_basis_name"), "bessel"):
        raise ModelFileError(
            f"config['radial_basis'] is {basis!r}; only Bessel functions ('bessel') are imported."
        )
    envelope = config.get("cutoff_function")
    envelope = envelope if isinstance(envelope, Mapping) else {}
    name = envelope.get("cutoff_function_name")
    if is_same(name, "XPLOR"):
        return positive(envelope, "cutoff_on"), 6
    if is_same(name, "poly_cut"):
        return None, integer({"poly_cut_p_value": 6} | dict(envelope), "poly_cut_p_value")
    raise ModelFileError(
        f"config['cutoff_function'] is {envelope!r}; 'XPLOR' and 'poly_cut' are imported."
    )


def _self_connection(config: Mapping[str, Any]) -> str:
    """Return the option of NequIP here."""
    found = config.get("self_connection_type", "nequip")
    listed = found if isinstance(found, (list, tuple)) else [found]
    kinds = {kind if isinstance(kind, str) else None for kind in listed}
    if kinds == {"linear"}:
        return "linear"
    if kinds == {"nequip"}:
        return "species"
    raise ModelFileError(
        f"config['self_connection_type'] is {found!r}; 'linear' and 'nequip' are imported, the "
        "same in every layer."
    )


def _type_map(config: Mapping[str, Any]) -> dict[int, int]:
    found = config.get("_type_map")
    if (
        not isinstance(found, Mapping)
        or len(found) == 0
        or not all(type(z) is int and 1 <= z <= 118 for z in found)
        or not _are_rows(found)
    ):
        raise ModelFileError(
            f"config['_type_map'] must give each atomic number a row, found {found!r}."
        )
    return dict(found)


def _are_rows(rows: Mapping[Any, Any]) -> bool:
    """Whether the values are 0, 1, ... in some order."""
    values = list(rows.values())
    return all(type(v) is int for v in values) and sorted(values) == list(range(len(values)))
