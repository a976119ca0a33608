"""What a training file says about data: sections ``[data]`` and ``[replay]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Optional, Union

from eqcalc.errors import ConfigError
from eqcalc.training.sections import fits, require_types

__all__ = ["DataOptions", "LabelOptions", "ReplayOptions"]


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How the labels of a section's files are found, and what units they have.

    Every field is an argument of :func:`eqcalc.data.read_dataset`.

    energy_key, forces_key, stress_key : name of the label in the files, where it is not the usual
        one
    gradient_key : of dE/dx, in place of forces_key; forces are its negative
    virial_key : of a virial, in place of stress_key; the stress is its negative over the volume
    positions_key, numbers_key : of npz files
    energy_unit : eV, meV, kcal/mol, kJ/mol, Hartree or Rydberg, where the files do not say
    length_unit : Angstrom, Bohr or nm, where the files do not say
    forces_unit : such as "Hartree/Bohr", where it is not energy_unit/length_unit
    stress_unit : such as "GPa", where it is not energy_unit/length_unit^3
    trust_data : take frames that are refused as implausible
    """

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

    def label_options(self) -> dict[str, Any]:
        """Return the keys and units as ``read_dataset`` takes them."""
        return {each.name: getattr(self, each.name) for each in fields(LabelOptions)}


@dataclass(frozen=True)
class DataOptions(LabelOptions):
    """Section ``[data]``: what to train on.

    path : data file, a pattern such as "runs/*.xyz", or a list of both
    validation_path : as path; without it, ``validation_rows`` come from ``path``
    validation_fraction : in place of validation_path and validation_rows, the share of the frames
        of ``path`` that is drawn at random by the seed
    group_key : entry of a frame's info, such as ``config_type``; frames of one value are
        trained on together or validated on together
    test_path : as path, of what ``eqcalc export`` judges the model on for its card; without it,
        ``test_rows`` come from ``path``
    train_rows, validation_rows, test_rows : a slice such as "0:950", or a csv or txt of
        indices, which count the frames of the files, isolated atoms included
    reference_energies : "least_squares" (by default), "isolated_atoms", or symbol -> eV; with
        ``start_from`` also "shifted" (by default then) and "kept", see
        :mod:`eqcalc.training.fine_tuning`
    """

    path: Union[str, tuple[str, ...]]
    train_rows: Optional[str] = None
    validation_path: Union[str, tuple[str, ...], None] = None
    validation_rows: Optional[str] = None
    validation_fraction: Optional[float] = None
    group_key: Optional[str] = None
    test_path: Union[str, tuple[str, ...], None] = None
    test_rows: Optional[str] = None
    reference_energies: Union[str, Mapping[Any, float], None] = None

    @property
    def isolated_atoms_are_exact(self) -> bool:
        """Whether an atom alone shall have exactly its reference energy."""
        return self.reference_energies == "isolated_atoms"

    def __post_init__(self) -> None:
        require_types(type(self), vars(self), "[data]")
        if isinstance(self.reference_energies, Mapping):
            for element, energy in self.reference_energies.items():
                if not fits(energy, float):
                    raise ConfigError(
                        f"the reference energy of {element} must be a number, found {energy!r}."
                    )
        for name in ("path", "validation_path", "test_path"):
            _require_paths(getattr(self, name), f"{name} in [data]")
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
class ReplayOptions(LabelOptions):
    """Section ``[replay]``: old frames that a fine-tuning is reminded of.

    path : data files, as in ``[data]``: frames at the level of the model that the training
        starts from
    rows : of them, as in ``[data]``
    fraction : of the frames of an epoch that are old ones, drawn anew for each epoch
    validation_fraction : of the old frames that are never trained on; the errors on them are
        reported beside those on the new validation frames
    """

    path: Union[str, tuple[str, ...]]
    rows: Optional[str] = None
    fraction: float = 0.2
    validation_fraction: float = 0.1

    def __post_init__(self) -> None:
        require_types(type(self), vars(self), "[replay]")
        _require_paths(self.path, "path in [replay]")
        for name in ("fraction", "validation_fraction"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(
                    f"{name} in [replay] must lie in (0, 1), found {getattr(self, name)}."
                )


def _require_paths(paths: Any, what: str) -> None:
    if isinstance(paths, (str, type(None))):
        return
    if not paths or not all(isinstance(one, str) for one in paths):
        raise ConfigError(f"{what} must be a string or an array of strings, found {paths!r}.")
