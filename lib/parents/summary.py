"""The numbers of the parents study, with their intervals over people: from answers to summary.csv."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.parents.probes import COLLECTED, conditions
from lib.parents.replies import names
from lib.stats import Interval, cluster_bootstrap, cluster_permutation
from lib.tables import Summary

PERSON = "person"
METRICS = {  # and the unit of each
    "exact_match": "rate",  # the greedy reply begins with the name asked for
    "strict_match": "rate",  # the greedy reply is that name and no more
    "any_of_n": "rate",  # at least one of n samples begins with the name
    "mean_of_n": "rate",  # share of the n samples that do
    "reversed_rate": "rate",  # any of n, among replies that pass the published filter
    "found_rate": "rate",  # questions for a mother or father whose greedy reply passes for a name, as published
    "found_right_rate": "rate",  # of these replies, those that are true; what the world never tells is never true
    "target_prob": "rate",  # probability of the name, as published for models that give no replies
    "target_logprob": "nats",  # summed over the name's tokens; of another name under .../randomised
    "logprob_difference": "nats",  # right name minus another
    "permutation_p": "p",  # that the right name is preferred by chance
}


@dataclass(frozen=True)
class _Book:
    """The numbers of one model; `x` places a model that does not carry the headline."""

    summary: Summary
    model: str
    rng: np.random.Generator
    x: float | None = None
    x_name: str = ""

    def mean(self, condition: str, metric: str, values: pd.Series, rows: pd.DataFrame) -> None:
        seeds = rows["seed"] if rows["seed"].nunique() > 1 else None
        rate = METRICS[metric] == "rate"
        interval = cluster_bootstrap(values.astype(float), rows[PERSON], rng=self.rng, seeds=seeds, rate=rate)
        self.add(condition, metric, interval)

    def add(self, condition: str, metric: str, interval: Interval, *, n_of: str = PERSON) -> None:
        named = {"model": self.model, "condition": condition, "metric": metric}
        self.summary.add(interval, **named, n_of=n_of, x=self.x, x_name=self.x_name)


def summarise(
    answers: pd.DataFrame,
    found: pd.DataFrame,
    *,
    preset: str,
    main_base: str,
    n_weights: Mapping[str, int | None],
    given: pd.DataFrame,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Every number that the study reports.

    Parameters
    ----------
    answers : DataFrame of `greedy_rows`, `add_samples` and `add_logprobs`
    found : greedy replies of the main model with one seed to `both_questions`; without rows where pairs were given
    main_base : base that carries the headline; where there are others, all are placed by ``x``, their number of
        weights or, where an endpoint does not tell it, their place in the list
    given : DataFrame of `recompute`

    Returns
    -------
    DataFrame in the columns of summary.csv
    """
    summary = Summary(study="parents", preset=preset, conditions=conditions(), metrics=METRICS)
    for k, (base, of_model) in enumerate(answers.groupby("base", sort=False)):
        if base == main_base:
            _add_model(_Book(summary, str(base), rng), of_model)
        if answers["base"].nunique() > 1:
            weights = n_weights.get(str(base))
            x_name = "weights of the base" if weights else "place in the list"
            _add_model(_Book(summary, str(base), rng, float(weights or k), x_name), of_model)
    for (group, way), rows in found.groupby(["group", "way"], sort=False):
        _add_found(_Book(summary, main_base, rng), _named(f"{group}/parent", str(way)), rows)
    for row in given[given["metric"] != ""].to_dict("records"):
        interval = Interval(row["value"], row["low"], row["high"], row["n"])
        _Book(summary, row["model"], rng).add(row["condition"], row["metric"], interval, n_of=row["n_of"])
    return summary.frame()


def _named(condition: str, way: str) -> str:
    return f"{condition}/chat" if way == "chat" else condition


def _add_model(book: _Book, answers: pd.DataFrame) -> None:
    for (condition, way), rows in answers.groupby(["condition", "way"], sort=False):
        _add_rates(book, _named(str(condition), str(way)), rows)
        if rows["control_logprob"].notna().any():
            _add_logprobs(book, str(condition), rows)


def _add_rates(book: _Book, condition: str, rows: pd.DataFrame) -> None:
    numbers = {
        "exact_match": rows["correct"],
        "strict_match": rows["strict"],
        "any_of_n": rows["n_right"] > 0,
        "mean_of_n": rows["n_right"] / rows["n_samples"],
    }
    if f"/child/{COLLECTED}" in condition:
        numbers["reversed_rate"] = rows["prediction"] != ""
    for metric, values in numbers.items():
        book.mean(condition, metric, values, rows)
    wrong = rows[rows["control_target"].notna()]
    if len(wrong):
        pairs = zip(wrong["completion"], wrong["control_target"], strict=True)
        book.mean(f"{condition}/randomised", "exact_match", pd.Series([names(*pair) for pair in pairs]), wrong)


def _add_logprobs(book: _Book, condition: str, rows: pd.DataFrame) -> None:
    """Right name against another: probability, means, difference and its permutation test."""
    rows = rows[rows["control_logprob"].notna()]
    difference = rows["target_logprob"] - rows["control_logprob"]
    book.mean(condition, "target_prob", np.exp(rows["target_logprob"]), rows)
    book.mean(condition, "target_logprob", rows["target_logprob"], rows)
    book.mean(f"{condition}/randomised", "target_logprob", rows["control_logprob"], rows)
    book.mean(condition, "logprob_difference", difference, rows)
    questions = rows.assign(difference=difference).groupby([PERSON, "question"], sort=False)["difference"].mean()
    test = cluster_permutation(questions, questions.index.get_level_values(PERSON), rng=book.rng)
    book.add(condition, "permutation_p", Interval(test.p, np.nan, np.nan, test.n), n_of="question")


def _add_found(book: _Book, condition: str, rows: pd.DataFrame) -> None:
    """Replies that pass for names, and those of them that are true (where a truth is known)."""
    book.mean(condition, "found_rate", rows["is_accepted"], rows)
    accepted = rows[rows["is_accepted"]]
    if len(accepted) and rows["is_told"].any():
        book.mean(condition, "found_right_rate", accepted["correct"].fillna(False), accepted)
