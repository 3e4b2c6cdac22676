"""The reversal study: trained on "A is B", can a model say "B is A"?

`sources` reads the invented people, descriptions and templates; `sentences` fills one template; `files` says which
published file holds what; `controls` draws the wrong answers; `dataset` builds all files; `folder` writes and reads
them; `evaluation` says what to ask and what it tests, `probes` asks it, `summary` counts.
"""

from lib.probing import curve_models, final_models
from lib.reversal.dataset import ReversalOptions, make_dataset
from lib.reversal.evaluation import training_facts
from lib.reversal.figure_tables import (
    file_counts,
    headline_rates,
    logprob_rows,
    published_rates,
    rate_curves,
    row_lengths,
)
from lib.reversal.folder import dataset_for, read_dataset, write_dataset
from lib.reversal.probes import add_logprobs, answer_rows, probe_rows
from lib.reversal.sources import read_sources
from lib.reversal.summary import summarise

__all__ = [
    "ReversalOptions",
    "add_logprobs",
    "answer_rows",
    "curve_models",
    "dataset_for",
    "file_counts",
    "final_models",
    "headline_rates",
    "logprob_rows",
    "make_dataset",
    "probe_rows",
    "published_rates",
    "rate_curves",
    "read_dataset",
    "read_sources",
    "row_lengths",
    "summarise",
    "training_facts",
    "write_dataset",
]
