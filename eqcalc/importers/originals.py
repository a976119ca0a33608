"""The packages that networks came from, where they are installed: to compare, never to import.

They load a file in their own way, which runs code that stands in it: only files whose origin one
trusts are compared.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from eqcalc.errors import MissingDependencyError

__all__ = ["import_original"]


def import_original(module: str) -> ModuleType:
    """Import a module of another package.

    Raises
    ------
    MissingDependencyError : it is not installed, or fails when it is imported.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        is_absent = (error.name or "").partition(".")[0] == package
        reason = "is not installed here" if is_absent else f"cannot be imported ({error})"
        raise MissingDependencyError(
            f"a comparison with the original needs {package}, which {reason}; install it beside "
            "eqcalc, or leave the comparison out. The import itself does not need it."
        ) from error
