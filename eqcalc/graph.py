"""The atomic graph, and the statement of every convention in eqcalc.

Conventions
-----------
Units are eV, Å, amu and e everywhere inside.

``edge_index[0]`` is the sender j and ``edge_index[1]`` the receiver i. Both
directions of a pair are listed, edges are sorted by receiver, and an atom has an
edge to itself only through a true periodic image.

``edge_vectors = r_j + S·cell - r_i``, where the rows of ``cell`` are the lattice
vectors and S holds three integers. The difference is taken in float64 and then
cast, so that a float32 model stays exact in a large box.

Forces and virial come from ONE gradient, g = ∂E/∂(edge_vectors):

    F_k    = Σ_{edges received by k} g - Σ_{edges sent by k} g
    dE/dε  = sym Σ_edges r ⊗ g
    stress = (dE/dε) / V

in ASE's sign (tension positive) and Voigt order xx yy zz yz xz xy, in eV/Å³:
:mod:`eqcalc.derivatives`. Energies are summed in float64.

Several structures share a graph through ``structure_index``, which never
decreases. With ghost atoms (a domain-decomposing host) the first ``n_owned``
atoms contribute energy and all atoms carry messages.

Shapes: n_atoms, n_edges, n_structures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eqcalc.elements import N_ELEMENTS
from eqcalc.errors import GraphError, listing

__all__ = [
    "AtomicGraph",
    "batch_graphs",
    "graph_of_atoms_alone",
    "sum_over_structures",
    "validate_graph",
]


class AtomicGraph(NamedTuple):
    """One or several structures as atoms and edges; see the module's conventions.

    atomic_numbers : (n_atoms,) int64
    edge_index : (2, n_edges) int64; row 0 sender j, row 1 receiver i
    edge_vectors : (n_edges, 3), Å; r_j + S·cell - r_i
    structure_index : (n_atoms,) int64, non-decreasing
    n_structures : number of structures, empty ones included
    n_owned : the first n_owned atoms contribute energy
    cell : (n_structures, 3, 3), Å, float64; rows are lattice vectors, zero where open
    """

    atomic_numbers: Tensor
    edge_index: Tensor
    edge_vectors: Tensor
    structure_index: Tensor
    n_structures: int
    n_owned: int
    cell: Tensor


def graph_of_atoms_alone(atomic_numbers: Sequence[int]) -> AtomicGraph:
    """Return a graph of one open structure for each atomic number: an atom without neighbours.

    On the CPU.
    """
    n_atoms = len(atomic_numbers)
    with torch.device("cpu"):  # whatever device the process makes its own tensors on
        return AtomicGraph(
            atomic_numbers=torch.tensor(atomic_numbers),
            edge_index=torch.zeros((2, 0), dtype=torch.int64),
            edge_vectors=torch.zeros((0, 3), dtype=torch.float64),
            structure_index=torch.arange(n_atoms),
            n_structures=n_atoms,
            n_owned=n_atoms,
            cell=torch.zeros((n_atoms, 3, 3), dtype=torch.float64),
        )


def batch_graphs(graphs: Sequence[AtomicGraph]) -> AtomicGraph:
    """Join graphs into one whose structures do not see each other.

    Raises
    ------
    GraphError : no graph is given, or one of them has ghost atoms.
    """
    if len(graphs) == 0:
        raise GraphError("batch_graphs needs at least one graph, found none.")
    n_atoms = [graph.atomic_numbers.shape[0] for graph in graphs]
    with_ghosts = [k for k, graph in enumerate(graphs) if graph.n_owned != n_atoms[k]]
    if with_ghosts:
        raise GraphError(
            "graphs with ghost atoms cannot be batched (owned atoms must come first); "
            f"found ghosts in graphs {listing(with_ghosts)}."
        )
    edge_index, structure_index = [], []
    first_atom, first_structure = 0, 0
    for graph, n in zip(graphs, n_atoms, strict=True):
        edge_index.append(graph.edge_index + first_atom)
        structure_index.append(graph.structure_index + first_structure)
        first_atom += n
        first_structure += graph.n_structures
    return AtomicGraph(
        atomic_numbers=torch.cat([graph.atomic_numbers for graph in graphs]),
        edge_index=torch.cat(edge_index, dim=1),
        edge_vectors=torch.cat([graph.edge_vectors for graph in graphs]),
        structure_index=torch.cat(structure_index),
        n_structures=first_structure,
        n_owned=first_atom,
        cell=torch.cat([graph.cell for graph in graphs]),
    )


def sum_over_structures(values: Tensor, structure_index: Tensor, n_structures: int) -> Tensor:
    """Sum per-atom values (n_atoms, ...) over each structure, in float64."""
    values = values.to(torch.float64)
    total = values.new_zeros((n_structures, *values.shape[1:]))
    return total.index_add(0, structure_index, values)


def validate_graph(graph: AtomicGraph) -> None:
    """Check every convention that can be checked without the positions.

    Raises
    ------
    GraphError : a shape, dtype, index or order is not what the module states.
    """
    n_atoms = graph.atomic_numbers.shape[0]
    if n_atoms == 0:
        raise GraphError("the graph has zero atoms; at least one is needed.")
    if graph.edge_index.dim() != 2 or graph.edge_index.shape[0] != 2:
        raise GraphError(
            f"edge_index must have shape (2, n_edges), found {tuple(graph.edge_index.shape)}."
        )
    n_edges = graph.edge_index.shape[1]
    if tuple(graph.edge_vectors.shape) != (n_edges, 3):
        raise GraphError(
            f"edge_vectors must have shape ({n_edges}, 3) to match edge_index, "
            f"found {tuple(graph.edge_vectors.shape)}."
        )
    for name, tensor in (
        ("atomic_numbers", graph.atomic_numbers),
        ("edge_index", graph.edge_index),
        ("structure_index", graph.structure_index),
    ):
        if tensor.dtype != torch.int64:
            raise GraphError(f"{name} must be int64, found {tensor.dtype}.")
    low, high = int(graph.atomic_numbers.min()), int(graph.atomic_numbers.max())
    if low < 1 or high >= N_ELEMENTS:
        expected = f"1..{N_ELEMENTS - 1}"
        raise GraphError(
            f"atomic_numbers must lie in {expected}, found values from {low} to {high}."
        )
    if n_edges > 0:
        low, high = int(graph.edge_index.min()), int(graph.edge_index.max())
        if low < 0 or high >= n_atoms:
            raise GraphError(
                f"edge_index must lie in 0..{n_atoms - 1}, found values from {low} to {high}."
            )
        if bool((graph.edge_index[1].diff() < 0).any()):
            raise GraphError("edges must be sorted by receiver (edge_index[1]); they are not.")
        if not bool(torch.isfinite(graph.edge_vectors).all()):
            raise GraphError("edge_vectors hold NaN or infinite values.")
    if tuple(graph.structure_index.shape) != (n_atoms,):
        raise GraphError(
            f"structure_index must have shape ({n_atoms},), "
            f"found {tuple(graph.structure_index.shape)}."
        )
    if bool((graph.structure_index.diff() < 0).any()):
        raise GraphError("structure_index must be sorted (non-decreasing); it is not.")
    low, high = int(graph.structure_index[0]), int(graph.structure_index[-1])
    if low < 0 or high >= graph.n_structures:
        raise GraphError(
            f"structure_index must lie in 0..{graph.n_structures - 1}, found values from {low} to "
            f"{high}."
        )
    joined = graph.structure_index[graph.edge_index]  # (2, n_edges)
    crossing = torch.nonzero(joined[0] != joined[1]).flatten().tolist()
    if crossing:
        raise GraphError(f"edges must join atoms of one structure; not so {listing(crossing)}.")
    if tuple(graph.cell.shape) != (graph.n_structures, 3, 3):
        raise GraphError(
            f"cell must have shape ({graph.n_structures}, 3, 3), found {tuple(graph.cell.shape)}."
        )
    if not 0 <= graph.n_owned <= n_atoms:
        raise GraphError(f"n_owned must lie in 0..{n_atoms}, found {graph.n_owned}.")
