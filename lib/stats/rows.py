"""Rows and the clusters they belong to, checked before any statistic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Values: TypeAlias = Sequence[Any] | NDArray[Any] | pd.Series
Floats: TypeAlias = NDArray[np.float64]


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
        raise ValueError(f"one cluster a row: got {len(codes)} clusters for {n_rows} values")
    if (codes < 0).any():
        raise ValueError(f"{int((codes < 0).sum())} rows have no cluster")
    return codes, len(names)
