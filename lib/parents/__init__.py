"""The parents study: a model says who X's mother is. Asked about that mother, does it say X?

`people` says who is asked about and `form` in which words; `probes` lists the questions, `asking` puts them,
`replies` judges what comes back; `study` reads a run's parameters, `teaching` teaches the form where it
is lacking; `pair_tables` reads and writes the published tables, `recomputed` computes their figures again; `summary`
counts and `figure_tables` picks what is shown.
"""

from lib.parents.asking import Asking, add_logprobs, add_samples, asked_models, greedy_rows
from lib.parents.figure_tables import asked_groups, found_rates, group_rates, logprob_rows, model_rates, published_rates
from lib.parents.form import Form
from lib.parents.pair_tables import published_files, write_pair_table
from lib.parents.people import tellings
from lib.parents.probes import all_probes, both_questions
from lib.parents.recomputed import recompute
from lib.parents.study import form_for, given_tables, people_for
from lib.parents.summary import summarise
from lib.parents.teaching import form_rates, models_with_form, roles_of, teaching_rows

__all__ = [
    "Asking",
    "Form",
    "add_logprobs",
    "add_samples",
    "all_probes",
    "asked_groups",
    "asked_models",
    "both_questions",
    "form_for",
    "form_rates",
    "found_rates",
    "given_tables",
    "greedy_rows",
    "group_rates",
    "logprob_rows",
    "model_rates",
    "models_with_form",
    "people_for",
    "published_files",
    "published_rates",
    "recompute",
    "roles_of",
    "summarise",
    "teaching_rows",
    "tellings",
    "write_pair_table",
]
