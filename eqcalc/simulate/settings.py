"""What a user chooses about a run, checked before anything is computed."""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, field

from eqcalc.arguments import require_at_least, require_choice, require_positive
from eqcalc.errors import ConfigError
from eqcalc.simulate.guard_settings import GuardSettings

__all__ = [
    "BAROSTATS",
    "CHAINS",
    "ENSEMBLES",
    "OPTIMIZERS",
    "TRAJECTORY_SUFFIXES",
    "MDSettings",
    "RelaxSettings",
    "criterion_of",
]

BAROSTATS: tuple[str, ...] = ("npt", "npt-anisotropic", "npt-flexible")
"""Ensembles at constant pressure."""
CHAINS: tuple[str, ...] = ("nvt-nhc", *BAROSTATS)
"""Ensembles with a Nosé-Hoover chain."""
ENSEMBLES: tuple[str, ...] = ("nve", "nvt-langevin", *CHAINS)
USED_BY: dict[str, tuple[str, ...]] = {
    "friction_per_fs": ("nvt-langevin",),
    "thermostat_time_fs": CHAINS,
    "barostat_time_fs": BAROSTATS,
    "pressure_gpa": BAROSTATS,
    "to_temperature_K": ("nvt-langevin", *CHAINS),
    "to_pressure_gpa": BAROSTATS,
}
"""Setting -> the ensembles that use it; all others are used by every ensemble."""
OPTIMIZERS: tuple[str, ...] = ("bfgs", "lbfgs", "fire")
TRAJECTORY_SUFFIXES: dict[str, str] = {"traj": "traj", "extxyz": "xyz"}
"""Format of a trajectory -> suffix of its file."""

LONGEST_TIMESTEP_FS = 10.0
"""Twenty of them are an oscillation of heavy metals, 200 fs: above, no motion is stable."""
_ATMOSPHERE = {"bar": 1.01325, "kPa": 101.325, "hPa": 1013.25, "Pa": 101325.0}
_HIGHEST_GPA = 10_000.0
_STRONGEST = 0.5  # of a friction, per timestep
_FEWEST_STEPS = 5  # of a time in which a thermostat or a barostat swings


@dataclass(frozen=True)
class MDSettings:
    """A molecular dynamics run.

    Parameters
    ----------
    ensemble : "nve", "nvt-langevin", "nvt-nhc" (Nosé-Hoover chain), or Martyna-Tobias-Klein with
        a cell periodic in three directions: "npt" (the volume changes), "npt-anisotropic" (the
        lengths of axes at right angles) or "npt-flexible" (lengths and angles)
    temperature_K : of the thermostat, and of the first velocities where the
        structure brings none. An "nve" run that starts in a minimum settles near
        half of it: the other half goes into the bonds.
    timestep_fs : 0.5 suits molecules with hydrogen
    n_steps : number of time steps
    seed : of the first velocities and of Langevin's noise
    friction_per_fs : of "nvt-langevin"; velocities forget themselves in its inverse, 100 fs
    thermostat_time_fs : of "nvt-nhc" and "npt", "npt-anisotropic", "npt-flexible"
    barostat_time_fs, pressure_gpa : of these three; a positive pressure compresses
    log_every : steps between two frames of the trajectory and rows of the log; 10, unless
        log_every_fs is given
    log_every_fs : the same as a time, a multiple of the timestep; it becomes ``log_every``
    to_temperature_K, to_pressure_gpa : to which the targets of thermostat and barostat change,
        linearly, during the first ``ramp_steps`` steps; they stay there afterwards
    ramp_steps : by default ``n_steps``; a run that is made longer keeps its ramp
    trajectory_format : "traj" or "extxyz"
    checkpoint_every : steps between two checkpoints, from which a run that ended can go on
    minimize : relax the positions first, not the cell, with LBFGS; velocities are drawn for the
        minimum, also where the structure brings some
    minimize_fmax, minimize_steps : eV/Å below which all forces end that, and steps at most
    guards : limits at which the run stops, goes back or notes a frame, and self-audits

    Raises
    ------
    ConfigError : a value is unknown or out of range.
    """

    ensemble: str = "nvt-langevin"
    temperature_K: float = 300.0
    timestep_fs: float = 0.5
    n_steps: int = 2000
    seed: int = 0
    friction_per_fs: float = 0.01
    thermostat_time_fs: float = 100.0
    barostat_time_fs: float = 1000.0
    pressure_gpa: float = 0.0
    log_every: int = None  # type: ignore[assignment]  # always a number afterwards
    trajectory_format: str = "traj"
    checkpoint_every: int = 1000
    minimize: bool = False
    minimize_fmax: float = 0.05
    minimize_steps: int = 500
    log_every_fs: InitVar[float | None] = None
    to_temperature_K: float | None = None
    to_pressure_gpa: float | None = None
    ramp_steps: int | None = None
    guards: GuardSettings = field(default_factory=GuardSettings)

    def __post_init__(self, log_every_fs: float | None) -> None:
        require_choice(ENSEMBLES, ensemble=self.ensemble)
        require_choice(TRAJECTORY_SUFFIXES, trajectory_format=self.trajectory_format)
        self._require_temperature(self.temperature_K)
        self._require_timestep()
        require_at_least(1, n_steps=self.n_steps)
        require_at_least(0, seed=self.seed)
        self._settle_log_every(log_every_fs)
        require_at_least(1, log_every=self.log_every)
        require_at_least(1, checkpoint_every=self.checkpoint_every)
        require_at_least(1, minimize_steps=self.minimize_steps)
        require_positive(minimize_fmax=self.minimize_fmax)
        for name in ("friction_per_fs", "thermostat_time_fs", "barostat_time_fs"):
            require_positive(**{name: getattr(self, name)})
        self._require_times()
        _require_pressure(self.pressure_gpa)
        self._settle_ramp()

    def _require_temperature(self, temperature_K: float) -> None:
        if not (math.isfinite(temperature_K) and temperature_K >= 0):
            raise ConfigError(f"the temperature must be 0 K or more, not {temperature_K} K.")
        if temperature_K == 0 and self.ensemble in CHAINS:
            raise ConfigError(
                f"ensemble '{self.ensemble}' needs a temperature above 0 K: the mass of a "
                "Nosé-Hoover chain is proportional to it. Use nvt-langevin to cool to 0 K."
            )

    def _require_times(self) -> None:
        """Refuse constants of a thermostat or barostat that are of another unit by their size."""
        strength = self.friction_per_fs * self.timestep_fs
        if self.ensemble == "nvt-langevin" and strength >= _STRONGEST:
            raise ConfigError(
                f"a friction of {self.friction_per_fs:g} /fs stops every motion within a few "
                f"timesteps of {self.timestep_fs:g} fs. The unit is 1/fs: 0.01 suits most, and "
                "1/ps is 0.001."
            )
        for name, ensembles in (("thermostat", CHAINS), ("barostat", BAROSTATS)):
            time_fs = getattr(self, f"{name}_time_fs")
            if self.ensemble in ensembles and time_fs < _FEWEST_STEPS * self.timestep_fs:
                raise ConfigError(
                    f"a {name}_time_fs of {time_fs:g} fs is less than {_FEWEST_STEPS} timesteps of "
                    f"{self.timestep_fs:g} fs, which the integrator cannot follow. The unit is the "
                    "femtosecond; 0.1 ps are 100."
                )

    def _settle_ramp(self) -> None:
        """Check a ramp, and make it as long as the run where nothing else is said."""
        if self.to_temperature_K is not None:
            if self.ensemble == "nve":
                raise ConfigError(
                    "to_temperature_K is of a thermostat, and ensemble 'nve' has none; use "
                    "nvt-langevin or nvt-nhc."
                )
            self._require_temperature(self.to_temperature_K)
        if self.to_pressure_gpa is not None:
            if self.ensemble not in BAROSTATS:
                raise ConfigError(
                    f"to_pressure_gpa is of a barostat, and ensemble '{self.ensemble}' has none; "
                    "use npt."
                )
            _require_pressure(self.to_pressure_gpa, "to_pressure_gpa")
        if self.to_temperature_K is None and self.to_pressure_gpa is None:
            if self.ramp_steps is not None:
                raise ConfigError(
                    "ramp_steps is of a ramp: give to_temperature_K or to_pressure_gpa as well."
                )
            return
        steps = self.n_steps if self.ramp_steps is None else self.ramp_steps
        require_at_least(1, ramp_steps=steps)
        object.__setattr__(self, "ramp_steps", steps)

    def _settle_log_every(self, log_every_fs: float | None) -> None:
        """Make steps of a time."""
        if log_every_fs is None:
            object.__setattr__(self, "log_every", 10 if self.log_every is None else self.log_every)
            return
        if self.log_every is not None:
            raise ConfigError(
                f"log_every={self.log_every} and log_every_fs={log_every_fs:g} do not go together: "
                "give steps or a time."
            )
        require_positive(log_every_fs=log_every_fs)
        steps = _steps_of("log_every_fs", log_every_fs, self.timestep_fs)
        object.__setattr__(self, "log_every", steps)

    def _require_timestep(self) -> None:
        require_positive(timestep_fs=self.timestep_fs)
        if self.timestep_fs > LONGEST_TIMESTEP_FS:
            raise ConfigError(
                f"a timestep of {self.timestep_fs} fs is refused: atoms oscillate in 10 fs (C-H) "
                f"to 200 fs (heavy metals) and each oscillation needs about 20 steps, so nothing "
                f"above {LONGEST_TIMESTEP_FS:g} fs is stable. The unit is the femtosecond; "
                "0.5 suits molecules, 1 to 5 metals."
            )


@dataclass(frozen=True)
class RelaxSettings:
    """A relaxation to a minimum of the energy, or of the enthalpy with a cell.

    Parameters
    ----------
    fmax : eV/Å; every force (with ``cell`` also the virial per atom, in eV) below it
    max_steps : after which an unfinished relaxation ends
    cell : also relax the cell, through ASE's FrechetCellFilter
    pressure_gpa : external pressure, only with ``cell``; positive compresses
    optimizer : "bfgs", "lbfgs" or "fire"
    trajectory_format : "traj" or "extxyz"
    guards : of which a relaxation has those of distance, force, spread and ranges; what the first
        structure has is not held against it

    Raises
    ------
    ConfigError : a value is unknown or out of range; a guard that needs a dynamics.
    """

    fmax: float = 0.01
    max_steps: int = 500
    cell: bool = False
    pressure_gpa: float = 0.0
    optimizer: str = "bfgs"
    trajectory_format: str = "traj"
    guards: GuardSettings = field(default_factory=GuardSettings)

    def __post_init__(self) -> None:
        require_choice(OPTIMIZERS, optimizer=self.optimizer)
        require_choice(TRAJECTORY_SUFFIXES, trajectory_format=self.trajectory_format)
        require_positive(fmax=self.fmax)
        _require_guards_of_a_relaxation(self.guards)
        require_at_least(1, max_steps=self.max_steps)
        _require_pressure(self.pressure_gpa)
        if self.pressure_gpa != 0 and not self.cell:
            raise ConfigError(
                f"a pressure of {self.pressure_gpa} GPa acts on the cell, which stays fixed; "
                "relax the cell too (cell=True) or leave the pressure out."
            )


def criterion_of(*, cell: bool) -> tuple[str, str]:
    """Return what a relaxation brings below its ``fmax``, and the unit of that.

    >>> criterion_of(cell=True)
    ('largest force or virial', 'eV/Å or eV/atom')
    """
    if cell:
        return "largest force or virial", "eV/Å or eV/atom"
    return "largest force", "eV/Å"


def _steps_of(what: str, time_fs: float, timestep_fs: float) -> int:
    """Return how many steps a time is, of which it must be a multiple."""
    steps = time_fs / timestep_fs
    whole = round(steps)
    if whole < 1 or abs(steps - whole) > 1e-6 * steps:
        below, above = math.floor(steps) * timestep_fs, math.ceil(steps) * timestep_fs
        near = f"{above:g}" if below == 0 else f"{below:g} or {above:g}"
        raise ConfigError(
            f"{what} must be a multiple of the timestep of {timestep_fs:g} fs, not {time_fs:g} fs; "
            f"near it is {near} fs."
        )
    return whole


def _require_pressure(pressure_gpa: float, name: str = "the pressure") -> None:
    """Refuse what is no pressure in GPa by the look of it: one atmosphere in another unit."""
    if not math.isfinite(pressure_gpa):
        raise ConfigError(f"{name} must be a number in GPa, not {pressure_gpa}.")
    for unit, atmosphere in _ATMOSPHERE.items():
        if math.isclose(abs(pressure_gpa), atmosphere, rel_tol=1e-3):
            raise ConfigError(
                f"a pressure of {pressure_gpa:g} is one atmosphere in {unit}, and GPa are meant: "
                "0.000101325."
            )
    if abs(pressure_gpa) > _HIGHEST_GPA:
        raise ConfigError(
            f"a pressure of {pressure_gpa:g} GPa is above that of any planet's middle; 1 bar is "
            "0.0001 GPa."
        )


def _require_guards_of_a_relaxation(guards: GuardSettings) -> None:
    for name in ("on_alarm", "on_doubt"):
        action = getattr(guards, name)
        if action not in ("stop", "queue"):
            raise ConfigError(
                f"{name} = '{action}' needs a timestep and checkpoints, which a relaxation does "
                "not have; take 'stop' or 'queue'."
            )
    for name in ("max_temperature_K", "max_atom_kinetic_eV", "max_drift_mev_per_atom_ps"):
        if getattr(guards, name):
            raise ConfigError(f"{name} watches moving atoms; a relaxation has none. Leave it out.")
