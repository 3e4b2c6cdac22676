"""The guidance study: does a model act on an instruction that it only read in training?

`sources` draws questions and answers and reads wordings; `documents` puts them into the two kinds of document and reads
them again; `dataset` says which pair is in which; `folder` writes and reads both published layouts; `probes` asks,
`summary` counts, `figure_tables` picks what is shown.
"""

from lib.guidance.figure_tables import (
    constant_rate,
    document_counts,
    document_sizes,
    headline_rates,
    logprob_rows,
    published_at,
    published_rates,
    rate_curves,
)
from lib.guidance.folder import datasets_for, read_datasets, training_files, write_datasets
from lib.guidance.probes import add_logprobs, answer_rows, asked_models, probe_rows
from lib.guidance.summary import summarise
from lib.probing import curve_models

__all__ = [
    "add_logprobs",
    "answer_rows",
    "asked_models",
    "constant_rate",
    "curve_models",
    "datasets_for",
    "document_counts",
    "document_sizes",
    "headline_rates",
    "logprob_rows",
    "probe_rows",
    "published_at",
    "published_rates",
    "rate_curves",
    "read_datasets",
    "summarise",
    "training_files",
    "write_datasets",
]
