"""The likeliest tokens and the mass of all others: what truncation leaves of a distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK_NUMBERS = 2**22  # log-probabilities converted at once, so that a memory map is never held whole
LOWEST = float(np.finfo(np.float16).min)  # nats; stands for no mass at all, which minus infinity would spread as NaN


@dataclass(frozen=True)
class TopK:
    """The k likeliest tokens of n distributions.

    Parameters
    ----------
    ids : array, shape (n, k), int32
        Likeliest first.
    logprobs : array, shape (n, k), nats, float32
    tail : array, shape (n,), nats, float32
        Log of the mass outside the list; -65504 where there is none.
    """

    ids: np.ndarray
    logprobs: np.ndarray
    tail: np.ndarray


def top_k(logprobs: np.ndarray, k: int) -> TopK:
    """Truncate whole distributions to their k likeliest tokens.

    Parameters
    ----------
    logprobs : array, shape (n, vocab), nats
        May be a float16 memory map; it is read block by block. Of equals the lower id comes first.

    Raises
    ------
    ValueError
        If `logprobs` has not two dimensions or k is not between 1 and the vocabulary.

    >>> part = top_k(np.log([[0.1, 0.6, 0.3]]), 2)
    >>> part.ids.tolist(), np.exp(part.logprobs).round(3).tolist(), np.exp(part.tail).round(3).tolist()
    ([[1, 2]], [[0.6..., 0.3...]], [0.1...])
    """
    if logprobs.ndim != 2:
        raise ValueError(f"expected log-probabilities of shape (n, vocab), found {logprobs.shape}")
    n, vocab = logprobs.shape
    if not 1 <= k <= vocab:
        raise ValueError(f"expected k between 1 and the vocabulary of {vocab}, found {k}")
    found = TopK(np.empty((n, k), np.int32), np.empty((n, k), np.float32), np.empty(n, np.float32))
    step = max(1, BLOCK_NUMBERS // vocab)
    for start in range(0, n, step):
        block = np.array(logprobs[start : start + step], dtype=np.float32)  # (rows, vocab)
        _truncate(block, k, found, slice(start, start + len(block)))
    return found


def _truncate(block: np.ndarray, k: int, found: TopK, rows: slice) -> None:
    """Write one block's part; `block` loses its likeliest tokens on the way."""
    least = -np.partition(-block, k - 1, axis=1)[:, k - 1 : k]  # (rows, 1)
    sure, tied = block > least, block == least
    room = k - sure.sum(1, keepdims=True)
    inside = sure | (tied & (np.cumsum(tied, axis=1) <= room))  # exactly k a row
    ids = np.nonzero(inside)[1].reshape(len(block), k)
    values = np.take_along_axis(block, ids, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    found.ids[rows] = np.take_along_axis(ids, order, axis=1)
    found.logprobs[rows] = np.take_along_axis(values, order, axis=1)
    block[inside] = -np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        peak = block.max(axis=1)  # (rows,)
        tail = peak + np.log(np.exp(block - peak[:, None]).sum(axis=1))
    found.tail[rows] = np.maximum(np.nan_to_num(tail, nan=LOWEST, neginf=LOWEST), LOWEST)
