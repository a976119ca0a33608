"""Loss and parameter gradients, eagerly or as one compiled graph.

torch.compile cannot differentiate a graph twice, and force training needs it to.
Tracing loss AND gradients into one graph of plain tensor operations first leaves
nothing to differentiate, so the compiler may fuse all of it; atoms, edges and
structures stay symbolic, so one compilation serves every batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional, cast

import torch
from torch import Tensor
from torch.func import functional_call
from torch.fx.experimental import _config as fx_config
from torch.fx.experimental.proxy_tensor import make_fx

from eqcalc.data.batches import LabelledGraph
from eqcalc.graph import AtomicGraph
from eqcalc.native.compiler_folder import private_compiler_folder
from eqcalc.potential import Potential
from eqcalc.tabulated.pairs import Pairs, given_pairs, pairs_of
from eqcalc.training.loss import LossFunction, error_counts, loss, residuals

__all__ = ["LossGradients"]

_Evaluation = Callable[..., list[Optional[Tensor]]]


class LossGradients:
    """Callable batch -> loss (), leaving the gradients in ``parameter.grad``.

    Parameters
    ----------
    potential : in training mode when called
    function : what is made of the errors
    compile : trace and compile at the first call

    Raises
    ------
    CacheError : it shall compile, and torch's compiler has no folder that is this user's alone.
    """

    def __init__(self, potential: Potential, function: LossFunction, compile: bool) -> None:
        self.potential = potential
        self.function = function
        self.compile = compile
        if compile:
            with private_compiler_folder():  # refused before the first batch, not at it
                pass
        self._compiled: dict[tuple[int, ...], _Evaluation] = {}
        # The parameters that are not frozen, the others are constants.
        named = potential.named_parameters()
        self._trained = {name: each for name, each in named if each.requires_grad}

    def __call__(self, batch: LabelledGraph, counts: Optional[Tensor] = None) -> Tensor:
        """Return the loss of a batch, after tracing it where it is the first of its kind.

        Parameters
        ----------
        counts : (3,), of the whole batch that this one is a part of; see
            :func:`eqcalc.training.loss.loss`
        """
        arguments: tuple[Any, ...] = (
            [parameter.detach() for parameter in self._trained.values()],
            batch.graph.atomic_numbers,
            batch.graph.edge_index,
            batch.graph.edge_vectors,
            batch.graph.structure_index,
            batch.graph.cell,
            batch.energy,
            batch.forces,
            batch.stress,
            error_counts(batch) if counts is None else counts,
        )
        if not self.compile:
            outputs = self._evaluate(*arguments)
        else:
            # Tracer and compiler take a size of 0 or 1 for a constant, and no other.
            sizes = [batch.energy, batch.graph.atomic_numbers, batch.graph.edge_vectors]
            pairs = _pairs_of(batch.graph)
            if pairs is not None:
                sizes.append(pairs.first)
                arguments += tuple(pairs)
            kind = tuple(min(each.shape[0], 2) for each in sizes)
            if kind not in self._compiled:
                one_thread = min(kind[:2]) == 1 or kind[3:] == (1,)
                self._compiled[kind] = self._compile(arguments, one_thread)
            with torch.no_grad(), private_compiler_folder():  # it may compile at any call
                outputs = self._compiled[kind](*arguments)
        for parameter, gradient in zip(self._trained.values(), outputs[1:], strict=True):
            parameter.grad = None if gradient is None else _in_order_of(parameter, gradient)
        return cast("Tensor", outputs[0])  # only gradients may be None

    def _compile(self, arguments: tuple[Any, ...], one_thread: bool) -> _Evaluation:
        """Return :meth:`_evaluate` compiled for any sizes that are no constants in arguments.

        For several threads torch's compiler cannot write a sum into a tensor of one row (2.13:
        InductorError in CppVecKernel.store), which sums over one structure, atom or pair are.
        """
        tracer = make_fx(
            lambda *values: self._evaluate(*values),  # make_fx would count self
            tracing_mode="symbolic",
            _allow_non_fake_inputs=True,
        )
        # Else sizes that are equal in this batch, such as 32 atoms and 32 channels,
        # would count as one size in every later batch.
        with fx_config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
            traced = tracer(*arguments)
        with private_compiler_folder():
            return torch.compile(
                traced, dynamic=True, options={"cpp.threads": 1} if one_thread else None
            )

    def _evaluate(
        self,
        values: list[Tensor],
        atomic_numbers: Tensor,
        edge_index: Tensor,
        edge_vectors: Tensor,
        structure_index: Tensor,
        cell: Tensor,
        energy: Tensor,
        forces: Tensor,
        stress: Tensor,
        counts: Tensor,
        *pairs: Tensor,
    ) -> list[Optional[Tensor]]:
        with torch.enable_grad(), given_pairs(Pairs(*pairs) if pairs else None):
            leaves = [value.detach().requires_grad_(True) for value in values]
            graph = AtomicGraph(
                atomic_numbers,
                edge_index,
                edge_vectors,
                structure_index,
                energy.shape[0],
                atomic_numbers.shape[0],
                cell,
            )

            def call(graph: AtomicGraph) -> tuple[Tensor, Tensor]:
                moving = dict(zip(self._trained, leaves, strict=True))
                return functional_call(self.potential, moving, (graph,))

            batch = LabelledGraph(graph, energy, forces, stress)
            found = residuals(call, batch, with_stress=self.function.weights.stress > 0)
            total = loss(found, self.function, counts)
            gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        return [total.detach(), *gradients]


def _pairs_of(graph: AtomicGraph) -> Optional[Pairs]:
    """Return the pairs of edges, whose numbers no compiled graph can look at; on a CPU."""
    on_cpu = graph.edge_index.device.type == "cpu"
    return pairs_of(graph.edge_index, graph.edge_vectors) if on_cpu else None


def _in_order_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return a gradient whose numbers lie in memory as those of its parameter do.

    torch's fused AdamW (2.13, on a CPU) reads both in the order of memory: a gradient that is the
    transpose of a product would move other weights than its own.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
