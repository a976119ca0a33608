"""Find the skin of a neighbour list that costs least, by measuring while it is used.

A wide skin makes every call dearer, since more pairs are looked at, and searches rarer. What
either costs depends on the machine, the density and the motion, so nothing is modelled: each
skin of a fixed ladder has the cost

    c(skin) = [b + (n - 1) v] / n

per call, where b is the time of the call that searches, v that of one that does not, and n
the number of calls that a list lasts. The tuner stays at the cheapest rung that it knows
and keeps an eye on the two beside it; the cost is flat around its minimum, so looking is cheap.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from statistics import fmean, median
from typing import NamedTuple

__all__ = ["LADDER", "SkinTuner"]

_FIRST, _FACTOR = 0.5, 1.25
LADDER: tuple[float, ...] = tuple(_FIRST * _FACTOR**k for k in range(-12, 10))
"""The skins that are tried, 0.03 to 3.7 Å."""

_START = LADDER.index(_FIRST)
_WINDOW = 16  # lists that a rung remembers: motion changes, and one list says little
_ENOUGH = 3  # lists of a rung before it is compared
_LOOK_EVERY = 6  # lists; one of them goes to a neighbouring rung
_NEGLIGIBLE = 0.01  # share of a list's time below which its search may be repeated


class _Life(NamedTuple):
    """One list.

    first, later : seconds of the call that built it, and of all later ones together
    least : seconds of the quickest later call: all do the same work, and others disturb some
    n_calls : the first one included
    """

    first: float = 0.0
    later: float = 0.0
    least: float = math.inf
    n_calls: int = 0


class SkinTuner:
    """Choose the skin of the next list from what lists have cost so far.

    The owner calls :meth:`note` after every call, asks :attr:`is_due` whether a list that
    still serves should make room for another skin, and takes :meth:`next_skin` when it builds.

    Parameters
    ----------
    clock : returns seconds; only differences count

    Attributes
    ----------
    skin : Å; of the list in use
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._rung = _START
        self._lives: dict[int, deque[_Life]] = {}
        self._life = _Life()
        self._n_lists = 0

    @property
    def skin(self) -> float:
        """Skin of the list in use, Å."""
        return LADDER[self._rung]

    @property
    def is_due(self) -> bool:
        """Whether a list has served so long that another search costs next to nothing.

        Else a list that lasts for ever, in a crystal say, would never be compared.
        """
        return 0.0 < self._life.first <= _NEGLIGIBLE * self._life.later

    def note(self, seconds: float, *, built: bool) -> None:
        """Take down what one call cost, and whether it built the list."""
        if built:
            self._life = _Life(first=seconds, n_calls=1)
        elif self._life.n_calls > 0:  # else the call that built it raised an error
            first, later, least, n_calls = self._life
            self._life = _Life(first, later + seconds, min(least, seconds), n_calls + 1)

    def next_skin(self) -> float:
        """End the present list, if there is one, and return the skin of the next."""
        if self._life.n_calls > 0:
            self._lives.setdefault(self._rung, deque(maxlen=_WINDOW)).append(self._life)
            self._life = _Life()
            self._n_lists += 1
            self._rung = self._choose()
        return self.skin

    def _choose(self) -> int:
        best = min(self._lives, key=self._cost)
        beside = best + 1, best - 1
        on_ladder = [rung for rung in (best, *beside) if 0 <= rung < len(LADDER)]
        # One list says little where atoms move at random: a neighbour that lost by bad luck
        # gets more of them as the best one does.
        enough = max(_ENOUGH, len(self._lives[best]) // 2)
        for rung in on_ladder:
            if len(self._lives.get(rung, ())) < enough:
                return rung
        n_looks, remainder = divmod(self._n_lists, _LOOK_EVERY)
        look = beside[n_looks % 2] if remainder == 0 else best
        return look if look in on_ladder else best

    def _cost(self, rung: int) -> float:
        """Return seconds per call; medians, because other processes disturb some lists."""
        lives = self._lives[rung]
        n_calls = fmean(life.n_calls for life in lives)
        later = [life.least for life in lives if life.n_calls > 1]
        kept = median(later) if later else 0.0
        return (median(life.first for life in lives) + (n_calls - 1.0) * kept) / n_calls
