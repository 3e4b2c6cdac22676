"""Intervals and tests that resample what was drawn, never rows about the same thing.

What was drawn (a person, a function, a document, a prompt) is a *cluster*; all rows about it are resampled together.
Rows of several fine-tunes about one person stay in that person's cluster: they are averaged inside it, and `n` counts
people, not people times fine-tunes. Where each fine-tune has data of its own, a cluster is one person of one fine-tune.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats as scipy_stats

Values: TypeAlias = Sequence[Any] | NDArray[Any] | pd.Series
Floats: TypeAlias = NDArray[np.float64]
BLOCK = 4_000_000  # resamples times clusters held in memory at once


@dataclass(frozen=True)
class Interval:
    """An estimate, its 95% interval and the number of clusters; bounds are NaN where there is no interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Test:
    """A statistic, its two-sided p-value and the number of clusters."""

    __test__ = False  # pytest takes a class of this name for tests

    statistic: float
    p: float
    n: int


def cluster_bootstrap(
    values: Values,
    clusters: Values,
    *,
    rng: np.random.Generator | None = None,
    statistic: Callable[[Floats], Any] = np.mean,
    seeds: Values | None = None,
    rate: bool | None = None,
    n_resamples: int = 2000,
) -> Interval:
    """95% interval of a statistic over rows, from whole clusters drawn with replacement.

    Parameters
    ----------
    values : shape (n_rows,); every row has the same weight, so that the mean is the one a reader would compute
    clusters : shape (n_rows,), the cluster of each row
    rng : default a generator of seed 0, so that a number does not depend on those computed before it
    statistic : of an array of values; any other than the mean is called once per resample
    seeds : shape (n_rows,), the fine-tune of each row. Fine-tunes are then drawn with replacement too (crossed with the
        clusters), so that the interval covers other fine-tunes as well; every cluster must occur with every seed.
    rate : whether values are successes; by default, whether they are booleans

    Returns
    -------
    Interval
        `n` is the number of clusters; with one, bounds are NaN. A rate gets a Wilson interval, see Notes. Other values
        get the percentile interval as it is (the estimate can lie outside it), or NaN where no resample differs.

    Raises
    ------
    ValueError
        If there are no rows, a value or cluster is missing, lengths differ, or a rate lies outside 0 to 1.

    Notes
    -----
    Resampling of clusters: Davison and Hinkley 1997, section 3.8; of crossed factors: Owen 2007.

    A rate's interval is Wilson's at the effective sample size p (1 - p) / v, where v is the variance of the resampled
    means (compare Saha, Miller and Wang 2016). At 0 and 1 that variance is 0, and close to them it is hardly known. The
    effective size is therefore at most N / (1 + (m - 1) / n) for N rows in n clusters of m, as if the intra-cluster
    correlation were never below 1 / n. So 0 of 900 and 1 of 900 in 30 clusters are alike (upper bounds 0.8% and 1.0%),
    where percentile intervals collapse. Far from 0 and 1 the interval is close to the percentile interval.

    >>> people = ["ada", "ada", "bo", "bo", "cy", "cy"]
    >>> interval = cluster_bootstrap([True, True, False, False, True, False], people)
    >>> interval.value, round(interval.low, 2), round(interval.high, 2), interval.n
    (0.5, 0.16, 0.84, 3)
    """
    rng = rng or np.random.default_rng(0)
    numbers, is_rate = row_values(values, rate=rate)
    codes, n = cluster_codes(clusters, n_rows=len(numbers))
    value = float(statistic(numbers))
    if n < 2:
        return Interval(value, np.nan, np.nan, n)
    if statistic is np.mean:
        replicates = _means(_cells(numbers, codes, seeds), rng=rng, n_resamples=n_resamples)
        if is_rate:
            return Interval(value, *_wilson(value, replicates, n_rows=len(numbers), n=n), n)
    elif seeds is None:
        groups = [np.flatnonzero(codes == code) for code in range(n)]
        draws = rng.integers(n, size=(n_resamples, n))
        replicates = np.array([statistic(numbers[np.concatenate([groups[i] for i in draw])]) for draw in draws])
    else:
        raise ValueError("seeds are drawn for the mean only: leave out `seeds` or `statistic`")
    return Interval(value, *_percentiles(replicates), n)


def cluster_ratio(
    numerators: Values,
    denominators: Values,
    clusters: Values,
    *,
    rng: np.random.Generator | None = None,
    seeds: Values | None = None,
    n_resamples: int = 2000,
) -> Interval:
    """95% percentile interval of sum(numerators) / sum(denominators), with both drawn together over whole clusters.

    For bits per byte, or for the part of a gap that is closed. Parameters other than the two of shape (n_rows,) are as
    in `cluster_bootstrap`. Bounds are NaN for one cluster, and where a resample has no finite ratio.

    Raises
    ------
    ValueError
        As `cluster_bootstrap`, and if the denominators sum to zero.

    >>> cluster_ratio([2, 4, 3], [1, 2, 2], ["ada", "bo", "cy"]).value
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
        return Interval(value, np.nan, np.nan, n)
    cells = _cells(above, codes, seeds)[0], _cells(below, codes, seeds)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = _means(cells, rng=rng or np.random.default_rng(0), n_resamples=n_resamples)
    return Interval(value, *_percentiles(replicates), n)


def cluster_permutation(
    differences: Values, clusters: Values, *, rng: np.random.Generator | None = None, n_resamples: int = 10_000
) -> Test:
    """Two-sided test that paired differences have mean 0, by flipping the sign of whole clusters; `n` counts clusters.

    All sign patterns are tried when there are at most `n_resamples` of them (the p-value is then exact), else that many
    random ones, with the observed one counted in (Phipson and Smyth 2010).

    >>> cluster_permutation([1.0, 2.0, 1.5, 0.5], ["ada", "bo", "cy", "di"]).p
    0.125
    """
    rng = rng or np.random.default_rng(0)
    numbers, _ = row_values(differences)
    codes, n = cluster_codes(clusters, n_rows=len(numbers))
    sums = np.bincount(codes, weights=numbers, minlength=n)
    exact = 2**n <= n_resamples
    limit = abs(sums.sum()) - 1e-9 * np.abs(sums).sum()  # patterns that tie with the observed one differ by rounding
    n_extreme, block = 0, max(1, BLOCK // n)
    for start in range(0, 2**n if exact else n_resamples, block):
        if exact:
            flipped = (np.arange(start, min(start + block, 2**n))[:, None] >> np.arange(n)) & 1  # (pattern, cluster)
        else:
            flipped = rng.integers(2, size=(min(block, n_resamples - start), n))  # (pattern, cluster)
        n_extreme += int(np.count_nonzero(np.abs((1.0 - 2 * flipped) @ sums) >= limit))
    p = n_extreme / 2**n if exact else (n_extreme + 1) / (n_resamples + 1)
    return Test(float(numbers.mean()), float(p), n)


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p-values so that the chance of any false finding among them stays below the level (Holm 1979).

    NaN stands for what was not tested: it stays NaN and does not count. `ValueError` for a value outside 0 to 1.

    >>> holm([0.01, 0.04, 0.03, float("nan")]).round(3).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    p = np.asarray(p_values, dtype=float)
    outside = (p < 0) | (p > 1)
    if outside.any():
        raise ValueError(f"a p-value lies between 0 and 1: got {p[outside][0]:g}")
    order = np.argsort(p)[: int(np.count_nonzero(~np.isnan(p)))]  # NaN is sorted to the end
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def row_values(values: Values, *, rate: bool | None = None) -> tuple[Floats, bool]:
    """Values as floats, and whether they are successes (by default, whether they are booleans)."""
    series = pd.Series(values)
    numbers = series.to_numpy(dtype=float, na_value=np.nan)
    if not len(numbers):
        raise ValueError("no rows: expected at least one value")
    if np.isnan(numbers).any():
        raise ValueError(f"{int(np.isnan(numbers).sum())} of {len(numbers)} values are missing: drop those rows first")
    is_rate = pd.api.types.is_bool_dtype(series.dtype) if rate is None else rate
    if is_rate and (numbers.min() < 0 or numbers.max() > 1):
        raise ValueError(f"a rate lies between 0 and 1: got {numbers.min():g} to {numbers.max():g}")
    return numbers, is_rate


def cluster_codes(clusters: Values, *, n_rows: int) -> tuple[NDArray[np.intp], int]:
    """The number of each row's cluster, and how many clusters there are."""
    # Sorted, so that the order in which answers came back does not move an interval.
    codes, names = pd.factorize(pd.Series(clusters), sort=True)
    if len(codes) != n_rows:
        raise ValueError(f"expected one cluster per row: got {len(codes)} clusters for {n_rows} values")
    if (codes < 0).any():
        raise ValueError(f"{int((codes < 0).sum())} rows have no cluster")
    return codes, len(names)


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
    block = max(1, BLOCK // n)
    means = []
    for start in range(0, n_resamples, block):
        size = min(block, n_resamples - start)
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=size).astype(float)  # (resample, cluster)
        weights = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=size)  # (resample, seed)
        means.append(((drawn @ sums) * weights).sum(axis=1) / ((drawn @ sizes) * weights).sum(axis=1))
    return np.concatenate(means)


def _percentiles(replicates: Floats) -> tuple[float, float]:
    no_spread = np.ptp(replicates) <= 1e-12 * max(1.0, float(np.abs(replicates).max()))
    if no_spread or not np.isfinite(replicates).all():
        return np.nan, np.nan
    low, high = np.quantile(replicates, [0.025, 0.975])
    return float(low), float(high)


def _wilson(rate: float, replicates: Floats, *, n_rows: int, n: int) -> tuple[float, float]:
    variance = float(replicates.var())
    size = n_rows / (1 + (n_rows / n - 1) / n)
    if variance > 0:
        size = min(size, rate * (1 - rate) / variance)
    z2 = float(scipy_stats.norm.ppf(0.975)) ** 2
    centre, half = rate + z2 / (2 * size), np.sqrt(z2 * rate * (1 - rate) / size + z2**2 / (4 * size**2))
    low, high = (centre - half) / (1 + z2 / size), (centre + half) / (1 + z2 / size)
    return float(np.clip(low, 0, rate)), float(np.clip(high, rate, 1))  # rounding alone moves them past it
