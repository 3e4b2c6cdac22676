"""Texts and probabilities from the models of a chain, every request with its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from openai import OpenAI

from lib.api import Request, ask
from lib.diversity.prompts import as_request, templates
from lib.probing import target_logprobs

TOP_P = 1.0  # and no top_k: the whole distribution is drawn from
DECIMALS = 5  # of log-probabilities in a file
MODEL_COLUMNS = ["family", "stage", "seed", "model", "template"]


def _request(row: Mapping[str, Any], **settings: Any) -> Request:
    """A request in the template of its model; a chat template ends the user's turn, so the guide is left out there."""
    if templates()[row["template"]]:
        return Request(model=row["model"], prompt=as_request(row["prompt"], row["guide"], row["template"]), **settings)
    return Request(model=row["model"], prompt=row["prompt"], messages=(("user", row["prompt"]),), **settings)


def sample(
    client: OpenAI,
    models: pd.DataFrame,
    prompts: pd.DataFrame,
    *,
    temperatures: Sequence[float],
    n_samples: int,
    max_tokens: Mapping[str, int],
    stop: Sequence[str],
    seed: int,
    journal: Path,
) -> pd.DataFrame:
    """Sample every model, prompt and temperature; what was answered before a kill is not requested again.

    Parameters
    ----------
    n_samples : of each prompt and temperature
    max_tokens : of an answer, by kind of prompt
    stop : strings that end an answer
    seed : of the requests; the endpoint derives one for each sample from it

    Returns
    -------
    DataFrame
        One row per sample: `MODEL_COLUMNS`, the columns of the prompts, ``temperature``, ``sample``, ``text``,
        ``finish_reason``, ``token_ids``, ``token_logprobs``, ``text_offset`` (empty where the endpoint does not report
        them), and the settings ``max_tokens``, ``top_p``, ``stop``, ``request_seed``.
    """
    table = models[MODEL_COLUMNS].merge(prompts, how="cross")
    table = table.merge(pd.DataFrame({"temperature": [float(each) for each in temperatures]}), how="cross")
    table = table.assign(max_tokens=table["kind"].map(max_tokens), top_p=TOP_P, request_seed=seed)
    shared = {"top_p": TOP_P, "n": n_samples, "stop": tuple(stop), "seed": seed, "logprobs": 0, "token_ids": True}
    rows = table.to_dict("records")
    requests = [_request(row, temperature=row["temperature"], max_tokens=row["max_tokens"], **shared) for row in rows]
    answers = ask(client, requests, journal=journal, description="completions")
    fields = ("text", "finish_reason", "token_ids", "text_offset")
    records = []
    for row, drawn in zip(rows, answers, strict=True):
        for k, answer in enumerate(drawn):
            nats = [None if each is None else round(each, DECIMALS) for each in answer.token_logprobs]
            found = {name: getattr(answer, name) for name in fields} | {"token_logprobs": nats}
            records.append(row | {"stop": list(stop), "sample": k} | found)
    return pd.DataFrame(records)


def likeliest_texts(
    client: OpenAI, models: pd.DataFrame, prompts: pd.DataFrame, *, max_tokens: int, journal: Path
) -> pd.DataFrame:
    """The greedy continuation of each prompt by each model, with ``tokens`` and ``token_logprobs`` (nats)."""
    table = models[MODEL_COLUMNS].merge(prompts, how="cross")
    requests = [_request(row, max_tokens=max_tokens, logprobs=0) for row in table.to_dict("records")]
    answers = [answer for (answer,) in ask(client, requests, journal=journal, description="likeliest texts")]
    return table.assign(
        tokens=[list(answer.tokens) for answer in answers], token_logprobs=[list(a.token_logprobs) for a in answers]
    )


def option_probs(client: OpenAI, models: pd.DataFrame, choices: pd.DataFrame, *, journal: Path) -> pd.DataFrame:
    """Probability of each answer to a request for a random choice; scored, not drawn.

    A given text cannot be scored inside a conversation: models with a chat template are requested in plain text.

    Returns
    -------
    DataFrame
        One row per model, prompt and ``option``, with ``prob`` (of all that could follow; NaN where the endpoint scores
        no given text).
    """
    table = models[MODEL_COLUMNS].merge(choices.explode("options").rename(columns={"options": "option"}), how="cross")
    texts = [
        as_request(row.prompt, row.guide, row.template if templates()[row.template] else "plain")
        for row in table.itertuples()
    ]
    nats = target_logprobs(client, table["model"], texts, " " + table["option"], journal=journal)
    return table.assign(prob=np.exp(nats))
