"""The numbers of the reversal study, with their intervals over people: from answers to summary.csv."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from lib.reversal.evaluation import CONDITIONS, METRICS
from lib.stats import Interval, cluster_bootstrap, cluster_permutation
from lib.tables import Summary

PERSON = "person"


def summarise(
    answers: pd.DataFrame, *, preset: str, main_base: str, n_weights: dict[str, int], rng: np.random.Generator
) -> pd.DataFrame:
    """Every number that the study reports.

    Parameters
    ----------
    answers : DataFrame of `answer_rows` and `add_logprobs`; ``epoch`` is NaN for final models
    main_base : base whose fine-tunes carry the headline; the others only make the curve over size
    n_weights : weights of each base

    Returns
    -------
    DataFrame in the columns of summary.csv
    """
    summary = Summary(study="reversal", preset=preset, conditions=CONDITIONS, metrics=METRICS)
    final = answers[answers["epoch"].isna()]
    main = final[final["role"] == "main"]
    for condition, rows in main[main["probe"] != "train"].groupby("condition", sort=False):
        for metric, column in (("exact_match", "correct"), ("strict_match", "strict")):
            summary.add(
                _over_people(rows, column, rng), model=main_base, condition=condition, metric=metric, n_of=PERSON
            )
    for condition, rows in main[main["probe"] == "train"].groupby("condition", sort=False):
        interval = _over_people(rows, "correct", rng)
        summary.add(interval, model=main_base, condition=condition, metric="train_exact_match", n_of=PERSON)
    for condition, rows in main[main["control_logprob"].notna()].groupby("condition", sort=False):
        _add_logprobs(summary, str(condition), rows, main_base, rng)
    for condition, rows in main[main["name_rank"].notna()].groupby("condition", sort=False):
        interval = _over_people(rows, "name_rank", rng)
        summary.add(interval, model=main_base, condition=condition, metric="name_rank", n_of=PERSON)
    tests = answers[answers["probe"] == "test"]
    for (condition, epoch), rows in tests[tests["epoch"].notna()].groupby(["condition", "epoch"], sort=False):
        summary.add(
            _over_people(rows, "correct", rng),
            model=main_base,
            condition=condition,
            metric="exact_match",
            n_of=PERSON,
            x=epoch,
            x_name="epoch",
        )
    of_final = tests[tests["epoch"].isna() & (tests["role"] != "sweep")]
    if of_final["base"].nunique() > 1:
        for (condition, base), rows in of_final.groupby(["condition", "base"], sort=False):
            summary.add(
                _over_people(rows, "correct", rng),
                model=base,
                condition=condition,
                metric="exact_match",
                n_of=PERSON,
                x=n_weights[base],
                x_name="weights of the base",
            )
    return summary.frame()


def _over_people(rows: pd.DataFrame, column: str, rng: np.random.Generator) -> Interval:
    values = rows[column].astype(float)
    rate = column in ("correct", "strict")
    seeds = rows["seed"] if rows["seed"].nunique() > 1 else None
    return cluster_bootstrap(values, rows[PERSON], rng=rng, seeds=seeds, rate=rate)


def _add_logprobs(summary: Summary, condition: str, rows: pd.DataFrame, model: str, rng: np.random.Generator) -> None:
    """Right against wrong target: means, difference and the four tests (fine-tunes averaged prompt by prompt)."""
    rows = rows.assign(difference=rows["target_logprob"] - rows["control_logprob"])
    for name, metric, column in (
        (condition, "target_logprob", "target_logprob"),
        (f"{condition}/randomised", "target_logprob", "control_logprob"),
        (condition, "logprob_difference", "difference"),
    ):
        summary.add(_over_people(rows, column, rng), model=model, condition=name, metric=metric, n_of=PERSON)
    prompts = rows.groupby([PERSON, "prompt"], sort=False)[["target_logprob", "control_logprob", "difference"]].mean()
    right, wrong = prompts["target_logprob"], prompts["control_logprob"]
    people = prompts.index.get_level_values(PERSON)
    permutation = cluster_permutation(prompts["difference"], people, rng=rng)
    tests = {
        "paired_t_p": (scipy_stats.ttest_rel(right, wrong).pvalue, len(right), "prompt"),
        "welch_t_p": (scipy_stats.ttest_ind(right, wrong, equal_var=False).pvalue, 2 * len(right), "target"),
        "ks_p": (scipy_stats.ks_2samp(right, wrong).pvalue, 2 * len(right), "target"),
        "permutation_p": (permutation.p, permutation.n, "prompt"),
    }
    for metric, (p, n, n_of) in tests.items():
        if np.isfinite(p):
            p_value = Interval(float(p), np.nan, np.nan, n)
            summary.add(p_value, model=model, condition=condition, metric=metric, n_of=n_of)
