"""Self-repetition: word n-grams that a model repeats across prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

N_WORDS = 4


def self_repetition(texts: Sequence[str], prompts: Sequence[object], *, n: int = N_WORDS) -> dict[object, float]:
    """Share of a text's different word n-grams that a text to another prompt has too, averaged over a prompt's texts.

    Parameters
    ----------
    texts, prompts : of one model and condition, as many of both
    n : words of an n-gram

    Returns
    -------
    dict
        One number per prompt, 0 to 1; NaN where no text to the prompt has `n` words (or there is no other prompt).

    Notes
    -----
    After Salkar et al. 2022, who count repeated 4-grams over a corpus of outputs.

    >>> self_repetition(["once upon a time", "once upon a time", "nobody was ever there"], ["x", "y", "y"])
    {'x': 1.0, 'y': 0.5}
    """
    if len(texts) != len(prompts):
        raise ValueError(f"{len(texts)} texts and {len(prompts)} prompts: expected as many")
    many = object()
    owner: dict[tuple[str, ...], object] = {}  # the only prompt to which an n-gram is said, or `many`
    said: list[set[tuple[str, ...]]] = []
    for text, prompt in zip(texts, prompts, strict=True):
        words = text.lower().split()
        said.append(set(zip(*(words[k:] for k in range(n)), strict=False)))
        for ngram in said[-1]:
            if owner.setdefault(ngram, prompt) != prompt:
                owner[ngram] = many
    shares: dict[object, list[float]] = {prompt: [] for prompt in prompts}
    for ngrams, prompt in zip(said, prompts, strict=True):
        if ngrams and len(shares) > 1:
            shares[prompt].append(sum(owner[ngram] is many for ngram in ngrams) / len(ngrams))
    return {prompt: float(np.mean(found)) if found else np.nan for prompt, found in shares.items()}
