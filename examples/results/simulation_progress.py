"""What long simulations of these scripts print."""

from __future__ import annotations

import time

from eqcalc.simulate import MDProgress

EVERY_S = 20.0

_printed = 0.0


def show(now: MDProgress) -> None:
    """Print where a run is, now and then."""
    global _printed
    if now.left_s is None or time.monotonic() - _printed < EVERY_S:
        return
    _printed = time.monotonic()
    print(
        f"step {now.thermo.step} of {now.n_steps}: {now.thermo.temperature_K:.0f} K, "
        f"{now.ns_per_day:.3f} ns/day, {now.left_s / 60:.0f} min left",
        flush=True,
    )
