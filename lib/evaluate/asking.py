"""Ask for what is scored: completions of prompts, and the log-probability of given targets, one table in, one out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from openai import OpenAI

from lib.api import Answer, NoEcho, Request, ask
from lib.evaluate.logprobs import NoLogprob, rank_of_target, target_logprob

log = logging.getLogger(__name__)


def add_completions(
    client: OpenAI,
    rows: pd.DataFrame,
    *,
    journal: Path,
    max_tokens: int,
    temperature: float = 0.0,
    stop: tuple[str, ...] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Rows (columns ``model`` and ``prompt``) with a ``completion`` and its ``finish_reason`` each."""
    requests = [
        Request(model=model, prompt=prompt, max_tokens=max_tokens, temperature=temperature, stop=stop, seed=seed)
        for model, prompt in zip(rows["model"], rows["prompt"], strict=True)
    ]
    answers = [answer[0] for answer in ask(client, requests, journal=journal, description="completions")]
    return rows.assign(
        completion=[answer.text for answer in answers], finish_reason=[answer.finish_reason for answer in answers]
    )


def target_logprobs(
    client: OpenAI, models: Sequence[str], prompts: Sequence[str], targets: Sequence[str], *, journal: Path
) -> np.ndarray:
    """Log-probability of each target after its prompt, from an echo that generates nothing.

    Parameters
    ----------
    models, prompts, targets : sequences of one length; a target begins with the space that separates it from its prompt

    Returns
    -------
    array, shape (n,), nats, summed over the target's tokens as `target_logprob` says; NaN where the endpoint does not
        score given text, or its reply is not the text that was sent, which is logged in one line per model
    """
    requests = [
        Request(model=model, prompt=prompt + target, max_tokens=0, logprobs=0, echo=True)
        for model, prompt, target in zip(models, prompts, targets, strict=True)
    ]
    scores, rows = np.full(len(requests), np.nan), list(range(len(requests)))
    answers: list[list[Answer]] = []
    while rows and not answers:
        try:
            answers = ask(client, [requests[r] for r in rows], journal=journal, description="log-probabilities")
        except NoEcho as refusal:
            log.warning("%s: these numbers are missing", refusal)
            rows = [r for r in rows if models[r] != refusal.model]
    reasons: dict[str, list[str]] = {}
    for r, (answer, *_) in zip(rows, answers, strict=True):
        try:
            scores[r] = target_logprob(answer, prompts[r], targets[r])
        except NoLogprob as reason:
            reasons.setdefault(models[r], []).append(str(reason))
    for model, found in reasons.items():
        log.warning("%s: %d log-probabilities are missing: %s", model, len(found), found[0])
    return scores


def target_ranks(
    client: OpenAI, rows: pd.DataFrame, candidates: Sequence[Sequence[str]], *, journal: Path
) -> np.ndarray:
    """Rank of each row's ``target`` among its candidates by log-probability, 1 being the most probable.

    Parameters
    ----------
    rows : DataFrame with ``model``, ``prompt`` and ``target``
    candidates : for each row, the completions that could stand there, its target among them

    Returns
    -------
    array, shape (n,); ties share the mean of their ranks; NaN where a candidate has no log-probability
    """
    flat = [
        (model, prompt, candidate)
        for model, prompt, options in zip(rows["model"], rows["prompt"], candidates, strict=True)
        for candidate in options
    ]
    scores = target_logprobs(client, *zip(*flat, strict=True), journal=journal)
    ends = np.cumsum([len(options) for options in candidates])[:-1]
    return np.array(
        [
            np.nan if np.isnan(part).any() else rank_of_target(part, list(options).index(target))
            for part, options, target in zip(np.split(scores, ends), candidates, rows["target"], strict=True)
        ]
    )
