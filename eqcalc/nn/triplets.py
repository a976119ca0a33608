"""Pairs of edges k→j→i, on which angle-dependent networks act.

Every edge that j receives is paired with every edge that j sends, except an edge with its
own reverse: k = i, and the same image. Which image is told from the vectors:
(r_k - r_j) + (r_j - r_i) is zero for the atom i itself and a lattice vector for its other
images. The test is ``|sum| < 1e-3 Å``: rounding of float32 vectors is below 1e-5 Å, and no
crystal has a period of 1e-3 Å.

The pairs are the cells (j, in, out) of one square table per atom j. ``in`` counts the edges
that j receives, ``out`` those that it sends, both up to the largest number of either at any
atom (two at least); what is left over is marked. Whatever belongs to an edge is laid out
once, as a row of its atom, and sums over k are matrix products, without a row per triplet.

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
    "lay_out",
    "list_triplets",
    "tabulate_triplets",
    "validate_angle_index",
]


class Triplets(NamedTuple):
    """The cells of all atoms, and where edges stand among their rows and columns.

    received, sent : (n_edges,) int64; the place of each edge in a table of the edges that
        every atom receives, and in one of those that it sends: (n_atoms * n_columns, ...)
    is_triplet : (n_atoms, n_columns, n_columns) bool, [j, in, out]; False for an edge with
        its reverse and where the table is only filled up
    """

    received: Tensor
    sent: Tensor
    is_triplet: Tensor


def build_triplets(
    edge_index: Tensor, edge_vectors: Tensor, n_atoms: int, same_place: float = 1e-3
) -> Triplets:
    """Return all triplets of a graph.

    Parameters
    ----------
    edge_index : (2, n_edges)
    edge_vectors : (n_edges, 3), Å; r_j - r_i including the image shift
    same_place : Å; two images of an atom closer than this are one
    """
    senders, receivers = edge_index[0], edge_index[1]
    received, sent, n_columns = _places(edge_index, n_atoms)
    # The atom at the other end, from one up: zero where there is no edge.
    k = lay_out(senders + 1, received, n_atoms, n_columns).unsqueeze(2)
    i = lay_out(receivers + 1, sent, n_atoms, n_columns).unsqueeze(1)
    vectors = edge_vectors.detach()
    to_k = lay_out(vectors, received, n_atoms, n_columns).unsqueeze(2)
    from_i = lay_out(vectors, sent, n_atoms, n_columns).unsqueeze(1)
    # Not by a scalar product: that would leave too few digits of the sum in float32.
    is_here = (to_k + from_i).square().sum(dim=3) < same_place * same_place
    return Triplets(received, sent, (k > 0) & (i > 0) & torch.logical_not((k == i) & is_here))


def cosines_at_middle(edge_vectors: Tensor, distances: Tensor, triplets: Triplets) -> Tensor:
    """Return cos α (n_atoms, n_columns, n_columns) of the interior angle at j, between k and i.

    The quotient itself, with no angle in between: acos and atan2 have no second
    derivatives where k, j and i are collinear.

    Parameters
    ----------
    edge_vectors : (n_edges, 3), Å; distances : (n_edges,), Å
    """
    n_atoms, n_columns = triplets.is_triplet.shape[0], triplets.is_triplet.shape[1]
    directions = edge_vectors / distances.unsqueeze(1)  # (n_edges, 3)
    to_k = lay_out(directions, triplets.received, n_atoms, n_columns)
    from_i = lay_out(directions, triplets.sent, n_atoms, n_columns)  # points from i to j
    return -torch.bmm(to_k, from_i.transpose(1, 2))


def lay_out(values: Tensor, places: Tensor, n_atoms: int, n_columns: int) -> Tensor:
    """Return each atom's edges as its columns: (n_edges, ...) -> (n_atoms, n_columns, ...).

    Parameters
    ----------
    places : (n_edges,); ``received`` or ``sent`` of :class:`Triplets`; zeros elsewhere
    """
    rest = list(values.shape[1:])
    table = values.new_zeros([n_atoms * n_columns] + rest)  # noqa: RUF005  (TorchScript)
    # No two edges have one place: a copy, whose derivative is a plain gather.
    return table.index_copy(0, places, values).view([n_atoms, n_columns] + rest)  # noqa: RUF005


def list_triplets(triplets: Triplets) -> Tensor:
    """Return ``angle_index`` (2, n_triplets), sorted by the edge j→i."""
    n_atoms, n_columns, _ = triplets.is_triplet.shape
    edges = torch.arange(triplets.sent.shape[0], device=triplets.sent.device)
    j, column_in, column_out = torch.nonzero(triplets.is_triplet).unbind(1)
    incoming = lay_out(edges, triplets.received, n_atoms, n_columns)[j, column_in]
    outgoing = lay_out(edges, triplets.sent, n_atoms, n_columns)[j, column_out]
    order = torch.argsort(outgoing, stable=True)
    return torch.stack([incoming[order], outgoing[order]])


def tabulate_triplets(
    edge_index: Tensor, angle_index: Tensor, n_atoms: int
) -> tuple[Triplets, Tensor]:
    """Lay out a list of triplets in any order, of edges in any order.

    Returns
    -------
    triplets
    cells : (n_triplets,); where each of them stands in the flattened ``is_triplet``
    """
    received, sent, n_columns = _places(edge_index, n_atoms)
    incoming, outgoing = angle_index[0], angle_index[1]
    cells = received[incoming] * n_columns + sent[outgoing] % n_columns
    is_triplet = torch.zeros(n_atoms * n_columns**2, dtype=torch.bool, device=cells.device)
    is_triplet[cells] = True
    return Triplets(received, sent, is_triplet.view(n_atoms, n_columns, n_columns)), cells


def validate_angle_index(edge_index: Tensor, angle_index: Tensor) -> None:
    """Check triplets that a caller supplies for an open structure.

    Raises
    ------
    GraphError : a shape or an edge id is out of range, the two edges of a triplet do not
        meet at j, k and i are the same atom, or a triplet is listed twice.
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
    _, which, counts = torch.unique(angle_index, dim=1, return_inverse=True, return_counts=True)
    _refuse(counts[which] > 1, "angle_index must list each triplet once; twice or more in columns")


def _places(edge_index: Tensor, n_atoms: int) -> tuple[Tensor, Tensor, int]:
    """Return ``received`` and ``sent`` of :class:`Triplets` and n_columns."""
    ones = torch.ones_like(edge_index[0])
    n_sent = sum_at_receivers(ones, edge_index[0], n_atoms)  # (n_atoms,)
    n_received = sum_at_receivers(ones, edge_index[1], n_atoms)
    n_columns = _count_columns(torch.cat([n_sent, n_received]))
    sent = _places_among(edge_index[0], n_sent, n_columns)
    return _places_among(edge_index[1], n_received, n_columns), sent, n_columns


def _places_among(atoms: Tensor, degrees: Tensor, n_columns: int) -> Tensor:
    """Return atoms · n_columns + how many edges of the same atom come before, (n_edges,)."""
    order = torch.argsort(atoms, stable=True)
    count = torch.arange(atoms.shape[0], dtype=atoms.dtype, device=atoms.device)
    rank = torch.zeros_like(atoms).index_copy(0, order, count)
    starts = degrees.cumsum(0) - degrees
    return atoms * n_columns + rank - starts.index_select(0, atoms)


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
