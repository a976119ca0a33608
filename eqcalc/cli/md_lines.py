"""Lines that ``eqcalc md`` prints around a run, and ``eqcalc relax`` some of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from eqcalc.cli.console import note, say
from eqcalc.cli.duration import duration

if TYPE_CHECKING:
    from ase import Atoms

    from eqcalc.simulate import MDProgress, MDSettings

__all__ = [
    "TimeLimit",
    "note_pressure_left_out",
    "ramp_pairs",
    "spread_pairs",
    "tell_minimization",
    "tell_pressure",
]

# A pace varies by this: closer to the limit than that, nobody knows.
_UNCERTAIN = 0.1


def tell_minimization(done: dict[str, Any], fmax: float) -> None:
    """Say how the minimization before a run ended; where it did not converge, as a note."""
    gain = done["energy_before_eV"] - done["energy_after_eV"]
    steps = f"{done['steps']} step{'s' * (done['steps'] != 1)}"
    force = f"largest force {done['fmax_eV_per_A']:.3g} eV/Å"
    line = f"in {steps}: energy lower by {gain:.4g} eV, {force}"
    if done["converged"]:
        say(f"minimized {line}")
    else:
        note(
            f"note: the minimization did not converge {line}, and {fmax:g} was asked for; the "
            "run begins from there. More steps: --minimize-steps."
        )
    if done["velocities_left_out"]:
        say("velocities of the file belong to other positions: new ones are drawn")


def tell_pressure(pressure_gpa: float, to_gpa: float | None = None) -> None:
    """Say the pressure from outside in bar too: whoever means bar and types it for GPa sees it.

    Parameters
    ----------
    to_gpa : to which it changes; None where it stays
    """
    gpa, bar = f"{pressure_gpa:g}", f"{pressure_gpa * 1e4:g}"
    if to_gpa is not None:
        gpa, bar = f"{gpa} to {to_gpa:g}", f"{bar} to {to_gpa * 1e4:g}"
    elif pressure_gpa == 0.0:
        return
    say(f"pressure from outside: {gpa} GPa, that is {bar} bar")


def note_pressure_left_out(atoms: Atoms) -> None:
    """Say where constraints leave a periodic structure without a pressure."""
    from eqcalc.simulate.thermo import has_pressure, has_stress

    if has_stress(atoms) and not has_pressure(atoms):
        note(
            "note: the pressure is left out: forces that keep bonds rigid, and springs between "
            "atoms, have a virial of their own, which no stress holds."
        )


def ramp_pairs(settings: MDSettings) -> dict[str, str]:
    """Return lines of a summary: what the targets of thermostat and barostat did."""
    if settings.ramp_steps is None:
        return {}
    over = f"over the first {settings.ramp_steps} steps"
    if settings.ramp_steps == settings.n_steps:
        over = f"over {settings.n_steps} steps"
    elif settings.ramp_steps > settings.n_steps:
        over = f"over {settings.ramp_steps} steps, of which {settings.n_steps} were made"
    pairs = {}
    if settings.to_temperature_K is not None:
        begin, end = settings.temperature_K, settings.to_temperature_K
        pairs["thermostat"] = f"{begin:g} → {end:g} K {over}"
    if settings.to_pressure_gpa is not None:
        begin, end = settings.pressure_gpa, settings.to_pressure_gpa
        pairs["barostat"] = f"{begin:g} → {end:g} GPa {over}"
    return pairs


def spread_pairs(spread: dict[str, float] | None) -> dict[str, str]:
    """Return lines of a summary: how far the members of a committee were apart."""
    if spread is None:
        return {}
    largest, step = spread["max_force_spread_eV_per_A"], spread["at_step"]
    return {
        "force spread": f"at most {largest:.3g} eV/Å, at step {step:.0f}; of the worst atom in "
        f"the mean {spread['mean_max_force_spread_eV_per_A']:.3g}",
        "energy spread": f"{spread['mean_energy_spread_eV']:.3g} eV in the mean",
    }


class TimeLimit:
    """Says whether a run will fit into ``--max-hours``: once, and again when that changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fits: bool | None = None

    def news(self, now: MDProgress) -> str | None:
        """Return a line that has not been said yet, or None."""
        if now.limit_s is None or not now.left_s or now.step_s is None:
            return None
        if abs(now.left_s - now.limit_s) < _UNCERTAIN * now.limit_s:
            return None  # a decision is made later, or by the clock
        fits = now.left_s < now.limit_s
        if fits == self._fits:
            return None
        self._fits = fits
        left, limit = duration(now.left_s), duration(now.limit_s)
        if fits:
            return f"the run fits into --max-hours: {left} left of {limit}"
        last = now.thermo.step + int(now.limit_s / now.step_s)
        return (
            f"the run does not fit into --max-hours: {left} left, and it ends in {limit}, near "
            f"step {last} of {now.n_steps}; then: eqcalc md --resume {self._folder}"
        )
