"""Intervals from resampled clusters: of a mean or another statistic, a difference of means, a ratio of sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from lib.stats.rows import Floats, Values, cluster_codes, row_values


@dataclass(frozen=True)
class Interval:
    """A number, its interval and how many clusters stand behind it; bounds are NaN where they cannot be told."""

    value: float
    low: float
    high: float
    n: int
    method: str = "cluster bootstrap"
    level: float = 0.95

    def map(self, function: Callable[[float], float]) -> Interval:
        """The interval on another scale; `function` must rise (a perplexity is `math.exp` of nats a token).

        >>> Interval(0.0, -1.0, 1.0, n=5).map(lambda nats: 2 * nats).high
        2.0
        """
        return replace(self, value=function(self.value), low=function(self.low), high=function(self.high))


def cluster_bootstrap(
    values: Values,
    clusters: Values,
    *,
    rng: np.random.Generator,
    statistic: Callable[[Floats], Any] = np.mean,
    seeds: Values | None = None,
    rate: bool | None = None,
    level: float = 0.95,
    n_resamples: int = 2000,
) -> Interval:
    """Percentile interval of a statistic over rows, from whole clusters drawn with replacement.

    Parameters
    ----------
    values : sequence, shape (n_rows,)
        What was measured, a row each; every row weighs the same, so that the mean is the one a reader would compute.
    clusters : sequence, shape (n_rows,)
        What was drawn, for each row.
    statistic : function of an array of values, default the mean
        Any other statistic is called once a resample.
    seeds : sequence, shape (n_rows,), optional
        The fine-tune of each row. When given, fine-tunes are drawn with replacement too (crossed with the clusters), so
        that the interval speaks of other fine-tunes as well as other people; every cluster must occur with every seed.
    rate : bool, optional
        Whether values are successes; by default, whether they are booleans.

    Returns
    -------
    Interval
        `n` is the number of clusters. One cluster: bounds are NaN. No spread between resamples: for a rate, the Wilson
        interval with each cluster as one trial (`method` says so; nothing is then known of the spread inside a
        cluster), otherwise NaN.

    Raises
    ------
    ValueError
        If there are no rows, a value or cluster is missing, lengths differ, or a rate lies outside 0 to 1.

    Notes
    -----
    Clusters: Davison and Hinkley 1997, section 3.8; crossed factors: Owen 2007 (pigeonhole bootstrap); Wilson 1927.

    >>> people = ["ada", "ada", "bo", "bo", "cy", "cy"]
    >>> found = cluster_bootstrap([1, 1, 0, 0, 1, 0], people, rng=np.random.default_rng(0))
    >>> found.value, found.low, found.high, found.n
    (0.5, 0.0, 1.0, 3)
    >>> cluster_bootstrap([False] * 6, people, rng=np.random.default_rng(0)).method
    'Wilson over clusters'
    """
    numbers, is_rate = row_values(values, rate=rate)
    codes, n = cluster_codes(clusters, n_rows=len(numbers))
    value = float(statistic(numbers))
    if n < 2:
        return Interval(value, np.nan, np.nan, n, "one cluster", level)
    if statistic is np.mean:
        replicates = _means(_cells(numbers, codes, seeds), rng=rng, n_resamples=n_resamples)
    elif seeds is None:
        groups = [np.flatnonzero(codes == code) for code in range(n)]
        draws = rng.integers(n, size=(n_resamples, n))
        replicates = np.array([statistic(numbers[np.concatenate([groups[i] for i in draw])]) for draw in draws])
    else:
        raise ValueError("seeds are drawn for the mean only: leave out `seeds` or `statistic`")
    if _collapsed(replicates):
        if not is_rate or statistic is not np.mean:
            return Interval(value, np.nan, np.nan, n, "no spread", level)
        return Interval(value, *_wilson(value, n, level), n, "Wilson over clusters", level)
    return _percentile(value, replicates, n, level)


def cluster_difference(
    first: Values,
    second: Values,
    *,
    clusters: Values,
    second_clusters: Values | None = None,
    rng: np.random.Generator,
    rate: bool | None = None,
    level: float = 0.95,
    n_resamples: int = 2000,
) -> Interval:
    """Interval of mean(first) - mean(second), with both drawn over the same clusters where they share them.

    `second_clusters` (default: `clusters`) holds either the same clusters, which are then drawn once for both (paired),
    or entirely other ones, which are drawn independently; `n` is the smaller number of clusters. Where nothing spreads,
    a difference of rates gets Newcombe's 1998 interval over clusters (method 10, which takes the two sides for
    independent), anything else NaN bounds.

    Raises
    ------
    ValueError
        As `cluster_bootstrap`, and if the two share only some of their clusters.

    >>> people = ["ada", "bo", "cy", "di"]
    >>> cluster_difference([4, 5, 7, 6], [1, 2, 5, 3], clusters=people, rng=np.random.default_rng(0)).value
    2.75
    """
    a, is_rate = row_values(first, rate=rate)
    b, second_is_rate = row_values(second, rate=rate)
    names_a = pd.Series(clusters).array
    names_b = names_a if second_clusters is None else pd.Series(second_clusters).array
    codes_a, n_a = cluster_codes(names_a, n_rows=len(a))
    codes_b, n_b = cluster_codes(names_b, n_rows=len(b))
    shared = set(names_a) & set(names_b)
    if shared and not n_a == n_b == len(shared):
        raise ValueError(f"{len(shared)} clusters are on both sides, of {n_a} and {n_b}: expected all of them or none")
    value, n = float(a.mean() - b.mean()), min(n_a, n_b)
    if n < 2:
        return Interval(value, np.nan, np.nan, n, "one cluster", level)
    # One state for both sides is what pairs them: the same clusters are drawn for the first and for the second.
    state = rng.integers(2**63, size=2)
    rng_a, rng_b = (np.random.default_rng(state[0 if shared else side]) for side in (0, 1))
    replicates = _means(_cells(a, codes_a, None), rng=rng_a, n_resamples=n_resamples)
    replicates = replicates - _means(_cells(b, codes_b, None), rng=rng_b, n_resamples=n_resamples)
    if not _collapsed(replicates):
        return _percentile(value, replicates, n, level)
    if not (is_rate and second_is_rate):
        return Interval(value, np.nan, np.nan, n, "no spread", level)
    (low_a, high_a), (low_b, high_b) = _wilson(a.mean(), n_a, level), _wilson(b.mean(), n_b, level)
    below, above = np.hypot(a.mean() - low_a, high_b - b.mean()), np.hypot(high_a - a.mean(), b.mean() - low_b)
    return Interval(value, float(value - below), float(value + above), n, "Newcombe over clusters", level)


def cluster_ratio(
    numerators: Values,
    denominators: Values,
    clusters: Values,
    *,
    rng: np.random.Generator,
    seeds: Values | None = None,
    level: float = 0.95,
    n_resamples: int = 2000,
) -> Interval:
    """Percentile interval of sum(numerators) / sum(denominators), both drawn together over whole clusters.

    For nats over bytes, or for the part of a gap that is closed. Parameters other than the two sequences of shape
    (n_rows,) are as in `cluster_bootstrap`. Bounds are NaN for one cluster, and where resamples leave no finite ratio.

    Raises
    ------
    ValueError
        As `cluster_bootstrap`, and if the denominators sum to zero.

    >>> cluster_ratio([2, 4, 3], [1, 2, 2], ["ada", "bo", "cy"], rng=np.random.default_rng(0)).value
    1.8
    """
    above, _ = row_values(numerators, rate=False)
    below, _ = row_values(denominators, rate=False)
    codes, n = cluster_codes(clusters, n_rows=len(above))
    if len(below) != len(above):
        raise ValueError(f"{len(above)} numerators and {len(below)} denominators: expected as many")
    if not below.sum():
        raise ValueError("the denominators sum to zero: there is no ratio")
    value = float(above.sum() / below.sum())
    if n < 2:
        return Interval(value, np.nan, np.nan, n, "one cluster", level)
    cells = _cells(above, codes, seeds)[0], _cells(below, codes, seeds)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = _means(cells, rng=rng, n_resamples=n_resamples)
    if not np.isfinite(replicates).all():
        return Interval(value, np.nan, np.nan, n, "a resample has no ratio", level)
    if _collapsed(replicates):
        return Interval(value, np.nan, np.nan, n, "no spread", level)
    return _percentile(value, replicates, n, level)


def _cells(numbers: Floats, codes: NDArray[np.intp], seeds: Values | None) -> tuple[Floats, Floats]:
    seed_codes, n_seeds = (np.zeros_like(codes), 1) if seeds is None else cluster_codes(seeds, n_rows=len(numbers))
    shape = (int(codes.max()) + 1, n_seeds)
    flat = codes * n_seeds + seed_codes
    sums = (
        np.bincount(flat, weights=numbers, minlength=shape[0] * n_seeds).astype(float).reshape(shape)
    )  # (cluster, seed)
    sizes = np.bincount(flat, minlength=shape[0] * n_seeds).astype(float).reshape(shape)  # (cluster, seed)
    if not sizes.all():
        raise ValueError(
            "some clusters do not occur with every seed: for fine-tunes on data of their own, "
            "put the seed into the cluster and leave out `seeds`"
        )
    return sums, sizes


def _means(cells: tuple[Floats, Floats], *, rng: np.random.Generator, n_resamples: int) -> Floats:
    sums, sizes = cells
    n, n_seeds = sums.shape
    block = max(1, 4_000_000 // n)  # bounds the memory when there are many documents
    means = []
    for start in range(0, n_resamples, block):
        size = min(block, n_resamples - start)
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=size).astype(float)  # (resample, cluster)
        weights = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=size)  # (resample, seed)
        means.append(((drawn @ sums) * weights).sum(axis=1) / ((drawn @ sizes) * weights).sum(axis=1))
    return np.concatenate(means)


def _collapsed(replicates: Floats) -> bool:
    return bool(np.ptp(replicates) <= 1e-12 * max(1.0, float(np.abs(replicates).max())))


def _percentile(value: float, replicates: Floats, n: int, level: float) -> Interval:
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(min(low, value)), float(max(high, value)), n, "cluster bootstrap", level)


def _wilson(rate: float, n: int, level: float) -> tuple[float, float]:
    z2 = float(scipy_stats.norm.ppf((1 + level) / 2)) ** 2
    centre, half = (rate + z2 / (2 * n)), np.sqrt(z2 * rate * (1 - rate) / n + z2**2 / (4 * n**2))
    low, high = (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)
    return float(np.clip(low, 0, rate)), float(np.clip(high, rate, 1))
