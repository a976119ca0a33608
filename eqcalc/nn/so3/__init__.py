"""Rotations acting on features: the mathematics under equivariant networks.

What belongs here: irreps, their products, and layers that commute with rotations and
reflections for any irreps. How a paper joins these to a network is not here.

Conventions, the same as e3nn's: an irrep of degree l has 2l + 1 real components,
m = -l ... l about the y axis, so that l = 1 is (x, y, z); ``1o`` is a vector and
``1e`` an axial vector. Features are one tensor per irrep, channels last:
(n_atoms, 2l+1, n_channels).
"""

from eqcalc.nn.so3.coupling import clebsch_gordan
from eqcalc.nn.so3.gate import Gate, layout_before_gate
from eqcalc.nn.so3.harmonics import spherical_harmonics
from eqcalc.nn.so3.irreps import Irrep, Layout, irreps_up_to
from eqcalc.nn.so3.linear import AddedLinear, EquivariantLinear, SpeciesLinear
from eqcalc.nn.so3.norm import irrep_norms
from eqcalc.nn.so3.tensor_product import (
    EdgeCouplings,
    TensorProduct,
    path_filters,
    path_layout,
)
from eqcalc.nn.so3.unit_variance import (
    UnitVarianceLinear,
    UnitVarianceSiLU,
    UnitVarianceTanh,
    second_moment_factor,
)
from eqcalc.nn.so3.wigner import wigner_d

__all__ = [
    "AddedLinear",
    "EdgeCouplings",
    "EquivariantLinear",
    "Gate",
    "Irrep",
    "Layout",
    "SpeciesLinear",
    "TensorProduct",
    "UnitVarianceLinear",
    "UnitVarianceSiLU",
    "UnitVarianceTanh",
    "clebsch_gordan",
    "irrep_norms",
    "irreps_up_to",
    "layout_before_gate",
    "path_filters",
    "path_layout",
    "second_moment_factor",
    "spherical_harmonics",
    "wigner_d",
]
