"""The outer product of two vectors is a scalar, a vector and a symmetric traceless part.

Clebsch-Gordan coefficients take it apart: nine numbers turn as 1 + 3 + 5.
"""

import torch

from eqcalc.nn.so3 import clebsch_gordan, wigner_d

a = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
b = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
outer = torch.outer(a, b)

parts = [torch.einsum("ij,ijk->k", outer, clebsch_gordan(1, 1, l)) for l in range(3)]
print("l = 0:  trace / √3 ", parts[0].numpy().round(4), (outer.trace() / 3**0.5).item())
print("l = 1:  a × b / √6 ", parts[1].numpy().round(4), (torch.linalg.cross(a, b) / 6**0.5).numpy())
print("l = 2:  five numbers", parts[2].numpy().round(4))

# Nothing is lost: each part goes back to its share of the matrix.
shares = [
    (2 * l + 1) * torch.einsum("k,ijk->ij", part, clebsch_gordan(1, 1, l))
    for l, part in enumerate(parts)
]
names = ["trace / 3", "antisymmetric", "symmetric, traceless"]
for name, share in zip(names, shares, strict=True):
    print(f"{name}:\n{share.numpy().round(4)}")
print("largest error of their sum:", (sum(shares) - outer).abs().max().item())

# Turn both vectors: every part turns by its own matrix, 1, 3 and 5 wide.
turn = torch.linalg.matrix_exp(torch.tensor([[0, -1, 2], [1, 0, -3], [-2, 3, 0]]).double())
turned = torch.outer(turn @ a, turn @ b)
for l, part in enumerate(parts):
    found = torch.einsum("ij,ijk->k", turned, clebsch_gordan(1, 1, l))
    error = (found - wigner_d(l, turn) @ part).abs().max().item()
    print(f"l = {l}: largest error after the turn {error:.1e}")
