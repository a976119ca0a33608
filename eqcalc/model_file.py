"""The model file: find it, check it, read its card. No torch is needed for that.

A model is a TorchScript archive (a zip) with three extra files inside:
``card.json`` says what the model is, ``passport.json`` holds reference frames
(:mod:`eqcalc.passport`), ``weights.safetensors`` the weights for a later version
that rebuilds the network from the card. Nothing is ever unpickled by Python.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Union

from eqcalc.errors import ModelFileError, UnknownModelError, did_you_mean

__all__ = [
    "FORMAT_VERSION",
    "ModelCard",
    "ModelFile",
    "Source",
    "available_models",
    "find_model",
    "open_model_file",
    "read_card",
]

FORMAT_VERSION = 1
CARD, PASSPORT, WEIGHTS = "card.json", "passport.json", "weights.safetensors"
MODEL_NAME = "model.pt"

Source = Union[str, "os.PathLike[str]"]

# What zipfile raises, depending on where a file is damaged: a flipped bit may claim
# encryption, another compression or a name that is no text.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)


@dataclass(frozen=True)
class ModelCard:
    """What a model is: enough to run it, rebuild it and judge it.

    architecture, config : registry name and the full options of its Config
    elements : symbols the model was trained on; others are refused
    cutoff : Å; n_hops : message-passing steps (interaction range = cutoff · n_hops)
    dtype : of the stored weights
    reference_energies : eV by symbol; scale : eV
    training_data : free form; ``compositions`` lists Hill formulas seen in training
    errors : free form, with units in the keys
    """

    name: str
    architecture: str
    config: dict[str, Any]
    elements: list[str]
    cutoff: float
    n_hops: int
    dtype: str
    reference_energies: dict[str, float]
    scale: float
    units: dict[str, str] = field(
        default_factory=lambda: {"energy": "eV", "length": "Angstrom"}
    )
    training_data: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, Any] = field(default_factory=dict)
    description: str = ""
    licence: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Return the text of ``card.json``."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Read the text of ``card.json``.

        Raises
        ------
        ValueError, TypeError : it is not a card of this format.
        """
        content = json.loads(text)
        known = {f.name for f in fields(cls)}
        # A later minor version may add keys; what this version needs must be there.
        return cls(**{key: value for key, value in content.items() if key in known})

    def to_markdown(self) -> str:
        """Return the card as a page to read."""
        energies = (f"{symbol} {e:.6f}" for symbol, e in self.reference_energies.items())
        rows = {
            "elements": ", ".join(self.elements),
            "cutoff": f"{self.cutoff:g} Å, {self.n_hops} message-passing steps "
            f"(interaction range {self.cutoff * self.n_hops:g} Å)",
            "precision": self.dtype,
            "units": f"energy {self.units['energy']}, length {self.units['length']}, "
            "forces eV/Å, stress eV/Å³ (tension positive)",
            "reference energies": f"{', '.join(energies)} eV"
            + " (a fit to totals; a single one means nothing)" * self._fitted_energies(),
            "scale": f"{self.scale:.6g} eV",
            "licence": self.licence or "not stated",
            "written by": ", ".join(f"{k} {v}" for k, v in self.versions.items()),
        }
        options = ", ".join(f"{key} = {value}" for key, value in self.config.items())
        sections = [f"# {self.name}", self.description, f"Architecture **{self.architecture}**"]
        sections[-1] += f": {options}" if options else ""
        sections.append(_markdown_list(rows))
        if self.training_data:
            sections.append("## Training data\n\n" + _markdown_list(self.training_data))
        if self.errors:
            errors = {_with_unit(key): value for key, value in self.errors.items()}
            sections.append("## Errors\n\n" + _markdown_list(errors))
        return "\n\n".join(section for section in sections if section) + "\n"

    def _fitted_energies(self) -> bool:
        return self.training_data.get("reference energies by") == "least_squares"

    @property
    def compositions(self) -> list[str]:
        """Hill formulas that the model was trained on; empty where not recorded."""
        return list(self.training_data.get("compositions", []))


@dataclass(frozen=True)
class ModelFile:
    """A checked model file.

    path : of the archive; card : what it is; passport : text of passport.json
    sha256 : of the file's bytes
    """

    path: Path
    card: ModelCard
    passport: str
    sha256: str

    def weights(self) -> bytes:
        """Return the content of ``weights.safetensors``.

        Raises
        ------
        ModelFileError : the file holds none, or is no longer readable.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                for name in archive.namelist():
                    if name.endswith(f"/extra/{WEIGHTS}"):
                        return archive.read(name)
        except (*_DAMAGE, OSError) as error:
            raise ModelFileError(f"cannot read the weights in '{self.path}': {error}.") from error
        raise ModelFileError(f"'{self.path}' holds no {WEIGHTS}; export the model again.")


def available_models() -> list[str]:
    """Return the names of the shipped models."""
    return sorted(_shipped())


def find_model(source: Source) -> Path:
    """Return the path of a model given by path, folder or shipped name.

    Raises
    ------
    UnknownModelError : nothing of that name.
    ModelFileError : the system cannot tell.
    """
    path = Path(source)
    try:
        path = path.expanduser()
        for candidate in (path, path / MODEL_NAME):
            if candidate.is_file():
                return candidate
    except (OSError, RuntimeError) as error:  # no permission, no home, too long a name
        raise ModelFileError(f"cannot look for the model '{source}': {error}.") from error
    shipped = _shipped()
    if str(source) in shipped:
        return shipped[str(source)]
    looks_like_path = path.suffix != "" or len(path.parts) > 1
    what = "no such model file" if looks_like_path else "unknown model"
    if path.is_dir():
        what = f"there is no {MODEL_NAME} in the folder"
    raise UnknownModelError(
        f"{what}: '{source}'. Shipped models: {', '.join(shipped) or 'none'}; or pass the path "
        f"of a file written by eqcalc export.{did_you_mean(str(source), shipped)}"
    )


def open_model_file(source: Source) -> ModelFile:
    """Find, check and read a model file.

    Raises
    ------
    UnknownModelError : there is none.
    ModelFileError : it is unreadable, damaged, foreign or from a newer eqcalc.
    """
    path = find_model(source)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            extras = {
                name.rsplit("/", 1)[1]: archive.read(name)
                for name in archive.namelist()
                if "/extra/" in name and name.endswith((CARD, PASSPORT))
            }
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except _DAMAGE as error:
        raise ModelFileError(_not_an_archive(path)) from error
    except OSError as error:
        raise ModelFileError(f"cannot read the model file '{path}': {error}.") from error
    if damaged is not None:
        raise ModelFileError(
            f"the model file '{path}' is damaged (bad checksum in {damaged}); copy or export "
            "it again."
        )
    if CARD not in extras or PASSPORT not in extras:
        raise ModelFileError(
            f"'{path}' is an archive but not a model of eqcalc: it has no {CARD} and {PASSPORT} "
            "inside. Export a potential with eqcalc.export.export_model or 'eqcalc export'."
        )
    card = _read_card_text(extras[CARD], path)
    try:
        return ModelFile(path, card, extras[PASSPORT].decode(), sha256)
    except UnicodeDecodeError as error:
        raise ModelFileError(f"the {PASSPORT} inside '{path}' is not readable: {error}.") from error


def read_card(source: Source) -> ModelCard:
    """Return the card of a model given by path, folder or shipped name."""
    return open_model_file(source).card


def _with_unit(key: str) -> str:
    """Return "forces MAE (meV/Å)" of "forces_mae_mev_per_a"; other keys as they are."""
    for ending, unit in (("_mev_per_a3", "meV/Å³"), ("_mev_per_a", "meV/Å"), ("_mev", "meV")):
        if key.endswith(ending):
            words = key.removesuffix(ending).split("_")
            unit += "/atom" * ("atom" in words)
            return " ".join([*words[:-1], words[-1].upper()]) + f" ({unit})"
    return key


def _markdown_list(content: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    return "\n".join(f"- {key}: {shown(value)}" for key, value in content.items())


def _read_card_text(text: bytes, path: Path) -> ModelCard:
    try:
        version = json.loads(text)["format_version"]
        if version > FORMAT_VERSION:
            raise ModelFileError(
                f"'{path}' has format version {version}; this eqcalc reads up to "
                f"{FORMAT_VERSION}. Upgrade eqcalc to use it."
            )
        return ModelCard.from_json(text.decode())
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"the {CARD} inside '{path}' is not readable: {error}.") from error


def _not_an_archive(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"":
        return f"the model file '{path}' is empty; copy or export it again."
    if start[:1] == b"\x80":
        return (
            f"'{path}' is a Python pickle, which eqcalc never loads (it could run any code); "
            "export the potential with eqcalc.export.export_model."
        )
    if start == b"PK":
        return f"the model file '{path}' is truncated or damaged; copy or export it again."
    return (
        f"'{path}' is not a model file (a TorchScript archive written by eqcalc export); "
        "was another file meant?"
    )


def _shipped() -> dict[str, Path]:
    # Installed from a wheel the models lie inside the package, in a checkout beside it.
    package = Path(__file__).resolve().parent
    folders = [package / "models"]
    if (package.parent / "setup.cfg").is_file():
        folders.append(package.parent / "models")
    found: dict[str, Path] = {}
    for folder in folders:
        for model in sorted(folder.glob(f"*/{MODEL_NAME}")):
            found.setdefault(model.parent.name, model)
    return found
