"""What can be said where an endpoint tells only its k likeliest tokens? Bounds, never values.

`lib.distributions.collect` with `top_k` asks such an endpoint. The mean distribution, coverage and divergence have no
useful bounds: the mass that is not told may lie anywhere.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np


class Truncated(Protocol):
    """`lib.distributions.TopK`, or a truncated table of `lib.distributions.collect`."""

    @property
    def ids(self) -> np.ndarray: ...

    @property
    def logprobs(self) -> np.ndarray: ...

    @property
    def tail(self) -> np.ndarray: ...


def entropy_bounds(told: Truncated, *, vocab_tokens: int) -> tuple[float, float]:
    """Least and most that the mean entropy can be, nats.

    Parameters
    ----------
    vocab_tokens : size of the vocabulary, for a hosted model one that is published

    Notes
    -----
    The untold mass m lies among tokens that are each at most as likely as the last one told, p: least entropy when it
    fills m / p of them to p, most when it is even over all the rest.

    Raises
    ------
    ValueError
        If the vocabulary has no room for the tokens that were told.

    >>> from lib.distributions import top_k
    >>> low, high = entropy_bounds(top_k(np.log([[0.5, 0.2, 0.2, 0.1]]), 2), vocab_tokens=4)
    >>> round(low, 4), round(high, 4)
    (1.2206, 1.2376)
    """
    logprobs = np.asarray(told.logprobs, dtype=float)
    n_rest = vocab_tokens - logprobs.shape[1]
    if n_rest < 0:
        raise ValueError(f"vocab_tokens = {vocab_tokens}: expected at least the {logprobs.shape[1]} that were told")
    probs, mass = np.exp(logprobs), np.exp(np.asarray(told.tail, dtype=float))
    seen = -(probs * logprobs).sum(axis=1)
    last = probs.min(axis=1, where=probs > 0, initial=1.0)
    whole = np.floor(mass / last)
    left = mass - whole * last
    least = seen - whole * last * np.log(last) - left * np.log(np.where(left > 0, left, 1))
    most = seen - mass * np.log(np.where(mass > 0, mass / max(1, n_rest), 1))
    return float(least.mean()), float(np.maximum(least, most).mean())


def perplexity_bounds(target_logprobs: np.ndarray, told: Truncated) -> tuple[float, float]:
    """Least and most that perplexity can be; the most is infinite as soon as one target was not told.

    Parameters
    ----------
    target_logprobs : array, shape (n,), nats
        NaN where the target is not among the k likeliest.
    """
    nats = np.asarray(target_logprobs, dtype=float)
    missed = np.isnan(nats)
    likeliest = np.minimum(np.asarray(told.tail, dtype=float), np.asarray(told.logprobs, dtype=float).min(axis=1))
    least = math.exp(-float(np.where(missed, likeliest, nats).mean()))
    return least, math.inf if missed.any() else least


def rank_bounds(told: Truncated, targets: np.ndarray, *, vocab_tokens: int) -> tuple[float, float]:
    """Least and most that the mean reciprocal rank of the targets can be."""
    ids = np.asarray(told.ids)
    at = ids == np.asarray(targets)[:, None]
    found = at.any(axis=1)
    known = 1 / (1 + at.argmax(axis=1))
    most = np.where(found, known, 1 / (1 + ids.shape[1]))
    return float(np.where(found, known, 1 / vocab_tokens).mean()), float(most.mean())
