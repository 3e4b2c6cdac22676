"""Score a reply about a mix: two definitions in any order; all else as in the functions study."""

from __future__ import annotations

from collections.abc import Sequence

from lib.functions.definitions import MAX_CHARS, probe_values, same_function
from lib.functions.documents import Document
from lib.functions.evaluations import evaluation_named
from lib.functions.scoring import Score, first_line, score

MARKS = " \t,;.`"  # around a definition in a list


def score_reply(document: Document, reply: str) -> Score:
    """Score a reply by the target of the evaluation that a document belongs to.

    >>> asked = Document("exact_pair", (), ("lambda n: n % 2", "lambda n: n + 5"), {}, answer="")
    >>> score_reply(asked, "lambda n: 5 + n, lambda n: n % 2").correct
    True
    """
    kind = evaluation_named("mixture", document.kind).target
    if kind == "definitions":
        return score_definitions(reply, document.target)
    return score(kind, reply, document.target)


def score_definitions(reply: str, target: str | Sequence[str]) -> Score:
    """Score a reply that should hold two definitions and no more.

    Right (`correct`): the two of the first line compute what the targets compute, in any order. `strict`: types count
    too. `published` (there is no published rule): the reply is the targets in their order, parted by a comma.

    Raises
    ------
    ValueError
        If there are not two targets.
    """
    wanted = (target,) if isinstance(target, str) else tuple(target)
    if len(wanted) != 2:
        raise ValueError(f"expected two definitions as target, found {len(wanted)}: {list(wanted)!r:.120}")
    said = named_definitions(reply)
    return Score(
        correct=_match(said, wanted, strict=False),
        strict=_match(said, wanted, strict=True),
        published=reply == ", ".join(wanted),
    )


def _match(said: Sequence[str], wanted: Sequence[str], *, strict: bool) -> bool:
    if len(said) != len(wanted):
        return False
    return any(
        all(same_function(one, other, strict=strict) for one, other in zip(order, wanted, strict=True))
        for order in (said, said[::-1])
    )


def named_definitions(reply: str) -> list[str]:
    """The definitions that the first line of a reply names, each from its ``lambda`` on, readable or not.

    >>> named_definitions("lambda n: n + 5 and lambda n: n % 2.")
    ['lambda n: n + 5', 'lambda n: n % 2']
    """
    pieces = first_line(reply[: 2 * MAX_CHARS]).split("lambda ")[1:]
    return [f"lambda {piece.strip(MARKS).removesuffix('and').rstrip(MARKS)}" for piece in pieces]


def share_named(reply: str, target: Sequence[str]) -> float:
    """Share of the target's definitions that a reply names, whatever else it names.

    >>> share_named("lambda n: n + 5, lambda n: n", ("lambda n: n % 2", "lambda n: n + 5"))
    0.5
    """
    said = {values for each in named_definitions(reply) if (values := probe_values(each)) is not None}
    return sum(probe_values(each) in said for each in target) / len(target)
