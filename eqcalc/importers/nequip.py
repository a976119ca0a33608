"""Networks of nequip: Lightning checkpoints (``.ckpt``) and packages (``.nequip.zip``).

Source: Batzner et al., Nat. Commun. 13, 2453 (2022), doi:10.1038/s41467-022-29939-5; nequip is
on github.com/mir-group/nequip (MIT). A checkpoint has the options of the network under
``hyper_parameters`` and its tensors under ``state_dict``, those of the running average
(``ema.ema_weight_i``, in the order of the network's parameters) where there is one: these are
what nequip itself evaluates. A package has the modules as a pickle, already averaged.

=================================  =================================================
tensor                             what
=================================  =================================================
type_embed.embed_module            species embedding, rows in the order of type_names
bessel_encode.bessel_weights       frequencies in units of π/r_c
edge_norm._rmax_recip              inverse cutoffs, of each pair where they differ
layerK_convnet.conv.linear_1, 2    linear maps around the tensor product
layerK_convnet.conv.edge_mlp       radial network: plain silu, and a gain of √2 after it
layerK_convnet.conv.sc             self-connection, a product with the embedding
per_atom_energy_readout            readout: a linear map, or a multilayer network
per_type_energy_scale_shift        scale and shift of every type
pair_potential                     ZBL's repulsion
=================================  =================================================

The self-connection is contracted with the embedding to one matrix for each species: of float32
weights that is rounded when it is kept as float32.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch
from ase.calculators.calculator import Calculator
from torch import Tensor

from eqcalc.architectures.nequip import NequIP, feature_layouts
from eqcalc.elements import atomic_number
from eqcalc.errors import ConfigError, ModelFileError
from eqcalc.importers.assembly import (
    chosen_elements,
    elements_of,
    in_precision_of,
    scaled_potential,
)
from eqcalc.importers.e3nn import (
    Convolution,
    LayerLayouts,
    coupling_sign,
    fill_interaction,
    fill_scalar_network,
    silu_factor,
    tanh_factor,
)
from eqcalc.importers.foreign_file import ForeignFile
from eqcalc.importers.imported import Choices, Imported
from eqcalc.importers.inert import Inert, state_of
from eqcalc.importers.nequip_package import shape_of_modules
from eqcalc.importers.nequip_shape import Shape, shape_of_options
from eqcalc.importers.originals import import_original
from eqcalc.importers.tensors import Tensors
from eqcalc.nn.so3 import Irrep, Layout, irreps_up_to
from eqcalc.nn.zbl import COULOMB, ZBL
from eqcalc.potential import Potential
from eqcalc.units import energy_unit, length_unit

__all__ = ["KIND", "original", "potential_of", "read", "recognises"]

KIND = "nequip checkpoint or package"

_KNOWN_VERSIONS = ("0.19.",)
_MODULES = ("NequIPLightningModule", "EMALightningModule")
_PREFIX = "model.sole_model.model.func."
_IN_PACKAGE = "model.func."
_GAIN = math.sqrt(2.0)
_WITHOUT_NUMBERS = re.compile(
    r"\.output_mask$|\.bias$|\.tp\.weight$|\.equivariant_nonlin\.|\.alpha$|\.norm_const$"
    r"|\.factor$|pair_potential\.atomic_numbers$|\.cst$"
)
_PARAMETER = re.compile(
    r"^type_embed\.embed_module\.weight$"
    r"|^layer\d+_convnet\.conv\.(linear_[12]|sc|edge_mlp\.mlp\.\d+)\.weight$"
    r"|^per_atom_energy_readout\.mlp_module\.mlp\.\d+\.weight$"
)


def recognises(file: ForeignFile) -> bool:
    """Whether a file is what nequip writes, by its content alone."""
    if file.is_package:
        return "model/eager_model.pkl" in file.content
    if not isinstance(file.content, Mapping):
        return False
    state, given = file.content.get("state_dict"), file.content.get("hyper_parameters")
    return (
        isinstance(given, Mapping)
        and "model" in given
        and isinstance(given.get("info_dict"), Mapping)
        and isinstance(state, Mapping)
        and any(str(name).startswith("model.") for name in state)
    )


def read(file: ForeignFile, choices: Choices) -> Imported:
    """Return the network of a checkpoint or package.

    Raises
    ------
    ModelFileError : a version, an option or a tensor that is not known here.
    ConfigError : the units were not said, or a modality was.
    """
    if choices.modality is not None:
        raise ConfigError(
            f"networks of nequip have no modalities: '{choices.modality}' cannot be chosen."
        )
    unit = _energy_unit(choices)
    version = _package_version(file) if file.is_package else _checkpoint_version(file)
    shape, state = _of_package(file) if file.is_package else _of_checkpoint(file)
    if shape.zbl_units not in (None, "metal", "real"):
        raise ModelFileError(f"ZBL's units are {shape.zbl_units!r}; known are metal and real.")
    wanted = {"metal": "eV", "real": "kcal/mol"}.get(shape.zbl_units or "")
    if wanted is not None and abs(energy_unit(wanted) - unit) > 1e-9:
        raise ConfigError(
            f"the network's ZBL is in units of {wanted} and Angstrom, but the energy unit "
            f"{choices.energy_unit} was said."
        )
    potential = potential_of(shape, state, unit, choices.elements)
    kind = "package" if file.is_package else "checkpoint"
    averaged = file.is_package or "ema.ema_weight_0" in file.content["state_dict"]
    n_layers, l_max = shape.num_layers, shape.l_max
    return Imported(
        potential=in_precision_of(potential, state),
        elements=elements_of(potential),
        description=(
            f"NequIP of {n_layers} layers, degrees up to {l_max}, from a {kind} of nequip "
            f"{version}"
            + (" (running average of the weights)" if averaged and not file.is_package else "")
            + ". It knows nothing of charge and spin."
        ),
        licence="",
        level_of_theory="",
        source={
            "package": "nequip",
            "version": version,
            "energy_unit": str(choices.energy_unit),
            "length_unit": str(choices.length_unit),
        },
    )


def original(file: ForeignFile, choices: Choices) -> Calculator:
    """Return nequip's own calculator of a checkpoint or package, in eV. It runs code of the file.

    Raises
    ------
    MissingDependencyError : nequip is not installed.
    ConfigError : the units were not said.
    """
    module = import_original("nequip.ase")
    # True: every chemical symbol is the type of the same name.
    return module.NequIPCalculator._from_saved_model(
        str(file.path),
        device="cpu",
        chemical_species_to_atom_type_map=True,
        energy_units_to_eV=_energy_unit(choices),
    )


def _energy_unit(choices: Choices) -> float:
    """Return the unit of the network's energies in eV."""
    for name, value, example in (
        ("energy_unit", choices.energy_unit, "eV"),
        ("length_unit", choices.length_unit, "Angstrom"),
    ):
        if value is None:
            raise ConfigError(
                f"a file of nequip does not say its units: give {name} (of the data that it was "
                f"trained on, such as {example})."
            )
    if length_unit(str(choices.length_unit)) != 1.0:
        raise ConfigError(
            f"networks of nequip are imported in Angstrom alone, found {choices.length_unit}."
        )
    return energy_unit(str(choices.energy_unit))


def _require_version(version: Any) -> str:
    if not isinstance(version, str) or not version.startswith(_KNOWN_VERSIONS):
        raise ModelFileError(
            f"the file was written by nequip {version or 'of an unknown version'}; known is "
            "0.19. Another version may mean other things by the same names: package the model "
            "with nequip 0.19 (nequip-package build), and import the package."
        )
    return version


def _checkpoint_version(file: ForeignFile) -> str:
    info = file.content["hyper_parameters"]["info_dict"]
    versions = info.get("versions")
    version = _require_version(versions.get("nequip") if isinstance(versions, Mapping) else None)
    module = info.get("training_module")
    target = module.get("_target_") if isinstance(module, Mapping) else None
    if str(target).rpartition(".")[2] not in _MODULES:
        raise ModelFileError(
            f"the training module is {target!r}; checkpoints of {' and '.join(_MODULES)} are "
            "imported. Of another one it is not known which weights it evaluates: package the "
            "model (nequip-package build), and import the package."
        )
    return version


def _package_version(file: ForeignFile) -> str:
    text = file.members.get("model/package_metadata.txt", b"").decode("utf-8", "replace")
    match = re.search(r"^\s+nequip: '?([\w.+-]+)'?\s*$", text, re.MULTILINE)
    return _require_version(match[1] if match else None)


def _of_checkpoint(file: ForeignFile) -> tuple[Shape, dict[str, Tensor]]:
    state = {str(k): v for k, v in file.content["state_dict"].items() if isinstance(v, Tensor)}
    models = sorted({n.split(".")[1] for n in state if n.startswith("model.") and n.count(".") > 1})
    if models != ["sole_model"]:
        raise ModelFileError(
            f"the checkpoint holds the models {', '.join(models) or 'none'}: an ensemble is not "
            "imported. Import its members one by one, and run them as a committee."
        )
    shape = shape_of_options(file.content["hyper_parameters"]["model"])
    raw = {n.removeprefix(_PREFIX): v for n, v in state.items() if n.startswith(_PREFIX)}
    if "ema.ema_weight_0" not in state:
        return shape, raw
    about = file.content["state_dict"].get("ema._extra_state")
    if not isinstance(about, Mapping) or about.get("is_holding_ema_weights") is not True:
        raise ModelFileError(
            "ema._extra_state does not say that ema.ema_weight_i are the running average: the "
            "checkpoint was saved in the middle of a validation. Take another one."
        )
    names = [n for n in raw if _PARAMETER.search(n) or n in shape.trainable]
    averages = [v for n, v in state.items() if n.startswith("ema.ema_weight_")]
    order = [f"ema.ema_weight_{k}" for k in range(len(averages))]
    if len(names) != len(averages) or not set(order) <= set(state):
        raise ModelFileError(
            f"the checkpoint has {len(averages)} averages (ema.ema_weight_i) for {len(names)} "
            "parameters: the network is not one that is known here."
        )
    for name, key in zip(names, order, strict=True):
        if raw[name].shape != state[key].shape:
            raise ModelFileError(
                f"'{key}' has the shape {tuple(state[key].shape)}, where that of '{name}', "
                f"{tuple(raw[name].shape)}, is expected."
            )
        raw[name] = state[key]
    return shape, raw


def _of_package(file: ForeignFile) -> tuple[Shape, dict[str, Tensor]]:
    models = file.content["model/eager_model.pkl"]
    known = models.state.get("_modules") if isinstance(models, Inert) else None
    if not isinstance(known, Mapping) or list(known) != ["sole_model"]:
        raise ModelFileError(
            "the package holds other models than 'sole_model': an ensemble is not imported. "
            "Import its members one by one, and run them as a committee."
        )
    model = known["sole_model"]
    output = model.attribute("model") if isinstance(model, Inert) else None
    network = output.attribute("func") if isinstance(output, Inert) else None
    if (
        not isinstance(output, Inert)
        or not isinstance(network, Inert)
        or model.name != "GraphModel"
        or output.name != "ForceStressOutput"
        or network.name != "SequentialGraphNetwork"
    ):
        raise ModelFileError(
            "the package's model is no GraphModel of ForceStressOutput and "
            "SequentialGraphNetwork, as nequip builds it."
        )
    state = {
        n.removeprefix(_IN_PACKAGE): v
        for n, v in state_of(model).items()
        if n.startswith(_IN_PACKAGE)
    }
    norms = [v for n, v in state.items() if n.endswith("avg_num_neighbors_norm.norm_const")]
    if not norms or any(not torch.equal(norm, norms[0]) for norm in norms):
        raise ModelFileError("the package's layers have no common avg_num_neighbors.")
    averages = norms[0].double().flatten().pow(-2).tolist()
    metadata = model.attribute("_metadata")
    if not isinstance(metadata, Mapping):
        raise ModelFileError("the package's model does not name its types (_metadata).")
    return shape_of_modules(network, metadata, averages), state


def potential_of(
    shape: Shape,
    state: Mapping[str, Tensor],
    unit: float = 1.0,
    elements: Optional[Sequence[str]] = None,
) -> Potential:
    """Return the potential of a network's shape and tensors, in float64.

    Parameters
    ----------
    state : tensors by their names in the network
    unit : of its energies, eV
    elements : symbols of those that the potential shall know; None means all of the network's

    Raises
    ------
    ConfigError : an element is unknown.
    ModelFileError : a tensor is missing, of another size, or not known here.
    """
    tensors = Tensors(state, _WITHOUT_NUMBERS, "the network's state")
    symbols = chosen_elements(shape.type_names, elements)
    rows = torch.tensor([shape.type_names.index(symbol) for symbol in symbols])
    n_types = len(shape.type_names)
    waves = tensors.take("bessel_encode.bessel_weights").double().flatten()
    pair_cutoffs = _pair_cutoffs(shape, tensors, rows)
    neighbours = shape.avg_num_neighbors
    if len(neighbours) not in (1, n_types):
        raise ModelFileError(
            f"avg_num_neighbors must be one number, or one of each of {n_types} types, found "
            f"{len(neighbours)}."
        )
    of_types = [neighbours[row] for row in rows.tolist()] if len(neighbours) > 1 else neighbours[0]
    network = NequIP(
        shape.l_max,
        shape.parity,
        num_layers=shape.num_layers,
        num_features=shape.channels,
        embedding_size=shape.embedding_size,
        cut_off=shape.cutoff,
        pair_cutoffs=pair_cutoffs,
        num_bessels=waves.numel(),
        polynomial_cutoff_p=shape.polynomial_p,
        radial_mlp_depth=shape.radial_depth,
        radial_mlp_width=shape.radial_width,
        avg_num_neighbors=of_types,
        readout_mlp=shape.readout,
        activation_factors=(_GAIN, silu_factor(), tanh_factor()),
        per_species_scale=True,
        elements=symbols,
    ).double()
    with torch.no_grad():
        embedding = tensors.take("type_embed.embed_module.weight", n_types, shape.embedding_size)
        embedding = embedding.double()[rows]
        network.embedding.weight.copy_(embedding)
        network.radial_basis.frequencies.copy_(waves)
        factors = {Irrep(0, 1): 1.0}
        theirs: Layout = {Irrep(0, 1): shape.embedding_size}
        ours = feature_layouts(network.config)
        for k, layer in enumerate(network.interactions):
            layouts = LayerLayouts(
                theirs, _features_out(shape, theirs, k), ours[k], ours[k + 1], shape.l_max
            )
            factors = fill_interaction(
                layer, layouts, _convolution(shape, tensors, k, embedding), factors
            )
            theirs = layouts.features_out
        prefix = "per_atom_energy_readout.mlp_module.mlp."
        matrices = [tensors.take(f"{prefix}{2 * i}.weight") for i in range(len(shape.readout) + 1)]
        fill_scalar_network(network.readout, matrices, _GAIN, factors[Irrep(0, 1)])
    scales = _of_types(tensors, "scales", 1.0, n_types)[rows]
    shifts = _of_types(tensors, "shifts", 0.0, n_types)[rows]
    zbl = _zbl(shape, tensors, symbols, pair_cutoffs, unit)
    if zbl is not None:
        _require_charges(state.get("pair_potential.atomic_numbers"), shape.type_names)
    tensors.require_empty()
    return scaled_potential(network, symbols, unit * scales, unit * shifts, zbl)


def _features_out(shape: Shape, features_in: Layout, layer: int) -> Layout:
    """Return the channels after the gate, as nequip lists them: scalars, then the others."""
    hidden = irreps_up_to(shape.l_max, shape.parity)
    if layer == shape.num_layers - 1:
        hidden = [Irrep(0, 1)]
    reached = [t for t in hidden if any(s.filters_to(t, shape.l_max) for s in features_in)]
    ordered = [t for t in reached if t.l == 0] + [t for t in reached if t.l > 0]
    return {irrep: shape.channels[irrep.l] for irrep in _as_listed(ordered)}


def _as_listed(irreps: list[Irrep]) -> list[Irrep]:
    """Sort by degree; even parity comes first, whatever is natural."""
    return sorted(irreps, key=lambda irrep: (irrep.l, -irrep.parity))


def _convolution(shape: Shape, tensors: Tensors, k: int, embedding: Tensor) -> Convolution:
    prefix = f"layer{k}_convnet.conv."
    return Convolution(
        before=tensors.take(f"{prefix}linear_1.weight"),
        after=tensors.take(f"{prefix}linear_2.weight"),
        radial=[
            tensors.take(f"{prefix}edge_mlp.mlp.{2 * i}.weight")
            for i in range(shape.radial_depth + 1)
        ],
        radial_factor=_GAIN,
        own=tensors.take(f"{prefix}sc.weight") if k > 0 else None,
        own_embedding=embedding,
        name=f"layer {k}",
        signs={
            degrees: coupling_sign(stored, *degrees, f"layer {k}: _w3j_{degrees}")
            for degrees, stored in tensors.couplings(prefix).items()
        },
    )


def _pair_cutoffs(shape: Shape, tensors: Tensors, rows: Tensor) -> Optional[list[list[float]]]:
    inverse = tensors.take("edge_norm._rmax_recip").double()
    n = len(shape.type_names)
    if inverse.numel() != (n * n if shape.has_pair_cutoffs else 1):
        raise ModelFileError(
            f"'edge_norm._rmax_recip' holds {inverse.numel()} inverse cutoffs; one, or one of "
            f"each pair of {n} types, is expected."
        )
    cutoffs = inverse.reciprocal()
    # Inverted twice, a cutoff may exceed the largest one by its last digit.
    if bool((cutoffs > shape.cutoff * (1.0 + 1e-12)).any()) or bool((cutoffs <= 0).any()):
        raise ModelFileError(
            f"'edge_norm._rmax_recip' has a cutoff of {cutoffs.max():g} Å, above r_max = "
            f"{shape.cutoff:g} Å."
        )
    if not shape.has_pair_cutoffs:
        if abs(cutoffs.item() / shape.cutoff - 1.0) > 1e-6:  # float32 rounds it
            raise ModelFileError(
                f"'edge_norm._rmax_recip' is the inverse of {cutoffs.item():g} Å, where r_max = "
                f"{shape.cutoff:g} Å is expected."
            )
        return None
    return cutoffs.clamp(max=shape.cutoff).view(n, n)[rows][:, rows].tolist()


def _of_types(tensors: Tensors, quantity: str, default: float, n_types: int) -> Tensor:
    """Return scales or shifts (n_types,) in eV or the network's unit, float64."""
    found = tensors.take(f"per_type_energy_scale_shift.{quantity}").double().flatten()
    if found.numel() == 0:
        found = torch.tensor([default], dtype=torch.float64)
    if found.numel() not in (1, n_types):
        raise ModelFileError(
            f"'per_type_energy_scale_shift.{quantity}' must be one number, or one of each of "
            f"{n_types} types, found {found.numel()}."
        )
    return found.expand(n_types)


def _zbl(
    shape: Shape,
    tensors: Tensors,
    symbols: list[str],
    pair_cutoffs: Optional[list[list[float]]],
    unit: float,
) -> Optional[ZBL]:
    if shape.zbl_power is None:
        return None
    if shape.zbl_power != int(shape.zbl_power):
        raise ModelFileError(
            f"ZBL's polynomial_cutoff_p must be an integer, found {shape.zbl_power:g}."
        )
    coulomb = 2.0 * unit * tensors.take("pair_potential._qqr2exesquare", 1).item()
    if abs(coulomb / COULOMB - 1.0) > 1e-3:
        raise ConfigError(
            f"the network's ZBL has e²/(4πε₀) = {coulomb:.6g} eV Å in the energy unit that was "
            f"said, where nature has {COULOMB:.6g}: the energy unit is another one."
        )
    return ZBL(
        shape.cutoff,
        int(shape.zbl_power),
        elements=symbols if pair_cutoffs is not None else None,
        pair_cutoffs=pair_cutoffs,
        coulomb=coulomb,
    )


def _require_charges(found: Optional[Tensor], type_names: Sequence[str]) -> None:
    """Refuse a ZBL that takes a type for another element than its name says."""
    expected = [atomic_number(symbol) for symbol in type_names]
    numbers = None if found is None else found.flatten().tolist()
    if numbers != expected:
        raise ModelFileError(
            f"ZBL's atomic numbers ('pair_potential.atomic_numbers') must be {expected}, those of "
            f"the types {', '.join(type_names)}, found {numbers}."
        )
