"""Options of ``eqcalc md`` beyond ensemble, length and output."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from eqcalc.errors import ConfigError

__all__ = [
    "LogEvery",
    "LogEveryFs",
    "Minimize",
    "MinimizeFmax",
    "MinimizeSteps",
    "RampSteps",
    "ToPressure",
    "ToTemperature",
    "given_of",
    "require_use",
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

_NPT = ("npt", "npt-anisotropic", "npt-flexible")
_ENSEMBLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "friction_per_fs": ("--friction", ("nvt-langevin",)),
    "thermostat_time_fs": ("--thermostat-time", ("nvt-nhc", *_NPT)),
    "barostat_time_fs": ("--barostat-time", _NPT),
    "pressure_gpa": ("--pressure", _NPT),
    "to_temperature_K": ("--to-temperature", ("nvt-langevin", "nvt-nhc", *_NPT)),
    "to_pressure_gpa": ("--to-pressure", _NPT),
}
"""Setting -> its option and the ensembles that use it."""

_WITH: dict[str, tuple[str, str, str]] = {
    "minimize_fmax": ("--minimize-fmax", "minimize", "--minimize"),
    "minimize_steps": ("--minimize-steps", "minimize", "--minimize"),
}
"""Setting -> its option, and the setting and option without which it says nothing."""


def given_of(**optional: Any) -> dict[str, Any]:
    """Return the settings that were given: not None, and no flag that is off."""
    return {name: value for name, value in optional.items() if value is not None}


def require_use(given: dict[str, Any], ensemble: str) -> None:
    """Refuse what the user asked for and the run would ignore.

    Raises
    ------
    ConfigError : an option belongs to other ensembles, or to another option that is missing.
    """
    for name, (option, ensembles) in _ENSEMBLES.items():
        if name in given and ensemble not in ensembles:
            *others, last = (each for each in ensembles if each not in _NPT[1:])
            names = f"{', '.join(others)} and {last}" if others else last
            raise ConfigError(f"{option} belongs to {names}, not {ensemble}.")
    for name, (option, needed, needed_option) in _WITH.items():
        if name in given and not given.get(needed):
            raise ConfigError(f"{option} goes together with {needed_option}, which is not given.")
