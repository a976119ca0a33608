"""Read what torch pickled into an archive, without running any of it.

The state of a scripted module is a pickle that torch's own reader takes apart. Here it is
walked with the standard library's list of opcodes and put into inert objects, so that every
tensor is held against the record that it lies in before torch sees either. Only what torch's
writer emits is understood.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Instance", "StoredTensor", "read_pickle"]

_ITEM_BYTES = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
}
_STORAGES = {f"torch {name}Storage": name for name in _ITEM_BYTES}
_LISTS = {f"torch.jit._pickle build_{kind}list" for kind in ("int", "double", "bool", "tensor")}
_DEEPEST = 100
_LARGEST_INT = 2**63


class _Mark:
    pass


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str
    numel: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of an archive: a view of a record.

    kind : "Float", "Double", "Long", ...
    key : of the record
    """

    kind: str
    key: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def item_bytes(self) -> int:
        """Bytes of one number."""
        return _ITEM_BYTES[self.kind]


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
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                break
            reader.take(opcode.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is not a pickle as torch writes it ({error})") from error
    if len(reader.stack) != 1 or isinstance(reader.stack[0], (_Mark, _Global, _Storage)):
        raise ValueError("it does not end with one value")
    value = reader.stack[0]
    unused = sorted(set(records) - set(reader.storages))
    if unused:
        raise ValueError(f"the record {unused[0]} belongs to no tensor")
    _check_depth(value)
    return value


class _Reader:
    def __init__(self, records: Mapping[str, bytes], any_state: bool) -> None:
        self.stack: list[Any] = []
        self.storages: dict[str, _Storage] = {}
        self._records = records
        self._any_state = any_state
        self._memo: dict[int, Any] = {}

    def take(self, name: str, argument: Any) -> None:
        """Do what one opcode says."""
        if name in _PUSHED:
            self.stack.append(_PUSHED[name]())
        elif name in ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"):
            if isinstance(argument, int) and not -_LARGEST_INT <= argument < _LARGEST_INT:
                raise ValueError("an integer of it has more than 64 bits")
            self.stack.append(argument)
        elif name == "GLOBAL":
            self.stack.append(_Global(_known_global(argument)))
        elif name in ("BINPUT", "LONG_BINPUT"):
            if argument != len(self._memo):  # torch's reader makes room for all below it
                raise ValueError("its memory is not in order")
            self._memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self._memo[argument])
        elif name in _ACTIONS:
            _ACTIONS[name](self)
        elif name != "PROTO":
            raise ValueError(f"it has the opcode {name}, which torch does not write")

    def marked(self) -> list[Any]:
        """Take what lies above the last mark."""
        start = len(self.stack) - 1
        while not isinstance(self.stack[start], _Mark):
            start -= 1
            if start < 0:
                raise ValueError("it lacks a mark")
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def tuple_of(self, n: int) -> None:
        values = tuple(self.stack[len(self.stack) - n :])
        del self.stack[len(self.stack) - n :]
        self.stack.append(values)

    def append(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("it appends to something else than a list")
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or len(values) % 2:
            raise ValueError("it sets items of something else than a dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            self.stack[-1][_plain(key)] = value

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
        storage = _Storage(_STORAGES[kind.name], key, _count(numel))
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"the record {key} is declared twice, and differently")
        if key not in self._records:
            raise ValueError(f"the record {key} of a tensor is missing")
        expected = storage.numel * _ITEM_BYTES[storage.kind]
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


_PUSHED: dict[str, Callable[[], Any]] = {
    "MARK": _Mark,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_ACTIONS: dict[str, Callable[[_Reader], None]] = {
    "TUPLE": lambda reader: reader.stack.append(tuple(reader.marked())),
    "TUPLE1": lambda reader: reader.tuple_of(1),
    "TUPLE2": lambda reader: reader.tuple_of(2),
    "TUPLE3": lambda reader: reader.tuple_of(3),
    "APPEND": lambda reader: reader.append([reader.stack.pop()]),
    "APPENDS": lambda reader: reader.append(reader.marked()),
    "SETITEM": lambda reader: reader.set_items(
        [*reversed((reader.stack.pop(), reader.stack.pop()))]
    ),
    "SETITEMS": lambda reader: reader.set_items(reader.marked()),
    "NEWOBJ": _Reader.new,
    "BUILD": _Reader.build,
    "BINPERSID": _Reader.persistent,
    "REDUCE": _Reader.reduce,
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


def _plain(key: Any) -> Any:
    if type(key) not in (str, int, float, bool):
        raise ValueError("a key of it is neither text nor number")
    return key


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"a size of a tensor is {value!r}")
    return value


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any
) -> StoredTensor:
    if not isinstance(storage, _Storage) or hooks != {} or type(requires_grad) is not bool:
        raise ValueError("a tensor is not declared as torch does")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise ValueError("shape and strides of a tensor differ in length")
    sizes, strides = tuple(map(_count, size)), tuple(map(_count, stride))
    last = _count(offset) + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    empty = 0 in sizes
    if (offset if empty else last + 1) > storage.numel:
        raise ValueError(
            f"a tensor of shape {sizes} does not lie within its record {storage.key} of "
            f"{storage.numel} numbers"
        )
    return StoredTensor(storage.kind, storage.key, offset, sizes, strides)


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
