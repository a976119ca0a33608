"""A user's own model and structure held to physics: :func:`verify_model`, behind ``eqcalc verify``.

What belongs here: checks of a finished model file, each with what it measured, what is allowed and
what to do. The laws themselves are those of :mod:`eqcalc.testing`.
"""

from eqcalc.verification.finding import Finding, Verdict
from eqcalc.verification.verify import Verification, verify_model

__all__ = ["Finding", "Verdict", "Verification", "verify_model"]
