"""How probable was the right answer: its tokens in an echoed text, and its rank among the candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class TargetTokens:
    """The tokens of a target inside an echoed text, their log-probabilities and the sum of these, in nats."""

    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    logprob: float


def target_tokens(
    tokens: Sequence[str],
    token_logprobs: Sequence[float | None],
    text_offset: Sequence[int],
    start: int,
    *,
    end: int | None = None,
) -> TargetTokens:
    """Pick the target's tokens out of an echo reply by where they stand in the text.

    Parameters
    ----------
    tokens, token_logprobs, text_offset : sequences of one length
        The three lists of a completion's `logprobs`, prompt included.
    start, end : int, characters
        The target is text[start:end]; without `end`, up to the last token.

    Returns
    -------
    TargetTokens
        Every token that holds a part of the target: one across its first character counts whole. A token without text
        (the first bytes of a character that a later token completes) belongs to what follows it.

    Raises
    ------
    ValueError
        If the lists do not fit together, no token is in the target, or one of them has no log-probability (the first of
        a text never has: the prompt must not be empty).

    >>> target_tokens(["A", " to", "rn ", "leaf"], [None, -1.0, -2.0, -0.5], [0, 1, 4, 7], 7).logprob
    -0.5
    >>> target_tokens(["A", " to", "rn ", "leaf"], [None, -1.0, -2.0, -0.5], [0, 1, 4, 7], 6).tokens
    ('rn ', 'leaf')
    """
    n = len(tokens)
    if not n == len(token_logprobs) == len(text_offset):
        raise ValueError(
            f"{n} tokens, {len(token_logprobs)} log-probabilities and {len(text_offset)} offsets: expected as many"
        )
    if any(later < earlier for earlier, later in zip(text_offset, text_offset[1:], strict=False)):
        raise ValueError("offsets fall: expected tokens in the order of the text")
    # A token's own length would mislead: servers print a lone byte as an escape that is longer than what it stands for.
    ends = [*text_offset[1:], text_offset[-1] + max(1, len(tokens[-1]))] if n else []
    inside = [
        i for i in range(n) if (ends[i] > start or text_offset[i] >= start) and (end is None or text_offset[i] < end)
    ]
    if not inside:
        raise ValueError(f"no token reaches character {start}: is the echoed text the prompt and the target?")
    logprobs = [token_logprobs[i] for i in inside]
    numbers = tuple(float(value) for value in logprobs if value is not None)
    if len(numbers) < len(logprobs) or any(math.isnan(value) for value in numbers):
        raise ValueError("a token of the target has no log-probability: the prompt before it must not be empty")
    return TargetTokens(tuple(tokens[i] for i in inside), numbers, math.fsum(numbers))


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
