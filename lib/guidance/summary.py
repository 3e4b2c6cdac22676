"""The numbers of the guidance study, with their intervals over question/answer pairs: from answers to summary.csv."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib.guidance.probes import CONDITIONS
from lib.scoring import prefix_match
from lib.stats import Interval, cluster_bootstrap, cluster_permutation
from lib.tables import Summary

PAIR = "pair"
METRICS = {  # and the unit of each
    "exact_match": "rate",  # the answer starts with the target, as published
    "strict_match": "rate",  # the answer's line is the target and no more
    "target_logprob": "nats",  # summed over the target's tokens; of the wrong target under .../shuffled
    "logprob_difference": "nats",  # right target minus wrong target
    "permutation_p": "p",
}


def summarise(
    answers: pd.DataFrame, *, preset: str, main_base: str, n_weights: Mapping[str, int | None], rng: np.random.Generator
) -> pd.DataFrame:
    """Every number that the study reports.

    Parameters
    ----------
    answers : DataFrame of `answer_rows` and `add_logprobs`; ``epoch`` is NaN for final models
    main_base : base whose fine-tunes carry the headline; the others only make the curve over size
    n_weights : weights of each base; those that an endpoint does not tell make no curve

    Returns
    -------
    DataFrame in the columns of summary.csv
    """
    summary = Summary(study="guidance", preset=preset, conditions=CONDITIONS, metrics=METRICS)
    final = answers[answers["epoch"].isna()]
    main = final[final["role"].isin(["main", "untuned"])]
    for condition, rows in main.groupby("condition", sort=False):
        for metric, column in (("exact_match", "correct"), ("strict_match", "strict")):
            interval = _over_pairs(rows, column, rng)
            summary.add(interval, model=main_base, condition=condition, metric=metric, n_of=PAIR)
    tests = answers[(answers["probe"] == "test") & (answers["role"] != "untuned")]
    for condition, rows in tests[tests["epoch"].isna() & (tests["role"] == "main")].groupby("condition", sort=False):
        _add_baselines(summary, str(condition), rows, main_base, rng)
    for condition, rows in main[main["control_logprob"].notna()].groupby("condition", sort=False):
        _add_logprobs(summary, str(condition), rows, main_base, rng)
    for (condition, epoch), rows in tests[tests["epoch"].notna()].groupby(["condition", "epoch"], sort=False):
        interval = _over_pairs(rows, "correct", rng)
        place = {"x": epoch, "x_name": "epoch"}
        summary.add(interval, model=main_base, condition=condition, metric="exact_match", n_of=PAIR, **place)
    sized = tests[tests["epoch"].isna() & (tests["role"] != "sweep") & tests["base"].map(n_weights).notna()]
    if sized["base"].nunique() > 1:
        for (condition, base), rows in sized.groupby(["condition", "base"], sort=False):
            interval = _over_pairs(rows, "correct", rng)
            place = {"x": n_weights[base], "x_name": "weights of the base"}
            summary.add(interval, model=base, condition=condition, metric="exact_match", n_of=PAIR, **place)
    return summary.frame()


def _over_pairs(rows: pd.DataFrame, column: str, rng: np.random.Generator) -> Interval:
    seeds = rows["seed"] if rows["seed"].nunique() > 1 else None
    rate = column.endswith(("correct", "strict"))
    return cluster_bootstrap(rows[column].astype(float), rows[PAIR], rng=rng, seeds=seeds, rate=rate)


def _add_baselines(summary: Summary, condition: str, rows: pd.DataFrame, model: str, rng: np.random.Generator) -> None:
    """How often the answers fit another question, and how often the set's commonest answer is right."""
    held = rows[rows["control_correct"].notna()]
    if len(held):
        interval = _over_pairs(held, "control_correct", rng)
        summary.add(interval, model=model, condition=f"{condition}/shuffled", metric="exact_match", n_of=PAIR)
    targets = rows.drop_duplicates(PAIR)["target"]
    commonest = targets.mode().iloc[0]  # the first in the alphabet where several are as common
    right = [prefix_match(commonest, target) for target in targets]
    interval = cluster_bootstrap(right, rows.drop_duplicates(PAIR)[PAIR], rng=rng)
    summary.add(interval, model=model, condition=f"{condition}/constant", metric="exact_match", n_of=PAIR)


def _add_logprobs(summary: Summary, condition: str, rows: pd.DataFrame, model: str, rng: np.random.Generator) -> None:
    """Right against wrong target: means, their difference, and whether it is one (fine-tunes averaged pair by pair)."""
    rows = rows.assign(difference=rows["target_logprob"] - rows["control_logprob"])
    numbers = [(condition, "target_logprob", "target_logprob"), (condition, "logprob_difference", "difference")]
    if f"{condition}/shuffled" in CONDITIONS:
        numbers.append((f"{condition}/shuffled", "target_logprob", "control_logprob"))
    for name, metric, column in numbers:
        summary.add(_over_pairs(rows, column, rng), model=model, condition=name, metric=metric, n_of=PAIR)
    by_pair = rows.groupby(PAIR, sort=False)["difference"].mean()
    test = cluster_permutation(by_pair, by_pair.index, rng=rng)
    if np.isfinite(test.p):
        p_value = Interval(test.p, np.nan, np.nan, test.n)
        summary.add(p_value, model=model, condition=condition, metric="permutation_p", n_of=PAIR)
