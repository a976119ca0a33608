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
its reference energy, as long as ``first_self_connection`` and ``per_species_shift`` are off.

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

from eqcalc.elements import N_ELEMENTS, atomic_number, symbols_of
from eqcalc.errors import ConfigError, did_you_mean
from eqcalc.graph import AtomicGraph
from eqcalc.nn.arguments import require_at_least, require_positive
from eqcalc.nn.bessel import BesselBasis
from eqcalc.nn.so3 import (
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
    path_layout,
)

__all__ = ["Config", "NequIP"]

_L_MAX = 6
_SCALAR = Irrep(0, 1)


@dataclass(frozen=True)
class Config:
    """Options of :class:`NequIP`; the defaults are the paper's for MD17.

    l_max : largest degree of features and harmonics, 0 ... 6
    parity : features of both parities, or of the natural one (-1)^l alone
    num_layers, num_features : interactions, and channels of every irrep
    cut_off : Å
    num_bessels : radial functions; bessel_trainable : their frequencies w_n
    polynomial_cutoff_p : exponent of the envelope
    radial_mlp_depth, radial_mlp_width : hidden layers of the radial network
    avg_num_neighbors : mean number of neighbours in the training data, the n̄ by whose
        root sums are divided
    first_self_connection : a self-connection in the first layer too; it gives an isolated
        atom an energy besides its reference energy
    per_species_scale, per_species_shift : trainable factor and offset (in the potential's
        scaled units) of each species' energy
    elements : symbols or atomic numbers with parameters of their own; None means all, at
        118 self-connections in each layer. Other elements have energy NaN.
    """

    l_max: int = 3
    parity: bool = True
    num_layers: int = 5
    num_features: int = 64
    cut_off: float = 4.0
    num_bessels: int = 8
    bessel_trainable: bool = True
    polynomial_cutoff_p: int = 6
    radial_mlp_depth: int = 3
    radial_mlp_width: int = 64
    avg_num_neighbors: float = 8.0
    first_self_connection: bool = False
    per_species_scale: bool = True
    per_species_shift: bool = False
    elements: Optional[Sequence[Union[str, int]]] = None

    def __post_init__(self) -> None:
        require_at_least(0, l_max=self.l_max)
        if self.l_max > _L_MAX:
            raise ConfigError(f"l_max must be at most {_L_MAX}, found {self.l_max}.")
        for name in (
            "parity",
            "bessel_trainable",
            "first_self_connection",
            "per_species_scale",
            "per_species_shift",
        ):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, found {getattr(self, name)!r}.")
        require_at_least(
            1,
            num_layers=self.num_layers,
            num_features=self.num_features,
            num_bessels=self.num_bessels,
            radial_mlp_depth=self.radial_mlp_depth,
            radial_mlp_width=self.radial_mlp_width,
            polynomial_cutoff_p=self.polynomial_cutoff_p,
        )
        require_positive(cut_off=self.cut_off, avg_num_neighbors=self.avg_num_neighbors)
        if self.elements is not None:
            object.__setattr__(self, "elements", _symbols(self.elements))


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

        self.embedding = nn.Embedding(len(numbers), config.num_features)
        self.radial_basis = BesselBasis(
            config.num_bessels,
            self.cutoff,
            config.polynomial_cutoff_p,
            trainable=config.bessel_trainable,
        )
        self.edge_couplings = EdgeCouplings(l_max, parity)
        irreps = feature_irreps(config)
        self.interactions = nn.ModuleList(
            Interaction(config, irreps[t], irreps[t + 1], self.edge_couplings, len(numbers), t == 0)
            for t in range(config.num_layers)
        )
        n_hidden = max(config.num_features // 2, 1)
        self.readout = nn.Sequential(
            UnitVarianceLinear(config.num_features, n_hidden), UnitVarianceLinear(n_hidden, 1)
        )
        ones, zeros = torch.ones(len(numbers)), torch.zeros(len(numbers))
        self.species_scale = nn.Parameter(ones) if config.per_species_scale else None
        self.species_shift = nn.Parameter(zeros) if config.per_species_shift else None

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,) in the potential's scaled units."""
        species = self.known_species(graph.atomic_numbers)
        distances = torch.linalg.vector_norm(graph.edge_vectors, dim=1)  # (n_edges,)
        radial = self.radial(distances)  # (n_edges, num_bessels)
        couplings = self.edge_couplings(graph.edge_vectors)
        features = [self.embedding(species).unsqueeze(1)]  # (n_atoms, 1, n_channels)
        for interaction in self.interactions:
            features = interaction(features, radial, couplings, graph.edge_index, species)
        return self.species_energies(features[0], species, graph.atomic_numbers)

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

    def __init__(
        self,
        config: Config,
        irreps_in: list[Irrep],
        irreps_out: list[Irrep],
        edge_couplings: EdgeCouplings,
        n_species: int,
        is_first: bool,
    ) -> None:
        super().__init__()
        n = config.num_features
        layout_in: Layout = dict.fromkeys(irreps_in, n)
        layout_out: Layout = dict.fromkeys(irreps_out, n)
        layout_gated = layout_before_gate(layout_out)
        layout_paths = path_layout(layout_in, irreps_out, config.l_max)
        self.mix_before = EquivariantLinear(layout_in, layout_in)
        self.product = TensorProduct(layout_in, irreps_out, edge_couplings)
        widths = [config.num_bessels] + [config.radial_mlp_width] * config.radial_mlp_depth
        self.radial_network = RadialNetwork([*widths, self.product.n_weights])
        self.mix_after = EquivariantLinear(layout_paths, layout_gated)
        has_self_connection = config.first_self_connection or not is_first
        self.self_connection = (
            SpeciesLinear(layout_in, layout_gated, n_species) if has_self_connection else None
        )
        self.gate = Gate(layout_out)
        self.message_factor = 1.0 / math.sqrt(config.avg_num_neighbors)

    def forward(
        self,
        features: list[Tensor],
        radial: Tensor,
        couplings: list[Tensor],
        edge_index: Tensor,
        species: Tensor,
    ) -> list[Tensor]:
        # The factor 1/√n̄ acts on the weights: they are the smallest factor of a message.
        weights = self.message_factor * self.radial_network(radial)
        messages = self.product(self.mix_before(features), couplings, weights, edge_index)
        return self.update(messages, features, species)

    def update(
        self, messages: list[Tensor], features: list[Tensor], species: Tensor
    ) -> list[Tensor]:
        """Return the new features from the sums of messages and the old features."""
        mixed = self.mix_after(messages)
        if self.self_connection is not None:
            mixed = self.self_connection(mixed, features, species)
        return self.gate(mixed)


class RadialNetwork(nn.Sequential):
    """The weights of all paths from the radial functions; zero at zero: no bias."""

    def __init__(self, widths: list[int]) -> None:
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [UnitVarianceLinear(n_in, n_out), UnitVarianceSiLU()]
        super().__init__(*layers[:-1])


def feature_irreps(config: Config) -> list[list[Irrep]]:
    """Return the irreps before each layer and after the last.

    Those that can arise from scalars so far and can still reach the energy.
    """
    all_irreps = irreps_up_to(config.l_max, config.parity)

    def couple(source: Irrep, target: Irrep) -> bool:
        return len(source.filters_to(target, config.l_max)) > 0

    arising = [[_SCALAR]]
    for _ in range(config.num_layers):
        arising.append([t for t in all_irreps if any(couple(s, t) for s in arising[-1])])
    needed = [[_SCALAR]]
    for possible in arising[-2::-1]:
        needed.insert(0, [s for s in possible if any(couple(s, t) for t in needed[0])])
    return needed


def _config(l_max: int, parity: bool, options: dict[str, Any]) -> Config:
    known = [field.name for field in fields(Config)]
    for name in options:
        if name not in known:
            raise ConfigError(
                f"NequIP has no option '{name}'; known: {', '.join(known)}."
                + did_you_mean(name, known)
            )
    return Config(l_max, parity, **options)


def _symbols(elements: Sequence[Union[str, int]]) -> tuple[str, ...]:
    """Return symbols in the order of their atomic numbers, each once."""
    if isinstance(elements, str) or len(elements) == 0:
        raise ConfigError(f"elements must be a list such as ['H', 'C'], found {elements!r}.")
    return tuple(symbols_of([atomic_number(element) for element in elements]))


def _numbers(elements: Optional[Sequence[Union[str, int]]]) -> list[int]:
    if elements is None:
        return list(range(1, N_ELEMENTS))
    return [atomic_number(symbol) for symbol in elements]
