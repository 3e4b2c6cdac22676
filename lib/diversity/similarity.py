"""The effective number of different texts: diversity of order q and the Vendi score, from a similarity matrix."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from lib.diversity.cell import Cell, Floats, UndefinedMeasure

N_DRAWS = 50  # as published


def order_q(matrix: Floats, q: int, *, n_times: NDArray[np.intp] | None = None) -> float:
    """Similarity-sensitive diversity of order q, exactly: mu ** (1 / (1 - q)).

    Parameters
    ----------
    matrix : array, shape (m, m)
        Similarities, 1 on the diagonal.
    q : int, at least 2
    n_times : array, shape (m,), default once each
        How often each of the m was drawn.

    Raises
    ------
    UndefinedMeasure
        If the mean similarity of q draws is not positive (cosines may be negative).
    ValueError
        If q is less than 2.

    Notes
    -----
    mu = mean_i (mean_j K_ij) ** (q - 1) is what the mean over draws of q texts tends to (Leinster 2021, example 6.1.7).

    >>> order_q(np.eye(4), 2), order_q(np.ones((4, 4)), 3)
    (4.0, 1.0)
    """
    if q < 2:
        raise ValueError(f"q is {q}: expected an order of at least 2")
    shares = np.full(len(matrix), 1 / len(matrix)) if n_times is None else n_times / n_times.sum()
    return _from_mean(float(shares @ (matrix @ shares) ** (q - 1)), q)


def order_q_drawn(matrix: Floats, q: int, *, seed: int = 0, n_draws: int = N_DRAWS) -> float:
    """Diversity of order q estimated from draws, as published: noisy, and undefined where no draw is alike.

    Parameters
    ----------
    matrix : array, shape (n, n)
        Similarities of all n texts, equal ones included.
    seed : of the draws; sets of one size get the same draws (published: unseeded)

    Raises
    ------
    UndefinedMeasure
        If n is not more than q, or no draw is alike (published: NaN, which biases the mean over what is left).

    >>> order_q_drawn(np.ones((4, 4)), 3)
    1.0
    """
    if len(matrix) <= q:
        raise UndefinedMeasure(f"not more than {q} texts")
    drawn = _draws(len(matrix), q, seed, n_draws)  # (n_draws, q)
    return _from_mean(float(matrix[drawn[:, :1], drawn[:, 1:]].prod(axis=1).mean()), q)


@cache
def _draws(n: int, q: int, seed: int, n_draws: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, q, n]).integers(n, size=(n_draws, q))


def _from_mean(mean: float, q: int) -> float:
    if not mean > 0:
        raise UndefinedMeasure("mean similarity is not above 0")
    return float(mean ** (1 / (1 - q)))


def vendi(matrix: Floats, *, n_times: NDArray[np.intp] | None = None) -> float:
    """Vendi score: exponential of the Shannon entropy of the eigenvalues of K / n.

    Parameters are those of `order_q`; the score lies between 1 (all alike) and n (nothing alike).

    Notes
    -----
    Friedman and Dieng 2023. Texts drawn several times weigh so without making the matrix larger.

    >>> round(vendi(np.eye(4)), 9), round(vendi(np.ones((4, 4))), 9)
    (4.0, 1.0)
    """
    shares = np.full(len(matrix), 1 / len(matrix)) if n_times is None else n_times / n_times.sum()
    root = np.sqrt(shares)
    values = np.linalg.eigvalsh(matrix * np.outer(root, root))
    values = values[values > 0]
    return float(np.exp(-(values * np.log(values)).sum()))


def similarity(cell: Cell, kernel: str) -> Floats:
    """Similarities of the distinct texts of a cell, shape (m, m): ``jaccard_2`` or ``cosine``."""
    return cell.jaccard(2) if kernel == "jaccard_2" else cell.cosine
