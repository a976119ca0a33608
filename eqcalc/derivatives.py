"""From edge gradients to forces, virials and stress: the only place where that is done.

With g = ∂E/∂(edge_vectors), as :mod:`eqcalc.graph` states,

    F_k    = Σ_{edges received by k} g - Σ_{edges sent by k} g
    dE/dε  = sym Σ_edges r ⊗ g
    stress = (dE/dε) / V          tension positive; Voigt order xx yy zz yz xz xy

All sums are taken in float64. On a CPU the C++ library, where it is loaded, makes the additions
of the torch operations in their order, that of the edges: equal bits. Forces can be summed in
two ways, which agree to rounding:

==============  ============================================  ==========================
reduction       how                                           on a GPU
==============  ============================================  ==========================
torch           scatter_add or the C++ library                the order of additions, and
                                                              the last bit, vary by run
torch-scatter   sums over sorted edges, segment by segment    equal inputs, equal bits
==============  ============================================  ==========================

torch-scatter is an optional dependency, for inference: its sums lose second derivatives.

Shapes: n_atoms, n_edges, n_structures.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eqcalc.errors import ConfigError, MissingDependencyError, did_you_mean
from eqcalc.graph import AtomicGraph
from eqcalc.native.operators import find_operator

__all__ = [
    "REDUCTIONS",
    "VOIGT",
    "ForceSum",
    "atomic_virials_from_edge_gradients",
    "forces_from_edge_gradients",
    "forces_from_segments",
    "forces_from_sums",
    "resolve_reduction",
    "stress_from_edge_gradients",
    "virials_from_edge_gradients",
    "voigt",
    "volumes",
]

VOIGT: tuple[tuple[int, int], ...] = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Index pairs of ASE's Voigt order xx yy zz yz xz xy."""

ForceSum = Callable[[Tensor, Tensor, int], Tensor]
"""(edge_gradients, edge_index, n_atoms) -> forces (n_atoms, 3), float64."""


def forces_from_edge_gradients(edge_gradients: Tensor, edge_index: Tensor, n_atoms: int) -> Tensor:
    """Return forces (n_atoms, 3) in eV/Å; differentiable any number of times.

    Parameters
    ----------
    edge_gradients : (n_edges, 3), eV/Å; ∂E/∂(edge_vectors)
    edge_index : (2, n_edges)
    """
    gradients = edge_gradients.to(torch.float64)
    forces = _sum_rows(gradients, edge_index[1], n_atoms)
    return forces - _sum_rows(gradients, edge_index[0], n_atoms)


def forces_from_sums(edge_gradients: Tensor, edge_index: Tensor, n_atoms: int) -> Tensor:
    """Return what :func:`forces_from_edge_gradients` does in every bit, by the C++ library.

    For inference: where the library is loaded, its sums lose derivatives.
    """
    operator = find_operator("edge_forces")
    if operator is not None and edge_gradients.device.type == "cpu":
        return operator(edge_gradients, edge_index, n_atoms)
    return forces_from_edge_gradients(edge_gradients, edge_index, n_atoms)


def forces_from_segments(edge_gradients: Tensor, edge_index: Tensor, n_atoms: int) -> Tensor:
    """Return what :func:`forces_from_edge_gradients` does, by torch-scatter.

    For inference; ``edge_index`` is sorted by receiver.
    """
    gradients = edge_gradients.to(torch.float64)
    senders, order = edge_index[0].sort(stable=True)
    received = _segment_sums(gradients, edge_index[1], n_atoms)
    return received - _segment_sums(gradients.index_select(0, order), senders, n_atoms)


REDUCTIONS: dict[str, ForceSum] = {
    "torch": forces_from_sums,
    "torch-scatter": forces_from_segments,
}
"""The ways to sum forces, by the name that a user gives."""


def resolve_reduction(name: str) -> ForceSum:
    """Return the sum of a name.

    Raises
    ------
    ConfigError : another name.
    MissingDependencyError : its package is not installed, or does not fit this torch.
    """
    if name not in REDUCTIONS:
        raise ConfigError(
            f"unknown reduction '{name}'; known: {', '.join(REDUCTIONS)}."
            + did_you_mean(str(name), REDUCTIONS)
        )
    if name == "torch-scatter":
        try:
            import torch_scatter  # noqa: F401
        except (ImportError, OSError) as error:  # OSError: built for another torch
            raise MissingDependencyError(
                f"reduction='torch-scatter' needs torch-scatter, which cannot be imported "
                f"({error}); run pip install --no-build-isolation 'eqcalc[scatter]', which builds "
                "it for this torch in some minutes, or keep reduction='torch'."
            ) from error
    return REDUCTIONS[name]


def atomic_virials_from_edge_gradients(
    edge_gradients: Tensor, edge_vectors: Tensor, edge_index: Tensor, n_atoms: int
) -> Tensor:
    """Return atomic virials (n_atoms, 3, 3) in eV; their sum is dE/dε.

    Half of each edge's r ⊗ g goes to its sender and half to its receiver.
    """
    edge_virials = 0.5 * _edge_virials(edge_gradients, edge_vectors)
    virials = _sum_rows(edge_virials, edge_index[1], n_atoms)
    virials = virials + _sum_rows(edge_virials, edge_index[0], n_atoms)
    return virials.unflatten(1, (3, 3))


def virials_from_edge_gradients(edge_gradients: Tensor, graph: AtomicGraph) -> Tensor:
    """Return virials (n_structures, 3, 3) in eV, dE/dε, of all edges that a graph holds.

    Differentiable any number of times, where the edge gradients are.

    Parameters
    ----------
    edge_gradients : (n_edges, 3), eV/Å; ∂E/∂(edge_vectors) of ``graph``
    """
    operator, edge_vectors = find_operator("edge_virial"), graph.edge_vectors
    is_constant = not (edge_gradients.requires_grad or edge_vectors.requires_grad)
    can_run = edge_vectors.device.type == "cpu" and is_constant  # it has no derivatives
    if graph.n_structures == 1 and operator is not None and can_run:
        return operator(edge_vectors, edge_gradients).unsqueeze(0)
    if graph.n_structures == 1 and edge_vectors.device.type != "cpu":
        # A GPU would add all edges to the same nine numbers, one after the other.
        return _edge_virials(edge_gradients, edge_vectors).sum(dim=0).view(1, 3, 3)
    structures = graph.structure_index.index_select(0, graph.edge_index[1])
    edge_virials = _edge_virials(edge_gradients, edge_vectors)
    return _sum_rows(edge_virials, structures, graph.n_structures).unflatten(1, (3, 3))


def stress_from_edge_gradients(edge_gradients: Tensor, graph: AtomicGraph) -> Tensor:
    """Return stress (n_structures, 3, 3) in eV/Å³; NaN where a direction is open.

    Differentiable any number of times, where the edge gradients are.

    Parameters
    ----------
    edge_gradients : (n_edges, 3), eV/Å; ∂E/∂(edge_vectors) of ``graph``
    """
    volume = volumes(graph.cell)
    is_closed = volume > 0
    virials = virials_from_edge_gradients(edge_gradients, graph)
    # A volume of one in place of zero: NaN in a branch that is not taken spoils gradients too.
    stress = virials / torch.where(is_closed, volume, 1.0)[:, None, None]
    return torch.where(is_closed[:, None, None], stress, torch.nan)


def _edge_virials(edge_gradients: Tensor, edge_vectors: Tensor) -> Tensor:
    """Return the symmetric part of r ⊗ g (n_edges, 9)."""
    r, g = edge_vectors.to(torch.float64), edge_gradients.to(torch.float64)
    products = r.unsqueeze(2) * g.unsqueeze(1)  # (n_edges, 3, 3)
    return (0.5 * (products + products.transpose(1, 2))).flatten(1)


def volumes(cell: Tensor) -> Tensor:
    """Return volumes (n_structures,) in Å³; zero where a direction is open."""
    return torch.linalg.det(cell.to(torch.float64)).abs()


def voigt(tensor: Tensor) -> Tensor:
    """Return (..., 6) in ASE's order of a symmetric (..., 3, 3)."""
    return torch.stack([tensor[..., a, b] for a, b in VOIGT], dim=-1)


def _sum_rows(values: Tensor, index: Tensor, n_rows: int) -> Tensor:
    """Return the sums (n_rows, k) of short rows (n, k) that share an index (n,).

    On a CPU scatter_add adds them in the order of n, with any number of threads: it shares out
    columns. The C++ library does the same (a test compares the bits).

    For rows of 3 or 9 scatter_add takes a quarter of the time of index_add on a CPU; for
    those of networks (:func:`eqcalc.nn.scatter.sum_at_receivers`) it is the other way round.
    """
    columns = index.unsqueeze(1).expand(-1, values.shape[1])
    return values.new_zeros((n_rows, values.shape[1])).scatter_add(0, columns, values)


def _segment_sums(values: Tensor, atoms: Tensor, n_atoms: int) -> Tensor:
    """Sum values (n_edges, 3) of sorted atoms (n_edges,) to (n_atoms, 3)."""
    from torch_scatter import segment_csr

    first = torch.arange(n_atoms + 1, device=atoms.device)
    return segment_csr(values, torch.searchsorted(atoms.contiguous(), first), reduce="sum")
