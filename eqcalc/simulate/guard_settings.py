"""What a user chooses about the guard rails of a run, checked before anything is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from eqcalc.arguments import require_at_least
from eqcalc.errors import ConfigError, did_you_mean

__all__ = ["ALARM_ACTIONS", "DOUBT_ACTIONS", "GuardSettings"]

ALARM_ACTIONS: tuple[str, ...] = ("stop", "halve", "roll-back", "queue")
DOUBT_ACTIONS: tuple[str, ...] = ("queue", "stop", "halve", "roll-back")
"""The first of each is the default."""


@dataclass(frozen=True)
class GuardSettings:
    """Guard rails of a run: limits that no sane simulation reaches, and what happens there.

    Four guards raise an **alarm**: the distance of two atoms, the largest force, the temperature
    (of all atoms, and of one) and the drift of what the ensemble conserves. Two raise a
    **doubt**: the spread of a committee, and what the training has not seen. An alarm says
    that the numbers mean nothing any more, a doubt that they may not. 0 turns a guard off, None
    stands for its default.

    Parameters
    ----------
    on_alarm, on_doubt : "stop"; "halve" (back to the last good checkpoint, and on from it with
        half the timestep); "roll-back" (back to it, with new random numbers, which are new
        velocities of the same kinetic energy where the ensemble has no noise); or "queue" (go
        on). Whatever is done, the frame goes to ``queued.extxyz`` with the reason.
    every : steps between two looks. Forces and temperature are looked at before every row and
        frame too, and distances before every checkpoint
    min_distance : Å. None: half the sum of the two atoms' covalent radii (C-H 0.54, C-C 0.76,
        Cu-Cu 1.32 Å); bonds of hot matter are compressed to three quarters of it
    max_force : eV/Å. 100 moves a hydrogen atom by 0.24 Å within a step of 0.5 fs
    max_temperature_K : None: the highest of 5000 K, ten times the temperature asked for, and
        what equilibrium has with a probability of 1e-20 (few degrees of freedom fluctuate much)
    max_atom_kinetic_eV : of one atom, which a large system's temperature does not show. None: 15
        eV, above the strongest bond (CO, 11 eV), or more where heat alone gives it; none where
        ``max_temperature_K`` is 0, of which it is a part
    max_drift_mev_per_atom_ps : of the conserved quantity of "nve", "nvt-nhc" and "npt", from one
        picosecond to the next. None: 5, which is 20 K/ps; Langevin conserves nothing
    max_spread : eV/Å, spread of the force on an atom: the length of its components' sample standard
        deviations over a committee (n_members - 1 degrees of freedom). None: 1
    ranges : whether pairs, distances and numbers of neighbours are compared with those of the
        training data, where the model's card has them
    max_roll_backs : in all, halvings among them; then the run stops
    max_halvings : of the timestep, in all
    max_queued : frames; then only the first reason of a guard that had said nothing yet is kept
    audit_every : steps between two self-audits; None: 5000 where the calculator has a float64
        reference (``EqCalculator``), else none

    Raises
    ------
    ConfigError : a value is unknown or out of range.

    >>> GuardSettings(on_alarm="roll-back").max_force
    100.0
    """

    on_alarm: str = "stop"
    on_doubt: str = "queue"
    every: int = 50
    min_distance: float | None = None
    max_force: float = 100.0
    max_temperature_K: float | None = None
    max_atom_kinetic_eV: float | None = None
    max_drift_mev_per_atom_ps: float | None = None
    max_spread: float | None = None
    ranges: bool = True
    max_roll_backs: int = 5
    max_halvings: int = 3
    max_queued: int = 100
    audit_every: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("on_alarm", ALARM_ACTIONS), ("on_doubt", DOUBT_ACTIONS)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(
                    f"{name} must be one of {', '.join(known)}, not {value!r}."
                    + did_you_mean(str(value), known)
                )
        for name in _LIMITS:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(
                    f"{name} must be a number above 0, or 0 to turn that guard off; not {value!r}."
                )
        for name, smallest in _COUNTS.items():
            value = getattr(self, name)
            if name == "audit_every" and value is None:
                continue
            require_at_least(smallest, **{name: value})
        if not isinstance(self.ranges, bool):
            raise ConfigError(f"ranges must be True or False, not {self.ranges!r}.")

    @classmethod
    def off(cls) -> GuardSettings:
        """Return settings without any guard or audit."""
        return cls(
            min_distance=0,
            max_force=0,
            max_temperature_K=0,
            max_atom_kinetic_eV=0,
            max_drift_mev_per_atom_ps=0,
            max_spread=0,
            ranges=False,
            audit_every=0,
        )

    @classmethod
    def of_stored(cls, stored: dict[str, object] | None) -> GuardSettings:
        """Return the settings that ``dataclasses.asdict`` made of others; None: the default."""
        known = {field.name for field in fields(cls)}
        return cls(**{k: v for k, v in (stored or {}).items() if k in known})  # type: ignore[arg-type]


_LIMITS = (
    "min_distance",
    "max_force",
    "max_temperature_K",
    "max_atom_kinetic_eV",
    "max_drift_mev_per_atom_ps",
    "max_spread",
)
_COUNTS = {
    "every": 1,
    "max_roll_backs": 0,
    "max_halvings": 0,
    "max_queued": 0,
    "audit_every": 0,
}
