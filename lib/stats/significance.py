"""Tests of a difference: by whole clusters, and the three that the published papers used on rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

from lib.stats.rows import Floats, Values, cluster_codes, row_values


@dataclass(frozen=True)
class Test:
    """A statistic and its two-sided p-value; NaN where the sample cannot tell."""

    statistic: float
    p: float
    n: int
    method: str


def cluster_permutation(
    differences: Values, clusters: Values, *, rng: np.random.Generator, n_resamples: int = 10_000
) -> Test:
    """Two-sided test that paired differences have mean 0, by flipping the sign of whole clusters.

    All sign patterns are tried when there are at most `n_resamples` of them (then the p-value is exact), else that many
    random ones, with the observed one counted in (Phipson and Smyth 2010).

    >>> cluster_permutation([1.0, 2.0, 1.5, 0.5], ["ada", "bo", "cy", "di"], rng=np.random.default_rng(0)).p
    0.125
    """
    numbers, _ = row_values(differences)
    codes, n = cluster_codes(clusters, n_rows=len(numbers))
    sums = np.bincount(codes, weights=numbers, minlength=n)
    exact = 2**n <= n_resamples
    # Patterns that tie with the observed one differ from it by rounding only.
    limit = abs(sums.sum()) - 1e-9 * np.abs(sums).sum()
    n_extreme = 0
    block = max(1, 4_000_000 // n)  # bounds the memory when there are many documents
    for start in range(0, 2**n if exact else n_resamples, block):
        if exact:
            flipped = (np.arange(start, min(start + block, 2**n))[:, None] >> np.arange(n)) & 1  # (pattern, cluster)
        else:
            flipped = rng.integers(2, size=(min(block, n_resamples - start), n))  # (pattern, cluster)
        n_extreme += int(np.count_nonzero(np.abs((1.0 - 2 * flipped) @ sums) >= limit))
    p = n_extreme / 2**n if exact else (n_extreme + 1) / (n_resamples + 1)
    return Test(float(numbers.mean()), float(p), n, "sign flips of clusters" + (", exact" if exact else ""))


def paired_t(first: Values, second: Values) -> Test:
    """Student's t test on paired rows (which takes the rows for independent; `cluster_permutation` does not).

    >>> round(paired_t([1.0, 2.0, 3.0], [0.0, 1.5, 2.0]).p, 3)
    0.038
    """
    a, b = row_values(first)[0], row_values(second)[0]
    if len(a) != len(b):
        raise ValueError(f"paired rows: got {len(a)} and {len(b)}")
    if len(a) < 2 or np.ptp(a - b) == 0:
        return _no_spread(float((a - b).mean()), len(a), len(a) < 2, "paired t")
    found = scipy_stats.ttest_rel(a, b)
    return Test(float(found.statistic), float(found.pvalue), len(a), "paired t")


def welch_t(first: Values, second: Values) -> Test:
    """Welch's t test on two independent samples; `n` counts the rows of both.

    >>> welch_t([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).p
    1.0
    """
    a, b = row_values(first)[0], row_values(second)[0]
    n = len(a) + len(b)
    if min(len(a), len(b)) < 2 or np.ptp(a) == np.ptp(b) == 0:
        return _no_spread(float(a.mean() - b.mean()), n, min(len(a), len(b)) < 2, "Welch t")
    found = scipy_stats.ttest_ind(a, b, equal_var=False)
    return Test(float(found.statistic), float(found.pvalue), n, "Welch t")


def ks_two_sample(first: Values, second: Values) -> Test:
    """Two-sample Kolmogorov-Smirnov test; `n` counts the rows of both.

    >>> ks_two_sample([1, 2, 3], [11, 12, 13]).statistic
    1.0
    """
    a, b = row_values(first)[0], row_values(second)[0]
    found = scipy_stats.ks_2samp(a, b)
    return Test(float(found.statistic), float(found.pvalue), len(a) + len(b), "two-sample Kolmogorov-Smirnov")


def holm(p_values: Values) -> Floats:
    """Adjust p-values so that the chance of any false finding among them stays below the level (Holm 1979).

    Parameters
    ----------
    p_values : sequence, shape (n,)
        NaN for what was not tested: it stays NaN and does not count.

    Returns
    -------
    array, shape (n,), in the order given

    Raises
    ------
    ValueError
        If one lies outside 0 to 1.

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


def _no_spread(difference: float, n: int, too_few: bool, method: str) -> Test:
    if too_few:
        return Test(np.nan, np.nan, n, method)
    return Test(0.0, 1.0, n, method) if difference == 0 else Test(float(np.sign(difference) * np.inf), 0.0, n, method)
