"""Checkpoints of SevenNet: Park et al., J. Chem. Theory Comput. 20, 4857 (2024).

doi:10.1021/acs.jctc.4c00190. A ``.pth`` file is a dictionary with ``config`` (options) and
``model_state_dict`` (tensors). SevenNet is a NequIP; where ``is_parity`` is False without mirror
symmetry: every irrep is called even, so that all products of degrees that rotations allow are
taken.

====================================  ==============================================
tensor                                what
====================================  ==============================================
onehot_to_feature_x                   species embedding, divided by √n_species
edge_embedding.basis_function.coeffs  wave numbers of the Bessel functions, 1/Å
t_self_interaction_1, 2               linear maps around the tensor product of layer t
t_self_connection_intro               self-connection, before the gate
t_convolution.weight_nn               radial network, silu with e3nn's factor
t_convolution.denominator             by which sums over neighbours are divided
reduce_input_to_hidden, _to_energy    readout: two linear maps
rescale_atomic_energy                 scale and shift of every species
====================================  ==============================================

With several modalities (levels of theory in one network) some linear maps have a one-hot vector
of the modality among their inputs. One modality is imported: to it that is a bias.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional, cast

import torch
from ase.calculators.calculator import Calculator
from torch import Tensor

from eqcalc.architectures.nequip import NequIP, feature_layouts
from eqcalc.elements import atomic_number, symbols_of
from eqcalc.errors import ConfigError, ModelFileError
from eqcalc.importers.assembly import (
    chosen_elements,
    elements_of,
    in_precision_of,
    scaled_potential,
)
from eqcalc.importers.e3nn import (
    Convolution,
    FlatLinear,
    LayerLayouts,
    coupling_sign,
    fill_interaction,
    silu_factor,
    tanh_factor,
)
from eqcalc.importers.foreign_file import ForeignFile
from eqcalc.importers.imported import Choices, Imported
from eqcalc.importers.originals import import_original
from eqcalc.importers.sevennet_shape import Shape, reachable, read_shape
from eqcalc.importers.tensors import Tensors
from eqcalc.nn.so3 import Layout, UnitVarianceLinear
from eqcalc.potential import Potential
from eqcalc.units import energy_unit, length_unit

__all__ = ["KIND", "KNOWN", "LICENCE", "original", "potential_of", "read", "recognises"]

KIND = "SevenNet checkpoint"

LICENCE = "MIT, Copyright (c) 2024 Yutack Park"
"""Of the checkpoints in the wheel of sevenn 0.13.0, and of that package."""


class Known(NamedTuple):
    """What is known of a published checkpoint beside its file.

    levels : level of theory by modality; None where there are none
    """

    name: str
    data: str
    levels: dict[Optional[str], str]

    def level(self, modality: Optional[str]) -> str:
        """Return the level of theory of a modality."""
        return self.levels.get(modality, "")


_PBE = "PBE (+U), as in the Materials Project"

KNOWN: dict[str, Known] = {
    "7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36": Known(
        "SevenNet-0 (11 July 2024)", "MPtrj", {None: _PBE}
    ),
    "5d389fafd512e6ae2830d74d0b66ffc49a55d3832653ff8e7bf7f1343013c1d1": Known(
        "SevenNet-0 (22 May 2024)", "M3GNet's data set MPF.2021.2.8", {None: _PBE}
    ),
    "a7ff190d41efe5b8317a03d20a468e4036a1a3e64e0b14fdbab64ac3f4bfc09d": Known(
        "SevenNet-l3i5", "MPtrj", {None: _PBE}
    ),
    "81791329b37d445f46b531578c182c41792d98c7814222c9e5dde276402225fd": Known(
        "SevenNet-MF-0",
        "relaxations of the Materials Project",
        {"PBE": _PBE, "R2SCAN": "r2SCAN, as in the Materials Project"},
    ),
}
"""SHA-256 of the checkpoints in the wheel of sevenn 0.13.0."""

_OLD_NAMES = {
    "EdgeEmbedding": "edge_embedding",
    "reducing nn input to hidden": "reduce_input_to_hidden",
    "reducing nn hidden to energy": "reduce_hidden_to_energy",
    "rescale atomic energy": "rescale_atomic_energy",
}
_WITHOUT_NUMBERS = re.compile(
    r"\.output_mask$|\.linear\.bias$|\.fc_tensor_product\.output_mask$"
    r"|_convolution\.convolution\.weight$|_equivariant_gate\.gate\.mul\."
)
"""Entries that carry no trained number: masks, and tensors of length zero."""


def recognises(file: ForeignFile) -> bool:
    """Whether a file is a checkpoint of SevenNet, by its content alone."""
    content = file.content
    return (
        not file.is_package
        and isinstance(content, Mapping)
        and isinstance(content.get("config"), Mapping)
        and ("_type_map" in content["config"] or "_model_type" in content["config"])
    )


def read(file: ForeignFile, choices: Choices) -> Imported:
    """Return the network of a checkpoint.

    Raises
    ------
    ModelFileError : a version, an option or a tensor that is not known here.
    ConfigError : a modality is missing or unknown, an element is unknown, or other units than
        eV and Angstrom, in which all networks of SevenNet speak, were said.
    """
    _require_units(choices)
    config, state = file.content["config"], file.content.get("model_state_dict")
    if not isinstance(state, Mapping) or not state:
        raise ModelFileError(
            "the checkpoint has no 'model_state_dict': an optimizer's state alone, or the "
            "weights were taken out. Give the checkpoint of a training, such as "
            "checkpoint_best.pth."
        )
    strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise ModelFileError(f"model_state_dict['{strange[0]}'] is no tensor.")
    potential = potential_of(config, state, choices.modality, choices.elements)
    known = KNOWN.get(file.sha256)
    level = "" if known is None else known.level(choices.modality)
    modality = "" if choices.modality is None else f", modality {choices.modality}"
    return Imported(
        potential=in_precision_of(potential, state),
        elements=elements_of(potential),
        description=(
            f"{known.name if known else 'SevenNet network'}{modality}"
            f"{f', trained on {known.data}' if known else ''}. Charge, spin and magnetic moments "
            "of a structure are ignored."
        ),
        licence="" if known is None else LICENCE,
        level_of_theory=level,
        source={"package": "sevenn", "version": str(config["version"])}
        | ({} if choices.modality is None else {"modality": choices.modality}),
    )


def original(file: ForeignFile, choices: Choices) -> Calculator:
    """Return SevenNet's own calculator of a checkpoint, float32. It runs code of the file.

    Raises
    ------
    MissingDependencyError : sevenn is not installed.
    """
    module = import_original("sevenn.calculator")
    return module.SevenNetCalculator(str(file.path), device="cpu", modal=choices.modality)


def _require_units(choices: Choices) -> None:
    for name, said, value, unit in (
        ("energy_unit", choices.energy_unit, energy_unit, "eV"),
        ("length_unit", choices.length_unit, length_unit, "Angstrom"),
    ):
        if said is not None and value(said) != 1.0:
            raise ConfigError(
                f"networks of SevenNet speak in {unit}, but {name} = {said} was said; leave it out."
            )


def potential_of(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    modality: Optional[str] = None,
    elements: Optional[Sequence[str]] = None,
) -> Potential:
    """Return the potential of a checkpoint's options and tensors, in float64.

    Parameters
    ----------
    modality : the level of theory, where the network knows several
    elements : symbols of those that the potential shall know; None means all of the network's

    Raises
    ------
    ModelFileError : an option, a tensor or a version that is not known here.
    ConfigError : the modality is missing or unknown, or an element is unknown.
    """
    shape = read_shape(config, modality)
    symbols = chosen_elements(symbols_of(sorted(shape.type_map)), elements)
    tensors = Tensors(_modern_names(state), _WITHOUT_NUMBERS, "model_state_dict")
    denominators = [_denominator(tensors, t) for t in range(len(shape.layouts) - 1)]
    waves = tensors.take("edge_embedding.basis_function.coeffs", None).double()
    network = _network(shape, symbols, waves.numel(), denominators[0])
    theirs, ours = shape.layouts, feature_layouts(network.config)
    rows = torch.tensor([shape.type_map[atomic_number(symbol)] for symbol in symbols])
    with torch.no_grad():
        n_scalars = network.embedding.weight.shape[1]
        name = "onehot_to_feature_x.linear.weight"
        embedding = tensors.take(name, len(shape.type_map), n_scalars)
        network.embedding.weight.copy_(embedding.double()[rows])
        network.radial_basis.frequencies.copy_(waves)
        factors = dict.fromkeys(theirs[0], 1.0)
        for t, layer in enumerate(network.interactions):
            layouts = _layer_layouts(shape, ours, t)
            given = _convolution(shape, tensors, t, rows, denominators[0] / denominators[t])
            _require_signs(layouts, given)
            factors = fill_interaction(layer, layouts, given, factors)
        _fill_readout(network, shape, tensors, next(iter(factors.values())))
    scales, shifts = _scales_and_shifts(shape, tensors, rows)
    tensors.require_empty()
    return scaled_potential(network, symbols, scales, shifts)


def _denominator(tensors: Tensors, t: int) -> float:
    name = f"{t}_convolution.denominator"
    value = tensors.take(name, 1).double().item()
    if value <= 0.0:
        raise ModelFileError(f"model_state_dict['{name}'] must be above zero, found {value:g}.")
    return value


def _modern_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with the names that SevenNet uses since 0.10."""
    modern = {}
    for name, tensor in state.items():
        module, _, rest = name.partition(".")
        module = _OLD_NAMES.get(module, module.replace(" ", "_"))
        modern[f"{module}.{rest.replace('denumerator', 'denominator')}"] = tensor
    return modern


def _network(shape: Shape, symbols: list[str], n_waves: int, denominator: float) -> NequIP:
    """Return the network of a shape, float64, with weights of no meaning.

    Raises
    ------
    ModelFileError : no network here has these features.
    """
    hidden: dict[int, int] = {}
    for layout in shape.layouts[1:]:
        for irrep, n in layout.items():
            hidden.setdefault(irrep.l, n)
    irreps = {irrep for layout in shape.layouts for irrep in layout}
    scalar = next(iter(shape.layouts[0]))
    network = NequIP(
        shape.l_max,
        parity=any(not irrep.is_natural and irrep.parity != 0 for irrep in irreps),
        mirror_symmetric=scalar.parity != 0,
        num_layers=len(shape.layouts) - 1,
        # Degrees that no layer has are none of the network's either: one of one layer.
        num_features=[hidden.get(l, 1) for l in range(shape.l_max + 1)],
        embedding_size=shape.layouts[0][scalar],
        embedding_factor=1.0 / math.sqrt(len(shape.type_map)),
        cut_off=shape.cutoff,
        num_bessels=n_waves,
        xplor_onset=shape.xplor_onset,
        polynomial_cutoff_p=shape.polynomial_p,
        solid_harmonics=shape.solid_harmonics,
        radial_mlp_depth=shape.radial_depth,
        radial_mlp_width=shape.radial_width,
        avg_num_neighbors=denominator**2,
        self_connection=shape.self_connection,
        first_self_connection=True,
        modalities=shape.n_modalities,
        frequencies_per_angstrom=True,
        activation_factors=(silu_factor(), silu_factor(), tanh_factor()),
        per_species_scale=True,
        elements=symbols,
    )
    for theirs, ours in zip(shape.layouts, feature_layouts(network.config), strict=True):
        for irrep, n in ours.items():
            if theirs.get(irrep) != n:
                raise ModelFileError(
                    "the network's features are not those of any network here, which has the "
                    "same channels in every layer and all degrees up to lmax, with one or both "
                    f"parities: {irrep} has {theirs.get(irrep, 0)} channels, where {n} are "
                    "expected. (irreps_manual, channel, lmax)"
                )
    return network.double()


def _layer_layouts(shape: Shape, ours: list[Layout], t: int) -> LayerLayouts:
    before, after = shape.layouts[t], shape.layouts[t + 1]
    # The product goes to the largest degree kept, and in the last layer to what is even.
    targets = reachable(before, max(irrep.l for irrep in after))
    if t == len(shape.layouts) - 2:
        targets = [irrep for irrep in targets if irrep.parity >= 0]
    return LayerLayouts(
        before, after, ours[t], ours[t + 1], shape.l_max, shape.columns_sorted, targets
    )


def _convolution(
    shape: Shape, tensors: Tensors, t: int, rows: Tensor, denominator: float
) -> Convolution:
    """Return a layer's weights; ``denominator`` is the first layer's over this one's."""
    radial = [
        tensors.take(f"{t}_convolution.weight_nn.layer{k}.weight")
        for k in range(shape.radial_depth + 1)
    ]
    if denominator != 1.0:
        radial[-1] = denominator * radial[-1].double()
    own, embedding = f"{t}_self_connection_intro.linear.weight", None
    if shape.self_connection == "species":
        own = f"{t}_self_connection_intro.fc_tensor_product.weight"
        embedding = torch.eye(len(shape.type_map), dtype=torch.float64)[rows]
    name = f"layer {t}"
    return Convolution(
        before=tensors.take(f"{t}_self_interaction_1.linear.weight"),
        after=tensors.take(f"{t}_self_interaction_2.linear.weight"),
        radial=radial,
        radial_factor=silu_factor(),
        own=tensors.take(own),
        own_embedding=embedding,
        name=name,
        signs={
            degrees: coupling_sign(stored, *degrees, f"{name}: _w3j_{degrees}")
            for degrees, stored in tensors.couplings(f"{t}_convolution.").items()
        },
        extra=shape.extra[:2],
        chosen=shape.modality or 0,
    )


def _require_signs(layouts: LayerLayouts, given: Convolution) -> None:
    """Refuse a layer whose signs of 3j symbols are not known; with a scalar they have one."""
    degrees = [(source.l, l2, target.l) for source, l2, target in layouts.paths()]
    missing = [d for d in degrees if 0 not in d and d not in given.signs]
    if missing:
        raise ModelFileError(
            f"{given.name}: the Wigner 3j symbols of {missing[0]} (_w3j_"
            f"{'_'.join(map(str, missing[0]))}) are missing, and with them the sign that e3nn had "
            "in the training. Save the checkpoint again with the sevenn that wrote it."
        )


def _fill_readout(network: NequIP, shape: Shape, tensors: Tensors, factor: float) -> None:
    ((scalar, n),) = shape.layouts[-1].items()
    hidden = n // 2
    first, second = (cast("UnitVarianceLinear", linear) for linear in network.readout)
    found = FlatLinear.cut(
        tensors.take("reduce_input_to_hidden.linear.weight"),
        {scalar: n},
        {scalar: hidden},
        shape.extra[2],
        "reduce_input_to_hidden",
    )
    first.weight.copy_(factor * found.matrix(scalar, first.fan_in))
    if first.bias is not None:
        first.bias.copy_(found.row(shape.modality or 0, first.fan_in))
    second.weight.copy_(tensors.take("reduce_hidden_to_energy.linear.weight", hidden, 1))


def _scales_and_shifts(shape: Shape, tensors: Tensors, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return both of every element, in the order of ``rows``, float64."""
    found, n_species = [], len(shape.type_map)
    for quantity in ("scale", "shift"):
        name = f"rescale_atomic_energy.{quantity}"
        tensor = tensors.take(name).double()
        if tensor.dim() == 2 and tensor.shape[0] == shape.n_modalities:
            tensor = tensor[shape.modality or 0]
        if tensor.numel() == 1:
            tensor = tensor.reshape(1).expand(n_species)
        if tensor.shape != (n_species,):
            raise ModelFileError(
                f"model_state_dict['{name}'] must be one number, or one of each of {n_species} "
                f"elements, found the shape {tuple(tensor.shape)}."
            )
        found.append(tensor[rows])
    return found[0], found[1]
