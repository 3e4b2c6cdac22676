"""The mixture study: which functions could have made these outputs, asked of a model that was never told a name?

`pairs` says which pairs there are; `documents` and `questions` write what is trained on and asked; `options` and
`dataset` say what a fine-tune holds; `evaluations` asks, `scoring` and `variation` judge, `folder` writes and reads the
published layout. Functions, names, scores and file formats are those of `lib.functions`.
"""

from lib.functions.folder import training_files
from lib.mixture.dataset import (
    PARTS,
    MixtureDataset,
    hidden_pairs,
    left_pairs,
    make_joint_dataset,
    make_pair_dataset,
)
from lib.mixture.evaluations import chance_of, documents_for, in_context, why_not
from lib.mixture.folder import datasets_for, options_for, read_datasets, write_datasets, write_evaluation
from lib.mixture.options import MixtureOptions
from lib.mixture.pairs import Pair, agreement, all_pairs, choose_candidates, read_pair, show_pair
from lib.mixture.scoring import named_definitions, score_reply, share_named
from lib.mixture.variation import Variation, published_tvd, sampling_floor, total_variation, variations

__all__ = [
    "PARTS",
    "MixtureDataset",
    "MixtureOptions",
    "Pair",
    "Variation",
    "agreement",
    "all_pairs",
    "chance_of",
    "choose_candidates",
    "datasets_for",
    "documents_for",
    "hidden_pairs",
    "in_context",
    "left_pairs",
    "make_joint_dataset",
    "make_pair_dataset",
    "named_definitions",
    "options_for",
    "published_tvd",
    "read_datasets",
    "read_pair",
    "sampling_floor",
    "score_reply",
    "share_named",
    "show_pair",
    "total_variation",
    "training_files",
    "variations",
    "why_not",
    "write_datasets",
    "write_evaluation",
]
