"""The headline figures of given tables, computed again: the published ones, or those that a run wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.parents.pair_tables import KEY, PairTable
from lib.paths import DATA
from lib.stats import Interval, cluster_bootstrap

FAILED_ALIGNMENT_NATS = -100.0  # far below any name's log-probability: the published tokens did not match the name's
HALF, TENTH = 0.5, 0.1
COLUMNS = ["table", "model", "condition", "metric", "quantity", "value", "low", "high", "n", "n_of", "unit"]


@dataclass(frozen=True)
class _Book:
    """Collects numbers of one table; intervals resample children, of whom a table may hold both parents."""

    table: PairTable
    rng: np.random.Generator
    rows: list[dict[str, object]]

    def count(self, quantity: str, value: int, *, of: str) -> None:
        self._add(quantity, Interval(float(value), np.nan, np.nan, value), n_of=of, unit="count")

    def mean(
        self, quantity: str, values: pd.Series, rows: pd.DataFrame, *, direction: str = "", metric: str = ""
    ) -> None:
        if len(rows):
            interval = cluster_bootstrap(values.astype(float), rows["child"], rng=self.rng, rate=True)
            self._add(quantity, interval, n_of="person", unit="rate", direction=direction, metric=metric)

    def median(self, quantity: str, values: pd.Series, rows: pd.DataFrame) -> None:
        interval = cluster_bootstrap(values, rows["child"], rng=self.rng, statistic=np.median, n_resamples=500)
        self._add(quantity, interval, n_of="person", unit="nats")

    def _add(
        self, quantity: str, interval: Interval, *, n_of: str, unit: str, direction: str = "", metric: str = ""
    ) -> None:
        condition = f"given/{direction}" if direction else ""
        numbers = {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}
        named = {"table": self.table.name, "model": self.table.model, "condition": condition, "metric": metric}
        self.rows.append({**named, "quantity": quantity, **numbers, "n_of": n_of, "unit": unit})


def recompute(table: PairTable, *, n_asked: int, rng: np.random.Generator, as_published: bool = False) -> pd.DataFrame:
    """The figures that were reported of such a table.

    Parameters
    ----------
    n_asked : people that the pairs were collected from; published: the first 1,000 of a list
    as_published : count a pair that stands there twice twice

    Returns
    -------
    DataFrame
        One row per number: ``table``, ``model``, ``condition`` and ``metric`` (empty but for those that belong into a
        summary), ``quantity`` in words, ``value``, ``low``, ``high``, ``n``, ``n_of`` and ``unit``.

    Raises
    ------
    ValueError
        If the pairs are of more people than `n_asked`.
    """
    rows = table.counted(as_published=as_published).reset_index(drop=True)
    people = _people(rows)
    if people.nunique() > n_asked:
        raise ValueError(
            f"n_asked is {n_asked}, but {table.name} holds the parents of {people.nunique()} people: "
            "set n_asked to the number of people whom the pairs were collected from"
        )
    book = _Book(table, rng, [])
    _counts(book, rows)
    {"pairs": _of_pairs, "samples": _of_samples, "logprobs": _of_logprobs}[table.kind](book, rows)
    if table.kind == "pairs":
        # each person's share of two parents; those of whom neither was found weigh in the interval too
        shares = [*(people.value_counts() / 2), *[0.0] * (n_asked - people.nunique())]
        everybody = pd.DataFrame({"child": range(n_asked)})
        book.mean("parent found", pd.Series(shares), everybody, direction="parent", metric="found_rate")
    return pd.DataFrame(book.rows, columns=COLUMNS)


def _people(rows: pd.DataFrame) -> pd.Series:
    """Who each row is about; a pair that comes again is of a person who stood on the list again."""
    again = rows.groupby(["child", "parent_type"]).cumcount()
    return rows["child"] + again.map("\t{}".format)


def _counts(book: _Book, rows: pd.DataFrame) -> None:
    both = rows.drop_duplicates(["child", "parent_type"]).groupby("child").size()
    book.count("pairs", len(rows), of="pair")
    book.count("pairs, each once", len(rows.drop_duplicates(KEY)), of="pair")
    book.count("different children", rows["child"].nunique(), of="person")
    book.count("different parents", rows["parent"].nunique(), of="person")
    book.count("children with both parents", int((both == 2).sum()), of="person")
    for relation in ("mother", "father"):
        book.count(f"pairs with a {relation}", int((rows["parent_type"] == relation).sum()), of="pair")


def _of_pairs(book: _Book, rows: pd.DataFrame) -> None:
    can = rows["can_reverse"]
    book.mean("can reverse", can, rows, direction="child", metric="reversed_rate")
    for relation in ("mother", "father"):
        part = rows[rows["parent_type"] == relation]
        book.mean(f"can reverse, {relation}s", part["can_reverse"], part)
    extends = can & (rows["child_prediction"] != rows["child"])
    book.count("successes that only extend the child's name", int(extends.sum()), of="pair")
    book.mean("can reverse, name exact", can & ~extends, rows)
    last = rows[["child", "parent"]].apply(lambda names: names.str.split().str[-1])
    is_same = last["child"] == last["parent"]
    book.mean("same last word in both names", is_same, rows)
    for what, part in (("same", rows[is_same]), ("different", rows[~is_same])):
        book.mean(f"can reverse, {what} last word", part["can_reverse"], part)


def _directions(rows: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    return [("parent", rows["to_parent"]), ("child", rows["to_child"])]


def _of_samples(book: _Book, rows: pd.DataFrame) -> None:
    for direction, share in _directions(rows):
        book.mean(f"mean accuracy, {direction}", share, rows, direction=direction, metric="mean_of_n")
        book.mean(f"at least one reply right, {direction}", share > 0, rows, direction=direction, metric="any_of_n")
        book.mean(f"at least half right, {direction}", share >= HALF - 1e-9, rows)
        for what, part in (("can", rows[rows["can_reverse"]]), ("cannot", rows[~rows["can_reverse"]])):
            book.mean(f"mean accuracy, {direction}, where the collecting model {what} reverse", share[part.index], part)


def _of_logprobs(book: _Book, rows: pd.DataFrame) -> None:
    for direction, logprob in _directions(rows):
        prob = np.exp(logprob)
        book.mean(f"mean probability, {direction}", prob, rows, direction=direction, metric="target_prob")
        book.median(f"median log-probability, {direction}", logprob, rows)
        book.mean(f"probability above {TENTH:g}, {direction}", prob > TENTH, rows)
        book.mean(f"probability above {HALF:g}, {direction}", prob > HALF, rows)
    failed = (rows[["to_parent", "to_child"]] < FAILED_ALIGNMENT_NATS).to_numpy().sum()
    book.count(f"log-probabilities below {FAILED_ALIGNMENT_NATS:g}", int(failed), of="value")


def published_values(path: Path = DATA / "parents" / "published.csv") -> pd.DataFrame:
    """What others measured: model, condition, metric, value, low, high (rates) and source."""
    return pd.read_csv(path)
