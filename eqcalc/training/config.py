"""The training file: what ``eqcalc train train.toml`` reads.

Every key is checked; an unknown one is refused with the closest known one.
Paths in the file are relative to the file.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Optional, Union, get_args, get_origin, get_type_hints

from eqcalc import architectures
from eqcalc.errors import ConfigError, did_you_mean
from eqcalc.nn.arguments import require_at_least, require_positive

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["DataOptions", "TrainingConfig", "TrainingOptions", "read_config"]

SCHEDULES = ("plateau", "cosine")

_TYPE_NAMES: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
    tuple: "an array",
    Mapping: "a table",
}


@dataclass(frozen=True)
class DataOptions:
    """Section ``[data]``: what to train on.

    path, validation_path, test_path : a data file each, a pattern such as "runs/*.xyz", or a
        list of both; without validation_path, ``validation_rows`` come from ``path``
    validation_fraction : in place of both, frames of ``path`` drawn at random by the seed
    group_key : entry of a frame's info, such as ``config_type``; frames of one value are
        trained on together or validated on together
    test_path, test_rows : what ``eqcalc export`` judges the model on for its card;
        without test_path the rows come from ``path``
    train_rows, validation_rows, test_rows : slices such as "0:950", or a csv of indices; they
        count the frames of the files, isolated atoms included
    energy_key, forces_key, gradient_key, stress_key, virial_key, positions_key, numbers_key,
        energy_unit, length_unit, forces_unit, stress_unit, trust_data : see
        :func:`eqcalc.data.read_dataset`
    reference_energies : "least_squares", "isolated_atoms", or symbol -> eV
    """

    path: Union[str, tuple[str, ...]]
    train_rows: Optional[str] = None
    validation_path: Union[str, tuple[str, ...], None] = None
    validation_rows: Optional[str] = None
    validation_fraction: Optional[float] = None
    group_key: Optional[str] = None
    test_path: Union[str, tuple[str, ...], None] = None
    test_rows: Optional[str] = None
    energy_key: Optional[str] = None
    forces_key: Optional[str] = None
    gradient_key: Optional[str] = None
    stress_key: Optional[str] = None
    virial_key: Optional[str] = None
    positions_key: Optional[str] = None
    numbers_key: Optional[str] = None
    energy_unit: Optional[str] = None
    length_unit: Optional[str] = None
    forces_unit: Optional[str] = None
    stress_unit: Optional[str] = None
    trust_data: bool = False
    reference_energies: Union[str, Mapping[Any, float]] = "least_squares"

    @property
    def isolated_atoms_are_exact(self) -> bool:
        """Whether an atom alone shall have exactly its reference energy."""
        return self.reference_energies == "isolated_atoms"

    def __post_init__(self) -> None:
        _require_types(type(self), vars(self), "[data]")
        if isinstance(self.reference_energies, Mapping):
            for element, energy in self.reference_energies.items():
                if not _fits(energy, float):
                    raise ConfigError(
                        f"the reference energy of {element} must be a number, found {energy!r}."
                    )
        for name in ("path", "validation_path", "test_path"):
            paths = getattr(self, name)
            if not isinstance(paths, (str, type(None))) and (
                not paths or not all(isinstance(one, str) for one in paths)
            ):
                raise ConfigError(
                    f"{name} in [data] must be a string or an array of strings, found {paths!r}."
                )
        named = self.validation_path is not None or self.validation_rows is not None
        if self.validation_fraction is None and not named:
            raise ConfigError(
                "[data] needs validation_fraction (frames drawn at random), validation_rows or "
                "validation_path; found none of them."
            )
        if self.validation_fraction is not None:
            if named:
                raise ConfigError(
                    "validation_fraction draws frames at random; give it, or validation_rows and "
                    "validation_path, not both."
                )
            if not 0.0 < self.validation_fraction < 1.0:
                raise ConfigError(
                    f"validation_fraction must lie in (0, 1), found {self.validation_fraction}."
                )
        elif self.group_key is not None:
            raise ConfigError(
                "group_key keeps frames together that validation_fraction draws; without it, leave "
                "group_key out."
            )


@dataclass(frozen=True)
class TrainingOptions:
    """Section ``[training]``: how to train.

    energy_weight : of the mean squared energy error per atom, (eV/atom)⁻²
    forces_weight : of the mean squared force component error, (eV/Å)⁻²
    stress_weight : of the mean squared stress component error, (eV/Å³)⁻²
    schedule : "plateau" (factor and patience on the validation loss) or "cosine"
    ema_decay : of the weights' moving average, which is what is validated and saved; smaller
        over the first steps, see :mod:`eqcalc.training.averaging`
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
        _require_types(type(self), vars(self), "[training]")
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
        if not all(0 <= weight < math.inf for weight in weights) or max(weights) == 0:
            raise ConfigError(
                f"loss weights must be >= 0, finite and not all zero, found {weights} for "
                "energy, forces, stress."
            )
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay must be >= 0, found {self.weight_decay}.")


@dataclass(frozen=True)
class TrainingConfig:
    """A whole training file.

    name : of the model; licence, description : for its card
    seed : of weights and batch order
    dtype : "float32" or "float64", of the weights
    architecture : ``name`` and the options of its Config, by their own names or those that
        all networks share (``cutoff``, ``n_channels``, ...); ``file`` is the Python file of
        an architecture that is not eqcalc's own
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
        _require_types(type(self), vars(self), "the training file")
        if self.training.compile and self.data.isolated_atoms_are_exact:
            raise ConfigError(
                'compile = true and reference_energies = "isolated_atoms" do not go together: '
                "the compiled graph of both was found to differ from the eager one; set "
                "compile = false, or give the energies as a table."
            )
        require_at_least(0, seed=self.seed)
        if self.dtype not in ("float32", "float64"):
            raise ConfigError(f"dtype must be float32 or float64, found '{self.dtype}'.")
        if "name" not in self.architecture:
            raise ConfigError(
                "[architecture] needs name = one of " + ", ".join(architectures.available()) + "."
            )
        given = {k: v for k, v in self.architecture.items() if k not in ("name", "file")}
        name, file = self.architecture["name"], self.architecture.get("file")
        for key, value in (("name", name), ("file", file or "")):
            if not isinstance(value, str):
                raise ConfigError(f"{key} in [architecture] must be a string, found {value!r}.")
        network = self.network_file
        if network is not None:
            architectures.register_file(network, name)
        config_of_network = architectures.config_class(name)
        with architectures.spelled_by_user(config_of_network, given):
            options = architectures.field_names(config_of_network, given)
            _require_types(config_of_network, options, "[architecture]")
            _section(config_of_network, options, "[architecture]")  # builds no network

    def architecture_arguments(self) -> dict[str, Any]:
        """Return the arguments of ``architectures.build``, by the names of its Config."""
        given = {key: value for key, value in self.architecture.items() if key != "file"}
        return architectures.field_names(architectures.config_class(given["name"]), given)

    @property
    def network_file(self) -> Optional[Path]:
        """The Python file of an architecture that is not eqcalc's own, None for those."""
        file = self.architecture.get("file")
        return None if file is None else self.resolve(file)

    def resolve(self, path: str) -> Path:
        """Return a path of the file as seen from here."""
        return self.folder / Path(path).expanduser()

    def resolve_data(self, path: Union[str, tuple[str, ...]]) -> list[Path]:
        """Return files and patterns of ``[data]`` as seen from here."""
        return [self.resolve(one) for one in ([path] if isinstance(path, str) else path)]


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
    except OSError as error:
        raise ConfigError(f"cannot read the training file '{path}': {error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    sections: dict[str, type] = {"data": DataOptions, "training": TrainingOptions}
    for name, options in sections.items():
        if name in content:
            content[name] = _section(options, content[name], f"[{name}] of {path}")
    origin = {"folder": folder if folder is not None else Path(path).parent, "source": Path(path)}
    return _section(TrainingConfig, content, str(path), origin)


def _section(
    options: type, content: Any, where: str, origin: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    if not isinstance(content, dict):
        raise ConfigError(f"{where} must be a table, found {content!r}.")
    known = {f.name: f for f in fields(options) if f.name not in origin}
    for key in content:
        if key not in known:
            raise ConfigError(
                f"unknown key '{key}' in {where}; known: {', '.join(known)}."
                + did_you_mean(key, known)
            )
    for name, f in known.items():
        required = f.default is MISSING and f.default_factory is MISSING
        if required and name not in content:
            raise ConfigError(f"{where} needs the key '{name}'.")
    return options(**content, **origin)


def _require_types(options: type, values: Mapping[str, Any], where: str) -> None:
    hints = get_type_hints(options)
    for key, value in values.items():
        if key in hints and not _fits(value, hints[key]):
            raise ConfigError(
                f"{key} in {where} must be {_type_name(hints[key])}, found {value!r}."
            )


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Union:
        return any(_fits(value, option) for option in get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float))
    kind = get_origin(hint) or hint
    # TOML's only sequence is the array; what is no class says nothing that could be checked.
    return not isinstance(kind, type) or isinstance(value, list if kind is tuple else kind)


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Union:
        names = [_type_name(option) for option in get_args(hint) if option is not type(None)]
        return " or ".join(names)
    kind = get_origin(hint) or hint
    return _TYPE_NAMES.get(kind, f"a {kind.__name__}")
