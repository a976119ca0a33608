"""Options of the guard rails of ``md`` and ``relax``, and what is said of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from eqcalc.cli.console import note, say
from eqcalc.errors import ConfigError

if TYPE_CHECKING:
    from eqcalc.simulate import GuardSettings

__all__ = [
    "AuditEvery",
    "MaxDrift",
    "MaxForce",
    "MaxRollBacks",
    "MaxTemperature",
    "MinDistance",
    "NoGuards",
    "OnAlarm",
    "OnDoubt",
    "about_guards",
    "chosen_guards",
    "note_guards",
    "say_guards",
]

_PANEL = "Guard rails (0 turns one off)"

OnAlarm = Annotated[
    Optional[str],
    typer.Option(
        metavar="ACTION",
        rich_help_panel=_PANEL,
        help="When distances, forces, temperature or drift make no sense: stop, queue (keep the "
        "frame, go on) or, in dynamics, halve (go back to the last checkpoint, halve the "
        "timestep) or roll-back (go back, new random numbers). Default: stop.",
        show_default=False,
    ),
]
OnDoubt = Annotated[
    Optional[str],
    typer.Option(
        metavar="ACTION",
        rich_help_panel=_PANEL,
        help="When the training saw nothing like it. Default: queue.",
        show_default=False,
    ),
]
MinDistance = Annotated[
    Optional[float],
    typer.Option(
        rich_help_panel=_PANEL,
        help="Å, of two atoms. Default: half the sum of their covalent radii.",
        show_default=False,
    ),
]
MaxForce = Annotated[
    Optional[float],
    typer.Option(
        rich_help_panel=_PANEL, help="eV/Å, on an atom. Default: 100.", show_default=False
    ),
]
MaxTemperature = Annotated[
    Optional[float],
    typer.Option(
        rich_help_panel=_PANEL,
        help="K. Default: ten times that asked for, at least 5000.",
        show_default=False,
    ),
]
MaxDrift = Annotated[
    Optional[float],
    typer.Option(
        rich_help_panel=_PANEL,
        help="meV/atom/ps, of the energy that nve, nvt-nhc and npt conserve. Default: 5.",
        show_default=False,
    ),
]
AuditEvery = Annotated[
    Optional[int],
    typer.Option(
        rich_help_panel=_PANEL,
        help="Steps between two self-audits: the frame again in float64, with a fresh neighbour "
        "list. Default: 5000.",
        show_default=False,
    ),
]
MaxRollBacks = Annotated[
    Optional[int],
    typer.Option(
        rich_help_panel=_PANEL,
        help="How often to go back, in all, before stopping. Default: 5.",
        show_default=False,
    ),
]
NoGuards = Annotated[
    bool,
    typer.Option("--no-guards", rich_help_panel=_PANEL, help="No guards and no audits."),
]

_SETTINGS = {
    "on_alarm": "on_alarm",
    "on_doubt": "on_doubt",
    "min_distance": "min_distance",
    "max_force": "max_force",
    "max_temperature": "max_temperature_K",
    "max_drift": "max_drift_mev_per_atom_ps",
    "audit_every": "audit_every",
    "max_roll_backs": "max_roll_backs",
}
"""Parameter of a verb -> setting."""
_BACK = {"halve", "roll-back"}  # actions that go back


def chosen_guards(parameters: dict[str, Any]) -> GuardSettings:
    """Return the settings that a verb's parameters stand for.

    Raises
    ------
    ConfigError : a value makes no sense, or comes with ``--no-guards``.
    """
    from eqcalc.simulate import GuardSettings

    given = {
        setting: parameters[name]
        for name, setting in _SETTINGS.items()
        if parameters.get(name) is not None
    }
    if not parameters["no_guards"]:
        settings = GuardSettings(**given)
        if "max_roll_backs" in given and not {settings.on_alarm, settings.on_doubt} & _BACK:
            raise ConfigError(
                "--max-roll-backs goes with --on-alarm or --on-doubt of roll-back or halve, and "
                "would have no effect without."
            )
        return settings
    if given:
        raise ConfigError(
            f"--no-guards turns off what {', '.join(given)} would change; give one or the other."
        )
    return GuardSettings.off()


def say_guards(summary: dict[str, Any], n_steps: int) -> None:
    """Say in a line what is watched in so many steps, and what is not."""
    parts = [", ".join(dict.fromkeys(summary["watched"])) or "nothing"]
    if summary["audit_every"] > n_steps:
        parts.append(f"no self-audit before step {summary['audit_every']}")
    elif summary["audit_every"] > 0:
        parts.append(f"self-audit every {summary['audit_every']} steps")
    if summary["not_watched"]:
        parts.append(f"not {', '.join(summary['not_watched'])} (manifest.json says why)")
    say(f"guards: {'; '.join(parts)}")


def note_guards(said: tuple[str, ...]) -> None:
    """Tell at once what guards found and did."""
    for sentence in said:
        note(f"guard: {sentence}")


def about_guards(summary: dict[str, Any]) -> dict[str, str]:
    """Return lines of a run's last summary; none of a run that went smoothly, but for audits."""
    found = {}
    if summary["audits_passed"]:
        found["self-audits"] = f"{summary['audits_passed']} passed"
    if summary.get("roll_backs"):
        times = summary["roll_backs"]
        found["went back"] = "once" if times == 1 else f"{times} times"
        if summary["halvings"]:
            found["went back"] += f"; the timestep is {summary['timestep_fs']:g} fs now"
    if summary["queued"]:
        frames = "1 frame" if summary["queued"] == 1 else f"{summary['queued']} frames"
        found["queued"] = f"{frames} with the reason, in queued.extxyz"
    return found
