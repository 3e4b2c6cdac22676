"""What do the figures draw? Tables of cumulative probability, calibration, ranks and spans of positions."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.next_token.comparing import Stage, alike, interval_of, mean_of
from lib.next_token.statistics import weighted
from lib.next_token.totals import N_BINS, N_SPANS, POSITION_COLUMNS, Totals


def curve(totals: Stage, *, weighting: str = "token") -> pd.DataFrame:
    """Cumulative probability of the k likeliest tokens; of several fine-tunes the mean of theirs.

    Returns
    -------
    DataFrame
        A row a token of the vocabulary: ``n_tokens`` (k), ``of_mean`` (the mean distribution, sorted; the published
        curve) and ``of_each`` (the mean of sorted distributions).

    Raises
    ------
    ValueError
        As `intervals`.
    """
    (members,) = alike([totals])
    means = [weighted(each, "probs", weighting)[0] for each in members]
    ranked = [weighted(each, "ranked", weighting)[0] for each in members]
    return pd.DataFrame(
        {
            "n_tokens": np.arange(1, members[0].vocab_tokens + 1),
            "of_mean": np.mean([np.cumsum(-np.sort(-mean)) for mean in means], axis=0),
            "of_each": np.mean(np.cumsum(ranked, axis=1), axis=0),
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


def by_position(totals: Stage, *, weighting: str = "token") -> pd.DataFrame:
    """Surprise, entropy and divergence from the base by position in the document, in spans that double.

    Returns
    -------
    DataFrame
        A row a span and quantity: ``first``, ``last`` (positions from 0), ``quantity`` (``nll``, ``entropy``, ``kl``),
        ``value``, ``low``, ``high`` (nats; bootstrap as in `intervals`, over fine-tunes too where there are several).
        Without a base there is no ``kl``.

    Raises
    ------
    ValueError
        As `intervals`.
    """
    (members,) = alike([totals])
    told = mean_of([_span_means(each, weighting) for each in members], seed=members[0].seed)
    rows = []
    for k, name in enumerate(POSITION_COLUMNS[1:]):
        for span in np.flatnonzero(np.isfinite(told[0, k])):
            found = interval_of(told[:, k, span], [members])
            rows.append((2**span - 1, 2 ** (span + 1) - 2, name, found.value, found.low, found.high))
    return pd.DataFrame(rows, columns=["first", "last", "quantity", "value", "low", "high"])


def _span_means(totals: Totals, weighting: str) -> np.ndarray:
    """Means a token, shape (1 + n_resamples, quantities, spans); NaN where a span has no tokens."""
    spans = weighted(totals, "spans", weighting).reshape(1 + totals.n_resamples, len(POSITION_COLUMNS), N_SPANS)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = spans[:, 1:] / spans[:, :1]
    return means
