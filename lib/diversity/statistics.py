"""Statistics of next-token predictions from their sums: of the whole text and of each resample of documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd
from scipy.special import entr

from lib.diversity.next_token import COLUMNS, Totals
from lib.paths import DATA

ROUNDING = 1e-6  # of float32 sums


@cache
def read_units() -> Mapping[str, str]:
    """Units of the statistics by name, in the order of ``data/diversity/next_token.csv``."""
    return dict(pd.read_csv(DATA / "diversity" / "next_token.csv", index_col="name")["unit"])


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
    return found[list(read_units())]


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
    return pd.DataFrame(found).assign(unit=[read_units().get(name, "") for name in values.columns])
