"""What runs the model, and what would be faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eqcalc.cli.console import say
from eqcalc.cores import usable_cores

if TYPE_CHECKING:
    from eqcalc.calculator import EqCalculator

__all__ = ["say_engine", "thread_advice"]


def say_engine(calculator: EqCalculator, n_atoms: int) -> None:
    """Say which engine runs so many atoms, with how many threads, and why nothing faster does."""
    facts = calculator.engine_facts(n_atoms)
    names = facts["engine"] if isinstance(facts["engine"], list) else [facts["engine"]]
    line = f"engine {', '.join(dict.fromkeys(names))} on {facts['device']} in {facts['dtype']}"
    if facts["threads"] is not None:
        line += f", {facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    say(line)
    for name, why in facts["not_used"].items():
        say(f"  not {name}: {why}", style="yellow")
    for name in _faster(calculator, facts["not_used"]):
        say(
            f"  not {name}: it is ready and faster (a new run takes it with --engine auto)",
            style="yellow",
        )
    if "together" in facts:
        say(f"  {facts['together']}")
    if facts["threads"] is not None:
        advice = thread_advice(n_atoms, facts["threads"], usable_cores())
        if advice is not None:
            say(f"  {advice}", style="yellow")


def thread_advice(n_atoms: int, n_threads: int, n_cores: int) -> str | None:
    """Return what to change about threads, None where they are well chosen.

    Parameters
    ----------
    n_cores : that the process may use
    """
    from eqcalc.threads import ATOMS_PER_THREAD

    useful = max(1, n_atoms // ATOMS_PER_THREAD)
    if n_threads > n_cores:
        cores = f"{n_cores} core{'s' * (n_cores > 1)}"
        return f"{n_threads} threads share {cores}, and wait for each other: --threads {n_cores}"
    if n_threads > useful:
        return (
            f"{n_threads} threads are many for {n_atoms} atoms, and may wait for each other: one "
            f"per {ATOMS_PER_THREAD} atoms without --threads"
        )
    if n_threads < min(useful, n_cores):
        more = min(useful, n_cores)
        return f"more threads may be faster, if {more} cores are idle: --threads {more}"
    return None


def _faster(calculator: EqCalculator, named: dict[str, str]) -> list[str]:
    """Return faster engines that are ready, and of which nothing was said."""
    models = getattr(calculator, "models", ())
    if not models:
        return []
    from eqcalc.engines.loading import faster_and_ready

    ready = [name for model in models for name in faster_and_ready(model)]
    return [name for name in dict.fromkeys(ready) if name not in named]
