"""``eqcalc md --resume``: the calculator that a run had, and the run as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from eqcalc.cli.console import note, say
from eqcalc.cli.options import CalculatorOptions
from eqcalc.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from eqcalc.calculator import EqCalculator
    from eqcalc.simulate import MDRun
    from eqcalc.simulate.checkpoint import MDCheckpoint

__all__ = ["resumed_run"]

# Options that say nothing of the trajectory.
_ALLOWED = ("resume", "steps", "max_hours", "trust", "no_report", "as_json", "quiet")


def resumed_run(context: typer.Context, folder: Path, trust: bool) -> MDRun:
    """Return the run of a folder as it was at its last checkpoint.

    Raises
    ------
    ConfigError : other options were given, or the run was started from Python.
    CheckpointError : there is none, or the model is another one now.
    """
    from eqcalc.simulate import MDRun
    from eqcalc.simulate.checkpoint import read_checkpoint

    given = [name for name in context.params if _is_given(context, name)]
    other = [
        "a structure file" if name == "structure" else f"--{name.replace('_', '-')}"
        for name in given
        if name not in _ALLOWED
    ]
    if other:
        raise ConfigError(
            f"a run goes on as it was; {', '.join(other)} does not go together with --resume. "
            "Start a new run from its last frame to change that."
        )
    checkpoint = read_checkpoint(folder)
    if "calculator" not in checkpoint.facts["source"]:
        raise ConfigError(
            f"the run in '{folder}' was started from Python, and only there its calculator is "
            "known: eqcalc.simulate.resume_md(folder, calculator)."
        )
    calculator = _calculator_of(checkpoint, trust)
    n_steps = context.params["steps"] if "steps" in given else None
    run = MDRun.resume(folder, calculator, n_steps=n_steps)
    say(f"going on at step {checkpoint.step} of {run.settings.n_steps}")
    ramp_steps = run.settings.ramp_steps
    if ramp_steps is not None and run.settings.n_steps > ramp_steps:
        say(f"the ramp is one of {ramp_steps} steps; its end is held afterwards")
    for difference in run.not_exact:
        note(f"note: not bit for bit the run that would have been: {difference}")
    return run


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _calculator_of(checkpoint: MDCheckpoint, trust: bool) -> EqCalculator:
    """Build the calculator with the engine that ran, or the best there is where it is gone."""
    from eqcalc.cli.setup_run import set_up_calculator

    source = checkpoint.facts["source"]
    members = source["model"].get("members", [source["model"]])
    # A shipped model moves with the package; the checksum is compared afterwards.
    models = [m["path"] if Path(m["path"]).exists() else m["name"] for m in members]
    options = CalculatorOptions(models, **source["calculator"], trust=trust)
    ran = replace(options, engine=_engine_that_ran(checkpoint.facts) or options.engine)
    try:
        calculator, _ = set_up_calculator([checkpoint.atoms], ran)
    except EngineError:
        if ran == options:
            raise
        calculator, _ = set_up_calculator([checkpoint.atoms], options)
    return calculator


def _engine_that_ran(facts: dict[str, Any]) -> str | None:
    """Return the engine of all models, None where they had several."""
    found = facts["conditions"].get("engine", {}).get("engine", [])
    reports = [found] if isinstance(found, str) else found  # a committee has several
    names = {report.partition(" ")[0] for report in reports}
    return names.pop() if len(names) == 1 else None
