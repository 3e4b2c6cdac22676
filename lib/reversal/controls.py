"""Which wrong answer each right one is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.reversal.files import Row

# For rows that come without wrong answers: the published seed, so that two readers draw the same.
CONTROL_SEED = 42


def randomise(rows: Sequence[Row], people: Sequence[str], *, rng: np.random.Generator) -> list[Row]:
    """Give each prompt the completion of another person: a derangement of the people for every phrasing.

    Parameters
    ----------
    rows : sequence of rows
    people : sequence of str, one a row
        Whose row it is; the k-th row of each person holds the k-th phrasing.
    rng : np.random.Generator

    Returns
    -------
    list of rows
        Same prompts in the same order; where phrasings match, each person's completion is used once for each of them.

    Raises
    ------
    ValueError
        If there is only one person.

    >>> rows = [{"prompt": "p", "completion": " A"}, {"prompt": "q", "completion": " B"}]
    >>> [row["completion"] for row in randomise(rows, ["A", "B"], rng=np.random.default_rng(0))]
    [' B', ' A']
    """
    own: dict[str, list[Row]] = {}
    for row, person in zip(rows, people, strict=True):
        own.setdefault(person, []).append(row)
    names = list(own)
    if len(names) < 2:
        raise ValueError(f"a randomised control needs at least 2 people, found {names}; use more people")
    partners: list[dict[str, str]] = []
    for _ in range(max(map(len, own.values()))):
        order = rng.permutation(len(names))
        while (order == np.arange(len(names))).any():
            order = rng.permutation(len(names))
        partners.append({name: names[k] for name, k in zip(names, order, strict=True)})
    count = dict.fromkeys(names, 0)
    result = []
    for row, person in zip(rows, people, strict=True):
        phrasing = count[person]
        lender = own[partners[phrasing][person]]
        result.append({"prompt": row["prompt"], "completion": lender[phrasing % len(lender)]["completion"]})
        count[person] += 1
    return result


def wrong_answers(rows: Sequence[Row], control: Sequence[Row], people: Sequence[str]) -> list[str | None]:
    """A folder's own wrong answers, None where one is right: published ones were drawn with replacement.

    >>> rows = [{"prompt": "p", "completion": " A"}, {"prompt": "q", "completion": " B"}]
    >>> wrong_answers(rows, [{"prompt": "p", "completion": " B"}, {"prompt": "q", "completion": " B"}], ["A", "B"])
    [' B', None]
    """
    owner = {row["completion"]: person for row, person in zip(rows, people, strict=True)}
    return [
        None if owner.get(other["completion"]) == person else other["completion"]
        for other, person in zip(control, people, strict=True)
    ]
