"""Every loop of a model's program has an end that is known before it begins.

A loop may run to a small number, to the length of a list or the size of a tensor, to an
attribute or a parameter of which the same holds, and to sums, differences and quotients of
these. Functions do not call themselves, and the number of statements that one call comes to is
limited: functions that call each other twice each, fifty deep, need no loop to run for ever.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from eqcalc.model_file.program import Program, _Function, _Scope

__all__ = ["LARGEST_END", "check_loops"]

LARGEST_END = 1000
"""To what a constant or an attribute may let a loop run."""

_MOST_STATEMENTS = 10**7
_ROUNDS = 32  # what a loop without a constant is counted as
_ENDLESS = 2**63 - 1  # what TorchScript writes for "as long as the other list"
_KEEP_SMALL = {
    "torch.add",
    "torch.sub",
    "torch.floordiv",
    "torch.neg",
    "torch.__range_length",
    "torch.__derive_index",
    "ops.prim.max",
}
_SIZES = {"torch.len", "torch.numel", "torch.dim"}


def check_loops(program: Program) -> None:
    """Check all loops, and fill ``program.loop_fields``.

    Raises
    ------
    ValueError : a loop whose end is not known, or a function that calls itself or takes far
        too long.
    """
    bounds = _Bounds(program)
    for scope in program.scopes.values():
        for end in scope.loop_ends:
            bounds.check(end, scope)
    done: set[tuple[_Function, str]] = set()
    while bounds.parameters - done:
        callee, name = (bounds.parameters - done).pop()
        done.add((callee, name))
        for call in program.calls:
            if call.callee == callee:
                argument = _argument(call.node, program.scopes[callee], name)
                bounds.check(argument, program.scopes[call.caller])
    _check_cost(program)


class _Bounds:
    def __init__(self, program: Program) -> None:
        self._program = program
        self.parameters: set[tuple[_Function, str]] = set()

    def check(self, node: Optional[ast.expr], scope: _Scope) -> None:
        """Refuse a number that may be as large as it likes."""
        if not self._is_small(node, scope, frozenset()):
            text = "none" if node is None else ast.unparse(node)[:80]
            raise ValueError(f"{scope.node.name} has a loop whose end is not known: {text}")

    def _is_small(self, node: Optional[ast.expr], scope: _Scope, seen: frozenset[str]) -> bool:
        if isinstance(node, ast.Constant):
            return type(node.value) is int and abs(node.value) <= LARGEST_END
        if isinstance(node, ast.UnaryOp):
            return self._is_small(node.operand, scope, seen)
        if isinstance(node, ast.Name):
            return self._is_small_name(node.id, scope, seen)
        if isinstance(node, ast.Attribute):
            kind = _object(node.value, scope)
            if kind is not None:
                self._program.loop_fields.add((kind, node.attr))
            return kind is not None
        if isinstance(node, ast.Subscript):
            return _called(node.value) == "torch.size"
        name = "" if node is None else _called(node)
        if isinstance(node, ast.Call) and name in _KEEP_SMALL:
            return all(self._is_small(item, scope, seen) for item in _flat(node.args))
        if isinstance(node, ast.Call) and name == "ops.prim.min":
            limits = [item for item in self._items(node.args, scope) if not _is_endless(item)]
            return bool(limits) and all(self._is_small(item, scope, seen) for item in limits)
        return name in _SIZES

    def _is_small_name(self, name: str, scope: _Scope, seen: frozenset[str]) -> bool:
        if name in scope.parameters:
            self.parameters.add((scope.key, name))
        elif name in scope.loop_variables:
            return name not in scope.values or scope.values[name] == [None]
        elif name not in scope.values:
            return False
        if name in seen:  # it grows in a loop
            return False
        values = scope.values.get(name, [])
        return all(self._is_small(value, scope, seen | {name}) for value in values)

    def _items(self, arguments: Sequence[ast.expr], scope: _Scope) -> list[ast.expr]:
        """Return the items of ``[a, b]``, given as it is or by a name that has one value."""
        items: list[ast.expr] = []
        for argument in arguments:
            values = scope.values.get(argument.id, []) if isinstance(argument, ast.Name) else []
            one = values[0] if len(values) == 1 and values[0] is not None else argument
            items.extend(one.elts if isinstance(one, ast.List) else [one])
        return items


def _is_endless(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == _ENDLESS


def _flat(arguments: Sequence[ast.expr]) -> list[ast.expr]:
    return [
        item
        for argument in arguments
        for item in (argument.elts if isinstance(argument, ast.List) else [argument])
    ]


def _object(node: ast.expr, scope: _Scope) -> Optional[str]:
    kind = scope.kinds.get(node.id) if isinstance(node, ast.Name) else None
    return kind.name if kind is not None and kind.what == "object" else None


def _called(node: ast.expr) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def _argument(call: ast.Call, scope: _Scope, name: str) -> Optional[ast.expr]:
    """Return what a call passes for a parameter, or its default."""
    position = scope.parameters.index(name) - (scope.key[0] != "")
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    if position < len(call.args):
        return call.args[position]
    defaults, missing = scope.node.args.defaults, len(scope.parameters)
    place = scope.parameters.index(name) - (missing - len(defaults))
    return defaults[place] if 0 <= place < len(defaults) else None


def _check_cost(program: Program) -> None:
    callees: dict[int, _Function] = {id(call.node): call.callee for call in program.calls}
    costs: dict[_Function, int] = {}

    def cost_of(key: _Function, above: tuple[_Function, ...]) -> int:
        if key in above or len(above) > 200:
            raise ValueError(f"{key[1]} calls itself")
        if key not in costs:
            costs[key] = 1
            costs[key] = body_cost(program.scopes[key].node.body, (*above, key))
            if costs[key] > _MOST_STATEMENTS:
                raise ValueError(f"{key[1]} comes to more than {_MOST_STATEMENTS:.0e} statements")
        return costs[key]

    def body_cost(body: Sequence[ast.stmt], above: tuple[_Function, ...]) -> int:
        total = 0
        for node in body:
            if isinstance(node, ast.For):
                total += _rounds(node) * (1 + body_cost(node.body, above))
                continue
            if isinstance(node, (ast.If, ast.While)):
                total += body_cost(node.body, above) + body_cost(node.orelse, above)
                parts: list[ast.AST] = [node.test]
            else:
                parts = [node]
            total += 1
            for part in parts:
                for call in ast.walk(part):
                    if id(call) in callees:
                        total += cost_of(callees[id(call)], above)
        return total

    for key in program.scopes:
        cost_of(key, ())


def _rounds(node: ast.For) -> int:
    end = node.iter.args[0] if isinstance(node.iter, ast.Call) else None
    return end.value if isinstance(end, ast.Constant) and type(end.value) is int else _ROUNDS
