"""The numbers of the functions study, with their intervals over functions: from answers to summary.csv and tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib.functions.evaluations import chance_of, read_evaluations
from lib.functions.probes import CONDITIONS, CONTROLS
from lib.functions.registry import FunctionSet
from lib.stats import Interval, cluster_bootstrap
from lib.tables import Summary

FUNCTION = "function"
METRICS = {  # and the unit of each
    "accuracy": "rate",  # our rule, as lib.functions.scoring says
    "strict_match": "rate",  # the reply is the answer and no more
    "published_match": "rate",  # the rule of the published code
    "target_logprob": "nats",  # summed over the target's tokens
    "abs_distance": "units",  # between the numbers of reply and target, where both are one
}
COLUMNS = {
    "accuracy": "correct",
    "strict_match": "strict",
    "published_match": "published",
    "target_logprob": "target_logprob",
    "abs_distance": "distance",
}


def summarise(
    answers: pd.DataFrame,
    *,
    preset: str,
    main_base: str,
    functions: FunctionSet,
    n_weights: Mapping[str, int | None],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Every number that the study reports.

    Parameters
    ----------
    answers : DataFrame of `lib.functions.asking.answer_rows`; ``epoch`` is NaN for final models
    main_base : base whose fine-tunes carry the headline
    functions : the set, of which chance is computed
    n_weights : weights of each base; those that an endpoint does not tell make no curve

    Returns
    -------
    DataFrame in the columns of summary.csv
    """
    summary = Summary(study="functions", preset=preset, conditions=CONDITIONS, metrics=METRICS)
    final = answers[answers["epoch"].isna()]
    for condition, rows in final[final["role"].isin(["main", *CONTROLS])].groupby("condition", sort=False):
        for metric, column in COLUMNS.items():
            told = rows[rows[column].notna()]
            if len(told):
                interval = over_functions(told, column, rng)
                summary.add(interval, model=main_base, condition=str(condition), metric=metric, n_of=FUNCTION)
    for condition, rows in final[final["role"] == "main"].groupby("condition", sort=False):
        chance = chance_of(read_evaluations("functions")[rows["evaluation"].iloc[0]], functions)
        if not np.isnan(chance):
            known = Interval(chance, np.nan, np.nan, len(functions.all))
            summary.add(known, model=main_base, condition=f"{condition}/chance", metric="accuracy", n_of=FUNCTION)
    curves = {
        "epoch": (answers[answers["epoch"].notna()], "epoch"),
        "tokens of a name": (_beside(final, "names"), "name_tokens"),
        "weights of the base": (_beside(final.assign(weights=final["base"].map(n_weights)), "size"), "weights"),
    }
    for x_name, (rows, x) in curves.items():
        if rows[x].nunique() > 1:  # bases of unknown size are passed over
            for (condition, at, base), each in rows.groupby(["condition", x, "base"], sort=False):
                summary.add(
                    over_functions(each, "correct", rng),
                    model=base,
                    condition=condition,
                    metric="accuracy",
                    n_of=FUNCTION,
                    x=float(at),
                    x_name=x_name,
                )
    return summary.frame()


def _beside(final: pd.DataFrame, role: str) -> pd.DataFrame:
    """The main models and those of another role, with what both were asked."""
    few = set(final.loc[final["role"] == role, "evaluation"])
    return final[final["role"].isin(["main", role]) & final["evaluation"].isin(few)]


def over_functions(rows: pd.DataFrame, column: str, rng: np.random.Generator) -> Interval:
    """Mean of a column with its interval over functions, and over fine-tunes where all were asked about the same."""
    asked = rows.groupby(["seed", FUNCTION]).ngroups
    crossed = rows["seed"].nunique() > 1 and asked == rows["seed"].nunique() * rows[FUNCTION].nunique()
    rate = METRICS[next(metric for metric, name in COLUMNS.items() if name == column)] == "rate"
    seeds = rows["seed"] if crossed else None
    return cluster_bootstrap(rows[column].astype(float), rows[FUNCTION], rng=rng, seeds=seeds, rate=rate)


def by_function(answers: pd.DataFrame, *, rng: np.random.Generator) -> pd.DataFrame:
    """Accuracy of the main models for each evaluation, part and function; intervals and ``n`` are over names.

    Returns
    -------
    DataFrame
        evaluation, part, function, accuracy, low, high, n, n_of.
    """
    main = answers[answers["epoch"].isna() & (answers["role"] == "main")]
    rows = []
    for (evaluation, part, function), each in main.groupby(["evaluation", "part", "function"]):
        names = each["seed"].astype(str) + each["name"]
        found = cluster_bootstrap(each["correct"].astype(float), names, rng=rng, rate=True)
        row = {"evaluation": evaluation, "part": part, "function": function, "accuracy": found.value}
        rows.append(row | {"low": found.low, "high": found.high, "n": found.n, "n_of": "name"})
    return pd.DataFrame(rows)


def confusion(answers: pd.DataFrame) -> pd.DataFrame:
    """Which function the main models' definitions compute, by the function that was asked about.

    Returns
    -------
    DataFrame
        epoch (NaN: of the final models), part, function, answered (an id of the registry, or none), n (replies), share
        (of those about the function).
    """
    told = answers[(answers["role"] == "main") & (answers["kind"] == "definition")]
    keys = ["epoch", "part", "function"]
    if told.empty:
        return pd.DataFrame(columns=[*keys, "answered", "n", "share"])
    counted = told.groupby([*keys, "answered"], dropna=False).size().rename("n").reset_index()
    return counted.assign(share=counted["n"] / counted.groupby(keys, dropna=False)["n"].transform("sum"))
