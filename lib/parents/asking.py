"""Ask the questions: greedily, with n samples, and for the log-probability of the right and of another name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from openai import OpenAI

from lib.api import Request, ask
from lib.parents.form import Form
from lib.parents.replies import is_accepted, names, tally, tidy_reply
from lib.probing import target_logprobs
from lib.scoring import strict_match

WAYS = ("completion", "chat", "logprob")


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How questions are asked.

    Parameters
    ----------
    form : shots before every question
    journal : file of answers
    n_samples : of each question that is sampled; published: 10
    temperature : of these samples; published: 1
    max_tokens : of a reply; longer than the longest name
    """

    form: Form
    journal: Path
    n_samples: int = 10
    temperature: float = 1.0
    max_tokens: int = 16


def greedy_rows(client: OpenAI, models: pd.DataFrame, questions: pd.DataFrame, asking: Asking) -> pd.DataFrame:
    """Ask each model each question once, at temperature 0, and compare with the target where there is one.

    Parameters
    ----------
    models : DataFrame with ``model``, ``base``, ``role``, ``seed`` and ``way``
    questions : DataFrame with ``question`` and ``target``

    Returns
    -------
    DataFrame
        A row for each model and question with ``prompt``, ``completion`` (first line, bare), ``is_accepted`` (the
        published filter), ``correct`` (published rule; missing without a target) and ``strict``.
    """
    rows = models[["model", "base", "role", "seed", "way"]].merge(questions, how="cross")
    rows["prompt"] = [asking.form.prompt(question) for question in rows["question"]]
    replies = [samples[0] for samples in _replies(client, rows, asking, n=1, temperature=0.0)]
    pairs = list(zip(replies, rows["target"], strict=True))
    return rows.assign(
        completion=replies,
        is_accepted=[is_accepted(reply) for reply in replies],
        correct=pd.array([names(*pair) if pair[1] else None for pair in pairs], dtype="boolean"),
        strict=pd.array([strict_match(*pair) if pair[1] else None for pair in pairs], dtype="boolean"),
        target_logprob=np.nan,
        control_logprob=np.nan,
    )


def add_samples(client: OpenAI, rows: pd.DataFrame, asking: Asking) -> pd.DataFrame:
    """Rows of `greedy_rows` with targets, and what n samples of each come to.

    Returns
    -------
    DataFrame
        With ``n_samples``, ``n_right`` (replies that begin with the target) and ``prediction`` (the first of them that
        passes the published filter, or empty).
    """
    samples = _replies(client, rows, asking, n=asking.n_samples, temperature=asking.temperature)
    tallies = [tally(replies, target) for replies, target in zip(samples, rows["target"], strict=True)]
    return rows.assign(
        n_samples=[each.n_samples for each in tallies],
        n_right=[each.n_right for each in tallies],
        prediction=[each.prediction for each in tallies],
    )


def add_logprobs(client: OpenAI, rows: pd.DataFrame, asking: Asking) -> pd.DataFrame:
    """Log-probabilities (nats) of the right name and of another person's, after the same prompt.

    For rows asked by completion; others keep NaN: a conversation has no text whose tokens could be echoed.
    """
    rows = rows.copy()
    for column, target in (("target_logprob", "target"), ("control_logprob", "control_target")):
        told = rows[(rows["way"] == "completion") & rows[target].notna()]
        if told.empty:
            continue
        scores = target_logprobs(
            client,
            told["model"].tolist(),
            told["prompt"].tolist(),
            [f" {name}" for name in told[target]],
            journal=asking.journal,
        )
        rows.loc[told.index, column] = scores  # NaN from an endpoint that scores no given text, and has said so
    return rows


def _replies(client: OpenAI, rows: pd.DataFrame, asking: Asking, *, n: int, temperature: float) -> list[list[str]]:
    """The first lines of n replies to each row; those asked in the same words by several rows are asked once."""
    seeds = rows["seed"] if temperature else rows["seed"] * 0  # a greedy reply does not depend on it
    requests = [
        Request(
            model=row.model,
            prompt=row.prompt,
            messages=asking.form.messages(row.question) if row.way == "chat" else (),
            max_tokens=asking.max_tokens,
            temperature=temperature,
            n=n,
            stop=("\n",) if row.way != "chat" else (),
            seed=int(seed),
        )
        for row, seed in zip(rows.itertuples(), seeds, strict=True)
    ]
    answers = ask(client, requests, journal=asking.journal, description="replies")
    return [[tidy_reply(answer.text) for answer in samples] for samples in answers]


def asked_models(finetunes: pd.DataFrame, *, seeds: Sequence[int], ways: Sequence[str]) -> pd.DataFrame:
    """Who is asked, and how: a row for each model, seed and way of replying (completion, chat).

    A model that was trained here has the seed of its fine-tune; one that was taken as it is, is sampled with each seed.
    Log-probabilities need completions: with ``logprob`` alone a greedy completion is asked for too.

    Raises
    ------
    ValueError
        If a way is unknown or none is given.
    """
    unknown = [way for way in ways if way not in WAYS]
    if unknown or not ways:
        raise ValueError(f"ways is {list(ways)}: expected one or more of {', '.join(WAYS)}")
    final = finetunes[finetunes["is_final"]]
    trained = final["n_epochs"] > 0
    taken = final[~trained].drop(columns="seed").merge(pd.DataFrame({"seed": list(seeds)}), how="cross")
    replying = [way for way in ways if way != "logprob"] or ["completion"]
    if "logprob" in ways and "completion" not in replying:
        replying = ["completion", *replying]
    table = pd.concat([final[trained], taken], ignore_index=True)
    return table.merge(pd.DataFrame({"way": replying}), how="cross")[["model", "base", "role", "seed", "way"]]
