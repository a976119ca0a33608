"""Set frames aside at random, those that belong together together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from eqcalc.errors import DataError, listing

__all__ = ["random_split"]

_Name = tuple[str, int]


def random_split(
    groups: Sequence[str | None], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Return the positions of frames to train on, and of those set aside.

    Neighbouring frames of a trajectory are nearly the same structure: where the last rows of a
    file are set aside, or single frames of a trajectory, an error measured on them says little
    about other structures. So frames are drawn at random, whole groups at a time; those too large
    for the fraction are passed over where others make it up.

    Parameters
    ----------
    groups : of each frame; None for a frame that stands alone
    fraction : of the frames that are set aside, in (0, 1); at least, unless groups are too large
        for it, and never more than twice it or less than half
    seed : the same seed draws the same frames

    >>> random_split(["a", "a", "b", "b", "c", "c"], 0.3, seed=0)
    ([0, 1, 2, 3], [4, 5])

    Raises
    ------
    DataError : there is only one group, so that nothing is left to train on; or no choice of
        whole groups is near the fraction.
    """
    names = [(str(name), -1) if name is not None else ("", k) for k, name in enumerate(groups)]
    distinct = sorted(set(names))
    if len(distinct) < 2:
        raise DataError(
            f"a random split needs at least two frames or groups, found {len(distinct)}; give "
            "validation_path, or another group_key."
        )
    sizes = Counter(names)
    order = [distinct[k] for k in np.random.default_rng(seed).permutation(len(distinct))]
    wanted = max(1, round(fraction * len(names)))
    # Training keeps half of what it is to have at least, and one group.
    most = min(2 * wanted, (len(names) + wanted) // 2, len(names) - 1)
    choices = [
        _filled(order[:-1], sizes, wanted, len(names)),
        _filled(order, sizes, wanted, most),
        # Largest first: finds half of ``most`` or more wherever there is a choice of so many.
        _filled(sorted(order, key=lambda name: -sizes[name]), sizes, wanted, most),
    ]
    near = [c for c in choices if wanted <= 2 * _count(c, sizes) <= 2 * most]
    if not near:
        raise DataError(
            f"a random split of {len(names)} frames cannot set aside about {wanted} of them "
            f"(a fraction of {fraction:g}) in whole groups, which have "
            f"{listing(sorted(sizes.values()))} frames; give another fraction, a group_key of "
            "smaller groups, or validation_path."
        )
    aside = next((c for c in near if _count(c, sizes) >= wanted), near[0])
    train = [k for k, name in enumerate(names) if name not in aside]
    return train, [k for k, name in enumerate(names) if name in aside]


def _filled(
    order: Sequence[_Name], sizes: Mapping[_Name, int], wanted: int, most: int
) -> set[_Name]:
    """Return groups in this order until ``wanted`` frames, passing over what exceeds ``most``."""
    chosen: set[_Name] = set()
    n_frames = 0
    for name in order:
        if n_frames >= wanted:
            break
        if n_frames + sizes[name] <= most:
            chosen.add(name)
            n_frames += sizes[name]
    return chosen


def _count(chosen: set[_Name], sizes: Mapping[_Name, int]) -> int:
    return sum(sizes[name] for name in chosen)
