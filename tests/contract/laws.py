"""The contract of an architecture, as functions that anybody can call.

Every law is ``assert_<law>(subject)`` and raises an AssertionError that names the case
and says by how much it fails:

    from laws import ANY_PRECISION, FLOAT64, TRAINING
    from subjects import potential_subject

    potential = Potential(MyNetwork(...)).double()
    for law in (*ANY_PRECISION, *FLOAT64):
        law(potential_subject(potential))
    for law in TRAINING:
        law(potential)
"""

from __future__ import annotations

from conduct_laws import (
    assert_batch_equals_singles,
    assert_globals_untouched,
    assert_inputs_unchanged,
    assert_large_box_is_exact,
    assert_no_memory,
    assert_same_numbers,
)
from derivative_laws import (
    assert_every_parameter_learns,
    assert_finite_second_derivatives,
    assert_forces_are_derivatives,
    assert_stress_is_derivative,
    perturb,
)
from locality_laws import (
    assert_distant_molecules_add_up,
    assert_edges_act_on_their_receiver,
    assert_ghosts_stand_for_images,
    assert_isolated_atoms_feel_nothing,
    assert_neighbours_matter,
    assert_no_effect_beyond_cutoff,
    assert_smooth_at_cutoff,
    assert_supercell_scales,
)
from symmetry_laws import (
    assert_atom_permutation,
    assert_edge_permutation,
    assert_lattice_shift,
    assert_reflection,
    assert_rotation,
    assert_translation,
)

ANY_PRECISION = (
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

FLOAT64 = (assert_forces_are_derivatives, assert_stress_is_derivative, assert_smooth_at_cutoff)
"""Laws of a subject that only float64 can resolve."""

TRAINING = (assert_every_parameter_learns, assert_finite_second_derivatives)
"""Laws of an eager potential."""

__all__ = [
    "ANY_PRECISION",
    "FLOAT64",
    "TRAINING",
    "assert_same_numbers",
    "perturb",
    *(law.__name__ for law in (*ANY_PRECISION, *FLOAT64, *TRAINING)),
]
