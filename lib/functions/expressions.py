"""The expressions that a definition may hold, evaluated on the syntax tree; nothing is executed.

Allowed are numbers, True and False, the parameter, ``+ - * / // % **`` (with a small written exponent), comparisons,
and, or, not, ``a if b else c``, and calls of `min`, `max`, `abs`, `int`, `float` and `bool`.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

Number = int | float  # True and False are numbers too

MAX_NODES = 80
MAX_DEPTH = 24
MAX_EXPONENT = 8
MAX_NUMBER = 10**40

CALLS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (min, max, abs, int, float, bool)}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


class BadDefinition(ValueError):
    """Why a text is no definition, or has no value at an input; one line."""


def check_expression(body: ast.expr, parameter: str) -> None:
    """Refuse an expression that holds anything but what the head of this module allows.

    Raises
    ------
    BadDefinition
        Names what was found; also where there are more than `MAX_NODES` parts or `MAX_DEPTH` levels of them.

    >>> check_expression(ast.parse("2 ** n", mode="eval").body, "n")
    Traceback (most recent call last):
    lib.functions.expressions.BadDefinition: an exponent is a written number of at most 8
    """
    waiting = [(body, 1)]
    n_nodes = 0
    while waiting:
        node, depth = waiting.pop()
        n_nodes += 1
        if n_nodes > MAX_NODES or depth > MAX_DEPTH:
            raise BadDefinition(f"more than {MAX_NODES} parts or {MAX_DEPTH} levels: shorten it")
        waiting += [(part, depth + 1) for part in _allowed_parts(node, parameter)]


def _allowed_parts(node: ast.expr, parameter: str) -> Sequence[ast.expr]:
    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            if value > MAX_NUMBER:
                raise BadDefinition(f"a number is larger than {MAX_NUMBER:.0e}")
            return ()
        case ast.Name(id=name):
            if name != parameter:
                raise BadDefinition(f"{name[:20]!r} is not the parameter {parameter[:20]!r}")
            return ()
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            if isinstance(op, ast.Pow):
                _check_exponent(right)
            return (left, right)
        case ast.UnaryOp(op=unary, operand=operand) if type(unary) in _UNARY:
            return (operand,)
        case ast.Compare(left=left, ops=ops, comparators=right) if all(type(op) in _COMPARE for op in ops):
            return (left, *right)
        case ast.BoolOp(values=parts):
            return parts
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return (test, body, orelse)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in CALLS:
            if name in ("min", "max") and len(args) < 2:
                raise BadDefinition(f"{name} takes two numbers or more")
            if name not in ("min", "max") and len(args) != 1:
                raise BadDefinition(f"{name} takes one number")
            return args
    raise BadDefinition(f"{type(node).__name__} may not stand in a definition")


def _check_exponent(exponent: ast.expr) -> None:
    if isinstance(exponent, ast.UnaryOp) and isinstance(exponent.op, ast.USub):
        exponent = exponent.operand
    size = exponent.value if isinstance(exponent, ast.Constant) else None
    if not isinstance(size, int | float) or size > MAX_EXPONENT:
        raise BadDefinition(f"an exponent is a written number of at most {MAX_EXPONENT}")


def expression_value(node: ast.expr, n: Number) -> Any:
    """The value of a checked expression where its parameter is `n`, by Python's rules.

    Raises
    ------
    BadDefinition
        If a step gives no real number or one beyond `MAX_NUMBER`.
    ArithmeticError
        On division by zero, or where a float overflows.

    >>> expression_value(ast.parse("n // 3 + 2", mode="eval").body, -7)
    -1
    """
    result: Any
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name():
            return n
        case ast.BinOp(left=left, op=op, right=right):
            result = _BINARY[type(op)](expression_value(left, n), expression_value(right, n))
        case ast.UnaryOp(op=unary, operand=operand):
            result = _UNARY[type(unary)](expression_value(operand, n))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            first = expression_value(left, n)
            for comparison, right in zip(ops, comparators, strict=True):
                second = expression_value(right, n)
                if not _COMPARE[type(comparison)](first, second):
                    return False
                first = second
            return True
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return expression_value(body if expression_value(test, n) else orelse, n)
        case ast.BoolOp(op=joint, values=parts):
            for part in parts:
                result = expression_value(part, n)
                if bool(result) is isinstance(joint, ast.Or):  # the first true part of an or, the first false of an and
                    break
            return result
        case ast.Call(func=ast.Name(id=name), args=args):
            result = CALLS[name](*(expression_value(argument, n) for argument in args))
        case _:
            raise BadDefinition(f"{type(node).__name__} may not stand in a definition")
    if isinstance(result, complex) or not math.isfinite(result) or abs(result) > MAX_NUMBER:
        raise BadDefinition(f"a step gives no real number of at most {MAX_NUMBER:.0e}")
    return result
