"""What is done where a guard of a run raises an alarm, and what of that is kept.

A run that goes back does so to its last good checkpoint; the checkpoint is written anew with the
new timestep or random numbers before trajectory and table are cut back to it, so that a kill in
between loses nothing. All that a guard remembers and has done is part of every checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from ase import Atoms

from eqcalc.errors import EqcalcError, GuardError
from eqcalc.files import remove_files
from eqcalc.simulate.checkpoint import CHECKPOINT, MDCheckpoint, read_checkpoint, read_earlier
from eqcalc.simulate.failures import ADVICE_MD, ADVICE_RELAX
from eqcalc.simulate.guard_kinds import Motion
from eqcalc.simulate.guard_settings import GuardSettings
from eqcalc.simulate.guards import Alarm, Guards
from eqcalc.simulate.self_audit import AUDIT_COLUMNS, Audit, SelfAudit, has_reference
from eqcalc.simulate.writers import FrameWriter, TableWriter, open_trajectory

__all__ = ["AUDITS", "QUEUE", "Clock", "GuardRails", "sizes_of_guards"]

QUEUE, AUDITS = "queued.extxyz", "audit.csv"
_AUDIT_EVERY = 5000  # some ten evaluations in float64, a few per mille of the steps between
_LEAST_APART = 100  # steps between two frames that the same guard queues


class Clock(NamedTuple):
    """The time (fs) of steps: since ``step`` they are ``timestep_fs`` long."""

    step: int
    time_fs: float
    timestep_fs: float

    def at(self, step: int) -> float:
        """Return the time of a step.

        >>> Clock(0, 0.0, 0.5).at(3)
        1.5
        """
        return self.time_fs + (step - self.step) * self.timestep_fs


class GuardRails:
    """The guards of a run with their files, ``queued.extxyz`` and ``audit.csv``.

    Parameters
    ----------
    atoms : the run's own, with its calculator
    motion : None in a relaxation
    n_steps : of the whole run
    seed : of the audits' directions and of what is drawn anew
    state : of a run that goes on, as :meth:`state` returned it

    Attributes
    ----------
    was_interrupted : whether the checkpoint gone back to was not the last that there is
    queued : how much of ``queued.extxyz`` there was when it was closed
    trusted_until : the last step up to which nothing was wrong, where something is now; None
        while nothing is
    guards; n_roll_backs (halvings among them), n_halvings, n_queued; alarms : what happened, a
    table each

    Raises
    ------
    ConfigError : see :class:`~eqcalc.simulate.guards.Guards`.
    ModelFileError : the model's file has changed since it was loaded, and audits need it.
    """

    def __init__(
        self,
        atoms: Atoms,
        settings: GuardSettings,
        motion: Motion | None,
        *,
        n_steps: int,
        seed: int = 0,
        state: dict[str, Any] | None = None,
    ):
        self.settings, self._atoms, self._seed = settings, atoms, seed
        self._every = 1 if motion is None else settings.every  # a relaxation has few steps
        self._advice = ADVICE_RELAX if motion is None else ADVICE_MD
        self.guards = Guards(atoms, settings, motion)
        self.n_roll_backs = self.n_halvings = self.n_queued = self.n_audits = 0
        self.alarms: list[dict[str, Any]] = []
        self._queued_at: dict[str, int] = {}
        self._gone_back_to: int | None = None
        self._said: list[str] = []
        if state:
            self._restore(state)
        usual = _AUDIT_EVERY if has_reference(atoms.calc) else 0
        self.audit_every = usual if settings.audit_every is None else settings.audit_every
        is_audited = 0 < self.audit_every <= n_steps
        self._audit = SelfAudit(atoms, seed) if is_audited else None
        self.was_interrupted = False
        self.trusted_until: int | None = None
        self.queued: dict[str, int] | None = None
        self._queue: FrameWriter | None = None
        self._table: TableWriter | None = None
        self._folder = Path()

    # --- state and files

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as JSON can hold it."""
        return {
            "remembered": self.guards.state(),
            "n_roll_backs": self.n_roll_backs,
            "n_halvings": self.n_halvings,
            "n_queued": self.n_queued,
            "n_audits": self.n_audits,
            "alarms": list(self.alarms),
            "queued_at": dict(self._queued_at),
            "gone_back_to": self._gone_back_to,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.guards.restore(state["remembered"])
        for name in ("n_roll_backs", "n_halvings", "n_queued", "n_audits"):
            setattr(self, name, state[name])
        self.alarms = list(state["alarms"])
        self._queued_at = dict(state["queued_at"])
        self._gone_back_to = state["gone_back_to"]

    def summary(self, timestep_fs: float | None = None) -> dict[str, Any]:
        """Return what the manifest says of the guards."""
        found: dict[str, Any] = {
            "watched": self.guards.watched,
            "not_watched": self.guards.not_watched,
            "audit_every": self.audit_every,
            "audits_passed": self.n_audits,
            "queued": self.n_queued,
        }
        if timestep_fs is not None:
            found |= {"roll_backs": self.n_roll_backs, "halvings": self.n_halvings}
            found["timestep_fs"] = timestep_fs
        return {**found, "alarms": self.alarms}

    def open(self, folder: Path, kept: dict[str, Any]) -> GuardRails:
        """Open the files in the state that a checkpoint says, :meth:`extents`; return itself.

        Raises
        ------
        OutputError : one cannot be opened or removed.
        """
        self._folder = folder
        keep = kept.get("queued")
        if keep is not None:
            self._queue = open_trajectory(folder / QUEUE, "extxyz", keep)
        else:
            remove_files(folder, [QUEUE])
        keep = kept.get("audit")
        if self._audit is not None:
            self._table = TableWriter(folder / AUDITS, AUDIT_COLUMNS, keep)
        elif keep is None:
            remove_files(folder, [AUDITS])
        return self

    def extents(self) -> dict[str, Any]:
        """Return how much of the files is written; None of one that is not there."""
        return {
            "queued": None if self._queue is None else self._queue.extent(),
            "audit": None if self._table is None else self._table.size,
        }

    def close(self) -> None:
        """Close the files."""
        self.queued = self.extents()["queued"]
        for file in (self._queue, self._table):
            if file is not None:
                file.close()
        self._queue = self._table = None

    # --- looking

    def is_due(self, step: int) -> bool:
        """Tell whether every run of this kind looks at or audits a step, interrupted or not."""
        return self._all_look(step) or self._is_audited(step)

    def _all_look(self, step: int) -> bool:
        return step % self._every == 0

    def _is_audited(self, step: int) -> bool:
        return self._audit is not None and step > 0 and step % self.audit_every == 0

    def look(
        self, step: int, time_fs: float, snapshot: Callable[..., Atoms], *, closely: bool = False
    ) -> Alarm | None:
        """Look at the present step, and audit it where that is due.

        All guards look every ``settings.every`` steps. At others, such as those of rows and
        frames, only the cheap ones do, so that no run is slower for it.

        Parameters
        ----------
        closely : at others too, all guards look that remember nothing
        snapshot : returns the present frame, with the entries of info that it is given

        Returns
        -------
        What the run has to go back or to stop for; None where it goes on.

        Raises
        ------
        GuardError : an audit failed.
        """
        if self._all_look(step):
            found = self.guards.look(time_fs)
        else:
            found = self.guards.glance(cheap=not closely)
        for alarm in found:
            if self._note(alarm, step, time_fs, snapshot) != "queue":
                return alarm
        if self._audit is not None and self._is_audited(step):
            audit = self._audit.audit(step)
            self._write_audit(audit, step, time_fs)
            if audit.failures:
                self._fail(audit, step, time_fs, snapshot)
        return None

    def require_start(self) -> None:
        """Refuse a first structure for which the run would have to stop or go back.

        Raises
        ------
        GuardError : it is one.
        """
        for alarm in self.guards.glance(cheap=False):
            if self.action(alarm) != "queue":
                raise GuardError(
                    f"the first structure cannot be run from: {alarm.reason}. Relax it with this "
                    "model first (eqcalc relax), or take other velocities where they are at "
                    "fault. The limits are those of docs/simulation.md."
                )

    def said(self) -> list[str]:
        """Return what was noted since this was last asked for, a sentence each."""
        said, self._said = self._said, []
        return said

    def action(self, alarm: Alarm) -> str:
        """Return what shall be done about an alarm."""
        return self.settings.on_doubt if alarm.is_doubt else self.settings.on_alarm

    def of_error(self, error: EqcalcError, step: int) -> Alarm:
        """Return the alarm for a step that could not be made: NaN, or atoms on top of each other.

        There is no frame of it to queue.
        """
        reason = str(error.__cause__ or error).rstrip(".")
        alarm = Alarm("finite", reason)
        self._keep(alarm, step + 1, self.action(alarm))
        return alarm

    def _note(self, alarm: Alarm, step: int, time_fs: float, snapshot: Callable[..., Atoms]) -> str:
        """Keep an alarm and its frame; return what is to be done."""
        action = self.action(alarm)
        last = self._queued_at.get(alarm.guard)
        if action == "queue" and last is not None and step < last + _LEAST_APART:
            return action
        self._queued_at[alarm.guard] = step
        if self.n_queued < self.settings.max_queued or action != "queue":
            self._keep(alarm, step, action)
            frame = snapshot(step=step, time_fs=time_fs, guard=alarm.guard, reason=alarm.reason)
            self._enqueue(frame)
        elif all(alarm.guard != known["guard"] for known in self.alarms):
            self._keep(alarm, step, action, "no frame queued any more, going on")
        return action

    def _keep(self, alarm: Alarm, step: int, action: str, done: str | None = None) -> None:
        self.alarms.append(
            {"step": step, "guard": alarm.guard, "reason": alarm.reason, "action": action}
        )
        self._said.append(f"step {step}: {alarm.reason} ({done or _DONE[action]})")

    def _enqueue(self, frame: Atoms) -> None:
        if self._queue is None:
            self._queue = open_trajectory(self._folder / QUEUE, "extxyz")
        self._queue.write(frame)
        self.n_queued += 1

    def _write_audit(self, found: Audit, step: int, time_fs: float) -> None:
        if self._table is not None:
            self._table.write(found.row(step, time_fs))
        self.n_audits += not found.failures

    def _fail(
        self, found: Audit, step: int, time_fs: float, snapshot: Callable[..., Atoms]
    ) -> NoReturn:
        reason = "; ".join(found.failures)
        alarm = Alarm("audit", reason)
        self.trusted_until = step - self.audit_every  # passed, or the first structure
        self._keep(alarm, step, "stop")
        self._enqueue(snapshot(step=step, time_fs=time_fs, guard="audit", reason=reason))
        raise GuardError(
            f"the self-audit of step {step} failed: {reason}. What runs the model gives wrong "
            f"numbers; see {self._folder / AUDITS}. Run again with --engine torchscript, or "
            "--dtype float64, and please report it; steps since the last passed audit are not to "
            "be trusted."
        )

    # --- going back

    def checkpoint_to_go_back_to(self, alarm: Alarm, step: int, folder: Path) -> MDCheckpoint:
        """Return the last good checkpoint, and count; what the guards remember is what it says.

        After a second alarm from the same one it is the one before: the last may already hold
        what went wrong.

        Raises
        ------
        GuardError : the action is to stop, or enough was tried.
        """
        action = self.action(alarm)
        if action not in ("halve", "roll-back"):
            self.stop(alarm, step)
        if self.n_roll_backs >= self.settings.max_roll_backs:
            self.stop(alarm, step, f", after going back {self.n_roll_backs} times")
        if action == "halve" and self.n_halvings >= self.settings.max_halvings:
            self.stop(alarm, step, f", after {self.n_halvings} halvings of the timestep")
        found = self._choose(folder)
        if found is None:
            self.stop(alarm, step, ", before there was a checkpoint to go back to")
        self.n_roll_backs += 1
        self.n_halvings += action == "halve"
        self._gone_back_to = found.step
        # What follows the checkpoint is another path, of which nothing has been queued yet.
        self._queued_at = {
            guard: queued for guard, queued in self._queued_at.items() if queued <= found.step
        }
        before = found.facts.get("guards", {})  # older versions had none
        self.guards.restore(before.get("remembered", {}))
        self.n_audits = before.get("n_audits", 0)
        self.alarms[-1]["back_to_step"] = found.step
        self._said.append(f"back to step {found.step}")
        return found

    def _choose(self, folder: Path) -> MDCheckpoint | None:
        if not (folder / CHECKPOINT).exists():
            return None
        last, earlier = read_checkpoint(folder), read_earlier(folder)
        # One that was written because the run was interrupted is none of a run that was not.
        self.was_interrupted = not last.facts.get("regular", True)
        known = earlier if self.was_interrupted and earlier else [last, *earlier[:1]]
        return next((each for each in known if each.step != self._gone_back_to), known[0])

    def distrust(self, step: int) -> None:
        """Trust no more than what all guards had looked at before a step that is wrong.

        Where no guard looks, every frame that could be made is as good as the others.
        """
        if self.guards.watched:
            self.trusted_until = max(0, (step - 1) // self._every * self._every)

    def new_random(self) -> np.random.Generator:
        """Return new random numbers, others for every time the run went back."""
        return np.random.default_rng([self._seed, self.n_roll_backs])

    def stop(self, alarm: Alarm, step: int, after: str = "") -> NoReturn:
        """End the run.

        Raises
        ------
        GuardError : always.
        """
        self.distrust(step)
        frame = f"That frame is the last in {self._folder / QUEUE}. "
        raise GuardError(
            f"stopped at step {step}{after}: {alarm.reason}. "
            f"{'' if alarm.guard == 'finite' else frame}{self._advice} The limits: "
            "docs/simulation.md."
        )


_DONE = {
    "queue": f"frame to {QUEUE}, going on",
    "stop": "stopping",
    "halve": "going back, with half the timestep",
    "roll-back": "going back, with new random numbers",
}


def sizes_of_guards(files: dict[str, Any]) -> dict[str, int]:
    """Return the bytes of each file of guards that a checkpoint counts on, by name."""
    queued, audit = files.get("queued"), files.get("audit")
    sizes = {} if queued is None else {QUEUE: int(queued["size"])}
    return sizes if audit is None else {**sizes, AUDITS: int(audit)}
