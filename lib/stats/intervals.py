"""Bootstrap intervals over clusters: of a mean or another statistic, and of a ratio of sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from lib.stats.rows import Floats, Values, cluster_codes, row_values


@dataclass(frozen=True)
class Interval:
    """An estimate, its 95% interval and the number of clusters; bounds are NaN where there is no interval."""

    value: float
    low: float
    high: float
    n: int
    method: str = "cluster bootstrap"

    def map(self, function: Callable[[float], float]) -> Interval:
        """The interval on another scale; `function` must increase (perplexity is `math.exp` of nats per token).

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
    n_resamples: int = 2000,
) -> Interval:
    """95% percentile interval of a statistic over rows, from whole clusters drawn with replacement.

    Parameters
    ----------
    values : sequence, shape (n_rows,)
        Every row has the same weight, so that the mean is the one a reader would compute.
    clusters : sequence, shape (n_rows,)
        The cluster of each row.
    statistic : function of an array of values, default the mean
        Any other statistic is called once per resample.
    seeds : sequence, shape (n_rows,), optional
        The fine-tune of each row. When given, fine-tunes are drawn with replacement too (crossed with the clusters), so
        that the interval covers other fine-tunes as well as other people; every cluster must occur with every seed.
    rate : bool, optional
        Whether values are successes; by default, whether they are booleans.

    Returns
    -------
    Interval
        `n` is the number of clusters. One cluster: bounds are NaN. No spread between resamples: for a rate, the Wilson
        interval with each cluster as one trial (see `method`; the spread inside a cluster is then unknown), otherwise
        NaN. Percentile bounds are reported as they are: with few clusters, or a statistic that resampling biases, the
        estimate can lie outside them.

    Raises
    ------
    ValueError
        If there are no rows, a value or cluster is missing, lengths differ, or a rate lies outside 0 to 1.

    Notes
    -----
    Clusters: Davison and Hinkley 1997, section 3.8; crossed factors: Owen 2007 (pigeonhole bootstrap); Wilson 1927.

    >>> people = ["ada", "ada", "bo", "bo", "cy", "cy"]
    >>> interval = cluster_bootstrap([1, 1, 0, 0, 1, 0], people, rng=np.random.default_rng(0))
    >>> interval.value, interval.low, interval.high, interval.n
    (0.5, 0.0, 1.0, 3)
    >>> cluster_bootstrap([False] * 6, people, rng=np.random.default_rng(0)).method
    'Wilson over clusters'
    """
    numbers, is_rate = row_values(values, rate=rate)
    codes, n = cluster_codes(clusters, n_rows=len(numbers))
    value = float(statistic(numbers))
    if n < 2:
        return Interval(value, np.nan, np.nan, n, "one cluster")
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
            return Interval(value, np.nan, np.nan, n, "no spread")
        return Interval(value, *_wilson(value, n), n, "Wilson over clusters")
    return _percentile(value, replicates, n)


def cluster_ratio(
    numerators: Values,
    denominators: Values,
    clusters: Values,
    *,
    rng: np.random.Generator,
    seeds: Values | None = None,
    n_resamples: int = 2000,
) -> Interval:
    """95% percentile interval of sum(numerators) / sum(denominators), with both drawn together over whole clusters.

    For bits per byte, or for the part of a gap that is closed. Parameters other than the two sequences of shape
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
        raise ValueError(f"{len(above)} numerators and {len(below)} denominators: expected equal numbers")
    if not below.sum():
        raise ValueError("the denominators sum to zero: there is no ratio")
    value = float(above.sum() / below.sum())
    if n < 2:
        return Interval(value, np.nan, np.nan, n, "one cluster")
    cells = _cells(above, codes, seeds)[0], _cells(below, codes, seeds)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = _means(cells, rng=rng, n_resamples=n_resamples)
    if not np.isfinite(replicates).all():
        return Interval(value, np.nan, np.nan, n, "a resample has no ratio")
    if _collapsed(replicates):
        return Interval(value, np.nan, np.nan, n, "no spread")
    return _percentile(value, replicates, n)


def _cells(numbers: Floats, codes: NDArray[np.intp], seeds: Values | None) -> tuple[Floats, Floats]:
    """Sum and number of rows of each cluster and seed, shape (n_clusters, n_seeds)."""
    seed_codes, n_seeds = (np.zeros_like(codes), 1) if seeds is None else cluster_codes(seeds, n_rows=len(numbers))
    sums, sizes = np.zeros((2, int(codes.max()) + 1, n_seeds))
    np.add.at(sums, (codes, seed_codes), numbers)
    np.add.at(sizes, (codes, seed_codes), 1)
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


def _percentile(value: float, replicates: Floats, n: int) -> Interval:
    low, high = np.quantile(replicates, [0.025, 0.975])
    return Interval(value, float(low), float(high), n)


def _wilson(rate: float, n: int) -> tuple[float, float]:
    z2 = float(scipy_stats.norm.ppf(0.975)) ** 2
    centre, half = (rate + z2 / (2 * n)), np.sqrt(z2 * rate * (1 - rate) / n + z2**2 / (4 * n**2))
    low, high = (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)
    return float(np.clip(low, 0, rate)), float(np.clip(high, rate, 1))  # rounding alone moves them past it
