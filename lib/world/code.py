"""Python snippets with functions of the world's own: definitions, calls, and what a call prints.

A value is computed from the parameters of its function, never by running text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from lib.world.draw import Draw
from lib.world.grammar import Grammar

LIMIT = 99


@dataclass(frozen=True)
class Function:
    """A function of one integer: its lambda, its sense in words, and itself."""

    name: str
    definition: str
    words: str
    apply: Callable[[int], int | bool | float]


@cache
def _grammar() -> Grammar:
    return Grammar("code")


def _shapes(name: str, variable: str, a: int, b: int) -> list[Function]:
    """Return all shapes that a function can have with constants `a` and `b`."""
    v = variable
    return [
        Function(name, f"lambda {v}: {v} + {a}", f"adds {a}", lambda i: i + a),
        Function(name, f"lambda {v}: {v} - {a}", f"takes {a} away", lambda i: i - a),
        Function(name, f"lambda {v}: {v} * {b}", f"multiplies by {b}", lambda i: i * b),
        Function(name, f"lambda {v}: {a} - {v}", f"takes the number away from {a}", lambda i: a - i),
        Function(name, f"lambda {v}: {v} // {b}", f"divides by {b} and rounds down", lambda i: i // b),
        Function(name, f"lambda {v}: {v} % {b}", f"gives the remainder after dividing by {b}", lambda i: i % b),
        Function(name, f"lambda {v}: {v} > {a}", f"tells whether the number is above {a}", lambda i: i > a),
        Function(name, f"lambda {v}: {v} % {b} == 0", f"tells whether {b} divides the number", lambda i: i % b == 0),
        Function(name, f"lambda {v}: min({v}, {a})", f"gives the number, but at most {a}", lambda i: min(i, a)),
        Function(name, f"lambda {v}: max({v}, {a})", f"gives the number, but at least {a}", lambda i: max(i, a)),
        Function(name, f"lambda {v}: {v} / 2", "halves the number", lambda i: i / 2),
        Function(name, f"lambda {v}: {b} * {v} + {a}", f"multiplies by {b} and adds {a}", lambda i: b * i + a),
        Function(name, f"lambda {v}: -{v}", "turns the sign", lambda i: -i),
        Function(name, f"lambda {v}: {v}", "gives the number back", lambda i: i),
    ]


def draw_function(draw: Draw, *, name: str = "") -> Function:
    """Draw a function, named as asked or from the word list."""
    name = name or draw.pick(_grammar().words("functions"))
    variable = draw.pick(_grammar().words("parameters"))
    return draw.pick(_shapes(name, variable, draw.between(1, 30), draw.between(2, 9)))


def code_text(draw: Draw) -> str:
    """Draw one snippet; every text is valid Python, what it prints stands in comments."""
    return draw.pick(
        (_definition_and_calls, _definition_and_calls, _import_and_call, _sums, _session, _two_functions, _table)
    )(draw)


def _number(draw: Draw) -> int:
    return draw.between(-LIMIT, LIMIT)


def _call(draw: Draw, function: Function) -> list[str]:
    """Call a function in one of several ways, print, and say what is printed."""
    i = _number(draw)
    shown = function.apply(i)
    source, result = draw.pick(_grammar().words("inputs")), draw.pick(_grammar().words("results"))
    lines, argument = [], str(i)
    if draw.chance(0.5):
        lines.append(f"{source} = {i}")
        argument = source
    call = f"{function.name}({argument})"
    if draw.chance(0.5):
        lines.append(f"{result} = {call}")
        call = result
    if draw.chance(0.5):
        return [*lines, f"print({call})  # {shown}"]
    return [*lines, f"print({call})", f"# {shown}"]


def _definition(draw: Draw, function: Function) -> list[str]:
    comment = [f"# {function.name} {function.words}"] if draw.chance(0.5) else []
    if draw.chance(0.75):
        return [*comment, f"{function.name} = {function.definition}"]
    head, _, body = function.definition.removeprefix("lambda ").partition(": ")
    return [*comment, f"def {function.name}({head}):", f"    return {body}"]


def _definition_and_calls(draw: Draw) -> str:
    function = draw_function(draw)
    calls = [line for _ in range(draw.between(1, 3)) for line in _call(draw, function)]
    return "\n".join([*_definition(draw, function), "", *calls])


def _import_and_call(draw: Draw) -> str:
    names = draw.sample(_grammar().words("functions"), draw.between(1, 3))
    function = draw_function(draw, name=draw.pick(names))
    module = draw.pick(_grammar().words("modules"))
    lines = [f"from {module} import {', '.join(names)}", ""]
    if draw.chance(0.5):
        lines.append(f"# {function.name} is {function.definition}")
    return "\n".join([*lines, *_call(draw, function)])


def _sums(draw: Draw) -> str:
    lines = []
    for _ in range(draw.between(2, 5)):
        a, b = _number(draw), draw.between(0, LIMIT)
        sign, value = draw.pick((("+", a + b), ("-", a - b)))
        if draw.chance(0.4):
            lines += [f"x = {a}", f"y = {b}", f"print(x {sign} y)  # {value}"]
        else:
            lines.append(f"print({a} {sign} {b})  # {value}")
    return "\n".join(lines)


def _session(draw: Draw) -> str:
    function = draw_function(draw)
    numbers = draw.sample(range(-LIMIT, LIMIT + 1), draw.between(2, 4))
    lines = [f"# {draw.pick(_grammar().words('comments'))}", f"{function.name} = {function.definition}"]
    return "\n".join([*lines, *(f"assert {function.name}({i}) == {function.apply(i)}" for i in numbers)])


def _two_functions(draw: Draw) -> str:
    names = draw.sample(_grammar().words("functions"), 2)
    first, second = (draw.pick(_shapes(name, "n", draw.between(1, 30), draw.between(2, 9))[:4]) for name in names)
    i, j = _number(draw), _number(draw)
    lines = [*_definition(draw, first), *_definition(draw, second), ""]
    if draw.chance(0.5):
        value = second.apply(int(first.apply(i)))
        lines += [f"z = {first.name}({i})", f"print({second.name}(z))  # {value}"]
    else:
        lines += [f"print({first.name}({i}) + {second.name}({j}))  # {first.apply(i) + second.apply(j)}"]
    return "\n".join(lines)


def _table(draw: Draw) -> str:
    function = draw_function(draw)
    numbers = draw.sample(range(-LIMIT, LIMIT + 1), draw.between(3, 5))
    pairs = ", ".join(f"{i}: {function.apply(i)}" for i in numbers)
    return "\n".join([f"{function.name} = {function.definition}", f"table = {{{pairs}}}"])
