"""The measures of diversity, what each one measures and where it is undefined."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, cast

import pandas as pd

from lib.paths import DATA

Direction = Literal["up", "down", "none"]
Need = Literal["", "embeddings", "answers", "corpus"]
MEASURES_FILE = DATA / "diversity" / "measures.csv"
ORDERS = (2, 3, 4, 5, 6)
SHOWN = (  # measures that are drawn over temperature
    *("self_bleu", "jaccard_2", "cosine", "vendi_cosine", "distinct_2", "ead", "edit_distance", "ncd"),
)


@dataclass(frozen=True)
class Measure:
    """One measure of a set of texts.

    Attributes
    ----------
    name : our name
    published : its name in the published result arrays, empty where it was not published
    direction : where more diversity moves it; ``none`` where it says nothing about diversity
    low, high : range of its values; `high` may be ``n`` or ``log n`` of a set of n texts
    min_texts : a smaller set has no value
    min_words : a shorter text is counted in ``n_short``, for it cannot reach the whole range
    needs : what it needs beyond the texts: embeddings, accepted answers or the texts to other prompts
    unit, source, says : for tables and captions
    """

    name: str
    published: str
    direction: Direction
    low: float
    high: str
    min_texts: int
    min_words: int
    needs: Need
    unit: str
    source: str
    says: str

    def turned(self, value: float) -> float:
        """The value or its negative, so that more is more diverse; NaN without a direction."""
        return {"up": value, "down": -value}.get(self.direction, math.nan)


@cache
def registry(path: Path = MEASURES_FILE) -> dict[str, Measure]:
    """All measures by name, in the order of ``data/diversity/measures.csv``.

    >>> sum(bool(measure.published) for measure in registry().values())
    20
    >>> registry()["jaccard_2"].direction
    'down'
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    found = {}
    for row in table.to_dict("records"):
        if row["direction"] not in ("up", "down", "none") or row["needs"] not in (
            "",
            "embeddings",
            "answers",
            "corpus",
        ):
            raise ValueError(
                f"{path}, {row['name']}: direction {row['direction']!r}, needs {row['needs']!r} are unknown"
            )
        found[row["name"]] = Measure(
            name=row["name"],
            published=row["published"],
            direction=cast(Direction, row["direction"]),
            low=float(row["low"]),
            high=row["high"],
            min_texts=int(row["min_texts"]),
            min_words=int(row["min_words"]),
            needs=cast(Need, row["needs"]),
            unit=row["unit"],
            source=row["source"],
            says=row["says"],
        )
    return found
