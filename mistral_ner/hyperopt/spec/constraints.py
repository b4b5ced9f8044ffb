"""Forbidden combinations: expressions over parameters and config keys, which every trial's settings must meet.

An expression is Python's syntax of arithmetic and comparisons, read as data: it can call only ``min``, ``max``, ``abs``
and ``round``.
"""

from __future__ import annotations

import ast
import itertools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}
_UNARY: dict[type, Callable[[Any], Any]] = {ast.Not: operator.not_, ast.USub: operator.neg, ast.UAdd: operator.pos}
_CALLS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs, "round": round}
_WORDS = {"true": True, "false": False, "null": None}  # as in YAML
_ALLOWED = (
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.Name, ast.Load),
    *(ast.Constant, ast.List, ast.Tuple, *_BINARY, *_UNARY),
)


@dataclass(frozen=True)
class Constraint:
    """One expression and the names that it uses."""

    text: str
    tree: ast.expr
    names: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> Constraint:
        """Read an expression.

        Raises:
            ValueError: it is none, or has a part that is not allowed; the message names it.
        """
        try:
            tree = ast.parse(text, mode="eval")
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"is no expression ({error.args[0]})") from None
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for node in ast.walk(tree):
            if not isinstance(node, _ALLOWED):
                raise ValueError(f"may hold arithmetic and comparisons only, found {ast.unparse(node)!r}")
        for call in calls:
            if not isinstance(call, ast.Name) or call.id not in _CALLS:
                raise ValueError(f"may call {', '.join(_CALLS)} only, found {ast.unparse(call)!r}")
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node not in calls}
        return cls(text, tree.body, tuple(sorted(names - set(_WORDS))))

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether values by name meet the expression; one that cannot be computed with them is not met."""
        try:
            return bool(_compute(self.tree, values))
        except (TypeError, ArithmeticError, ValueError):
            return False


def _compute(node: ast.expr, values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return _WORDS[node.id] if node.id in _WORDS else values[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_compute(item, values) for item in node.elts]
    if isinstance(node, ast.BoolOp):
        every = isinstance(node.op, ast.And)
        return (all if every else any)(_compute(part, values) for part in node.values)
    if isinstance(node, ast.UnaryOp):
        return _UNARY[type(node.op)](_compute(node.operand, values))
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_compute(node.left, values), _compute(node.right, values))
    if isinstance(node, ast.Call):
        return _CALLS[node.func.id](*(_compute(part, values) for part in node.args))  # type: ignore[attr-defined]
    assert isinstance(node, ast.Compare), "read allows no other"
    parts = [_compute(part, values) for part in (node.left, *node.comparators)]
    return all(_BINARY[type(op)](*pair) for op, pair in zip(node.ops, itertools.pairwise(parts), strict=True))
