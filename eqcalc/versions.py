"""Which versions of packages numbers come from."""

from __future__ import annotations

import importlib.metadata

from eqcalc import __version__

__all__ = ["package_versions"]


def package_versions(*further: str) -> dict[str, str]:
    """Return the versions of eqcalc, of what its numbers depend on, and of further packages."""
    names = ("torch", "ase", "numpy", *further)
    return {"eqcalc": __version__, **{name: importlib.metadata.version(name) for name in names}}
