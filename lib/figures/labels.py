"""Rate axis, ticks at measured values, legend above the axes and direct labels at the ends of lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

N_DIRECT_LABELS = 4  # more lines than these get a legend
_N_TICKS = 8
_LABEL_GAP_POINTS = 10.0


def rate_axis(ax: Axes, label: str) -> None:
    """Make the y axis one of rates, 0 to 1."""
    ax.set_ylim(-0.03, 1.03)  # room for a marker on 0 or 1
    ax.spines["left"].set_bounds(0, 1)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    ax.set_ylabel(label)


def tick_at(ax: Axes, values: NDArray[np.float64]) -> None:
    """Put the ticks of the x axis at the measured values: every second or third of many, none that lie too close."""
    values = values[:: -math.ceil(len(values) / _N_TICKS)][::-1]  # the last one stays
    positions = ax.transData.transform(np.column_stack([values, np.ones(len(values))]))[:, 0]
    if len(values) > 1 and np.diff(positions).min() < 0.08 * np.ptp(positions):
        return
    short = EngFormatter(sep="")
    ax.set_xticks(values, [short(float(f"{value:.2g}")) if value >= 10_000 else f"{value:g}" for value in values])
    ax.xaxis.set_minor_locator(NullLocator())


def legend_above(ax: Axes, *, without: Sequence[Artist] = ()) -> None:
    """Put a legend of the labelled artists above the axes, where it covers no data; none where nothing is left."""
    handles = [handle for handle in ax.get_legend_handles_labels()[0] if handle not in without]
    labels = [str(handle.get_label()) for handle in handles]
    if not handles:
        return
    letters_per_row = 18 * ax.get_position().width * figure_of(ax).get_figwidth()  # as the small print of the style has
    n_per_row = max(1, int(letters_per_row / (6 + max(map(len, labels)))))  # a marker is as wide as 6 letters
    n_columns = math.ceil(len(labels) / math.ceil(len(labels) / n_per_row))
    ax.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=n_columns)


def label_ends(ax: Axes, lines: Sequence[Line2D]) -> None:
    """Write each line's label at the right of the axes, at the height of its last point, without overlap."""
    heights = [np.asarray(line.get_ydata(), dtype=float)[-1] for line in lines]
    ends = np.column_stack([np.full(len(lines), ax.get_xlim()[0]), heights])
    points = ax.transData.transform(ends)[:, 1] * 72 / figure_of(ax).dpi
    for line, height, shift in zip(lines, heights, spread(points, gap=_LABEL_GAP_POINTS) - points, strict=True):
        ax.annotate(
            str(line.get_label()),
            (1, height),
            xycoords=ax.get_yaxis_transform(),
            xytext=(4, float(shift)),
            textcoords="offset points",
            color=line.get_color(),
            va="center",
            fontsize="small",
            annotation_clip=False,
        )


def spread(positions: ArrayLike, *, gap: float) -> NDArray[np.float64]:
    """Move positions as little as possible (least squares) until neighbours are at least `gap` apart.

    >>> spread([0.0, 1.0, 10.0], gap=3.0).tolist()
    [-1.0, 2.0, 10.0]
    """
    values = np.asarray(positions, dtype=float)
    order = np.argsort(values, kind="stable")
    slots = gap * np.arange(len(values))
    moved = np.empty_like(values)
    moved[order] = isotonic_regression(values[order] - slots).x + slots
    return moved


def figure_of(ax: Axes) -> Figure:
    """The figure that axes belong to."""
    return cast(Figure, ax.get_figure(root=True))
