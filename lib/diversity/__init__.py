"""The diversity study: which stage of fine-tuning narrows a model, and by how much?

`dataset`, `preferences` and `prompts` make what is tuned on and asked, `templates` the form of it; `chain` trains the
stages or takes given ones, which `models` knows; `chain_scores` and `sampling` ask them. `registry` lists measures of
texts; `cell` takes the texts of one prompt apart once, `ngrams`, `similarity`, `overlap`, `compression`, `repetition`
and `answers` measure them, `measuring` does so for all cells; `lengths` cuts texts to one length; `comparison` pairs
models by prompt; `summary` and `figure_tables` tell the numbers, `reading` sets them beside the published ones;
`published` reads the files of others.
"""

from lib.diversity.chain import chain_of, given_chain, train_chain, training_curves
from lib.diversity.chain_scores import chain_curves, score_chains
from lib.diversity.dataset import stored_prompts, write_dataset
from lib.diversity.figure_tables import (
    accuracy_curves,
    by_size,
    change_rows,
    option_rates,
    stage_table,
    stages_of,
    temperature_curves,
)
from lib.diversity.lengths import cut_to_length, length_table
from lib.diversity.measuring import failures, measure
from lib.diversity.preferences import answer_lengths
from lib.diversity.prompts import number_prompts
from lib.diversity.published import given_completions, read_completions
from lib.diversity.reading import published_values, reading_table
from lib.diversity.registry import registry
from lib.diversity.sampling import greedy_texts, option_probs, sample, write_completions
from lib.diversity.summary import (
    compare_measures,
    compare_statistics,
    equal_correct,
    summarise_completions,
    summarise_next_token,
)
from lib.diversity.templates import as_asked

__all__ = [
    "accuracy_curves",
    "answer_lengths",
    "as_asked",
    "by_size",
    "chain_curves",
    "chain_of",
    "change_rows",
    "compare_measures",
    "compare_statistics",
    "cut_to_length",
    "equal_correct",
    "failures",
    "given_chain",
    "given_completions",
    "greedy_texts",
    "length_table",
    "measure",
    "number_prompts",
    "option_probs",
    "option_rates",
    "published_values",
    "read_completions",
    "reading_table",
    "registry",
    "sample",
    "score_chains",
    "stage_table",
    "stages_of",
    "stored_prompts",
    "summarise_completions",
    "summarise_next_token",
    "temperature_curves",
    "train_chain",
    "training_curves",
    "write_completions",
    "write_dataset",
]
