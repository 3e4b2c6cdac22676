"""What models cost: the dated tables in ``data/prices``, and how many tokens a text may have."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lib.paths import DATA

CHARS_A_TOKEN = 4  # of English, by OpenAI's rule of thumb; any other character is taken for a token of its own
MILLION = 1_000_000
COLUMNS = ("model", "prompt_usd", "completion_usd", "training_usd", "batch_factor", "as_of", "source")
_SNAPSHOT = re.compile(r"-\d{4}-\d\d-\d\d$")


class UnknownPrice(ValueError):
    """A model without a price: nothing may be sent to it."""


@dataclass(frozen=True)
class Price:
    """What a model costs, in US dollars per million tokens; ``training_usd`` is NaN where it cannot be trained.

    ``batch_factor`` is what a batch costs against single requests; ``as_of`` and ``source`` say how far to trust it.
    """

    model: str
    prompt_usd: float
    completion_usd: float
    training_usd: float
    batch_factor: float
    as_of: str
    source: str

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Money for the tokens of a request and its reply."""
        return (prompt_tokens * self.prompt_usd + completion_tokens * self.completion_usd) / MILLION


class Prices:
    """Prices by model; of two rows for one model the later date counts.

    >>> table = Prices([Price("ft:small", 1.0, 2.0, math.nan, 0.5, "2025-01-01", "invoice")])
    >>> table.of("ft:small-2024-07-18:team:try:1").usd(1_000_000, 500_000)
    2.0
    """

    def __init__(self, rows: Iterable[Price]) -> None:
        self.rows = {row.model: row for row in sorted(rows, key=lambda row: row.as_of)}

    def of(self, model: str) -> Price:
        """Price of a model: of its own id, else without its snapshot's date; a fine-tune has the row ``ft:<base>``.

        Raises
        ------
        UnknownPrice
            If no row fits; says where to add one.
        """
        name = ":".join(model.split(":")[:2]) if model.startswith("ft:") else model
        for known in (model, name, _SNAPSHOT.sub("", name)):
            if known in self.rows:
                return self.rows[known]
        raise UnknownPrice(
            f"no price is known for {model!r}, so nothing was sent: add a row for {name!r} to a table in data/prices"
        )

    def training_usd(self, base: str, n_tokens: int) -> float:
        """Money for training on so many tokens, epochs counted.

        Raises
        ------
        UnknownPrice
            If the base, or its training, has no price.
        """
        price = self.of(base)
        if math.isnan(price.training_usd):
            raise UnknownPrice(
                f"no training price is known for {base!r}, so nothing was sent: fill in training_usd in data/prices"
            )
        return n_tokens * price.training_usd / MILLION


def read_prices(folder: Path = DATA / "prices") -> Prices:
    """All tables of a folder.

    Raises
    ------
    ValueError
        If a table lacks a column, or a row's price or date cannot be read; names file and line.
    """
    rows = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(line for line in file if not line.startswith("#"))
            missing = [column for column in COLUMNS if column not in (table.fieldnames or ())]
            if missing:
                raise ValueError(f"{path} lacks {', '.join(missing)}: expected the columns {', '.join(COLUMNS)}")
            rows += [_price(row, f"{path}, row {number}") for number, row in enumerate(table, start=1)]
    return Prices(rows)


def _price(row: Mapping[str, str], place: str) -> Price:
    try:
        prompt, completion, factor = (float(row[name]) for name in ("prompt_usd", "completion_usd", "batch_factor"))
        training = float(row["training_usd"] or "nan")
        date.fromisoformat(row["as_of"])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{place}: expected prices in USD per million tokens and a date YYYY-MM-DD ({error})"
        ) from error
    if not (math.isfinite(prompt + completion + factor) and min(prompt, completion, factor) >= 0) or training < 0:
        raise ValueError(f"{place}: a price is a number from 0 up, found {dict(row)}")
    return Price(row["model"], prompt, completion, training, factor, row["as_of"], row["source"])


def estimated_tokens(text: str) -> int:
    """Tokens of a text, estimated by its characters.

    >>> estimated_tokens("A fox, a hen."), estimated_tokens("東京"), estimated_tokens("")
    (4, 2, 0)
    """
    n_ascii = len(text.encode("ascii", "ignore"))
    return math.ceil(n_ascii / CHARS_A_TOKEN) + len(text) - n_ascii
