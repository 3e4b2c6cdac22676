"""Intervals and tests that resample what was drawn, never rows about the same thing.

What was drawn (a person, a function, a document, a prompt) is a *cluster*; all rows about it are resampled together.
Rows of several fine-tunes about one person stay in that person's cluster: they are averaged inside it, and `n` counts
people, not people times seeds. Where each fine-tune has data of its own, a cluster is one person of one fine-tune.
"""

from lib.stats.intervals import Interval, cluster_bootstrap, cluster_ratio
from lib.stats.significance import cluster_permutation, holm, ks_two_sample, paired_t, welch_t

__all__ = [
    "Interval",
    "cluster_bootstrap",
    "cluster_permutation",
    "cluster_ratio",
    "holm",
    "ks_two_sample",
    "paired_t",
    "welch_t",
]
