"""Take a pickle apart by its opcodes, without running any of it.

A pickle is a program for a small machine with a stack. Python's own machine imports what a
pickle names and calls it; this one walks the standard library's list of opcodes and leaves to
its subclasses what a name, a call, an object's state and a tensor's record become: the strict
reader of eqcalc's own archives (:mod:`eqcalc.model_file.pickled`), and the reader of other
packages' files (:mod:`eqcalc.importers.inert`). An opcode that a subclass does not list is
refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = [
    "CONTAINER_ACTIONS",
    "ITEM_BYTES",
    "LARGEST_INT",
    "Mark",
    "PickleMachine",
    "StoredTensor",
    "count",
    "stored_tensor",
]

ITEM_BYTES = {
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
"""Bytes of a number, by torch's name of the storage that holds it."""

LARGEST_INT = 2**63


class Mark:
    """Where a tuple, list or dict begins on the stack."""


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
        return ITEM_BYTES[self.kind]


def stored_tensor(
    kind: str, key: str, numel: int, offset: Any, size: Any, stride: Any
) -> StoredTensor:
    """Return a view of a record of ``numel`` numbers.

    Raises
    ------
    ValueError : it does not lie within the record.
    """
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise ValueError("shape and strides of a tensor differ in length")
    sizes, strides = tuple(map(count, size)), tuple(map(count, stride))
    last = count(offset) + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    empty = 0 in sizes
    if (offset if empty else last + 1) > numel:
        raise ValueError(
            f"a tensor of shape {sizes} does not lie within its record {key} of {numel} numbers"
        )
    return StoredTensor(kind, key, offset, sizes, strides)


def count(value: Any) -> int:
    """Return a size, offset or stride.

    Raises
    ------
    ValueError : it is no whole number, or below zero.
    """
    if type(value) is not int or value < 0:
        raise ValueError(f"a size of a tensor is {value!r}")
    return value


class PickleMachine:
    """The stack, the memory, and what lists, dicts and tuples do.

    LITERALS : opcodes whose argument is the value
    ACTIONS : opcodes that work on the stack, and how
    """

    LITERALS: ClassVar[frozenset[str]] = frozenset(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
    )
    ACTIONS: ClassVar[Mapping[str, Callable[[Any], None]]] = {}
    IGNORED: ClassVar[frozenset[str]] = frozenset(("PROTO",))

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """Return what a pickle holds.

        Raises
        ------
        ValueError : it is no pickle that this machine understands.
        """
        try:
            for opcode, argument, _ in pickletools.genops(content):
                if opcode.name == "STOP":
                    break
                self.take(opcode.name, argument)
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is not a pickle as torch writes it ({error})") from error
        if len(self.stack) != 1 or isinstance(self.stack[0], Mark):
            raise ValueError("it does not end with one value")
        return self.stack[0]

    def take(self, name: str, argument: Any) -> None:
        """Do what one opcode says."""
        if name in _PUSHED:
            self.stack.append(_PUSHED[name]())
        elif name in self.LITERALS:
            self.stack.append(self.literal(argument))
        elif name == "GLOBAL":
            self.stack.append(self.named(argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memorise(argument)
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memory[argument])
        elif name in self.ACTIONS:
            self.ACTIONS[name](self)
        elif name not in self.IGNORED:
            raise ValueError(f"it has the opcode {name}, which torch does not write")

    def literal(self, value: Any) -> Any:
        """Return a number or text that stands in the pickle."""
        if isinstance(value, int) and not -LARGEST_INT <= value < LARGEST_INT:
            raise ValueError("an integer of it has more than 64 bits")
        return value

    def named(self, name: str) -> Any:
        """Return what stands for the class or function ``module name``."""
        raise NotImplementedError

    def memorise(self, index: int) -> None:
        """Keep the top of the stack under a number."""
        self.memory[index] = self.stack[-1]

    def marked(self) -> list[Any]:
        """Take what lies above the last mark."""
        start = len(self.stack) - 1
        while not isinstance(self.stack[start], Mark):
            start -= 1
            if start < 0:
                raise ValueError("it lacks a mark")
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def take_last(self, n: int) -> list[Any]:
        """Take the last ``n`` values."""
        if n > len(self.stack):
            raise IndexError("its stack is too short")
        values = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        return values

    def append(self, values: list[Any]) -> None:
        """Append to the list at the top."""
        if not isinstance(self.stack[-1], list):
            raise ValueError("it appends to something else than a list")
        self.stack[-1].extend(values)

    def set_items(self, values: Sequence[Any]) -> None:
        """Set items, key and value in turn, of the dict at the top."""
        if not isinstance(self.stack[-1], dict) or len(values) % 2:
            raise ValueError("it sets items of something else than a dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            self.stack[-1][self.key(key)] = value

    def key(self, key: Any) -> Any:
        """Return a dict's key, if it may be one."""
        if type(key) not in (str, int, float, bool):
            raise ValueError("a key of it is neither text nor number")
        return key


_PUSHED: dict[str, Callable[[], Any]] = {
    "MARK": Mark,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}

CONTAINER_ACTIONS: dict[str, Callable[[Any], None]] = {
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.marked())),
    "TUPLE1": lambda machine: machine.stack.append(tuple(machine.take_last(1))),
    "TUPLE2": lambda machine: machine.stack.append(tuple(machine.take_last(2))),
    "TUPLE3": lambda machine: machine.stack.append(tuple(machine.take_last(3))),
    "APPEND": lambda machine: machine.append(machine.take_last(1)),
    "APPENDS": lambda machine: machine.append(machine.marked()),
    "SETITEM": lambda machine: machine.set_items(machine.take_last(2)),
    "SETITEMS": lambda machine: machine.set_items(machine.marked()),
}
"""What every machine does with tuples, lists and dicts."""
