"""The numbers of the mixture study, with their intervals over pairs: from answers to summary.csv and tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib.mixture.evaluations import DISTRIBUTION_TEST
from lib.mixture.jobs import FOLDERS, UNLABELLED
from lib.mixture.probes import CONDITIONS, CONTROLS
from lib.stats import Interval, cluster_bootstrap
from lib.tables import Summary

PAIR = "pair"
METRICS = {  # and the unit of each
    "accuracy": "rate",  # our rule, as lib.functions.scoring and lib.mixture.scoring say
    "strict_match": "rate",  # the reply is the answer and no more
    "published_match": "rate",  # the rule of the published code
    "share_named": "rate",  # of the two functions of a pair, those that the reply defines
    "target_logprob": "nats",  # summed over the target's tokens; of a pair: in the order in which training writes it
    "total_variation": "rate",  # distance of first answers from the ideal mix: 0 is best
    "published_tvd": "rate",  # what the published code calls TVD: 1 is best
    "off_mix": "rate",  # first answers that neither function gives
}
COLUMNS = {
    "accuracy": "correct",
    "strict_match": "strict",
    "published_match": "published",
    "share_named": "share_named",
    "target_logprob": "target_logprob",
}
DISTANCES = {"total_variation": "distance", "published_tvd": "published", "off_mix": "off_mix"}
SHOWN_ROLES = ["main", *CONTROLS, *FOLDERS, "before"]


def summarise(
    answers: pd.DataFrame, first: pd.DataFrame, *, preset: str, chances: Mapping[str, float], rng: np.random.Generator
) -> pd.DataFrame:
    """Every number that the study reports; ``model`` is the base that it all began with.

    Parameters
    ----------
    answers : DataFrame of `lib.mixture.asking.answer_rows`; ``epoch`` is NaN for final models
    first : of `lib.mixture.asking.first_answers`
    chances : what guessing gives, by condition

    Returns
    -------
    DataFrame in the columns of summary.csv
    """
    summary = Summary(study="mixture", preset=preset, conditions=CONDITIONS, metrics=METRICS)
    final = answers[answers["epoch"].isna() & answers["role"].isin(SHOWN_ROLES)]
    asked = final[final["evaluation"] != DISTRIBUTION_TEST]
    for (family, condition), rows in asked.groupby(["family", "condition"], sort=False):
        for metric, column in COLUMNS.items():
            told = rows[rows[column].notna()]
            if len(told):
                found = over_pairs(told, column, METRICS[metric], rng)
                summary.add(found, model=family, condition=condition, metric=metric, n_of=PAIR)
        if condition in chances:
            known = Interval(chances[condition], np.nan, np.nan, rows[PAIR].nunique())
            summary.add(known, model=family, condition=f"{condition}/chance", metric="accuracy", n_of=PAIR)
    if len(first):
        for (family, condition), rows in first.groupby(["family", "condition"], sort=False):
            for metric, column in DISTANCES.items():
                found = over_pairs(rows, column, METRICS[metric], rng)
                summary.add(found, model=family, condition=condition, metric=metric, n_of=PAIR)
            if rows["role"].iloc[0] == "main":
                ideal = Interval(float(rows["floor"].mean()), np.nan, np.nan, rows[PAIR].nunique())
                summary.add(ideal, model=family, condition=f"{condition}/ideal", metric="total_variation", n_of=PAIR)
    curve = answers[answers["epoch"].notna()]
    for (family, condition, epoch), rows in curve.groupby(["family", "condition", "epoch"], sort=False):
        found = over_pairs(rows, "correct", "rate", rng)
        summary.add(
            found, model=family, condition=condition, metric="accuracy", n_of=PAIR, x=float(epoch), x_name="epoch"
        )
    return summary.frame()


def over_pairs(rows: pd.DataFrame, column: str, unit: str, rng: np.random.Generator) -> Interval:
    """Mean of a column with its interval over pairs, and over fine-tunes where all were asked about the same pairs."""
    asked = rows.groupby(["seed", PAIR]).ngroups
    crossed = rows["seed"].nunique() > 1 and asked == rows["seed"].nunique() * rows[PAIR].nunique()
    seeds = rows["seed"] if crossed else None
    return cluster_bootstrap(rows[column].astype(float), rows[PAIR], rng=rng, seeds=seeds, rate=unit == "rate")


def by_pair(answers: pd.DataFrame, *, rng: np.random.Generator) -> pd.DataFrame:
    """Accuracy for each base, evaluation, part and pair; intervals and ``n`` are over labels (or fine-tunes).

    Returns
    -------
    DataFrame
        family, evaluation, part (``unlabelled`` for pairs that a joint model hides afterwards), pair, accuracy, low,
        high, n, n_of.
    """
    final = answers[answers["epoch"].isna() & answers["role"].isin(["main", UNLABELLED])]
    final = final[final["evaluation"] != DISTRIBUTION_TEST]
    final = final.assign(part=final["part"].where(final["role"] == "main", UNLABELLED))
    rows = []
    for (family, evaluation, part, pair), each in final.groupby(["family", "evaluation", "part", PAIR], sort=False):
        found = cluster_bootstrap(
            each["correct"].astype(float), each["seed"].astype(str) + each["name"], rng=rng, rate=True
        )
        row = {"family": family, "evaluation": evaluation, "part": part, "pair": pair, "accuracy": found.value}
        rows.append(row | {"low": found.low, "high": found.high, "n": found.n, "n_of": "label"})
    return pd.DataFrame(rows)
