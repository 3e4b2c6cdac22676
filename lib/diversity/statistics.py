"""Statistics of next-token predictions from their sums: of the whole text and of each resample of documents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import entr

from lib.diversity.next_token import COLUMNS, Totals

METRICS = {  # with their units
    "perplexity": "per token",
    "bits_per_byte": "bits per byte",
    "entropy_of_mean": "nats",  # of the mean distribution: how many tokens the model uses at all
    "mean_entropy": "nats",  # how open each prediction is
    "entropy_gap": "nats",  # the first less the second: Jensen-Shannon divergence of the predictions
    "coverage_70_tokens": "tokens",  # fewest that have so much of the mean distribution
    "coverage_90_tokens": "tokens",
    "coverage_70": "rate",  # the same, as a share of the tokenizer's tokens
    "coverage_90": "rate",
    "choices_70_tokens": "tokens",  # fewest of each prediction, by the mean of the sorted distributions; up to 512
    "choices_90_tokens": "tokens",
    "top_10_mass": "rate",
    "confidence": "rate",
    "accuracy": "rate",
    "reciprocal_rank": "rate",
    "kl": "nats",  # from the first model of the chain, of which it is 0
}
ROUNDING = 1e-6  # of float32 sums


def tokens_for(cumulative: np.ndarray, level: float) -> np.ndarray:
    """Fewest tokens whose mass reaches a level, along the last axis, counted from 1; NaN where it is not reached.

    >>> tokens_for(np.array([[0.5, 0.7, 1.0]]), 0.7).tolist()
    [2.0]
    """
    below = cumulative < level - ROUNDING
    return np.where(below.all(axis=-1), np.nan, below.sum(axis=-1) + 1.0)


def values_of(totals: Totals) -> pd.DataFrame:
    """The statistics of one model: a column per metric; the first row is of the whole, the others of resamples."""
    rows = totals.documents
    sums = pd.DataFrame(totals.weights(rows["document"]) @ rows.to_numpy(), columns=list(COLUMNS))
    n = sums["tokens"].to_numpy()[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        probs, ranked = totals.arrays["probs"] / n, totals.arrays["ranked"] / n
        means = sums.div(sums["tokens"], axis=0)
        found = means[["confidence", "accuracy", "reciprocal_rank", "kl"]].assign(
            perplexity=np.exp(means["nll"]),
            bits_per_byte=sums["nll"] / np.log(2) / sums["bytes"],
            entropy_of_mean=entr(probs).sum(axis=1),
            mean_entropy=means["entropy"],
        )
    found["entropy_gap"] = found["entropy_of_mean"] - found["mean_entropy"]
    by_token, by_rank = np.cumsum(-np.sort(-probs, axis=1), axis=1), np.cumsum(ranked, axis=1)
    for level in (70, 90):
        found[f"coverage_{level}_tokens"] = tokens_for(by_token, level / 100)
        found[f"coverage_{level}"] = found[f"coverage_{level}_tokens"] / probs.shape[1]
        found[f"choices_{level}_tokens"] = tokens_for(by_rank, level / 100)
    found["top_10_mass"] = np.minimum(1, by_rank[:, min(10, by_rank.shape[1]) - 1])
    return found[list(METRICS)]


def kl_by_position(totals: Totals) -> pd.DataFrame:
    """Mean divergence from the base by position in the document, a column per span of positions (its first, from 1)."""
    n_tokens, kl = np.split(totals.arrays["spans"], 2, axis=1)
    with np.errstate(invalid="ignore"):
        means = pd.DataFrame(kl / n_tokens, columns=[2**span for span in range(n_tokens.shape[1])])
    return means.loc[:, means.iloc[0].notna()]


def mean_over_seeds(members: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Mean over the fine-tunes of a stage: of all for the whole, of fine-tunes drawn with replacement for a resample.

    Stages with as many fine-tunes draw the same ones, so that their difference is paired (Owen 2007).
    """
    values = np.array([each.to_numpy() for each in members])  # (fine-tunes, 1 + resamples, metrics)
    n, n_rows = values.shape[:2]
    drawn = np.random.default_rng([0, n, 1]).integers(n, size=(n_rows, n))
    drawn[0] = np.arange(n)
    return pd.DataFrame(values[drawn, np.arange(n_rows)[:, None]].mean(axis=1), columns=members[0].columns)


def with_intervals(values: pd.DataFrame) -> pd.DataFrame:
    """``metric``, its ``unit``, ``value`` of the whole, and ``low``, ``high``: 95% percentile interval of resamples.

    Resamples have fewer distinct documents, hence a narrower mean distribution: what is measured of it (entropy,
    coverage) can lie above its interval, which is given as it is.
    """
    resamples = values.iloc[1:].replace([np.inf, -np.inf], np.nan)
    bounds = resamples.quantile([0.025, 0.975]).to_numpy()
    found = {"metric": values.columns, "value": values.iloc[0].to_numpy(), "low": bounds[0], "high": bounds[1]}
    return pd.DataFrame(found).assign(unit=[METRICS.get(name, "") for name in values.columns])
