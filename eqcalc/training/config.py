"""The training file: what ``eqcalc train train.toml`` reads.

Every key is checked; an unknown one is refused with the closest known one.
Paths in the file are relative to the file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional, Union

from eqcalc import architectures
from eqcalc.arguments import require_at_least
from eqcalc.data.statistics import METHODS
from eqcalc.errors import ConfigError, did_you_mean
from eqcalc.training.data_options import DataOptions, ReplayOptions
from eqcalc.training.loss_options import StageTwoOptions
from eqcalc.training.overrides import to_toml, with_overrides
from eqcalc.training.sections import read_section, require_types
from eqcalc.training.training_options import TrainingOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["DataOptions", "ReplayOptions", "TrainingConfig", "TrainingOptions", "read_config"]

_LARGEST_SEED = 2**62  # of which torch takes 2**63, the number of the epoch added
_OF_THE_FILE = ("kept", "shifted")


@dataclass(frozen=True)
class TrainingConfig:
    """A whole training file.

    name : of the model
    description, licence : for its card
    seed : of weights and batch order
    dtype : of the weights, "float32" or "float64"; by default "float32", with ``start_from``
        that of its file
    architecture : ``name`` and the options of its Config, by their own names or those that
        all networks share (``cutoff``, ``n_channels``, ...); ``file`` is the Python file of
        an architecture that is not eqcalc's own. With ``start_from`` all of it may be left out
    data, training, replay : the sections of these names; replay with ``start_from`` only
    folder : what paths of the file are relative to
    source : the file
    text : of the file, with the keys that were set for this run
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
    folder: Path = Path()
    source: Optional[Path] = None
    text: str = ""

    def __post_init__(self) -> None:
        require_types(type(self), vars(self), "the training file")
        self._complete()
        if Path(self.name).is_absolute() or not {"", ".."}.isdisjoint(self.name.split("/")):
            raise ConfigError(
                "name must be one that folders can have, as those of the run and of the model do, "
                f"found '{self.name}'."
            )
        require_at_least(0, seed=self.seed)
        if self.seed > _LARGEST_SEED:
            raise ConfigError(f"seed must be at most 2**62, found {self.seed}.")
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


OF_NO_FILE = ("folder", "source", "text")
"""Fields of a :class:`TrainingConfig` that are no keys of a training file."""

SECTIONS: dict[str, type] = {
    "data": DataOptions,
    "training": TrainingOptions,
    "training.stage_two": StageTwoOptions,
    "replay": ReplayOptions,
}
"""Tables of a training file whose keys are known; those of ``[architecture]`` are its network's."""


def read_config(
    path: Path, folder: Optional[Path] = None, overrides: Sequence[str] = ()
) -> TrainingConfig:
    """Read and check a training file.

    Parameters
    ----------
    folder : what its paths are relative to; the file's own folder by default
    overrides : keys that are set for this run, each as ``section.key=value``; see
        :func:`eqcalc.training.overrides.with_overrides`

    Raises
    ------
    ConfigError : the file is missing, is no TOML, or has an unknown key or bad value.
    """
    try:
        text = Path(path).read_bytes().decode()
        content = tomllib.loads(text)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no training file '{path}'.") from error
    except OSError as error:
        raise ConfigError(f"cannot read the training file '{path}': {error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    if overrides:
        content = with_overrides(content, overrides)
        # A line break within a setting would end the comment.
        set_here = ", ".join(each if each.isprintable() else repr(each) for each in overrides)
        text = f"# {Path(path).name} with {set_here}\n\n{to_toml(content)}"
    # What lies inside another section comes first.
    for name in sorted(SECTIONS, key=lambda name: -name.count(".")):
        *outer, key = name.split(".")
        table = content
        for each in outer:
            table = table.get(each, {})
        if isinstance(table, dict) and key in table:
            table[key] = read_section(SECTIONS[name], table[key], f"[{name}] of {path}")
    origin = dict(zip(OF_NO_FILE, (folder or Path(path).parent, Path(path), text), strict=True))
    return read_section(TrainingConfig, content, str(path), origin)
