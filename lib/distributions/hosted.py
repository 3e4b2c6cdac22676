"""The likeliest next tokens as a hosted completions endpoint reports them: a few, by their strings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from openai import OpenAI, OpenAIError

from lib.distributions.truncation import LOWEST
from lib.paths import read_json, write_json

LEAST_MASS = 1e-7  # of a tail: log-probabilities are rounded, so the rest of 1 is no more exact than that
TRIES = 8  # for an answer that does not end the text at once, which comes without log-probabilities


class Vocabulary:
    """Numbers for token strings, kept in a file, the same for every model of one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers: dict[str, int] = {text: k for k, text in enumerate(read_json(path))} if path.is_file() else {}

    def number(self, texts: np.ndarray) -> np.ndarray:
        """Numbers of an array of strings, new ones written down before they are used; None becomes -1."""
        n_before = len(self._numbers)
        numbers = [-1 if text is None else self._numbers.setdefault(text, len(self._numbers)) for text in texts.flat]
        if len(self._numbers) > n_before:
            write_json(self.path, list(self._numbers))
        return np.array(numbers, dtype=np.int32).reshape(texts.shape)


def ask_top_k(
    client: OpenAI, model: str, prompts: Sequence[str], targets: Sequence[str], k: int
) -> dict[str, np.ndarray]:
    """The k likeliest tokens after each prompt; `ids` still holds their strings.

    Raises
    ------
    openai.OpenAIError
        If the endpoint refuses, or sends no log-probabilities.
    """
    found: dict[int, dict[str, float]] = {}
    for attempt in range(TRIES):
        missing = [r for r in range(len(prompts)) if r not in found]
        if not missing:
            break
        reply = client.completions.create(
            model=model, prompt=[prompts[r] for r in missing], max_tokens=1, logprobs=k, seed=attempt,
            temperature=0 if attempt == 0 else 2,
        )  # fmt: skip
        if len(reply.choices) != len(missing):
            raise OpenAIError(f"the endpoint sent {len(reply.choices)} choices for {len(missing)} prompts")
        for choice in reply.choices:
            tops = choice.logprobs.top_logprobs if choice.logprobs else None
            if tops and tops[0]:
                found[missing[choice.index]] = tops[0]
    if len(found) < len(prompts):
        raise OpenAIError(
            f"{model} sent no log-probabilities for {len(prompts) - len(found)} of {len(prompts)} contexts in {TRIES} "
            "tries: the endpoint gives none, or the text ends there"
        )
    return _columns([found[r] for r in range(len(prompts))], targets, k)


def _columns(reported: Sequence[dict[str, float]], targets: Sequence[str], k: int) -> dict[str, np.ndarray]:
    ids = np.full((len(reported), k), None, dtype=object)
    logprobs = np.full((len(reported), k), LOWEST, dtype=np.float32)
    target_logprobs = np.full(len(reported), np.nan, dtype=np.float32)
    for r, by_token in enumerate(reported):
        # the token that was drawn may stand beside the k likeliest
        likeliest = sorted(by_token.items(), key=lambda item: -item[1])[:k]
        for c, (text, logprob) in enumerate(likeliest):
            ids[r, c], logprobs[r, c] = text, max(logprob, LOWEST)
        target_logprobs[r] = dict(likeliest).get(targets[r], np.nan)
    left = 1 - np.exp(logprobs.astype(float)).sum(axis=1)
    tail = np.log(np.maximum(left, LEAST_MASS))
    return {"target_logprobs": target_logprobs, "ids": ids, "logprobs": logprobs, "tail": tail}
