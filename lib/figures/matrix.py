"""A heat map of shares, such as a confusion matrix."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from lib.figures.labels import figure_of


def plot_matrix(
    ax: Axes, matrix: pd.DataFrame, *, rows: str, columns: str, label: str = "share", bar: bool = True
) -> None:
    """Shares from 0 to 1 as shades.

    Parameters
    ----------
    matrix : frame, shape (n_rows, n_columns)
        Its index and columns name what is drawn, the first row on top; a missing cell is grey.
    rows, columns : what they are
    label : of the colour bar
    bar : bool, default True
        Draw the colour bar; give False to all but one of several axes.

    Raises
    ------
    ValueError
        If there are no cells, or one is no share.
    """
    values = matrix.to_numpy(dtype=float)
    known = values[~np.isnan(values)]
    if not known.size or not ((known >= 0) & (known <= 1)).all():
        raise ValueError(f"expected shares from 0 to 1, got a table of shape {values.shape} with others")
    shades = colormaps["Blues"].with_extremes(bad="0.9")
    image = ax.imshow(values, cmap=shades, vmin=0, vmax=1, interpolation="none", aspect="auto")
    ax.set_xticks(range(matrix.shape[1]), [str(name) for name in matrix.columns], rotation=90)
    ax.set_yticks(range(matrix.shape[0]), [str(name) for name in matrix.index])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel=columns, ylabel=rows)
    if bar:
        figure_of(ax).colorbar(image, ax=ax, label=label, shrink=0.8)
