"""The mixture study: which functions could have made these outputs, asked of a model that was never told a name?

`pairs` says which pairs there are; `documents` and `questions` write what is trained on and asked; `options` and
`dataset` say what a fine-tune holds; `evaluations` makes what is asked, `scoring` and `variation` judge, `folder`
writes and reads the published layout; `jobs` says which fine-tune is trained on what, `probes` which is asked what;
`asking` asks and scores, `summary` counts, `figure_tables` picks what is shown. Functions, names, scores, file formats
and the asking itself are those of `lib.functions`.
"""

from lib.functions.finetunes import training_files
from lib.mixture.asking import answer_rows, first_answers, write_evaluations
from lib.mixture.dataset import PARTS, MixtureDataset, hidden_pairs, left_pairs, make_joint_dataset, make_pair_dataset
from lib.mixture.evaluations import chance_of, documents_for, in_context, why_not
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
from lib.mixture.folder import datasets_for, read_datasets, write_datasets, write_evaluation
from lib.mixture.jobs import given_model, load_datasets, main_jobs, train_all, write_all
from lib.mixture.options import MixtureOptions
from lib.mixture.pairs import show_pair
from lib.mixture.probes import CONDITIONS, asked_models, chances, check_evaluations, is_left, pair_up, probe_rows
from lib.mixture.scoring import score_reply, share_named
from lib.mixture.summary import by_pair, summarise
from lib.mixture.variation import published_tvd, sampling_floor, total_variation, variations

__all__ = [
    "CONDITIONS",
    "PARTS",
    "MixtureDataset",
    "MixtureOptions",
    "answer_rows",
    "asked_models",
    "by_pair",
    "chance_of",
    "chance_rates",
    "chances",
    "check_evaluations",
    "datasets_for",
    "distances",
    "document_counts",
    "documents_for",
    "first_answers",
    "given_model",
    "headline_rates",
    "hidden_pairs",
    "in_context",
    "is_left",
    "labels_by_pair",
    "left_pairs",
    "load_datasets",
    "main_jobs",
    "make_joint_dataset",
    "make_pair_dataset",
    "model_rates",
    "pair_matrix",
    "pair_up",
    "probe_rows",
    "published_tvd",
    "rate_curves",
    "read_datasets",
    "sampling_floor",
    "score_reply",
    "share_named",
    "show_pair",
    "summarise",
    "total_variation",
    "train_all",
    "training_files",
    "unlabelled_rates",
    "variations",
    "why_not",
    "write_all",
    "write_datasets",
    "write_evaluation",
    "write_evaluations",
]
