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


def plot_cumulative(
    ax: Axes, curves: Mapping[str, pd.DataFrame], *, zoom: tuple[float, float] | None = None, legend: bool = True
) -> None:
    """Cumulative probability over the number of tokens, on a logarithmic axis.

    Parameters
    ----------
    curves : mapping of label to frame with n_tokens (1, 2, ...) and of_mean
        As `lib.next_token.curve` gives them, drawn in the order in which they come.
    zoom : tuple of 2 floats, optional
        Show this part of the y axis only (published: 0.8 to 1), and the numbers of tokens that reach it.
    legend : bool, default True
        Legend above the axes; give False to all but one of several axes.

    Raises
    ------
    ValueError
        If there is no curve, or the zoom is no part of 0 to 1.
    """
    if not curves:
        raise ValueError("no curves to plot: expected one table per label, as lib.next_token.curve gives it")
    if zoom is not None and not 0 <= zoom[0] < zoom[1] <= 1:
        raise ValueError(f"zoom is {zoom}: expected two numbers that rise, from 0 to 1")
    reached, shapes = [], looks(curves)
    for position, (name, table) in enumerate(curves.items()):
        n_tokens, share = _line(table)
        if zoom is not None:
            reached.append(float(n_tokens[np.searchsorted(share, zoom[0])]) if share[-1] >= zoom[0] else np.inf)
        shape = shapes[name]
        # Lines that lie on each other stay apart by their markers.
        marked = (_MARKER_STEP * (position + 1) / (len(curves) + 1), _MARKER_STEP)
        whole = zoom is None  # a zoomed line leaves the axes
        ax.plot(
            n_tokens, share, color=shape.color, marker=shape.marker, markevery=marked, label=name, clip_on=not whole
        )
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1,) if zoom is None else (1, 2, 5)))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("number of tokens")
    n_most = max(float(table["n_tokens"].max()) for table in curves.values())
    ax.set_xlim(left=1, right=n_most)
    if zoom is None:
        rate_axis(ax, "cumulative probability")
    else:
        ax.set_ylim(zoom)
        ax.set_ylabel("cumulative probability")
        if min(reached) < n_most:
            ax.set_xlim(left=min(reached))
    if legend:
        legend_above(ax)


def _line(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    index = np.unique(np.geomspace(1, len(table), _N_POINTS).round().astype(int)) - 1
    return table["n_tokens"].to_numpy(float)[index], table["of_mean"].to_numpy(float)[index]
