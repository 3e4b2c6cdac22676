"""Rates in panels side by side, one for each outcome or other kind of groups."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lib.figures.plots import plot_rates


def plot_rates_in_panels(
    fig: Figure,
    table: pd.DataFrame,
    *,
    panel: str,
    group: str = "condition",
    by: str = "model",
    chance: Mapping[str, float] | None = None,
) -> None:
    """`plot_rates` in panels side by side, one for each value of `panel`, as wide as it has groups.

    The panels share the y axis and one legend; the value of `panel` stands above each of them.
    """
    n_groups = table.groupby(panel, sort=False, observed=True)[group].nunique()
    widths = n_groups.clip(lower=n_groups.sum() / 8).to_list()  # room for the name of the panel
    axs = fig.subplots(1, len(n_groups), sharey=True, squeeze=False, width_ratios=widths)[0]
    handles: dict[str, Any] = {}
    for ax, (name, rows) in zip(axs, table.groupby(panel, sort=False, observed=True), strict=True):
        plot_rates(ax, rows, group=group, by=by, chance=chance, legend=False)
        groups = list(dict.fromkeys(rows[group]))
        ax.set_xticks(range(len(groups)), groups, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_title(textwrap.fill(str(name), 14 if len(groups) < 3 else 30), loc="left", fontsize="medium")
        ax.label_outer()
        handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    order = [*dict.fromkeys(map(str, table[by])), "chance"]
    names = sorted(handles, key=order.index)
    fig.legend([handles[name] for name in names], names, loc="outside lower center", ncols=len(names))
