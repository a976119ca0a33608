"""What a check found: a row of the table."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Optional

__all__ = ["Finding", "Verdict"]


class Verdict(str, Enum):
    """How a check ended.

    OK : what was measured is within what is allowed
    FAILED : it is not; the model, or its use on this structure, is at fault
    NOTED : worth knowing, and no law is broken
    SKIPPED : it was not applied; the detail says why
    """

    OK = "ok"
    FAILED = "FAILED"
    NOTED = "noted"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """One check of a model on a structure.

    found, allowed : in ``unit``; None where nothing was measured or nothing is judged
    at_least : ``allowed`` is the smallest value, not the largest
    detail : in which case, or why it was not applied
    advice : what to do, where it failed
    """

    check: str
    verdict: Verdict
    detail: str = ""
    found: Optional[float] = None
    allowed: Optional[float] = None
    unit: str = ""
    at_least: bool = False
    advice: str = ""

    @property
    def measured(self) -> str:
        """What was measured, with its unit."""
        return "-" if self.found is None else f"{self.found:.2g} {self.unit}"

    @property
    def limit(self) -> str:
        """What is allowed."""
        if self.allowed is None:
            return "-"
        return f"{'≥' if self.at_least else '≤'} {self.allowed:.2g}"

    @property
    def share(self) -> Optional[float]:
        """What was measured as a share of what is allowed: above 1 it fails."""
        if self.found is None or self.allowed is None:
            return None
        if self.at_least:
            return self.allowed / self.found if self.found > 0 else math.inf
        if self.allowed > 0:
            return self.found / self.allowed
        return math.inf if self.found > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return what ``verify.json`` holds of it."""
        return {**asdict(self), "verdict": self.verdict.value}


def skipped(check: str, why: str) -> Finding:
    """Return what stands for a check that was not applied."""
    return Finding(check, Verdict.SKIPPED, why)
