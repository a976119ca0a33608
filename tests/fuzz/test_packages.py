"""Damaged packages and entries of the cache are never found; a whole one always is."""

from __future__ import annotations

import random

from damage import damaged_bytes, damaged_text

from eqcalc.native.package_cache import PackageCache

KEY = {"model": "a", "torch": "2"}


def test_a_damaged_package_is_not_found_and_is_made_again(tmp_path, n_cases):
    cache, rng = PackageCache(tmp_path / "cache"), random.Random(0)
    content = rng.randbytes(5000)
    path = cache.make(KEY, lambda new: new.write_bytes(content))
    entry = path.with_suffix(".json")
    said = entry.read_bytes()
    for k in range(4 * n_cases):
        target = path if k % 2 else entry
        change = damaged_bytes if k % 3 else damaged_text
        what, damaged = change(target.read_bytes(), rng)
        target.write_bytes(damaged)
        found = cache.find(KEY)
        if found is not None:  # as where a word was put back, or blanks were added
            assert found.read_bytes() == content, what
        again = cache.make(KEY, lambda new: new.write_bytes(content))
        assert again == path
        assert path.read_bytes() == content, what
        assert cache.find(KEY) == path, what
    entry.write_bytes(said)
    assert cache.find(KEY) == path
