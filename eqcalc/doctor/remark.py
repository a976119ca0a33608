"""What a probe found: a line of the doctor's report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum

__all__ = ["Remark", "State"]


class State(str, Enum):
    """How something is.

    OK : as it should be
    NOTE : it works, and could be better, or something optional is not there
    BROKEN : it does not work
    """

    OK = "ok"
    NOTE = "note"
    BROKEN = "BROKEN"


@dataclass(frozen=True)
class Remark:
    """One thing that was looked at.

    topic : such as "compiler"
    found : what is there, in a line
    advice : what to do, where something is wrong or could be faster
    """

    topic: str
    state: State
    found: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return it as JSON has it."""
        return {**asdict(self), "state": self.state.value}
