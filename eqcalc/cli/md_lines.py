"""Lines that ``eqcalc md`` prints around a run."""

from __future__ import annotations

from typing import Any

from eqcalc.cli.console import note, say

__all__ = ["tell_minimization"]


def tell_minimization(done: dict[str, Any], fmax: float) -> None:
    """Say how the minimization before a run ended; where it did not converge, as a note."""
    change = done["energy_after_eV"] - done["energy_before_eV"]
    steps = f"{done['steps']} step{'s' * (done['steps'] != 1)}"
    line = f"in {steps}: energy {change:+.4g} eV, largest force {done['fmax_eV_per_A']:.3g} eV/Å"
    if done["converged"]:
        say(f"minimized {line}")
    else:
        note(
            f"note: the minimization did not converge {line}, and {fmax:g} was asked for; the "
            "run begins from there. More steps: --minimize-steps."
        )
    if done["velocities_left_out"]:
        say("velocities of the file belong to other positions: new ones are drawn")
