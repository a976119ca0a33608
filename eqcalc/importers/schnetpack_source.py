"""A model of schnetpack as its file holds it: objects by their names, and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from torch import Tensor

from eqcalc.errors import ModelFileError
from eqcalc.importers.foreign_file import ForeignFile
from eqcalc.importers.inert import Inert, state_of

__all__ = ["Source", "model_of", "required_model", "tensors_of"]


@dataclass
class Source:
    """A model's objects by their names, and its tensors, each of which is taken once.

    taken : names of the tensors that the network got
    """

    path: str
    model: Inert
    tensors: dict[str, Tensor]
    taken: set[str] = field(default_factory=set)

    def take(self, name: str) -> Tensor:
        """Return a tensor; who asks has a place for it."""
        if name not in self.tensors:
            raise ModelFileError(
                f"'{self.path}' was not imported: the tensor '{name}' is missing; was the file "
                "cut, or the model changed?"
            )
        self.taken.add(name)
        return self.tensors[name]

    def object(self, name: str) -> Inert:
        """Return the object at a path such as "representation.cutoff_fn"."""
        found: Any = self.model
        for part in name.split("."):
            found = found.attribute(part) if isinstance(found, Inert) else None
        if not isinstance(found, Inert):
            raise ModelFileError(f"'{self.path}' was not imported: its model has no '{name}'.")
        return found

    def children(self, name: str) -> list[tuple[str, Inert]]:
        """Return the modules of a list of modules, with their paths."""
        parent = self.model.attribute(name.split(".")[0])
        for part in name.split(".")[1:]:
            parent = parent.attribute(part) if isinstance(parent, Inert) else None
        table = parent.state.get("_modules", {}) if isinstance(parent, Inert) else {}
        return [(f"{name}.{key}", child) for key, child in table.items()]

    def refuse(self, name: str, found: str, expected: str) -> NoReturn:
        """Refuse what eqcalc's network does not have."""
        raise ModelFileError(
            f"'{self.path}' was not imported: {name} is {found}, where eqcalc's network has "
            f"{expected}."
        )

    def require(self, name: str, found: Any, *expected: Any) -> None:
        """Refuse what is none of the values that eqcalc's network has."""
        if found not in expected:
            self.refuse(f"'{name}'", str(found)[:80], " or ".join(map(str, expected)))

    def require_class(self, name: str, *expected: str) -> str:
        """Return the class of an object, or of a function that stands there, if it is known."""
        found = self.object(name).class_path
        self.require(name, found, *expected)
        return found


def model_of(content: Any) -> Inert | None:
    """Return the model in a file's content; None where there is none."""
    if isinstance(content, dict):
        parameters = content.get("hyper_parameters")
        entries = parameters.entries if isinstance(parameters, Inert) else parameters
        content = entries.get("model") if isinstance(entries, dict) else None
    if isinstance(content, Inert) and content.class_path == "schnetpack.task.AtomisticTask":
        content = content.attribute("model")
    is_model = isinstance(content, Inert) and content.class_path.startswith("schnetpack.model.")
    return content if is_model else None


def required_model(file: ForeignFile) -> Inert:
    """Return the model of a file.

    Raises
    ------
    ModelFileError : it holds none.
    """
    model = model_of(file.content)
    if model is None:
        raise ModelFileError(f"'{file.path}' holds no model of schnetpack.")
    return model


def tensors_of(file: ForeignFile, model: Inert) -> dict[str, Tensor]:
    """Return the model's tensors; a checkpoint's are those of its state_dict.

    Raises
    ------
    ModelFileError : they are missing, or it is not known which weights they are.
    """
    try:
        tensors = state_of(model)
    except ValueError as error:
        raise ModelFileError(f"'{file.path}' was not imported: {error}.") from error
    if not isinstance(file.content, dict):
        return tensors
    callbacks = file.content.get("callbacks")
    if isinstance(callbacks, Mapping) and any("MovingAverage" in str(key) for key in callbacks):
        raise ModelFileError(
            f"'{file.path}' was not imported: it was trained with averaged weights (callback "
            "ExponentialMovingAverage), and a checkpoint does not say which of the two its "
            "weights are. Give the 'best_model' of the same run."
        )
    saved = file.content.get("state_dict")
    if not isinstance(saved, dict):
        raise ModelFileError(f"'{file.path}' was not imported: the key 'state_dict' is missing.")
    trained = {
        str(key).removeprefix("model."): tensor
        for key, tensor in saved.items()
        if str(key).startswith("model.") and isinstance(tensor, Tensor)
    }
    # The module in the hyperparameters is as it was before the training.
    missing = [name for name in tensors if name not in trained]
    if missing:
        raise ModelFileError(
            f"'{file.path}' was not imported: its state_dict has no 'model.{missing[0]}' "
            f"({len(missing)} such tensors in all), so their trained values are not known; was "
            "the checkpoint cut, or changed?"
        )
    return trained
