"""The repulsion of nuclei at short distances, which no training data holds.

Source: Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Matter (1985); with the
numbers of LAMMPS's pair_style zbl.

    E_i  = ½ Σ_j k Z_i Z_j / d_ij · φ(d_ij / a_ij) · u(d_ij / c_ij)
    a_ij = 0.46850 / (Z_i^0.23 + Z_j^0.23) Å
    φ(x) = 0.18175 e^(-3.19980 x) + 0.50986 e^(-0.94229 x) + 0.28022 e^(-0.40290 x)
           + 0.02817 e^(-0.20162 x)

u is the polynomial envelope: energy, force and its derivative vanish at the cutoff c_ij.

Shapes: n_atoms, n_edges.
"""

import math
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

from eqcalc.arguments import require_at_least, require_positive
from eqcalc.elements import N_ELEMENTS, atomic_number, symbols_of
from eqcalc.errors import ConfigError
from eqcalc.graph import AtomicGraph
from eqcalc.nn.constants import Constants
from eqcalc.nn.envelope import polynomial_envelope
from eqcalc.nn.scatter import at_senders

__all__ = ["COULOMB", "ZBL"]

COULOMB = 14.399645
"""e²/(4π ε₀) in eV Å, with the digits that LAMMPS's units metal has."""

_LENGTH, _POWER = 0.46850, 0.23
_TERMS = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))


class ZBL(nn.Module):
    """Screened repulsion of nuclei, added to a network's energies.

    >>> zbl = ZBL(2.0)
    >>> pair = torch.tensor([[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]], dtype=torch.float64)
    >>> index, species = torch.tensor([[1, 0], [0, 1]]), torch.tensor([14, 14])
    >>> graph = AtomicGraph(species, index, pair, 0 * species, 1, 2, torch.zeros(1, 3, 3))
    >>> zbl(graph)
    tensor([234.2522, 234.2522], dtype=torch.float64)

    Parameters
    ----------
    cutoff : Å, the largest
    p : power of the envelope
    elements, pair_cutoffs : symbols or atomic numbers, and the cutoff in Å of each pair of them
        (row receiver, column sender); other pairs have ``cutoff``
    coulomb : eV Å

    Raises
    ------
    ConfigError : a number is out of range.
    """

    def __init__(
        self,
        cutoff: float,
        p: int = 6,
        *,
        elements: Optional[Sequence[Union[str, int]]] = None,
        pair_cutoffs: Optional[Sequence[Sequence[float]]] = None,
        coulomb: float = COULOMB,
    ) -> None:
        super().__init__()
        require_positive(cutoff=cutoff, coulomb=coulomb)
        require_at_least(3, p=p)  # with less, the force jumps at the cutoff or grows towards it
        self.cutoff, self.p, self.coulomb = float(cutoff), p, float(coulomb)
        self.elements = None if elements is None else [atomic_number(e) for e in elements]
        self.rows = None if pair_cutoffs is None else [list(row) for row in pair_cutoffs]
        self.n_elements = N_ELEMENTS
        self.length, self.power, self.terms = _LENGTH, _POWER, list(_TERMS)
        table = self._table()
        self.cutoffs = None if table is None else Constants(table)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make such a block again, as JSON has them."""
        options: dict[str, Any] = {"cutoff": self.cutoff, "p": self.p, "coulomb": self.coulomb}
        if self.elements is not None:
            options |= {"elements": symbols_of(self.elements), "pair_cutoffs": self.rows}
        return options

    def forward(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,) in eV, each pair's shared by its two atoms."""
        receiver = graph.edge_index[1]
        numbers = graph.atomic_numbers.to(graph.edge_vectors.dtype)
        of_sender = at_senders(graph.atomic_numbers, graph.edge_index)
        z_i, z_j = numbers.index_select(0, receiver), of_sender.to(numbers.dtype)
        d = torch.linalg.vector_norm(graph.edge_vectors, dim=1)
        x = d * ((z_i.pow(self.power) + z_j.pow(self.power)) / self.length)
        screening = torch.zeros_like(d)
        for weight, decay in self.terms:
            screening = screening + weight * torch.exp(-decay * x)
        relative = d / self._cutoffs(graph, of_sender)
        pair = (0.5 * self.coulomb) * z_i * z_j / d * screening
        pair = pair * polynomial_envelope(relative, 1.0, self.p)
        return torch.zeros_like(numbers).index_add(0, receiver, pair)

    def _cutoffs(self, graph: AtomicGraph, of_sender: Tensor) -> Tensor:
        """Return the cutoff of each edge (n_edges,), or of all (1,).

        ``of_sender`` are the atomic numbers (n_edges,) of the senders.
        """
        like = graph.edge_vectors
        if self.cutoffs is None:
            return torch.full([1], self.cutoff, dtype=like.dtype, device=like.device)
        of_receiver = graph.atomic_numbers.index_select(0, graph.edge_index[1])
        pair = of_receiver * self.n_elements + of_sender
        return self.cutoffs.constants(like.dtype).index_select(0, pair)

    def _table(self) -> Optional[Tensor]:
        """Return the cutoff of every pair of atomic numbers (N_ELEMENTS²,), float64."""
        if (self.elements is None) != (self.rows is None):
            raise ConfigError("elements and pair_cutoffs of ZBL are given together, or neither.")
        if self.elements is None or self.rows is None:
            return None
        n = len(self.elements)
        if len(self.rows) != n or any(len(row) != n for row in self.rows):
            raise ConfigError(f"pair_cutoffs must be {n} rows of {n} numbers, as elements are.")
        table = torch.full((N_ELEMENTS, N_ELEMENTS), self.cutoff, dtype=torch.float64)
        for i, row in zip(self.elements, self.rows, strict=True):
            for j, value in zip(self.elements, row, strict=True):
                if not (math.isfinite(value) and 0.0 < value <= self.cutoff):
                    raise ConfigError(
                        f"pair_cutoffs must be above 0 and at most cutoff = {self.cutoff:g} Å, "
                        f"found {value:g} for {' and '.join(symbols_of([i, j]))}."
                    )
                table[i, j] = value
        return table.flatten()
