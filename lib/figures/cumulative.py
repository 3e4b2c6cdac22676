"""Cumulative probability over the number of tokens, one line per model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from lib.figures.labels import legend_above, rate_axis
from lib.figures.style import looks

_N_POINTS = 500  # of a line; more are indistinguishable on a logarithmic axis
_MARKER_STEP = 0.12  # of the axes' diagonal


def plot_cumulative(ax: Axes, curves: Mapping[str, pd.DataFrame]) -> None:
    """Cumulative probability over the number of tokens, on a logarithmic axis.

    Parameters
    ----------
    curves : mapping of label to frame with n_tokens (1, 2, ...) and of_mean
        Drawn in the order in which they come.

    Raises
    ------
    ValueError
        If there is no curve.
    """
    if not curves:
        raise ValueError("no curves to plot: expected one table per label")
    shapes = looks(curves)
    for position, (name, table) in enumerate(curves.items()):
        n_tokens, share = _line(table)
        shape = shapes[name]
        # Lines that lie on each other stay apart by their markers.
        marked = (_MARKER_STEP * (position + 1) / (len(curves) + 1), _MARKER_STEP)
        ax.plot(n_tokens, share, color=shape.color, marker=shape.marker, markevery=marked, label=name, clip_on=False)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1,)))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("number of tokens")
    ax.set_xlim(left=1, right=max(float(table["n_tokens"].max()) for table in curves.values()))
    rate_axis(ax, "cumulative probability")
    legend_above(ax)


def _line(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    index = np.unique(np.geomspace(1, len(table), _N_POINTS).round().astype(int)) - 1
    return table["n_tokens"].to_numpy(float)[index], table["of_mean"].to_numpy(float)[index]
