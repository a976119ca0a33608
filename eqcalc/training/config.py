"""The training file: what ``eqcalc train train.toml`` reads.

Every key is checked; an unknown one is refused with the closest known one.
Paths in the file are relative to the file.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional, Union, cast

from eqcalc import architectures
from eqcalc.data.statistics import METHODS
from eqcalc.errors import ConfigError, did_you_mean
from eqcalc.nn.arguments import require_at_least, require_choice, require_positive
from eqcalc.training.data_options import DataOptions, ReplayOptions
from eqcalc.training.sections import read_section, require_types

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["DataOptions", "ReplayOptions", "TrainingConfig", "TrainingOptions", "read_config"]

SCHEDULES = ("plateau", "cosine")

LEARNING_RATE, LEARNING_RATE_OF_FINE_TUNING = 1e-3, 1e-4

_OF_THE_FILE = ("kept", "shifted")


@dataclass(frozen=True)
class TrainingOptions:
    """Section ``[training]``: how to train.

    learning_rate : that the schedule begins with; 1e-3 by default, 1e-4 with ``start_from``
    energy_weight : of the mean squared energy error per atom, (eV/atom)⁻²
    forces_weight : of the mean squared force component error, (eV/Å)⁻²
    stress_weight : of the mean squared stress component error, (eV/Å³)⁻²
    schedule : "plateau" (factor and patience on the validation loss) or "cosine"
    ema_decay : of the weights' moving average, which is what is validated and saved; smaller
        over the first steps, see :mod:`eqcalc.training.averaging`
    compile : trace loss and gradients into one compiled graph (minutes to start,
        several times faster steps)
    start_from : a model whose weights the training begins with, a shipped one's name or a file
    freeze : parameters that keep the values of that file, by patterns of their names, see
        :mod:`eqcalc.training.freezing`
    zbl_cutoff : Å; within it nuclei repel each other by ZBL (:mod:`eqcalc.nn.zbl`), and the network
        learns the rest. A fine-tuning has what its file has
    """

    batch_size: int = 5
    max_epochs: int = 1000
    learning_rate: Optional[float] = None
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
    start_from: Optional[str] = None
    freeze: tuple[str, ...] = ()
    zbl_cutoff: Optional[float] = None

    def __post_init__(self) -> None:
        require_types(type(self), vars(self), "[training]")
        if not all(isinstance(pattern, str) for pattern in self.freeze):
            raise ConfigError(
                f"freeze in [training] must be an array of strings, found {self.freeze!r}."
            )
        if self.freeze and self.start_from is None:
            raise ConfigError(
                "freeze keeps parameters of the model that start_from names; without it they would "
                "stay random numbers. Give start_from, or leave freeze out."
            )
        if self.zbl_cutoff is not None:
            require_positive(zbl_cutoff=self.zbl_cutoff)
            if self.start_from is not None:
                raise ConfigError(
                    "zbl_cutoff does not go with start_from: the repulsion of nuclei is that of "
                    "the file that the training starts from."
                )
        if self.learning_rate is None:
            begun = LEARNING_RATE if self.start_from is None else LEARNING_RATE_OF_FINE_TUNING
            object.__setattr__(self, "learning_rate", begun)
        require_at_least(1, batch_size=self.batch_size, max_epochs=self.max_epochs)
        require_at_least(0, plateau_patience=self.plateau_patience)
        require_positive(
            learning_rate=self.first_learning_rate,
            gradient_clip=self.gradient_clip,
            min_learning_rate=self.min_learning_rate,
        )
        require_choice(SCHEDULES, schedule=self.schedule)
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

    @property
    def first_learning_rate(self) -> float:
        """The learning rate that the schedule begins with."""
        return cast("float", self.learning_rate)  # None was replaced


@dataclass(frozen=True)
class TrainingConfig:
    """A whole training file.

    name : of the model; licence, description : for its card
    seed : of weights and batch order
    dtype : "float32" or "float64", of the weights; by default "float32", with ``start_from``
        None, which means that of its file
    architecture : ``name`` and the options of its Config, by their own names or those that
        all networks share (``cutoff``, ``n_channels``, ...); ``file`` is the Python file of
        an architecture that is not eqcalc's own. With ``start_from`` all of it may be left out
    replay : old frames, with ``start_from`` only
    """

    name: str
    data: DataOptions
    architecture: Mapping[str, Any] = field(default_factory=dict)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    replay: Optional[ReplayOptions] = None
    seed: int = 0
    dtype: Optional[str] = None
    description: str = ""
    licence: str = ""
    folder: Path = Path()  # what its paths are relative to
    source: Optional[Path] = None  # the file

    def __post_init__(self) -> None:
        require_types(type(self), vars(self), "the training file")
        self._complete()
        if self.training.compile and self.data.isolated_atoms_are_exact:
            raise ConfigError(
                'compile = true and reference_energies = "isolated_atoms" do not go together: '
                "the compiled graph of both was found to differ from the eager one; set "
                "compile = false, or give the energies as a table."
            )
        require_at_least(0, seed=self.seed)
        if self.dtype not in ("float32", "float64", None):
            raise ConfigError(f"dtype must be float32 or float64, found '{self.dtype}'.")
        if "name" in self.architecture:
            self._check_architecture()
        elif not self.is_fine_tuning:
            raise ConfigError(
                "[architecture] needs name = one of " + ", ".join(architectures.available()) + "."
            )
        elif "file" in self.architecture:
            raise ConfigError("file in [architecture] needs the name of its network beside it.")

    @property
    def is_fine_tuning(self) -> bool:
        """Whether the training begins with the weights of a model."""
        return self.training.start_from is not None

    @property
    def reference_method(self) -> Union[str, Mapping[Any, float]]:
        """Where the reference energies come from."""
        method = self.data.reference_energies
        return "least_squares" if method is None else method

    def _complete(self) -> None:
        """Fill in what depends on ``start_from``, and refuse what needs it."""
        method = self.data.reference_energies
        if method is None:
            method = "shifted" if self.is_fine_tuning else "least_squares"
            object.__setattr__(self, "data", replace(self.data, reference_energies=method))
        needs_start = [f'reference_energies = "{method}"'] * (method in _OF_THE_FILE)
        needs_start += ["[replay]"] * (self.replay is not None)
        if needs_start and not self.is_fine_tuning:
            raise ConfigError(
                f"{needs_start[0]} is for a training that starts from a model; name it with "
                "start_from in [training], or leave this out."
            )
        if not self.is_fine_tuning and not self.architecture:
            raise ConfigError(
                "the training file needs the key 'architecture', or start_from in [training]."
            )
        known = (*_OF_THE_FILE, *METHODS) if self.is_fine_tuning else METHODS
        if isinstance(method, str) and method not in known:
            raise ConfigError(
                f"unknown method '{method}' for reference energies; known: {', '.join(known)}, "
                "or a table of element -> eV." + did_you_mean(method, known)
            )
        if self.dtype is None and not self.is_fine_tuning:
            object.__setattr__(self, "dtype", "float32")

    def _check_architecture(self) -> None:
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
            require_types(config_of_network, options, "[architecture]")
            read_section(config_of_network, options, "[architecture]")  # builds no network

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
    sections: dict[str, type] = {
        "data": DataOptions,
        "training": TrainingOptions,
        "replay": ReplayOptions,
    }
    for name, options in sections.items():
        if name in content:
            content[name] = read_section(options, content[name], f"[{name}] of {path}")
    origin = {"folder": folder if folder is not None else Path(path).parent, "source": Path(path)}
    return read_section(TrainingConfig, content, str(path), origin)
