"""LAMMPS's fixes that move atoms, as the settings of ASE's integrators.

| fix | ASE's integrator |
|---|---|
| nve | VelocityVerlet |
| nve and langevin | Langevin |
| nvt | NoseHooverChainNVT |
| npt | IsotropicMTKNPT |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ase import units

from eqcalc.errors import ConfigError
from eqcalc.simulate.lammps_style.unit_system import UnitSystem
from eqcalc.simulate.settings import MDSettings

__all__ = ["Fix", "langevin_fix", "nose_hoover_fix", "settings_of"]


@dataclass(frozen=True)
class Fix:
    """A fix, in ASE's terms.

    Parameters
    ----------
    style : "nve", "langevin", "nvt" or "npt"
    start_K, stop_K : temperature at the first and last step of a run
    damp_fs, pressure_damp_fs : relaxation times of thermostat and barostat
    pressure_gpa : of "npt"
    seed : of "langevin"
    """

    style: str
    start_K: float = 0.0
    stop_K: float = 0.0
    damp_fs: float = 100.0
    pressure_damp_fs: float = 1000.0
    pressure_gpa: float = 0.0
    seed: int = 0


def langevin_fix(t_start: float, t_stop: float, damp: float, seed: int, system: UnitSystem) -> Fix:
    """Return ``fix langevin Tstart Tstop damp seed``.

    Raises
    ------
    ConfigError : a value is out of range.
    """
    _require_temperatures("langevin", t_start, t_stop, above_zero=False)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 1:
        raise ConfigError(f"the seed of fix langevin must be a whole number >= 1, not {seed!r}.")
    damp_fs = _time("langevin's damp", damp, system)
    return Fix("langevin", float(t_start), float(t_stop), damp_fs, seed=seed)


def nose_hoover_fix(
    style: str,
    temp: Sequence[float],
    iso: Sequence[float] | None,
    system: UnitSystem,
) -> Fix:
    """Return ``fix nvt temp ...`` or ``fix npt temp ... iso ...``.

    Raises
    ------
    ConfigError : not three numbers, a value out of range, or a target that changes.
    """
    t_start, t_stop, t_damp = _three(f"temp of fix {style}", temp, "Tstart, Tstop, Tdamp")
    _require_temperatures(style, t_start, t_stop, above_zero=True)
    if t_start != t_stop:
        raise ConfigError(
            f"fix {style} from {t_start:g} K to {t_stop:g} K: the masses of ASE's chain belong to "
            "one temperature. Take fix_nve with fix_langevin, whose temperature may change, or "
            "several runs."
        )
    damp_fs = _time(f"Tdamp of fix {style}", t_damp, system)
    if iso is None:
        return Fix(style, t_start, t_stop, damp_fs)
    p_start, p_stop, p_damp = _three(f"iso of fix {style}", iso, "Pstart, Pstop, Pdamp")
    if not math.isfinite(p_start) or p_start != p_stop:
        raise ConfigError(
            f"fix {style} from {p_start:g} to {p_stop:g} {system.pressure_name}: ASE's barostat "
            "holds one pressure; give it twice, and several runs to change it."
        )
    return Fix(
        style,
        t_start,
        t_stop,
        damp_fs,
        pressure_damp_fs=_time(f"Pdamp of fix {style}", p_damp, system),
        pressure_gpa=p_start * system.pressure / units.GPa,
    )


def settings_of(fixes: Mapping[str, Fix], timestep_fs: float) -> MDSettings:
    """Return the settings of the integrator that the fixes make together.

    Raises
    ------
    ConfigError : nothing moves the atoms, or two fixes do.
    """
    movers = [style for style in fixes if style != "langevin"]
    if not movers:
        beside = " beside fix_langevin, which only adds friction and noise" if fixes else ""
        raise ConfigError(
            f"no fix moves the atoms; add fix_nve(){beside}, or take fix_nvt(...) or fix_npt(...)."
        )
    if len(movers) > 1:
        raise ConfigError(
            f"fixes {' and '.join(movers)} would both move every atom; take one away with unfix()."
        )
    (style,) = movers
    if style == "nve" and "langevin" not in fixes:
        return MDSettings(ensemble="nve", timestep_fs=timestep_fs)
    if style != "nve" and "langevin" in fixes:
        raise ConfigError(
            f"fix langevin and fix {style} are two thermostats; combine langevin with fix_nve, or "
            f"unfix('langevin')."
        )
    fix = fixes["langevin"] if style == "nve" else fixes[style]
    if style == "nve":
        return MDSettings(
            ensemble="nvt-langevin",
            temperature_K=fix.start_K,
            friction_per_fs=1.0 / fix.damp_fs,
            seed=fix.seed,
            timestep_fs=timestep_fs,
        )
    return MDSettings(
        ensemble={"nvt": "nvt-nhc", "npt": "npt"}[style],
        temperature_K=fix.start_K,
        thermostat_time_fs=fix.damp_fs,
        barostat_time_fs=fix.pressure_damp_fs,
        pressure_gpa=fix.pressure_gpa,
        timestep_fs=timestep_fs,
    )


def _three(what: str, values: Sequence[float], names: str) -> tuple[float, float, float]:
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != 3:
        raise ConfigError(f"{what} takes three numbers ({names}), not {values!r}.")
    first, second, third = (float(value) for value in values)
    return first, second, third


def _require_temperatures(style: str, start: float, stop: float, *, above_zero: bool) -> None:
    for value in (start, stop):
        if not (math.isfinite(value) and (value > 0 if above_zero else value >= 0)):
            least = "above 0 K" if above_zero else "0 K or more"
            raise ConfigError(f"the temperatures of fix {style} must be {least}, not {value:g} K.")


def _time(what: str, value: float, system: UnitSystem) -> float:
    """Return a time in fs."""
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{what} is a time in {system.time_name} above 0, not {value!r}.")
    return value * system.time_fs
