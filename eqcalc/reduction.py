"""Ways to sum edge gradients to forces; each returns the same to rounding.

==============  ============================================  ==========================
name            how                                           on a GPU
==============  ============================================  ==========================
torch           scatter_add, :mod:`eqcalc.graph`; on a CPU    the order of additions, and
                the C++ library's own where it is loaded      the last bit, vary by run
torch-scatter   sums over sorted edges, segment by segment    equal inputs, equal bits
==============  ============================================  ==========================

torch-scatter is an optional dependency, for inference: its sums lose second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eqcalc.errors import ConfigError, MissingDependencyError, did_you_mean
from eqcalc.graph import forces_from_edge_gradients
from eqcalc.operators import find_operator

__all__ = [
    "REDUCTIONS", "ForceSum", "forces_from_segments", "forces_from_sums", "resolve_reduction",
    "virial_from_sums",
]  # fmt: skip

ForceSum = Callable[[Tensor, Tensor, int], Tensor]
"""(edge_gradients, edge_index, n_atoms) -> forces (n_atoms, 3), float64."""


def forces_from_sums(edge_gradients: Tensor, edge_index: Tensor, n_atoms: int) -> Tensor:
    """Return what :func:`eqcalc.graph.forces_from_edge_gradients` does, with the C++ library.

    For inference; the shapes are those of :func:`forces_from_segments`.
    """
    operator = find_operator("edge_forces")
    if operator is not None and edge_gradients.device.type == "cpu":
        return operator(edge_gradients, edge_index, n_atoms)
    return forces_from_edge_gradients(edge_gradients, edge_index, n_atoms)


def virial_from_sums(edge_vectors: Tensor, edge_gradients: Tensor) -> Tensor:
    """Return Σ r ⊗ ∂E/∂r (3, 3) over all edges, in eV, float64.

    Parameters
    ----------
    edge_vectors : (n_edges, 3), Å; edge_gradients : (n_edges, 3), eV/Å
    """
    operator = find_operator("edge_virial")
    if operator is not None and edge_vectors.device.type == "cpu":
        return operator(edge_vectors, edge_gradients)
    return edge_vectors.to(torch.float64).T @ edge_gradients.to(torch.float64)


def forces_from_segments(edge_gradients: Tensor, edge_index: Tensor, n_atoms: int) -> Tensor:
    """Return what :func:`eqcalc.graph.forces_from_edge_gradients` does, by torch-scatter.

    Parameters
    ----------
    edge_gradients : (n_edges, 3), eV/Å; ∂E/∂(edge_vectors)
    edge_index : (2, n_edges), sorted by receiver
    """
    gradients = edge_gradients.to(torch.float64)
    senders, order = edge_index[0].sort(stable=True)
    received = _segment_sums(gradients, edge_index[1], n_atoms)
    return received - _segment_sums(gradients.index_select(0, order), senders, n_atoms)


def _segment_sums(values: Tensor, atoms: Tensor, n_atoms: int) -> Tensor:
    """Sum values (n_edges, 3) of sorted atoms (n_edges,) to (n_atoms, 3)."""
    from torch_scatter import segment_csr

    first = torch.arange(n_atoms + 1, device=atoms.device)
    return segment_csr(values, torch.searchsorted(atoms.contiguous(), first), reduce="sum")


REDUCTIONS: dict[str, ForceSum] = {
    "torch": forces_from_sums,
    "torch-scatter": forces_from_segments,
}


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
