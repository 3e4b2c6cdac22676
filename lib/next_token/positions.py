"""Statistics of each next-token distribution, in one pass over a block of log-probabilities.

A half-precision log-probability is one of 65,536 numbers: its exponential is looked up, and rows are sorted by their
bits. Both are exact, and several times faster than computing and comparing floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np

BLOCK_NUMBERS = 2**17  # probabilities (8 bytes each) at once: what is made of them should stay in a processor's cache
LOWEST = float(np.finfo(np.float16).min)  # nats; stands for no mass at all, which minus infinity would spread as NaN
MASS_TOLERANCE = 0.02  # of a row of rounded log-probabilities, around 1


@dataclass(frozen=True)
class Positions:
    """What was found at n positions, and sums of their distributions over the vocabulary.

    Parameters
    ----------
    is_scored : array, shape (n,)
        False where a log-probability is not a number; nothing else tells of those positions, and the arrays below
        have a place for each scored one.
    nll, entropy : array, shape (n_scored,), nats
        Of the target and of the distribution.
    confidence : array, shape (n_scored,)
        Probability of the likeliest token.
    is_hit : array, shape (n_scored,)
        Whether that token is the target.
    rank : array, shape (n_scored,)
        Of the target: 1 and the number of likelier tokens.
    kl : array, shape (n_scored,), nats
        Kullback-Leibler divergence from another model; NaN without one.
    probs, ranked : array, shape (vocab,)
        Sum of the distributions by token, and of the same each in falling order.
    """

    is_scored: np.ndarray
    nll: np.ndarray
    entropy: np.ndarray
    confidence: np.ndarray
    is_hit: np.ndarray
    rank: np.ndarray
    kl: np.ndarray
    probs: np.ndarray
    ranked: np.ndarray

    @classmethod
    def join(cls, parts: Sequence[Positions]) -> Positions:
        """Parts of one document, in their order."""
        if len(parts) == 1:
            return parts[0]
        summed = ("probs", "ranked")
        columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)}
        return cls(**{k: np.sum(v, axis=0) if k in summed else np.concatenate(v) for k, v in columns.items()})


def measure_positions(
    logprobs: np.ndarray,
    targets: np.ndarray,
    *,
    target_logprobs: np.ndarray | None = None,
    base_logprobs: np.ndarray | None = None,
) -> Positions:
    """Measure a block of next-token distributions.

    Parameters
    ----------
    logprobs : array, shape (n, vocab), nats
        What half precision takes from a row's mass is made up for: each is normalised anew.
    targets : array, shape (n,)
        The tokens that follow.
    target_logprobs : array, shape (n,), nats, optional
        Those of the targets in a higher precision.
    base_logprobs : array, shape (n, vocab), nats, optional
        Of the model whose divergence is measured: KL(this || that).

    Raises
    ------
    ValueError
        If shapes do not fit, a target is not in the vocabulary, or rows do not sum to 1 (they are logits).

    >>> found = measure_positions(np.log([[0.5, 0.25, 0.25]]), np.array([1]))
    >>> found.entropy.round(4).tolist(), found.rank.tolist(), found.ranked.tolist()
    ([1.0397], [2], [0.5, 0.25, 0.25])
    """
    targets = np.asarray(targets)
    if logprobs.ndim != 2 or targets.shape != logprobs.shape[:1] or not len(targets):
        raise ValueError(
            f"expected rows (n, vocab) and one target each, found {logprobs.shape} and {targets.shape}: n is at least 1"
        )
    if base_logprobs is not None and base_logprobs.shape != logprobs.shape:
        raise ValueError(f"expected as many rows and tokens of both models: {logprobs.shape}, {base_logprobs.shape}")
    n, vocab = logprobs.shape
    if targets.min() < 0 or targets.max() >= vocab:
        wrong = targets.min() if targets.min() < 0 else targets.max()
        raise ValueError(f"target {wrong} is not in the vocabulary (0 to {vocab - 1})")
    told = None if target_logprobs is None else np.asarray(target_logprobs, dtype=float)
    step = min(n, max(1, BLOCK_NUMBERS // vocab))
    memory = _Memory(step, vocab)
    parts = []
    for start in range(0, n, step):
        rows = slice(start, start + step)
        of_rows = (None if each is None else each[rows] for each in (told, base_logprobs))
        parts.append(_measure(memory, logprobs[rows], targets[rows], *of_rows))
    return Positions.join(parts)


class _Memory:
    """What a block needs, taken once: a processor would spend more time on fresh memory than on the sums."""

    def __init__(self, n_rows: int, vocab: int) -> None:
        self.probs, self.other = np.empty((n_rows, vocab)), np.empty((n_rows, vocab))
        self.places = np.empty((n_rows, vocab), dtype=np.intp)
        self.bits = np.empty((n_rows, vocab), dtype=np.uint16)

    def fill_nats(self, logprobs: np.ndarray, into: np.ndarray) -> np.ndarray:
        """Log-probabilities of a block in double precision."""
        if _is_half(logprobs):
            return self._look_up(0, logprobs.view(np.uint16), into)
        return np.maximum(logprobs, LOWEST, out=into[: len(logprobs)])  # NaN stays

    def fill_probs(self, logprobs: np.ndarray, into: np.ndarray) -> np.ndarray:
        """Probabilities of a block."""
        if _is_half(logprobs):
            return self._look_up(1, logprobs.view(np.uint16), into)
        with np.errstate(over="ignore"):
            return np.exp(logprobs, out=into[: len(logprobs)], dtype=float)

    def fill_ranked(self, logprobs: np.ndarray, into: np.ndarray) -> np.ndarray:
        """Probabilities of each row in falling order; of numbers below zero, larger bits are the lower number."""
        if not _is_half(logprobs):
            return np.exp(np.sort(logprobs, axis=1)[:, ::-1], out=into[: len(logprobs)], dtype=float)
        bits = self.bits[: len(logprobs)]
        bits[...] = logprobs.view(np.uint16)
        bits.sort(axis=1, kind="stable")  # stable: by radix, in two passes
        return self._look_up(1, bits, into)

    def _look_up(self, table: int, bits: np.ndarray, into: np.ndarray) -> np.ndarray:
        places = self.places[: len(bits)]
        places[...] = bits
        return np.take(_tables()[table], places, out=into[: len(bits)], mode="clip")


def _measure(
    memory: _Memory,
    logprobs: np.ndarray,
    targets: np.ndarray,
    target_logprobs: np.ndarray | None,
    base: np.ndarray | None,
) -> Positions:
    probs = memory.fill_probs(logprobs, memory.probs)  # (rows, vocab)
    mass = probs.sum(axis=1)  # (rows,)
    base_mass = np.ones(len(mass)) if base is None else memory.fill_probs(base, memory.other).sum(axis=1)
    told = np.take_along_axis(logprobs, targets[:, None], axis=1)[:, 0].astype(float)  # (rows,)
    told = told - np.log(mass) if target_logprobs is None else target_logprobs
    is_scored = np.isfinite(mass) & np.isfinite(base_mass) & ~np.isnan(told)
    if not is_scored.all():
        of_rows = (None if each is None else each[is_scored] for each in (target_logprobs, base))
        return replace(_measure(memory, logprobs[is_scored], targets[is_scored], *of_rows), is_scored=is_scored)
    _check_mass(mass)
    _check_mass(base_mass)
    share = 1 / mass
    nats = np.vecdot(probs, memory.fill_nats(logprobs, memory.other)) * share  # of a row not yet normalised
    kl = np.full(len(mass), np.nan)
    if base is not None:
        other = np.vecdot(probs, memory.fill_nats(base, memory.other)) * share
        kl = nats - np.log(mass) - (other - np.log(base_mass))
    ranked = memory.fill_ranked(logprobs, memory.other)  # (rows, vocab)
    return Positions(
        is_scored=is_scored,
        nll=-np.maximum(told, LOWEST),
        entropy=np.log(mass) - nats,
        confidence=ranked[:, 0] * share,
        is_hit=_likeliest(logprobs) == targets,
        rank=1 + _n_likelier(logprobs, targets),
        kl=kl,
        probs=share @ probs,
        ranked=share @ ranked,
    )


def _check_mass(mass: np.ndarray) -> None:
    if len(mass) and (worst := float(mass[np.abs(mass - 1).argmax()])) and abs(worst - 1) > MASS_TOLERANCE:
        raise ValueError(f"expected log-probabilities, found a row whose mass is {worst:.4g}: normalise the logits")


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Nats and probability of each half-precision number, by its bits."""
    nats = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(float)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(np.isneginf(nats), LOWEST, nats), np.exp(nats)


def _is_half(logprobs: np.ndarray) -> bool:
    return logprobs.dtype == np.float16


def _likeliest(logprobs: np.ndarray) -> np.ndarray:
    return (logprobs.view(np.uint16).argmin if _is_half(logprobs) else logprobs.argmax)(axis=1)


def _n_likelier(logprobs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    bits = logprobs.view(np.uint16) if _is_half(logprobs) else -logprobs
    return np.count_nonzero(bits < np.take_along_axis(bits, targets[:, None], axis=1), axis=1)
