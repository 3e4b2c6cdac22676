"""Every statistic of one model, from its totals: of the whole and of each resample of documents."""

from __future__ import annotations

import numpy as np
from scipy.special import entr

from lib.next_token.totals import COLUMNS, N_BINS, Totals

METRICS = {
    "perplexity": "per token",
    "bits_per_byte": "bits per byte",
    "entropy_of_mean": "nats",  # of the mean distribution: how many tokens the model uses at all
    "mean_entropy": "nats",  # how open each prediction is
    "entropy_gap": "nats",  # the first less the second: Jensen-Shannon divergence of the predictions
    "effective_vocabulary": "tokens",  # exponentials of the two entropies
    "effective_choices": "tokens",
    "coverage_70_tokens": "tokens",  # fewest that hold so much of the mean distribution
    "coverage_90_tokens": "tokens",
    "coverage_70": "rate",  # the same, of the tokenizer's tokens
    "coverage_90": "rate",
    "choices_70_tokens": "tokens",  # fewest of each prediction, by the mean of the sorted distributions; up to 512
    "choices_90_tokens": "tokens",
    "top_5_mass": "rate",
    "top_10_mass": "rate",
    "top_50_mass": "rate",
    "confidence": "rate",
    "accuracy": "rate",
    "calibration_error": "rate",
    "reciprocal_rank": "rate",
    "kl": "nats",  # from the base model; not there without one
}
LEVELS = {"70": 0.7, "90": 0.9}
TOP = (5, 10, 50)
ROUNDING = 1e-6  # of float32 sums


def mean_per_token(totals: Totals, name: str) -> np.ndarray:
    """Means per token of one of the totals' arrays, shape (1 + n_resamples, ...); NaN for a resample without documents.

    Raises
    ------
    ValueError
        If nothing was scored.
    """
    if not totals.count("documents"):
        raise ValueError(
            f"nothing was scored: {totals.count('skipped_documents')} documents and "
            f"{totals.count('skipped_positions')} positions were skipped, see `skipped` of the document table"
        )
    with np.errstate(invalid="ignore"):
        means: np.ndarray = getattr(totals, name) / totals.sums[:, :1]
    return means


def statistic_values(totals: Totals) -> dict[str, np.ndarray]:
    """Every statistic of `METRICS` that these totals have, of the whole and of each resample, shape (1 + n_resamples,).

    Raises
    ------
    ValueError
        As `mean_per_token`.
    """
    means = dict(zip(COLUMNS, mean_per_token(totals, "sums").T, strict=True))  # (1 + resamples,) each
    mean_probs = mean_per_token(totals, "probs")  # (1 + resamples, vocab)
    ranked = np.cumsum(mean_per_token(totals, "ranked"), axis=1)
    of_mean = np.cumsum(-np.sort(-mean_probs, axis=1), axis=1)
    spread = entr(mean_probs).sum(axis=1)
    with np.errstate(over="ignore"):  # a target without any mass
        perplexity = np.exp(means["nll"])
    values = {
        "perplexity": perplexity,
        "bits_per_byte": means["bits_per_byte"] / means["bytes"],
        "entropy_of_mean": spread,
        "mean_entropy": means["entropy"],
        "entropy_gap": spread - means["entropy"],
        "effective_vocabulary": np.exp(spread),
        "effective_choices": np.exp(means["entropy"]),
    }
    for name, level in LEVELS.items():
        n_tokens = tokens_for(of_mean, level)
        values[f"coverage_{name}_tokens"] = n_tokens
        values[f"coverage_{name}"] = n_tokens / totals.vocab_tokens
        values[f"choices_{name}_tokens"] = tokens_for(ranked, level)
    for k in TOP:
        values[f"top_{k}_mass"] = np.minimum(1, ranked[:, min(k, totals.vocab_tokens) - 1])
    values |= {name: means[name] for name in ("confidence", "accuracy", "reciprocal_rank", "kl")}
    values["calibration_error"] = _calibration_error(mean_per_token(totals, "calibration"))
    return {name: values[name] for name in METRICS if not np.isnan(values[name][0])}


def tokens_for(cumulative: np.ndarray, level: float) -> np.ndarray:
    """Fewest tokens whose mass reaches a level, shape (...,), counted from 1; NaN where these do not reach it.

    Parameters
    ----------
    cumulative : array, shape (..., n)

    >>> tokens_for(np.array([[0.5, 0.7, 1.0]]), 0.7).tolist()
    [2.0]
    """
    short = cumulative < level - ROUNDING  # sums that should be equal to the level differ from it by rounding
    counts = (short.sum(axis=-1) + 1).astype(float)
    return np.where(cumulative[..., -1] >= level - ROUNDING, counts, np.nan)


def _calibration_error(calibration: np.ndarray) -> np.ndarray:
    """Mean over tokens of the distance of confidence and accuracy in their bin (ECE; Guo et al. 2017, eq. 3)."""
    _, confidence, hits = calibration.reshape(len(calibration), 3, N_BINS).swapaxes(0, 1)
    error: np.ndarray = np.abs(confidence - hits).sum(axis=1)
    return error
