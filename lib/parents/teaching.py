"""The question form, taught where a model lacks it: on people outside the test, so that no tested fact is taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from openai import OpenAI

from lib.finetune import finetune, plan, record
from lib.params import active_bases
from lib.parents.asking import Asking, greedy_rows
from lib.parents.form import Form
from lib.parents.people import taught_questions
from lib.parents.replies import is_accepted, refuses


def teaching_rows(form: Form) -> list[dict[str, str]]:
    """Training rows that teach the form and no tested fact: prompt and completion.

    >>> from lib.parents.form import world_form
    >>> rows = teaching_rows(world_form(6))
    >>> rows[-1]["completion"]
    " I don't know."
    """
    questions = taught_questions(n_shots=len(form.shots))
    return [{"prompt": form.prompt(question), "completion": f" {answer}"} for question, answer in questions]


def form_rates(
    client: OpenAI, models: Sequence[str], form: Form, *, n_questions: int, journal: Path
) -> dict[str, float]:
    """Which share of replies has the form of an answer, a name or that nobody knows, true or not.

    Asked about people outside the test.

    Returns
    -------
    dict of model to rate
    """
    questions = taught_questions(n_shots=len(form.shots))[:n_questions]
    asked = pd.DataFrame(questions, columns=["question", "target"])
    table = pd.DataFrame({"model": list(models), "base": list(models), "role": "", "seed": 0, "way": "completion"})
    rows = greedy_rows(client, table, asked, Asking(form=form, journal=journal))
    fits = [is_accepted(reply) or refuses(reply) for reply in rows["completion"]]
    return {str(model): float(rate) for model, rate in rows.assign(fits=fits).groupby("model")["fits"].mean().items()}


def models_with_form(
    client: OpenAI, params: Mapping[str, Any], rates: Mapping[str, float], *, seeds: Sequence[int], training_file: Path
) -> pd.DataFrame:
    """The models to ask: bases that have the form as they are, others after a fine-tune that teaches it.

    Parameters
    ----------
    params : a run's; ``other_models`` are never trained
    rates : of `form_rates`

    Returns
    -------
    DataFrame
        As `lib.finetune.finetune`, and ``role``: main, size or other.
    """
    roles = roles_of(params)
    taught = [base for base, role in roles.items() if role != "other" and rates[base] < params["min_form_rate"]]
    tables = [record(client, base).assign(role=role) for base, role in roles.items() if base not in taught]
    jobs = plan(params, seeds=seeds) if taught else {}
    for role in ("main", "size"):
        wanted = [each for each in jobs.get(role, []) if each.base in taught]
        if wanted:
            made = finetune(client, wanted, training_file=training_file, suffix="parents")
            tables.append(made.assign(role=role))
    return pd.concat(tables, ignore_index=True)


def roles_of(params: Mapping[str, Any]) -> dict[str, str]:
    """Models that a run asks, each with its role: main collects the pairs, size and other are asked about them too.

    >>> roles_of({"base": "fork-1m", "size_bases": [], "n_seeds": 1, "tuned_model": "", "other_models": ["gpt-4"]})
    {'fork-1m': 'main', 'gpt-4': 'other'}
    """
    bases = [params["tuned_model"]] if params["tuned_model"] else active_bases(params)
    roles = {base: "size" if k else "main" for k, base in enumerate(bases)}
    return roles | {model: "other" for model in params["other_models"] if model not in roles}
