"""Pair potentials that TorchScript runs: one sound, and some that differ from it by one mistake."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from eqcalc.export import export_model
from eqcalc.graph import AtomicGraph
from eqcalc.potential import Potential

__all__ = [
    "Cosine",
    "DeclaredCosine",
    "DeclaredHanded",
    "DeclaredJump",
    "DeclaredKink",
    "FirstAtomCounts",
    "Handed",
    "Hole",
    "Jump",
    "Kink",
    "Morse",
    "NotANumber",
    "NotExtensive",
    "NotRotated",
    "OwnEnergy",
    "WrongForces",
    "exported",
]


class Morse(nn.Module):
    """E_i = ½ Σ_j D ((1 - exp(-a (d - d0)))² - 1) (1 - d²/c²)³ with a width for each element."""

    def __init__(self) -> None:
        super().__init__()
        self.cutoff, self.n_hops = 4.0, 1
        self.widths = nn.Parameter(torch.linspace(0.3, 0.9, 119, dtype=torch.float64))

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,)."""
        vectors = graph.edge_vectors
        d = torch.linalg.vector_norm(vectors, dim=1)
        weights = self.envelope(d)
        pairs = 0.5 * self.pair(d, vectors, self.bonds(graph)) * weights
        sent = torch.where(d < self.cutoff, weights, torch.zeros_like(d)).unsqueeze(1)
        receivers = graph.edge_index[1]
        n_atoms = graph.atomic_numbers.shape[0]
        sums = torch.zeros(n_atoms, 3, dtype=d.dtype).index_add(
            0, receivers, sent * vectors / d.unsqueeze(1)
        )
        energies = torch.zeros(n_atoms, dtype=d.dtype).index_add(0, receivers, pairs)
        return energies + self.extra(energies, sums, vectors, graph.edge_index)

    def bonds(self, graph: AtomicGraph) -> Tensor:
        """Return where each pair's well is (n_edges,), Å."""
        widths = self.widths.to(graph.edge_vectors.dtype)[graph.atomic_numbers]
        return 0.6 + widths[graph.edge_index[0]] + widths[graph.edge_index[1]]

    # Each of the following is what some wrong potential does otherwise.

    def pair(self, d: Tensor, vectors: Tensor, bond: Tensor) -> Tensor:
        """Return energies of pairs (n_edges,) before the envelope."""
        return 4.0 * ((1.0 - torch.exp(-2.0 * (d - bond))).square() - 1.0)

    def envelope(self, d: Tensor) -> Tensor:
        """Return what ends at the cutoff (n_edges,)."""
        x = d / self.cutoff
        return torch.where(x < 1.0, (1.0 - x * x) ** 3, torch.zeros_like(x))

    def extra(self, energies: Tensor, sums: Tensor, vectors: Tensor, edges: Tensor) -> Tensor:
        """Return what is added to atomic energies (n_atoms,)."""
        return torch.zeros_like(energies)


class WrongForces(Morse):
    """A tenth of the gradient does not pass."""

    def pair(self, d: Tensor, vectors: Tensor, bond: Tensor) -> Tensor:
        """Return energies of pairs (n_edges,) before the envelope."""
        d = 0.9 * d + 0.1 * d.detach()
        return 4.0 * ((1.0 - torch.exp(-2.0 * (d - bond))).square() - 1.0)


class NotRotated(Morse):
    """Pairs along x are bound more strongly; mirror images agree."""

    def pair(self, d: Tensor, vectors: Tensor, bond: Tensor) -> Tensor:
        """Return energies of pairs (n_edges,) before the envelope."""
        along = 1.0 + 1e-4 * (vectors[:, 0] / d).square()
        return 4.0 * ((1.0 - torch.exp(-2.0 * (d - bond))).square() - 1.0) * along


class Hole(Morse):
    """Falls inside 0.7 bond lengths."""

    def pair(self, d: Tensor, vectors: Tensor, bond: Tensor) -> Tensor:
        """Return energies of pairs (n_edges,) before the envelope."""
        hole = 60.0 * torch.exp(-(((d - 0.6 * bond) / 0.15).square()))
        return 4.0 * ((1.0 - torch.exp(-2.0 * (d - bond))).square() - 1.0) - hole


class Jump(Morse):
    """Ends at the cutoff without an envelope."""

    def envelope(self, d: Tensor) -> Tensor:
        """Return what ends at the cutoff (n_edges,)."""
        return torch.where(d < self.cutoff, torch.ones_like(d), torch.zeros_like(d))


class Cosine(Morse):
    """Ends at the cutoff with a jump of the second derivative."""

    def envelope(self, d: Tensor) -> Tensor:
        """Return what ends at the cutoff (n_edges,)."""
        u = 0.5 * (1.0 + torch.cos(torch.pi * d / self.cutoff))
        return torch.where(d < self.cutoff, u, torch.zeros_like(u))


class DeclaredCosine(Cosine):
    """Says so."""

    vanishing_derivatives = 1


class DeclaredJump(Jump):
    """Says less than what it does."""

    vanishing_derivatives = 1


class Kink(Morse):
    """Feels the length of the sum of directions, rounded off over 1e-4."""

    def extra(self, energies: Tensor, sums: Tensor, vectors: Tensor, edges: Tensor) -> Tensor:
        """Return what is added to atomic energies (n_atoms,)."""
        return torch.sqrt(sums.square().sum(dim=1) + 1e-8) - 1e-4


class DeclaredKink(Kink):
    """Says so."""

    smooth_at_symmetric_sites = False


class Handed(Morse):
    """Feels a triple product of the first three edges of an atom's surroundings."""

    def extra(self, energies: Tensor, sums: Tensor, vectors: Tensor, edges: Tensor) -> Tensor:
        """Return what is added to atomic energies (n_atoms,)."""
        d = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        weights = self.envelope(d.squeeze(1)).unsqueeze(1) / d
        a = torch.zeros_like(sums).index_add(0, edges[1], weights * vectors)
        b = torch.zeros_like(sums).index_add(0, edges[1], weights * d * vectors)
        c = torch.zeros_like(sums).index_add(0, edges[1], weights * d * d * vectors)
        return 0.01 * (torch.linalg.cross(a, b, dim=1) * c).sum(dim=1)


class DeclaredHanded(Handed):
    """Says so."""

    mirror_symmetric = False


class OwnEnergy(Morse):
    """Gives an atom alone half an eV."""

    def extra(self, energies: Tensor, sums: Tensor, vectors: Tensor, edges: Tensor) -> Tensor:
        """Return what is added to atomic energies (n_atoms,)."""
        return torch.full_like(energies, 0.5)


class FirstAtomCounts(Morse):
    """Lets the number of an atom matter."""

    def extra(self, energies: Tensor, sums: Tensor, vectors: Tensor, edges: Tensor) -> Tensor:
        """Return what is added to atomic energies (n_atoms,)."""
        return 1e-4 * energies * torch.arange(energies.shape[0], dtype=energies.dtype)


class NotExtensive(Morse):
    """Divides by the number of atoms."""

    def extra(self, energies: Tensor, sums: Tensor, vectors: Tensor, edges: Tensor) -> Tensor:
        """Return what is added to atomic energies (n_atoms,)."""
        return energies / energies.shape[0] - energies


class NotANumber(Morse):
    """Has no energy where two atoms are closer than half an Å."""

    def pair(self, d: Tensor, vectors: Tensor, bond: Tensor) -> Tensor:
        """Return energies of pairs (n_edges,) before the envelope."""
        return 4.0 * ((1.0 - torch.exp(-2.0 * (d - bond))).square() - 1.0) + 0.0 * torch.log(
            d - 0.5
        )


REFERENCES = {"H": -13.6, "C": -1029.5, "O": -2041.9}


def exported(network: type[nn.Module], folder: Path, **texts: object) -> Path:
    """Export a potential of H, C and O in float64; return its file."""
    path = folder / f"{network.__name__}.pt"
    potential = Potential(network().double(), REFERENCES)
    export_model(potential, path, elements=REFERENCES, **texts)  # type: ignore[arg-type]
    return path
