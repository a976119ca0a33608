"""One sound network, and wrong ones that differ from it in a single line.

:class:`Sound` obeys the contract. Each of :data:`BROKEN` makes one mistake that some public code
has made or that is easily made; the contract must reject it. To see whether a law bites:

    for twin in BROKEN:
        my_law(potential_subject(twin_potential(twin)))
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eqcalc.graph import AtomicGraph
from eqcalc.nn.envelope import polynomial_envelope
from eqcalc.nn.norm import channel_norm
from eqcalc.nn.scatter import sum_at_receivers
from eqcalc.potential import Potential

__all__ = ["BROKEN", "Sound", "TwinPotential", "twin_potential"]


class Sound(nn.Module):
    """Equivariant message passing with scalars and vectors, every step a method.

    s_i⁰ = embedding(Z_i), v_i⁰ = 0
    s_i += Σ_j a_ij;  v_i += Σ_j (b_ij r̂_ij + c_ij v_j);  (a, b, c) = MLP(s_j) ∘ W φ(d) f_cut(d)
    s_i += MLP[s_i, |v_i|]
    E_i  = MLP(s_i)

    Shapes: n_atoms, n_edges, F channels.
    """

    def __init__(self, n_channels: int = 8, n_blocks: int = 2, cutoff: float = 4.0) -> None:
        super().__init__()
        self.cutoff, self.n_hops, self.n_radial = cutoff, n_blocks, 6
        self.embedding = nn.Embedding(119, n_channels)
        self.filters = nn.Linear(self.n_radial, 3 * n_channels)
        self.messages = nn.ModuleList(_mlp(n_channels, 3 * n_channels) for _ in range(n_blocks))
        self.updates = nn.ModuleList(_mlp(2 * n_channels, n_channels) for _ in range(n_blocks))
        self.readout = _mlp(n_channels, 1)

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,)."""
        distances = self._lengths(graph)  # (n_edges,)
        directions = (graph.edge_vectors / distances.unsqueeze(1)).unsqueeze(2)
        filters = self._filter(distances)  # (n_edges, 3F)
        s = self._embed(graph)  # (n_atoms, F)
        v = s.new_zeros((s.shape[0], 3, s.shape[1]))  # (n_atoms, 3, F)
        for message, update in zip(self.messages, self.updates, strict=True):
            mixed = self._gather(message(s), graph) * filters
            a, b, c = mixed.split(s.shape[1], dim=1)  # (n_edges, F)
            sent = directions * b.unsqueeze(1) + self._gather(v, graph) * c.unsqueeze(1)
            s = s + self._receive(a, graph, len(s))
            v = v + self._receive(sent, graph, len(s))
            s = self._update(update, s, v)
        return self._read(s, v, graph)

    # Each of the following is what some twin does wrongly.

    def _embed(self, graph: AtomicGraph) -> Tensor:
        return self.embedding(graph.atomic_numbers)

    def _lengths(self, graph: AtomicGraph) -> Tensor:
        return torch.linalg.vector_norm(graph.edge_vectors, dim=1)

    def _filter(self, distances: Tensor) -> Tensor:
        return self.filters(self._basis(distances)) * self._envelope(distances)

    def _basis(self, distances: Tensor) -> Tensor:
        centres = torch.arange(self.n_radial, dtype=distances.dtype) * self.cutoff / self.n_radial
        return torch.exp(-2.0 * (distances.unsqueeze(1) - centres).square())

    def _envelope(self, distances: Tensor) -> Tensor:
        return polynomial_envelope(distances, self.cutoff).unsqueeze(1)

    def _gather(self, features: Tensor, graph: AtomicGraph) -> Tensor:
        return features[graph.edge_index[0]]

    def _receive(self, edge_features: Tensor, graph: AtomicGraph, n_atoms: int) -> Tensor:
        return sum_at_receivers(edge_features, graph.edge_index[1], n_atoms)

    def _norm(self, v: Tensor) -> Tensor:
        return channel_norm(v, epsilon=1e-2)  # smooth on the scale of these features

    def _update(self, block: nn.Module, s: Tensor, v: Tensor) -> Tensor:
        return s + block(torch.cat([s, self._norm(v)], dim=1))

    def _read(self, s: Tensor, v: Tensor, graph: AtomicGraph) -> Tensor:
        return self.readout(s).squeeze(1)


class TwinPotential(Potential):
    """A potential that may be wrong itself; it is sound as it stands."""


def twin_potential(twin: type[nn.Module]) -> TwinPotential:
    """Return a network of this module as a potential in float64, with the same weights for all.

    No reference energies: a twin that changes elements shall not be stopped by them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if issubclass(twin, TwinPotential):
            return twin(Sound()).double().eval()
        return TwinPotential(twin()).double().eval()


def _mlp(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, 16), nn.SiLU(), nn.Linear(16, n_out))


# --- symmetry


class FirstComponent(Sound):
    """Read the x component of the edges."""

    def _filter(self, distances: Tensor) -> Tensor:
        return super()._filter(distances) * (1.0 + 0.1 * self._first.tanh())

    def _lengths(self, graph: AtomicGraph) -> Tensor:
        self._first = graph.edge_vectors[:, :1]
        return super()._lengths(graph)


class SumOfComponents(Sound):
    """Feed gates with the sum of a vector's components instead of its norm."""

    def _norm(self, v: Tensor) -> Tensor:
        return v.sum(dim=1)


class GatePerAxis(Sound):
    """Squash each axis of a vector on its own before the norm."""

    def _norm(self, v: Tensor) -> Tensor:
        return channel_norm(torch.tanh(v))


class Handed(Sound):
    """Read the triple product of three vector channels, which changes sign in a mirror."""

    def _read(self, s: Tensor, v: Tensor, graph: AtomicGraph) -> Tensor:
        a, b, c = v[:, :, 0], v[:, :, 1], v[:, :, 2]
        return super()._read(s, v, graph) + (torch.linalg.cross(a, b, dim=1) * c).sum(dim=1)


class Numbered(Sound):
    """Let the number of an atom matter."""

    def _read(self, s: Tensor, v: Tensor, graph: AtomicGraph) -> Tensor:
        order = torch.arange(len(s), dtype=s.dtype)
        return super()._read(s, v, graph) * (1.0 + 1e-3 * order)


class FirstEdgeCounts(Sound):
    """Weigh the first edge of the list more than the others."""

    def _envelope(self, distances: Tensor) -> Tensor:
        weights = torch.ones_like(distances)
        weights[:1] = 1.1
        return super()._envelope(distances) * weights.unsqueeze(1)


class UsesCell(Sound):
    """Add a function of the cell, which is not in the edges."""

    def _read(self, s: Tensor, v: Tensor, graph: AtomicGraph) -> Tensor:
        volume = torch.linalg.det(graph.cell).abs()[graph.structure_index]
        return super()._read(s, v, graph) + 1e-4 * volume


class OneImageOnly(Sound):
    """Treat edges as a matrix of atoms: of several images of a pair only one survives."""

    def _receive(self, edge_features: Tensor, graph: AtomicGraph, n_atoms: int) -> Tensor:
        senders, receivers = graph.edge_index
        dense = edge_features.new_zeros((n_atoms, n_atoms, *edge_features.shape[1:]))
        dense[receivers, senders] = edge_features
        return dense.sum(dim=1)


class NoSelfImages(Sound):
    """Drop edges from an atom to its own periodic images as if they were self-loops."""

    def _receive(self, edge_features: Tensor, graph: AtomicGraph, n_atoms: int) -> Tensor:
        kept = graph.edge_index[0] != graph.edge_index[1]
        return sum_at_receivers(edge_features[kept], graph.edge_index[1][kept], n_atoms)


# --- cutoff and locality


class SharpCutoff(Sound):
    """Drop edges at the cutoff without an envelope."""

    def _envelope(self, distances: Tensor) -> Tensor:
        return (distances < self.cutoff).to(distances.dtype).unsqueeze(1)


class NoCutoff(Sound):
    """Rely on the neighbour list to end at the cutoff."""

    def _envelope(self, distances: Tensor) -> Tensor:
        return torch.ones_like(distances).unsqueeze(1)


class CosineCutoff(Sound):
    """End with a jump of the second derivative."""

    def _envelope(self, distances: Tensor) -> Tensor:
        u = 0.5 * (1.0 + torch.cos(torch.pi * distances / self.cutoff))
        return torch.where(distances < self.cutoff, u, torch.zeros_like(u)).unsqueeze(1)


class BiasOutsideEnvelope(Sound):
    """Damp the basis instead of the filter, so that the bias reaches everywhere."""

    def _filter(self, distances: Tensor) -> Tensor:
        return self.filters(self._basis(distances) * self._envelope(distances))


class MeanOverNeighbours(Sound):
    """Divide by the number of edges, which jumps when one enters."""

    def _receive(self, edge_features: Tensor, graph: AtomicGraph, n_atoms: int) -> Tensor:
        degree = torch.bincount(graph.edge_index[1], minlength=n_atoms).clamp(min=1)
        total = super()._receive(edge_features, graph, n_atoms)
        return total / degree.reshape([-1] + [1] * (total.dim() - 1))


class OwnFeatures(Sound):
    """Send the receiver's own features: the species of neighbours never couple."""

    def _gather(self, features: Tensor, graph: AtomicGraph) -> Tensor:
        return features[graph.edge_index[1]]


class OwnScalars(Sound):
    """Send the receiver's own scalars; the neighbours' vectors hide it after two blocks."""

    def _gather(self, features: Tensor, graph: AtomicGraph) -> Tensor:
        return features[graph.edge_index[1 if features.dim() == 2 else 0]]


class BlindToDistance(Sound):
    """Forget the distance: every edge counts the same."""

    def _filter(self, distances: Tensor) -> Tensor:
        return super()._filter(torch.full_like(distances, 0.4 * self.cutoff))


class SumAtSender(Sound):
    """Swap sender and receiver."""

    def _gather(self, features: Tensor, graph: AtomicGraph) -> Tensor:
        return features[graph.edge_index[1]]

    def _receive(self, edge_features: Tensor, graph: AtomicGraph, n_atoms: int) -> Tensor:
        return sum_at_receivers(edge_features, graph.edge_index[0], n_atoms)


class TooFewHops(Sound):
    """Understate the interaction range, so that hosts give too few ghosts."""

    def __init__(self) -> None:
        super().__init__()
        self.n_hops = 1


class GlobalMean(Sound):
    """Subtract the mean over all atoms of the graph, other structures included."""

    def _read(self, s: Tensor, v: Tensor, graph: AtomicGraph) -> Tensor:
        return super()._read(s - 0.1 * s.mean(dim=0), v, graph)


class StructureMean(Sound):
    """Add the mean over the structure's atoms: molecules out of reach see each other."""

    def _read(self, s: Tensor, v: Tensor, graph: AtomicGraph) -> Tensor:
        total = sum_at_receivers(s, graph.structure_index, graph.n_structures)
        sizes = torch.bincount(graph.structure_index, minlength=graph.n_structures).clamp(min=1)
        mean = total / sizes.unsqueeze(1)
        return super()._read(s - 0.1 * mean[graph.structure_index], v, graph)


class NotExtensive(Sound):
    """Divide by the number of atoms."""

    def _read(self, s: Tensor, v: Tensor, graph: AtomicGraph) -> Tensor:
        sizes = torch.bincount(graph.structure_index)
        return super()._read(s, v, graph) / sizes[graph.structure_index]


# --- derivatives


class DetachedDistances(Sound):
    """Cut the distances out of the derivative."""

    def _lengths(self, graph: AtomicGraph) -> Tensor:
        return super()._lengths(graph).detach()


class SeparateForces(TwinPotential):
    """Return gradients that no energy has: a head of their own."""

    def forward(self, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        """Return energies (n_atoms,) and edge gradients (n_edges, 3) that differ from theirs."""
        energies, gradients = super().forward(graph)
        squared = graph.edge_vectors.square().sum(dim=1, keepdim=True)
        return energies, gradients * (1.0 + 0.1 * torch.exp(-squared))


class ForgetsOwnEnergy(TwinPotential):
    """Promise exact isolated atoms, and take out what the network makes of the first element."""

    def __init__(self, architecture: nn.Module) -> None:
        super().__init__(architecture, exact_isolated_atoms=True)

    def own_energies(self, graph: AtomicGraph) -> Tensor:
        """Return (n_atoms,) energies of atoms alone, the same for every element."""
        first = graph.atomic_numbers[:1].expand_as(graph.atomic_numbers)
        return super().own_energies(graph._replace(atomic_numbers=first))


class DiscardedUpdate(Sound):
    """Compute the update and throw it away."""

    def _update(self, block: nn.Module, s: Tensor, v: Tensor) -> Tensor:
        super()._update(block, s, v)
        return s


class NormWithoutEpsilon(Sound):
    """Take the root of a sum that may be zero."""

    def _norm(self, v: Tensor) -> Tensor:
        return v.square().sum(dim=1).sqrt()


class PublishedNorm(Sound):
    """Round a length off over 1e-4, as published networks do: a kink at every symmetric site."""

    def _norm(self, v: Tensor) -> Tensor:
        return channel_norm(v)


class TorchNorm(Sound):
    """Take torch's norm: its first derivative at zero is 0, its second NaN."""

    def _norm(self, v: Tensor) -> Tensor:
        return torch.linalg.vector_norm(v, dim=1)


class AnglesByArccosine(Sound):
    """Take angles between edges by acos, whose derivative is infinite for collinear atoms."""

    def _read(self, s: Tensor, v: Tensor, graph: AtomicGraph) -> Tensor:
        receivers, cosines, weights, _ = self._triplets(graph)
        angles = torch.acos(cosines.clamp(-1.0, 1.0)) * weights
        return super()._read(s, v, graph) + sum_at_receivers(angles, receivers, len(s))

    def _triplets(self, graph: AtomicGraph) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return receiver, cosine and weight (n_triplets,) and the senders (2, n_triplets)."""
        senders, receivers = graph.edge_index
        units = nn.functional.normalize(graph.edge_vectors, dim=1)
        envelope = polynomial_envelope(self._lengths(graph), self.cutoff)
        first, second = torch.nonzero(receivers[:, None] == receivers[None, :], as_tuple=True)
        first, second = first[first < second], second[first < second]
        cosines = (units[first] * units[second]).sum(dim=1)
        weights = envelope[first] * envelope[second]
        return receivers[first], cosines, weights, torch.stack([senders[first], senders[second]])


class AnglesExcludedByIndex(AnglesByArccosine):
    """Leave out angles between two images of one neighbour as if they were one atom."""

    def _read(self, s: Tensor, v: Tensor, graph: AtomicGraph) -> Tensor:
        receivers, cosines, weights, senders = self._triplets(graph)
        counted = cosines.square() * weights * (senders[0] != senders[1])
        return Sound._read(self, s, v, graph) + sum_at_receivers(counted, receivers, len(s))


# --- conduct


class BareSqueeze(Sound):
    """Squeeze every dimension of size one, the atoms included."""

    def _read(self, s: Tensor, v: Tensor, graph: AtomicGraph) -> Tensor:
        return self.readout(s).squeeze()


class AssumesEdges(Sound):
    """Normalise by the largest distance, which needs at least one edge."""

    def _filter(self, distances: Tensor) -> Tensor:
        return super()._filter(distances) * (1.0 + 0.0 * distances.max())


class WritesToInput(Sound):
    """Count elements from zero in the caller's own tensor."""

    def _embed(self, graph: AtomicGraph) -> Tensor:
        return self.embedding(graph.atomic_numbers.sub_(1).clamp_(min=0))


class RunningMean(Sound):
    """Keep statistics of what was seen, as a normalisation layer in training does."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(())

    def _read(self, s: Tensor, v: Tensor, graph: AtomicGraph) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * s.mean().detach()
        return super()._read(s - self.mean, v, graph)


class RandomNoise(Sound):
    """Keep dropout or noise alive in evaluation."""

    def _embed(self, graph: AtomicGraph) -> Tensor:
        return nn.functional.dropout(super()._embed(graph), p=0.1, training=True)


class DefaultPrecision(Sound):
    """Make a constant in the global dtype instead of the input's."""

    def _basis(self, distances: Tensor) -> Tensor:
        centres = torch.linspace(0.0, self.cutoff, self.n_radial) + 1.0 / 3.0
        return torch.exp(-2.0 * (distances.unsqueeze(1) - centres).square()).to(distances.dtype)


class SinglePrecisionInside(Sound):
    """Cast to float32 in between."""

    def _basis(self, distances: Tensor) -> Tensor:
        return super()._basis(distances.float()).to(distances.dtype)


class AlwaysDouble(Sound):
    """Answer in float64 whatever came in, which a host in float32 does not expect."""

    def _read(self, s: Tensor, v: Tensor, graph: AtomicGraph) -> Tensor:
        return super()._read(s, v, graph).double()


class SetsDefaultDtype(Sound):
    """Set the global dtype to its own."""

    def _embed(self, graph: AtomicGraph) -> Tensor:
        torch.set_default_dtype(graph.edge_vectors.dtype)
        return super()._embed(graph)


BROKEN: tuple[type[nn.Module], ...] = (
    FirstComponent,
    SumOfComponents,
    GatePerAxis,
    Handed,
    Numbered,
    FirstEdgeCounts,
    UsesCell,
    OneImageOnly,
    NoSelfImages,
    SharpCutoff,
    NoCutoff,
    CosineCutoff,
    BiasOutsideEnvelope,
    MeanOverNeighbours,
    OwnFeatures,
    OwnScalars,
    BlindToDistance,
    SumAtSender,
    TooFewHops,
    GlobalMean,
    StructureMean,
    NotExtensive,
    DetachedDistances,
    SeparateForces,
    ForgetsOwnEnergy,
    DiscardedUpdate,
    NormWithoutEpsilon,
    PublishedNorm,
    TorchNorm,
    AnglesByArccosine,
    AnglesExcludedByIndex,
    BareSqueeze,
    AssumesEdges,
    WritesToInput,
    RunningMean,
    RandomNoise,
    DefaultPrecision,
    SinglePrecisionInside,
    AlwaysDouble,
    SetsDefaultDtype,
)
"""Every wrong network."""
