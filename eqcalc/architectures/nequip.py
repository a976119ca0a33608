"""NequIP: the neural equivariant interatomic potential.

Source: Batzner et al., Nat. Commun. 13, 2453 (2022), doi:10.1038/s41467-022-29939-5,
section Methods.

    h_i⁰    = embedding(Z_i)                                   scalars 0e
    R(d)    = MLP_silu((2/r_c) sin(w_n d/r_c)/d · f_cut(d))    radial weights
    M_{i, kl m} = Σ_j R_k(d_ij) Σ_{m' m_f} C^{l m}_{l' m' l_f m_f} h_{j, k l' m'} Y_{l_f m_f}(r̂_ij)
                                                               convolution
    h_i     = gate(W_2 M_i / √n̄ + W_{Z_i} h_i)                 M from W_1 h in place of h
    E_i     = σ_{Z_i} · W_4 W_3 h_i + μ_{Z_i}                  last 0e scalars

where l' ⊗ l_f -> l runs over all paths with l, l', l_f ≤ l_max that keep the parity,
and each path and channel k has a weight of its own.

===========  ==========================================================
symbol       variable
===========  ==========================================================
h            ``features``, one (n_atoms, 2l+1, n_channels) per irrep
R            ``weights`` (n_edges, n_paths · n_channels) of each layer
Σ C Y        ``couplings``, of each edge, shared by layers and channels
M            ``messages``, one (n_atoms, 2l+1, n_paths · n_channels) per irrep
n̄            ``avg_num_neighbors``
W_1, W_2     ``mix_before``, ``mix_after``
W_Z          ``self_connection``
W_3, W_4     ``readout``
σ, μ         ``species_scale``, ``species_shift``
===========  ==========================================================

Shapes: n_atoms, n_edges, n_channels = num_features, n_paths.

Parity: with ``parity=True`` features of every degree carry both parities (0e 0o 1o 1e
2e 2o ...), with ``parity=False`` only the natural one (0e 1o 2e ...), so that no path has
odd l + l' + l_f (no cross products). Both energies are invariant under reflections. Irreps
that cannot arise in a layer, or cannot reach the energy from it, are not built: they would
be zero, or parameters without a gradient. With three layers or fewer both are the same.

Scales are e3nn's (component normalisation, paths and activations of unit variance);
biases there are none. An atom without neighbours therefore has zero features and exactly
its reference energy, as long as ``first_self_connection``, ``per_species_shift`` and
``modalities`` are off.

Networks trained elsewhere need more: options that the paper has not are explained in
:mod:`eqcalc.architectures._nequip_variants`, with what each gives up.

Deviations from the paper: none in the equations. The species embedding has unit variance
and the self-connection is scaled as one linear map for each species, where the published
code divides both by √(number of species).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

from eqcalc.architectures._nequip_variants import (
    channels_of,
    check_variants,
    elements_of,
    pair_factors,
    scale_edges,
    sender_factors,
)
from eqcalc.arguments import require_at_least, require_bools, require_positive
from eqcalc.elements import N_ELEMENTS, atomic_number
from eqcalc.errors import ConfigError, did_you_mean
from eqcalc.graph import AtomicGraph
from eqcalc.nn.bessel import BesselBasis
from eqcalc.nn.constants import Constants
from eqcalc.nn.so3 import (
    AddedLinear,
    EdgeCouplings,
    EquivariantLinear,
    Gate,
    Irrep,
    Layout,
    SpeciesLinear,
    TensorProduct,
    UnitVarianceLinear,
    UnitVarianceSiLU,
    irreps_up_to,
    layout_before_gate,
    path_filters,
    path_layout,
)

__all__ = ["Config", "NequIP"]

PER_ELEMENT = ("avg_num_neighbors", "pair_cutoffs")

_L_MAX = 6


@dataclass(frozen=True)
class Config:
    """Options of :class:`NequIP`; the defaults are the paper's for MD17.

    l_max : largest degree of features and harmonics, 0 ... 6
    parity : features of both parities, or of the natural one (-1)^l alone
    num_layers : interactions
    num_features : channels of every irrep, or a list with those of each degree 0 ... l_max
    cut_off : Å
    num_bessels : radial functions; bessel_trainable : their frequencies w_n
    polynomial_cutoff_p : exponent of the envelope
    radial_mlp_depth, radial_mlp_width : hidden layers of the radial network
    avg_num_neighbors : mean number of neighbours in the training data, the n̄ by whose
        root sums are divided; a list has one for each element, of the senders
    first_self_connection : a self-connection in the first layer too; it gives an isolated
        atom an energy besides its reference energy
    per_species_scale, per_species_shift : trainable factor and offset (in the potential's
        scaled units) of each species' energy
    elements : symbols or atomic numbers with parameters of their own; None means all, at
        118 self-connections in each layer. Other elements have energy NaN.
    mirror_symmetric : false: features of each degree once and without parity, coupled by all
        paths of SO(3); mirror images then differ in energy. Needs parity = false
    self_connection : "species", or "linear" for a map that all species share
    embedding_size : channels of the species embedding; None means those of scalars
    readout_mlp : widths of hidden layers with silu in place of W_3 W_4; None means those
    xplor_onset : Å; the XPLOR envelope in place of the polynomial. Second derivatives jump
    pair_cutoffs : Å, cutoffs of each pair of elements (row receiver, column sender, in the
        order of elements) up to cut_off
    modalities : 0, or of how many kinds of labels the network was trained on this is one: its
        scalars then have biases
    embedding_factor : of the embedding
    activation_factors : of silu in multilayer networks, and of silu and tanh in gates, in
        place of those of unit variance
    frequencies_per_angstrom : the w_n/r_c are what is trained, in 1/Å
    solid_harmonics : harmonics of r in place of its direction: Y_l times d^l
    """

    l_max: int = 3
    parity: bool = True
    num_layers: int = 5
    num_features: Union[int, Sequence[int]] = 64
    cut_off: float = 4.0
    num_bessels: int = 8
    bessel_trainable: bool = True
    polynomial_cutoff_p: int = 6
    radial_mlp_depth: int = 3
    radial_mlp_width: int = 64
    avg_num_neighbors: Union[float, Sequence[float]] = 8.0
    first_self_connection: bool = False
    per_species_scale: bool = True
    per_species_shift: bool = False
    elements: Optional[Sequence[Union[str, int]]] = None
    mirror_symmetric: bool = True
    self_connection: str = "species"
    embedding_size: Optional[int] = None
    readout_mlp: Optional[Sequence[int]] = None
    xplor_onset: Optional[float] = None
    pair_cutoffs: Optional[Sequence[Sequence[float]]] = None
    modalities: int = 0
    embedding_factor: float = 1.0
    activation_factors: Optional[Sequence[float]] = None
    frequencies_per_angstrom: bool = False
    solid_harmonics: bool = False

    def __post_init__(self) -> None:
        require_at_least(0, l_max=self.l_max)
        if self.l_max > _L_MAX:
            raise ConfigError(f"l_max must be at most {_L_MAX}, found {self.l_max}.")
        require_bools(self)
        require_at_least(
            1,
            num_layers=self.num_layers,
            num_bessels=self.num_bessels,
            radial_mlp_depth=self.radial_mlp_depth,
            radial_mlp_width=self.radial_mlp_width,
            polynomial_cutoff_p=self.polynomial_cutoff_p,
        )
        require_positive(cut_off=self.cut_off)
        object.__setattr__(self, "elements", elements_of(self.elements))
        for name, value in check_variants(self).items():
            object.__setattr__(self, name, value)


class NequIP(nn.Module):
    """Predict energies by equivariant convolutions up to degree l_max.

    >>> NequIP(2, True, num_layers=3, num_features=16, elements=["C", "H"]).n_hops
    3

    Parameters
    ----------
    l_max, parity : see :class:`Config`
    options : every other option of :class:`Config`

    Raises
    ------
    ConfigError : an option is unknown or out of range.
    """

    readout_modules = ("readout",)
    species_of: Tensor

    def __init__(self, l_max: int, parity: bool, **options: Any) -> None:
        super().__init__()
        self.config = config = _config(l_max, parity, options)
        self.cutoff = float(config.cut_off)
        self.n_hops = config.num_layers
        numbers = _numbers(config.elements)
        species_of = torch.full((N_ELEMENTS,), -1, dtype=torch.int64)
        species_of[numbers] = torch.arange(len(numbers))
        self.register_buffer("species_of", species_of, persistent=False)

        # What the network gives up of the contract: eqcalc.concessions.
        self.mirror_symmetric = config.mirror_symmetric
        self.vanishing_derivatives = 2 if config.xplor_onset is None else 1

        layouts = feature_layouts(config)
        self.embedding_factor = float(config.embedding_factor)
        self.embedding = nn.Embedding(len(numbers), next(iter(layouts[0].values())))
        self.radial_basis = BesselBasis(
            config.num_bessels,
            self.cutoff,
            config.polynomial_cutoff_p,
            trainable=config.bessel_trainable,
            xplor_onset=config.xplor_onset,
            per_angstrom=config.frequencies_per_angstrom,
        )
        self.edge_couplings = EdgeCouplings(l_max, parity or not config.mirror_symmetric)
        self.interactions = nn.ModuleList(
            Interaction(
                config, layouts[t], layouts[t + 1], self.edge_couplings, len(numbers), t == 0
            )
            for t in range(config.num_layers)
        )
        self.readout = readout(config)
        factors = pair_factors(config)
        self.pair_factors = None if factors is None else Constants(factors)
        ones, zeros = torch.ones(len(numbers)), torch.zeros(len(numbers))
        self.species_scale = nn.Parameter(ones) if config.per_species_scale else None
        self.species_shift = nn.Parameter(zeros) if config.per_species_shift else None

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,) in the potential's scaled units."""
        species = self.known_species(graph.atomic_numbers)
        edge_vectors = self.vectors(graph, species)
        distances = torch.linalg.vector_norm(edge_vectors, dim=1)  # (n_edges,)
        radial = self.radial(distances)  # (n_edges, num_bessels)
        couplings = self.edge_couplings(edge_vectors)
        features = self.first_features(species)
        for interaction in self.interactions:
            weights = interaction.weights(radial, distances)  # type: ignore[operator]
            features = interaction(features, weights, couplings, graph.edge_index, species)
        return self.species_energies(features[0], species, graph.atomic_numbers)

    def vectors(self, graph: AtomicGraph, species: Tensor) -> Tensor:
        """Return edge vectors (n_edges, 3) by which every pair's cutoff is the network's."""
        if self.pair_factors is None:
            return graph.edge_vectors
        factors = self.pair_factors.constants(graph.edge_vectors.dtype)
        return scale_edges(graph.edge_vectors, graph.edge_index, species, factors)

    def first_features(self, species: Tensor) -> list[Tensor]:
        """Return h⁰, scalars (n_atoms, 1, n_channels)."""
        return [self.embedding_factor * self.embedding(species).unsqueeze(1)]

    def radial(self, distances: Tensor) -> Tensor:
        """Return (2/r_c) sin(w_n d/r_c)/d · f_cut(d): (n_edges, num_bessels)."""
        return (2.0 / self.cutoff**2) * self.radial_basis(distances)

    def known_species(self, atomic_numbers: Tensor) -> Tensor:
        """Return the row of each atom's parameters; the first for elements without."""
        return self.species_of.index_select(0, atomic_numbers).clamp(min=0)

    def species_energies(self, scalars: Tensor, species: Tensor, atomic_numbers: Tensor) -> Tensor:
        """Return energies (n_atoms,) of scalars (n_atoms, 1, n_channels); NaN without species."""
        energies = self.readout(scalars).squeeze(2).squeeze(1)  # (n_atoms,)
        if self.species_scale is not None:
            energies = energies * self.species_scale.index_select(0, species)
        if self.species_shift is not None:
            energies = energies + self.species_shift.index_select(0, species)
        unknown = self.species_of.index_select(0, atomic_numbers) < 0
        return energies.masked_fill(unknown, math.nan)


class Interaction(nn.Module):
    """One layer: convolution, self-connection and gate."""

    degrees: Tensor

    def __init__(
        self,
        config: Config,
        layout_in: Layout,
        layout_out: Layout,
        edge_couplings: EdgeCouplings,
        n_species: int,
        is_first: bool,
    ) -> None:
        super().__init__()
        n_constants, l_max = config.modalities, config.l_max
        of_mlp, of_silu, of_tanh = config.activation_factors or (None, None, None)
        irreps_out = list(layout_out)
        layout_gated = layout_before_gate(layout_out)
        layout_paths = path_layout(layout_in, irreps_out, l_max)
        self.mix_before = EquivariantLinear(layout_in, layout_in, n_constants)
        self.product = TensorProduct(layout_in, irreps_out, edge_couplings)
        widths = [config.num_bessels] + [config.radial_mlp_width] * config.radial_mlp_depth
        self.radial_network = ScalarNetwork([*widths, self.product.n_weights], of_mlp)
        self.mix_after = EquivariantLinear(layout_paths, layout_gated, n_constants)
        self.self_connection: Optional[nn.Module] = None
        if config.first_self_connection or not is_first:
            self.self_connection = (
                SpeciesLinear(layout_in, layout_gated, n_species)
                if config.self_connection == "species"
                else AddedLinear(layout_in, layout_gated)
            )
        self.gate = Gate(layout_out, of_silu, of_tanh)
        self.message_factor, of_sender = sender_factors(config)
        self.sender_factors = None if of_sender is None else Constants(of_sender)
        degrees = [l for l, n in path_filters(layout_in, irreps_out, l_max) for _ in range(n)]
        self.solid_harmonics = config.solid_harmonics
        self.register_buffer("degrees", torch.tensor(degrees), persistent=False)

    def forward(
        self,
        features: list[Tensor],
        weights: Tensor,
        couplings: list[Tensor],
        edge_index: Tensor,
        species: Tensor,
    ) -> list[Tensor]:
        mixed = self.senders(features, species)
        return self.update(self.product(mixed, couplings, weights, edge_index), features, species)

    def weights(self, radial: Tensor, distances: Tensor) -> Tensor:
        """Return R/√n̄ (n_edges, n_weights) of radial functions and distances (n_edges,)."""
        # The factor 1/√n̄ acts on the weights: they are the smallest factor of a message.
        weights = self.message_factor * self.radial_network(radial)
        if self.solid_harmonics:
            weights = weights * distances.unsqueeze(1).pow(self.degrees)
        return weights

    def senders(self, features: list[Tensor], species: Tensor) -> list[Tensor]:
        """Return W_1 h, of which messages are made."""
        mixed = self.mix_before(features)
        if self.sender_factors is not None:
            factors = self.sender_factors.constants(features[0].dtype).index_select(0, species)
            for k in range(len(mixed)):
                mixed[k] = mixed[k] * factors.view(-1, 1, 1)
        return mixed

    def update(
        self, messages: list[Tensor], features: list[Tensor], species: Tensor
    ) -> list[Tensor]:
        """Return the new features from the sums of messages and the old features."""
        mixed = self.mix_after(messages)
        if self.self_connection is not None:
            mixed = self.self_connection(mixed, features, species)
        return self.gate(mixed)


class ScalarNetwork(nn.Sequential):
    """Linear maps with silu between them; zero at zero: no bias."""

    def __init__(self, widths: list[int], silu_factor: Optional[float] = None) -> None:
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [UnitVarianceLinear(n_in, n_out), UnitVarianceSiLU(silu_factor)]
        super().__init__(*layers[:-1])


def readout(config: Config) -> nn.Sequential:
    """Return the map of the last scalars (..., n_channels) to energies (..., 1)."""
    n = channels_of(config)[0]
    if config.readout_mlp is not None:
        of_mlp = config.activation_factors[0] if config.activation_factors else None
        return ScalarNetwork([n, *config.readout_mlp, 1], of_mlp)
    n_hidden = max(n // 2, 1)
    return nn.Sequential(
        UnitVarianceLinear(n, n_hidden, config.modalities), UnitVarianceLinear(n_hidden, 1)
    )


def feature_layouts(config: Config) -> list[Layout]:
    """Return the channels of each irrep before each layer and after the last.

    Irreps that can arise from scalars so far and can still reach the energy.
    """
    channels = channels_of(config)
    all_irreps = irreps_up_to(config.l_max, config.parity, mirror_symmetric=config.mirror_symmetric)
    scalar = all_irreps[0]

    def couple(source: Irrep, target: Irrep) -> bool:
        return len(source.filters_to(target, config.l_max)) > 0

    arising = [[scalar]]
    for _ in range(config.num_layers):
        arising.append([t for t in all_irreps if any(couple(s, t) for s in arising[-1])])
    needed = [[scalar]]
    for possible in arising[-2::-1]:
        needed.insert(0, [s for s in possible if any(couple(s, t) for t in needed[0])])
    layouts: list[Layout] = [{irrep: channels[irrep.l] for irrep in irreps} for irreps in needed]
    layouts[0][scalar] = config.embedding_size or channels[0]
    return layouts


def _config(l_max: int, parity: bool, options: dict[str, Any]) -> Config:
    known = [field.name for field in fields(Config)]
    for name in options:
        if name not in known:
            raise ConfigError(
                f"NequIP has no option '{name}'; known: {', '.join(known)}."
                + did_you_mean(name, known)
            )
    return Config(l_max, parity, **options)


def _numbers(elements: Optional[Sequence[Union[str, int]]]) -> list[int]:
    if elements is None:
        return list(range(1, N_ELEMENTS))
    return [atomic_number(symbol) for symbol in elements]
