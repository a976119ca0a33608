"""Pickles of other packages as plain data: every class they name becomes an inert stub.

Nothing is imported and nothing is called. What a pickle makes of Python's own containers,
torch's tensors and numpy's arrays of numbers is built here; anything else that it names, calls
or fills is kept as an :class:`Inert` with the path of its class, the arguments and the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from eqcalc.model_file.pickle_machine import (
    CONTAINER_ACTIONS,
    ITEM_BYTES,
    PickleMachine,
    count,
    stored_tensor,
)

__all__ = ["Inert", "read_inert", "state_of"]

_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
"""Kinds of numbers that are read; what else a file holds is refused where it is needed."""

_LARGEST_EXPANDED = 2**20  # numbers of a tensor that repeats those of its record
_DEEPEST = 200
_MOST_MODULES = 100_000


@dataclass(eq=False)
class Inert:
    """What stands for an object, a class or a function of another package.

    class_path : "package.module.Name"
    args : what it was called with; None where the file only names it
    state : what it was filled with, for most objects a dict of its attributes
    entries, elements : what was put into it as into a dict or a list
    """

    class_path: str
    args: tuple[Any, ...] | None = None
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The class without its module."""
        return self.class_path.rpartition(".")[2]

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or a module, parameter or buffer of that name."""
        if not isinstance(self.state, dict):
            return default
        for table in (self.state, *(self.state.get(part) for part in _PARTS)):
            if isinstance(table, dict) and name in table:
                return table[name]
        return default

    def __repr__(self) -> str:
        return f"<inert {self.class_path}>"


_PARTS = ("_parameters", "_buffers", "_modules")


def state_of(module: Inert) -> dict[str, Tensor]:
    """Return the tensors of a module by their names, buffers that are not saved included.

    Raises
    ------
    ValueError : the modules contain each other.
    """
    found: dict[str, Tensor] = {}
    waiting = [("", module, 0)]
    n_modules = 0
    while waiting:
        prefix, current, depth = waiting.pop()
        n_modules += 1
        if depth > _DEEPEST or n_modules > _MOST_MODULES:
            raise ValueError("its modules are nested too deeply, or contain each other")
        for part in ("_parameters", "_buffers"):
            for name, tensor in _table(current, part).items():
                if isinstance(tensor, Tensor):
                    found[f"{prefix}{name}"] = tensor
        children = _table(current, "_modules").items()
        waiting.extend(
            (f"{prefix}{name}.", child, depth + 1)
            for name, child in reversed(children)
            if isinstance(child, Inert)
        )
    return found


def _table(module: Inert, part: str) -> dict[str, Any]:
    table = module.state.get(part) if isinstance(module.state, dict) else None
    return table if isinstance(table, dict) else {}


def read_inert(content: bytes, record: Callable[[str], bytes]) -> Any:
    """Return what a pickle holds: plain values, tensors, arrays and :class:`Inert`.

    Tensors are views of their records: never write into them.

    Parameters
    ----------
    record : returns the bytes of a tensor's record by its key

    Raises
    ------
    ValueError : it is no pickle that is understood, a record is missing or of another size, a
        tensor does not lie within its record, or holds numbers of a kind that is not read.
    """
    reader = _Reader(record)
    value = reader.run(content)
    if reader.unread:
        where, kind = next(_unread_in(value), ("a tensor", reader.unread[0]))
        raise ValueError(
            f"{where} holds numbers of the kind {kind}, which are rounded or packed; give a file "
            "with float32 or float64 weights"
        )
    return value


class _Storage:
    """The numbers of one record; without values where the kind is not read."""

    def __init__(self, kind: str, key: str, numel: int, values: Tensor | None) -> None:
        self.kind, self.key, self.numel, self.values = kind, key, numel, values


class _Unread(Inert):
    """A tensor of numbers of another kind, such as float16."""


class _Reader(PickleMachine):
    LITERALS: ClassVar[frozenset[str]] = PickleMachine.LITERALS | {
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "SHORT_BINBYTES",
        "BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    }
    IGNORED: ClassVar[frozenset[str]] = PickleMachine.IGNORED | {"FRAME"}

    def __init__(self, record: Callable[[str], bytes]) -> None:
        super().__init__()
        self.unread: list[str] = []
        self._record = record
        self._storages: dict[str, _Storage] = {}

    def literal(self, value: Any) -> Any:
        return value  # states of random generators have long integers

    def key(self, key: Any) -> Any:
        hash(key)  # TypeError for what cannot be one
        return key

    def named(self, name: str) -> Any:
        module, _, attribute = name.partition(" ")
        return Inert(f"{_MODULES.get(module, module)}.{attribute}")

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.elements.extend(values)
        else:
            super().append(values)

    def set_items(self, values: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert) and len(values) % 2 == 0:
            keys = map(self.key, values[::2])
            target.entries.update(zip(keys, values[1::2], strict=True))
        else:
            super().set_items(values)

    def add_items(self) -> None:
        values, target = self.marked(), self.stack[-1]
        if not isinstance(target, set):
            raise ValueError("it adds items to something else than a set")
        target.update(values)

    def stack_global(self) -> None:
        module, name = self.take_last(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("it names a class by something else than text")
        self.stack.append(self.named(f"{module} {name}"))

    def pop(self) -> None:
        self.stack.pop()

    def reduce(self) -> None:
        function, arguments = self.take_last(2)
        if not isinstance(function, Inert) or not isinstance(arguments, tuple):
            raise ValueError("it calls something that is neither a class nor a function")
        built = _BUILDERS.get(function.class_path) if function.args is None else None
        self.stack.append(
            built(self, *arguments) if built else Inert(function.class_path, arguments)
        )

    def new_with_keywords(self) -> None:
        function, arguments, keywords = self.take_last(3)
        self.stack.extend((function, arguments))
        self.reduce()
        if isinstance(self.stack[-1], Inert) and isinstance(keywords, dict):
            self.stack[-1].entries.update(keywords)

    def build(self) -> None:
        target, state = self.stack[-2], self.stack.pop()
        if isinstance(target, np.ndarray):
            _fill_array(target, state)
        elif isinstance(target, np.dtype):
            if not isinstance(state, tuple) or state[1] not in ("<", "|", "="):
                raise ValueError("an array of it is not in this machine's order of bytes")
        elif isinstance(target, Inert):
            if target.state is not None:
                raise ValueError("an object of it is filled twice")
            target.state = state
        elif not isinstance(target, dict) or not isinstance(state, dict):
            # A state_dict carries the versions of its modules as an attribute; they are no data.
            raise ValueError(f"it fills a {type(target).__name__} as if it were an object")

    def persistent(self) -> None:
        declared = self.stack.pop()
        if not isinstance(declared, tuple) or declared[:1] != ("storage",):
            self.stack.append(Inert("persistent", _as_tuple(declared)))
            return
        _, kind, key, _, numel = declared
        if type(key) is int:
            key = str(key)  # torch.package counts its records, torch.save names them
        if not isinstance(kind, Inert) or type(key) is not str:
            raise ValueError("a tensor's record is not declared as torch does")
        name = kind.name.removesuffix("Storage").replace("Untyped", "Byte")
        known = self._storages.get(key)
        if known is None:
            known = self._storages[key] = self._storage(name, key, count(numel))
        if (known.kind, known.numel) != (name, numel):
            raise ValueError(f"the record {key} is declared twice, and differently")
        self.stack.append(known)

    def _storage(self, kind: str, key: str, numel: int) -> _Storage:
        if kind not in _DTYPES:
            return _Storage(kind, key, numel, None)
        content = self._record(key)
        expected = numel * ITEM_BYTES[kind]
        if len(content) != expected:
            raise ValueError(
                f"the record {key} of a tensor has {len(content)} bytes, where {expected} are "
                "declared"
            )
        values = torch.empty(0, dtype=_DTYPES[kind])
        if numel:
            values = torch.frombuffer(bytearray(content), dtype=_DTYPES[kind])
        return _Storage(kind, key, numel, values)

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor is not declared as torch does")
        view = stored_tensor(storage.kind, storage.key, storage.numel, offset, size, stride)
        if storage.values is None:
            self.unread.append(storage.kind)
            return _Unread(f"torch.{storage.kind}Tensor", (view.size,))
        n_numbers = 1
        for n in view.size:
            n_numbers *= n
        if n_numbers > max(storage.numel, _LARGEST_EXPANDED) or len(view.size) > 64:
            raise ValueError(
                f"a tensor of shape {view.size} repeats the {storage.numel} numbers of its "
                f"record {storage.key}, and would be far larger than the file"
            )
        return torch.as_strided(storage.values, view.size, view.stride, view.offset)

    def quantised(self, storage: Any, *_: Any) -> Any:
        kind = storage.kind if isinstance(storage, _Storage) else "quantised"
        self.unread.append(kind)
        return _Unread(f"torch.{kind}Tensor", ())

    ACTIONS: ClassVar[Mapping[str, Callable[[Any], None]]] = CONTAINER_ACTIONS | {
        "NEWOBJ": reduce,
        "NEWOBJ_EX": new_with_keywords,
        "REDUCE": reduce,
        "BUILD": build,
        "BINPERSID": persistent,
        "STACK_GLOBAL": stack_global,
        "MEMOIZE": lambda reader: reader.memorise(len(reader.memory)),
        "EMPTY_SET": lambda reader: reader.stack.append(set()),
        "FROZENSET": lambda reader: reader.stack.append(frozenset(reader.marked())),
        "ADDITEMS": add_items,
        "POP": pop,
        "POP_MARK": lambda reader: reader.marked(),
    }


_MODULES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
}
"""Names that modules have in some pickles -> those by which they are known here."""


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _dict(_: _Reader, *items: Any) -> dict[Any, Any]:
    return dict(items[0]) if items else {}


def _default_dict(_: _Reader, *arguments: Any) -> dict[Any, Any]:
    return dict(*arguments[1:])


def _object(_: _Reader, kind: Any, *arguments: Any) -> Any:
    if not isinstance(kind, Inert):
        raise ValueError("it makes an object of something else than a class")
    return Inert(kind.class_path, () if arguments[1:] == (None,) else arguments[1:])


def _encoded(_: _Reader, text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes of it are not written as Python does")
    return text.encode("latin1")


def _bytes(_: _Reader, *arguments: Any) -> bytes:
    if arguments:
        raise ValueError("bytes of it are not written as Python does")
    return b""


def _parameter(_: _Reader, data: Any, *_rest: Any) -> Any:
    return data


def _dtype(_: _Reader, name: Any, *_rest: Any) -> np.dtype[Any]:
    if not isinstance(name, str) or name[:1] not in "biufcUS" or not name[1:].isdigit():
        raise ValueError(f"an array of it has items of the kind {str(name)[:20]!r}, not numbers")
    return np.dtype(name)


def _empty_array(_: _Reader, *_arguments: Any) -> np.ndarray[Any, Any]:
    return np.empty(0, dtype=np.int8)


def _scalar(_: _Reader, dtype: Any, content: Any) -> Any:
    array = np.empty(0, dtype=np.int8)
    _fill_array(array, (1, (), dtype, False, content))
    return array[()]


def _array_of_bytes(
    _: _Reader, content: Any, dtype: Any, shape: Any, order: Any
) -> np.ndarray[Any, Any]:
    array = np.empty(0, dtype=np.int8)
    is_bytes = isinstance(content, (bytes, bytearray))
    _fill_array(array, (1, shape, dtype, order == "F", bytes(content) if is_bytes else None))
    return array


def _fill_array(array: np.ndarray[Any, Any], state: Any) -> None:
    _, shape, dtype, is_fortran, content = state
    if not isinstance(dtype, np.dtype) or not isinstance(content, bytes):
        raise ValueError("an array of it is not written as numpy does")
    n_bytes = dtype.itemsize
    for n in map(count, shape):
        n_bytes *= n
    if n_bytes != len(content) or len(shape) > 32:
        raise ValueError(
            f"an array of shape {tuple(shape)} has {len(content)} bytes where {n_bytes} are needed"
        )
    array.__setstate__((1, shape, dtype, bool(is_fortran), content))  # type: ignore[arg-type]


_BUILDERS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encoded,
    "builtins.bytes": _bytes,
    "builtins.dict": _dict,
    "builtins.frozenset": lambda _, *items: frozenset(*items),
    "builtins.set": lambda _, *items: set(*items),
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _default_dict,
    "copyreg._reconstructor": _object,
    "numpy.core.multiarray._reconstruct": _empty_array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _array_of_bytes,
    "numpy.dtype": _dtype,
    "torch.Size": lambda _, sizes: tuple(sizes),
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _Reader.quantised,
    "torch._utils._rebuild_tensor_v2": _Reader.tensor,
    "torch._utils._rebuild_tensor_v3": _Reader.tensor,
}
"""What is built instead of kept as a stub, by the path that a pickle calls."""


def _unread_in(value: Any) -> Iterator[tuple[str, str]]:
    """Yield path and kind of the tensors whose numbers are of a kind that is not read."""
    waiting: list[tuple[str, Any]] = [("", value)]
    seen: set[int] = set()
    while waiting:
        path, current = waiting.pop()
        if isinstance(current, _Unread):
            yield f"'{path}'", current.name.removesuffix("Tensor")
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, Inert):
            parts: Any = {"": current.state, **current.entries}.items()
        elif isinstance(current, dict):
            parts = current.items()
        elif isinstance(current, (list, tuple)):
            parts = enumerate(current)
        else:
            continue
        waiting += [(f"{path}.{name}".strip("."), part) for name, part in parts]
