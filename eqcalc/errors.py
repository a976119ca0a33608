"""Every exception class of eqcalc.

Each class derives from :class:`EqcalcError` and from the built-in that a user
would catch by habit. A message says what was expected, what was found and what
to do.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Sequence
from types import ModuleType

__all__ = [
    "CacheError",
    "CheckpointError",
    "ConfigError",
    "ContractError",
    "DataError",
    "DataWarning",
    "DeviceError",
    "EngineError",
    "EqcalcError",
    "GraphError",
    "GuardError",
    "HalfFrameWarning",
    "HostError",
    "MissingDependencyError",
    "ModelFileError",
    "NameWarning",
    "NonFiniteError",
    "NotEnoughMemoryError",
    "OutputError",
    "OutputExistsError",
    "OutputLostError",
    "PerformanceWarning",
    "ProcessError",
    "StructureError",
    "UnknownArchitectureError",
    "UnknownCommandError",
    "UnknownModelError",
    "UnsupportedElementError",
    "did_you_mean",
    "import_extra",
    "listing",
]


class EqcalcError(Exception):
    """Root of every error that eqcalc raises on purpose."""


class ConfigError(EqcalcError, ValueError):
    """An option, key or value that is unknown or out of range."""


class ContractError(EqcalcError, AssertionError):
    """A network that breaks a law which every architecture must obey."""


class GraphError(EqcalcError, ValueError):
    """A structure or graph on which no energy is defined."""


class UnsupportedElementError(EqcalcError, ValueError):
    """Atoms of an element that the model has never seen."""


class UnknownArchitectureError(EqcalcError, ValueError):
    """A name that is not among ``architectures.available()``."""


class UnknownCommandError(EqcalcError, AttributeError):
    """A command that scripts in LAMMPS's words do not have."""


class ModelFileError(EqcalcError, RuntimeError):
    """A model file that is missing, damaged, foreign or fails its passport."""


class UnknownModelError(ModelFileError, FileNotFoundError):
    """Neither a file nor the name of a shipped model."""

    # FileNotFoundError would print an errno in front of the message.
    def __str__(self) -> str:
        return str(self.args[0])


class DeviceError(EqcalcError, RuntimeError):
    """A device that is not there, or cannot be used any more."""


class EngineError(EqcalcError, RuntimeError):
    """An engine that cannot run a model here; another one can."""


class NonFiniteError(EqcalcError, ArithmeticError):
    """NaN or infinity from a model, or a structure that flies apart."""


class GuardError(EqcalcError, RuntimeError):
    """A run that a guard rail or a failed self-audit has stopped."""


class NotEnoughMemoryError(EqcalcError, MemoryError):
    """A structure for whose smallest part memory does not suffice."""


class DataError(EqcalcError, ValueError):
    """A data file whose keys, units or shapes are not what was expected."""


class DataWarning(UserWarning):
    """What was left out of data, decided about it or found odd in it, and taken none the less."""


class PerformanceWarning(UserWarning):
    """Something runs much slower than it could, and one command changes that."""


class StructureError(EqcalcError, ValueError):
    """A structure file that is missing or cannot be read."""


class OutputExistsError(EqcalcError, FileExistsError):
    """An output that exists and was not allowed to be replaced."""

    def __str__(self) -> str:
        return str(self.args[0])


class OutputError(EqcalcError, OSError):
    """An output that could not be written (disk full, no permission)."""

    def __str__(self) -> str:
        return str(self.args[0])


class CacheError(EngineError, OutputError):
    """No folder where compiled code can be kept, or one that others can write to."""


class OutputLostError(OutputError):
    """An output that somebody else removed or replaced while it was being written."""


class HostError(EqcalcError, ConnectionError):
    """A program that drives a model and is not there, went away, or sends what makes no sense."""

    def __str__(self) -> str:
        return str(self.args[0])


class CheckpointError(EqcalcError, RuntimeError):
    """A run's checkpoint that is missing or damaged, or does not fit what shall go on from it."""


class ProcessError(EqcalcError, RuntimeError):
    """A process of a training with several that ended before the others."""


class MissingDependencyError(EqcalcError, ImportError):
    """An optional dependency that the requested feature needs."""


class NameWarning(UserWarning):
    """A name that stands for one thing where another of that name lies at hand."""


class HalfFrameWarning(UserWarning):
    """The end of a file that a killed run left unfinished, and that is not read."""


def import_extra(module: str, extra: str, what: str) -> ModuleType:
    """Import a package that only an extra of eqcalc brings.

    Raises
    ------
    MissingDependencyError : it is not installed, or fails when it is imported.

    >>> import_extra("json", "train", "training").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        is_absent = (error.name or "").partition(".")[0] == package
        reason = "is not installed" if is_absent else f"cannot be imported ({error})"
        raise MissingDependencyError(
            f"{what} needs {package}, which {reason}; run pip install 'eqcalc[{extra}]'."
        ) from error


def did_you_mean(name: object, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest options, or an empty string.

    What is no text resembles none of them.

    Options that start with the name come before those that resemble it.

    >>> did_you_mean("pain", ["painn", "schnet"])
    " Did you mean 'painn'?"
    >>> did_you_mean("nvt", ["nve", "nvt-langevin", "nvt-nhc"])
    " Did you mean 'nvt-langevin' or 'nvt-nhc'?"
    """
    by_lower = {option.lower(): option for option in options}
    wanted = name.lower() if isinstance(name, str) else ""
    close = [option for option in by_lower if wanted and option.startswith(wanted)]
    if wanted in by_lower:  # only the case was wrong
        close = [wanted]
    if not close:
        close = difflib.get_close_matches(wanted, by_lower, n=1, cutoff=0.5)
    suggestions = " or ".join(f"'{by_lower[option]}'" for option in close[:3])
    return f" Did you mean {suggestions}?" if suggestions else ""


def listing(items: Sequence[object], limit: int = 10) -> str:
    """Join items for a message, cut after ``limit``.

    >>> listing([3, 1, 2])
    '3, 1, 2'
    >>> listing(range(12), limit=2)
    '0, 1, ... (12 in all)'
    """
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown}, ... ({len(items)} in all)"
