"""Figures: one style, one look for each model or condition, stable bytes, and the plots that studies share."""

# ruff: noqa: F401
from lib.figures.cumulative import plot_cumulative
from lib.figures.panels import plot_rates_in_panels
from lib.figures.plots import loss_curves, plot_curves, plot_distributions, plot_intervals, plot_ranks, plot_rates
from lib.figures.style import save, use_style
from lib.figures.tokens import plot_tokens
