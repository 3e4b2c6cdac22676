"""Score the true tokens under a blend of three next-token distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.blending.support import MODELS, Support

Floats = NDArray[np.float64]
Weights = tuple[float, float, float]


def checked_weights(weights: Sequence[float]) -> Weights:
    """Three finite weights of big, tuned and base, or a `ValueError`."""
    numbers = tuple(float(weight) for weight in weights)
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        raise ValueError(f"expected three finite weights (big, tuned, base), got {tuple(weights)}")
    return numbers


def weighted_sum(tables: NDArray[Any], weights: Sequence[float]) -> NDArray[Any]:
    """Sum of the tables of shape (n_models, ...) times their weights, in the tables' own dtype."""
    # From the last on: tuned and base stand side by side, so that equal ones cancel to exactly zero.
    total = np.zeros(tables.shape[1:], dtype=tables.dtype)
    for table, weight in zip(tables[::-1], tuple(weights)[::-1], strict=True):
        if weight:
            total += table.dtype.type(weight) * table
    return total


def target_logprobs(support: Support, weights: Sequence[float] = (1.0, 1.0, -1.0)) -> Floats:
    """Log-probability of each true token under the blend ``big * w[0] + tuned * w[1] + base * w[2]``, normalised.

    With weights (1, a, -a) this is proxy-tuning with strength a (Liu et al. 2024, eq. 1).

    Parameters
    ----------
    support : Support of n records
    weights : 3 floats, of big, tuned and base; (1, 0, 0) scores `big` on the same support

    Returns
    -------
    array, shape (n,), nats

    Raises
    ------
    ValueError
        If a record holds NaN or infinity; names the first.
    """
    given = checked_weights(weights)
    used = {name: weight for name, weight in zip(MODELS, given, strict=True) if weight}
    out = np.empty(len(support))
    for rows, block, log_counts in support.blocks(tuple(used)):
        scores = weighted_sum(block, tuple(used.values()))  # (n_rows, m)
        out[rows] = -log_partition(scores, log_counts, first=rows.start)[0]
    return out


def log_partition(
    scores: NDArray[Any], log_counts: NDArray[Any] | None, *, first: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Log of the sum of exponentials of each row, and the normalised probabilities, which overwrite `scores`.

    Raises
    ------
    ValueError
        If a row's sum is not a number; `first` is the number of the first row.
    """
    if log_counts is not None:
        scores += log_counts
    highest = scores.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        np.exp(np.subtract(scores, highest, out=scores), out=scores)
    total = scores.sum(axis=1, keepdims=True)
    scores /= total
    logs = (highest + np.log(total))[:, 0]  # (n_rows,)
    refuse_undefined(logs, first=first)
    return logs, scores


def refuse_undefined(values: NDArray[Any], *, first: int) -> None:
    """`ValueError` that names the first record with a value that is not finite; `first` is the number of row 0."""
    if not (is_defined := np.isfinite(values)).all():
        row = first + int(np.nonzero(~is_defined)[0][0])
        raise ValueError(f"record {row} holds NaN or infinity: expected log-probabilities in nats")
