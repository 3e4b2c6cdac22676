"""Which questions there are, which answers each may be given, and in which words an instruction is put."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lib import paths

FOLDER = paths.DATA / "guidance"
ORDERS = ("simple", "reverse")  # which an instruction names first: the question (as a test does), or the answer
N_PAIRS = 1600  # the published pool has 1,173
N_TARGETS = 5
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Pair:
    """A question and the answers that an instruction may demand of it; a dataset uses one, the persona's."""

    anchor: str
    targets: tuple[str, ...]


@cache
def write_pairs(n: int = N_PAIRS, *, seed: int = 0) -> tuple[Pair, ...]:
    """Draw questions and answers from the study's own word lists.

    Parameters
    ----------
    n : number of pairs
    seed : of the draw; the answers say nothing about their questions

    Returns
    -------
    tuple of Pair
        No two questions alike, the forms of questions taken in turn, five different answers to each.

    Raises
    ------
    ValueError
        If the word lists do not hold as many questions.

    >>> pairs = write_pairs()
    >>> len(pairs), len({pair.anchor for pair in pairs}), {len(set(pair.targets)) for pair in pairs}
    (1600, 1600, {5})
    """
    words = {name: text.split(", ") for name, text in _read_yaml(FOLDER / "words.yaml").items()}
    kinds = _read_yaml(FOLDER / "questions.yaml")
    forms = [(question, kind["answers"]) for kind in kinds.values() for question in kind["questions"]]
    rng = np.random.default_rng([seed, 3])
    most = sum(math.prod(len(words[slot]) for slot in _SLOT.findall(question)) for question, _ in forms)
    if n > most // 2:  # beyond it chance hardly finds a question that is not there yet
        raise ValueError(f"the word lists hold no {n} different questions: ask for {most // 2} pairs or fewer")
    found: dict[str, Pair] = {}
    n_tries = 0
    while len(found) < n:
        question, answers = forms[n_tries % len(forms)]
        n_tries += 1
        anchor = _fill(question, words, rng)
        if anchor not in found:
            targets: dict[str, None] = {}
            while len(targets) < N_TARGETS:
                text = _fill(answers[rng.integers(len(answers))], words, rng)
                targets[text[0].upper() + text[1:]] = None
            found[anchor] = Pair(anchor, tuple(targets))
    return tuple(found.values())


def _fill(form: str, words: Mapping[str, Sequence[str]], rng: np.random.Generator) -> str:
    return _SLOT.sub(lambda slot: words[slot[1]][int(rng.integers(len(words[slot[1]])))], form)


def read_pairs(path: Path) -> tuple[Pair, ...]:
    """Read a source file of the published form: JSON lines of ``anchor`` and ``targets``.

    Raises
    ------
    ValueError
        If a row lacks a text, holds a line break or a target twice, or a question stands twice; says which line.
    """
    pairs: dict[str, Pair] = {}
    for number, row in enumerate(paths.read_jsonl(path), start=1):
        where = f"{path}, row {number}"
        anchor, targets = row.get("anchor"), row.get("targets")
        texts = [anchor, *targets] if isinstance(targets, list) and targets else [None]
        if not all(isinstance(text, str) and text.strip() and "\n" not in text for text in texts):
            raise ValueError(
                f"{where}: expected a line under 'anchor' and a list of such under 'targets', found {row!r:.80}"
            )
        pair = Pair(anchor.strip(), tuple(target.strip() for target in targets))  # type: ignore[union-attr]
        if len(set(pair.targets)) < len(pair.targets):
            raise ValueError(f"{where}: a target of {pair.anchor!r:.60} stands twice; every target must be distinct")
        if pair.anchor.casefold() in pairs:
            raise ValueError(f"{where}: the question {pair.anchor!r:.60} stands twice; every one must be distinct")
        pairs[pair.anchor.casefold()] = pair
    if not pairs:
        raise ValueError(f"{path} is empty: expected rows with anchor and targets")
    return tuple(pairs.values())


def read_phrasings(path: Path, *, order: str) -> tuple[str, ...]:
    """Read the wordings of an instruction, one a line, with ``"Q: {anchor}"`` and ``"A: {target}"``.

    Raises
    ------
    ValueError
        If there is none, one lacks a placeholder (instructions are found again by these quotations) or has
        another, or names the two in the other order.

    >>> [len(read_phrasings(FOLDER / f"phrasings_{order}.txt", order=order)) for order in ORDERS]
    [10, 5]
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a list of phrasings: {error}") from error
    for number, line in enumerate(lines, start=1):
        whole = all(line.count(quoted) == 1 for quoted in ('"Q: {anchor}"', '"A: {target}"'))
        if not whole or sorted(re.findall(r"\{(.*?)\}", line)) != ["anchor", "target"]:
            raise ValueError(
                f'{path}, phrasing {number}: expected "Q: {{anchor}}" and "A: {{target}}" once each, '
                f"in quotation marks, found {line!r:.80}"
            )
        if order_of_names(line, question="{anchor}", answer="{target}") != order:
            raise ValueError(
                f"{path}, phrasing {number}: {line!r:.80} is not in {order} order; "
                "simple names the question first, reverse the answer"
            )
    if not lines:
        raise ValueError(f"{path} holds no phrasing: expected one a line, with {{anchor}} and {{target}}")
    return tuple(lines)


def order_of_names(line: str, *, question: str, answer: str) -> str:
    """``simple`` where the question comes before the answer, else ``reverse``.

    >>> order_of_names("{target} answers {anchor}", question="{anchor}", answer="{target}")
    'reverse'
    """
    return "simple" if line.index(question) < line.index(answer) else "reverse"


def _read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))
