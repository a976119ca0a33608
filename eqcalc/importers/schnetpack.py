"""SchNetPack 2: PaiNN and SchNet from ``best_model`` or a Lightning checkpoint.

Source: the behaviour of schnetpack 2.1; recorded numbers of it are replayed by the tests.

========================================  ==========================================
schnetpack                                eqcalc
========================================  ==========================================
``CosineCutoff``                          ``envelope="cosine"``
``GaussianRBF``, ``BesselRBF``            ``radial_basis="stored_gaussian"``, ``"stored_sine"``
PaiNN's √(Σ V² + ε), ε = 1e-8             ``vector_norm="published"``
SchNet's ``Atomwise`` with silu           ``readout_activation="silu"``
``AddOffsets``: mean and atomref          reference energies: atomref[Z] + mean
``ScaleProperty``                         scale
========================================  ==========================================

The file holds no units: energies and lengths are what the training data had. Lengths stay as
they are in the weights; the cutoff and ``radial_unit`` say how long the file's unit is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from torch import Tensor, nn

from eqcalc.architectures import build
from eqcalc.elements import N_ELEMENTS, atomic_number, symbols_of
from eqcalc.errors import ConfigError
from eqcalc.importers.foreign_file import ForeignFile
from eqcalc.importers.imported import Choices, Imported
from eqcalc.importers.inert import Inert
from eqcalc.importers.originals import import_original
from eqcalc.importers.schnetpack_source import Source, model_of, required_model, tensors_of
from eqcalc.potential import Potential
from eqcalc.units import ENERGY_UNITS, LENGTH_UNITS, energy_unit, length_unit

__all__ = ["KIND", "original", "read", "recognises"]

KIND = "schnetpack model"

_MODEL = "schnetpack.model.base.NeuralNetworkPotential"
_REPRESENTATIONS = {
    "schnetpack.representation.painn.PaiNN": "painn",
    "schnetpack.representation.schnet.SchNet": "schnet",
}
_BASES = {
    "schnetpack.nn.radial.GaussianRBF": "stored_gaussian",
    "schnetpack.nn.radial.BesselRBF": "stored_sine",
}
_SILU = ("torch.nn.functional.silu", "torch.nn.modules.activation.SiLU")
_SSP = ("schnetpack.nn.activations.shifted_softplus",)
_IDENTITY = ("torch.nn.modules.linear.Identity",)
# Pairs are found by eqcalc; forces and stress are gradients of the energy.
_FORCES = "schnetpack.atomistic.response.Forces"
_WITHOUT_EFFECT = (
    "schnetpack.atomistic.distances.PairwiseDistances",
    _FORCES,
    "schnetpack.atomistic.response.Strain",
    "schnetpack.transform.casting.CastTo32",
    "schnetpack.transform.casting.CastTo64",
)


def recognises(file: ForeignFile) -> bool:
    """Tell whether a file holds a model of schnetpack."""
    return model_of(file.content) is not None


def read(file: ForeignFile, choices: Choices) -> Imported:
    """Return a model of schnetpack as a potential of eqcalc.

    Raises
    ------
    ConfigError : units or elements that the file does not state were not given.
    ModelFileError : the model has something that eqcalc's networks do not, or misses something.
    """
    if choices.modality is not None:
        raise ConfigError(
            f"networks of schnetpack have no modalities: '{choices.modality}' cannot be chosen."
        )
    model = required_model(file)
    source = Source(str(file.path), model, tensors_of(file, model))
    energy, length = _units(file, choices)
    network, texts = _network(source, length)
    offsets = _offsets(source)
    elements = _elements(source, choices, offsets.stated)
    _require_all_taken(source)
    potential = Potential(
        network,
        {z: energy * offsets.energies[z] for z in map(atomic_number, elements)},
        scale=energy * offsets.scale,
    )
    potential.eval().requires_grad_(False)
    version = model.attribute("spk_version")
    return Imported(
        potential=potential,
        elements=elements,
        description=(
            f"{type(network).__name__} trained with schnetpack ({', '.join(texts)}); energies in "
            f"{choices.energy_unit} and lengths in {choices.length_unit}, as said at import."
        ),
        licence="",
        level_of_theory="",
        source={"package": "schnetpack", "version": str(version or "2, not stated")},
    )


def original(file: ForeignFile, choices: Choices) -> Calculator:
    """Return schnetpack's own calculator of a model, float64. It runs code of the file.

    Raises
    ------
    MissingDependencyError : schnetpack is not installed.
    """
    energy, length = _units(file, choices)
    interfaces = import_original("schnetpack.interfaces")
    transform = import_original("schnetpack.transform")
    model = torch.load(file.path, map_location="cpu", weights_only=False)
    if isinstance(model, dict):
        saved = {str(key): tensor for key, tensor in model["state_dict"].items()}
        model = model["hyper_parameters"]["model"]
        weights = {k.removeprefix("model."): v for k, v in saved.items() if k[:6] == "model."}
        model.load_state_dict(weights)
    cutoff = float(model.representation.cutoff_fn.cutoff)
    converter = interfaces.AtomsConverter(
        transform.ASENeighborList(cutoff=cutoff), device="cpu", dtype=torch.float64
    )
    source = Source(str(file.path), required_model(file), {})
    key = source.object(_readout(source)).attribute("output_key")
    return _Original(model.double().eval(), converter, str(key), energy, length)


class _Original(Calculator):
    """A model of schnetpack, run by schnetpack.

    energy, length : units of the model, eV and Å
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012  as ASE declares it

    def __init__(
        self, model: nn.Module, converter: Any, key: str, energy: float, length: float
    ) -> None:
        super().__init__()
        self._model, self._converter, self._key = model, converter, key
        self._energy, self._length = energy, length

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, list(properties), list(system_changes))
        scaled = cast(Atoms, self.atoms).copy()
        scaled.set_cell(scaled.cell.array / self._length)
        scaled.positions /= self._length
        inputs = self._converter(scaled)
        inputs["_positions"].requires_grad_()
        with torch.enable_grad():
            outputs = self._model(inputs)
        self.results = {
            "energy": float(outputs[self._key].detach()) * self._energy,
            "forces": outputs["forces"].detach().numpy() * self._energy / self._length,
        }


def _units(file: ForeignFile, choices: Choices) -> tuple[float, float]:
    energy, length = choices.energy_unit, choices.length_unit
    if energy is None or length is None:
        missing = [f"energy_unit ({', '.join(ENERGY_UNITS)})"] * (energy is None)
        missing += [f"length_unit ({', '.join(LENGTH_UNITS)})"] * (length is None)
        raise ConfigError(
            f"'{file.path}' does not say in which units it was trained, as no file of schnetpack "
            f"does; give {' and '.join(missing)}. The training's configuration has them: "
            "property_units and distance_unit."
        )
    return energy_unit(energy), length_unit(length)


def _network(source: Source, length: float) -> tuple[nn.Module, list[str]]:
    """Return the network with its weights, and what the card says of it."""
    source.require("model", source.model.class_path, _MODEL)
    kind = _REPRESENTATIONS[source.require_class("representation", *_REPRESENTATIONS)]
    source.require_class("representation.cutoff_fn", "schnetpack.nn.cutoff.CosineCutoff")
    basis = _BASES[source.require_class("representation.radial_basis", *_BASES)]
    name = "representation.embedding"
    source.require_class(name, "torch.nn.modules.sparse.Embedding")
    # torch would shorten longer rows when they are looked up.
    source.require(f"{name}.max_norm", source.object(name).attribute("max_norm"), None)
    if source.children("representation.electronic_embeddings"):
        source.refuse("'representation.electronic_embeddings'", "not empty", "none")
    for path, child in source.children("input_modules"):
        source.require(path, child.class_path, *_WITHOUT_EFFECT)
    cutoff = float(source.take("representation.cutoff_fn.cutoff")) * length
    readout = _readout(source)
    options = {"envelope": "cosine", "radial_basis": basis, "radial_unit": length}
    n_blocks = len(_blocks(source, "representation.interactions"))
    n_radial = len(_basis_tensors(source, basis)[0])
    dtype = source.take("representation.embedding.weight").dtype
    build_one = _painn if kind == "painn" else _schnet
    network = build_one(source, n_blocks, n_radial, cutoff, options).to(dtype)
    _fill(network, _targets(kind, n_blocks, readout), source)
    _fill_basis(network.radial_basis if kind == "painn" else network.stored_basis, basis, source)
    return network, [f"{n_blocks} blocks", f"{basis.removeprefix('stored_')} basis"]


def _blocks(source: Source, name: str) -> list[tuple[str, Inert]]:
    blocks = source.children(name)
    if len({id(block) for _, block in blocks}) < max(len(blocks), 1):
        source.refuse(f"'{name}'", "empty, or shares its weights between blocks", "a list of them")
    return blocks


def _painn(
    source: Source, n_blocks: int, n_radial: int, cutoff: float, options: dict[str, Any]
) -> nn.Module:
    n = source.take("representation.embedding.weight").shape[1]
    source.require(
        "representation.share_filters",
        source.object("representation").attribute("share_filters"),
        False,
    )
    for k, (path, block) in enumerate(_blocks(source, "representation.mixing")):
        source.require(f"{path}.epsilon", block.attribute("epsilon"), 1e-8)
        _require_dense(source, f"{path}.intraatomic_context_net.0", _SILU)
        _require_dense(source, f"{path}.intraatomic_context_net.1", _IDENTITY)
        _require_dense(source, f"{path}.mu_channel_mix", _IDENTITY)
        context = f"representation.interactions.{k}.interatomic_context_net"
        _require_dense(source, f"{context}.0", _SILU)
        _require_dense(source, f"{context}.1", _IDENTITY)
    _require_dense(source, "representation.filter_net", _IDENTITY)
    return build(
        "painn",
        embedding_dim=n,
        num_blocks=n_blocks,
        num_radial_basis=n_radial,
        cut_off=cutoff,
        vector_norm="published",
        **options,
    )


def _schnet(
    source: Source, n_blocks: int, n_radial: int, cutoff: float, options: dict[str, Any]
) -> nn.Module:
    n = source.take("representation.embedding.weight").shape[1]
    source.require(
        "representation.n_filters", source.object("representation").attribute("n_filters"), n
    )
    for path, _ in _blocks(source, "representation.interactions"):
        _require_dense(source, f"{path}.in2f", _IDENTITY)
        for net in ("filter_network", "f2out"):
            _require_dense(source, f"{path}.{net}.0", _SSP)
            _require_dense(source, f"{path}.{net}.1", _IDENTITY)
    return build(
        "schnet",
        num_interaction_blocks=n_blocks,
        hidden_dim=n,
        num_filters=n_radial,
        cutoff=cutoff,
        readout_activation="silu",
        **options,
    )


def _readout(source: Source) -> str:
    """Return the path of the one output module that gives the energy."""
    found = []
    for path, child in source.children("output_modules"):
        if child.class_path == "schnetpack.atomistic.atomwise.Atomwise":
            found.append(path)
        else:
            source.require(path, child.class_path, *_WITHOUT_EFFECT)
    if len(found) != 1:
        source.refuse("'output_modules'", f"{len(found)} of class Atomwise", "one")
    (path,) = found
    source.require(
        f"{path}.aggregation_mode", source.object(path).attribute("aggregation_mode"), "sum"
    )
    layers = source.children(f"{path}.outnet")
    if len(layers) != 2:
        source.refuse(f"'{path}.outnet'", f"{len(layers)} layers", "two")
    _require_dense(source, f"{path}.outnet.0", _SILU)
    _require_dense(source, f"{path}.outnet.1", _IDENTITY)
    return path


def _require_dense(source: Source, name: str, activations: tuple[str, ...]) -> None:
    source.require_class(name, "schnetpack.nn.base.Dense")
    source.require_class(f"{name}.activation", *activations)


def _targets(kind: str, n_blocks: int, readout: str) -> dict[str, str]:
    """Return path in eqcalc's network -> path in schnetpack's, of the linear layers."""
    targets = {"readout.hidden": f"{readout}.outnet.0", "readout.out": f"{readout}.outnet.1"}
    for k in range(n_blocks):
        block = f"representation.interactions.{k}"
        if kind == "painn":
            mixing = f"representation.mixing.{k}"
            targets |= {
                f"messages.{k}.mix.hidden": f"{block}.interatomic_context_net.0",
                f"messages.{k}.mix.out": f"{block}.interatomic_context_net.1",
                f"updates.{k}.channel_mix": f"{mixing}.mu_channel_mix",
                f"updates.{k}.mix.hidden": f"{mixing}.intraatomic_context_net.0",
                f"updates.{k}.mix.out": f"{mixing}.intraatomic_context_net.1",
            }
        else:
            targets |= {
                f"interactions.{k}.filter_network.hidden": f"{block}.filter_network.0",
                f"interactions.{k}.filter_network.out": f"{block}.filter_network.1",
                f"interactions.{k}.to_filter_space": f"{block}.in2f",
                f"interactions.{k}.mix.hidden": f"{block}.f2out.0",
                f"interactions.{k}.mix.out": f"{block}.f2out.1",
            }
    if kind == "painn":
        targets["filters"] = "representation.filter_net"
    return targets


def _fill(network: nn.Module, targets: Mapping[str, str], source: Source) -> None:
    for own, foreign in targets.items():
        layer = network.get_submodule(own)
        for name, parameter in layer.named_parameters():
            _copy(parameter, source.take(f"{foreign}.{name}"), f"{foreign}.{name}", source)
    table = source.take("representation.embedding.weight")
    embedding = cast(nn.Embedding, network.get_submodule("embedding"))
    if len(table) > N_ELEMENTS:
        source.refuse(
            "'representation.embedding'", f"for {len(table)} elements", f"{N_ELEMENTS} at most"
        )
    with torch.no_grad():
        embedding.weight.zero_()
        embedding.weight[: len(table)] = table


def _basis_tensors(source: Source, basis: str) -> list[Tensor]:
    names = ("offsets", "widths") if basis == "stored_gaussian" else ("freqs",)
    return [source.take(f"representation.radial_basis.{name}") for name in names]


def _fill_basis(target: Any, basis: str, source: Source) -> None:
    names = ("centres", "widths") if basis == "stored_gaussian" else ("frequencies",)
    for name, tensor in zip(names, _basis_tensors(source, basis), strict=True):
        _copy(getattr(target, name), tensor, f"representation.radial_basis ({name})", source)


def _copy(target: Tensor, tensor: Tensor, name: str, source: Source) -> None:
    if target.shape != tensor.shape:
        source.refuse(f"the shape of '{name}'", str(tuple(tensor.shape)), str(tuple(target.shape)))
    with torch.no_grad():
        target.copy_(tensor)


class _Offsets(NamedTuple):
    """What the postprocessors add and multiply by, in the file's unit of energy.

    energies : of an atom by atomic number
    scale : of the network's energies
    stated : atomic numbers for which the file has a reference energy; empty where it has none
    """

    energies: dict[int, float]
    scale: float
    stated: list[int]


def _offsets(source: Source) -> _Offsets:
    scale, shift = 1.0, 0.0
    references = dict.fromkeys(range(1, N_ELEMENTS), 0.0)
    key = source.object(_readout(source)).attribute("output_key")
    source.require("do_postprocessing", source.model.attribute("do_postprocessing"), True)
    for path, child in source.children("postprocessors"):
        if child.class_path == "schnetpack.transform.atomistic.AddOffsets":
            source.require(f"{path}.property", child.attribute("_property"), key)
            source.require(f"{path}.is_extensive", child.attribute("is_extensive"), True)
            mean, table = source.take(f"{path}.mean"), source.take(f"{path}.atomref")
            if child.attribute("add_mean"):
                shift += float(mean)
            if child.attribute("add_atomrefs"):
                for z, energy in enumerate(table.flatten().tolist()[:N_ELEMENTS]):
                    references[z] = references.get(z, 0.0) + energy
        elif child.class_path == "schnetpack.transform.atomistic.ScaleProperty":
            source.require(f"{path}.input_key", child.attribute("input_key"), key)
            source.require(f"{path}.output_key", child.attribute("output_key"), key)
            factor = float(source.take(f"{path}.scale"))
            modules = [module.class_path for _, module in source.children("output_modules")]
            if factor != 1.0 and _FORCES in modules:
                # schnetpack takes forces of the energy before the postprocessors change it.
                source.refuse(f"'{path}'", f"{factor:g} times the energy alone", "forces of it too")
            scale, shift = scale * factor, shift * factor
            references = {z: energy * factor for z, energy in references.items()}
        else:
            source.require(path, child.class_path, *_WITHOUT_EFFECT)
    stated = [z for z, energy in references.items() if energy != 0.0 and z > 0]
    return _Offsets({z: energy + shift for z, energy in references.items()}, scale, stated)


def _elements(source: Source, choices: Choices, stated: list[int]) -> list[str]:
    if choices.elements is None:
        if not stated:
            raise ConfigError(
                f"'{source.path}' does not say which elements it was trained on; give elements, "
                "such as H, C, O."
            )
        return symbols_of(stated)
    wanted = symbols_of([atomic_number(element) for element in choices.elements])
    n_rows = len(source.take("representation.embedding.weight"))
    unknown = [
        symbol
        for symbol in wanted
        if atomic_number(symbol) >= n_rows or (stated and atomic_number(symbol) not in stated)
    ]
    if unknown:
        raise ConfigError(
            f"elements: '{source.path}' has no reference energy for {', '.join(unknown)}"
            + (f"; it has one for {', '.join(symbols_of(stated))}." if stated else ".")
        )
    return wanted


def _require_all_taken(source: Source) -> None:
    left = [name for name in source.tensors if name not in source.taken]
    if left:
        source.refuse(f"'{left[0]}'", "a tensor of the model", "no place for it")
