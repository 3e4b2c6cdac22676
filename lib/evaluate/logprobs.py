"""Log-probability of a given target, read from an echoed reply that is checked first, and the target's rank."""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import ArrayLike

from lib.api import Answer

_BYTES = re.compile(r"bytes:(\\x[0-9a-f]{2})+", re.IGNORECASE)


class NoLogprob(ValueError):
    """A reply does not hold the log-probability of the target; the message gives the reason."""


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
    lib.evaluate.logprobs.NoLogprob: token 'é' is not the text at its offset, 'é ' (offsets in bytes, ...)
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
    token = token.replace("▁", " ")
    if _BYTES.fullmatch(token):  # of a character that several tokens make up
        return len(span) <= token.count("\\x")
    if "\ufffd" in token:
        return len(span) <= len(token)
    if is_first:  # a begin-of-text token has no text, nor has the space that SentencePiece puts in front
        return span in ("", token, token.removeprefix(" "))
    return span == token


def rank_of_target(logprobs: ArrayLike, target: int) -> float:
    """Rank of the target among the candidates, 1 being the most probable; ties share the mean of their ranks.

    Chance is (n + 1) / 2 for n candidates.

    Raises
    ------
    ValueError
        If a log-probability is missing (minus infinity is not) or there is no such candidate.

    >>> rank_of_target([-4.0, -2.0, -3.0], 0), rank_of_target([-2.0, -2.0, -2.0], 0)
    (3.0, 2.0)
    """
    values = np.asarray(logprobs, dtype=float)
    if values.ndim != 1 or not 0 <= target < len(values):
        raise ValueError(f"target {target} is not one of the candidates (shape {values.shape})")
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {len(values)} candidates have no log-probability")
    better, level = np.sum(values > values[target]), np.sum(values == values[target])
    return float(better + (level + 1) / 2)
