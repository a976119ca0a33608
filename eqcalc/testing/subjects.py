"""What a law is tested on, and how two evaluations are compared.

A law sees a :class:`Subject`: anything that maps a graph to an
:class:`~eqcalc.potential.Evaluation` (the eager network, the exported file, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from eqcalc.concessions import NO_CONCESSIONS, Concessions, declared
from eqcalc.elements import N_ELEMENTS, atomic_number, symbols_of
from eqcalc.engines import Model
from eqcalc.errors import ConfigError, ContractError, listing
from eqcalc.graph import AtomicGraph
from eqcalc.neighbours import build_graph
from eqcalc.potential import Evaluation, Potential, evaluation_of
from eqcalc.testing.geometries import ELEMENTS, substituted, substitution
from eqcalc.testing.measurements import keep
from eqcalc.testing.tolerances import TOLERANCES, Tolerance

__all__ = [
    "Subject",
    "assert_close",
    "assert_same_evaluation",
    "evaluate",
    "exported_subject",
    "known_elements",
    "potential_subject",
    "require",
    "require_potential",
]


_UNITS = {"energy": "eV", "energies": "eV", "forces": "eV/Å", "stress": "eV/Å³"}


@dataclass(frozen=True)
class Subject:
    """A potential as the laws see it.

    label : for messages
    call : graph -> Evaluation; it may raise
    cutoff : Å; n_hops : message-passing steps
    dtype : of the graphs to pass
    elements : symbols that it knows; they take the places of the structures' elements
    concessions : what the network gives up
    potential : the eager potential, which the laws of training differentiate
    isolated_energies : eV by symbol, which an atom alone is promised to have; None where nothing
        is promised
    negligible : eV; effects at the cutoff that are no larger are taken for rounding
    """

    label: str
    call: Callable[[AtomicGraph], Evaluation]
    cutoff: float
    n_hops: int
    dtype: torch.dtype
    elements: tuple[str, ...] = ELEMENTS
    concessions: Concessions = NO_CONCESSIONS
    potential: Potential | None = None
    isolated_energies: Mapping[str, float] | None = None
    negligible: float = 0.0

    @property
    def tolerance(self) -> Tolerance:
        """Rounding allowed in this subject's precision."""
        return TOLERANCES[self.dtype]

    def graph(
        self, atoms: Atoms, cutoff: float | None = None, *, dtype: torch.dtype | None = None
    ) -> AtomicGraph:
        """Return the graph of a structure, its elements replaced by the subject's.

        By default with the subject's own cutoff and dtype.
        """
        atoms = substituted(atoms, self.elements)
        arrays = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
        graph = _graph(
            self.cutoff if cutoff is None else cutoff, *(array.tobytes() for array in arrays)
        )
        edge_vectors = graph.edge_vectors.to(self.dtype if dtype is None else dtype)
        return graph._replace(  # copies, because a broken network may write to them
            atomic_numbers=graph.atomic_numbers.clone(),
            edge_index=graph.edge_index.clone(),
            edge_vectors=edge_vectors.clone(),
            structure_index=graph.structure_index.clone(),
            cell=graph.cell.clone(),
        )

    def another(self, element: str, preferred: str) -> str | None:
        """Return an element of the structures that is another one to the subject as well.

        None where the subject knows one element only.
        """
        image = substitution(self.elements)
        others = [x for x in (preferred, *ELEMENTS) if image[x] != image[element]]
        return others[0] if others else None


@lru_cache(maxsize=2000)  # every law in every form and precision has the same structures
def _graph(cutoff: float, numbers: bytes, positions: bytes, cell: bytes, pbc: bytes) -> AtomicGraph:
    """Return the float64 graph of a structure, of which the bytes of its arrays are given."""
    atoms = Atoms(
        np.frombuffer(numbers, dtype=np.int64),
        np.frombuffer(positions).reshape(-1, 3),
        cell=np.frombuffer(cell).reshape(3, 3),
        pbc=np.frombuffer(pbc, dtype=np.bool_),
    )
    return build_graph(atoms, cutoff)


def potential_subject(
    potential: Potential, label: str = "eager", *, elements: Iterable[str | int] | None = None
) -> Subject:
    """Return an eager potential as a subject; it is put into evaluation mode.

    Parameters
    ----------
    elements : see :func:`known_elements`
    """
    potential.eval()
    known = known_elements(potential, elements)
    promised = None
    if potential.exact_isolated_atoms:
        promised = {x: float(potential.reference_energies[atomic_number(x)]) for x in known}
    return Subject(
        label,
        potential.evaluate,
        potential.cutoff,
        potential.n_hops,
        next(potential.parameters()).dtype,
        known,
        declared(potential.architecture),
        potential,
        promised,
    )


def exported_subject(
    model: Model,
    label: str = "exported",
    *,
    concessions: Concessions = NO_CONCESSIONS,
    isolated_energies: Mapping[str, float] | None = None,
) -> Subject:
    """Return a loaded model file as a subject: a host that sums what the file returns.

    Parameters
    ----------
    concessions, isolated_energies : what the network declares and promises; a model file does
        not tell
    """

    def call(graph: AtomicGraph) -> Evaluation:
        energies, gradients = model(graph)
        return evaluation_of(graph, energies, gradients)

    card = model.card
    elements = tuple(card.elements)
    return Subject(
        label,
        call,
        card.cutoff,
        card.n_hops,
        model.dtype,
        elements,
        concessions,
        isolated_energies=isolated_energies,
    )


def known_elements(
    potential: Potential, elements: Iterable[str | int] | None = None
) -> tuple[str, ...]:
    """Return the symbols on which a potential is to be tested, by atomic number.

    Parameters
    ----------
    elements : symbols or atomic numbers. By default those with a reference energy, and of these
        those that the network's ``config.elements`` names, where it has that option. A potential
        that limits neither is tested on :data:`~eqcalc.testing.geometries.ELEMENTS`.

    Raises
    ------
    ConfigError : there are none, or the potential has no reference energy for one of them.
    """
    if isinstance(elements, str):
        raise ConfigError(f"elements must be a list such as ['H', 'C'], found {elements!r}.")
    is_finite = torch.isfinite(potential.reference_energies)
    referenced = {z for z in range(1, N_ELEMENTS) if bool(is_finite[z])}
    if elements is None:
        return _limits(potential, referenced)
    wanted = {atomic_number(element) for element in elements}
    if not wanted:
        raise ConfigError("elements must name at least one element, found none.")
    missing = symbols_of(wanted - referenced)
    if missing:
        raise ConfigError(
            f"the potential has no reference energy for {', '.join(missing)}; give one to "
            "Potential, or leave these elements out."
        )
    return tuple(symbols_of(wanted))


def _limits(potential: Potential, referenced: set[int]) -> tuple[str, ...]:
    """Return the symbols to which reference energies and network limit a potential."""
    named = getattr(getattr(potential.architecture, "config", None), "elements", None)
    if not isinstance(named, (list, tuple)):
        named = ELEMENTS if len(referenced) == N_ELEMENTS - 1 else referenced
    own = {atomic_number(element) for element in named}
    if not own & referenced:
        raise ConfigError(
            "no element is left to test: the potential has reference energies for "
            f"{listing(symbols_of(referenced)) or 'none'}, its network is for "
            f"{listing(symbols_of(own)) or 'none'}."
        )
    return tuple(symbols_of(own & referenced))


def require(holds: bool, failure: str) -> None:
    """Let a law be broken unless something holds.

    Raises
    ------
    ContractError : it does not.
    """
    if not holds:
        raise ContractError(failure)


def require_potential(subject: Subject) -> Potential:
    """Return the eager potential behind a subject.

    Raises
    ------
    ConfigError : the subject is a model file.
    """
    if subject.potential is None:
        raise ConfigError(
            f"{subject.label}: this law needs the eager network; use potential_subject."
        )
    return subject.potential


def evaluate(subject: Subject, structure: Atoms | AtomicGraph, case: str) -> Evaluation:
    """Evaluate a structure; a failure, a wrong shape or a NaN breaks the law at hand."""
    graph = structure if isinstance(structure, AtomicGraph) else subject.graph(structure)
    n_atoms = graph.atomic_numbers.shape[0]
    try:
        found = subject.call(graph)
    except Exception as error:  # a network may fail in any way
        raise ContractError(
            f"{subject.label}: {case}: evaluation failed with {type(error).__name__}: {error}"
        ) from error
    shapes = {
        "energy": (found.energy, (graph.n_structures,)),
        "energies": (found.energies, (n_atoms,)),
        "forces": (found.forces, (n_atoms, 3)),
    }
    if found.stress is not None:
        shapes["stress"] = (found.stress, (graph.n_structures, 3, 3))
    what = f"{subject.label}: {case}"
    for quantity, (tensor, shape) in shapes.items():
        require(
            tuple(tensor.shape) == shape,
            f"{what}: {quantity} has shape {tuple(tensor.shape)}, expected {shape}",
        )
        require(
            tensor.dtype == torch.float64,
            f"{what}: {quantity} is {tensor.dtype}, expected torch.float64",
        )
        require(bool(torch.isfinite(tensor).all()), f"{what}: {quantity}: NaN or infinite values")
    return found


def assert_close(
    found: Tensor | np.ndarray,
    expected: Tensor | np.ndarray,
    tolerance: Tolerance,
    what: str,
    quantity: str,
) -> None:
    """Compare and say by how much they differ; NaN never passes.

    Parameters
    ----------
    quantity : "energy", "energies", "forces" or "stress": it selects the absolute part

    Raises
    ------
    ContractError : they differ by more than the tolerance, or in shape.
    """
    found, expected = (torch.as_tensor(x).detach().to(torch.float64) for x in (found, expected))
    require(
        found.shape == expected.shape,
        f"{what}: {quantity} have shape {tuple(found.shape)}, expected {tuple(expected.shape)}",
    )
    if expected.numel() == 0:
        return
    is_energy = quantity in ("energy", "energies")
    difference = float((found - expected).abs().max())
    allowed = tolerance.energy if is_energy else tolerance.derivative
    allowed += tolerance.relative * float(expected.abs().max())
    keep(f"{what}: {quantity}", difference, allowed, _UNITS[quantity])
    require(
        difference <= allowed,
        f"{what}: {quantity} differ by {difference:.3g}, allowed {allowed:.3g}",
    )


def assert_same_evaluation(
    subject: Subject,
    found: Evaluation,
    expected: Evaluation,
    case: str,
    tolerance: Tolerance | None = None,
) -> None:
    """Compare every quantity of two evaluations, by default within the subject's rounding.

    Raises
    ------
    ContractError : one differs, or exists for one of the two only.
    """
    tolerance = subject.tolerance if tolerance is None else tolerance
    what = f"{subject.label}: {case}"
    for quantity in ("energy", "energies", "forces", "stress"):
        left, right = getattr(found, quantity), getattr(expected, quantity)
        if left is None or right is None:
            require(left is right, f"{what}: {quantity} exists for one of two only")
        else:
            assert_close(left, right, tolerance, what, quantity)
