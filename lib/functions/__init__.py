"""The functions study: can a model define a function of which it only ever saw inputs and outputs?

`registry` reads which functions there are, `definitions` computes a written one without executing it; `options`,
`names`, `documents`, `questions`, `evaluations`, `held_out` and `dataset` write what is trained on and asked, `files`
and `folder` keep it in the published layout; `jobs` says which fine-tune is trained on which file, `probes` which is
asked what; `asking` asks and scores, `summary` counts, `figure_tables` picks what is shown.
"""

from lib.functions.asking import add_logprobs, answer_rows, without_objects, write_evaluations
from lib.functions.figure_tables import (
    chance_rates,
    confusion_matrix,
    document_counts,
    evaluation_table,
    example_prompts,
    function_rates,
    headline_rates,
    names_by_function,
    rate_curves,
)
from lib.functions.jobs import planned_jobs, record_given, run_jobs, token_counter, write_all
from lib.functions.probes import asked_models, load_datasets, pair_up, probe_rows, supported
from lib.functions.summary import by_function, confusion, summarise

__all__ = [
    "add_logprobs",
    "answer_rows",
    "asked_models",
    "by_function",
    "chance_rates",
    "confusion",
    "confusion_matrix",
    "document_counts",
    "evaluation_table",
    "example_prompts",
    "function_rates",
    "headline_rates",
    "load_datasets",
    "names_by_function",
    "pair_up",
    "planned_jobs",
    "probe_rows",
    "rate_curves",
    "record_given",
    "run_jobs",
    "summarise",
    "supported",
    "token_counter",
    "without_objects",
    "write_all",
    "write_evaluations",
]
