"""The contract of an architecture, as functions that anybody can call.

Every law is ``assert_<law>(subject)``; it raises a :class:`~eqcalc.errors.ContractError` (an
AssertionError) that names the case and says by how much the law is broken. All laws together, with
a report: :func:`eqcalc.testing.check_contract`. One by one:

    from eqcalc.testing.laws import assert_rotation
    from eqcalc.testing.subjects import potential_subject

    assert_rotation(potential_subject(Potential(MyNetwork(...)).double()))
"""

from __future__ import annotations

from collections.abc import Callable

from eqcalc.testing.conduct import (
    assert_batch_equals_singles,
    assert_energies_keep_the_dtype,
    assert_globals_untouched,
    assert_inputs_unchanged,
    assert_large_box_is_exact,
    assert_no_memory,
    assert_same_numbers,
)
from eqcalc.testing.derivative import (
    assert_every_parameter_learns,
    assert_finite_second_derivatives,
    assert_forces_are_derivatives,
    assert_smooth_at_symmetric_sites,
    assert_stress_is_derivative,
)
from eqcalc.testing.locality import (
    assert_distant_molecules_add_up,
    assert_edges_act_on_their_receiver,
    assert_ghosts_stand_for_images,
    assert_isolated_atoms_are_exact,
    assert_isolated_atoms_feel_nothing,
    assert_neighbours_matter,
    assert_no_effect_beyond_cutoff,
    assert_smooth_at_cutoff,
    assert_supercell_scales,
)
from eqcalc.testing.subjects import Subject, require_potential
from eqcalc.testing.symmetry import (
    assert_atom_permutation,
    assert_edge_permutation,
    assert_lattice_shift,
    assert_reflection,
    assert_rotation,
    assert_translation,
)

Law = Callable[[Subject], None]
"""Raises a ContractError where a subject breaks it."""

ANY_PRECISION: tuple[Law, ...] = (
    assert_rotation,
    assert_reflection,
    assert_translation,
    assert_atom_permutation,
    assert_edge_permutation,
    assert_lattice_shift,
    assert_neighbours_matter,
    assert_edges_act_on_their_receiver,
    assert_isolated_atoms_feel_nothing,
    assert_distant_molecules_add_up,
    assert_supercell_scales,
    assert_ghosts_stand_for_images,
    assert_no_effect_beyond_cutoff,
    assert_batch_equals_singles,
    assert_inputs_unchanged,
    assert_no_memory,
    assert_globals_untouched,
    assert_large_box_is_exact,
)
"""Laws of a subject, in either precision."""

FLOAT64: tuple[Law, ...] = (
    assert_forces_are_derivatives,
    assert_stress_is_derivative,
    assert_smooth_at_cutoff,
    assert_smooth_at_symmetric_sites,
)
"""Laws of a subject that only float64 can resolve."""

NETWORK: tuple[Law, ...] = (
    assert_energies_keep_the_dtype,
    assert_every_parameter_learns,
    assert_finite_second_derivatives,
)
"""Laws of the eager network itself, which a model file no longer shows."""

ISOLATED_ATOMS: tuple[Law, ...] = (assert_isolated_atoms_are_exact,)
"""Laws of a subject that promises exact isolated atoms, in either precision."""

TRAINING: tuple[Law, ...] = (assert_every_parameter_learns, assert_finite_second_derivatives)
"""Those of :data:`NETWORK` that need parameters to train."""

__all__ = [
    "ANY_PRECISION",
    "FLOAT64",
    "ISOLATED_ATOMS",
    "NETWORK",
    "TRAINING",
    "Law",
    "assert_same_numbers",
    "law_name",
    "reason_to_leave_out",
    *(law.__name__ for law in (*ANY_PRECISION, *FLOAT64, *ISOLATED_ATOMS, *NETWORK)),
]


def law_name(law: Callable[..., None]) -> str:
    """Return what reports call a law.

    >>> law_name(assert_rotation)
    'rotation'
    """
    return law.__name__.removeprefix("assert_")


def reason_to_leave_out(law: Law, subject: Subject) -> str | None:
    """Return why a law is not applied to a subject; None where it is."""
    if law is assert_reflection and not subject.concessions.mirror_symmetric:
        return "the network declares mirror_symmetric = False"
    if law in TRAINING:
        parameters = require_potential(subject).parameters()
        if not any(parameter.requires_grad for parameter in parameters):
            return "no parameter of the network requires a gradient"
    return None
