"""Lists of the k most probable tokens: cut from whole distributions, and aligned between models."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.blending.predictions import LOWEST, Aligned, Predictions, tail_of


def cut(predictions: Predictions, k: int) -> Predictions:
    """The k most probable tokens of whole distributions, the most probable first.

    >>> whole = Predictions(np.array([0]), np.log([0.1]), np.log([[0.1, 0.6, 0.3]]), None, None, 3)
    >>> part = cut(whole, 2)
    >>> part.ids.tolist(), np.exp(part.tail).round(3).tolist(), part.target_logprobs.tolist()
    ([[1, 2]], [0.1], [nan])
    """
    whole = np.asarray(predictions.logprobs, dtype=np.float32)
    ids = np.argpartition(-whole, min(k, whole.shape[1]) - 1, axis=1)[:, :k]
    ids = np.take_along_axis(ids, np.argsort(-np.take_along_axis(whole, ids, axis=1), axis=1), axis=1)
    logprobs = np.take_along_axis(whole, ids, axis=1)
    seen = (ids == predictions.target[:, None]).any(axis=1)
    own = np.where(seen, predictions.target_logprobs, np.nan)
    return Predictions(predictions.target, own, logprobs, ids, tail_of(logprobs), predictions.vocab_size)


def aligned(big: Predictions, tuned: Predictions, base: Predictions, documents: ArrayLike) -> Aligned:
    """Three models' predictions over the same tokens: the vocabulary, or all tokens of the three lists and the rest.

    The rest is one column for the tokens that no list has. A model spreads its tail evenly over the tokens that its own
    list lacks, so all models are normalised over the same tokens, and equal models cancel.
    """
    three, target, document = (big, tuned, base), big.target, np.asarray(documents)
    if big.ids is None:
        whole = [np.maximum(np.asarray(each.logprobs, dtype=np.float32), LOWEST) for each in three]
        return Aligned(whole[0], whole[1], whole[2], target, document, np.zeros((len(target), 1), dtype=np.float32))
    ids = np.concatenate([np.asarray(each.ids) for each in three], axis=1).astype(np.int64)
    order = np.argsort(ids, axis=1, kind="stable")
    is_first = np.empty(ids.shape, dtype=bool)
    np.put_along_axis(is_first, order, np.diff(np.take_along_axis(ids, order, axis=1), axis=1, prepend=-1) != 0, axis=1)
    is_first &= ids >= 0
    ids, last = np.pad(ids, ((0, 0), (0, 1)), constant_values=-1), ids.shape[1]
    n_rest = big.vocab_size - is_first.sum(axis=1)
    with np.errstate(divide="ignore"):
        log_counts = np.column_stack([np.where(is_first, 0.0, -np.inf), np.log(n_rest)])
    tables = []
    for each in three:
        own = listed(each, ids)
        tables.append(np.where(np.isnan(own), each.tail_per_token()[:, None], own))
    is_target = np.column_stack([is_first & (ids[:, :-1] == target[:, None]), np.zeros(len(ids), dtype=bool)])
    column = np.where(is_target.any(axis=1), is_target.argmax(axis=1), last)
    return Aligned(tables[0], tables[1], tables[2], column, document, log_counts)


def listed(lists: Predictions, ids: NDArray[np.integer]) -> NDArray[np.float64]:
    """Log-probabilities that lists give to the ids of each row, (n, m); NaN where a list lacks one."""
    own = np.asarray(lists.ids).astype(np.int64)
    stride = 2 + max(int(own.max(initial=0)), int(ids.max(initial=0)))
    row = np.arange(len(ids))[:, None] * stride + 1
    keys, values = (row + own)[own >= 0], np.asarray(lists.logprobs, dtype=float)[own >= 0]
    order = np.argsort(keys)
    index = np.searchsorted(keys[order], row + ids).clip(max=len(keys) - 1)
    return np.where((keys[order][index] == row + ids) & (ids >= 0), values[order][index], np.nan)
