"""A text with every token on the colour of its probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import BoundaryNorm, ListedColormap, to_rgb
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D, ScaledTranslation
from numpy.typing import NDArray

from lib.figures.labels import figure_of

PUBLISHED_BINS = (0, 0.01, 0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 0.99, 1)
_FONT = "DejaVu Sans Mono"  # comes with matplotlib; every letter is as wide as the next
_LETTER = 0.602  # width over font size
_LINE = 1.45  # height over font size
_SIZES = (7.0, 6.5, 6.0, 5.5, 5.0, 4.5)  # points, the first that fits
_NEW_LINE = "\u21b5"
_UNKNOWN = "\ufffd"


@dataclass(frozen=True)
class _Piece:
    """Part of a token that stands on one line, at a column."""

    token: int
    text: str
    line: int
    column: int


def plot_tokens(ax: Axes, tokens: Sequence[str], probs: Sequence[float], *, bar: bool = True) -> None:
    """Text with each token on the colour of its probability, wrapped to the width of the axes.

    A newline is drawn as a return sign, on its own colour, and ends the line; what the font lacks is drawn as a
    replacement sign. The letters are as large as the axes allow, up to 7 points.

    Parameters
    ----------
    tokens : sequence of str, shape (n_tokens,)
    probs : sequence of float, shape (n_tokens,)
        Probability that the model gave to each; one on an edge of `PUBLISHED_BINS` belongs to the bin above it.
    bar : bool, default True
        Draw the colour bar above the axes; of several axes give it to the first. Set titles before the call, as the
        text is fitted to the layout as it is then.

    Raises
    ------
    ValueError
        If there are no tokens, not as many probabilities, one outside 0 to 1, or the axes are too small for the text.
    """
    edges, values = np.array(PUBLISHED_BINS), np.asarray(probs, dtype=float)
    _check(tokens, values)
    n_bins = len(edges) - 1
    shades = ListedColormap(colormaps["viridis"](np.linspace(0.05, 1, n_bins)))
    figure = figure_of(ax)
    ax.set_axis_off()
    if bar:
        mapped = ScalarMappable(BoundaryNorm(edges, n_bins), shades)
        drawn = figure.colorbar(
            mapped, ax=ax, location="top", spacing="uniform", ticks=edges, shrink=0.8, aspect=45, pad=0.02
        )
        drawn.ax.set_xticks(edges, [f"{edge:g}" for edge in edges])
        drawn.ax.tick_params(length=2)
        drawn.set_label("probability of the token")
        drawn.outline.set_visible(False)
    figure.draw_without_rendering()  # the layout decides how wide the axes are
    size, pieces = _fitted(ax, tokens)
    # Columns and lines from the axes' upper left corner: cells stay as large as letters if the layout moves.
    per_letter = Affine2D().scale(_LETTER * size / 72, -_LINE * size / 72)
    transform = per_letter + figure.dpi_scale_trans + ScaledTranslation(0, 1, cast(Any, ax.transAxes))
    colors = shades(np.minimum(np.digitize(values, edges) - 1, n_bins - 1))
    cells = [Rectangle((piece.column, piece.line), len(piece.text), 0.94) for piece in pieces]
    filled = [colors[piece.token] for piece in pieces]
    ax.add_collection(
        PatchCollection(cells, facecolors=filled, edgecolors="white", linewidths=0.3, transform=transform),
        autolim=False,
    )
    for piece, color in zip(pieces, filled, strict=True):
        if not piece.text.strip():
            continue
        start = len(piece.text) - len(piece.text.lstrip())
        text = ax.text(
            piece.column + start,
            piece.line + 0.74,
            piece.text.strip(),
            transform=transform,
            color=_ink(color),
            family=_FONT,
            fontsize=size,
            va="baseline",
            parse_math=False,  # a token may be a dollar sign
        )
        text.set_in_layout(False)


def _check(tokens: Sequence[str], probs: NDArray[np.float64]) -> None:
    if len(tokens) != len(probs) or not len(tokens):
        raise ValueError(f"{len(tokens)} tokens and {len(probs)} probabilities: expected one for each, at least one")
    outside = np.flatnonzero(~((probs >= 0) & (probs <= 1 + 1e-6)))  # rounding may carry one over 1
    if len(outside):
        at = int(outside[0])
        raise ValueError(f"token {at} ({tokens[at]!r:.40}) has probability {probs[at]}: expected one from 0 to 1")


def _fitted(ax: Axes, tokens: Sequence[str]) -> tuple[float, list[_Piece]]:
    """The largest font size at which the text fits, and where its pieces stand."""
    box = ax.get_window_extent().transformed(figure_of(ax).dpi_scale_trans.inverted())  # inches
    n_lines = 0
    for size in _SIZES:
        n_columns = max(1, math.floor(box.width * 72 / (_LETTER * size)))
        pieces = _wrapped(tokens, n_columns)
        n_lines = 1 + pieces[-1].line if pieces else 0
        if n_lines * _LINE * size <= box.height * 72:
            return size, pieces
    needed = n_lines * _LINE * _SIZES[-1] / 72
    raise ValueError(
        f"{len(tokens)} tokens take {n_lines} lines, {needed:.1f} in high, and the axes are {box.height:.1f} in high: "
        "draw fewer tokens or make the figure taller"
    )


def _wrapped(tokens: Sequence[str], n_columns: int) -> list[_Piece]:
    """A token that does not fit on the line moves to the next; one that is wider than a line is cut."""
    pieces, line, column = [], 0, 0
    for number, token in enumerate(tokens):
        for part in token.replace("\t", "    ").splitlines(keepends=True):
            ends = len(part.splitlines()[0]) < len(part)
            text = "".join(letter if ord(letter) in _letters() else _UNKNOWN for letter in part.splitlines()[0])
            text += _NEW_LINE if ends else ""
            if column and column + len(text) > n_columns:
                line, column = line + 1, 0
            while text:
                pieces.append(_Piece(number, text[:n_columns], line, column))
                column += len(text[:n_columns])
                text = text[n_columns:]
                if text:
                    line, column = line + 1, 0
            if ends:
                line, column = line + 1, 0
    return pieces


@cache
def _letters() -> frozenset[int]:
    return frozenset(FT2Font(findfont(FontProperties(family=_FONT))).get_charmap())


def _ink(color: Sequence[float]) -> str:
    """Black or white, whichever has more contrast on a colour (WCAG 2.1, relative luminance)."""
    channels = np.array(to_rgb(tuple(color)[:3]))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ np.array([0.2126, 0.7152, 0.0722]))
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"
