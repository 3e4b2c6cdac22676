"""What stands around the data: the rate axis, ticks, the legend above the axes and labels at the ends of lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from lib.figures.style import LOOKS, look

N_DIRECT_LABELS = 4  # more lines than these get a legend
_N_TICKS = 8
_LABEL_GAP_POINTS = 9.0


def rate_axis(ax: Axes, label: str) -> None:
    """Make the y axis one of rates, 0 to 1."""
    ax.set_ylim(-0.03, 1.03)  # room for a marker on 0 or 1
    ax.spines["left"].set_bounds(0, 1)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    ax.set_ylabel(label)


def tick_at(ax: Axes, values: NDArray[np.float64]) -> None:
    """Put the ticks of the x axis where something was measured, at every second or third place if there are many."""
    if len(values) < 2:
        return
    values = values[:: -math.ceil(len(values) / _N_TICKS)][::-1]  # the last one stays
    if len(values) < 2:
        return
    places = ax.transData.transform(np.column_stack([values, np.ones(len(values))]))[:, 0]
    if np.diff(places).min() < 0.08 * np.ptp(places):
        return
    short = EngFormatter(sep="")
    ax.set_xticks(values, [short(float(f"{value:.2g}")) if value >= 10_000 else f"{value:g}" for value in values])
    ax.xaxis.set_minor_locator(NullLocator())


def legend_above(
    ax: Axes, names: Sequence[object], *, lines: bool = True, published: bool = False, chance: bool = False
) -> None:
    """Put a legend of these names above the axes, where it covers no data; none where there is nothing to name."""
    handles = []
    for name in map(str, names):
        shape = look(name)
        handles.append(
            Line2D([], [], color=shape.color, marker=shape.marker, linestyle="-" if lines else "", label=name)
        )
    if published:
        shape = LOOKS["published"]
        mark = Line2D([], [], color=shape.color, marker=shape.marker, linestyle="", label="published")
        mark.set_markerfacecolor("white")
        handles.append(mark)
    if chance:
        handles.append(Line2D([], [], color=LOOKS["chance"].color, linestyle="--", linewidth=1, label="chance"))
    if not handles:
        return
    longest = max(len(str(handle.get_label())) for handle in handles)
    width = ax.get_position().width * figure_of(ax).get_figwidth() * 72  # points
    # About 4 points a letter and 26 a handle; columns that do not fit would make the layout shrink the axes.
    n_fitting = max(1, min(len(handles), int(1.3 * width // (26 + 4.2 * longest))))
    n_rows = math.ceil(len(handles) / n_fitting)
    ax.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=math.ceil(len(handles) / n_rows),
        columnspacing=1.2,
        handlelength=1.6 if lines else 1.0,
        handletextpad=0.5,
    )


def label_ends(ax: Axes, lines: Sequence[Line2D]) -> None:
    """Write each line's label at the right of the axes, at the height of its last point, without overlap."""
    figure = figure_of(ax)
    figure.draw_without_rendering()  # the layout decides how far apart the ends are
    heights = np.array([np.asarray(line.get_ydata(), dtype=float)[-1] for line in lines])
    points = ax.transData.transform(np.column_stack([np.full(len(lines), ax.get_xlim()[0]), heights]))[:, 1]
    points = points * 72 / figure.dpi
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
    """The figure that axes belong to; `ValueError` where there is none."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes belong to no figure")
    return figure
