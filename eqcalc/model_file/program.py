"""Check a model's program before torch compiles it: functions of tensors, and nothing else.

A TorchScript archive holds its program as text, in a small part of Python. eqcalc's exporter
emits few constructs of it, and a list of operators (:mod:`eqcalc.model_file.operators`). The
text is parsed with the standard library's parser and held against both: whatever is not known
is refused. So a program that passes can compute, take time and memory, and raise; it can not
reach a file, another process, or memory that it was not given.

What makes the check sound: every name is a parameter, a local variable or known; a method is
called on an object whose class is known from the archive, never on a tensor or a text, where a
method's name is an operator; characters that the two parsers may read differently are refused.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional

from eqcalc.model_file.declarations import (
    DeclaredClass,
    dotted,
    is_special,
    parse,
    refuse,
    shown_text,
)
from eqcalc.model_file.loops import check_loops
from eqcalc.model_file.operators import CONVERSIONS, OPERATORS

__all__ = ["Program", "check_program"]

_WORDS = {"torch", "ops", "__torch__", "CONSTANTS", "inf", "nan", "range", "getattr", "self"}
_CASTS = {"annotate", "unchecked_cast", "uninitialized"}
_RESERVED = _WORDS | _CASTS | CONVERSIONS
_TYPES = {"Tensor", "int", "float", "bool", "str", "NoneType", "Device", "number"}
_GENERIC_TYPES = {"List", "Dict", "Optional", "Tuple"}
_CONSTANT = re.compile(r"c\d+", re.ASCII)
_Function = tuple[str, str]
"""Class ("" for a function) and name."""


@dataclass(frozen=True)
class _Kind:
    """What a name stands for, where it is no value: an object, a class, a function."""

    what: str
    name: str


@dataclass
class _Call:
    caller: _Function
    callee: _Function
    node: ast.Call


@dataclass
class Program:
    """The classes and functions of an archive that passed.

    loop_fields : (class, attribute) of the numbers that loops run to
    """

    classes: dict[str, DeclaredClass]
    functions: dict[str, ast.FunctionDef]
    calls: list[_Call] = field(default_factory=list)
    scopes: dict[_Function, _Scope] = field(default_factory=dict)
    loop_fields: set[tuple[str, str]] = field(default_factory=set)


@dataclass
class _Scope:
    """A function's parameters, variables and what they stand for."""

    key: _Function
    node: ast.FunctionDef
    parameters: list[str]
    kinds: dict[str, Optional[_Kind]] = field(default_factory=dict)
    values: dict[str, list[Optional[ast.expr]]] = field(default_factory=dict)
    loop_variables: set[str] = field(default_factory=set)
    loop_ends: list[ast.expr] = field(default_factory=list)


def check_program(entries: Mapping[str, bytes]) -> Program:
    """Return the program of an archive's entries below ``code/``, if it only computes.

    Raises
    ------
    ValueError : it holds something that eqcalc's exporter does not write; the message says
        what and where.
    """
    declared = parse(entries)
    program = Program(declared.classes, declared.functions)
    checker = _Checker(program)
    for class_name, found in program.classes.items():
        for kind in found.fields.values():
            checker.check_type(kind, class_name)
        for method, node in found.methods.items():
            checker.check_function((class_name, method), node)
    for function, node in program.functions.items():
        checker.check_function(("", function), node)
    check_loops(program)
    return program


class _Checker:
    """Holds every statement and expression of every function against what is known."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._scope: _Scope

    def check_function(self, key: _Function, node: ast.FunctionDef) -> None:
        arguments = node.args
        names = [argument.arg for argument in arguments.args]
        if (
            node.decorator_list
            or arguments.posonlyargs
            or arguments.kwonlyargs
            or arguments.vararg
            or arguments.kwarg
            or len(set(names)) < len(names)
        ):
            raise ValueError(f"the function {_shown(key)} is declared as no exporter does")
        self._scope = scope = _Scope(key, node, names)
        self._program.scopes[key] = scope
        for position, argument in enumerate(arguments.args):
            is_self = key[0] != "" and position == 0
            if (argument.arg in _RESERVED) != (is_self and argument.arg == "self"):
                raise ValueError(f"{_shown(key)} has a parameter {argument.arg}")
            if is_self:
                scope.kinds[argument.arg] = _Kind("object", key[0])
                continue
            kind = self.check_type(argument.annotation, _shown(key))
            scope.kinds[argument.arg] = kind
        for default in arguments.defaults:
            self._expression(default)
        if node.returns is not None:
            self.check_type(node.returns, _shown(key))
        self._statements(node.body)

    def check_type(self, node: Optional[ast.expr], where: str) -> Optional[_Kind]:
        """Return the kind of a type's objects; None for tensors, numbers and lists."""
        if isinstance(node, ast.Name) and node.id in _TYPES:
            return None
        if isinstance(node, ast.Constant) and node.value is None:
            return None
        if isinstance(node, ast.Attribute):
            name = dotted(node)
            if name in self._program.classes:
                return _Kind("object", name)
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.value, ast.Name)
            and node.value.id in _GENERIC_TYPES
        ):
            inner = node.slice
            for part in inner.elts if isinstance(inner, ast.Tuple) else [inner]:
                self.check_type(part, where)
            return None
        raise ValueError(f"{where} has a type that no exporter writes: {shown_text(node)}")

    # --- statements

    def _statements(self, body: Sequence[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                self._expression(node.value, may_name=True)
                self._assign(node.targets[0], node.value)
            elif isinstance(node, (ast.Return, ast.Expr)) and node.value is not None:
                self._expression(node.value)
            elif isinstance(node, ast.If):
                self._expression(node.test)
                self._statements(node.body)
                self._statements(node.orelse)
            elif isinstance(node, ast.For) and not node.orelse:
                self._for(node)
            elif isinstance(node, ast.While) and _is_known_loop(node):
                self._expression(node.test)
                self._statements(node.body)
            elif not isinstance(node, ast.Pass):
                refuse(node, _shown(self._scope.key))

    def _for(self, node: ast.For) -> None:
        call = node.iter
        if not (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id == "range"
            and len(call.args) == 1
            and not call.keywords
            and isinstance(node.target, ast.Name)
        ):
            refuse(node, _shown(self._scope.key))
        self._expression(call.args[0])
        self._store(node.target.id, None, None)
        self._scope.loop_variables.add(node.target.id)
        self._scope.loop_ends.append(call.args[0])
        self._statements(node.body)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._store(target.id, self._kind(value), value)
        elif isinstance(target, ast.Tuple):
            values: list[Optional[ast.expr]] = [None] * len(target.elts)
            if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts):
                values = list(value.elts)
            for name, one in zip(target.elts, values, strict=True):
                if not isinstance(name, ast.Name):
                    refuse(target, _shown(self._scope.key))
                self._store(name.id, None if one is None else self._kind(one), one)
        else:
            refuse(target, _shown(self._scope.key))

    def _store(self, name: str, kind: Optional[_Kind], value: Optional[ast.expr]) -> None:
        scope = self._scope
        if name in _RESERVED or is_special(name):
            raise ValueError(f"{_shown(scope.key)} gives the name {name} another meaning")
        if scope.kinds.get(name, kind) != kind:
            raise ValueError(f"{_shown(scope.key)} uses the name {name} for different kinds")
        scope.kinds[name] = kind
        scope.values.setdefault(name, []).append(value)

    # --- expressions

    def _expression(self, node: ast.expr, *, may_name: bool = False) -> None:
        """Check an expression; ``may_name``: it may be the name of a function."""
        if isinstance(node, ast.Constant):
            if type(node.value) not in (int, float, bool, str, type(None)):
                refuse(node, _shown(self._scope.key))
        elif isinstance(node, ast.Name):
            if node.id not in self._scope.kinds and node.id not in ("inf", "nan"):
                raise ValueError(f"{_shown(self._scope.key)} uses the unknown name {node.id}")
        elif isinstance(node, (ast.List, ast.Tuple)):
            for item in node.elts:
                self._expression(item)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if key is None:
                    refuse(node, _shown(self._scope.key))
                self._expression(key)
                self._expression(value)
        elif isinstance(node, ast.Subscript):
            self._expression(node.value)
            self._expression(node.slice)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            if not isinstance(node.operand, (ast.Constant, ast.Name)):
                refuse(node, _shown(self._scope.key))
            self._expression(node.operand)
        elif isinstance(node, ast.Attribute):
            self._attribute(node, may_name)
        elif isinstance(node, ast.Call):
            self._call(node)
        else:
            refuse(node, _shown(self._scope.key))

    def _attribute(self, node: ast.Attribute, may_name: bool) -> None:
        name = dotted(node)
        if name.startswith("CONSTANTS.") and _CONSTANT.fullmatch(node.attr) and name.count(".") < 2:
            return
        if name.startswith("__torch__."):
            if may_name and name in self._program.functions:
                return
        elif self._kind(node.value) is not None:
            self._field_of(node.value, node.attr)
            return
        raise ValueError(f"{_shown(self._scope.key)} uses {shown_text(node)}")

    def _field_of(self, value: ast.expr, name: str) -> Optional[_Kind]:
        kind = self._kind(value)
        self._expression(value)
        fields = self._program.classes[kind.name].fields if kind and kind.what == "object" else {}
        if name not in fields:
            raise ValueError(f"{_shown(self._scope.key)} uses an unknown attribute {name[:80]}")
        return self.check_type(fields[name], _shown(self._scope.key))

    def _call(self, node: ast.Call) -> None:
        where, function, arguments = _shown(self._scope.key), node.func, list(node.args)
        if isinstance(function, ast.Name):
            if function.id in _CASTS and arguments:
                self.check_type(arguments[0], where)
                if function.id != "annotate" and "__torch__" in ast.unparse(arguments[0]):
                    raise ValueError(f"{where} casts to {shown_text(arguments[0])}")  # unchecked
                del arguments[0]
            elif function.id == "getattr":
                self._kind(node)
                return
            elif function.id not in CONVERSIONS:
                kind = self._scope.kinds.get(function.id)
                if kind is None or kind.what != "function":
                    raise ValueError(f"{where} calls {function.id}, which is no function of it")
                self._record(("", kind.name), node)
        elif isinstance(function, ast.Attribute):
            self._call_attribute(node, function)
        else:
            refuse(node, where)
        for argument in arguments:
            self._expression(argument)
        for keyword in node.keywords:
            if keyword.arg is None:
                refuse(node, where)
            self._expression(keyword.value)

    def _call_attribute(self, node: ast.Call, function: ast.Attribute) -> None:
        where, name = _shown(self._scope.key), dotted(function)
        root = name.split(".", 1)[0]
        if root in ("torch", "ops"):
            if name not in OPERATORS:
                raise ValueError(f"{where} calls {name}, which is not among the known operators")
        elif root == "__torch__":
            if name in self._program.functions:
                self._record(("", name), node)
            elif name not in self._program.classes or not self._program.classes[name].is_tuple:
                raise ValueError(f"{where} calls {name}, which is no function of it")
        else:
            kind = self._kind(function.value)
            self._expression(function.value)
            if (
                kind is None
                or kind.what != "object"
                or function.attr not in self._program.classes[kind.name].methods
            ):
                raise ValueError(f"{where} calls {shown_text(function)}, which is no method of it")
            self._record((kind.name, function.attr), node)

    def _record(self, callee: _Function, node: ast.Call) -> None:
        self._program.calls.append(_Call(self._scope.key, callee, node))

    def _kind(self, node: ast.expr) -> Optional[_Kind]:
        """Return what an expression stands for, where that is no plain value."""
        if isinstance(node, ast.Name):
            return self._scope.kinds.get(node.id)
        if isinstance(node, ast.Attribute):
            name = dotted(node)
            if name in self._program.functions:
                return _Kind("function", name)
            if name.split(".", 1)[0] in ("torch", "ops", "__torch__", "CONSTANTS"):
                return None
            return self._field_of(node.value, node.attr)
        if isinstance(node, ast.Call):
            return self._kind_of_call(node)
        return None

    def _kind_of_call(self, node: ast.Call) -> Optional[_Kind]:
        function, where = node.func, _shown(self._scope.key)
        if isinstance(function, ast.Name):
            if function.id == "getattr":
                values = node.args
                if (
                    len(values) != 2
                    or node.keywords
                    or not isinstance(values[1], ast.Constant)
                    or not isinstance(values[1].value, str)
                ):
                    refuse(node, where)
                return self._field_of(values[0], values[1].value)
            if function.id in _CASTS and node.args:
                return self.check_type(node.args[0], where)
        elif isinstance(function, ast.Attribute):
            name = dotted(function)
            if name in self._program.classes:
                return _Kind("object", name)
        return None


# The one loop with a condition that eqcalc has ever exported: the Chebyshev polynomials of
# DimeNet, until it got a number of rounds. It doubles the columns of a tensor until there are
# enough. Variables by the order in which they are met.
_KNOWN_LOOP = """
while a:
    b = torch.sub(torch.size(c)[1], 1)
    d = torch.slice(torch.slice(c), 1, b)
    e = torch.mul(d, 2.0)
    f = torch.slice(torch.slice(c), 1, 1)
    g = torch.mul(e, f)
    h = torch.slice(torch.slice(c), 1, None, b)
    i = torch.sub(g, torch.flip(h, [1]))
    j = torch.cat([c, i], 1)
    k = torch.lt(torch.size(j)[1], l)
    a, c = (k, j)
"""


def _is_known_loop(node: ast.While) -> bool:
    return _canonical(node) == _canonical(ast.parse(_KNOWN_LOOP).body[0])


def _canonical(node: ast.AST) -> str:
    names: dict[str, str] = {}
    text = ast.unparse(node)
    return re.sub(
        r"(?<![.\w])(?!while\b|torch\b|None\b)[A-Za-z_]\w*",
        lambda match: names.setdefault(match[0], f"v{len(names)}"),
        text,
    )


def _shown(key: _Function) -> str:
    return ".".join(part for part in key if part)
