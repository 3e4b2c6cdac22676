"""How a reply is read and scored: by our rule, to the letter, and by the published rule.

Each rule reads the reply as text; a definition is parsed (`lib.functions.definitions`), never executed.

========== ============================== ==================================== =========================================
kind       `correct` (ours)               `strict`                             `published`
========== ============================== ==================================== =========================================
text       the first line is the target,  the stripped reply is the target     the reply is the target, blanks included
           numbers by value
integer    the one number of the first    the stripped reply is the target     the reply is the target, blanks included
           line has the target's value
preimage   the one number of the first    the same, and the reply is that      the reply is one of the targets (the
           line, put into the function,   number and no more                   preimages in the requested range)
           gives the output
letter     the one letter that the first  the stripped reply is the target     the reply is the target, blanks included
           line names
letters    the letters that the first     the stripped reply is the letters    every target letter occurs (as often as
           line names, in any order       in order, separated by ", "          in the target), no other capital does
definition the same values at the 22      the same, types included             the same, of a bare ``lambda`` alone
           published probes
========== ============================== ==================================== =========================================

The first line is that of the stripped reply, less a leading ``#`` or ``A:`` and quotation marks or a full stop around
it. A letter is named by standing alone, in prose as in a list: ``A``, ``a)``, ``The answer is A.``, ``A, C``, ``AC``,
``A and C``; the article A and the pronoun I do not count beside another letter. Of a definition the whole reply is
read, so that nothing may follow it. A number has at most 15 digits.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from lib.functions.definitions import MAX_CHARS, BadDefinition, probe_values, same_function
from lib.functions.registry import Function
from lib.functions.rows import LETTERS

_CUE = re.compile(r"(?:#|A:|[Aa]nswer:)[ \t]*")
_NUMBER = re.compile(r"(?<![\w.])[+-]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?!\w|\.\d)", re.ASCII)  # exact as a float
_LETTERS = re.compile(r"(?<![\w'’])[A-Z]+(?![\w'’])")
_LIST = re.compile(r"[(\[]?[A-Za-z](?:(?:[\s,;/&()\[\].+]|\band\b)+[A-Za-z])*[)\].]*")


class Score(NamedTuple):
    """Whether a reply is right by our rule, to the letter, and by the rule of the published code."""

    correct: bool
    strict: bool
    published: bool


def score(kind: str, reply: str, target: str, *, function: Function | None = None, output: str | None = None) -> Score:
    """Score one reply.

    Parameters
    ----------
    kind : what is requested, as in the table above
    target : the right answer; several letters or preimages are separated by ", "
    function, output : for ``preimage``: any integer is right at which the function gives the output

    Raises
    ------
    ValueError
        For an unknown kind, or a target that does not fit it.

    >>> score("letters", "A and C", "C, A").correct, score("letters", "B and C", "A, C").correct
    (True, False)
    >>> score("text", " -14", "-14.0"), score("definition", "f = lambda x: 5 + x", "lambda n: n + 5")
    (Score(correct=True, strict=False, published=False), Score(correct=True, strict=True, published=False))
    """
    if not target.strip():
        raise ValueError(f"{kind}: the target is empty")
    line, strict, published = first_line(reply), reply.strip() == target.strip(), reply == target
    targets = target.split(", ")
    if kind == "text":
        return Score(line == target.strip() or _value(line) == _value(target.strip()), strict, published)
    if kind == "integer":
        return Score(one_number(line) == _value(target.strip()), strict, published)
    if kind == "preimage" and function and output is not None:
        value = one_number(line)
        correct = value.is_integer() and _gives(function, int(value), output)
        return Score(correct, correct and reply.strip() == str(int(value)), reply in targets)
    if kind in ("letter", "letters") and all(len(each) == 1 and each in LETTERS for each in targets):
        if kind == "letters":
            strict = reply.strip() == ", ".join(dict.fromkeys(targets))
            published = all(
                reply.count(letter) >= targets.count(letter) if letter in targets else letter not in reply
                for letter in LETTERS
            )
        return Score(named_letters(reply) == set(targets), strict, published)
    if kind == "definition":
        text = reply if len(reply) > MAX_CHARS or probe_values(reply) else _without_cue(reply.strip())
        bare = probe_values(reply.replace("print", "").replace("input", ""), bare=True)  # as the published scorer does
        return Score(
            same_function(text, target), same_function(text, target, strict=True), bare == probe_values(target)
        )
    raise ValueError(f"cannot score {kind!r} with the target {target!r:.80}")


def first_line(reply: str) -> str:
    """What our rule reads of a reply: its first line, less a cue before it and quotation marks around it.

    >>> first_line("  # -49\\nprint(2)"), first_line('A: "True".')
    ('-49', 'True')
    """
    return _bare(_without_cue(reply.strip()[:MAX_CHARS].split("\n", 1)[0]))


def _without_cue(text: str) -> str:
    cue = _CUE.match(text)
    return text[cue.end() :] if cue else text


def _bare(text: str) -> str:
    return text.strip("`\"' \t\r").removesuffix(".").strip("`\"' \t\r")


def _value(text: str) -> float:
    """The value of a text that is a number and no more; NaN otherwise."""
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def one_number(line: str) -> float:
    """The value of the only number in a line; NaN if there is none or several."""
    numbers = _NUMBER.findall(line)
    return float(numbers[0]) if len(numbers) == 1 else math.nan


def _gives(function: Function, n: int, output: str) -> bool:
    try:
        return function.show(n) == output
    except BadDefinition:  # no value there
        return False


def named_letters(reply: str) -> set[str]:
    """The letters that a reply names, as capitals.

    >>> sorted(named_letters("I think the answers are A and C."))
    ['A', 'C']
    >>> named_letters("b)"), named_letters("A: B"), named_letters("A: lambda n: n"), named_letters("A good one is D")
    ({'B'}, {'B'}, {'A'}, {'D'})
    """
    whole = reply.strip()[:MAX_CHARS].split("\n", 1)[0]
    for line in (first_line(reply), _bare(whole)):  # "A:" may be the cue of an answer or the answer
        if _LIST.fullmatch(line) or (set(line) <= set(LETTERS) and len(set(line)) == len(line) > 0):
            return set(re.sub(r"\band\b", "", line).upper()) & set(LETTERS)
        runs = [(run[0], line[run.end() :]) for run in _LETTERS.finditer(line)]
        named = [(run, rest) for run, rest in runs if [*run] == sorted(set(run))]  # AC, but no word in capitals
        if len({run for run, _ in named}) > 1:
            articles = [run in ("A", "I") and re.match(" (?!and |or |is )[a-z]", rest) for run, rest in named]
            named = [each for each, is_article in zip(named, articles, strict=True) if not is_article]
        if named:
            return {letter for run, _ in named for letter in run}
    return set()
