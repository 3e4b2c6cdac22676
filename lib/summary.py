"""Tidy numbers: one row per number, with its interval, unit and n, as kept in a study's ``summary.csv``.

Rows of all studies have the columns of `COLUMNS`. Every other column is a condition of its own study (``group``,
``direction``, ``epoch``, ...), empty where it does not apply to a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.paths import atomic_write
from lib.stats import Interval, cluster_bootstrap

TEXT = ("study", "preset", "model", "metric", "n_of", "unit")
NUMBERS = ("value", "low", "high")
COLUMNS = ("study", "preset", "model", "metric", *NUMBERS, "n", "n_of", "unit")


def summarise(
    rows: pd.DataFrame,
    *,
    by: Sequence[str],
    value: str,
    cluster: str,
    metric: str = "",
    unit: str = "rate",
    fine_tune: str | None = "seed",
) -> pd.DataFrame:
    """Mean of a column in each group of rows, with its 95% interval over clusters.

    Parameters
    ----------
    by : columns whose combinations are the groups, in order of appearance
    value : column to average; rows in which it is missing are left out
    cluster : column that names what was drawn and is resampled whole (a person, a pair, a document)
    metric : name of the number; default `value`
    unit : of the value; a "rate" lies between 0 and 1
    fine_tune : column that tells fine-tunes apart, resampled too where a group has several and each has every cluster;
        None if they differ in data

    Returns
    -------
    DataFrame with the columns `by`, ``metric``, ``value``, ``low``, ``high``, ``n`` (clusters), ``n_of`` and ``unit``

    >>> rows = pd.DataFrame({"person": ["ada", "bo", "cy"], "asked": "name", "correct": [True, True, False]})
    >>> summarise(rows, by=["asked"], value="correct", cluster="person").round(2).values.tolist()
    [['name', 'correct', 0.67, 0.21, 0.94, 3, 'person', 'rate']]
    """
    found = []
    for key, part in rows[rows[value].notna()].groupby(list(by), sort=False, dropna=False):
        seeds = None
        if fine_tune and fine_tune in part and part[fine_tune].nunique() > 1 and is_crossed(part, fine_tune, cluster):
            seeds = part[fine_tune]
        interval = cluster_bootstrap(part[value].astype(float), part[cluster], seeds=seeds, rate=unit == "rate")
        found.append(
            dict(zip(by, key, strict=True)) | number(interval, metric=metric or value, n_of=cluster, unit=unit)
        )
    return pd.DataFrame(found, columns=[*by, "metric", *NUMBERS, "n", "n_of", "unit"])


def is_crossed(rows: pd.DataFrame, fine_tune: str, cluster: str) -> bool:
    """Whether every fine-tune has every cluster."""
    return bool((rows.groupby(fine_tune)[cluster].nunique() == rows[cluster].nunique()).all())


def number(interval: Interval, *, metric: str, n_of: str, unit: str) -> dict[str, Any]:
    """An interval as the columns of a summary; `n_of` names its clusters."""
    return {
        "metric": metric, "value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n,
        "n_of": n_of, "unit": unit,
    }  # fmt: skip


def verdict(low: float, high: float, *, above: float = -np.inf, below: float = np.inf) -> str:
    """What an interval says of the prediction that a number lies above, or below, a limit.

    "held" if the whole interval does, "failed" if none of it does, else "unclear" (also without an interval).

    >>> verdict(0.83, 0.91, above=0.5), verdict(0.2, 0.6, above=0.5), verdict(0.0, 0.01, above=0.5)
    ('held', 'unclear', 'failed')
    """
    if low > above and high < below:
        return "held"
    return "failed" if high <= above or low >= below else "unclear"


def write_summary(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Write summary.csv, with numbers to six significant digits, and return what was written.

    Raises
    ------
    ValueError
        If a column is missing, a text is empty, a value is not finite, `n` is not a count above 0, low lies above high
        (bounds may be missing), a rate outside 0 to 1, or two rows have the same model, metric and conditions.
    """
    frame = _checked(rows, name=path.name)
    with atomic_write(path) as file:
        frame.to_csv(file, index=False, float_format="%.6g", lineterminator="\n")
    return frame


def read_summary(path: Path) -> pd.DataFrame:
    """Read a summary.csv, checked as `write_summary` does; errors (`ValueError`) name the file."""
    try:
        return _checked(pd.read_csv(path, encoding="utf-8", keep_default_na=False, na_values=[""]), name=str(path))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a table of comma-separated values: {error}") from error


def read_summaries(folder: Path) -> pd.DataFrame:
    """All ``<study>/summary.csv`` and ``<study>/<preset>/summary.csv`` under a folder; no rows where there are none."""
    frames = [read_summary(path) for path in sorted([*folder.glob("*/summary.csv"), *folder.glob("*/*/summary.csv")])]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))


def _checked(rows: pd.DataFrame, *, name: str) -> pd.DataFrame:
    if missing := [column for column in COLUMNS if column not in rows]:
        raise ValueError(f"{name}: a summary needs the columns {', '.join(missing)}")
    conditions = [column for column in rows if column not in COLUMNS]
    frame = rows[[*COLUMNS[:4], *conditions, *COLUMNS[4:]]].reset_index(drop=True)
    try:
        frame = frame.astype(dict.fromkeys(NUMBERS, float) | {"n": float})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: value, low, high and n are numbers ({error})") from error
    rates = frame[list(NUMBERS)].where(frame["unit"] == "rate")
    bad = {
        "a text is empty": frame[list(TEXT)].isna().any(axis=1) | (frame[list(TEXT)] == "").any(axis=1),
        "the value is not a finite number: leave the row out": ~np.isfinite(frame["value"]),
        "n is not a count above 0": ~((frame["n"] > 0) & (frame["n"] % 1 == 0)),
        "low is above high": frame["low"] > frame["high"],
        "a rate lies between 0 and 1": ((rates < 0) | (rates > 1)).any(axis=1),
        "the same number is there twice": frame.duplicated(["study", "preset", "model", "metric", *conditions]),
    }
    for why, found in bad.items():
        if found.any():
            row = frame[found].iloc[0]
            what = ", ".join(str(row[column]) for column in ("model", "metric", *conditions) if pd.notna(row[column]))
            raise ValueError(f"{name}, row {found.idxmax() + 1} ({what}): {why}")
    frame[list(NUMBERS)] = frame[list(NUMBERS)].map(lambda value: float(f"{value:.6g}") + 0.0)  # no -0
    return frame.astype({"n": "int64"})
