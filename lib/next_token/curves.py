"""Tables for figures: cumulative probability, and means by position in the document."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.next_token.comparing import Stage, alike, interval_of, mean_of
from lib.next_token.statistics import mean_per_token
from lib.next_token.totals import N_SPANS, POSITION_COLUMNS, Totals


def curve(totals: Stage) -> pd.DataFrame:
    """Cumulative probability of the k likeliest tokens; of several fine-tunes the mean of theirs.

    Returns
    -------
    DataFrame
        One row per token of the vocabulary: ``n_tokens`` (k) and ``of_mean`` (of the mean distribution, as published).

    Raises
    ------
    ValueError
        As `intervals`.
    """
    (members,) = alike([totals])
    means = [mean_per_token(each, "probs")[0] for each in members]
    return pd.DataFrame(
        {
            "n_tokens": np.arange(1, members[0].vocab_tokens + 1),
            "of_mean": np.mean([np.cumsum(-np.sort(-mean)) for mean in means], axis=0),
        }
    )


def by_position(totals: Stage) -> pd.DataFrame:
    """Negative log-likelihood, entropy and divergence from the base by position in the document, in spans that double.

    Returns
    -------
    DataFrame
        One row per span and quantity: ``first``, ``last`` (positions from 0), ``quantity`` (``nll``, ``entropy``,
        ``kl``), ``value``, ``low``, ``high`` (nats; bootstrap as in `intervals`).
        Without a base there is no ``kl``.

    Raises
    ------
    ValueError
        As `intervals`.
    """
    (members,) = alike([totals])
    told = mean_of([_span_means(each) for each in members], seed=members[0].seed)
    rows = []
    for k, name in enumerate(POSITION_COLUMNS[1:]):
        for span in np.flatnonzero(np.isfinite(told[0, k])):
            found = interval_of(told[:, k, span], [members])
            rows.append((2**span - 1, 2 ** (span + 1) - 2, name, found.value, found.low, found.high))
    return pd.DataFrame(rows, columns=["first", "last", "quantity", "value", "low", "high"])


def _span_means(totals: Totals) -> np.ndarray:
    """Means per token, shape (1 + n_resamples, quantities, spans); NaN where a span has no tokens."""
    spans = mean_per_token(totals, "spans").reshape(1 + totals.n_resamples, len(POSITION_COLUMNS), N_SPANS)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = spans[:, 1:] / spans[:, :1]
    return means
