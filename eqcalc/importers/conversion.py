"""From a file of another package to a model of eqcalc, with its origin on the card."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from ase import Atoms

from eqcalc.elements import atomic_number, require_elements, symbols_of
from eqcalc.errors import ConfigError, DataWarning, EqcalcError, ModelFileError, OutputExistsError
from eqcalc.export import export_model
from eqcalc.export.frames import element_clusters
from eqcalc.export.model import refuse_texts_of_others
from eqcalc.files import remove_files, write_whole
from eqcalc.importers.foreign_file import ForeignFile, read_foreign
from eqcalc.importers.imported import Choices, Imported
from eqcalc.importers.inert import Inert
from eqcalc.model_file import ModelCard
from eqcalc.model_file.archive import MODEL_NAME, read_card
from eqcalc.model_file.seen import seen_in
from eqcalc.model_file.trained_frames import trained_frames
from eqcalc.potential import Potential

__all__ = ["IMPORTERS", "ImportedModel", "find_importer", "import_model"]

# Å, of cutoffs: no bond is in reach below, and thousands of atoms are above.
_POSSIBLE, _USUAL = (1.5, 25.0), (2.8, 12.5)

IMPORTERS = ("sevennet", "nequip", "schnetpack")
"""Modules of this folder, one per package."""


@dataclass(frozen=True)
class ImportedModel:
    """A model file that was made from a file of another package.

    path : of the model file
    card : its card
    kind : of the foreign file, such as "SevenNet checkpoint"
    file : the foreign file
    choices : what was said of it
    replaced : what stood there before, in a sentence; empty where nothing did
    """

    path: Path
    card: ModelCard
    kind: str
    file: ForeignFile
    choices: Choices
    replaced: str = ""


def import_model(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    modality: str | None = None,
    elements: Sequence[str | int] | None = None,
    licence: str | None = None,
    level_of_theory: str | None = None,
    training_data: Mapping[str, Any] | None = None,
    frames: Sequence[Atoms] = (),
    trained_on: Iterable[Atoms] = (),
    overwrite: bool = False,
) -> ImportedModel:
    """Make a model of a network that another package trained. Nothing of its file is run.

    Parameters
    ----------
    path : a checkpoint or package; what kind it is, its content says
    output : folder of the model, which gets model.pt and card.md, or a file that ends in .pt;
        None means models/NAME
    name : for the card; None means the name of the output
    energy_unit, length_unit : in which the network speaks, where the file does not say it
    modality : which of several levels of theory the model shall answer for
    elements : that the model shall know; None means all that the file states
    licence, level_of_theory : for the card; None means what the file or its package says
    training_data : for the card; see :func:`eqcalc.export.export_model`
    frames : structures for the passport, besides those of all elements
    trained_on : frames of the training data where they are at hand: the card keeps which pairs,
        distances and numbers of neighbours they hold; without them it says that it does not
    overwrite : replace a model that is there

    Raises
    ------
    ModelFileError : the file is none that is known, damaged, or has something that eqcalc's
        networks do not have; nothing is approximated.
    ConfigError : something that the file does not say was not said, or does not fit it.
    OutputExistsError : the model exists; the message says whether the source is the same.
    OutputError : the model cannot be written.
    """
    file = read_foreign(path)
    target = _target(file, output)
    replaced = _require_free(target, file, overwrite)
    if target.name == MODEL_NAME:
        refuse_texts_of_others(target, overwrite)
    importer = find_importer(file)
    chosen = None if elements is None else _symbols(elements)
    choices = Choices(energy_unit, length_unit, modality, chosen)
    try:
        # Whatever device the process makes its own tensors on, and casts its own networks to; of
        # the caller's random numbers no weights are drawn, to be replaced by those of the file.
        with (
            torch.device("cpu"),
            torch.autocast("cpu", enabled=False),
            torch.random.fork_rng(devices=[]),
        ):
            imported = importer.read(file, choices)
    except ConfigError as error:
        raise ConfigError(f"'{file.path}' was not imported: {error}") from error
    _require_finite(imported.potential, file)
    if length_unit is not None:
        _doubt_cutoff(imported.potential.cutoff, length_unit, file)
    licence = imported.licence if licence is None else licence
    level = imported.level_of_theory if level_of_theory is None else level_of_theory
    numbers = [atomic_number(symbol) for symbol in imported.elements]
    known = list(trained_on)
    for k, frame in enumerate(known):
        where = f"frame {k} of what trained_on gives"
        require_elements(frame.numbers, imported.elements, "the network", where=where)
    card = export_model(
        imported.potential,
        target,
        frames=[*frames, *element_clusters(numbers)],
        elements=imported.elements,
        name=name,
        description=imported.description,
        licence=licence,
        training_data=training_data,
        origin=_origin(imported, file, licence, level),
        seen=seen_in(known, imported.potential.cutoff) if known else None,
        trained_frames=trained_frames(known),
        overwrite=overwrite,
    )
    if target.name == MODEL_NAME:
        write_whole(target.with_name("card.md"), card.to_markdown().encode())
        remove_files(target.parent, ["metrics.json"])  # of a model that was trained here before
    return ImportedModel(target, card, importer.KIND, file, choices, replaced)


def find_importer(file: ForeignFile) -> ModuleType:
    """Return the importer of a file, by its content.

    Raises
    ------
    ModelFileError : no importer knows it.
    """
    importers = [importlib.import_module(f"eqcalc.importers.{name}") for name in IMPORTERS]
    for importer in importers:
        if importer.recognises(file):
            return importer
    known = ", ".join(importer.KIND for importer in importers)
    raise ModelFileError(
        f"'{file.path}' was not imported: {_account(file.content)} Known: {known}."
    )


def _account(content: Any) -> str:
    """Return what a file holds that no importer knows, in a sentence or two."""
    if isinstance(content, dict) and {"state", "param_groups"} <= set(content):
        return "it holds the state of an optimizer only; give the checkpoint with the weights."
    if isinstance(content, Inert):
        return f"it holds a {content.class_path}, which eqcalc does not know."
    if isinstance(content, dict):
        keys = [str(key) for key in content]
        tensors = sum(isinstance(value, torch.Tensor) for value in content.values())
        if keys and tensors == len(keys):
            return (
                "it holds tensors only (a state_dict), without the options of their network; give "
                "the checkpoint that the package wrote."
            )
        if {"state_dict", "architecture"} <= set(keys):
            return (
                "it is a checkpoint of eqcalc's own training, which needs no import: eqcalc export "
                "RUN MODEL makes a model of the run's folder."
            )
        shown = ", ".join(keys[:6]) or "nothing"
        return f"it holds a dictionary with {shown}, which is no checkpoint that eqcalc knows."
    return f"it holds a {type(content).__name__}, which is no model."


def _target(file: ForeignFile, output: str | os.PathLike[str] | None) -> Path:
    if output is None:
        stem = file.path.name.partition(".")[0] or file.path.name
        return Path("models") / stem / MODEL_NAME
    target = Path(output).expanduser()
    return target if target.suffix == ".pt" else target / MODEL_NAME


def _require_free(target: Path, file: ForeignFile, overwrite: bool) -> str:
    """Return what is going to be replaced, in a sentence; refuse where that is not allowed."""
    if not target.exists():
        return ""
    try:
        origin = read_card(target).origin
    except EqcalcError as error:
        what = f"it cannot be read: {error}"
    else:
        what = _compared(origin, file)
    if not overwrite:
        raise OutputExistsError(
            f"'{target}' exists ({what}); pass overwrite=True to replace it, or another output."
        )
    return f"replaced '{target}': {what}"


def _compared(origin: Mapping[str, str], file: ForeignFile) -> str:
    if not origin:
        return "it was not imported from another package"
    if origin.get("sha256") == file.sha256:
        return f"it was imported from this very file, {origin.get('file')}"
    return (
        f"it was imported from another file, {origin.get('file')} with sha256 "
        f"{origin.get('sha256')}, while this one has {file.sha256}"
    )


def _symbols(elements: Sequence[str | int]) -> tuple[str, ...]:
    symbols = tuple(symbols_of([atomic_number(element) for element in elements]))
    if not symbols:
        raise ConfigError("elements must name at least one element, found none.")
    return symbols


def _require_finite(potential: Potential, file: ForeignFile) -> None:
    for name, tensor in potential.architecture.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(
                f"'{file.path}' was not imported: the weights that become '{name}' are not finite; "
                "its training diverged, or the file is damaged."
            )


def _doubt_cutoff(cutoff: float, length_unit: str, file: ForeignFile) -> None:
    """Refuse a unit of length that no network has by the look of its cutoff; doubt one that few do.

    A wrong one changes every force and says nothing.
    """
    said = f"with lengths in {length_unit} its cutoff is {cutoff:.3g} Å"
    if not _POSSIBLE[0] <= cutoff <= _POSSIBLE[1]:
        raise ConfigError(
            f"'{file.path}' was not imported: {said}, where networks of atoms have 3 to 12; give "
            "the length_unit that it was trained in."
        )
    if not _USUAL[0] <= cutoff <= _USUAL[1]:
        warnings.warn(
            f"{said}, where most networks have 3 to 12: is length_unit the one that it was trained "
            "in?",
            DataWarning,
            stacklevel=3,
        )


def _origin(imported: Imported, file: ForeignFile, licence: str, level: str) -> dict[str, str]:
    return {
        **{str(key): str(value) for key, value in imported.source.items()},
        "file": file.path.name,
        "sha256": file.sha256,
        "licence": licence or "not stated",
        "level of theory": level or "not stated",
    }
