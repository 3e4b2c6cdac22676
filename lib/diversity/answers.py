"""Accepted answers in a text, answer entropy, and the texts that are right."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from math import log
from typing import Any

import pandas as pd

from lib.diversity.cell import Cell, UndefinedMeasure

RIGHT = "\0accepted"  # the one answer that all accepted wordings are; no text holds a zero character
_CLAUSE_ENDS = re.compile(r"[.,;:!?\n]")


def holds_answer(text: str, accepted: Sequence[str]) -> bool:
    """Whether a text holds an accepted answer, upper and lower case alike, not inside another word.

    >>> holds_answer("It is PARIS, I think.", ["Paris"]), holds_answer("It is 1976", ["7"])
    (True, False)
    """
    return bool(accepted) and _pattern(tuple(accepted)).search(_folded(text)) is not None


@lru_cache(maxsize=1024)
def _pattern(accepted: tuple[str, ...]) -> re.Pattern[str]:
    if not all(answer.strip() for answer in accepted):
        raise ValueError(f"an accepted answer is empty in {list(accepted)!r:.80}: every text would hold it")
    return re.compile("|".join(rf"(?<!\w){re.escape(_folded(answer))}(?!\w)" for answer in accepted))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip().casefold())


def answer_of(text: str, accepted: Sequence[str]) -> str:
    """The answer that a text gives: one for all accepted wordings, else its first clause in lower case.

    >>> answer_of("Lyon, a city", ["Paris"]), answer_of("Paris", ["Paris"]) == RIGHT
    ('lyon', True)
    """
    if holds_answer(text, accepted):
        return RIGHT
    return " ".join(_CLAUSE_ENDS.split(_folded(text), maxsplit=1)[0].split())


def accuracy(cell: Cell) -> float:
    """Share of texts that hold an accepted answer."""
    _refuse_none(cell)
    right = sum(
        times
        for text, times in zip(cell.distinct, cell.n_times.tolist(), strict=True)
        if holds_answer(text, cell.accepted)
    )
    return right / len(cell.texts)


def answer_entropy(cell: Cell) -> float:
    """Shannon entropy in nats over what is answered.

    >>> answer_entropy(Cell(("Paris", "It is Paris."), accepted=("Paris",)))
    0.0
    """
    _refuse_none(cell)
    counts = Counter(answer_of(text, cell.accepted) for text in cell.texts).values()
    n = len(cell.texts)
    return sum(count / n * log(n / count) for count in counts)


def _refuse_none(cell: Cell) -> None:
    if not cell.accepted:
        raise UndefinedMeasure("no accepted answers")


def correct_only(completions: pd.DataFrame) -> pd.DataFrame:
    """The rows whose ``text`` holds one of their ``accepted`` answers; rows without accepted answers are dropped too.

    Diversity among these separates fewer wrong answers from narrowing. Sets then differ in size: see `same_sizes`.
    """
    keep = [
        bool(answers) and holds_answer(text, answers)
        for text, answers in zip(completions["text"], map(listed, completions["accepted"]), strict=True)
    ]
    return completions[keep]


def listed(accepted: Any) -> tuple[str, ...]:
    """A cell of the column ``accepted`` as a tuple: a list or an array of texts, or missing.

    >>> listed(["Paris"]), listed(None), listed(float("nan"))
    (('Paris',), (), ())
    """
    if accepted is None or isinstance(accepted, float):
        return ()
    if isinstance(accepted, str):
        raise ValueError(f"accepted is the text {accepted!r:.60}: expected a list of answers")
    return tuple(str(answer) for answer in accepted)
