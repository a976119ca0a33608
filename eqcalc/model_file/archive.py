"""Find a model file, check it, read its card. No torch is needed for that.

A model is a TorchScript archive (a zip) with extra files inside: ``card.json`` says what the
model is, ``passport.json`` holds reference frames (:mod:`eqcalc.model_file.passport`), and from
``weights.index.json`` and ``weights.safetensors`` (:mod:`eqcalc.model_file.weight_records`) a
later version rebuilds the network with the card. Nothing is ever unpickled by Python, and
torch gets nothing but the entries that :meth:`ModelFile.archive` has checked. Potentials and
propagators (:mod:`eqcalc.dynamics`) are files of one format; the card says which a file is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from safetensors import deserialize

from eqcalc.errors import (
    ConfigError,
    ModelFileError,
    NameWarning,
    UnknownModelError,
    did_you_mean,
)
from eqcalc.files import ZIP_DAMAGE
from eqcalc.model_file.agreement import check_agreement, check_state, read_state
from eqcalc.model_file.card import CARDS, FORMAT_VERSION, ModelCard, PropagatorCard
from eqcalc.model_file.entries import (
    CARD,
    INDEX,
    PASSPORT,
    WEIGHTS,
    digest_of,
    pack,
    read_entries,
)
from eqcalc.model_file.pickled import Instance
from eqcalc.model_file.program import check_program
from eqcalc.model_file.weight_records import restore_weights

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
    "unknown_to_eqcalc",
]

MODEL_NAME = "model.pt"

Source = Union[str, "os.PathLike[str]"]

_FOR_TORCH = re.compile(
    r"(code/.*\.py|data/\d+|constants/\d+|(data|constants)\.pkl|version|byteorder)", re.ASCII
)
_KNOWN = re.compile(
    rf"(code/.*\.debug_pkl|\.data/serialization_id|extra/({CARD}|{PASSPORT}|{WEIGHTS}|{INDEX}))",
    re.ASCII,
)
_FOREIGN = "a network that nequip, SevenNet or schnetpack trained comes in by 'eqcalc import'"

_passed: set[str] = set()
"""Checksums of the files whose program was checked by this process."""


@dataclass(frozen=True)
class ModelFile:
    """A checked model file.

    path : of the archive; passport : text of passport.json
    card : what it is, a PropagatorCard for a propagator
    sha256 : of the file's bytes
    trusted : its program may be anything
    """

    path: Path
    card: ModelCard
    passport: str
    sha256: str
    trusted: bool = False

    @property
    def lasting_source(self) -> str:
        """What finds the file from any folder: a shipped model's name, else the whole path.

        The name finds it on another machine too, where eqcalc lies elsewhere.
        """
        name = self.path.parent.name
        return name if _shipped().get(name) == self.path else os.path.abspath(self.path)

    def weights(self) -> bytes:
        """Return the content of ``weights.safetensors``.

        Raises
        ------
        ModelFileError : the file holds none, is no longer readable, or is refused.
        """
        self.require_checked()
        return restore_weights(self._entries())[f"extra/{WEIGHTS}"]

    def archive(self) -> bytes:
        """Return the checked program and its tensors as an archive for ``torch.jit.load``.

        Raises
        ------
        ModelFileError : as :meth:`require_checked`.
        """
        entries = self._entries()
        self._check(entries)
        return pack({k: v for k, v in entries.items() if _FOR_TORCH.fullmatch(k)})

    def require_checked(self) -> None:
        """Refuse a file whose parts do not belong together, or whose program is not known.

        Raises
        ------
        ModelFileError : a tensor's record is short, card, weights and program differ, or the
            program holds what eqcalc's exporter does not write and the file is not trusted.
        """
        if not self._is_checked():
            self._check(self._entries())

    def _is_checked(self) -> bool:
        return f"{self.sha256} {self.trusted}" in _passed

    def _check(self, entries: dict[str, bytes]) -> None:
        if self._is_checked():
            return
        try:
            root = read_state(entries, any_state=self.trusted)
            if f"extra/{WEIGHTS}" not in entries:
                raise ValueError(f"it holds no {WEIGHTS}")
        except ValueError as error:
            raise ModelFileError(
                f"the model file '{self.path}' is damaged: {error}; copy or export it again."
            ) from error
        if not self.trusted:
            try:
                _check_program(entries, root)
            except (ValueError, RecursionError) as error:
                raise ModelFileError(
                    f"the model file '{self.path}' was not loaded: its program holds what eqcalc "
                    f"does not write, and could do anything ({error}). If you know and trust "
                    "whoever made it, pass trust=True (on the command line --trust)."
                ) from error
        try:
            check_agreement(root, self.card, restore_weights(entries), complete=not self.trusted)
        except ValueError as error:
            raise ModelFileError(
                f"the parts of the model file '{self.path}' do not belong together: {error}; "
                "export the model again."
            ) from error
        _passed.add(f"{self.sha256} {self.trusted}")

    def _entries(self) -> dict[str, bytes]:
        content = _content(self.path)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ModelFileError(
                f"the model file '{self.path}' was replaced by another one while it was in use; "
                "load it again."
            )
        return _read_entries(content, self.path)


def available_models() -> list[str]:
    """Return the names of the shipped models, potentials and propagators."""
    return sorted(_shipped())


def find_model(source: Source) -> Path:
    """Return the path of a model given by path, folder or shipped name.

    Raises
    ------
    UnknownModelError : nothing of that name.
    ModelFileError : the system cannot tell.
    ConfigError : it is neither text nor a path.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise ConfigError(
            f"a model is given by its name or path, found {source!r} ({type(source).__name__})."
        )
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


def _say_hidden(source: Path, found: Path) -> None:
    """Say that a name is the shipped model's, where a model of the user's has it too."""
    for candidate in (source, source / MODEL_NAME):
        with suppress(OSError):  # a folder that may not be looked into
            if candidate.is_file() and not candidate.samefile(found):
                warnings.warn(
                    f"'{source}' is the shipped model of that name, not '{candidate}' here; for "
                    f"that one write './{source}'.",
                    NameWarning,
                    stacklevel=3,
                )


def open_model_file(source: Source, *, trust: bool = False) -> ModelFile:
    """Find, check and read a model file. Its program is not run, and not yet checked.

    Parameters
    ----------
    trust : whatever loads the file may run a program that eqcalc does not know

    Raises
    ------
    UnknownModelError : there is none.
    ModelFileError : it is unreadable, damaged, foreign or from a newer eqcalc.
    ConfigError : ``source`` is neither text nor a path, or ``trust`` is not True or False.
    """
    if not isinstance(trust, bool):
        raise ConfigError(f"trust must be True or False, found {trust!r}.")
    path = find_model(source)
    _say_hidden(Path(source), path)
    content = _content(path)
    entries = _read_entries(content, path)
    card_text, passport = entries.get(f"extra/{CARD}"), entries.get(f"extra/{PASSPORT}")
    if card_text is None or passport is None:
        raise ModelFileError(
            f"'{path}' is an archive but not a model of eqcalc: it has no {CARD} and {PASSPORT} "
            "inside. Export a potential with eqcalc.export.export_model or 'eqcalc export'; "
            f"{_FOREIGN}."
        )
    card = _read_card_text(card_text, path)
    if card.digest and digest_of(entries) != card.digest:
        raise ModelFileError(
            f"the parts of the model file '{path}' do not belong together: they are not those "
            "whose digest its card carries. Something in it was changed or exchanged; copy or "
            "export the model again."
        )
    try:
        text = passport.decode()
    except UnicodeDecodeError as error:
        raise ModelFileError(f"the {PASSPORT} inside '{path}' is not readable: {error}.") from error
    # Parts are read again later, perhaps from another folder.
    return ModelFile(path.absolute(), card, text, hashlib.sha256(content).hexdigest(), trust)


def unknown_to_eqcalc(content: bytes) -> str | None:
    """Return why the program of an archive that was just exported needs trust, or None."""
    entries = read_entries(content)
    try:
        _check_program(entries, read_state(entries))
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


def open_potential(source: Source, *, trust: bool = False) -> ModelFile:
    """Do what :func:`open_model_file` does, for what shall give energies and forces.

    Raises
    ------
    UnknownModelError : there is none.
    ModelFileError : see :func:`open_model_file`, or it is a propagator.
    """
    file = open_model_file(source, trust=trust)
    if isinstance(file.card, PropagatorCard):
        raise ModelFileError(
            f"'{file.path}' is a learned dynamics ({file.card.architecture}), not a potential: it "
            "has no energy and no forces. Run it with eqcalc.dynamics.Propagator."
        )
    return file


def read_card(source: Source) -> ModelCard:
    """Return the card of a model given by path, folder or shipped name."""
    return open_model_file(source).card


def _check_program(entries: dict[str, bytes], root: Instance) -> None:
    for name in entries:
        if not _FOR_TORCH.fullmatch(name) and not _KNOWN.fullmatch(name):
            raise ValueError(f"it holds {name}, which belongs to no model")
    code = {k: v for k, v in entries.items() if k[:5] == "code/" and k[-3:] == ".py"}
    check_state(root, check_program(code))


def _content(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            if file.read(2) == b"PK":  # else it may be anything, of any size
                file.seek(0)
                return file.read()
    except (OSError, MemoryError) as error:
        raise ModelFileError(f"cannot read the model file '{path}': {error}.") from error
    raise ModelFileError(_not_an_archive(path))


def _read_entries(content: bytes, path: Path) -> dict[str, bytes]:
    try:
        return read_entries(content)
    except ZIP_DAMAGE as error:
        raise ModelFileError(_not_an_archive(path)) from error
    except ValueError as error:
        raise ModelFileError(
            f"the model file '{path}' is damaged ({error}); copy or export it again."
        ) from error
    except OSError as error:
        raise ModelFileError(f"cannot read the model file '{path}': {error}.") from error


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
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"the {CARD} inside '{path}' is not readable: {error}.") from error


def _not_an_archive(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"":
        return f"the model file '{path}' is empty; copy or export it again."
    if start[:1] == b"\x80":
        return (
            f"'{path}' is a Python pickle, which eqcalc never loads (it could run any code); "
            f"export the potential with eqcalc.export.export_model; {_FOREIGN}."
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


def _network_of(file: ModelFile) -> str:
    """Return what tells a file's energies from others', without its names and texts."""
    card = file.card
    said = [card.architecture, card.config, card.reference_energies, card.scale, card.zbl]
    weights = hashlib.sha256()
    for name, stored in sorted(deserialize(file.weights()), key=lambda each: each[0]):
        weights.update(f"{name} {stored['dtype']} {stored['shape']}".encode())
        weights.update(stored["data"])
    return f"{weights.hexdigest()} {json.dumps(said, sort_keys=True)}"


def refuse_twins(files: Sequence[ModelFile]) -> None:
    """Refuse a committee that holds a network twice: the twins agree whatever the error is.

    Raises
    ------
    ConfigError : it does.
    """
    seen: dict[str, ModelFile] = {}
    for file in files if len(files) > 1 else ():
        twin = seen.setdefault(_network_of(file), file)
        if twin is not file:
            raise ConfigError(
                f"a committee needs different models, and '{file.path}' is the same as "
                f"'{twin.path}', whatever their cards call them: their spread is zero whatever "
                "their error is. Give models trained with different seeds or on different data."
            )
