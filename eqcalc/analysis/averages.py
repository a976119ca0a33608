"""All averages over one trajectory, in one pass over its frames."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms

from eqcalc.analysis.density import DensityProfile, Profile
from eqcalc.analysis.msd import MSD, Displacements
from eqcalc.analysis.rdf import RDF, PairDistances, half_cell
from eqcalc.analysis.times import even_frames, require_time, step_of, time_of
from eqcalc.analysis.trajectory import Trajectory
from eqcalc.analysis.vacf import CM_PER_PS, VACF, Velocities
from eqcalc.errors import (
    ConfigError,
    GraphError,
    HalfFrameWarning,
    OutputError,
    StructureError,
    did_you_mean,
)
from eqcalc.neighbours.structure import check_structure
from eqcalc.simulate.half_frames import kind_of_run
from eqcalc.simulate.manifest import settings_of_run
from eqcalc.simulate.thermo import is_ramped, read_table

__all__ = ["QUANTITIES", "AverageSettings", "Averages", "average"]

QUANTITIES = ("rdf", "msd", "vacf", "density")

# An option that nothing asked for would use is a mistake, not something to pass over.
_USED_BY = {
    "r_max": ("rdf",),
    "volume": ("rdf",),
    "n_bins": ("rdf", "density"),
    "axis": ("density",),
    "fit_ps": ("msd",),
    "remove_drift": ("msd",),
    "resolution": ("vacf",),
    "interval_fs": ("msd", "vacf"),
}
_LONGEST_R_MAX = 10.0  # Å, without one that is asked for
_SHORTEST_R_MAX = 5.0  # of small cells, whose images count
_LONG_STEP = 0.4  # of the cell, between two frames
_MANY = 20  # atoms, of which one that turns around does not cross the space of all
_GOES_ON = 0.3  # of its line, which the msd must go on along after the fit
_DIFFUSIVE = 0.2  # by which the exponent may differ from 1
_DRIFTING = 0.05  # share of the MSD that the centre of mass has
# cm⁻¹: about the fastest vibrations of elements up to an atomic number.
_FASTEST = ((1, 4000.0), (10, 2500.0), (20, 700.0), (118, 400.0))


@dataclass(frozen=True)
class AverageSettings:
    """What is averaged, and how.

    Parameters
    ----------
    quantities : some of "rdf", "msd", "vacf", "density"; all that the frames allow by default
    skip : frames left out at the beginning, while the structure finds its equilibrium
    every : take every so many frames
    elements : symbols; all by default
    r_max : Å, of the rdf; by default half of the shortest lattice vector, from 5 to 10 Å
    n_bins : of rdf and density
    volume : Å³, of a structure that is not periodic in three directions, for its rdf
    axis : vector of the cell along which the density is taken: "a", "b" or "c"
    interval_fs : time between two frames, where the file does not say it
    fit_ps : from and to which time the diffusion coefficient is fitted
    remove_drift : take the motion of the centre of mass out of the MSD
    resolution : cm⁻¹, of the spectrum

    Raises
    ------
    ConfigError : a quantity is unknown, a number out of range, or an option of a quantity that is
        not asked for.
    """

    quantities: tuple[str, ...] = ()
    skip: int = 0
    every: int = 1
    elements: tuple[str, ...] | None = None
    r_max: float | None = None
    n_bins: int = 200
    volume: float | None = None
    axis: str = "c"
    interval_fs: float | None = None
    fit_ps: tuple[float, float] | None = None
    remove_drift: bool = False
    resolution: float = 10.0

    def __post_init__(self) -> None:
        for name in self.quantities:
            if name not in QUANTITIES:
                raise ConfigError(
                    f"unknown quantity '{name}'; known: {', '.join(QUANTITIES)}."
                    + did_you_mean(name, QUANTITIES)
                )
        for option, users in _USED_BY.items():
            value, default = getattr(self, option), getattr(type(self), option)
            if self.quantities and value != default and not set(users) & set(self.quantities):
                raise ConfigError(
                    f"{option}={value!r} belongs to {' and '.join(users)}, which is not asked for."
                )
        if self.skip < 0:
            raise ConfigError(f"skip must be 0 frames or more, not {self.skip}.")
        if self.every < 1:
            raise ConfigError(f"every must be 1 frame or more, not {self.every}.")


@dataclass
class Averages:
    """What was found; None where a quantity was not asked for or is not to be had.

    trajectory : the file, with its path
    left_out : why, of quantities that nobody asked for by name
    notes : what the reader must know to judge the numbers
    interval_fs : time between two of the frames that were taken, None where nothing depends on it
    """

    settings: AverageSettings
    n_frames: int
    trajectory: str = ""
    rdf: RDF | None = None
    msd: MSD | None = None
    vacf: VACF | None = None
    density: Profile | None = None
    interval_fs: float | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def average(
    trajectory: Trajectory,
    settings: AverageSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Averages:
    """Average what the settings ask for over the frames of a trajectory.

    Parameters
    ----------
    progress : called with the number of frames done and of all

    Raises
    ------
    ConfigError : an option does not fit the frames.
    StructureError : there are too few frames, they cannot be read, or what was asked for by
        name is not to be had of them.
    GraphError : a frame has no meaningful distances (NaN, no cell, lengths that are not in Å).
    NotEnoughMemoryError : positions or velocities of all frames do not fit into memory.
    """
    settings = settings or AverageSettings()
    numbers = range(settings.skip, len(trajectory), settings.every)
    if len(numbers) == 0:
        raise StructureError(
            f"{settings.skip} frames are skipped, and '{trajectory.path}' has {len(trajectory)}."
        )
    found = Averages(settings, len(numbers), str(trajectory.path.absolute()))
    workers = _workers(trajectory, found)
    times: list[float | None] = []
    steps: list[float | None] = []
    for k, frame in enumerate(trajectory.frames(numbers)):
        _require_sound(frame, numbers[k], trajectory)
        times.append(time_of(frame))
        steps.append(step_of(frame))
        for worker in workers.values():
            worker.add(frame)
        if progress is not None:
            progress(k + 1, len(numbers))
    _finish(found, workers, times, steps)
    _take_notes(found, trajectory, workers)
    return found


def _require_sound(frame: Atoms, number: int, trajectory: Trajectory) -> None:
    try:
        check_structure(frame)
    except GraphError as error:
        raise GraphError(f"frame {number} of '{trajectory.path}': {error}") from error


Worker = PairDistances | Displacements | Velocities | DensityProfile


def _workers(trajectory: Trajectory, found: Averages) -> dict[str, Worker]:
    """Return what collects each quantity, from the first frame that is taken."""
    settings, first = found.settings, trajectory[found.settings.skip]
    _require_sound(first, settings.skip, trajectory)
    elements = None if settings.elements is None else list(settings.elements)

    def rdf() -> PairDistances:
        if not first.pbc.all() and settings.volume is None:
            raise StructureError(
                f"the frames are periodic along {int(first.pbc.sum())} of three directions, so "
                "that their atoms have no density, by which g(r) is divided; give the Å³ that "
                "they fill, such as volume=1000."
            )
        r_max = settings.r_max
        if r_max is None:
            r_max = min(max(half_cell(first), _SHORTEST_R_MAX), _LONGEST_R_MAX)
        return PairDistances(
            first,
            found.n_frames,
            r_max=r_max,
            n_bins=settings.n_bins,
            elements=elements,
            volume=settings.volume,
        )

    def msd() -> Displacements:
        require_time(first, settings.interval_fs)
        return Displacements(
            first, found.n_frames, elements=elements, is_unwrapped=trajectory.is_of_a_run
        )

    def vacf() -> Velocities:
        require_time(first, settings.interval_fs)
        return Velocities(first, found.n_frames, elements=elements)

    def density() -> DensityProfile:
        return DensityProfile(
            first, found.n_frames, axis=settings.axis, n_bins=settings.n_bins, elements=elements
        )

    makers: dict[str, Callable[[], Worker]] = {
        "rdf": rdf,
        "msd": msd,
        "vacf": vacf,
        "density": density,
    }
    workers: dict[str, Worker] = {}
    for name in settings.quantities or QUANTITIES:
        try:
            workers[name] = makers[name]()
        except StructureError as error:
            if settings.quantities:
                raise
            found.left_out[name] = str(error)
    if not workers:
        raise StructureError(
            "nothing can be averaged of these frames: "
            + " ".join(f"{name}: {why}" for name, why in found.left_out.items())
        )
    return workers


def _finish(
    found: Averages,
    workers: dict[str, Worker],
    times: list[float | None],
    steps: list[float | None],
) -> None:
    """Turn what was collected into results."""
    settings = found.settings
    for name, worker in workers.items():
        try:
            if isinstance(worker, PairDistances):
                found.rdf = worker.result()
            elif isinstance(worker, DensityProfile):
                found.density = worker.result()
            else:
                given = settings.interval_fs
                interval, n_even = even_frames(
                    times, None if given is None else given * settings.every, steps
                )
                found.interval_fs = interval
                if isinstance(worker, Displacements):
                    found.msd = worker.result(
                        interval,
                        n_even=n_even,
                        fit_ps=settings.fit_ps,
                        remove_drift=settings.remove_drift,
                    )
                else:
                    found.vacf = worker.result(
                        interval, n_even=n_even, resolution=settings.resolution
                    )
        except StructureError as error:
            if settings.quantities:
                raise
            found.left_out[name] = str(error)


def _take_notes(found: Averages, trajectory: Trajectory, workers: dict[str, Worker]) -> None:
    first, settings = trajectory.first, found.settings
    if kind_of_run(trajectory.path) == "relax":
        found.notes.append(
            "these are the steps of a relaxation on its way down: averages over them are of no "
            "temperature, and their errors mean nothing."
        )
    elif _is_ramped(trajectory, settings.skip):
        found.notes.append(
            "thermostat or barostat change their target in these frames: averages over them are "
            "of a ramp, and their errors mean nothing; skip leaves frames out at the beginning."
        )
    counted = workers.get("rdf")
    if found.rdf is not None and isinstance(counted, PairDistances):
        half = counted.smallest_half_cell
        r_max = float(found.rdf.r[-1] + found.rdf.r[0])
        if r_max > half * (1 + 1e-9):
            found.notes.append(
                f"the rdf goes to {r_max:.3g} Å, beyond half of the smallest cell ({half:.3g} Å): "
                "there atoms also meet the images of those that they met before."
            )
    n_open = int((~first.pbc).sum())
    if found.rdf is not None and n_open > 0:
        found.notes.append(
            f"along {n_open} open direction{'s' * (n_open > 1)} atoms have no images: in a piece "
            "of a liquid or crystal, whose cell the file does not state, g(r) falls off and "
            "neighbours are missing."
        )
    if found.msd is not None:
        found.notes += _of_the_msd(found.msd, workers["msd"], first, settings.remove_drift)
    if found.vacf is not None:
        lightest = int(first.numbers.min())
        fastest = next(speed for highest, speed in _FASTEST if lightest <= highest)
        if found.vacf.highest < fastest:
            found.notes.append(
                f"with a frame every {found.interval_fs:g} fs the spectrum ends at "
                f"{found.vacf.highest:.0f} cm⁻¹, and faster vibrations appear at wrong places "
                "below; write frames more often."
            )
        if found.vacf.resolution > 1.5 * settings.resolution:
            found.notes.append(
                f"the trajectory is too short for lines narrower than "
                f"{found.vacf.resolution:.0f} cm⁻¹."
            )
    found.notes += _of_friction(found, trajectory)
    if found.density is not None and found.density.outside > 0:
        found.notes.append(
            f"{100 * found.density.outside:.2g} % of the atoms are outside of the cell along "
            f"{settings.axis}, where it is open, and not in the density."
        )


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


def _of_the_msd(msd: MSD, worker: Worker, first: Atoms, is_drift_removed: bool) -> list[str]:
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
