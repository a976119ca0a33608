"""Matrix products in a traced graph: on a CPU without a library of them, on a GPU of few rows.

Such a library copies constant weights into an order of its own at every call. For the few rows
of a molecule that takes as long as the product; the kernel (``rows_times`` in
``eqcalc/native/products.cpp``) reads them as they are, and is no slower with many rows. Products
with weights that depend on the atom, as those of elements do, become loops that the compiler
fuses. Neither result depends on the number of threads; those of a library may.

On a GPU a product of a molecule's rows took a library up to 50 µs (examples/results/gpu.md). There
an operator takes a kernel of ours for few rows (``eqcalc/triton_kernels/rows.py``), and the library
for many.
"""

from __future__ import annotations

from typing import Any, Optional, cast

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

__all__ = ["use_few_rows", "use_row_products"]

_aten = torch.ops.aten
_PRODUCTS = (_aten.mm.default, _aten.addmm.default, _aten.bmm.default)
# Of constants they are made once, here, instead of in every call.
_OF_CONSTANTS = (
    _aten.t.default,
    _aten.transpose.int,
    _aten.permute.default,
    _aten.detach.default,
    _aten.slice.Tensor,
    _aten.view.default,
    _aten.clone.default,
    _aten._to_copy.default,
    _aten.add.Tensor,
    _aten.mul.Tensor,
    _aten.div.Tensor,
)
_VECTOR = 64  # bytes that the kernel takes at once


def use_row_products(traced: GraphModule) -> int:
    """Replace products of matrices, and return how many of them have constant ones.

    Parameters
    ----------
    traced : graph of aten operations for a CPU, changed in place; the kernels are enabled
    """
    graph, n_replaced = traced.graph, 0
    for node in list(graph.nodes):
        if node.target not in _PRODUCTS or node.kwargs:
            continue
        x, weights = node.args[-2:]
        found = _same_for_all if node.target is _aten.bmm.default else _constant
        constant = found(traced, weights)
        if constant is None:
            if node.target is _aten.bmm.default:
                _write_out(graph, node)
            continue
        name, n_out = f"row_weights_{n_replaced}", constant.shape[1]
        traced.register_buffer(name, _filled(constant.detach()))
        with graph.inserting_before(node):
            new = graph.call_function(
                torch.ops.eqcalc.rows_times.default, (x, graph.get_attr(name), n_out)
            )
            if node.target is _aten.addmm.default:
                new = graph.call_function(_aten.add.Tensor, (new, node.args[0]))
        node.replace_all_uses_with(new)
        graph.erase_node(node)
        n_replaced += 1
    graph.eliminate_dead_code()
    traced.recompile()
    return n_replaced


def use_few_rows(traced: GraphModule) -> None:
    """Replace products with a matrix by an operator that tells few rows from many.

    Parameters
    ----------
    traced : graph of aten operations for a GPU in float32, changed in place; the operators
        ``eqcalc_gpu`` are registered
    """
    graph = traced.graph
    for number, node in enumerate(list(graph.nodes)):
        if node.target not in _PRODUCTS or node.kwargs:
            continue
        x, weights = node.args[-2:]
        bias = node.args[0] if node.target is _aten.addmm.default else None
        with graph.inserting_before(node):
            if node.target is _aten.bmm.default:
                constant = _same_for_all(traced, weights)
                if constant is None:
                    continue
                traced.register_buffer(f"matrix_{number}", constant.detach().contiguous())
                weights = graph.get_attr(f"matrix_{number}")
            new = graph.call_function(torch.ops.eqcalc_gpu.rows_times.default, (x, weights, bias))
        new.meta["val"] = node.meta.get("val")
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    traced.recompile()


def _write_out(graph: Graph, node: Node) -> None:
    """Replace x w of batches (n, m, k) and (n, k, n_out) by the sum over k of their products."""
    x, weights = node.args
    with graph.inserting_before(node):
        columns = graph.call_function(_aten.unsqueeze.default, (x, -1))
        rows = graph.call_function(_aten.unsqueeze.default, (weights, 1))
        products = graph.call_function(_aten.mul.Tensor, (columns, rows))
        node.replace_all_uses_with(graph.call_function(_aten.sum.dim_IntList, (products, [2])))
    graph.erase_node(node)


def _constant(traced: GraphModule, node: Any) -> Optional[Tensor]:
    """Return the value of a node that depends on the module's tensors alone, else None."""
    if not isinstance(node, Node):
        return None
    if node.op == "get_attr":
        value = getattr(traced, str(node.target), None)
        return value if isinstance(value, Tensor) else None
    if node.target not in _OF_CONSTANTS:
        return None
    arguments: list[Any] = []
    for argument in node.args:
        is_node = isinstance(argument, Node)
        value = _constant(traced, argument) if is_node else argument
        if (is_node and value is None) or _has_nodes(argument):
            return None
        arguments.append(value)
    return node.target(*arguments, **node.kwargs)


def _has_nodes(argument: Any) -> bool:
    return isinstance(argument, (list, tuple)) and any(isinstance(item, Node) for item in argument)


def _same_for_all(traced: GraphModule, node: Any) -> Optional[Tensor]:
    """Return the matrix (n_in, n_out) that a batch of them repeats, if it is constant."""
    if not isinstance(node, Node) or node.op != "call_function":
        return None
    if node.target is _aten.expand.default:
        matrix = _constant(traced, node.args[0])
        return matrix if matrix is not None and matrix.dim() == 2 else None
    dims = cast("tuple[int, ...]", node.args[1:])
    if node.target is _aten.transpose.int and sorted(d % 3 for d in dims) == [1, 2]:
        matrix = _same_for_all(traced, node.args[0])
        return None if matrix is None else matrix.t()
    if node.target in (_aten.view.default, _aten.clone.default):
        matrix = _same_for_all(traced, node.args[0])
        shape = node.meta["val"].shape
        is_same = matrix is not None and len(shape) == 3 and shape[1:] == matrix.shape
        return matrix if is_same else None
    return None


def _filled(weights: Tensor) -> Tensor:
    """Return weights with columns of zeros up to whole vectors."""
    n_in, n_out = weights.shape
    per_vector = _VECTOR // weights.element_size()
    filled = weights.new_zeros((n_in, -(-n_out // per_vector) * per_vector))
    filled[:, :n_out] = weights
    return filled
