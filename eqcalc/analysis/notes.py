"""What makes averages doubtful: sentences beside the numbers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from eqcalc.analysis.msd import MSD, Displacements
from eqcalc.analysis.rdf import RDF, PairDistances
from eqcalc.analysis.trajectory import Trajectory
from eqcalc.analysis.vacf import CM_PER_PS, VACF
from eqcalc.errors import HalfFrameWarning, OutputError, listing
from eqcalc.simulate.half_frames import kind_of_run
from eqcalc.simulate.manifest import settings_of_run, steps_gone_back_to
from eqcalc.simulate.thermo import is_ramped, read_table

if TYPE_CHECKING:
    from eqcalc.analysis.averages import Averages

__all__ = ["notes_on"]

_LONG_STEP = 0.4  # of the cell, between two frames
_MANY = 20  # atoms, of which one that turns around does not cross the space of all
_GOES_ON = 0.3  # of its line, which the msd must go on along after the fit
_DIFFUSIVE = 0.2  # by which the exponent may differ from 1
_DRIFTING = 0.05  # share of the MSD that the centre of mass has
# cm⁻¹: about the fastest vibrations of elements up to an atomic number.
_FASTEST = ((1, 4000.0), (10, 2500.0), (20, 700.0), (118, 400.0))


def notes_on(found: Averages, trajectory: Trajectory, workers: Mapping[str, object]) -> list[str]:
    """Return what makes each of the averages doubtful.

    Parameters
    ----------
    workers : what has collected them from the frames, by quantity
    """
    first, settings = trajectory.first, found.settings
    notes = _of_the_run(trajectory, settings.skip)
    if found.rdf is not None:
        notes += _of_the_rdf(found.rdf, workers["rdf"], first)
    if found.msd is not None:
        notes += _of_the_msd(found.msd, workers["msd"], first, settings.remove_drift)
    if found.vacf is not None:
        notes += _of_the_vacf(found.vacf, found, first)
    notes += _of_friction(found, trajectory)
    notes += _of_the_way_back(found, trajectory)
    if found.density is not None and found.density.outside > 0:
        notes.append(
            f"{100 * found.density.outside:.2g} % of the atoms are outside of the cell along "
            f"{settings.axis}, where it is open, and not in the density."
        )
    return notes


def _of_the_run(trajectory: Trajectory, skip: int) -> list[str]:
    if kind_of_run(trajectory.path) == "relax":
        return [
            "these are the steps of a relaxation on its way down: averages over them are of no "
            "temperature, and their errors mean nothing."
        ]
    if _is_ramped(trajectory, skip):
        return [
            "thermostat or barostat change their target in these frames: averages over them are "
            "of a ramp, and their errors mean nothing; skip leaves frames out at the beginning."
        ]
    return []


def _of_the_rdf(rdf: RDF, worker: object, first: Atoms) -> list[str]:
    notes = []
    if isinstance(worker, PairDistances):
        half = worker.smallest_half_cell
        r_max = float(rdf.r[-1] + rdf.r[0])
        if r_max > half * (1 + 1e-9):
            notes.append(
                f"the rdf goes to {r_max:.3g} Å, beyond half of the smallest cell ({half:.3g} Å): "
                "there atoms also meet the images of those that they met before."
            )
    n_open = int((~first.pbc).sum())
    if n_open > 0:
        notes.append(
            f"along {n_open} open direction{'s' * (n_open > 1)} atoms have no images: in a piece "
            "of a liquid or crystal, whose cell the file does not state, g(r) falls off and "
            "neighbours are missing."
        )
    return notes


def _of_the_vacf(vacf: VACF, found: Averages, first: Atoms) -> list[str]:
    notes = []
    lightest = int(first.numbers.min())
    fastest = next(speed for highest, speed in _FASTEST if lightest <= highest)
    if vacf.highest < fastest:
        notes.append(
            f"with a frame every {found.interval_fs:g} fs the spectrum ends at "
            f"{vacf.highest:.0f} cm⁻¹, and faster vibrations appear at wrong places "
            "below; write frames more often."
        )
    if vacf.resolution > 1.5 * found.settings.resolution:
        notes.append(
            f"the trajectory is too short for lines narrower than {vacf.resolution:.0f} cm⁻¹."
        )
    return notes


def _is_ramped(trajectory: Trajectory, skip: int) -> bool:
    if not trajectory.is_of_a_run:
        return False
    with warnings.catch_warnings(), suppress(OutputError):  # without a table nobody knows
        warnings.simplefilter("ignore", HalfFrameWarning)
        return is_ramped(read_table(trajectory.path.parent / "thermo.csv"), skip)
    return False


def _of_friction(found: Averages, trajectory: Trajectory) -> list[str]:
    """Doubt what Langevin's thermostat changes: how far atoms get, and how long they vibrate."""
    if not trajectory.is_of_a_run:
        return []
    settings = settings_of_run(trajectory.path.parent)
    friction_per_fs = settings.get("friction_per_fs")
    if settings.get("ensemble") != "nvt-langevin" or not friction_per_fs:
        return []
    width = 1000 * friction_per_fs / (2 * np.pi * CM_PER_PS)  # cm⁻¹
    does = ["D is too small"] * (found.msd is not None)
    does += [f"lines of the spectrum are {width:.3g} cm⁻¹ wider"] * (found.vacf is not None)
    if not does:
        return []
    return [
        f"the thermostat's friction of {friction_per_fs:g}/fs slows all atoms of this run: "
        f"{' and '.join(does)}; take nve or nvt-nhc for that, from a frame of this run."
    ]


def _of_the_way_back(found: Averages, trajectory: Trajectory) -> list[str]:
    """Doubt motion that guards have interrupted: positions go on from a step, velocities do not."""
    if not trajectory.is_of_a_run or (found.msd is None and found.vacf is None):
        return []
    folder = trajectory.path.parent
    if settings_of_run(folder).get("ensemble") == "nvt-langevin":  # whose velocities go on
        return []
    begin = trajectory[found.settings.skip].info.get("step", 0)
    steps = [step for step in steps_gone_back_to(folder) if step >= begin]
    if not steps:
        return []
    return [
        f"guards took this run back to step {listing(steps)}, from where it goes on with new "
        "velocities: msd and vacf mix motions that do not belong together; skip leaves frames out "
        "at the beginning."
    ]


def _of_the_rest(msd: MSD, element: str) -> list[str]:
    """Doubt a line that the curve leaves behind its fit, as that of a solid in a short run does."""
    end, last = msd.fit_ps[1], float(msd.time_ps[-1])
    values, slope = msd.msd[element], 6.0 * msd.diffusion[element].value
    if last < 2.0 * end or slope <= 0.0:
        return []
    grown = float(values[-1] - np.interp(end, msd.time_ps, values))
    expected = slope * (last - end)
    if grown >= _GOES_ON * expected:
        return []
    return [
        f"the msd of {element} grows by {grown:.2g} Å² after the fit, where D would have "
        f"{expected:.2g}: its slope is no diffusion coefficient; run longer."
    ]


def _of_the_msd(msd: MSD, worker: object, first: Atoms, is_drift_removed: bool) -> list[str]:
    notes = []
    n_periodic = int(first.pbc.sum())
    if n_periodic == 0:
        notes.append(
            "no direction is periodic: what the atoms of a molecule or cluster alone do, drift, "
            "turn and vibrate, is no diffusion in a liquid or solid."
        )
    if n_periodic in (1, 2):
        notes.append(
            f"the frames are periodic along {n_periodic} of three directions; D = slope / 6 is for "
            f"motion in all three, and what cannot leave has D = slope / {2 * n_periodic}."
        )
    counts = {element: int((first.symbols == element).sum()) for element in msd.held}
    held = [f"{n} of {counts[name]} {name}" for name, n in msd.held.items() if n < counts[name]]
    if held:
        told = ", ".join(held)
        notes.append(f"atoms that never move ({told}) are in the mean of the msd and in D.")
    if msd.changing_cell:
        notes.append(
            "the cell changes, and displacements are sums of shortest steps, each in the cell of "
            "its frame; the motion of the cell itself is in them."
        )
    if isinstance(worker, Displacements) and worker.longest_step > _LONG_STEP:
        notes.append(
            f"an atom moves {worker.longest_step:.2f} of the cell between two frames, from 0.5 on "
            "an image is taken for it: the frames are too far apart for a mean square displacement."
        )
    is_jumping = isinstance(worker, Displacements) and worker.longest_jump > _LONG_STEP
    if is_jumping and len(first) >= _MANY:
        notes.append(
            "the file has no cell, and atoms jump across all the space that they take up: they "
            "seem to have been put back into a box, and the msd is of these jumps."
        )
    for element, found in msd.diffusion.items():
        if np.isnan(found.exponent):
            notes.append(f"{element} does not move in all times of the fit: D means nothing.")
        elif abs(found.exponent - 1) > _DIFFUSIVE:
            notes.append(
                f"the msd of {element} grows as time to the power {found.exponent:.2f} in the fit, "
                "not 1: its slope is no diffusion coefficient."
            )
        else:
            notes += _of_the_rest(msd, element)
    largest = max(float(values[-1]) for values in msd.msd.values())
    if not is_drift_removed and largest > 0 and msd.drift[-1] > _DRIFTING * largest:
        share = float(np.sqrt(msd.drift[-1]))
        notes.append(
            f"the centre of mass itself moves {share:.2g} Å in {msd.time_ps[-1]:.3g} ps, which is "
            "in the msd of every atom; --remove-drift takes it out (in Python remove_drift)."
        )
    return notes
