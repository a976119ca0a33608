"""Read what torch pickled into an archive, without running any of it.

The state of a scripted module is a pickle that torch's own reader takes apart. Here it is
walked with the standard library's list of opcodes and put into inert objects, so that every
tensor is held against the record that it lies in before torch sees either. Only what torch's
writer emits is understood.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from eqcalc.model_file.pickle_machine import (
    CONTAINER_ACTIONS,
    ITEM_BYTES,
    PickleMachine,
    StoredTensor,
    count,
    stored_tensor,
)

__all__ = ["Instance", "StoredTensor", "read_pickle"]

_STORAGES = {f"torch {name}Storage": name for name in ITEM_BYTES}
_LISTS = {f"torch.jit._pickle build_{kind}list" for kind in ("int", "double", "bool", "tensor")}
_DEEPEST = 100


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str
    numel: int


@dataclass
class Instance:
    """An object of a class whose code lies in the archive; its state by attribute."""

    kind: str
    state: dict[str, Any] = field(default_factory=dict)


def read_pickle(content: bytes, records: Mapping[str, bytes], *, any_state: bool = False) -> Any:
    """Return what a pickle holds, as plain values, Instance and StoredTensor.

    Parameters
    ----------
    records : bytes of the tensors by key; each must be used, and has to have the size that
        the pickle declares
    any_state : an object's state may be something else than its attributes, for a program
        that takes it apart itself

    Raises
    ------
    ValueError : it is no such pickle, or a tensor does not lie within its record.
    """
    reader = _Reader(records, any_state)
    value = reader.run(content)
    if isinstance(value, (_Global, _Storage)):
        raise ValueError("it does not end with one value")
    unused = sorted(set(records) - set(reader.storages))
    if unused:
        raise ValueError(f"the record {unused[0]} belongs to no tensor")
    _check_depth(value)
    return value


class _Reader(PickleMachine):
    def __init__(self, records: Mapping[str, bytes], any_state: bool) -> None:
        super().__init__()
        self.storages: dict[str, _Storage] = {}
        self._records = records
        self._any_state = any_state

    def named(self, name: str) -> _Global:
        return _Global(_known_global(name))

    def memorise(self, index: int) -> None:
        if index != len(self.memory):  # torch's reader makes room for all below it
            raise ValueError("its memory is not in order")
        super().memorise(index)

    def new(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if arguments != () or not kind.name.startswith("__torch__."):
            raise ValueError("it makes an object of something else than its own classes")
        self.stack.append(Instance(".".join(kind.name.split(" "))))

    def build(self) -> None:
        state, instance = self.stack.pop(), self.stack[-1]
        if self._any_state and not isinstance(state, dict):
            state = {"": state}
        if not isinstance(instance, Instance) or not isinstance(state, dict):
            raise ValueError("an object of it has a state that is no table of attributes")
        if instance.state:
            raise ValueError("an object of it is filled twice")
        instance.state.update(state)

    def persistent(self) -> None:
        word, kind, key, device, numel = self.stack.pop()
        if word != "storage" or kind.name not in _STORAGES or type(key) is not str:
            raise ValueError("a tensor's record is not declared as torch does")
        if device != "cpu" and not str(device).startswith("cuda"):
            raise ValueError(f"a tensor lies on the device {device!r}")
        storage = _Storage(_STORAGES[kind.name], key, count(numel))
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"the record {key} is declared twice, and differently")
        if key not in self._records:
            raise ValueError(f"the record {key} of a tensor is missing")
        expected = storage.numel * ITEM_BYTES[storage.kind]
        if len(self._records[key]) != expected:
            raise ValueError(
                f"the record {key} of a tensor has {len(self._records[key])} bytes, where "
                f"{expected} are declared"
            )
        self.stack.append(storage)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function.name == "collections OrderedDict" and arguments == ():
            self.stack.append({})
        elif function.name == "torch._utils _rebuild_tensor_v2":
            self.stack.append(_tensor(*arguments))
        elif function.name in _LISTS:
            (values,) = arguments
            self.stack.append(values)
        elif function.name == "torch.jit._pickle restore_type_tag":
            value, tag = arguments
            if not isinstance(tag, str) or len(tag) > 1000:
                raise ValueError("a type of it is no text")
            self.stack.append(value)
        else:
            raise ValueError(f"it calls {function.name}")

    ACTIONS: ClassVar[Mapping[str, Callable[[Any], None]]] = CONTAINER_ACTIONS | {
        "NEWOBJ": new,
        "BUILD": build,
        "BINPERSID": persistent,
        "REDUCE": reduce,
    }


_GLOBALS = {
    *_STORAGES,
    *_LISTS,
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch.jit._pickle restore_type_tag",
}


def _known_global(name: str) -> str:
    if name not in _GLOBALS and not name.startswith("__torch__."):
        raise ValueError(f"it names {name[:80]!r}, which no model needs")
    return name


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any
) -> StoredTensor:
    if not isinstance(storage, _Storage) or hooks != {} or type(requires_grad) is not bool:
        raise ValueError("a tensor is not declared as torch does")
    return stored_tensor(storage.kind, storage.key, storage.numel, offset, size, stride)


def _check_depth(value: Any) -> None:
    """Refuse what torch's reader would follow too deeply, or for ever."""
    seen: dict[int, int] = {}
    waiting = [(value, 0)]
    while waiting:
        current, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError("its values are nested too deeply")
        if isinstance(current, Instance):
            children: Any = current.state.values()
        elif isinstance(current, dict):
            children = current.values()
        elif isinstance(current, (list, tuple)):
            children = current
        else:
            continue
        if seen.get(id(current), -1) >= depth:
            continue
        seen[id(current)] = depth
        waiting.extend((child, depth + 1) for child in children)
