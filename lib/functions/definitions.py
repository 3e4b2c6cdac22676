"""Read a written definition and evaluate it on its syntax tree, step by step; it is never executed.

A definition is ``lambda n: ...`` over one parameter and no more. It may be assigned to a name, be written as
``def f(n): return ...``, stand between backticks or in one code block (the prose around the block is not read), and
end in a comment or a full stop. It may hold numbers, True and False, the parameter, ``+ - * / // % **`` (with a small
written exponent), a comparison, not, ``a if b else c``, and calls of the functions in `CALLS`.
"""

from __future__ import annotations

import ast
import keyword
import math
import operator
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

Number = int | float  # True and False are numbers too
Value = Callable[[Number], Any]  # of an expression where its parameter is a number

PROBES: tuple[int, ...] = (-1044, -294, -23, -9, *range(-6, 7), 9, 45, 473, 1023, 3391)  # as published
MAX_CHARS, MAX_NODES, MAX_DEPTH, MAX_EXPONENT, MAX_NUMBER = 1000, 80, 24, 8, 10**40

CALLS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (min, max, abs, int, float, bool)}
OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip

_PLAIN = re.compile(r"[A-Za-z0-9_ \t\n+\-*/%<>=!().,:]*")
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_WORDS = {"lambda", "def", "return", "if", "else", "not", "True", "False"}
_RUN_ON = re.compile(r"(?<![\w.])\.?\d[\d_.]*+(?:[eE][+-]?\d[\d_]*+)?+[A-Za-z_]", re.ASCII)  # 0x1f, 1or


class BadDefinition(ValueError):
    """Why a text is no definition, or has no value at an input; one line."""


def parse_definition(text: str, *, bare: bool = False) -> Callable[[Number], Number]:
    """Read a definition of at most `MAX_CHARS` characters; takes a few milliseconds at most, whatever the text.

    With `bare`, take ``lambda n: ...`` alone (and a comment), as the published scorer did. Raises `BadDefinition` for
    anything else; the message says what the text holds. Values follow Python's rules; where there is none, or one that
    is too large, the function raises `BadDefinition`.

    >>> parse_definition("lambda n: n // 3 + 2")(-7)
    -1
    >>> parse_definition("abcdef = lambda x: max(x, -2)  # at least -2")(-5)
    -2
    >>> parse_definition("lambda n: open('file')")
    Traceback (most recent call last):
    lib.functions.definitions.BadDefinition: "'" may not stand in a definition
    """
    source = _code(text, bare=bare)
    _check_text(source)
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise BadDefinition(f"not Python: {getattr(error, 'msg', None) or type(error).__name__}") from None
    match tree.body:
        case [ast.Expr(value=ast.Lambda(args=arguments, body=body))]:
            pass
        case [ast.Assign(targets=[ast.Name()], value=ast.Lambda(args=arguments, body=body))] if not bare:
            pass
        case [
            ast.FunctionDef(args=arguments, returns=None | ast.Name(), body=[ast.Return(value=ast.expr() as body)])
        ] if not bare:
            pass
        case _:
            raise BadDefinition("expected 'lambda n: ...' and nothing else")
    match [*ast.iter_child_nodes(arguments)]:
        case [ast.arg(arg=parameter, annotation=None | ast.Name())] if arguments.args and parameter not in CALLS:
            if sum(isinstance(node, ast.expr) for node in ast.walk(body)) > MAX_NODES:
                raise BadDefinition(f"more than {MAX_NODES} parts: shorten it")
            return _guarded(_value_of(body, parameter))
    raise BadDefinition("expected one parameter, without default and with a name of its own")


def _guarded(value: Value) -> Value:
    def of(n: Number) -> Any:
        try:
            return value(n)
        except ArithmeticError as error:
            raise BadDefinition(f"no value at {n}: {error}") from error

    return of


def _code(text: str, *, bare: bool) -> str:
    """The definition without code fences, comments and a closing full stop."""
    if len(text) > MAX_CHARS:
        raise BadDefinition(f"found {len(text)} characters, a definition has at most {MAX_CHARS}: shorten it")
    code = text.strip()
    if not bare and "```" in code:
        blocks = code.split("```")
        if len(blocks) != 3:
            raise BadDefinition(f"expected one code block between two fences, found {len(blocks) - 1} fences")
        language, line_break, rest = blocks[1].partition("\n")
        code = rest if line_break and language.strip().isalnum() else blocks[1]
    elif not bare:
        code = code.strip("`")
    code = "\n".join(line.split("#", 1)[0].rstrip() for line in code.split("\n")).strip()
    return code if bare else code.removesuffix(".")


def _check_text(code: str) -> None:
    """Refuse before parsing what no definition needs: strings, brackets, other alphabets, statements, dunders."""
    plain = _PLAIN.match(code)
    n_plain = plain.end() if plain else 0
    if n_plain < len(code):
        raise BadDefinition(f"{ascii(code[n_plain])} may not stand in a definition")
    if run_on := _RUN_ON.search(code):
        raise BadDefinition(f"{run_on[0][:20]!r} is no number: write decimal digits and a space behind them")
    for word in _WORD.findall(code):
        if "__" in word or (keyword.iskeyword(word) and word not in _WORDS):
            raise BadDefinition(f"{word[:20]!r} may not stand in a definition")


def _value_of(node: ast.expr, parameter: str, depth: int = 1) -> Value:
    """The value of an expression as a function of its parameter; refuses all that may not stand in a definition."""
    if depth > MAX_DEPTH:
        raise BadDefinition(f"more than {MAX_DEPTH} levels: shorten it")

    def of(part: ast.expr) -> Value:
        return _value_of(part, parameter, depth + 1)

    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            if value > MAX_NUMBER:
                raise BadDefinition(f"a number is larger than {MAX_NUMBER:.0e}")
            return lambda n: value
        case ast.Name(id=name):
            if name != parameter:
                raise BadDefinition(f"{name[:20]!r} is not the parameter {parameter[:20]!r}")
            return lambda n: n
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            if isinstance(op, ast.Pow):
                _check_exponent(right)
            return _step(OPERATORS[type(op)], of(left), of(right))
        case ast.UnaryOp(op=unary, operand=operand) if type(unary) in OPERATORS:
            return _step(OPERATORS[type(unary)], of(operand))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in CALLS:
            if (len(args) < 2) if name in ("min", "max") else (len(args) != 1):
                raise BadDefinition(f"{name} takes {'two numbers or more' if name in ('min', 'max') else 'one number'}")
            return _step(CALLS[name], *map(of, args))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in OPERATORS:
            return _step(OPERATORS[type(op)], of(left), of(right))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            condition, then, otherwise = of(test), of(body), of(orelse)
            return lambda n: then(n) if condition(n) else otherwise(n)
    raise BadDefinition(f"{type(node).__name__} may not stand in a definition")


def _check_exponent(exponent: ast.expr) -> None:
    if isinstance(exponent, ast.UnaryOp) and isinstance(exponent.op, ast.USub):
        exponent = exponent.operand
    size = exponent.value if isinstance(exponent, ast.Constant) else None
    if not isinstance(size, int | float) or size > MAX_EXPONENT:
        raise BadDefinition(f"an exponent is a written number of at most {MAX_EXPONENT}")


def _step(operation: Callable[..., Any], *parts: Value) -> Value:
    """An operation on the values of some parts, whose result is a real number of a moderate size."""

    def value(n: Number) -> Any:
        result = operation(*(part(n) for part in parts))
        if isinstance(result, complex) or not math.isfinite(result) or abs(result) > MAX_NUMBER:
            raise BadDefinition(f"a step gives no real number of at most {MAX_NUMBER:.0e}")
        return result

    return value


@lru_cache(maxsize=4096)
def probe_values(text: str, *, bare: bool = False) -> tuple[Number, ...] | None:
    """What a definition gives at the 22 probes; None if it is no definition or has no value at one of them.

    >>> probe_values("lambda n: n // 10")[:3], probe_values("lambda n: 1 // n")
    ((-105, -30, -3), None)
    """
    try:
        return tuple(map(parse_definition(text, bare=bare), PROBES))
    except BadDefinition:
        return None


def same_function(reply: str, target: str, *, strict: bool = False) -> bool:
    """Whether a reply defines the function that the target defines: alike on all 22 published probe inputs.

    A reply that cannot be read, or has no value at a probe, is another function. With `strict`, types count: 1, 1.0 and
    True are then three different values, else one. Raises `ValueError` if the target is no definition.

    >>> same_function("lambda x: x + x", "lambda n: n * 2", strict=True)
    True
    >>> [same_function("lambda n: 1 - n % 2", "lambda n: n % 2 == 0", strict=strict) for strict in (True, False)]
    [False, True]
    """
    expected = probe_values(target)
    if expected is None:
        raise ValueError(f"the target {target!r:.80} is no definition with a value at every probe: check the registry")
    given = probe_values(reply)
    return given == expected and not (strict and list(map(type, given or ())) != list(map(type, expected)))
