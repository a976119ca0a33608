"""The gate: a nonlinearity that commutes with rotations.

    0e     s  ->  silu(s)           or degree 0 of SO(3)
    0o     s  ->  tanh(s)           odd, so that a reflection flips it
    l > 0  v  ->  silu(g) · v       with its own channel g of 0e for each v

where silu and tanh carry the factors of :mod:`eqcalc.nn.so3.unit_variance`.

Source: Weiler et al., NeurIPS (2018), arXiv:1807.02547 (gates); Batzner
et al., Nat. Commun. 13, 2453 (2022), doi:10.1038/s41467-022-29939-5 (silu and tanh).
"""

from typing import Optional

from torch import Tensor, nn

from eqcalc.errors import ConfigError
from eqcalc.nn.so3.irreps import Irrep, Layout
from eqcalc.nn.so3.unit_variance import UnitVarianceSiLU, UnitVarianceTanh

__all__ = ["Gate", "layout_before_gate"]


class Gate(nn.Module):
    """Activate scalars, and multiply everything else by activated scalars.

    Parameters
    ----------
    layout : channels of each irrep after the gate, scalars first; before the gate they are
        those of :func:`layout_before_gate`
    silu_factor, tanh_factor : of the activations; None: those of unit variance

    Raises
    ------
    ConfigError : the first irrep is not 0e, or degree 0 of SO(3).
    """

    def __init__(
        self,
        layout: Layout,
        silu_factor: Optional[float] = None,
        tanh_factor: Optional[float] = None,
    ) -> None:
        super().__init__()
        first = next(iter(layout), None)
        if first is None or not first.is_invariant:
            raise ConfigError(f"a gate needs 0e first, found {[str(irrep) for irrep in layout]}.")
        self.sizes = [layout[first], *_gated(layout)]
        self.is_odd_scalar = [irrep == Irrep(0, -1) for irrep in layout]
        self.even, self.odd = UnitVarianceSiLU(silu_factor), UnitVarianceTanh(tanh_factor)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map blocks (n_atoms, 2l+1, n_in) to blocks (n_atoms, 2l+1, n_out)."""
        parts = self.even(features[0]).split(self.sizes, dim=2)  # (n_atoms, 1, n) each
        passed = [parts[0]]
        n_gated = 0
        for k in range(1, len(features)):
            if self.is_odd_scalar[k]:
                passed.append(self.odd(features[k]))
            else:
                n_gated += 1
                passed.append(features[k] * parts[n_gated])
        return passed


def layout_before_gate(layout: Layout) -> Layout:
    """Return what a gate to ``layout`` expects: behind the 0e scalars their gates.

    >>> before = layout_before_gate({Irrep(0, 1): 8, Irrep(1, -1): 4, Irrep(2, 1): 2})
    >>> {str(irrep): n for irrep, n in before.items()}
    {'0e': 14, '1o': 4, '2e': 2}
    """
    scalar = next(iter(layout))
    return layout | {scalar: layout[scalar] + sum(_gated(layout))}


def _gated(layout: Layout) -> list[int]:
    """Return the channels of each irrep that needs gates."""
    return [n for irrep, n in layout.items() if irrep.l > 0]
