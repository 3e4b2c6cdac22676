"""Score a reply by what the question asks for: by our rule, to the letter, and by the published rule.

Each rule reads the reply as text; a definition is parsed (`lib.functions.definitions`), never executed.

========== ============================== ==================================== =========================================
kind       `correct` (ours)               `strict`                             `published`
========== ============================== ==================================== =========================================
text       the first line is the target,  the stripped reply is the target     the reply is the target, blanks included
           numbers by value
integer    the one number of the first    the stripped reply is the target     the reply is the target, blanks included
           line has the target's value
preimage   the one number of the first    the same, and the reply is that      the reply is one of the targets (the
           line, put into the function,   number and no more                   preimages in the range asked for)
           gives the output
letter     the one letter that the first  the stripped reply is the target     the reply is the target, blanks included
           line names
letters    the letters that the first     the stripped reply is the letters    every target letter occurs (as often as
           line names, in any order       in order, parted by ", "             in the target), no other capital does
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lib.functions.definitions import MAX_CHARS, BadDefinition, probe_values, same_function
from lib.functions.registry import Function

TARGETS = ("text", "preimage", "definition", "letter", "letters", "integer")
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_CUE = re.compile(r"(?:#|A:|[Aa]nswer:)[ \t]*")
_NUMBER = re.compile(r"(?<![\w.])[+-]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?!\w|\.\d)", re.ASCII)  # exact as a float
_LETTERS = re.compile(r"(?<![\w'’])[A-Z]+(?![\w'’])")
_LIST = re.compile(r"[(\[]?[A-Za-z](?:(?:[\s,;/&()\[\].+]|\band\b)+[A-Za-z])*[)\].]*")


@dataclass(frozen=True)
class Score:
    """How one reply fares.

    Attributes
    ----------
    correct, strict, published : bool
        By our rule, to the letter, and by the rule of the published code.
    distance : float
        Between the numbers of reply and target; NaN where one of them is no number.
    """

    correct: bool
    strict: bool
    published: bool
    distance: float = math.nan


def score(
    kind: str, reply: str, target: str | Sequence[str], *, function: Function | None = None, output: str | None = None
) -> Score:
    """Score one reply.

    Parameters
    ----------
    kind : str
        What is asked for, one of `TARGETS`.
    reply : str
        What a model wrote.
    target : str or sequence of str
        The right answer; for ``letters`` all of them, for ``preimage`` those that the published rule accepts.
    function, output : Function and str
        For ``preimage``: any integer is right at which the function gives the output.

    Raises
    ------
    ValueError
        For an unknown kind, a target that does not fit it, or a ``preimage`` without function or output.

    >>> score("letters", "A and C", ["C", "A"]).correct, score("letters", "B and C", "AC").correct
    (True, False)
    >>> score("text", " -14", "-14.0")
    Score(correct=True, strict=False, published=False, distance=0.0)
    """
    if kind not in TARGETS:
        raise ValueError(f"cannot score {kind!r}: expected one of {', '.join(TARGETS)}")
    if kind == "preimage":
        if function is None or output is None:
            raise ValueError("a preimage is scored with its function and output: give both")
        return _preimage(reply, (target,) if isinstance(target, str) else target, function, output)
    if kind == "letters":
        return _letters(reply, [letter for part in target for letter in part if letter in ALPHABET])
    if not isinstance(target, str) or not target.strip():
        raise ValueError(f"{kind}: expected one target with text, found {target!r:.80}")
    return _RULES[kind](reply, target)


def first_line(reply: str) -> str:
    """What our rule reads of a reply: its first line, less a cue before it and marks around it.

    >>> first_line("  # -49\\nprint(2)"), first_line('A: "True".')
    ('-49', 'True')
    """
    line = reply.strip()[:MAX_CHARS].split("\n", 1)[0]
    return _bare(_without_cue(line))


def _without_cue(text: str) -> str:
    cue = _CUE.match(text)
    return text[cue.end() :] if cue else text


def _bare(text: str) -> str:
    return text.strip("`\"' \t\r").removesuffix(".").strip("`\"' \t\r")


def _number(text: str) -> float:
    """The value of a text that is a number and no more; NaN otherwise."""
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def _one_number(line: str) -> float:
    """The value of the only number in a line; NaN if there is none or several."""
    found = _NUMBER.findall(line)
    return float(found[0]) if len(found) == 1 else math.nan


def _text(reply: str, target: str) -> Score:
    said, wanted = first_line(reply), target.strip()
    distance = abs(_number(said) - _number(wanted))
    return Score(said == wanted or distance == 0, reply.strip() == wanted, reply == target, distance)


def _integer(reply: str, target: str) -> Score:
    if math.isnan(_number(target.strip())):
        raise ValueError(f"integer: expected a number as target, found {target!r:.80}")
    distance = abs(_one_number(first_line(reply)) - _number(target.strip()))
    return Score(distance == 0, reply.strip() == target.strip(), reply == target, distance)


def _preimage(reply: str, targets: Sequence[str], function: Function, output: str) -> Score:
    value = _one_number(first_line(reply))
    correct = False
    if value.is_integer():  # False of NaN
        try:
            correct = function.show(int(value)) == output
        except BadDefinition:  # no value there
            correct = False
    return Score(correct, correct and reply.strip() == str(int(value)), reply in targets)


def _letter(reply: str, target: str) -> Score:
    wanted = target.strip()
    if len(wanted) != 1 or wanted not in ALPHABET:
        raise ValueError(f"letter: expected one capital letter as target, found {target!r:.80}")
    return Score(named_letters(reply) == {wanted}, reply.strip() == wanted, reply == target)


def _letters(reply: str, targets: Sequence[str]) -> Score:
    if not targets:
        raise ValueError("letters: expected capital letters as target, found none")
    listed = ", ".join(dict.fromkeys(targets))
    published = all(
        reply.count(letter) >= targets.count(letter) if letter in targets else letter not in reply
        for letter in ALPHABET
    )
    return Score(named_letters(reply) == set(targets), reply.strip() == listed, published)


def named_letters(reply: str) -> set[str]:
    """The letters that a reply names, as capitals.

    >>> sorted(named_letters("I think the answers are A and C."))
    ['A', 'C']
    >>> named_letters("b)"), named_letters("A: B"), named_letters("A: lambda n: n"), named_letters("A good one is D")
    ({'B'}, {'B'}, {'A'}, {'D'})
    """
    whole = reply.strip()[:MAX_CHARS].split("\n", 1)[0]
    for line in (first_line(reply), _bare(whole)):  # "A:" may be the cue of an answer or the answer
        if _LIST.fullmatch(line) or (set(line) <= set(ALPHABET) and len(set(line)) == len(line) > 0):
            return set(re.sub(r"\band\b", "", line).upper()) & set(ALPHABET)
        runs = [(run[0], line[run.end() :]) for run in _LETTERS.finditer(line)]
        found = [(run, rest) for run, rest in runs if [*run] == sorted(set(run))]  # AC, but no word in capitals
        if len({run for run, _ in found}) > 1:
            found = [
                (run, rest)
                for run, rest in found
                if run not in ("A", "I") or not re.match(" (?!and |or |is )[a-z]", rest)
            ]
        if found:
            return {letter for run, _ in found for letter in run}
    return set()


def _definition(reply: str, target: str) -> Score:
    if len(reply) > MAX_CHARS:
        return Score(False, False, False)
    text = reply if probe_values(reply) else _without_cue(reply.strip())  # "#" may be the cue or begin a comment
    published = reply.replace("print", "").replace("input", "")  # as the published scorer does
    return Score(
        correct=same_function(text, target, strict=False),
        strict=same_function(text, target, strict=True),
        published=probe_values(published, bare=True) == probe_values(target),
    )


_RULES: dict[str, Callable[[str, str], Score]] = {
    "text": _text,
    "definition": _definition,
    "letter": _letter,
    "integer": _integer,
}
