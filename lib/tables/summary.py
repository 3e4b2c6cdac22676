"""Collect a study's numbers under conditions that are one string each."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import summary
from lib.stats import Interval
from lib.summary import COLUMNS, number


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
            If the condition or metric is not in the study's list.
        """
        _known(condition, self.conditions, f"condition of {self.study}")
        _known(metric, self.metrics, f"metric of {self.study}")
        row: dict[str, Any] = {"study": self.study, "preset": self.preset, "model": model, "condition": condition}
        row |= {"x": np.nan if x is None else x, "x_name": x_name}
        self._rows.append(row | number(interval, metric=metric, n_of=n_of, unit=self.metrics[metric]))

    def frame(self) -> pd.DataFrame:
        """The rows so far."""
        return pd.DataFrame(self._rows, columns=[*COLUMNS[:4], "condition", "x", "x_name", *COLUMNS[4:]])


def read_summary(path: Path) -> pd.DataFrame:
    """`lib.summary.read_summary` with ``x_name`` empty where there is no ``x``."""
    frame = summary.read_summary(path)
    return frame.assign(
        x=pd.to_numeric(frame["x"]), x_name=frame["x_name"].astype("str").mask(frame["x_name"].isna(), "")
    )


def _known(value: str, known: Collection[str], what: str) -> None:
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)
        raise ValueError(f"{value!r} is no {what}" + (f": did you mean {near[0]!r}?" if near else ""))
