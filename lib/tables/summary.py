"""summary.csv: one row per number, with its unit, its n and its interval."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.paths import atomic_write
from lib.stats import Interval
from lib.tables.parquet import refuse_missing

_SUMMARY_TEXT = ("study", "preset", "model", "condition", "metric", "x_name", "n_of", "unit")
_SUMMARY_NUMBERS = ("x", "value", "low", "high", "n")
_SUMMARY_KEY = ["study", "preset", "model", "condition", "metric", "x_name", "x"]
SUMMARY_COLUMNS = (
    *("study", "preset", "model", "condition", "metric", "x", "x_name"),
    *("value", "low", "high", "n", "n_of", "unit"),
)


class Summary:
    """Collects a study's numbers into the rows of summary.csv, each with its unit, its n and its interval.

    Parameters
    ----------
    conditions : collection of str
        The study's fixed list.
    metrics : mapping of str to str
        The study's metrics and the unit of each; a metric in "rate" lies between 0 and 1.

    >>> summary = Summary(study="reversal", preset="tiny", conditions=["both/same"], metrics={"prefix_match": "rate"})
    >>> summary.add(Interval(0.9, 0.8, 1.0, n=12), model="tuned", condition="both/same", metric="prefix_match",
    ...             n_of="person")
    >>> summary.frame()[["value", "low", "high", "n", "n_of", "unit"]].values.tolist()
    [[0.9, 0.8, 1.0, 12, 'person', 'rate']]
    """

    def __init__(self, *, study: str, preset: str, conditions: Collection[str], metrics: Mapping[str, str]) -> None:
        self.study, self.preset = study, preset
        self.conditions, self.metrics = conditions, metrics
        self._rows: list[dict[str, Any]] = []

    def add(
        self,
        interval: Interval,
        *,
        model: str,
        condition: str,
        metric: str,
        n_of: str,
        x: float | None = None,
        x_name: str = "",
    ) -> None:
        """Add one number; `x` places it on a curve (an epoch, a temperature, a number of tokens).

        Raises
        ------
        ValueError
            If the condition or metric is not in the study's list; `frame` holds rows to the rules of `write_summary`.
        """
        _known(condition, self.conditions, f"condition of {self.study}")
        _known(metric, self.metrics, f"metric of {self.study}")
        row: dict[str, Any] = dict(
            study=self.study, preset=self.preset, model=model, condition=condition, metric=metric
        )
        row.update(x=math.nan if x is None else x, x_name=x_name)
        row.update(value=interval.value, low=interval.low, high=interval.high, n=interval.n)
        row.update(n_of=n_of, unit=self.metrics[metric])
        self._rows.append(row)

    def frame(self) -> pd.DataFrame:
        """The rows so far, as `read_summary` would give them back."""
        return _checked_summary(pd.DataFrame(self._rows, columns=list(SUMMARY_COLUMNS)), name=f"{self.study} summary")


def write_summary(path: Path, rows: pd.DataFrame) -> None:
    """Write summary.csv, numbers to six significant digits so that the same results give the same bytes.

    Raises
    ------
    ValueError
        If a column is missing or unknown, a text other than `x_name` is empty, `n` is not a count above 0, low lies
        above high (bounds may be missing) or a rate outside 0 to 1, or two rows have the same key.
    """
    unknown = [str(column) for column in rows.columns if column not in SUMMARY_COLUMNS]
    if unknown:
        raise ValueError(f"{path.name}: a summary has no column {', '.join(unknown)}")
    frame = _checked_summary(rows, name=path.name)
    with atomic_write(path) as file:
        frame.to_csv(file, index=False, float_format="%.6g", lineterminator="\n")


def read_summary(path: Path) -> pd.DataFrame:
    """Read a summary.csv, checked as `write_summary` does; errors (`ValueError`) name the file."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a table of comma-separated values: {error}") from error
    for column in [column for column in _SUMMARY_NUMBERS if column in frame.columns]:
        try:
            frame[column] = pd.to_numeric(frame[column].mask(frame[column] == ""))
        except ValueError as error:
            raise ValueError(f"{path}, column {column}: expected numbers ({error})") from error
    return _checked_summary(frame, name=str(path))


def read_summaries(folder: Path) -> pd.DataFrame:
    """All `<study>/summary.csv` under `folder`, by name of the study; no rows where there are none."""
    frames = [read_summary(path) for path in sorted(folder.glob("*/summary.csv"))]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(SUMMARY_COLUMNS))


def _checked_summary(rows: pd.DataFrame, *, name: str) -> pd.DataFrame:
    refuse_missing(rows, SUMMARY_COLUMNS, name=name, what="summary")
    frame = rows[list(SUMMARY_COLUMNS)].reset_index(drop=True)
    for column in ("x", "value", "low", "high"):
        frame[column] = [_rounded(value) for value in frame[column]]
    frame = frame.astype({column: "float64" for column in ("x", "value", "low", "high")})
    for column in _SUMMARY_TEXT:
        good = [isinstance(value, str) and (value != "" or column == "x_name") for value in frame[column]]
        _refuse(frame, ~np.array(good, dtype=bool), f"{column} is empty", name=name)
    counts = pd.to_numeric(frame["n"], errors="coerce")
    _refuse(frame, ~((counts > 0) & (counts % 1 == 0)), "n is not a count above 0", name=name)
    frame["n"] = counts.astype("int64")
    _refuse(frame, ~np.isfinite(frame["value"]), "the value is missing: leave the row out", name=name)
    _refuse(frame, frame["low"] > frame["high"], "low is above high", name=name)
    rates = frame[["value", "low", "high"]].where(frame["unit"] == "rate")
    _refuse(frame, ((rates < 0) | (rates > 1)).any(axis=1), "a rate lies between 0 and 1", name=name)
    _refuse(frame, frame["x"].notna() != (frame["x_name"] != ""), "x and x_name come together", name=name)
    _refuse(frame, frame.duplicated(_SUMMARY_KEY), "the same number is there twice", name=name)
    return frame.astype({column: "str" for column in _SUMMARY_TEXT})


def _rounded(value: Any) -> float:
    number = math.nan if value is None or value is pd.NA else float(value)
    return float(f"{number:.6g}") + 0.0  # + 0.0 makes -0 the same bytes as 0


def _known(value: str, known: Collection[str], what: str) -> None:
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)
        raise ValueError(f"{value!r} is no {what}" + (f": did you mean {near[0]!r}?" if near else ""))


def _refuse(frame: pd.DataFrame, bad: Any, why: str, *, name: str) -> None:
    rows = np.flatnonzero(np.asarray(bad, dtype=bool))
    if len(rows):
        row = frame.iloc[rows[0]]
        raise ValueError(f"{name}, row {rows[0] + 1} ({row['model']}, {row['condition']}, {row['metric']}): {why}")
