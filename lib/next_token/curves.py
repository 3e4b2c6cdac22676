"""What do the figures draw? Tables of cumulative probability, calibration, ranks and spans of positions."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.next_token.statistics import weighted
from lib.next_token.totals import N_BINS, N_SPANS, POSITION_COLUMNS, Totals


def curve(totals: Totals, *, weighting: str = "token") -> pd.DataFrame:
    """Cumulative probability of the k likeliest tokens.

    Returns
    -------
    DataFrame
        A row a token of the vocabulary: ``n_tokens`` (k), ``of_mean`` (the mean distribution, sorted; the published
        curve) and ``of_each`` (the mean of sorted distributions).
    """
    mean = weighted(totals, "probs", weighting)[0]
    ranked = weighted(totals, "ranked", weighting)[0]
    return pd.DataFrame(
        {
            "n_tokens": np.arange(1, totals.vocab_tokens + 1),
            "of_mean": np.cumsum(-np.sort(-mean)),
            "of_each": np.cumsum(ranked),
        }
    )


def published_coverage(totals: Totals, *, level: float, padded_tokens: int) -> float:
    """Coverage as published: place, from 0, of the first cumulative value above the level, over the padded width.

    `tokens_for` counts from 1 and divides by the tokenizer's own tokens, as a comparison of models needs.

    Raises
    ------
    ValueError
        If the padded width is below the vocabulary, or no value lies above the level.
    """
    if padded_tokens < totals.vocab_tokens:
        raise ValueError(f"padded_tokens = {padded_tokens}: expected at least the vocabulary, {totals.vocab_tokens}")
    above = curve(totals)["of_mean"].to_numpy() > level
    if not above.any():
        raise ValueError(f"level = {level}: expected one below 1")
    return float(above.argmax() / padded_tokens)


def calibration(totals: Totals, *, weighting: str = "token") -> pd.DataFrame:
    """Confidence and accuracy by bins of confidence; bins without tokens are left out.

    Returns
    -------
    DataFrame
        A row a bin: ``low``, ``high`` (its bounds), ``share`` (of tokens), ``confidence``, ``accuracy``.
    """
    share, confidence, hits = weighted(totals, "calibration", weighting)[0].reshape(3, N_BINS)
    edges = np.arange(N_BINS + 1) / N_BINS
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "share": share})
    with np.errstate(invalid="ignore"):
        table = table.assign(confidence=confidence / share, accuracy=hits / share)
    return table[table["share"] > 0].reset_index(drop=True)


def ranks(totals: Totals) -> pd.DataFrame:
    """How often the target was the k-th likeliest: ``rank`` (k), ``n`` (exactly there), ``share`` (there or before)."""
    n = totals.rank_counts
    return pd.DataFrame({"rank": np.arange(1, len(n) + 1), "n": n, "share": np.cumsum(n) / max(1, n.sum())})


def by_position(totals: Totals, *, weighting: str = "token", level: float = 0.95) -> pd.DataFrame:
    """Surprise, entropy and divergence from the base by position in the document, in spans that double.

    Returns
    -------
    DataFrame
        A row a span and quantity: ``first``, ``last`` (positions from 0), ``quantity`` (``nll``, ``entropy``, ``kl``),
        ``value``, ``low``, ``high`` (nats; bootstrap over documents). Without a base there is no ``kl``.
    """
    spans = weighted(totals, "spans", weighting)
    n, *quantities = spans.reshape(len(spans), len(POSITION_COLUMNS), N_SPANS).swapaxes(0, 1)  # (resamples, spans)
    rows = []
    for name, sums in zip(POSITION_COLUMNS[1:], quantities, strict=True):
        for span in np.flatnonzero((n[0] > 0) & np.isfinite(sums[0])):
            here = n[:, span] > 0
            means = sums[here, span] / n[here, span]
            bounds = np.quantile(means[1:], [(1 - level) / 2, (1 + level) / 2]) if len(means) > 2 else [np.nan] * 2
            low, high = min(bounds[0], means[0]), max(bounds[1], means[0])
            if totals.count("documents") < 2:
                low = high = np.nan
            rows.append((2**span - 1, 2 ** (span + 1) - 2, name, means[0], low, high))
    return pd.DataFrame(rows, columns=["first", "last", "quantity", "value", "low", "high"])
