"""Times for people."""

from __future__ import annotations

__all__ = ["duration"]


def duration(seconds: float) -> str:
    """Return a time in words, of two or three digits.

    >>> duration(0.25), duration(75), duration(7500), duration(50000), duration(500000)
    ('0.25 s', '75 s', '2 h 5 min', '14 h', '5.8 days')
    """
    if seconds < 100:
        return f"{seconds:.2g} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    if seconds < 36000:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes} min"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.1f} days"
