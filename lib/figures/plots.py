"""Plots that several studies share: rates, curves, intervals, distributions and ranks, from tidy tables.

Intervals are drawn from the table, never computed here. A plot takes the axes it draws into; no titles.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from lib.figures.labels import N_DIRECT_LABELS, label_ends, legend_above, rate_axis, tick_at
from lib.figures.style import LOOKS, look, looks

_CHANCE_LINE: dict[str, Any] = {
    "color": LOOKS["chance"].color,
    "linestyle": "--",
    "linewidth": 1,
    "zorder": 1,
    "label": "chance",
}
_DIAMONDS: dict[str, Any] = {
    "color": LOOKS["published"].color,
    "marker": LOOKS["published"].marker,
    "linestyle": "",
    "markerfacecolor": "white",
}


def plot_rates(
    ax: Axes,
    table: pd.DataFrame,
    *,
    group: str = "condition",
    by: str = "model",
    published: pd.DataFrame | None = None,
    chance: float | Mapping[str, float] | None = None,
    legend: bool = True,
) -> None:
    """Points with intervals: one position on the x axis for each `group`, side by side the values of `by`.

    Parameters
    ----------
    table : frame with `group`, `by`, value, low, high
        Rates, one row per point; groups and values of `by` are drawn in the order in which they come. A missing bound
        draws no interval.
    published : frame with `group`, `by`, value, optional
        Drawn as open diamonds beside the points that they belong to.
    chance : float or mapping of group to float, optional
        Drawn as a dashed line, across all groups or at each of those that have one.
    legend : bool, default True
        Legend above the axes; give False to all but one of several axes.

    Raises
    ------
    ValueError
        If there are no rows, or two for one point.
    """
    _one_row_per_point(table, [group, by])
    groups, series = list(dict.fromkeys(table[group])), list(dict.fromkeys(table[by]))
    shapes = looks(series)
    step = min(0.26, 0.7 / len(series))
    for position, name in enumerate(series):
        rows = table[table[by] == name]
        shape, offset = shapes[str(name)], step * (position - (len(series) - 1) / 2)
        x = np.array([groups.index(value) for value in rows[group]]) + offset
        _bars(ax, rows, x=x, color=shape.color)
        label = str(name) if len(series) > 1 else ""
        ax.plot(x, rows["value"], marker=shape.marker, linestyle="", color=shape.color, label=label, clip_on=False)
        if published is not None:
            known = published[(published[by] == name) & published[group].isin(groups)]
            beside = np.array([groups.index(value) for value in known[group]]) + offset + 0.38 * step
            _diamonds(ax, beside, known["value"], color=shape.color)
    _name_published(ax, published)
    if isinstance(chance, Mapping):
        known_at = {groups.index(name): value for name, value in chance.items() if name in groups}
        ends = np.array(list(known_at)) + np.array([[-0.4], [0.4]])
        ax.hlines(list(known_at.values()), *ends, **_CHANCE_LINE)
    else:
        _chance_line(ax, chance)
    ax.set_xticks(range(len(groups)), [_wrapped(str(name), len(groups)) for name in groups])
    ax.set_xlim(-0.5, len(groups) - 0.5)
    rate_axis(ax, _label(table))
    if legend:
        legend_above(ax)


def _wrapped(name: str, n_groups: int) -> str:
    """A group's name on several lines, shorter ones where there are many groups; words stay whole."""
    return textwrap.fill(name, 14 if n_groups < 7 else 10, break_long_words=False, break_on_hyphens=False)


def plot_curves(
    ax: Axes,
    table: pd.DataFrame,
    *,
    x: str = "x",
    by: str = "condition",
    published: pd.DataFrame | None = None,
    chance: float | None = None,
    legend: bool = True,
) -> None:
    """Lines over `x` with their intervals as bands; up to four lines are labelled at their right end.

    `table` and `published` are as in `plot_rates`, with `x` instead of `group`; published values are open
    diamonds. Set the scale of the axes before the call: the labels are laid out for it.

    Raises
    ------
    ValueError
        If there are no rows, or two for one point.
    """
    _one_row_per_point(table, [x, by])
    series, lines = list(dict.fromkeys(table[by])), []
    shapes = looks(series)
    for name in series:
        rows = table[table[by] == name].sort_values(x)
        shape = shapes[str(name)]
        lines += ax.plot(rows[x], rows["value"], color=shape.color, marker=shape.marker, label=str(name), clip_on=False)
        ax.fill_between(rows[x].to_numpy(float), rows["low"], rows["high"], color=shape.color, alpha=0.18, linewidth=0)
        if published is not None:
            known = published[published[by] == name]
            _diamonds(ax, known[x], known["value"], color=shape.color)
    _name_published(ax, published)
    _chance_line(ax, chance)
    ax.set_xlabel(_named(table, "x_name", default=x))
    tick_at(ax, np.unique(table[x].to_numpy(float)))
    if set(table.get("unit", pd.Series(dtype=str))) == {"rate"}:
        rate_axis(ax, _label(table))
    else:
        ax.set_ylabel(_label(table))
    if not legend:
        return
    direct = lines if len(series) <= N_DIRECT_LABELS else []
    label_ends(ax, direct)
    legend_above(ax, without=direct)


def loss_curves(finetunes: pd.DataFrame, *, by: Sequence[str] = ()) -> pd.DataFrame:
    """Mean and range over fine-tunes of training and validation loss, for `plot_curves` with x="epoch", by="loss".

    Parameters
    ----------
    finetunes : frame as `lib.finetune.finetune` returns it
    by : further columns that separate curves
    """
    long = finetunes.melt([*by, "epoch"], ["train_loss", "valid_loss"], var_name="loss", value_name="nats").dropna()
    long["loss"] = long["loss"].map({"train_loss": "train", "valid_loss": "validation"})
    curves = long.groupby([*by, "loss", "epoch"], sort=False)["nats"].agg(value="mean", low="min", high="max")
    return curves.reset_index().assign(metric="loss", unit="nats per token", x_name="epoch")


def plot_intervals(ax: Axes, table: pd.DataFrame, *, by: str = "condition", zero: bool = True) -> None:
    """Points with intervals one below the other, the first on top: one position on the y axis for each value of `by`.

    Parameters
    ----------
    table : frame with `by`, value, low, high
        One row per point; a missing bound draws no interval.
    zero : bool, default True
        Let the x axis begin at zero, unless a value lies below it.

    Raises
    ------
    ValueError
        If there are no rows, or two for one point.
    """
    _one_row_per_point(table, [by])
    for y, (name, row) in enumerate(table.groupby(by, sort=False)):
        shape = look(str(name))
        _bars(ax, row, y=[y], color=shape.color)
        ax.plot(row["value"], [y], marker=shape.marker, color=shape.color, clip_on=False)
    if zero and not (table[["value", "low"]] < 0).any(axis=None):
        ax.set_xlim(left=0)
    ax.set_yticks(range(len(table)), [str(name) for name in table[by]])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlabel(_label(table))


def plot_distributions(
    ax: Axes,
    table: pd.DataFrame,
    *,
    value: str = "target_logprob",
    by: str = "condition",
    label: str = "log-probability of the target (nats)",
    legend: bool = True,
) -> None:
    """Share of rows at or below each value, a step line for each `by` (the KS test is of the distance between two).

    Raises
    ------
    ValueError
        If there are no rows, or values are missing.
    """
    if table.empty or table[value].isna().any():
        raise ValueError(
            f"expected rows with a {value} each: got {len(table)}, {int(table[value].isna().sum())} missing"
        )
    shapes = looks(table[by])
    for name, rows in table.groupby(by, sort=False):
        shape = shapes[str(name)]
        numbers = rows[value].to_numpy(float)
        ax.ecdf(numbers, color=shape.color, marker=shape.marker, markevery=0.15, label=str(name))
    ax.set_xlabel(label)
    rate_axis(ax, "share at or below")
    if legend:
        legend_above(ax)


def plot_ranks(ax: Axes, table: pd.DataFrame, *, n_candidates: int, value: str = "rank", by: str = "condition") -> None:
    """Share of targets whose rank among the candidates is at most k, against the diagonal of chance.

    Raises
    ------
    ValueError
        If there are no rows, or a rank is not between 1 and `n_candidates`.
    """
    if table.empty or not table[value].between(1, n_candidates).all():
        raise ValueError(f"expected rows with a {value} from 1 to {n_candidates} each, got {len(table)} rows")
    ranks = np.arange(1, n_candidates + 1)
    shapes = looks(table[by])
    for name, rows in table.groupby(by, sort=False):
        shape = shapes[str(name)]
        share = (rows[value].to_numpy(float)[:, None] <= ranks).mean(axis=0)
        ax.plot(ranks, share, color=shape.color, marker=shape.marker, markevery=0.15, label=str(name), clip_on=False)
    ax.plot(ranks, ranks / n_candidates, **_CHANCE_LINE)
    ax.set_xlabel(f"rank k among {n_candidates} candidates")
    rate_axis(ax, "share ranked k or better")
    legend_above(ax)


def _one_row_per_point(table: pd.DataFrame, keys: list[str]) -> None:
    if table.empty:
        raise ValueError("no rows to plot")
    twice = table[table.duplicated(keys)]
    if len(twice):
        point = ", ".join(f"{key} {twice.iloc[0][key]}" for key in keys)
        raise ValueError(f"two rows for one point ({point}): select one metric, and model or condition, first")


def _bars(ax: Axes, rows: pd.DataFrame, *, color: str, x: Any = None, y: Any = None) -> None:
    """Intervals as bars from low to high, at these x or at these y; a missing bound draws none.

    The bar is drawn around its own middle, as an estimate may lie outside a percentile interval.
    """
    middle, half = (rows["low"] + rows["high"]) / 2, (rows["high"] - rows["low"]) / 2
    if y is None:
        ax.errorbar(x, middle, yerr=half, fmt="none", ecolor=color, capsize=2, clip_on=False)
    else:
        ax.errorbar(middle, y, xerr=half, fmt="none", ecolor=color, capsize=2, clip_on=False)


def _named(table: pd.DataFrame, column: str, *, default: str) -> str:
    names = set(table.get(column, pd.Series(dtype=str))) - {""}
    return (names.pop() if len(names) == 1 else default).replace("_", " ")


def _label(table: pd.DataFrame) -> str:
    metric, unit = _named(table, "metric", default="value"), _named(table, "unit", default="")
    return f"{metric} ({unit})" if unit not in ("", "rate") else metric


def _chance_line(ax: Axes, chance: float | None) -> None:
    if chance is not None:
        ax.axhline(chance, **_CHANCE_LINE)


def _diamonds(ax: Axes, x: ArrayLike, values: pd.Series, *, color: str) -> None:
    # An empty artist that is not clipped counts as lying at the figure's corner and upsets the layout.
    if len(values):
        ax.plot(np.asarray(x), values, **(_DIAMONDS | {"color": color}), clip_on=False, zorder=3)


def _name_published(ax: Axes, published: pd.DataFrame | None) -> None:
    if published is not None:
        ax.plot([], [], **_DIAMONDS, label="published")
