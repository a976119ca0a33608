"""The training file: what ``eqcalc train train.toml`` reads.

Every key is checked; an unknown one is refused with the closest known one.
Paths in the file are relative to the file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Optional, Union

from eqcalc import architectures
from eqcalc.errors import ConfigError, did_you_mean
from eqcalc.nn.arguments import require_at_least, require_positive

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["DataOptions", "TrainingConfig", "TrainingOptions", "read_config"]

SCHEDULES = ("plateau", "cosine")


@dataclass(frozen=True)
class DataOptions:
    """Section ``[data]``: what to train on.

    path, validation_path : data files; without the second, ``validation_rows``
        come from the first
    test_path, test_rows : what ``eqcalc export`` judges the model on for its card;
        without test_path the rows come from ``path``
    train_rows, validation_rows, test_rows : slices such as "0:950", or a csv of indices
    energy_key, forces_key, stress_key, energy_unit, length_unit : see the readers
    reference_energies : "least_squares", "isolated_atoms", or symbol -> eV
    """

    path: str
    train_rows: Optional[str] = None
    validation_path: Optional[str] = None
    validation_rows: Optional[str] = None
    test_path: Optional[str] = None
    test_rows: Optional[str] = None
    energy_key: Optional[str] = None
    forces_key: Optional[str] = None
    stress_key: Optional[str] = None
    energy_unit: Optional[str] = None
    length_unit: Optional[str] = None
    reference_energies: Union[str, Mapping[Any, float]] = "least_squares"

    def __post_init__(self) -> None:
        if self.validation_path is None and self.validation_rows is None:
            raise ConfigError("[data] needs validation_rows or validation_path; found neither.")


@dataclass(frozen=True)
class TrainingOptions:
    """Section ``[training]``: how to train.

    energy_weight : of the mean squared energy error per atom, (eV/atom)⁻²
    forces_weight : of the mean squared force component error, (eV/Å)⁻²
    stress_weight : of the mean squared stress component error, (eV/Å³)⁻²
    schedule : "plateau" (factor and patience on the validation loss) or "cosine"
    ema_decay : of the weights' moving average, which is what is validated and saved
    compile : trace loss and gradients into one compiled graph (minutes to start,
        several times faster steps)
    """

    batch_size: int = 5
    max_epochs: int = 1000
    learning_rate: float = 1e-3
    energy_weight: float = 1.0
    forces_weight: float = 1.0
    stress_weight: float = 0.0
    schedule: str = "plateau"
    plateau_factor: float = 0.8
    plateau_patience: int = 25
    min_learning_rate: float = 1e-6
    ema_decay: float = 0.999
    gradient_clip: float = 10.0
    weight_decay: float = 0.0
    compile: bool = False

    def __post_init__(self) -> None:
        require_at_least(1, batch_size=self.batch_size, max_epochs=self.max_epochs)
        require_at_least(0, plateau_patience=self.plateau_patience)
        require_positive(
            learning_rate=self.learning_rate,
            gradient_clip=self.gradient_clip,
            min_learning_rate=self.min_learning_rate,
        )
        if self.schedule not in SCHEDULES:
            raise ConfigError(
                f"schedule must be one of {', '.join(SCHEDULES)}, found '{self.schedule}'."
                + did_you_mean(self.schedule, SCHEDULES)
            )
        for name in ("ema_decay", "plateau_factor"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie in (0, 1), found {getattr(self, name)}.")
        weights = (self.energy_weight, self.forces_weight, self.stress_weight)
        if min(weights) < 0 or max(weights) == 0:
            raise ConfigError(
                f"loss weights must be >= 0 and not all zero, found {weights} for "
                "energy, forces, stress."
            )


@dataclass(frozen=True)
class TrainingConfig:
    """A whole training file.

    name : of the model; licence, description : for its card
    seed : of weights and batch order
    dtype : "float32" or "float64", of the weights
    architecture : ``name`` and the options of its Config
    """

    name: str
    data: DataOptions
    architecture: Mapping[str, Any]
    training: TrainingOptions = field(default_factory=TrainingOptions)
    seed: int = 0
    dtype: str = "float32"
    description: str = ""
    licence: str = ""
    folder: Path = Path()  # what its paths are relative to
    source: Optional[Path] = None  # the file

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float64"):
            raise ConfigError(f"dtype must be float32 or float64, found '{self.dtype}'.")
        if "name" not in self.architecture:
            raise ConfigError(
                "[architecture] needs name = one of " + ", ".join(architectures.available()) + "."
            )
        architectures.build(**self.architecture_arguments())  # refuse bad options now

    def architecture_arguments(self) -> dict[str, Any]:
        """Return the arguments of ``architectures.build``."""
        return dict(self.architecture)

    def resolve(self, path: str) -> Path:
        """Return a path of the file as seen from here."""
        return self.folder / Path(path).expanduser()


def read_config(path: Path, folder: Optional[Path] = None) -> TrainingConfig:
    """Read and check a training file.

    Parameters
    ----------
    folder : what its paths are relative to; the file's own folder by default

    Raises
    ------
    ConfigError : the file is missing, is no TOML, or has an unknown key or bad value.
    """
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no training file '{path}'.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    sections: dict[str, type] = {"data": DataOptions, "training": TrainingOptions}
    for name, options in sections.items():
        if name in content:
            content[name] = _section(options, content[name], f"[{name}] of {path}")
    content["folder"] = folder if folder is not None else Path(path).parent
    content["source"] = Path(path)
    return _section(TrainingConfig, content, str(path))


def _section(options: type, content: Any, where: str) -> Any:
    if not isinstance(content, dict):
        raise ConfigError(f"{where} must be a table, found {content!r}.")
    known = {f.name: f for f in fields(options)}
    for key in content:
        if key not in known:
            shown = [name for name in known if name not in ("folder", "source")]
            raise ConfigError(
                f"unknown key '{key}' in {where}; known: {', '.join(shown)}."
                + did_you_mean(key, shown)
            )
    for name, f in known.items():
        required = f.default is MISSING and f.default_factory is MISSING
        if required and name not in content:
            raise ConfigError(f"{where} needs the key '{name}'.")
    try:
        return options(**content)
    except TypeError as error:  # a number where a string belongs, and the like
        raise ConfigError(f"a value in {where} has the wrong type: {error}.") from error
