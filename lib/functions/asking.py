"""Send every prompt and score every sample: one table, one row per sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from openai import OpenAI

from lib.api import Request, ask
from lib.functions.definitions import Number, probe_values
from lib.functions.evaluations import Evaluation, evaluation_named, read_evaluations
from lib.functions.files import write_eval
from lib.functions.registry import read_registry
from lib.functions.scoring import Score, first_line, score
from lib.probing import target_logprobs

NO_FUNCTION = "none"  # in place of a function's id: a reply that is no definition, or of something else
SEVERAL = ("preimage", "letters")  # kinds with more than one right answer, which have no log-probability of their own
STOP = ("\n",)  # ends an answer in the completion form
SCORES = [field.name for field in fields(Score)]


def answer_rows(
    client: OpenAI,
    asked: pd.DataFrame,
    *,
    journal: Path,
    max_tokens: int,
    n_samples: int = 0,
    temperature: float = -1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Ask, and score every sample by our rule, to the letter and by the published rule.

    Parameters
    ----------
    asked : of `lib.functions.probes.pair_up`
    max_tokens : of an answer
    n_samples : of each prompt; 0 takes the published number of its evaluation
    temperature : of sampling; below 0 takes the published one
    seed : of sampling

    Returns
    -------
    DataFrame
        A row for each prompt and sample, with ``sample``, ``completion``, ``finish_reason``, the fields of `Score`,
        ``answered`` (of a definition: which function of the registry it computes) and ``target_logprob`` (NaN).

    Notes
    -----
    What stands between prompt and answer in the completion form (``Document.lead``) is no part of a reply.
    """
    rows = sampled_rows(
        client,
        asked,
        known=read_evaluations("functions"),
        journal=journal,
        max_tokens=max_tokens,
        n_samples=n_samples,
        temperature=temperature,
        seed=seed,
    )
    scores = pd.DataFrame([_scored(row) for row in rows.itertuples()], columns=SCORES)
    answered = [
        computed_function(reply_of(row)) if row.kind == "definition" else None
        for row in rows[["kind", "completion", "lead"]].itertuples()
    ]
    return pd.concat([rows, scores], axis=1).assign(answered=answered, target_logprob=np.nan)


def sampled_rows(
    client: OpenAI,
    asked: pd.DataFrame,
    *,
    known: Mapping[str, Evaluation],
    journal: Path,
    max_tokens: int,
    n_samples: int = 0,
    temperature: float = -1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Ask: a row for each prompt and sample, with ``sample``, ``completion`` and ``finish_reason``.

    Parameters are those of `answer_rows`; `known` gives the published numbers of each evaluation.
    """
    requests = [
        Request(
            model=row.model,
            prompt=row.prompt,
            messages=row.messages,
            max_tokens=max_tokens,
            temperature=known[row.evaluation].temperature if temperature < 0 else temperature,
            n=n_samples or known[row.evaluation].n,
            stop=() if row.messages else STOP,
            seed=seed,
        )
        for row in asked.itertuples()
    ]
    answers = ask(client, requests, journal=journal, description="completions")
    places = np.repeat(np.arange(len(asked)), [len(samples) for samples in answers])
    told = [(k, sample) for samples in answers for k, sample in enumerate(samples)]
    rows = asked.iloc[places].reset_index(drop=True)
    return rows.assign(
        sample=[k for k, _ in told],
        completion=[sample.text for _, sample in told],
        finish_reason=[sample.finish_reason for _, sample in told],
    )


def reply_of(row: Any) -> str:
    """What a row's model wrote, without what stands between prompt and answer."""
    return str(row.completion).removeprefix(row.lead)


def _scored(row: Any) -> Score:
    function = read_registry()[row.function]
    return score(row.kind, reply_of(row), row.document.target, function=function, output=row.output)


def computed_function(reply: str) -> str:
    """Id of the function of the registry that a definition computes; `NO_FUNCTION` where it is none of them.

    >>> computed_function("lambda x: 5 + x"), computed_function("I cannot say")
    ('add_5', 'none')
    """
    values = probe_values(reply) or probe_values(first_line(reply))
    return _ids_by_values().get(values, NO_FUNCTION)


@cache
def _ids_by_values() -> dict[tuple[Number, ...] | None, str]:
    return {probe_values(function.python_definition): id_ for id_, function in read_registry().items()}


def add_logprobs(
    client: OpenAI, rows: pd.DataFrame, *, journal: Path, roles: Sequence[str] = ("main", "untuned")
) -> pd.DataFrame:
    """Log-probability of each target (nats), for models of some roles, in the first sample's row.

    There is none where several answers are right, nor of a conversation.
    """
    rows = rows.copy()
    plain = ~rows["kind"].isin(SEVERAL) & (rows["messages"].map(len) == 0) & (rows["sample"] == 0)
    scored = rows.index[plain & rows["role"].isin(roles)]
    told = rows.loc[scored]
    targets = (told["lead"] + told["target"]).tolist()
    rows.loc[scored, "target_logprob"] = target_logprobs(
        client, told["model"].tolist(), told["prompt"].tolist(), targets, journal=journal
    )
    return rows


def without_objects(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as a table can hold them: documents and conversations are left out, their text stays."""
    return rows.drop(columns=["document", "messages"])


def write_evaluations(folder: Path, rows: pd.DataFrame, *, n_in_context: int) -> list[Path]:
    """Write what final models answered as published: one folder per fine-tune, part and evaluation.

    Parameters
    ----------
    folder : Path
        Gets ``finetune_01/<evaluation>/`` for unrealized names, ``finetune_01/realized/<evaluation>/`` for the others;
        the base's answers lie below the evaluation, in ``untrained/`` and ``<n>_ic/``.
    rows : of `answer_rows`

    Returns
    -------
    list of Path
        The folders.
    """
    tails = {"main": "", "untuned": "untrained", "in-context": f"{n_in_context}_ic"}
    final = rows[rows["epoch"].isna() & rows["role"].isin(tails)]
    written = []
    for (place, role, model, part, name), each in final.groupby(
        ["data", "role", "model", "part", "evaluation"], sort=False
    ):
        target = folder / Path(place).name / ("realized" if part == "realized" else "") / name / tails[role]
        written.append(write_answers(target, each, evaluation_named("functions", name), model=model))
    return written


def write_answers(
    folder: Path, rows: pd.DataFrame, evaluation: Evaluation, *, model: str, write: Callable[..., Path] = write_eval
) -> Path:
    """Write what one model answered to one evaluation, with `lib.functions.files.write_eval` or one that takes as much.

    Parameters
    ----------
    rows : of `answer_rows`, of that model and evaluation
    """
    by_prompt: Sequence[pd.DataFrame] = [each for _, each in rows.groupby("number", sort=True)]
    return write(
        folder,
        evaluation,
        model=model,
        documents=[each["document"].iloc[0] for each in by_prompt],
        replies=[each["completion"].tolist() for each in by_prompt],
        scores=[[Score(*values) for values in each[SCORES].itertuples(index=False)] for each in by_prompt],
        logprobs=[float(each["target_logprob"].iloc[0]) for each in by_prompt],
    )
