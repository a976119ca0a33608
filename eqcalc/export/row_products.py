"""Matrix products with constant weights in a traced graph, by the kernel for few rows.

A library of matrix products copies the weights into an order of its own at every call. For
the few rows of a molecule that takes as long as the product; the kernel (``rows_times`` in
``eqcalc/native/products.cpp``) reads them as they are, and is no slower with many rows.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

__all__ = ["use_row_products"]

_aten = torch.ops.aten
_PRODUCTS = (_aten.mm.default, _aten.addmm.default)
_VIEWS = (
    _aten.t.default,
    _aten.transpose.int,
    _aten.permute.default,
    _aten.detach.default,
    _aten.slice.Tensor,
    _aten.view.default,
    _aten.clone.default,
)
_FEWEST_IN = 16  # below, there is nothing to gain
_VECTOR = 64  # bytes that the kernel takes at once


def use_row_products(traced: GraphModule) -> int:
    """Replace products with constant matrices, and return how many were replaced.

    Parameters
    ----------
    traced : graph of aten operations for a CPU, changed in place; the kernels are enabled
    """
    graph, n_replaced = traced.graph, 0
    for node in list(graph.nodes):
        if node.target not in _PRODUCTS or node.kwargs:
            continue
        x, weights = node.args[-2:]
        constant = _constant(traced, weights)
        if constant is None or not _is_suitable(constant):
            continue
        name = f"row_weights_{n_replaced}"
        traced.register_buffer(name, constant.detach().contiguous())
        with graph.inserting_before(node):
            new = graph.call_function(
                torch.ops.eqcalc.rows_times.default, (x, graph.get_attr(name))
            )
            if node.target is _aten.addmm.default:
                new = graph.call_function(_aten.add.Tensor, (new, node.args[0]))
        node.replace_all_uses_with(new)
        graph.erase_node(node)
        n_replaced += 1
    graph.eliminate_dead_code()
    traced.recompile()
    return n_replaced


def _constant(traced: GraphModule, node: Any) -> Optional[Tensor]:
    """Return the value of a node that depends on the module's tensors alone, else None."""
    if not isinstance(node, Node):
        return None
    if node.op == "get_attr":
        value = getattr(traced, str(node.target), None)
        return value if isinstance(value, Tensor) else None
    if node.target not in _VIEWS:
        return None
    source, *rest = node.args
    value = _constant(traced, source)
    if value is None or any(isinstance(argument, Node) for argument in rest):
        return None
    return node.target(value, *rest, **node.kwargs)


def _is_suitable(weights: Tensor) -> bool:
    n_in, n_out = weights.shape
    return n_in >= _FEWEST_IN and n_out * weights.element_size() % _VECTOR == 0
