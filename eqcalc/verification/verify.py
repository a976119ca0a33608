"""Every check of a model on a structure, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Optional

import torch
from ase import Atoms

from eqcalc import __version__
from eqcalc.calculator import EqCalculator
from eqcalc.errors import ContractError, NonFiniteError
from eqcalc.model_file import ModelFile, Source, open_potential
from eqcalc.verification import approach, card, laws
from eqcalc.verification.agreement import agreement, ways_to_run
from eqcalc.verification.approach import Approach
from eqcalc.verification.dynamics import Ripple, nve_slope
from eqcalc.verification.finding import Finding, Verdict
from eqcalc.verification.specimen import Specimen, default_structure, specimen_of

__all__ = ["Verification", "verify_model"]


@dataclass(frozen=True)
class Verification:
    """What :func:`verify_model` found.

    file : the model; formula, pbc : of the structure
    findings : in the order of the checks
    ripple : of NVE; approaches : energies of atoms that come closer, for a picture
    """

    file: ModelFile
    formula: str
    pbc: list[bool]
    findings: tuple[Finding, ...]
    ripple: Optional[Ripple]
    approaches: tuple[Approach, ...]

    @property
    def failures(self) -> list[Finding]:
        """The checks that failed."""
        return [finding for finding in self.findings if finding.verdict is Verdict.FAILED]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    def count(self, verdict: Verdict) -> int:
        """Return the number of checks that ended so."""
        return sum(finding.verdict is verdict for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``verify.json``."""
        return {
            "model": {
                "name": self.file.card.name,
                "path": str(self.file.path),
                "sha256": self.file.sha256,
            },
            "structure": {"formula": self.formula, "pbc": self.pbc},
            "versions": {"eqcalc": __version__, "torch": torch.__version__},
            "passed": self.passed,
            "checks": [finding.as_dict() for finding in self.findings],
            "nve": None if self.ripple is None else self.ripple.as_dict(),
            "approaches": [path.as_dict() for path in self.approaches],
        }


class _Check(NamedTuple):
    """A check by name, and about how long it takes beside the others."""

    name: str
    cost: int
    run: Callable[[Specimen], Finding]


def verify_model(
    source: Source,
    atoms: Optional[Atoms] = None,
    *,
    threads: Optional[int] = None,
    trust: bool = False,
    progress: Optional[Callable[[int, int, str], None]] = None,
) -> Verification:
    """Hold a model to physics on a structure.

    All checks run on the CPU in float64 by TorchScript, but those that compare engines. The
    structure's atoms are displaced by some 0.03 Å where symmetry would hide a mistake.

    Parameters
    ----------
    source : a shipped model's name, or the path of a model file
    atoms : a structure of the model's elements; without one, the first frame of its passport
    threads : of a model call, as in :class:`eqcalc.EqCalculator`
    trust : run whatever program the file holds, see :func:`eqcalc.load_model`
    progress : called with work done, work in all, and what is being checked

    Raises
    ------
    ModelFileError : the model does not load or does not reproduce its passport.
    GraphError, UnsupportedElementError, NonFiniteError : the model refuses the structure itself.
    ConfigError : the structure has more than 20 000 edges; ``threads`` is below 1.
    """
    file = open_potential(source, trust=trust)
    calculator = EqCalculator(
        source, device="cpu", dtype="float64", engine="torchscript", threads=threads, trust=trust
    )
    specimen = specimen_of(calculator, default_structure(file) if atoms is None else atoms)
    ripples: list[Ripple] = []
    approaches: list[Approach] = []
    checks = _checks(ripples, approaches)
    findings: list[Finding] = []
    total, done = sum(check.cost for check in checks), 0
    for check in checks:
        if progress is not None:
            progress(done, total, check.name)
        findings.append(_run(check, specimen))
        done += check.cost
    if progress is not None:
        progress(total, total, "done")
    return Verification(
        file,
        specimen.atoms.get_chemical_formula(mode="hill"),
        [bool(periodic) for periodic in specimen.atoms.pbc],
        tuple(findings),
        ripples[0] if ripples else None,
        tuple(approaches),
    )


def _run(check: _Check, specimen: Specimen) -> Finding:
    try:
        return check.run(specimen)
    except (ContractError, NonFiniteError) as error:
        detail = str(error).removeprefix(f"{specimen.subject.label}: ")
        advice = "The model returns no finite numbers here; do not use it on such structures."
        return Finding(check.name, Verdict.FAILED, detail, advice=advice)


def _checks(ripples: list[Ripple], approaches: list[Approach]) -> list[_Check]:
    """Return the checks; two of them leave what a picture shows in the lists."""

    def nve(specimen: Specimen) -> Finding:
        finding, ripple = nve_slope(specimen)
        ripples.extend([] if ripple is None else [ripple])
        return finding

    def closest(
        scan: Callable[[Specimen], tuple[Finding, list[Approach]]], specimen: Specimen
    ) -> Finding:
        finding, found = scan(specimen)
        approaches.extend(found)
        return finding

    return [
        _Check("forces: finite differences", 30, laws.forces),
        _Check("stress: finite differences", 15, laws.stress),
        _Check("rotation", 2, laws.rotation),
        _Check("reflection", 2, laws.reflection),
        _Check("translation", 1, laws.translation),
        _Check("permutation of atoms", 1, laws.permutation),
        _Check("wrapping", 1, laws.wrapping),
        _Check("supercell", 5, laws.supercell),
        _Check("smooth at the cutoff", 8, laws.smooth_cutoff),
        _Check("smooth at symmetric sites", 8, laws.kinks),
        _Check("no force on an atom alone", 1, laws.isolated_atoms),
        _Check("NVE: energy ripple ~ dt²", 35, nve),
        _Check("closest approach: two atoms", 5, partial(closest, approach.approach_alone)),
        _Check("closest approach: structure", 20, partial(closest, approach.approach_in_structure)),
        *(_Check(way.check, 8, partial(agreement, way=way)) for way in ways_to_run()),
        _Check("atoms alone: card's energies", 1, card.reference_energies),
        _Check("trained on this composition", 1, card.composition),
        _Check("distances seen in training", 1, card.distances),
    ]
