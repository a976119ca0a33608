"""Options of ``eqcalc md`` beyond ensemble, length and output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from eqcalc.cli.option_names import FILLED_FROM
from eqcalc.errors import ConfigError

if TYPE_CHECKING:
    from eqcalc.simulate import MDSettings

__all__ = [
    "LogEvery",
    "LogEveryFs",
    "Minimize",
    "MinimizeFmax",
    "MinimizeSteps",
    "RampSteps",
    "ToPressure",
    "ToTemperature",
    "chosen_settings",
]

LogEvery = Annotated[
    Optional[int], typer.Option(help="Steps between two frames and rows of the log. Default: 10.")
]
LogEveryFs = Annotated[
    Optional[float],
    typer.Option(help="The same as a time: fs, a multiple of the timestep.", show_default=False),
]
ToTemperature = Annotated[
    Optional[float],
    typer.Option(
        help="K, to which the thermostat goes from --temperature, linearly.", show_default=False
    ),
]
ToPressure = Annotated[
    Optional[float],
    typer.Option(
        help="GPa, to which the barostat goes from --pressure, linearly.", show_default=False
    ),
]
RampSteps = Annotated[
    Optional[int],
    typer.Option(
        help="Steps after which it is there, and stays. Default: all of --steps.",
        show_default=False,
    ),
]
Minimize = Annotated[
    bool,
    typer.Option(
        "--minimize", help="Relax the positions first, then draw velocities; the cell stays."
    ),
]
MinimizeFmax = Annotated[
    Optional[float],
    typer.Option(help="eV/Å, with --minimize: all forces below it. Default: 0.05."),
]
MinimizeSteps = Annotated[
    Optional[int], typer.Option(help="With --minimize: steps at most. Default: 500.")
]

_WITH: dict[str, tuple[str, str, str]] = {
    "minimize_fmax": ("--minimize-fmax", "minimize", "--minimize"),
    "minimize_steps": ("--minimize-steps", "minimize", "--minimize"),
}
"""Setting -> its option, and the setting and option without which it says nothing."""


_SETTINGS = (
    "ensemble",
    "temperature_K",
    "timestep_fs",
    "n_steps",
    "seed",
    "friction_per_fs",
    "thermostat_time_fs",
    "barostat_time_fs",
    "pressure_gpa",
    "to_temperature_K",
    "to_pressure_gpa",
    "ramp_steps",
    "minimize",
    "minimize_fmax",
    "minimize_steps",
    "trajectory_format",
    "log_every",
    "log_every_fs",
    "checkpoint_every",
)
"""Settings that the verb has an option for."""


def chosen_settings(parameters: dict[str, Any]) -> MDSettings:
    """Return the settings that the verb's parameters stand for, guards among them.

    Raises
    ------
    ConfigError : an option would be ignored, or a value makes no sense.
    """
    from eqcalc.cli.guard_options import chosen_guards
    from eqcalc.simulate import MDSettings

    asked = {setting: parameters[FILLED_FROM.get(setting, setting)] for setting in _SETTINGS}
    given = {setting: value for setting, value in asked.items() if value is not None}
    _require_use(given, parameters["ensemble"])
    return MDSettings(guards=chosen_guards(parameters), **given)


def _require_use(given: dict[str, Any], ensemble: str) -> None:
    """Refuse what the user asked for and the run would ignore.

    Raises
    ------
    ConfigError : an option belongs to other ensembles, or to another option that is missing.
    """
    from eqcalc.simulate.settings import BAROSTATS, USED_BY

    for name, ensembles in USED_BY.items():
        if name in given and ensemble not in ensembles:
            *others, last = (each for each in ensembles if each not in BAROSTATS[1:])
            names = f"{', '.join(others)} and {last}" if others else last
            option = "--" + FILLED_FROM[name].replace("_", "-")
            raise ConfigError(f"{option} belongs to {names}, not {ensemble}.")
    for name, (option, needed, needed_option) in _WITH.items():
        if name in given and not given.get(needed):
            raise ConfigError(f"{option} goes together with {needed_option}, which is not given.")
