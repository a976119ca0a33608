"""Hold a potential to the contract, and report which law it breaks in which form."""

from __future__ import annotations

import copy
import random
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from eqcalc.engines import load_model
from eqcalc.errors import ConfigError, ContractError
from eqcalc.export import export_model
from eqcalc.potential import Potential
from eqcalc.testing.fresh_process import assert_needs_torch_alone
from eqcalc.testing.geometries import substitution
from eqcalc.testing.laws import (
    ANY_PRECISION,
    FLOAT64,
    ISOLATED_ATOMS,
    NETWORK,
    Law,
    assert_neighbours_matter,
    assert_same_numbers,
    assert_smooth_at_cutoff,
    assert_smooth_at_symmetric_sites,
    law_name,
    reason_to_leave_out,
)
from eqcalc.testing.preparation import prepared_copy
from eqcalc.testing.subjects import (
    Subject,
    exported_subject,
    known_elements,
    potential_subject,
)

__all__ = ["Check", "Report", "check_contract"]

_DTYPES = ("float64", "float32")
_SMALLEST_CUTOFF = 3.0  # Å; within it atoms of the structures have their nearest neighbours
_EXPORT = "model_file"


class Check(NamedTuple):
    """A law, applied to a potential in one form.

    law : such as "rotation"
    form : "eager float64", "eager float32", "exported float64" or "exported float32"
    meaning : the law in a sentence
    failure : in which case it is broken and by how much; None where it holds
    """

    law: str
    form: str
    meaning: str
    failure: str | None


@dataclass(frozen=True)
class Report:
    """What :func:`check_contract` found; ``str(report)`` is a table and an account of failures.

    name : of the architecture
    checks : every law in every form in which it was applied
    notes : what was not applied, and on what terms the others were
    """

    name: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.failure is not None)

    @property
    def passed(self) -> bool:
        """Whether every law that was applied holds."""
        return not self.failures

    def raise_for_failures(self) -> None:
        """Do nothing where every law holds.

        Raises
        ------
        ContractError : one does not; the message has every broken law, with its cases.
        """
        if not self.passed:
            raise ContractError(self._account())

    def __str__(self) -> str:
        forms = list(dict.fromkeys(check.form for check in self.checks))
        laws = list(dict.fromkeys(check.law for check in self.checks))
        found = {(c.law, c.form): "FAILED" if c.failure else "ok" for c in self.checks}
        width = max(map(len, laws))
        lines = [f"{self.name}: {self._count()}", ""]
        lines.append("  ".join(["law".ljust(width), *forms]))
        for law in laws:
            cells = [found.get((law, form), "-").ljust(len(form)) for form in forms]
            lines.append("  ".join([law.ljust(width), *cells]).rstrip())
        if not self.passed:
            lines += ["", self._account()]
        if self.notes:
            lines += ["", *(f"note: {note}" for note in self.notes)]
        return "\n".join(lines)

    def _count(self) -> str:
        n = len(self.checks)
        return f"{n - len(self.failures)} of {n} checks passed"

    def _account(self) -> str:
        broken: dict[str, list[Check]] = {}
        for check in self.failures:
            broken.setdefault(check.law, []).append(check)
        lines = [f"{self.name} breaks {len(broken)} of the contract's laws:"]
        for law, checks in broken.items():
            lines.append(f"- {law}: {checks[0].meaning}")
            for check in checks:
                lines.append(textwrap.indent(f"{check.form}: {check.failure}", "    "))
        return "\n".join(lines)


@torch.inference_mode(False)  # what is made there can never be differentiated
def check_contract(
    potential: Potential,
    *,
    elements: Iterable[str | int] | None = None,
    exported: bool = True,
    perturb: bool = True,
    raise_on_failure: bool = True,
) -> Report:
    """Hold a potential to every law of the contract, in each form and precision.

    In a test of your own network this is all that is needed:

        def test_my_network_obeys_the_contract():
            check_contract(Potential(MyNetwork(width=16, cutoff=4.0)))

    and ``print(check_contract(potential, raise_on_failure=False))`` shows a table. For a network
    of 16 channels and two layers it takes some ten seconds. Structures have up to 50 atoms, besides
    ghosts within n_hops · cutoff: check a small configuration of a new architecture.

    The laws are tested on a copy, on the CPU: the potential, its weights and gradients, and the
    global state of random numbers and dtypes stay as they are. The copy has small reference
    energies and a scale that makes its interactions 1 eV large (:func:`prepared_copy`). What the
    network gives up, it declares: :class:`~eqcalc.concessions.Concessions`.

    Parameters
    ----------
    potential : an architecture with or without reference energies, trained or not
    elements : symbols or atomic numbers on which to test; by default those that the potential
        knows (:func:`~eqcalc.testing.subjects.known_elements`). Name all those for which the
        network has parameters of their own. They take the places of the structures' elements.
    exported : test the exported model file too
    perturb : move trainable parameters off special values, by noise of 0.05, so that a last
        layer of zeros hides nothing; False tests a trained network as it is
    raise_on_failure : False returns the report of a potential that fails, too

    Returns
    -------
    The report; print it for a table.

    Raises
    ------
    ContractError : a law is broken; the message lists every one, and by how much.
    ConfigError : this is no potential in float32 or float64, or no element of it can be tested;
        its cutoff is below 3 Å; or a declaration of the network is none.
    """
    _require_testable(potential)
    known = known_elements(potential, elements)
    with _globals_kept():
        prepared = prepared_copy(potential, known, with_noise=perturb)
        checks, left_out = _check_eager(prepared, known)
        if exported:
            checks += _check_exported(prepared, known)
        notes = [*left_out, *_notes(prepared, known, perturb)]
    report = Report(type(potential.architecture).__name__, tuple(checks), tuple(notes))
    if raise_on_failure:
        report.raise_for_failures()
    return report


def _require_testable(potential: Potential) -> None:
    if not isinstance(potential, Potential):
        raise ConfigError(
            f"check_contract needs a Potential, found {type(potential).__name__}; wrap a network "
            "as Potential(network)."
        )
    dtypes = {str(p.dtype).removeprefix("torch.") for p in potential.parameters()}
    if len(dtypes) != 1 or not dtypes <= set(_DTYPES):
        raise ConfigError(
            "check_contract needs a network whose parameters are all float32 or all float64, "
            f"found {', '.join(sorted(dtypes)) or 'none'}."
        )
    if potential.cutoff < _SMALLEST_CUTOFF:
        raise ConfigError(
            f"check_contract needs a cutoff of at least {_SMALLEST_CUTOFF:g} Å, because its "
            f"structures have neighbours at chemical distances; found {potential.cutoff:g} Å."
        )


def _check_eager(potential: Potential, elements: Sequence[str]) -> tuple[list[Check], list[str]]:
    """Return the checks of the eager forms, and what was left out."""
    exact, rounded = (_eager_subject(potential, dtype, elements) for dtype in _DTYPES)
    # A network may keep tensors of an evaluation, and then cannot be copied any more.
    untouched = _eager_subject(potential, "float64", elements)
    checks, left_out = [], []
    for subject, laws in (
        (untouched, NETWORK),
        (exact, (*ANY_PRECISION, *FLOAT64)),
        (rounded, ANY_PRECISION),
    ):
        found, reasons = _check_laws(subject, laws)
        checks += found
        left_out += [reason for reason in reasons if reason not in left_out]
    checks.append(_check(assert_same_numbers, rounded.label, rounded, exact))
    return checks, left_out


def _check_exported(potential: Potential, elements: Sequence[str]) -> list[Check]:
    """Return the checks of the model file in both dtypes."""
    checks = []
    own = str(next(potential.parameters()).dtype).removeprefix("torch.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        meaning = "The potential can be exported, and its model file loads."
        try:
            export_model(copy.deepcopy(potential), path, elements=elements)
        except Exception as error:  # whatever TorchScript does not like
            failure = f"the export failed with {type(error).__name__}: {error}"
            return [Check(_EXPORT, f"exported {own}", meaning, failure)]
        for dtype in _DTYPES:
            form = f"exported {dtype}"
            eager = _eager_subject(potential, dtype, elements)
            try:
                model = load_model(path, device="cpu", dtype=dtype, engine="torchscript")
            except Exception as error:  # whatever the network does where the passport is replayed
                failure = f"the file does not load: {type(error).__name__}: {error}"
                checks.append(Check(_EXPORT, form, meaning, failure))
                continue
            checks.append(Check(_EXPORT, form, meaning, None))
            subject = exported_subject(
                model,
                form,
                concessions=eager.concessions,
                isolated_energies=eager.isolated_energies,
            )
            laws = (*ANY_PRECISION, *FLOAT64) if dtype == "float64" else ANY_PRECISION
            checks += _check_laws(subject, laws)[0]
            checks.append(_check(assert_same_numbers, form, subject, eager))
            if dtype == own:
                checks.append(_check(assert_needs_torch_alone, form, {path: eager}))
    return checks


def _check_laws(subject: Subject, laws: Sequence[Law]) -> tuple[list[Check], list[str]]:
    """Return the checks of laws on a subject, and what was left out."""
    checks, left_out = [], []
    promised = ISOLATED_ATOMS if subject.isolated_energies and laws is not NETWORK else ()
    for law in (*laws, *promised):
        reason = reason_to_leave_out(law, subject)
        if reason:
            left_out.append(f"{law_name(law)} was not applied: {reason}.")
        else:
            checks.append(_check(law, subject.label, subject))
    return checks, left_out


def _check(law: Callable[..., None], form: str, *arguments: Subject | dict[Path, Subject]) -> Check:
    failure = None
    try:
        law(*arguments)
    except ContractError as error:
        failure = str(error).removeprefix(f"{form}: ")
    finally:
        torch.set_default_dtype(torch.float32)  # a network may have changed it
        torch.set_grad_enabled(True)
    meaning = (law.__doc__ or "").partition("\n")[0]
    return Check(law_name(law), form, meaning, failure)


def _eager_subject(potential: Potential, dtype: str, elements: Sequence[str]) -> Subject:
    copied = copy.deepcopy(potential).to(getattr(torch, dtype))
    return potential_subject(copied, f"eager {dtype}", elements=elements)


def _notes(potential: Potential, elements: Sequence[str], with_noise: bool) -> list[str]:
    """Return on what terms the laws were applied."""
    notes = []
    subject = potential_subject(potential, elements=elements)
    replaced = {k: v for k, v in substitution(subject.elements).items() if k != v}
    if replaced:
        pairs = ", ".join(f"{new} for {old}" for old, new in replaced.items())
        notes.append(f"the structures hold elements of the potential: {pairs}.")
    if len(elements) == 1:
        notes.append(
            f"{law_name(assert_neighbours_matter)} was applied to distances alone: "
            f"{elements[0]} is the only element."
        )
    n = subject.concessions.vanishing_derivatives
    if n != 2:
        notes.append(
            f"{law_name(assert_smooth_at_cutoff)} was applied with {n} vanishing derivative "
            f"instead of 2: the network declares vanishing_derivatives = {n}."
        )
    if not subject.concessions.smooth_at_symmetric_sites:
        notes.append(
            f"{law_name(assert_smooth_at_symmetric_sites)} was applied with displacements a "
            "thousandth of the usual: the network declares smooth_at_symmetric_sites = False."
        )
    if with_noise:
        notes.append("parameters were moved by noise of 0.05 (perturb=False leaves them).")
    return notes


@contextmanager
def _globals_kept() -> Iterator[None]:
    """Start from torch's defaults; leave random numbers, dtype and grad mode as found."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
