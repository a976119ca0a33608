"""Pairs of edges k→j→i, on which angle-dependent networks act.

Every edge that j receives is paired with every edge that j sends, except an edge with its
own reverse: k = i, and the same image. Which image is told from the vectors:
(r_k - r_j) + (r_j - r_i) is zero for the atom i itself and a lattice vector for its other
images. The test is ``|sum| < 1e-3 Å``: rounding of float32 vectors is below 1e-5 Å, and no
crystal has a period of 1e-3 Å.

The pairs are laid out as a table with one row per edge j→i and one column per edge that the
busiest atom receives (two at least); what is left over is marked. A sum over k is then a sum
along the row, without a scatter.

``angle_index`` (2, n_triplets) is the same as a list, for callers that bring their own
angles: row 0 is the edge k→j, row 1 the edge j→i, both as positions in ``edge_index``.

Shapes: n_atoms, n_edges, n_columns, n_triplets.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from eqcalc.errors import GraphError, listing
from eqcalc.nn.scatter import sum_at_receivers

__all__ = [
    "Triplets",
    "build_triplets",
    "cosines_at_middle",
    "gather_rows",
    "list_triplets",
    "tabulate_triplets",
    "validate_angle_index",
]


class Triplets(NamedTuple):
    """The edges k→j of every edge j→i.

    incoming : (n_edges, n_columns) int64; positions in ``edge_index``, valid everywhere
    is_triplet : (n_edges, n_columns) bool; False where the table is only filled up
    """

    incoming: Tensor
    is_triplet: Tensor


def build_triplets(
    edge_index: Tensor, edge_vectors: Tensor, n_atoms: int, same_place: float = 1e-3
) -> Triplets:
    """Return all triplets of a graph.

    Parameters
    ----------
    edge_index : (2, n_edges), sorted by receiver
    edge_vectors : (n_edges, 3), Å; r_j - r_i including the image shift
    same_place : Å; two images of an atom closer than this are one
    """
    senders, receivers = edge_index[0], edge_index[1]
    # Edges are sorted by receiver: those that an atom receives are one block.
    ones = torch.ones_like(receivers)
    degrees = sum_at_receivers(ones, receivers, n_atoms)  # (n_atoms,)
    starts = degrees.cumsum(0) - degrees
    n_columns = _count_columns(degrees)
    column = torch.arange(n_columns, dtype=senders.dtype, device=senders.device).unsqueeze(0)
    is_edge = column < degrees.index_select(0, senders).unsqueeze(1)  # (n_edges, n_columns)
    incoming = starts.index_select(0, senders).unsqueeze(1) + column
    incoming = torch.where(is_edge, incoming, torch.zeros_like(incoming))

    vectors = edge_vectors.detach()
    gaps = gather_rows(vectors, incoming) + vectors.unsqueeze(1)  # (n_edges, n_columns, 3)
    is_here = gaps.square().sum(dim=2) < same_place * same_place
    is_same_atom = gather_rows(senders, incoming) == receivers.unsqueeze(1)
    return Triplets(incoming, is_edge & torch.logical_not(is_same_atom & is_here))


def cosines_at_middle(edge_vectors: Tensor, distances: Tensor, incoming: Tensor) -> Tensor:
    """Return cos α (n_edges, n_columns) of the interior angle at j, between k and i.

    The quotient itself, with no angle in between: acos and atan2 have no second
    derivatives where k, j and i are collinear.

    Parameters
    ----------
    edge_vectors : (n_edges, 3), Å; distances : (n_edges,), Å
    incoming : (n_edges, n_columns); the edges k→j
    """
    directions = edge_vectors / distances.unsqueeze(1)  # (n_edges, 3), r_j - r_i
    return -(gather_rows(directions, incoming) * directions.unsqueeze(1)).sum(dim=2)


def gather_rows(values: Tensor, incoming: Tensor) -> Tensor:
    """Return each triplet's row of values: (n_edges, ...) -> (n_edges, n_columns, ...).

    index_select, because the derivative of ``values[incoming]`` is slower on a CPU.
    """
    rows = values.index_select(0, incoming.flatten())
    return rows.view(list(incoming.shape) + list(values.shape[1:]))


def list_triplets(triplets: Triplets) -> Tensor:
    """Return ``angle_index`` (2, n_triplets), sorted by the edge j→i."""
    outgoing, column = torch.nonzero(triplets.is_triplet).unbind(1)
    return torch.stack([triplets.incoming[outgoing, column], outgoing])


def tabulate_triplets(angle_index: Tensor, n_edges: int) -> tuple[Triplets, Tensor]:
    """Lay out a list of triplets in any order as a table.

    Returns
    -------
    triplets
    places : (n_triplets,); where each of them stands in the flattened table
    """
    incoming, outgoing = angle_index[0], angle_index[1]
    counts = torch.bincount(outgoing, minlength=n_edges)  # (n_edges,)
    n_columns = int(counts.max()) if n_edges > 0 else 0
    order = torch.argsort(outgoing, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    column = rank - (counts.cumsum(0) - counts)[outgoing]
    places = outgoing * n_columns + column
    table = torch.zeros(n_edges * n_columns, dtype=torch.int64, device=order.device)
    is_triplet = torch.zeros_like(table, dtype=torch.bool)
    table[places] = incoming
    is_triplet[places] = True
    shape = (n_edges, n_columns)
    return Triplets(table.view(shape), is_triplet.view(shape)), places


def validate_angle_index(edge_index: Tensor, angle_index: Tensor) -> None:
    """Check triplets that a caller supplies for an open structure.

    Raises
    ------
    GraphError : a shape or an edge id is out of range, the two edges of a triplet do not
        meet at j, or k and i are the same atom.
    """
    if angle_index.dim() != 2 or angle_index.shape[0] != 2:
        raise GraphError(
            f"angle_index must have shape (2, n_triplets), found {tuple(angle_index.shape)}."
        )
    n_edges = edge_index.shape[1]
    _refuse(
        ((angle_index < 0) | (angle_index >= n_edges)).any(dim=0),
        f"angle_index must hold edge ids in 0..{n_edges - 1}; out of range in columns",
    )
    incoming, outgoing = edge_index[:, angle_index[0]], edge_index[:, angle_index[1]]
    _refuse(
        incoming[1] != outgoing[0],
        "angle_index must pair an edge k→j (row 0) with an edge j→i (row 1); the receiver of "
        "the first is not the sender of the second in columns",
    )
    _refuse(
        incoming[0] == outgoing[1],
        "angle_index must not pair an edge with its reverse (k = i); found in columns",
    )


def _count_columns(degrees: Tensor) -> int:
    """Return the largest degree, at least two."""
    if degrees.numel() == 0:
        return 2
    largest = degrees.max().clamp(min=2)
    if torch.jit.is_scripting():
        return int(largest)
    # Not int(): a tracer takes item() as a symbol, and so compiles for any number. Sizes
    # of zero and one are special to compilers, which must be told that they cannot occur.
    n_columns = largest.item()
    torch.sym_constrain_range(n_columns, min=2)
    return n_columns  # type: ignore[return-value]


def _refuse(is_wrong: Tensor, message: str) -> None:
    columns = torch.nonzero(is_wrong).squeeze(1).tolist()
    if columns:
        raise GraphError(f"{message} {listing(columns)}.")
