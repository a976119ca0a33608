"""Checkpoints of SevenNet: Park et al., J. Chem. Theory Comput. 20, 4857 (2024).

doi:10.1021/acs.jctc.4c00190. A ``.pth`` file is a dictionary with ``config`` (options) and
``model_state_dict`` (tensors). SevenNet is a NequIP without mirror symmetry: every irrep is
called even, so that all products of degrees that rotations allow are taken.

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
from collections.abc import Mapping
from typing import Any, Optional

import torch
from torch import Tensor

from eqcalc.architectures.nequip import NequIP
from eqcalc.elements import symbols_of
from eqcalc.errors import ModelFileError
from eqcalc.importers.e3nn import (
    Convolution,
    FlatLinear,
    LayerLayouts,
    coupling_sign,
    fill_interaction,
    silu_factor,
    tanh_factor,
)
from eqcalc.importers.sevennet_shape import Shape, read_shape
from eqcalc.importers.tensors import Tensors
from eqcalc.nn.so3 import Irrep, Layout
from eqcalc.potential import Potential

__all__ = ["potential_of"]

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


def potential_of(
    config: Mapping[str, Any], state: Mapping[str, Tensor], modality: Optional[str] = None
) -> Potential:
    """Return the potential of a checkpoint's options and tensors, in float64.

    Parameters
    ----------
    modality : the level of theory, where the network knows several

    Raises
    ------
    ModelFileError : an option, a tensor or a version that is not known here.
    ConfigError : the modality is missing or unknown.
    """
    shape = read_shape(config, modality)
    tensors = Tensors(_modern_names(state), _WITHOUT_NUMBERS, "model_state_dict")
    denominators = [
        tensors.take(f"{t}_convolution.denominator").double().item()
        for t in range(len(shape.features) - 1)
    ]
    waves = tensors.take("edge_embedding.basis_function.coeffs").double()
    network = NequIP(
        shape.l_max,
        False,
        mirror_symmetric=False,
        num_layers=len(shape.features) - 1,
        num_features=shape.features[1] if len(shape.features) > 2 else shape.features[0],
        embedding_size=shape.features[0][0],
        embedding_factor=1.0 / math.sqrt(len(shape.type_map)),
        cut_off=shape.cutoff,
        num_bessels=waves.numel(),
        xplor_onset=shape.xplor_onset,
        polynomial_cutoff_p=shape.polynomial_p,
        solid_harmonics=shape.solid_harmonics,
        radial_mlp_depth=shape.radial_depth,
        radial_mlp_width=shape.radial_width,
        avg_num_neighbors=denominators[0] ** 2,
        self_connection=shape.self_connection,
        first_self_connection=True,
        modalities=shape.n_modalities,
        frequencies_per_angstrom=True,
        activation_factors=(silu_factor(), silu_factor(), tanh_factor()),
        per_species_scale=True,
        elements=sorted(shape.type_map),
    ).double()
    rows = torch.tensor([shape.type_map[z] for z in sorted(shape.type_map)])
    with torch.no_grad():
        embedding = tensors.take("onehot_to_feature_x.linear.weight", len(rows), None).double()
        network.embedding.weight.copy_(embedding[rows])
        network.radial_basis.frequencies.copy_(waves)
        factors = {Irrep(0, 0): 1.0}
        for t, layer in enumerate(network.interactions):
            factors = fill_interaction(
                layer,
                _layouts(shape, t),
                _convolution(shape, tensors, t, rows, denominators[0] / denominators[t]),
                factors,
            )
        _fill_readout(network, shape, tensors, factors[Irrep(0, 0)])
    scales, shifts = _scales_and_shifts(shape, tensors, rows)
    tensors.require_empty()
    return _potential(network, shape, scales, shifts)


def _modern_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with the names that SevenNet uses since 0.10."""
    modern = {}
    for name, tensor in state.items():
        module, _, rest = name.partition(".")
        module = _OLD_NAMES.get(module, module.replace(" ", "_"))
        modern[f"{module}.{rest.replace('denumerator', 'denominator')}"] = tensor
    return modern


def _layouts(shape: Shape, t: int) -> LayerLayouts:
    def layout(channels: list[int]) -> Layout:
        return {Irrep(l, 0): n for l, n in enumerate(channels)}

    before, after = layout(shape.features[t]), layout(shape.features[t + 1])
    return LayerLayouts(before, after, before, after, shape.l_max, shape.columns_sorted)


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
        embedding = torch.eye(len(rows), dtype=torch.float64)[rows]
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


def _fill_readout(network: NequIP, shape: Shape, tensors: Tensors, factor: float) -> None:
    n, hidden = shape.features[-1][0], shape.features[-1][0] // 2
    scalar = Irrep(0, 0)
    first, second = network.readout[0], network.readout[1]
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
    """Return both of every element, in the order of atomic numbers, float64."""
    found = []
    for quantity in ("scale", "shift"):
        name = f"rescale_atomic_energy.{quantity}"
        tensor = tensors.take(name).double()
        if tensor.dim() == 2 and tensor.shape[0] == shape.n_modalities:
            tensor = tensor[shape.modality or 0]
        if tensor.numel() == 1:
            tensor = tensor.reshape(1).expand(len(rows))
        if tensor.shape != rows.shape:
            raise ModelFileError(
                f"model_state_dict['{name}'] must be one number, or one of each of {len(rows)} "
                f"elements, found the shape {tuple(tensor.shape)}."
            )
        found.append(tensor[rows])
    return found[0], found[1]


def _potential(network: NequIP, shape: Shape, scales: Tensor, shifts: Tensor) -> Potential:
    """One scale of all elements is the potential's, which is float64; others are parameters."""
    symbols = symbols_of(sorted(shape.type_map))
    energies = dict(zip(symbols, shifts.tolist(), strict=True))
    if bool((scales == scales[0]).all()):
        return Potential(network, energies, scale=scales[0].item())
    with torch.no_grad():
        network.species_scale.copy_(scales)
    return Potential(network, energies)
