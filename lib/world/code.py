"""Python snippets with functions of the world's own: definitions, calls, and what a call prints.

A value is computed from the written definition (`lib.functions.definitions`), never by running text.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib.functions.definitions import Number, parse_definition
from lib.world.draw import Draw
from lib.world.grammar import read_grammar, world_file

LIMIT = 99


@dataclass(frozen=True)
class Function:
    """A function of one integer: its name, its lambda, and its sense in words."""

    name: str
    definition: str
    words: str

    def apply(self, n: int) -> Number:
        """The value at `n`."""
        return parse_definition(self.definition)(n)


def _shapes(name: str, variable: str, a: int, b: int) -> list[Function]:
    """Return all shapes that a function can have with constants `a` and `b`."""
    return [
        Function(name, f"lambda {variable}: {body.format(v=variable, a=a, b=b)}", words.format(a=a, b=b))
        for body, words in world_file("shapes").items()
    ]


def _words(rule: str) -> list[str]:
    return read_grammar("code").words(rule)


def draw_function(draw: Draw, *, name: str = "") -> Function:
    """Draw a function, named as asked or from the word list."""
    name = name or draw.pick(_words("functions"))
    variable = draw.pick(_words("parameters"))
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
    source, result = draw.pick(_words("inputs")), draw.pick(_words("results"))
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
    names = draw.sample(_words("functions"), draw.between(1, 3))
    function = draw_function(draw, name=draw.pick(names))
    module = draw.pick(_words("modules"))
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
    lines = [f"# {draw.pick(_words('comments'))}", f"{function.name} = {function.definition}"]
    return "\n".join([*lines, *(f"assert {function.name}({i}) == {function.apply(i)}" for i in numbers)])


def _two_functions(draw: Draw) -> str:
    names = draw.sample(_words("functions"), 2)
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
