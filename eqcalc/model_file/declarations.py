"""Parse a model's program: the classes and functions that its text declares.

A TorchScript archive holds its program as text, in a small part of Python, one entry for each
module. Characters that Python's parser and torch's may read differently are refused.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn, Optional

__all__ = ["Declarations", "DeclaredClass", "dotted", "is_special", "parse", "refuse", "shown_text"]

_PATH = re.compile(r"code/(__torch__(?:/[A-Za-z_][A-Za-z0-9_]*)*)\.py", re.ASCII)
# No tab, no carriage return, no letters of other scripts; "#" would hide what follows it from
# one of the parsers; a backslash only where both take it for the same character of a text.
_TEXT = re.compile(r"(?:[ \n\x21\x22\x24-\x5b\x5d-\x7e]|\\[ntr\\'\"0-7])*", re.ASCII)
_CLASS_LISTS = {"__parameters__", "__buffers__", "__annotations__"}


@dataclass
class DeclaredClass:
    """A module or a named tuple: types of its attributes, values of its constants, methods."""

    is_tuple: bool
    fields: dict[str, ast.expr] = field(default_factory=dict)
    constants: dict[str, object] = field(default_factory=dict)
    methods: dict[str, ast.FunctionDef] = field(default_factory=dict)


@dataclass
class Declarations:
    """What a program declares, by its full name."""

    classes: dict[str, DeclaredClass] = field(default_factory=dict)
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)


def parse(entries: Mapping[str, bytes]) -> Declarations:
    """Return what the entries below ``code/`` declare.

    Raises
    ------
    ValueError : a character, class or statement that no exporter writes.
    """
    found = Declarations()
    for name, content in entries.items():
        _collect(found, name, content)
    return found


def _collect(program: Declarations, name: str, content: bytes) -> None:
    """Parse one entry and list what it defines."""
    match = _PATH.fullmatch(name)
    if match is None:
        raise ValueError(f"the entry {name} is no part of a program")
    module = match[1].replace("/", ".")
    if module.startswith("__torch__.torch.classes"):  # of these torch has its own
        raise ValueError(f"the entry {name} stands for a class of torch itself")
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} holds a character that is not ASCII") from error
    if not _TEXT.fullmatch(text) or '"""' in text or "'''" in text:
        raise ValueError(f"{name} holds a character or comment that no exporter writes")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{name} is not readable: {error}") from error
    for node in tree.body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            refuse(node, name)
        qualified = f"{module}.{node.name}"
        if qualified in program.classes or qualified in program.functions:
            raise ValueError(f"{qualified} is defined twice")
        if isinstance(node, ast.ClassDef):
            program.classes[qualified] = _class(node, qualified)
        else:
            program.functions[qualified] = node


def _class(node: ast.ClassDef, where: str) -> DeclaredClass:
    base = node.bases[0].id if len(node.bases) == 1 and isinstance(node.bases[0], ast.Name) else ""
    if base not in ("Module", "NamedTuple") or node.keywords or node.decorator_list:
        raise ValueError(f"the class {where} is neither a Module nor a NamedTuple")
    found = DeclaredClass(base == "NamedTuple")
    for part in node.body:
        name, kind = _field(part)
        if kind is not None:
            if name in found.fields or is_special(name):
                raise ValueError(f"{where} has an attribute {name}, or has it twice")
            found.fields[name] = kind
            if isinstance(part, ast.AnnAssign) and part.value is not None:
                found.constants[name] = _literal(part.value)
        elif isinstance(part, ast.FunctionDef):
            if is_special(part.name) or part.name in found.methods:
                raise ValueError(f"{where} has a method {part.name}, which no exporter writes")
            found.methods[part.name] = part
        elif not _is_list_of_names(part) and not isinstance(part, ast.Pass):
            refuse(part, where)
    if found.is_tuple and found.methods:
        raise ValueError(f"the tuple {where} has methods")
    return found


def _field(part: ast.stmt) -> tuple[str, Optional[ast.expr]]:
    """Return name and type of ``name : type`` and of ``__annotations__["name"] = type``.

    A constant, ``name : Final[type] = value``, is a field too.
    """
    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
        kind = part.annotation
        if part.value is None:
            return part.target.id, kind
        if (
            isinstance(kind, ast.Subscript)
            and isinstance(kind.value, ast.Name)
            and kind.value.id == "Final"
        ):
            return part.target.id, kind.slice
    if isinstance(part, ast.Assign) and len(part.targets) == 1:
        target = part.targets[0]
        if (
            isinstance(target, ast.Subscript)
            and isinstance(target.value, ast.Name)
            and target.value.id == "__annotations__"
            and isinstance(target.slice, ast.Constant)
            and isinstance(target.slice.value, str)
        ):
            return target.slice.value, part.value
    return "", None


def _is_list_of_names(part: ast.stmt) -> bool:
    return (
        isinstance(part, ast.Assign)
        and len(part.targets) == 1
        and isinstance(part.targets[0], ast.Name)
        and part.targets[0].id in _CLASS_LISTS
        and isinstance(part.value, ast.List)
        and all(isinstance(item, ast.Constant) for item in part.value.elts)
    )


def _literal(node: ast.expr) -> object:
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return float(node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"the constant {shown_text(node)} is no number or text") from error


def is_special(name: str) -> bool:
    """Return whether torch may give a name a meaning; two of them modules have, to no effect."""
    return name.startswith("__") and name not in ("__len__", "__contains__")


def dotted(node: ast.expr) -> str:
    """Return "a.b.c" of a chain of names, "" of anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([node.id, *reversed(parts)])


def shown_text(node: Optional[ast.AST]) -> str:
    """Return code as a message shows it."""
    return "none" if node is None else ast.unparse(node)[:80]


def refuse(node: ast.AST, where: str) -> NoReturn:
    """Raise ValueError for code that no exporter writes."""
    line = shown_text(node).splitlines()[0]
    raise ValueError(f"{where} holds '{line}', which no exporter writes")
