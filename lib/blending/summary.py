"""The numbers of the blending study, with their intervals over documents: from scores to summary.csv."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from lib.blending.evaluation import CONDITIONS, DOCUMENT, FITTED, METRICS
from lib.blending.support import MODELS
from lib.stats import Interval, cluster_bootstrap, cluster_ratio
from lib.tables import Summary

CONTEXT, SIZE, TOP_K = "context_tokens", "weights of the big model", "top_k"
KEY = ["seed", "document", "position", "context_tokens"]


def summarise(
    scores: pd.DataFrame,
    fits: pd.DataFrame,
    *,
    preset: str,
    bigs: Sequence[str],
    pooled: Sequence[int],
    n_weights: dict[str, int],
    rng: np.random.Generator,
    truncated: tuple[pd.DataFrame, pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """Every number of the comparison on test documents.

    Parameters
    ----------
    scores : DataFrame of `model_scores` and `blend_scores`
    fits : DataFrame of `fit_blends`, with ``big`` and ``seed``
    bigs : big models; the first carries the headline, the others have their size as x
    pooled : context lengths behind the numbers without an x
    truncated : what `truncated_scores` returns, of the first big model and fine-tune

    Returns
    -------
    DataFrame in the columns of summary.csv
    """
    summary = Summary(study="blending", preset=preset, conditions=CONDITIONS, metrics=METRICS)
    for place, big in enumerate(bigs):
        wide = _wide(scores, big)
        at = {} if place == 0 else {"x": float(n_weights.get(big, 0)), "x_name": SIZE}
        _add_all(summary, wide[wide["context_tokens"].isin(pooled)], big, rng, at, ratios=True)
        for length, rows in wide.groupby("context_tokens"):
            _add_all(summary, rows, big, rng, {"x": float(length), "x_name": CONTEXT}, ratios=length in pooled)
        _add_weights(summary, fits[(fits["big"] == big) & (fits["seed"] == wide["seed"].min())], big, at)
    if truncated is not None:
        _add_truncated(summary, *truncated, big=bigs[0], pooled=pooled, rng=rng)
    return summary.frame()


def _wide(scores: pd.DataFrame, big: str) -> pd.DataFrame:
    """One row per target, context and fine-tune, with columns ``nll/<condition>``; what no seed changes is repeated."""
    own = scores[(scores["big"] == big) | (scores["big"] == "")]
    seeds = sorted(own.loc[own["condition"] == "blended", "seed"].unique())
    fixed = own[own["seed"] == -1]
    rows = pd.concat([*(fixed.assign(seed=seed) for seed in seeds), own[own["seed"].isin(seeds)]], ignore_index=True)
    wide = rows.pivot(index=KEY, columns="condition", values="nll_nats").add_prefix("nll/")
    extras = rows[rows["condition"] == "blended"].set_index(KEY)[["argmax_changed", "n_bytes"]]
    return wide.join(extras).reset_index()


def _add_all(
    summary: Summary, rows: pd.DataFrame, big: str, rng: np.random.Generator, at: dict[str, object], *, ratios: bool
) -> None:
    seeds = rows["seed"] if rows["seed"].nunique() > 1 else None
    clusters = rows[DOCUMENT]

    def add(interval: Interval, condition: str, metric: str) -> None:
        summary.add(interval, model=big, condition=condition, metric=metric, n_of=DOCUMENT, **at)  # type: ignore[arg-type]

    for condition in _conditions(rows):
        nll = rows[f"nll/{condition}"]
        mean = cluster_bootstrap(nll, clusters, rng=rng, seeds=seeds)
        add(mean.map(math.exp), condition, "perplexity")
        if rows["n_bytes"].sum():
            bits = cluster_ratio(nll / math.log(2), rows["n_bytes"], clusters, rng=rng, seeds=seeds)
            add(bits, condition, "bits_per_byte")
        if condition != "blended":
            saved = cluster_bootstrap(nll - rows["nll/blended"], clusters, rng=rng, seeds=seeds)
            add(saved, condition, "nats_saved")
        if ratios and condition not in ("base", "big", "direct") and "nll/direct" in rows:
            gap = rows["nll/big"] - rows["nll/direct"]
            if gap.mean() > 0:  # a big model that tuning did not help leaves no gap to close
                add(cluster_ratio(rows["nll/big"] - nll, gap, clusters, rng=rng, seeds=seeds), condition, "gap_closed")
    changed = cluster_bootstrap(rows["argmax_changed"], clusters, rng=rng, seeds=seeds, rate=True)
    add(changed, "blended", "argmax_changed")


def _conditions(rows: pd.DataFrame) -> Iterator[str]:
    yield from (condition for condition in CONDITIONS if f"nll/{condition}" in rows)


def _add_weights(summary: Summary, fits: pd.DataFrame, big: str, at: dict[str, object]) -> None:
    """Pooled weights of each form (those of the first fine-tune), and the convex fit's at each context length."""
    for row in fits.to_dict("records"):
        by_length = not math.isnan(row["context_tokens"])
        where = {"x": row["context_tokens"], "x_name": CONTEXT} if by_length else at
        for model in MODELS:
            value, low, high = (float(row[f"{part}_{model}"]) for part in ("weight", "low", "high"))
            if low == high:
                continue  # fixed by the form
            interval = Interval(value, low, high, int(row["n_documents"]), "sandwich by document")
            condition, metric = FITTED[str(row["form"])], f"weight_{model}"
            summary.add(interval, model=big, condition=condition, metric=metric, n_of=DOCUMENT, **where)


def _add_truncated(
    summary: Summary,
    scores: pd.DataFrame,
    published: pd.DataFrame,
    *,
    big: str,
    pooled: Sequence[int],
    rng: np.random.Generator,
) -> None:
    """Over k, pooled; and over context length at the first k."""
    first = scores["k"].iloc[0]
    of_k = [(rows, {"x": float(k), "x_name": TOP_K}) for k, rows in scores[_in(scores, pooled)].groupby("k")]
    of_length = scores[scores["k"] == first].groupby("context_tokens")
    for rows, at in [*of_k, *((rows, {"x": float(k), "x_name": CONTEXT}) for k, rows in of_length)]:
        for name in ("big", "blended"):
            mean = cluster_bootstrap(rows[f"nll_{name}"], rows[DOCUMENT], rng=rng)
            where = {"model": big, "condition": f"{name}/top-k", "n_of": DOCUMENT} | at
            summary.add(mean.map(math.exp), metric="perplexity", **where)  # type: ignore[arg-type]
        missed = cluster_bootstrap(rows["missed"], rows[DOCUMENT], rng=rng)
        summary.add(missed, metric="miss_rate", **(where | {"condition": "big/top-k"}))  # type: ignore[arg-type]
    n = scores[DOCUMENT].nunique()
    means = published[_in(published, pooled)].groupby("k")[["big", "blended"]].mean()
    points = [(row, {"x": float(k), "x_name": TOP_K}) for k, row in means.iterrows()]
    at_first = published[published["k"] == first].set_index("context_tokens")
    points += [(row, {"x": float(k), "x_name": CONTEXT}) for k, row in at_first.iterrows()]
    for row, at in points:
        for name in ("big", "blended"):
            if math.isfinite(row[name]):
                value = Interval(float(row[name]), math.nan, math.nan, n, "as published, without an interval")
                where = {"model": big, "condition": f"{name}/published", "n_of": DOCUMENT} | at
                summary.add(value, metric="perplexity", **where)  # type: ignore[arg-type]


def _in(rows: pd.DataFrame, lengths: Sequence[int]) -> pd.Series:
    return rows["context_tokens"].isin(lengths)
