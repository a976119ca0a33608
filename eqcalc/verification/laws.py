"""The contract's laws on a user's model and structure, each with what it measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from eqcalc.blockwise.grouping import MAX_EDGES
from eqcalc.errors import ContractError
from eqcalc.testing.geometries import Structures
from eqcalc.testing.laws import (
    assert_atom_permutation,
    assert_forces_are_derivatives,
    assert_isolated_atoms_feel_nothing,
    assert_lattice_shift,
    assert_reflection,
    assert_rotation,
    assert_smooth_at_cutoff,
    assert_smooth_at_symmetric_sites,
    assert_stress_is_derivative,
    assert_supercell_scales,
    assert_translation,
)
from eqcalc.testing.locality import REPEATS
from eqcalc.testing.measurements import Measurement, measurements
from eqcalc.testing.subjects import Subject
from eqcalc.verification.finding import Finding, Verdict, skipped
from eqcalc.verification.specimen import Specimen

__all__ = [
    "forces",
    "isolated_atoms",
    "kinks",
    "permutation",
    "reflection",
    "rotation",
    "smooth_cutoff",
    "stress",
    "supercell",
    "translation",
    "wrapping",
]

_COMPONENTS = 12  # of the forces; each takes four evaluations
_MOST_EDGES = 2 * MAX_EDGES  # of a supercell, in float64
_APART = "atoms stand out of each other's reach, where every law holds of nothing"
_USELESS = "Do not use this file; export the model again, or ask its makers."


def forces(specimen: Specimen) -> Finding:
    """Compare forces with finite differences of the energy."""

    def law(structures: Structures) -> None:
        assert_forces_are_derivatives(specimen.subject, structures, most=_COMPONENTS)

    advice = f"Forces are no derivative of the energy, which dynamics cannot conserve. {_USELESS}"
    return _of_displaced("forces: finite differences", law, specimen, advice)


def stress(specimen: Specimen) -> Finding:
    """Compare the stress with finite differences of the energy."""
    name = "stress: finite differences"
    if not specimen.atoms.pbc.all():
        return skipped(name, "a stress is defined where all three directions are periodic")

    def law(structures: Structures) -> None:
        assert_stress_is_derivative(specimen.subject, structures)

    return _of_displaced(name, law, specimen, f"Cells would relax to wrong volumes. {_USELESS}")


def rotation(specimen: Specimen) -> Finding:
    """Turn the structure."""
    advice = f"The energy depends on how the structure lies. {_USELESS}"
    return _on_displaced("rotation", assert_rotation, specimen, advice)


def reflection(specimen: Specimen) -> Finding:
    """Mirror the structure, unless the network declares that mirror images differ."""
    if not specimen.subject.concessions.mirror_symmetric:
        return skipped("reflection", "the card says that mirror images differ in energy")
    advice = f"Mirror images differ, and the card does not say so. {_USELESS}"
    return _on_displaced("reflection", assert_reflection, specimen, advice)


def translation(specimen: Specimen) -> Finding:
    """Move all atoms."""
    advice = f"The energy depends on where the structure stands. {_USELESS}"
    return _on_displaced("translation", assert_translation, specimen, advice)


def permutation(specimen: Specimen) -> Finding:
    """Number the atoms in another order."""
    advice = f"The energy depends on the order of the atoms. {_USELESS}"
    return _on_displaced("permutation of atoms", assert_atom_permutation, specimen, advice)


def wrapping(specimen: Specimen) -> Finding:
    """Replace atoms by their periodic images."""
    if not specimen.atoms.pbc.any():
        return skipped("wrapping", "the structure is not periodic")
    advice = f"Atoms that leave the cell change the energy. {_USELESS}"
    return _on_displaced("wrapping", assert_lattice_shift, specimen, advice)


def supercell(specimen: Specimen) -> Finding:
    """Repeat the cell."""
    if not specimen.atoms.pbc.any():
        return skipped("supercell", "the structure is not periodic")
    advice = f"Energies per atom depend on the size of the cell. {_USELESS}"
    repeats = [r for r in REPEATS if math.prod(r) * specimen.n_edges <= _MOST_EDGES]
    if not repeats:
        return skipped("supercell", "two cells are too large for one call; take a smaller cell")

    def law(subject: Subject, structures: Structures) -> None:
        assert_supercell_scales(subject, structures, repeats)

    return _on_displaced("supercell", law, specimen, advice)


def smooth_cutoff(specimen: Specimen) -> Finding:
    """Let a pair of atoms leave the cutoff."""
    structures = specimen.dimers()
    cluster = specimen.cluster()
    if len(cluster) > 2:
        structures["a piece of the structure"] = cluster
    n = specimen.subject.concessions.vanishing_derivatives
    advice = (
        f"Energies, forces or their derivatives jump where atoms leave the cutoff of "
        f"{specimen.subject.cutoff:g} Å: dynamics drifts. {_USELESS}"
    )
    found = _held(
        "smooth at the cutoff",
        lambda: assert_smooth_at_cutoff(specimen.subject, structures),
        advice,
    )
    terms = f"with {n} vanishing derivative, as the card declares" if n < 2 else ""
    return _on_terms(found, terms)


def kinks(specimen: Specimen) -> Finding:
    """Displace atoms from symmetric sites."""
    advice = (
        "Force constants change within 0.001 Å: relaxations stall and phonons are wrong. Train "
        "with a smooth length of vectors (vector_norm), or keep away from perfect crystals."
    )
    structures = specimen.symmetric_sites()
    found = _held(
        "smooth at symmetric sites",
        lambda: assert_smooth_at_symmetric_sites(specimen.subject, structures),
        advice,
    )
    is_smooth = specimen.subject.concessions.smooth_at_symmetric_sites
    return _on_terms(
        found, "" if is_smooth else "within 1e-6 Å only: the card declares a kink beyond"
    )


def isolated_atoms(specimen: Specimen) -> Finding:
    """Look at an atom of each element of the structure alone."""
    advice = f"A lone atom has no finite energy, or a force. {_USELESS}"
    return _held(
        "no force on an atom alone",
        lambda: assert_isolated_atoms_feel_nothing(specimen.subject),
        advice,
    )


def _on_displaced(name: str, law: Callable[..., None], specimen: Specimen, advice: str) -> Finding:
    if specimen.n_edges == 0:
        return skipped(name, _APART)
    structures = {"the structure": specimen.rattled()}
    return _held(name, lambda: law(specimen.subject, structures), advice)


def _of_displaced(
    name: str, law: Callable[[Structures], None], specimen: Specimen, advice: str
) -> Finding:
    """Hold a law of finite differences; they fail across a jump that the network declares.

    No pair stands at the same jump after other displacements, while wrong forces stay wrong.
    """
    if specimen.n_edges == 0:
        return skipped(name, _APART)
    found = _held(name, lambda: law({"the structure": specimen.rattled()}), advice)
    may_jump = specimen.subject.concessions.vanishing_derivatives < 2
    if found.verdict is Verdict.FAILED and may_jump:
        return _held(name, lambda: law({"the structure": specimen.rattled(seed=1)}), advice)
    return found


def _held(name: str, law: Callable[[], None], advice: str) -> Finding:
    """Apply a law; the finding has the comparison that came closest to what is allowed."""
    failure = ""
    with measurements() as kept:
        try:
            law()
        except ContractError as error:
            failure = str(error)
    worst = max(kept, key=_share, default=None)
    if failure and (worst is None or _share(worst) <= 1.0):
        worst = None  # what failed is no comparison of two numbers
    return Finding(
        name,
        Verdict.FAILED if failure else Verdict.OK,
        _bare(failure or (worst.case if worst is not None else "")),
        None if worst is None else worst.found,
        None if worst is None else worst.allowed,
        "" if worst is None else worst.unit,
        advice=advice if failure else "",
    )


def _share(measured: Measurement) -> float:
    if measured.allowed > 0.0:
        return measured.found / measured.allowed
    return math.inf if measured.found > 0.0 else 0.0


def _bare(text: str) -> str:
    return text.removeprefix("model: ")


def _on_terms(found: Finding, terms: str) -> Finding:
    return replace(found, detail="; ".join(filter(None, (found.detail, terms))))
