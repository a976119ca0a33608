"""Which versions of packages numbers come from."""

from __future__ import annotations

import importlib.metadata

import torch

from eqcalc import __version__

__all__ = ["package_versions"]


def package_versions(*further: str) -> dict[str, str]:
    """Return the versions of eqcalc, of what its numbers depend on, and of further packages."""
    others = {name: importlib.metadata.version(name) for name in ("ase", "numpy", *further)}
    # The metadata of torch's wheels on PyPI do not say for which CUDA they are built.
    return {"eqcalc": __version__, "torch": str(torch.__version__), **others}
