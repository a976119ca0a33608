"""Names under which files say a structure's charge and spin, which no network here is told."""

from __future__ import annotations

__all__ = ["CHARGES", "ELECTRONS", "SPINS"]

CHARGES: dict[str, int] = dict.fromkeys(("charge", "charges", "total_charge", "net_charge"), 0)
"""Entry of ``info`` -> its value for a neutral structure."""

SPINS: dict[str, int] = {
    **dict.fromkeys(("spin", "total_spin", "magmom", "nupdown"), 0),
    **dict.fromkeys(("multiplicity", "spin_multiplicity"), 1),
}
"""Entry of ``info`` -> its value for a closed shell."""

ELECTRONS: dict[str, int] = CHARGES | SPINS
