"""Put probes to models: completions, log-probabilities of given targets, and the rank of a target among others.

Probes are a DataFrame with one row per question (``prompt``, ``target`` and the study's own columns); models are rows
of the table that `lib.finetune` makes. What comes back is one row per question and model.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from openai import BadRequestError, OpenAI
from scipy.stats import rankdata

from lib.api import Answer, NoEcho, Request
from lib.api import ask as send
from lib.clients import spending_of

log = logging.getLogger(__name__)

MODEL_COLUMNS = ["model", "base", "role", "seed", "epoch"]
_BYTES = re.compile(r"bytes:(\\x[0-9a-f]{2})+", re.IGNORECASE)


class NoLogprob(ValueError):
    """A reply does not hold the log-probability of the target; the message gives the reason."""


def final_models(finetunes: pd.DataFrame) -> pd.DataFrame:
    """The models that carry the results; ``epoch`` is NaN."""
    return finetunes[finetunes["is_final"]].assign(epoch=np.nan)


def curve_models(finetunes: pd.DataFrame) -> pd.DataFrame:
    """The main models after each epoch, and their base as epoch 0; none where a model was trained elsewhere."""
    main = finetunes[(finetunes["role"] == "main") & (finetunes["n_epochs"] > 0)]
    untrained = main[main["is_final"]].assign(epoch=0, model=lambda rows: rows["base"])
    return pd.concat([untrained, main], ignore_index=True).astype({"epoch": float})


def ask(
    client: OpenAI,
    models: pd.DataFrame,
    probes: pd.DataFrame,
    *,
    journal: Path,
    max_tokens: int,
    stop: Sequence[str] = (),
) -> pd.DataFrame:
    """Greedy answers of each model to each probe.

    Answers are kept in the file `journal` as they come, so that only what is missing is requested again.

    Returns
    -------
    DataFrame with the columns of the probes and of `MODEL_COLUMNS`, ``completion`` and ``finish_reason``
    """
    rows = models[MODEL_COLUMNS].merge(probes, how="cross")
    requests = [
        Request(model=model, prompt=prompt, max_tokens=max_tokens, stop=tuple(stop))
        for model, prompt in zip(rows["model"], rows["prompt"], strict=True)
    ]
    answers = [answer[0] for answer in send(client, requests, journal=journal, description="completions")]
    return rows.assign(
        completion=[answer.text for answer in answers], finish_reason=[answer.finish_reason for answer in answers]
    )


def add_logprobs(client: OpenAI, answers: pd.DataFrame, *, journal: Path) -> pd.DataFrame:
    """Answers with ``target_logprob`` and, for the column ``control_target``, ``control_logprob`` (nats).

    A row without a target keeps NaN there.
    """
    answers = answers.copy()
    for column in ("target", "control_target"):
        if column in answers:
            rows = answers[answers[column].notna()]
            scores = target_logprobs(client, rows["model"], rows["prompt"], rows[column], journal=journal)
            answers[f"{column.removesuffix('_target')}_logprob"] = pd.Series(scores, index=rows.index)
    return answers


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
    models, prompts, targets = list(models), list(prompts), list(targets)
    requests = [
        Request(model=model, prompt=prompt + target, max_tokens=0, logprobs=0, echo=True)
        for model, prompt, target in zip(models, prompts, targets, strict=True)
    ]
    scores, rows = np.full(len(requests), np.nan), list(range(len(requests)))
    answers: list[list[Answer]] = []
    while rows and not answers:
        try:
            answers = send(client, [requests[r] for r in rows], journal=journal, description="log-probabilities")
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
    array, shape (n,); ties share the mean of their ranks, so that chance is (n_candidates + 1) / 2; NaN where a
        candidate has no log-probability
    """
    flat = [
        (model, prompt, candidate)
        for model, prompt, options in zip(rows["model"], rows["prompt"], candidates, strict=True)
        for candidate in options
    ]
    scores = target_logprobs(client, *zip(*flat, strict=True), journal=journal)
    ranks = []
    for target, options in zip(rows["target"], candidates, strict=True):
        part, scores = scores[: len(options)], scores[len(options) :]
        ranks.append(rankdata(-part)[list(options).index(target)])
    return np.array(ranks)


def target_logprob(answer: Answer, prompt: str, target: str) -> float:
    """Sum of the log-probabilities (nats) of the target's tokens in the echo of prompt and target.

    Every token that holds a part of the target counts whole. A token across the boundary of prompt and target therefore
    counts with its share of the prompt: the sum is then that of slightly more text than the target. A token without
    text of its own (the first bytes of a character that a later token completes) belongs to what follows it; a
    begin-of-text token belongs to no text.

    Raises
    ------
    NoLogprob
        If the reply is not the echo of this text with offsets that are characters of it (`check_echo`), or a token of
        the target has no log-probability: the first token of a text never has one unless a begin-of-text token
        precedes it.

    >>> echo = Answer("A torn leaf", "length", ("A", " to", "rn ", "leaf"), (None, -1.0, -2.0, -0.5), (0, 1, 4, 7))
    >>> target_logprob(echo, "A torn ", "leaf"), target_logprob(echo, "A torn", " leaf")
    (-0.5, -2.5)
    """
    check_echo(answer, prompt + target)
    start, ends = len(prompt), [*answer.text_offset[1:], len(answer.text)]
    logprobs = [
        logprob
        for k, (logprob, offset, end) in enumerate(zip(answer.token_logprobs, answer.text_offset, ends, strict=True))
        if (end > start or offset >= start) and not (k == 0 and end == 0 and logprob is None)
    ]
    numbers = [float(value) for value in logprobs if value is not None and not math.isnan(value)]
    if not numbers or len(numbers) < len(logprobs):
        raise NoLogprob("a token of the target has no log-probability (is the prompt empty?)")
    return math.fsum(numbers)


def check_echo(answer: Answer, text: str) -> None:
    """Check that a reply is the echo of a text and that its tokens, at their offsets, make up that text.

    Raises
    ------
    NoLogprob
        If it is not; says how endpoints go wrong here.

    >>> check_echo(Answer("é a", "length", ("é", " a"), (None, -1.0), (0, 2)), "é a")
    Traceback (most recent call last):
    lib.probing.NoLogprob: token 'é' is not the text at its offset, 'é ' (offsets in bytes, ...)
    """
    if answer.text != text:
        found = "more text than was sent" if answer.text.startswith(text) else f"{answer.text[:40]!r}"
        raise NoLogprob(f"the endpoint did not echo the text alone (max_tokens is 0): it returned {found}")
    n = len(answer.tokens)
    if not n or not n == len(answer.token_logprobs) == len(answer.text_offset):
        raise NoLogprob(
            f"expected as many log-probabilities and offsets as tokens, found {n} tokens, "
            f"{len(answer.token_logprobs)} log-probabilities and {len(answer.text_offset)} offsets"
        )
    starts = answer.text_offset
    if starts[0] != 0:
        raise NoLogprob(f"the first token is at offset {starts[0]}, expected 0")
    for token, start, end in zip(answer.tokens, starts, [*starts[1:], len(text)], strict=True):
        if start > end or not _fits(token, text[start:end], is_first=start == 0):
            raise NoLogprob(
                f"token {token!r} is not the text at its offset, {text[start : max(start, end)]!r} (offsets in bytes, "
                "or a begin-of-text token that is counted as text?)"
            )


def _fits(token: str, span: str, *, is_first: bool) -> bool:
    """Whether a token as the endpoint writes it can stand for a span of the text."""
    token, span = token.replace("▁", " "), span.replace("▁", " ")  # a text may hold this sign, too
    if _BYTES.fullmatch(token):  # of a character that several tokens make up
        return len(span) <= token.count("\\x")
    if "\ufffd" in token:
        return len(span) <= len(token)
    if is_first:  # a begin-of-text token has no text, nor has the space that SentencePiece puts in front
        return span in ("", token, token.removeprefix(" "))
    return span == token


def check_context(client: OpenAI, base: str, asked: Iterable[Mapping[str, Any]], *, max_tokens: int) -> None:
    """Refuse prompts that do not fit the base: the longest one is sent, before anything is trained.

    Parameters
    ----------
    asked : with ``prompt`` and ``messages`` (pairs of role and text; none for a completion)
    max_tokens : of an answer

    Raises
    ------
    ValueError
        If the base refuses it; with the base's own reason, which holds the numbers.
    """
    longest = max(asked, key=lambda each: len(each["prompt"]))
    if spending_of(client) is not None:
        return  # a hosted model charges for it, and its context is long
    turns: Any = [{"role": role, "content": text} for role, text in longest["messages"]]
    body: Any = {"messages": turns} if turns else {"prompt": longest["prompt"]}
    create: Any = client.chat.completions.create if turns else client.completions.create
    try:
        create(model=base, max_tokens=max_tokens, temperature=0, **body)
    except BadRequestError as error:
        why = error.body.get("message", error) if isinstance(error.body, dict) else error
        raise ValueError(
            f"the longest prompt ({len(longest['prompt'])} characters) does not suit {base}: {why} Nothing was "
            "trained. Set form to completion or n_in_context lower, or take a base with a longer context."
        ) from error
