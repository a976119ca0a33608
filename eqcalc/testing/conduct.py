"""Laws of conduct: batches, inputs, globals and precision are treated with care."""

from __future__ import annotations

import copy

import torch
from ase import Atoms

from eqcalc.errors import ContractError
from eqcalc.graph import AtomicGraph, batch_graphs
from eqcalc.potential import Evaluation
from eqcalc.testing import geometries
from eqcalc.testing.subjects import (
    Subject,
    assert_same_evaluation,
    evaluate,
    require,
    require_potential,
)
from eqcalc.testing.tolerances import FAR_FROM_ORIGIN

__all__ = [
    "assert_batch_equals_singles",
    "assert_energies_keep_the_dtype",
    "assert_globals_untouched",
    "assert_inputs_unchanged",
    "assert_large_box_is_exact",
    "assert_no_memory",
    "assert_same_numbers",
]


def assert_batch_equals_singles(subject: Subject) -> None:
    """Structures in one graph do not see each other, not even atoms without any edge."""
    mixed = [
        geometries.isolated("H"),
        geometries.ethanol(0),
        Atoms("CO", [[0.0, 0.0, 0.0], [0.0, 0.0, 99.0]]),  # two atoms, zero edges
        geometries.slab(),
        geometries.linear_co2(),
        geometries.isolated("Cu"),
    ]
    batches = {
        "molecules, slab and single atoms": mixed,
        "the same in reverse order": mixed[::-1],
        "one atom": [geometries.isolated("C")],
        "atoms without edges": [geometries.isolated("C"), geometries.isolated("O")],
        "crystals": [geometries.ionic_triclinic(), geometries.metal()],
    }
    for case, structures in batches.items():
        singles = [evaluate(subject, atoms, f"{case}, single") for atoms in structures]
        stresses = [single.stress for single in singles if single.stress is not None]
        expected = Evaluation(
            torch.cat([single.energy for single in singles]),
            torch.cat([single.energies for single in singles]),
            torch.cat([single.forces for single in singles]),
            torch.cat(stresses) if len(stresses) == len(singles) else None,
        )
        graph = batch_graphs([subject.graph(atoms) for atoms in structures])
        found = evaluate(subject, graph, f"{case}, batch")
        assert_same_evaluation(subject, found, expected, f"batch of {case}")


def assert_inputs_unchanged(subject: Subject) -> None:
    """An evaluation writes to none of the tensors that it was given."""
    for case, atoms in geometries.generic().items():
        graph = subject.graph(atoms)
        before = {name: tensor.clone() for name, tensor in _tensors(graph).items()}
        evaluate(subject, graph, case)
        for name, tensor in _tensors(graph).items():
            require(
                torch.equal(tensor, before[name]),
                f"{subject.label}: {case}: the evaluation changed its input {name}",
            )
            require(
                not tensor.requires_grad,
                f"{subject.label}: {case}: the evaluation made its input {name} require grad",
            )


def assert_no_memory(subject: Subject) -> None:
    """The same graph gives the same numbers, whatever was evaluated before."""
    structures = {"ethanol": geometries.ethanol(0), "another ethanol": geometries.ethanol(1)}
    structures |= geometries.periodic_in_three()
    first = {case: evaluate(subject, atoms, case) for case, atoms in structures.items()}
    for _ in range(2):  # TorchScript optimises after the first runs
        for case in reversed(structures):
            again = evaluate(subject, structures[case], case)
            assert_same_evaluation(subject, again, first[case], f"{case} evaluated again")


def assert_globals_untouched(subject: Subject) -> None:
    """Results do not depend on the global dtype, and no global is changed."""
    atoms = geometries.ethanol()
    initial = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        expected = evaluate(subject, atoms, "ethanol")
        for dtype in (torch.float64, torch.float32):
            _assert_default_dtype(subject, torch.float32)
            torch.set_default_dtype(dtype)
            case = f"ethanol with the default dtype {dtype}"
            state = torch.get_rng_state()
            with torch.no_grad():
                found = evaluate(subject, atoms, case)
                is_off = not torch.is_grad_enabled()
            _assert_default_dtype(subject, dtype)
            torch.set_default_dtype(torch.float32)
            require(is_off, f"{subject.label}: gradients were enabled")
            require(
                torch.equal(state, torch.get_rng_state()),
                f"{subject.label}: the evaluation used torch's random numbers",
            )
            assert_same_evaluation(subject, found, expected, case)
    finally:
        torch.set_default_dtype(initial)


def assert_large_box_is_exact(subject: Subject) -> None:
    """A molecule far from the origin, or across the edge of a large box, is the same one."""
    atoms = geometries.ethanol()
    expected = evaluate(subject, atoms, "ethanol")
    far = atoms.copy()
    far.translate([12345.678, -54321.0, 98765.4])
    boxed = atoms.copy()
    boxed.set_cell([2e4, 3e4, 2.5e4])
    boxed.pbc = True
    boxed.wrap()
    for case, moved in {"far from the origin": far, "wrapped in a large box": boxed}.items():
        found = evaluate(subject, moved, case)
        found = found._replace(stress=None)  # the big box has one, the vacuum has none
        assert_same_evaluation(
            subject, found, expected, f"ethanol {case}", FAR_FROM_ORIGIN[subject.dtype]
        )


def assert_energies_keep_the_dtype(subject: Subject) -> None:
    """The network's energies have the shape (n_atoms,) and the dtype of the edge vectors."""
    potential = require_potential(subject)
    for dtype in (torch.float64, torch.float32):
        network = copy.deepcopy(potential).to(dtype).architecture
        graph = subject.graph(geometries.ethanol(), dtype=dtype)
        case = f"{subject.label}: energies of ethanol from edge vectors in {dtype}"
        try:
            found = network.atomic_energies(graph)  # type: ignore[operator]
        except Exception as error:  # a network may fail in any way
            raise ContractError(f"{case}: {type(error).__name__}: {error}") from error
        expected = tuple(graph.atomic_numbers.shape)
        shape = tuple(found.shape)
        require(shape == expected, f"{case} have shape {shape}, expected {expected}")
        require(found.dtype == dtype, f"{case} are {found.dtype}, expected {dtype}")


def assert_same_numbers(subject: Subject, reference: Subject) -> None:
    """Two forms of one potential agree within the less precise one's rounding."""
    structures = geometries.generic() | {
        "isolated C": geometries.isolated("C"),
        "short CO": geometries.dimer("C", "O", 0.6),
        "CO at the cutoff": geometries.dimer("C", "O", 0.999 * subject.cutoff),
        "CO2": geometries.linear_co2(),
        "benzene": geometries.benzene(),
    }
    for case, atoms in structures.items():
        expected = evaluate(reference, atoms, case)
        found = evaluate(subject, atoms, case)
        assert_same_evaluation(subject, found, expected, f"{case}, against {reference.label}")


def _assert_default_dtype(subject: Subject, dtype: torch.dtype) -> None:
    found = torch.get_default_dtype()
    require(found == dtype, f"{subject.label}: the default dtype was changed to {found}")


def _tensors(graph: AtomicGraph) -> dict[str, torch.Tensor]:
    return {k: v for k, v in graph._asdict().items() if isinstance(v, torch.Tensor)}
