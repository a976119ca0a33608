"""The guards of a run, one class each: what it looks at, and its limit.

A guard looks at the present step and says what is wrong with it, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from ase import Atoms, units
from ase.constraints import FixCom
from ase.data import chemical_symbols, covalent_radii
from scipy.special import chdtri

from eqcalc.graph import AtomicGraph
from eqcalc.model_file.seen import SeenRanges
from eqcalc.neighbours import SkinList
from eqcalc.simulate.guard_settings import GuardSettings

__all__ = [
    "Distance",
    "Drift",
    "Force",
    "Geometry",
    "Guard",
    "Motion",
    "Range",
    "Spread",
    "Temperature",
]

_COMPRESSED = 0.5  # of the sum of covalent radii
_HOTTEST_K = 5000.0  # of what chemistry is computed at; flames and shocks stay below
_HOTTER = 10.0  # than asked for
_NEVER = 1e-20  # chance of a fluctuation, for one look; a week has some 1e8
_STRONGEST_BOND_EV = 15.0  # with a margin: CO has 11.2
_JUMP_PS = 10.0  # of drift at once
_PERIOD_FS = 1000.0  # longer than the vibrations, over which the error of Verlet's energy averages
_OVERSHOOT = 10.0  # of forces in the first steps of a relaxation
_OWN_SKIN = 0.5  # Å


class Motion(NamedTuple):
    """What a guard has to know of a dynamics besides the atoms.

    goal_K : the highest temperature that is asked for, or begun with
    conserved : returns the conserved quantity (eV); None where there is none
    why_none : in words, there
    """

    n_dof: int
    goal_K: float
    conserved: Callable[[], float] | None
    why_none: str = ""


class Geometry:
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
        """The graph of the present step, made when it is first asked for."""
        if self._graph is None:
            _, self._graph = self._graph_of(self._atoms)
        return self._graph

    def own_index(self, index: int) -> int:
        """Return which atom of the user's structure an atom of the graph is."""
        order = getattr(self._atoms.calc, "atom_order", None)
        return index if order is None else int(order[index])


class Guard(Protocol):
    """``is_cheap``: it looks at what is there, in a few microseconds."""

    name: str
    is_doubt: bool
    is_cheap: bool

    def look(self) -> str | None:
        """Return what is wrong with the present step; None where nothing is."""


class Distance:
    """The closest pair, beside half the sum of covalent radii, or beside a limit in Å."""

    name, is_doubt, is_cheap = "distance", False, False

    def __init__(self, atoms: Atoms, limit: float | None, geometry: Geometry):
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
        """Find the pair that is closest for its elements."""
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


class Force:
    """The largest force on an atom, beside a limit in eV/Å."""

    name, is_doubt, is_cheap = "force", False, True

    def __init__(self, atoms: Atoms, limit: float):
        self._atoms, self._limit = atoms, limit
        # Forces that a constraint takes up are no fault; Langevin's own only holds the whole.
        self._is_free = all(isinstance(each, FixCom) for each in atoms.constraints)

    def look(self) -> str | None:
        """Find the largest force."""
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
        forces = self._atoms.calc.results.get("forces") if self._is_free else None
        if forces is None:
            forces = self._atoms.get_forces()
        return np.einsum("kx,kx->k", forces, forces)


class Temperature:
    """The temperature, and the kinetic energy of each atom."""

    name, is_doubt, is_cheap = "temperature", False, True

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
        """Take both from the momenta."""
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


class Drift:
    """The conserved quantity: its mean over a picosecond beside that of the one before.

    Also at once, where it is as far from the mean before as ten picoseconds of drift go.
    """

    name, is_doubt, is_cheap = "drift", False, False

    def __init__(self, atoms: Atoms, limit: float, conserved: Callable[[], float]):
        self._n_atoms, self._limit, self._conserved = len(atoms), limit, conserved
        self.state: dict[str, Any] = {"before": None, "first": None, "begun_fs": 0.0}
        self.state |= {"sum": 0.0, "count": 0}
        self.time_fs = 0.0

    def look(self) -> str | None:
        """Compare the conserved energy with that of before, and remember it."""
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


class Spread:
    """The standard deviation of a committee's forces on an atom, beside a limit in eV/Å."""

    name, is_doubt, is_cheap = "spread", True, False

    def __init__(self, atoms: Atoms, limit: float):
        self._atoms, self._limit = atoms, limit

    def look(self) -> str | None:
        """Find the atom on which the members differ most."""
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


class Range:
    """Pairs, distances and numbers of neighbours, beside those of the training data."""

    name, is_doubt, is_cheap = "range", True, False

    def __init__(self, seen: SeenRanges, geometry: Geometry, of: str | None):
        self._seen, self._geometry, self._of = seen, geometry, of

    def look(self) -> str | None:
        """Find what the training data did not hold."""
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
        whose = "" if self._of is None else f", says the card of {self._of}"
        return f"{text} (atom{'s' * (len(atoms) > 1)} {own}){whose}"
