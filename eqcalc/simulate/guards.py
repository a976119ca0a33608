"""All guards of a run together: which there are, which look when, and what they remember.

What is done about what they find is :mod:`eqcalc.simulate.guard_rails`'.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ase import Atoms

from eqcalc.errors import ConfigError
from eqcalc.model_file.seen import SeenRanges
from eqcalc.simulate.guard_kinds import (
    Distance,
    Drift,
    Force,
    Geometry,
    Guard,
    Motion,
    Range,
    Spread,
    Temperature,
)
from eqcalc.simulate.guard_settings import GuardSettings
from eqcalc.simulate.settings import CHAINS

__all__ = ["CONSERVING", "Alarm", "Guards", "has_spread"]

CONSERVING: tuple[str, ...] = ("nve", *CHAINS)
"""Ensembles whose integrator conserves a quantity, unless its targets change."""

_DRIFT_MEV_PER_ATOM_PS = 5.0
_SPREAD = 1.0  # eV/Å; active learning takes frames from 0.1 to 0.3 on


class Alarm(NamedTuple):
    """What a guard says of a step; ``is_doubt`` where the numbers may still mean something."""

    guard: str
    reason: str
    is_doubt: bool = False


def has_spread(atoms: Atoms) -> bool:
    """Tell whether the calculator is a committee."""
    return len(getattr(atoms.calc, "models", ())) > 1


class Guards:
    """All guards of a run.

    Parameters
    ----------
    atoms : the run's own, with its calculator
    motion : None in a relaxation

    Attributes
    ----------
    watched : names of the guards that look
    not_watched : of those that do not and could be asked for: why

    Raises
    ------
    ConfigError : a guard was asked for that these atoms or this dynamics cannot have.
    """

    def __init__(self, atoms: Atoms, settings: GuardSettings, motion: Motion | None = None):
        self.not_watched: dict[str, str] = {}
        self._goes_on = settings.on_alarm == "queue"  # past an alarm, to what other guards say
        reach = Distance.reach(atoms, settings.min_distance)
        self._geometry = Geometry(atoms, max(reach, 0.1))
        self._guards: list[Guard] = []
        self._forgiving: list[Distance | Force] = []
        self._drift: Drift | None = None
        if settings.min_distance != 0:
            self._forgiving.append(Distance(atoms, settings.min_distance, self._geometry))
        if settings.max_force != 0:
            self._forgiving.append(Force(atoms, settings.max_force))
        self._guards += self._forgiving
        if motion is not None:
            self._add_motion(atoms, settings, motion)
        self._add_doubts(atoms, settings)
        self.watched = [guard.name for guard in self._guards]

    def _add_motion(self, atoms: Atoms, settings: GuardSettings, motion: Motion) -> None:
        if settings.max_temperature_K != 0 or settings.max_atom_kinetic_eV:
            self._guards.append(Temperature(atoms, settings, motion))
        limit = settings.max_drift_mev_per_atom_ps
        if limit == 0:
            return
        if motion.conserved is None:
            self.not_watched["drift"] = motion.why_none
            if limit is not None:
                raise ConfigError(
                    "max_drift_mev_per_atom_ps (--max-drift) watches what an ensemble conserves: "
                    f"that of {', '.join(CONSERVING)}, whose energies the calculator has to give "
                    f"('free_energy'); here {motion.why_none}. Leave it out."
                )
            return
        limit = _DRIFT_MEV_PER_ATOM_PS if limit is None else limit
        self._drift = Drift(atoms, limit, motion.conserved)
        self._guards.append(self._drift)

    def _add_doubts(self, atoms: Atoms, settings: GuardSettings) -> None:
        limit = settings.max_spread
        if has_spread(atoms) and limit != 0:
            self._guards.append(Spread(atoms, _SPREAD if limit is None else limit))
        elif limit:
            raise ConfigError(
                "max_spread watches the spread of a committee, and the calculator is no "
                "committee; give EqCalculator several models, or leave it out."
            )
        models = getattr(atoms.calc, "models", ())
        if settings.ranges and models:
            cards = [model.card for model in models]
            for card in cards:
                if card.seen:
                    of = card.name if len(cards) > 1 else None
                    seen = SeenRanges(card.seen, card.cutoff)
                    self._guards.append(Range(seen, self._geometry, of))
            silent = [card.name for card in cards if not card.seen]
            if silent:
                alone = len(silent) == len(cards)
                self.not_watched["range" if alone else f"range of {', '.join(silent)}"] = (
                    f"the card of {', '.join(silent)} does not record what its training data held"
                )

    def look(self, time_fs: float = 0.0) -> list[Alarm]:
        """Return what is wrong with the present step: the first alarm, or all doubts.

        The atoms' energy and forces have been computed.
        """
        self._geometry.begin()
        if self._drift is not None:
            self._drift.time_fs = time_fs
        return self._look(self._guards)

    def glance(self, *, cheap: bool) -> list[Alarm]:
        """Return the first alarm of those guards that remember nothing; doubts are not raised.

        Parameters
        ----------
        cheap : leave out those that cost more than a few microseconds
        """
        self._geometry.begin()
        return self._look(
            guard
            for guard in self._guards
            if not (guard.is_doubt or guard is self._drift) and (guard.is_cheap or not cheap)
        )

    def _look(self, guards: Iterable[Guard]) -> list[Alarm]:
        found = []
        for guard in guards:
            reason = guard.look()
            if reason is not None:
                found.append(Alarm(guard.name, reason, guard.is_doubt))
                if not (guard.is_doubt or self._goes_on):
                    break
        self._geometry.begin()
        return found

    def forgive(self) -> None:
        """Hold nothing against a structure that it has now: a relaxation may begin badly."""
        for guard in self._forgiving:
            guard.forgive()
        self._geometry.begin()

    def state(self) -> dict[str, Any]:
        """Return what the guards remember, as JSON can hold it."""
        return {} if self._drift is None else dict(self._drift.state)

    def restore(self, state: dict[str, Any]) -> None:
        """Give the guards what others remembered."""
        if self._drift is not None and state:
            self._drift.state = dict(state)
