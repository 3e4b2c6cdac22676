"""Sample texts from the models of a chain: many per prompt and temperature, with every setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from openai import OpenAI

from lib.api import Request, ask
from lib.diversity.prompts import NumberPrompt, Prompt
from lib.diversity.templates import as_asked, as_messages, is_chat
from lib.paths import write_jsonl
from lib.probing import target_logprobs

TOP_P = 1.0  # and no top_k: the whole distribution is drawn from
DECIMALS = 5  # of log-probabilities in a file


def sample(
    client: OpenAI,
    models: pd.DataFrame,
    prompts: Sequence[Prompt],
    *,
    temperatures: Sequence[float],
    n_samples: int,
    max_tokens: Mapping[str, int],
    stop: Sequence[str],
    seed: int,
    journal: Path,
) -> pd.DataFrame:
    """Sample every model, prompt and temperature, each once; what was answered before a kill is not asked again.

    Parameters
    ----------
    models : table of `lib.diversity.chain`
    n_samples : of each prompt and temperature
    max_tokens : of an answer, by kind of prompt
    stop : strings that end an answer
    seed : of the requests; the endpoint derives one for each sample from it

    Returns
    -------
    DataFrame
        One row per sample: ``family``, ``model`` (the stage's label), ``model_id``, ``seed`` (of the fine-tune),
        ``kind``, ``prompt``, ``guide``, ``temperature``, ``sample``, ``text``, ``finish_reason``, ``token_ids``,
        ``token_logprobs``, ``text_offset`` (empty where the endpoint does not tell them), ``accepted``, and the
        settings ``template``, ``max_tokens``, ``top_p``, ``stop``, ``request_seed``.
    """
    asked = [
        (row, prompt, temperature) for row in models.itertuples() for prompt in prompts for temperature in temperatures
    ]
    shared = {"top_p": TOP_P, "n": n_samples, "stop": tuple(stop), "seed": seed, "logprobs": 0, "token_ids": True}
    requests = [
        _request(prompt, str(row.template), model=row.model, temperature=temperature, **shared,
                 max_tokens=max_tokens[prompt.kind])
        for row, prompt, temperature in asked
    ]  # fmt: skip
    answers = ask(client, requests, journal=journal, description="completions")
    settings = {"top_p": TOP_P, "stop": list(stop), "request_seed": seed}
    rows = []
    for (row, prompt, temperature), drawn in zip(asked, answers, strict=True):
        about = {
            "family": row.family, "model": row.stage, "model_id": row.model, "seed": row.seed, "kind": prompt.kind,
            "prompt": prompt.prompt, "guide": prompt.guide, "accepted": list(prompt.accepted),
            "temperature": float(temperature), "template": row.template, "max_tokens": max_tokens[prompt.kind],
        }  # fmt: skip
        rows += [
            about | settings | {
                "sample": k, "text": answer.text, "finish_reason": answer.finish_reason,
                "token_ids": list(answer.token_ids), "text_offset": list(answer.text_offset),
                "token_logprobs": [None if each is None else round(each, DECIMALS) for each in answer.token_logprobs],
            }
            for k, answer in enumerate(drawn)
        ]  # fmt: skip
    return pd.DataFrame(rows)


def _request(prompt: Prompt, template: str, **settings: Any) -> Request:
    if is_chat(template):
        return Request(prompt=prompt.prompt, messages=as_messages(prompt), **settings)
    return Request(prompt=as_asked(prompt, template), **settings)


def write_completions(path: Path, completions: pd.DataFrame) -> None:
    """Write samples as JSON lines, which `lib.diversity.read_completions` reads."""
    write_jsonl(path, completions.to_dict("records"))


def greedy_texts(
    client: OpenAI, models: pd.DataFrame, prompts: Sequence[Prompt], *, max_tokens: int, journal: Path
) -> pd.DataFrame:
    """The likeliest continuation of each prompt, one row per model and prompt, with tokens and log-probabilities.

    Returns
    -------
    DataFrame
        ``family``, ``model``, ``seed``, ``prompt``, ``guide``, ``tokens`` (list of text) and ``token_logprobs`` (nats).
    """
    asked = [(row, prompt) for row in models.itertuples() for prompt in prompts]
    requests = [
        _request(prompt, str(row.template), model=row.model, max_tokens=max_tokens, logprobs=0) for row, prompt in asked
    ]
    answers = ask(client, requests, journal=journal, description="likeliest texts")
    rows = [
        {"family": row.family, "model": row.stage, "seed": row.seed, "prompt": prompt.prompt, "guide": prompt.guide,
         "tokens": list(answer.tokens), "token_logprobs": list(answer.token_logprobs)}
        for (row, prompt), (answer,) in zip(asked, answers, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def option_probs(
    client: OpenAI, models: pd.DataFrame, prompts: Sequence[NumberPrompt], *, journal: Path
) -> pd.DataFrame:
    """How probable is each answer where a random one is asked for? Scored, not drawn.

    A given text cannot be scored inside a conversation: models with a chat template are asked in plain text.

    Returns
    -------
    DataFrame
        One row per model, prompt and option: ``family``, ``model``, ``seed``, ``prompt``, ``option``, ``prob`` (of all
        that could follow; NaN where the endpoint scores no given text).
    """
    asked = [(row, prompt, option) for row in models.itertuples() for prompt in prompts for option in prompt.options]
    texts = [as_asked(prompt, "plain" if is_chat(row.template) else row.template) for row, prompt, _ in asked]
    nats = target_logprobs(
        client, [row.model for row, _, _ in asked], texts, [f" {option}" for *_, option in asked], journal=journal
    )
    rows = [
        {"family": row.family, "model": row.stage, "seed": row.seed, "prompt": prompt.prompt, "option": option}
        for row, prompt, option in asked
    ]
    return pd.DataFrame(rows).assign(prob=np.exp(nats))
