"""Figures: one style, one look for each model or condition, stable bytes, and the plots that studies share."""

from lib.figures.cumulative import plot_cumulative
from lib.figures.losses import loss_curves
from lib.figures.matrix import plot_matrix
from lib.figures.panels import plot_rates_in_panels
from lib.figures.plots import plot_curves, plot_distributions, plot_intervals, plot_ranks, plot_rates
from lib.figures.style import save, use_style
from lib.figures.tokens import plot_tokens

__all__ = [
    "loss_curves",
    "plot_cumulative",
    "plot_curves",
    "plot_distributions",
    "plot_intervals",
    "plot_matrix",
    "plot_ranks",
    "plot_rates",
    "plot_rates_in_panels",
    "plot_tokens",
    "save",
    "use_style",
]
