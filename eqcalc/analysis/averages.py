"""All averages over one trajectory, in one pass over its frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ase import Atoms

from eqcalc.analysis.density import DensityProfile, Profile
from eqcalc.analysis.msd import MSD, Displacements
from eqcalc.analysis.notes import notes_on
from eqcalc.analysis.rdf import RDF, PairDistances, half_cell
from eqcalc.analysis.times import even_frames, require_time, step_of, time_of
from eqcalc.analysis.trajectory import Trajectory
from eqcalc.analysis.vacf import VACF, Velocities
from eqcalc.errors import (
    ConfigError,
    GraphError,
    StructureError,
    did_you_mean,
)
from eqcalc.neighbours.structure import check_structure

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
    found.notes += notes_on(found, trajectory, workers)
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
