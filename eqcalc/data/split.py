"""Set frames aside at random, those that belong together together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eqcalc.errors import DataError

__all__ = ["random_split"]


def random_split(
    groups: Sequence[str | None], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Return the positions of frames to train on, and of those set aside.

    Neighbouring frames of a trajectory are nearly the same structure: where the last rows of a
    file are set aside, or single frames of a trajectory, an error measured on them says little
    about other structures. So frames are drawn at random, whole groups at a time.

    Parameters
    ----------
    groups : of each frame; None for a frame that stands alone
    fraction : of the frames that are set aside, at least; in (0, 1)
    seed : the same seed draws the same frames

    >>> random_split(["a", "a", "b", "b", "c", "c"], 0.3, seed=0)
    ([0, 1, 2, 3], [4, 5])

    Raises
    ------
    DataError : there is only one group: nothing is left to train on.
    """
    names = [(str(name), -1) if name is not None else ("", k) for k, name in enumerate(groups)]
    distinct = sorted(set(names))
    if len(distinct) < 2:
        raise DataError(
            f"a random split needs at least two frames or groups, found {len(distinct)}; give "
            "validation_path, or another group_key."
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    wanted = max(1, round(fraction * len(names)))
    aside: set[tuple[str, int]] = set()
    n_aside = 0
    for place in order[:-1]:  # one group at least is trained on
        if n_aside >= wanted:
            break
        aside.add(distinct[place])
        n_aside += names.count(distinct[place])
    train = [k for k, name in enumerate(names) if name not in aside]
    return train, [k for k, name in enumerate(names) if name in aside]
