"""Lend what a small model was taught to a big one, by adding the difference it made to next-token log-probabilities.

Weights are those of (big, tuned, base); values are nats. `fit_weights` is the way to find them, `tune_temperatures` the
published one; `lib.blending.published` has the published pipeline whole.

What only the notebooks need is imported by module: `dataset`, `models` and `pair`, `targets` and `predictions`,
`tuning`, `scores`, `truncation`, `generating`, `summary`, `text_summary`, `figure_tables`; `stages` ties them together.
"""

from lib.blending.records import read_records, save_records
from lib.blending.support import full_support
from lib.blending.temperatures import tune_temperatures
from lib.blending.tuning import weights_of

__all__ = ["full_support", "read_records", "save_records", "tune_temperatures", "weights_of"]
