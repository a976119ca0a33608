"""Wigner's matrices: how the components of degree l turn with space.

The matrix of l = 1 is the rotation itself, because its components are (x, y, z).
Every further one is the highest part of a product with a vector,

    D^l = (2l + 1) Σ C_{i j k} D^{l-1}_{i i'} R_{j j'} C_{i' j' k'},   C = C(l-1, 1, l),

which needs the Clebsch-Gordan coefficients alone, no angles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eqcalc.arguments import require_at_least
from eqcalc.nn.so3.coupling import clebsch_gordan

__all__ = ["wigner_d"]


def wigner_d(l: int, rotation: Tensor) -> Tensor:
    """Return D (2l+1, 2l+1) such that Y_l(R r) = D Y_l(r).

    >>> turn = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    >>> wigner_d(1, turn).equal(turn), wigner_d(4, turn).shape
    (True, torch.Size([9, 9]))

    Parameters
    ----------
    rotation : (3, 3), orthogonal. With a reflection in it the result holds for natural
        parity (-1)^l; for the other parity it has the opposite sign.

    Raises
    ------
    ConfigError : ``l`` is not an integer ≥ 0.
    """
    require_at_least(0, l=l)
    if l == 0:
        return rotation.new_ones((1, 1))
    matrix = rotation
    for degree in range(2, l + 1):
        c = clebsch_gordan(degree - 1, 1, degree).to(rotation)
        matrix = (2 * degree + 1) * torch.einsum("ijk,ia,jb,abc->kc", c, matrix, rotation, c)
    return matrix
