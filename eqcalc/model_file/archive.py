"""Find a model file, check it, read its card. No torch is needed for that.

A model is a TorchScript archive (a zip) with three extra files inside:
``card.json`` says what the model is, ``passport.json`` holds reference frames
(:mod:`eqcalc.model_file.passport`), ``weights.safetensors`` the weights for a later version
that rebuilds the network from the card. Nothing is ever unpickled by Python.
Potentials and propagators (:mod:`eqcalc.dynamics`) are files of one format; the
card says which a file is.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from eqcalc.errors import ModelFileError, UnknownModelError, did_you_mean
from eqcalc.model_file.card import CARDS, FORMAT_VERSION, ModelCard, PropagatorCard

__all__ = [
    "CARD",
    "MODEL_NAME",
    "PASSPORT",
    "WEIGHTS",
    "ModelFile",
    "Source",
    "available_models",
    "find_model",
    "open_model_file",
    "open_potential",
    "read_card",
]

CARD, PASSPORT, WEIGHTS = "card.json", "passport.json", "weights.safetensors"
MODEL_NAME = "model.pt"

Source = Union[str, "os.PathLike[str]"]

# What zipfile raises, depending on where a file is damaged: a flipped bit may claim
# encryption, another compression or a name that is no text.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)


@dataclass(frozen=True)
class ModelFile:
    """A checked model file.

    path : of the archive; passport : text of passport.json
    card : what it is, a PropagatorCard for a propagator
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
    """Return the names of the shipped models, potentials and propagators."""
    return sorted(_shipped())


def find_model(source: Source) -> Path:
    """Return the path of a model given by path, folder or shipped name.

    Raises
    ------
    UnknownModelError : nothing of that name.
    ModelFileError : the system cannot tell.
    """
    path = Path(source)
    shipped = _shipped()
    if str(source) in shipped:  # a folder of that name here is ./NAME
        return shipped[str(source)]
    try:
        path = path.expanduser()
        for candidate in (path, path / MODEL_NAME):
            if candidate.is_file():
                return candidate
    except (OSError, RuntimeError) as error:  # no permission, no home, too long a name
        raise ModelFileError(f"cannot look for the model '{source}': {error}.") from error
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


def open_potential(source: Source) -> ModelFile:
    """Do what :func:`open_model_file` does, for what shall give energies and forces.

    Raises
    ------
    UnknownModelError : there is none.
    ModelFileError : see :func:`open_model_file`, or it is a propagator.
    """
    file = open_model_file(source)
    if isinstance(file.card, PropagatorCard):
        raise ModelFileError(
            f"'{file.path}' is a learned dynamics ({file.card.architecture}), not a potential: it "
            "has no energy and no forces. Run it with eqcalc.dynamics.Propagator."
        )
    return file


def read_card(source: Source) -> ModelCard:
    """Return the card of a model given by path, folder or shipped name."""
    return open_model_file(source).card


def _read_card_text(text: bytes, path: Path) -> ModelCard:
    try:
        content = json.loads(text)
        version = content["format_version"]
        if version > FORMAT_VERSION:
            raise ModelFileError(
                f"'{path}' has format version {version}; this eqcalc reads up to "
                f"{FORMAT_VERSION}. Upgrade eqcalc to use it."
            )
        kind = content.get("kind", ModelCard.kind)  # early cards of potentials do not say
        if kind not in CARDS:
            raise ModelFileError(
                f"'{path}' is a model of kind '{kind}'; this eqcalc knows {', '.join(CARDS)}. "
                "Upgrade eqcalc to use it."
            )
        return CARDS[kind].from_json(text.decode())
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
    package = Path(__file__).resolve().parents[1]
    folders = [package / "models"]
    if (package.parent / "setup.cfg").is_file():
        folders.append(package.parent / "models")
    found: dict[str, Path] = {}
    for folder in folders:
        for model in sorted(folder.glob(f"*/{MODEL_NAME}")):
            found.setdefault(model.parent.name, model)
    return found
