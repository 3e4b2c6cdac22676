"""The diversity study: which stage of fine-tuning narrows a model, and by how much?

`registry` lists the measures; `cell` takes the texts of one prompt apart once, `ngrams`, `similarity`, `overlap`,
`compression`, `repetition` and `answers` measure them, `measuring` does so for all cells; `lengths` cuts texts to one
length; `comparison` pairs models by prompt; `published` reads the files of others.
"""

from lib.diversity.answers import answer_of, correct_only, holds_answer
from lib.diversity.cell import Cell, UndefinedMeasure
from lib.diversity.comparison import paired_differences, stage_shares
from lib.diversity.lengths import PUBLISHED_WORDS, cut_tokens, cut_words, length_table, same_sizes
from lib.diversity.measuring import KEY, failures, measure
from lib.diversity.published import (
    Calculations,
    read_calculations,
    read_completions,
    read_perplexity,
    read_results,
)
from lib.diversity.registry import Measure, published_measures, registry

__all__ = [
    "KEY",
    "PUBLISHED_WORDS",
    "Calculations",
    "Cell",
    "Measure",
    "UndefinedMeasure",
    "answer_of",
    "correct_only",
    "cut_tokens",
    "cut_words",
    "failures",
    "holds_answer",
    "length_table",
    "measure",
    "paired_differences",
    "published_measures",
    "read_calculations",
    "read_completions",
    "read_perplexity",
    "read_results",
    "registry",
    "same_sizes",
    "stage_shares",
]
