"""The mixture study: which functions could have made these outputs, asked of a model that was never told a name?

`pairs` says which pairs there are; `documents` and `questions` write what is trained on and asked; `options` and
`dataset` say what a fine-tune holds; `evaluations` makes what is asked, `scoring` and `variation` judge, `folder`
writes and reads the published layout; `jobs` says which fine-tune is trained on what, `probes` which is asked what;
`asking` asks and scores, `summary` counts, `figure_tables` picks what is shown. Functions, names, scores, file formats
and the asking itself are those of `lib.functions`.
"""

from lib.mixture.asking import answer_rows, first_answers, write_evaluations
from lib.mixture.figure_tables import (
    chance_rates,
    distances,
    document_counts,
    headline_rates,
    labels_by_pair,
    model_rates,
    pair_matrix,
    rate_curves,
    unlabelled_rates,
)
from lib.mixture.jobs import given_model, load_datasets, main_jobs, train_all, write_all
from lib.mixture.pairs import show_pair
from lib.mixture.probes import asked_models, chances, check_evaluations, is_left, pair_up, probe_rows
from lib.mixture.summary import by_pair, summarise

__all__ = [
    "answer_rows",
    "asked_models",
    "by_pair",
    "chance_rates",
    "chances",
    "check_evaluations",
    "distances",
    "document_counts",
    "first_answers",
    "given_model",
    "headline_rates",
    "is_left",
    "labels_by_pair",
    "load_datasets",
    "main_jobs",
    "model_rates",
    "pair_matrix",
    "pair_up",
    "probe_rows",
    "rate_curves",
    "show_pair",
    "summarise",
    "train_all",
    "unlabelled_rates",
    "write_all",
    "write_evaluations",
]
