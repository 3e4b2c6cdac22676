"""Evaluate a written definition on its syntax tree, step by step; it is never executed.

A definition is ``lambda n: ...`` over one parameter and no more. It may be assigned to a name, be written as
``def f(n): return ...``, stand between backticks or in one code block (the prose around the block is not read), and
end in a comment or a full stop. `lib.functions.expressions` says what may stand in it.
"""

from __future__ import annotations

import ast
import keyword
import re
from dataclasses import dataclass
from functools import lru_cache

from lib.functions.expressions import CALLS, BadDefinition, Number, check_expression, expression_value

__all__ = ["PROBES", "BadDefinition", "Definition", "Number", "parse_definition", "probe_values", "same_function"]

PROBES: tuple[int, ...] = (-1044, -294, -23, -9, *range(-6, 7), 9, 45, 473, 1023, 3391)  # as published
MAX_CHARS = 1000

_PLAIN = re.compile(r"[A-Za-z0-9_ \t\n+\-*/%<>=!().,:]*")
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_WORDS = {"lambda", "def", "return", "if", "else", "and", "or", "not", "True", "False"}
_RUN_ON = re.compile(r"(?<![\w.])\.?\d[\d_.]*+(?:[eE][+-]?\d[\d_]*+)?+[A-Za-z_]", re.ASCII)  # 0x1f, 1or


@dataclass(frozen=True)
class Definition:
    """A definition that was read and found harmless; call it with a number.

    Attributes
    ----------
    source : str
        The definition without what stood around it.
    parameter : str
        What its input is called.
    body : ast.expr
        What it computes.
    """

    source: str
    parameter: str
    body: ast.expr

    def __call__(self, n: Number) -> Number:
        """The value at `n`, by Python's rules.

        Raises
        ------
        BadDefinition
            On division by zero, or where a step gives no real number or one that is too large.
        """
        try:
            value: Number = expression_value(self.body, n)
        except ArithmeticError as error:
            raise BadDefinition(f"no value at {n}: {error}") from error
        return value


def parse_definition(text: str, *, bare: bool = False) -> Definition:
    """Read a definition.

    Parameters
    ----------
    text : str
        At most `MAX_CHARS` characters, in one of the forms that the head of this module names.
    bare : bool, default False
        Take ``lambda n: ...`` alone (and a comment), as the published scorer did.

    Returns
    -------
    Definition

    Raises
    ------
    BadDefinition
        If it is anything else; says what was found. Takes a few milliseconds at most, whatever the text.

    >>> parse_definition("lambda n: n // 3 + 2")(-7)
    -1
    >>> parse_definition("abcdef = lambda x: max(x, -2)  # at least -2")(-5)
    -2
    >>> parse_definition("lambda n: open('file')")
    Traceback (most recent call last):
    lib.functions.expressions.BadDefinition: "'" may not stand in a definition
    """
    source = _code(text, bare=bare)
    _check_text(source)
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise BadDefinition(f"not Python: {getattr(error, 'msg', None) or type(error).__name__}") from None
    parameter, body = _parts(tree, bare=bare)
    check_expression(body, parameter)
    return Definition(source, parameter, body)


def same_function(reply: str, target: str, *, strict: bool) -> bool:
    """Whether a reply defines the function that the target defines: alike on all 22 published probe inputs.

    Parameters
    ----------
    reply : str
        What a model wrote; one that cannot be read, or has no value at a probe, is another function.
    target : str
        A definition that can be read.
    strict : bool
        Let types count: 1, 1.0 and True are then three different values, else one.

    Raises
    ------
    ValueError
        If the target is no definition or has no value at a probe.

    >>> same_function("lambda x: x + x", "lambda n: n * 2", strict=True)
    True
    >>> same_function("lambda n: 1 - n % 2", "lambda n: n % 2 == 0", strict=True)
    False
    >>> same_function("lambda n: 1 - n % 2", "lambda n: n % 2 == 0", strict=False)
    True
    """
    wanted = probe_values(target)
    if wanted is None:
        raise ValueError(f"the target {target!r:.80} is no definition with a value at every probe: check the registry")
    given = probe_values(reply)
    return given == wanted and not (strict and list(map(type, given or ())) != list(map(type, wanted)))


def probe_values(text: str, *, bare: bool = False) -> tuple[Number, ...] | None:
    """What a definition gives at the 22 probes; None if it is no definition or has no value at one of them.

    >>> probe_values("lambda n: n // 10")[:3], probe_values("lambda n: 1 // n")
    ((-105, -30, -3), None)
    """
    return _probe_values(text, bare) if len(text) <= MAX_CHARS else None  # nothing long is kept


@lru_cache(maxsize=4096)
def _probe_values(text: str, bare: bool) -> tuple[Number, ...] | None:
    try:
        definition = parse_definition(text, bare=bare)
        return tuple(definition(n) for n in PROBES)
    except BadDefinition:
        return None


def _code(text: str, *, bare: bool) -> str:
    """The definition without block marks, comments and a closing full stop."""
    if len(text) > MAX_CHARS:
        raise BadDefinition(f"found {len(text)} characters, a definition has at most {MAX_CHARS}: shorten it")
    code = text.strip()
    if not bare and "```" in code:
        blocks = code.split("```")
        if len(blocks) != 3:
            raise BadDefinition(f"expected one code block between two marks, found {len(blocks) - 1} marks")
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
    run_on = _RUN_ON.search(code)
    if run_on:
        raise BadDefinition(f"{run_on[0][:20]!r} is no number: write decimal digits and a space behind them")
    for word in _WORD.findall(code):
        if "__" in word or (keyword.iskeyword(word) and word not in _WORDS):
            raise BadDefinition(f"{word[:20]!r} may not stand in a definition")


def _parts(tree: ast.Module, *, bare: bool) -> tuple[str, ast.expr]:
    """Parameter and body of a lambda, or of a function of one line."""
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
            return parameter, body
    raise BadDefinition("expected one parameter, without default and with a name of its own")
