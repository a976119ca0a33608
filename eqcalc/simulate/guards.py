"""What a run is looked at for: distances, forces, temperature, drift, spread, ranges.

Each guard is one class that looks at the present step and says what is wrong, or nothing. What
is done about it is :mod:`eqcalc.simulate.guard_rails`'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from ase import Atoms, units
from ase.data import chemical_symbols, covalent_radii
from scipy.special import chdtri

from eqcalc.errors import ConfigError
from eqcalc.graph import AtomicGraph
from eqcalc.model_file.seen import SeenRanges
from eqcalc.neighbours import SkinList
from eqcalc.simulate.guard_settings import GuardSettings

__all__ = ["CONSERVING", "Alarm", "Guards", "Motion", "has_spread"]

CONSERVING: tuple[str, ...] = ("nve", "nvt-nhc", "npt")
"""Ensembles whose integrator conserves a quantity."""

_COMPRESSED = 0.5  # of the sum of covalent radii
_HOTTEST_K = 5000.0  # of what chemistry is computed at; flames and shocks stay below
_HOTTER = 10.0  # than asked for
_NEVER = 1e-20  # chance of a fluctuation, for one look; a week has some 1e8
_STRONGEST_BOND_EV = 15.0  # with a margin: CO has 11.2
_DRIFT_MEV_PER_ATOM_PS = 5.0
_JUMP_PS = 10.0  # of drift at once
_PERIOD_FS = 1000.0  # longer than the vibrations, over which the error of Verlet's energy averages
_OVERSHOOT = 10.0  # of forces in the first steps of a relaxation
_SPREAD = 1.0  # eV/Å; active learning takes frames from 0.1 to 0.3 on
_OWN_SKIN = 0.5  # Å


class Alarm(NamedTuple):
    """What a guard says of a step; ``is_doubt`` where the numbers may still mean something."""

    guard: str
    reason: str
    is_doubt: bool = False


class Motion(NamedTuple):
    """What a guard has to know of a dynamics besides the atoms.

    goal_K : the highest temperature that is asked for, or begun with
    conserved : returns the conserved quantity (eV); None where there is none
    """

    n_dof: int
    goal_K: float
    conserved: Callable[[], float] | None


class _Geometry:
    """Pairs of a structure, from the list that its calculator has where it has one."""

    def __init__(self, atoms: Atoms, own_cutoff: float):
        self._atoms = atoms
        own = SkinList(own_cutoff, _OWN_SKIN)
        self._graph_of: Callable[[Atoms], tuple[Atoms, AtomicGraph]] = getattr(
            atoms.calc, "ordered_graph", lambda atoms: (atoms, own.graph(atoms))
        )
        self._graph: AtomicGraph | None = None

    def begin(self) -> None:
        """Forget the graph of the step before: it may be large."""
        self._graph = None

    @property
    def graph(self) -> AtomicGraph:
        if self._graph is None:
            _, self._graph = self._graph_of(self._atoms)
        return self._graph

    def own_index(self, index: int) -> int:
        """Return which atom of the user's structure an atom of the graph is."""
        order = getattr(self._atoms.calc, "atom_order", None)
        return index if order is None else int(order[index])


class _Guard(Protocol):
    name: str
    is_doubt: bool

    def look(self) -> str | None:
        """Return what is wrong with the present step; None where nothing is."""


class _Distance:
    name, is_doubt = "distance", False

    def __init__(self, atoms: Atoms, limit: float | None, geometry: _Geometry):
        self._geometry = geometry
        radii = torch.tensor(covalent_radii, dtype=torch.float64)
        table = _COMPRESSED * (radii[:, None] + radii[None, :])
        self._limits = table if limit is None else torch.full_like(table, limit)
        self._largest = self.reach(atoms, limit)
        self._share = 1.0

    @staticmethod
    def reach(atoms: Atoms, limit: float | None) -> float:
        """Return the largest distance (Å) that is too short for some pair of these atoms."""
        largest = float(covalent_radii[atoms.numbers].max())
        return 2 * _COMPRESSED * largest if limit is None else limit

    def look(self) -> str | None:
        graph = self._geometry.graph
        if graph.edge_vectors.shape[0] == 0:
            return None
        distances = torch.linalg.vector_norm(graph.edge_vectors, dim=1)  # (n_edges,)
        if float(distances.min()) >= self._largest:
            return None
        share, index = self._closest(graph, distances)
        if share >= self._share:
            return None
        j, i = graph.edge_index[:, index].tolist()
        names = [chemical_symbols[int(graph.atomic_numbers[k])] for k in (j, i)]
        own = [self._geometry.own_index(k) for k in (j, i)]
        limit = float(distances[index]) / share
        return (
            f"atoms {own[0]} ({names[0]}) and {own[1]} ({names[1]}) are "
            f"{float(distances[index]):.3f} Å apart, below {limit:.2f}"
        )

    def _closest(self, graph: AtomicGraph, distances: torch.Tensor) -> tuple[float, int]:
        self._limits = self._limits.to(distances)
        numbers = graph.atomic_numbers[graph.edge_index]  # (2, n_edges)
        shares = distances / self._limits[numbers[0], numbers[1]]
        index = int(shares.argmin())
        return float(shares[index]), index

    def forgive(self) -> None:
        """Ask from now on for no more than the present structure has."""
        graph = self._geometry.graph
        if graph.edge_vectors.shape[0] > 0:
            distances = torch.linalg.vector_norm(graph.edge_vectors, dim=1)
            self._share = min(1.0, 0.9 * self._closest(graph, distances)[0])


class _Force:
    name, is_doubt = "force", False

    def __init__(self, atoms: Atoms, limit: float):
        self._atoms, self._limit = atoms, limit

    def look(self) -> str | None:
        squares = self._squares()
        index = int(squares.argmax())
        found = float(np.sqrt(squares[index]))
        if not found > self._limit:  # NaN is said elsewhere
            return None
        symbol = self._atoms.symbols[index]
        return f"the force on atom {index} ({symbol}) is {found:.4g} eV/Å, above {self._limit:.4g}"

    def forgive(self) -> None:
        """Ask from now on for no more than optimizers make of the present structure."""
        largest = float(np.sqrt(self._squares().max()))
        self._limit = max(self._limit, _OVERSHOOT * largest)

    def _squares(self) -> np.ndarray:
        forces = self._atoms.get_forces()
        return np.einsum("kx,kx->k", forces, forces)


class _Temperature:
    name, is_doubt = "temperature", False

    def __init__(self, atoms: Atoms, settings: GuardSettings, motion: Motion):
        self._atoms, self._n_dof = atoms, motion.n_dof
        heat = units.kB * motion.goal_K
        by_chance = float(chdtri(motion.n_dof, _NEVER)) / motion.n_dof * motion.goal_K
        self._limit_K = settings.max_temperature_K
        if self._limit_K is None:
            self._limit_K = max(_HOTTEST_K, _HOTTER * motion.goal_K, by_chance)
        self._limit_eV = settings.max_atom_kinetic_eV
        if self._limit_eV is None:
            self._limit_eV = max(_STRONGEST_BOND_EV, float(chdtri(3, _NEVER)) * heat / 2)
        self._double_masses = 2.0 * atoms.get_masses()

    def look(self) -> str | None:
        momenta = self._atoms.arrays["momenta"]
        kinetic = np.einsum("kx,kx->k", momenta, momenta) / self._double_masses  # (n_atoms,)
        temperature = 2.0 * float(kinetic.sum()) / (self._n_dof * units.kB)
        if self._limit_K and temperature > self._limit_K:
            return f"the temperature is {temperature:.4g} K, above {self._limit_K:.4g}"
        index = int(kinetic.argmax())
        if self._limit_eV and kinetic[index] > self._limit_eV:
            return (
                f"atom {index} ({self._atoms.symbols[index]}) has a kinetic energy of "
                f"{kinetic[index]:.4g} eV, above {self._limit_eV:.4g}"
            )
        return None


class _Drift:
    """The conserved quantity: its mean over a picosecond beside that of the one before.

    Also at once, where it is as far from the mean before as ten picoseconds of drift go.
    """

    name, is_doubt = "drift", False

    def __init__(self, atoms: Atoms, limit: float, conserved: Callable[[], float]):
        self._n_atoms, self._limit, self._conserved = len(atoms), limit, conserved
        self.state: dict[str, Any] = {"before": None, "first": None, "begun_fs": 0.0}
        self.state |= {"sum": 0.0, "count": 0}
        self.time_fs = 0.0

    def look(self) -> str | None:
        value = 1000.0 * self._conserved() / self._n_atoms  # meV/atom
        state = self.state
        if state["first"] is None:
            state |= {"first": value, "begun_fs": self.time_fs}
        usual = state["first"] if state["before"] is None else state["before"]
        if abs(value - usual) > _JUMP_PS * self._limit:
            return (
                f"the conserved energy has changed by {value - usual:.4g} meV/atom, as much as in "
                f"{_JUMP_PS:g} ps of the drift that is allowed"
            )
        elapsed = self.time_fs - state["begun_fs"]
        if elapsed < _PERIOD_FS:
            state["sum"] += value - usual
            state["count"] += 1
            return None
        mean = usual + state["sum"] / max(1, state["count"])
        before = state["before"]
        state |= {"before": mean, "begun_fs": self.time_fs, "sum": value - mean, "count": 1}
        if before is None:
            return None
        drift = (mean - before) / (elapsed / 1000.0)
        if abs(drift) <= self._limit:
            return None
        return f"the conserved energy drifts by {drift:.4g} meV/atom/ps, above {self._limit:.4g}"


class _Spread:
    name, is_doubt = "spread", True

    def __init__(self, atoms: Atoms, limit: float):
        self._atoms, self._limit = atoms, limit

    def look(self) -> str | None:
        self._atoms.get_potential_energy()  # the present step's, if they are not yet
        spread = self._atoms.calc.results["forces_spread"]  # (n_atoms, 3)
        squares = np.einsum("kx,kx->k", spread, spread)
        index = int(squares.argmax())
        found = float(np.sqrt(squares[index]))
        if found <= self._limit:
            return None
        return (
            f"the committee's forces on atom {index} ({self._atoms.symbols[index]}) spread by "
            f"{found:.4g} eV/Å, above {self._limit:.4g}"
        )


class _Range:
    name, is_doubt = "range", True

    def __init__(self, seen: SeenRanges, geometry: _Geometry):
        self._seen, self._geometry = seen, geometry

    def look(self) -> str | None:
        graph = self._geometry.graph
        distances = torch.linalg.vector_norm(graph.edge_vectors, dim=1)  # (n_edges,)
        near = distances < self._seen.cutoff  # a committee's list reaches as far as any member
        senders, receivers = graph.edge_index[:, near].cpu().numpy()
        found = self._seen.outside(
            graph.atomic_numbers.cpu().numpy(), senders, receivers, distances[near].cpu().numpy()
        )
        if found is None:
            return None
        text, atoms = found
        own = ", ".join(str(self._geometry.own_index(k)) for k in atoms)
        return f"{text} (atom{'s' * (len(atoms) > 1)} {own})"


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
        reach = _Distance.reach(atoms, settings.min_distance)
        self._geometry = _Geometry(atoms, max(reach, 0.1))
        self._guards: list[_Guard] = []
        self._forgiving: list[_Distance | _Force] = []
        self._drift: _Drift | None = None
        if settings.min_distance != 0:
            self._forgiving.append(_Distance(atoms, settings.min_distance, self._geometry))
        if settings.max_force != 0:
            self._forgiving.append(_Force(atoms, settings.max_force))
        self._guards += self._forgiving
        if motion is not None:
            self._add_motion(atoms, settings, motion)
        self._add_doubts(atoms, settings)
        self.watched = [guard.name for guard in self._guards]

    def _add_motion(self, atoms: Atoms, settings: GuardSettings, motion: Motion) -> None:
        if settings.max_temperature_K != 0 or settings.max_atom_kinetic_eV != 0:
            self._guards.append(_Temperature(atoms, settings, motion))
        limit = settings.max_drift_mev_per_atom_ps
        if limit == 0:
            return
        if motion.conserved is None:
            self.not_watched["drift"] = "nothing is conserved in this ensemble"
            if limit is not None:
                raise ConfigError(
                    "max_drift_mev_per_atom_ps watches what an ensemble conserves: that of "
                    f"{', '.join(CONSERVING)}, whose energies the calculator has to give "
                    "('free_energy'); here nothing is conserved. Leave it out."
                )
            return
        limit = _DRIFT_MEV_PER_ATOM_PS if limit is None else limit
        self._drift = _Drift(atoms, limit, motion.conserved)
        self._guards.append(self._drift)

    def _add_doubts(self, atoms: Atoms, settings: GuardSettings) -> None:
        limit = settings.max_spread
        if has_spread(atoms) and limit != 0:
            self._guards.append(_Spread(atoms, _SPREAD if limit is None else limit))
        elif limit:
            raise ConfigError(
                "max_spread watches the spread of a committee, and the calculator is no "
                "committee; give EqCalculator several models, or leave it out."
            )
        models = getattr(atoms.calc, "models", ())
        if settings.ranges and models:
            known = [m.card for m in models if m.card.seen]
            if known:
                seen = SeenRanges(known[0].seen, known[0].cutoff)
                self._guards.append(_Range(seen, self._geometry))
            else:
                self.not_watched["range"] = (
                    f"the card of {models[0].card.name} does not record what its training data held"
                )

    def look(self, time_fs: float = 0.0, *, regular: bool = True) -> list[Alarm]:
        """Return what is wrong with the present step: the first alarm, or all doubts.

        Parameters
        ----------
        regular : whether a run that was never interrupted looks at this step too. Where not,
            only guards look that remember nothing, and no doubts are raised.
        """
        self._geometry.begin()
        if self._drift is not None:
            self._drift.time_fs = time_fs
        found = []
        for guard in self._guards:
            if not regular and (guard.is_doubt or guard is self._drift):
                continue
            reason = guard.look()
            if reason is not None:
                found.append(Alarm(guard.name, reason, guard.is_doubt))
                if not guard.is_doubt:
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
