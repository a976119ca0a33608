"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

Of a weight matrix W, (m, n), with gradient G the averages of G Gᵀ and Gᵀ G are kept, and Adam
works on U = Q_Lᵀ G Q_R, where Q_L and Q_R are their eigenvectors: directions that the gradients
do not mix, each with a step length of its own. The eigenvectors are followed by one step of
orthogonal iteration every few steps. NequIP learns ethanol in a third of the epochs of AdamW
(``examples/results/optimizers.md``).

A side of more than 256 channels stays as it is, and so do vectors: with neither side turned the
step is Adam's. Weights of three indices are stacks of matrices of the last two.

Source: Vyas et al., arXiv:2409.11321; for potentials: Harari et al., arXiv:2607.02499.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Optional

import torch
from torch import Tensor

__all__ = ["Soap"]

LARGEST_SIDE = 256  # an eigenbasis of more costs more than the step of a network
EPSILON = 1e-8

_LEFT, _RIGHT = ("left_covariance", "left_basis"), ("right_covariance", "right_basis")


class Soap(torch.optim.Optimizer):
    """Adam in the eigenbasis of the gradients' covariances.

    Parameters
    ----------
    params : weights, of any shapes
    lr : learning rate, the length of a step along each direction
    betas : of the averages of gradients, and of their squares and covariances
    weight_decay : part of the weights that a step with learning rate 1 takes off
    every : steps after which the eigenbases are turned to the present covariances

    The first step only learns the covariances. The state of a weight of p matrices (m, n) is
    that of Adam in the basis, (p, m, n) twice, and for each side that is turned a covariance and
    a basis, (p, m, m) or (p, n, n).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        weight_decay: float = 0.0,
        every: int = 10,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "every": every}
        super().__init__(params, defaults)
        self._stacks: list[list[_Stack]] = []

    @torch.no_grad()
    def step(self, closure: Optional[Callable[[], Any]] = None) -> Any:
        """Make a step; a weight without a gradient stays."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        if not self._stacks:
            self._stacks = [self._stacks_of(group["params"]) for group in self.param_groups]
        for group, stacks in zip(self.param_groups, self._stacks, strict=True):
            for stack in stacks:
                stack.step(group)
        return value

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a state; it is stacked again at the next step."""
        super().load_state_dict(state_dict)
        self._stacks = []

    def _stacks_of(self, params: list[Tensor]) -> list[_Stack]:
        """Return weights of one shape together: a dozen products for a hundred weights."""
        alike: dict[tuple[object, ...], list[Tensor]] = {}
        for weight in params:
            alike.setdefault((*_shape(weight), weight.dtype, weight.device), []).append(weight)
        return [_Stack(weights, self.state) for weights in alike.values()]


class _Stack:
    """Weights of one shape, with one state whose parts are the states of each.

    weights : of p matrices (m, n) in all
    state : of the optimiser, from which theirs is taken if it is there
    """

    def __init__(self, weights: list[Tensor], state: dict[Tensor, dict[str, Any]]) -> None:
        self.weights = weights
        self.counts = [weight.numel() // _shape(weight).numel() for weight in weights]
        m, n = self.shape = _shape(weights[0])
        is_vector = min(m, n) == 1
        self.sides = [
            side
            for side, size in ((_LEFT, m), (_RIGHT, n))
            if not is_vector and size <= LARGEST_SIDE
        ]
        sizes: dict[str, tuple[int, int]] = dict.fromkeys(("exp_avg", "exp_avg_sq"), (m, n))
        for side in self.sides:
            width = m if side is _LEFT else n
            sizes |= dict.fromkeys(side, (width, width))
        self.n_steps = int(state[weights[0]].get("step", 0))
        self.parts: dict[str, Tensor] = {}
        for name, size in sizes.items():
            if self.n_steps > 0:
                whole = torch.cat([state[weight][name] for weight in weights])
            else:
                whole = weights[0].new_zeros(sum(self.counts), *size)
            self.parts[name] = whole
            for weight, part in zip(weights, whole.split(self.counts), strict=True):
                state[weight][name] = part
        self.states = [state[weight] for weight in weights]

    def step(self, group: dict[str, Any]) -> None:
        """Move the weights by their gradients."""
        gradient = torch.cat([self._gradient(weight) for weight in self.weights])
        beta1, beta2 = group["betas"]
        if self.n_steps > 0:
            update = self._update(gradient, beta1, beta2).mul_(group["lr"])
            for weight, part in zip(self.weights, update.split(self.counts), strict=True):
                if weight.grad is not None:
                    weight.mul_(1.0 - group["lr"] * group["weight_decay"])
                    weight.sub_(part.reshape(weight.shape))
        for covariance, _ in self.sides:
            is_left = covariance == _LEFT[0]
            product = gradient @ gradient.mT if is_left else gradient.mT @ gradient
            self.parts[covariance].lerp_(product, 1.0 - beta2)
        if self.n_steps % group["every"] == 0:
            self._turn()
        self.n_steps += 1
        for state in self.states:
            state["step"] = self.n_steps

    def _gradient(self, weight: Tensor) -> Tensor:
        found = torch.zeros_like(weight) if weight.grad is None else weight.grad
        return found.reshape(-1, *self.shape)

    def _update(self, gradient: Tensor, beta1: float, beta2: float) -> Tensor:
        """Return the step for a learning rate of 1, (p, m, n)."""
        mean, square = self.parts["exp_avg"], self.parts["exp_avg_sq"]
        turned = self._into_basis(gradient)
        mean.lerp_(turned, 1.0 - beta1)
        square.mul_(beta2).addcmul_(turned, turned, value=1.0 - beta2)
        scale = (square / (1.0 - beta2**self.n_steps)).sqrt_().add_(EPSILON)
        return self._out_of_basis(mean / scale.mul_(1.0 - beta1**self.n_steps))

    def _into_basis(self, matrices: Tensor) -> Tensor:
        for side in self.sides:
            basis = self.parts[side[1]]
            matrices = basis.mT @ matrices if side is _LEFT else matrices @ basis
        return matrices

    def _out_of_basis(self, matrices: Tensor) -> Tensor:
        for side in self.sides:
            basis = self.parts[side[1]]
            matrices = basis @ matrices if side is _LEFT else matrices @ basis.mT
        return matrices

    def _turn(self) -> None:
        """Turn the bases towards the eigenvectors, largest first, and what is kept with them."""
        mean = self._out_of_basis(self.parts["exp_avg"])
        square = self.parts["exp_avg_sq"]
        for side in self.sides:
            covariance, basis = (self.parts[name] for name in side)
            if self.n_steps == 0:
                # A gradient that is not a number is told by the loss, not from here.
                finite = covariance.nan_to_num(0.0, 0.0, 0.0)
                basis.copy_(torch.linalg.eigh(finite).eigenvectors.flip(-1))
                continue
            product = covariance @ basis
            order = (basis * product).sum(dim=1).argsort(dim=1, descending=True)  # (p, size)
            columns = order.unsqueeze(1).expand_as(product)
            basis.copy_(torch.linalg.qr(product.gather(2, columns)).Q)
            if side is _LEFT:
                square.copy_(square.gather(1, order.unsqueeze(2).expand_as(square)))
            else:
                square.copy_(square.gather(2, order.unsqueeze(1).expand_as(square)))
        self.parts["exp_avg"].copy_(self._into_basis(mean))


def _shape(weight: Tensor) -> torch.Size:
    """Return the shape of the matrices that a weight is made of."""
    return weight.shape[-2:] if weight.dim() > 1 else torch.Size((1, weight.numel()))
