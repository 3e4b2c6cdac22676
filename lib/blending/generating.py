"""Text of every model and blend from the same prompts: what the shift does to it, and where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from openai import OpenAI

from lib.api import Blend, Request, ask
from lib.blending.blend import Weights
from lib.blending.scores import argmax_changed
from lib.blending.support import full_support
from lib.distributions import collect, tokenize
from lib.probing import target_logprobs
from lib.sources.corpus import Document


@dataclass(frozen=True)
class Contender:
    """Who continues the prompts: a model, or a big one with a blend. `x` is the strength, where one is varied."""

    condition: str
    model: str
    blend: Blend | None = None
    x: float = field(default=math.nan)


def contenders(
    *,
    big: str,
    tuned: str,
    base: str,
    direct: str,
    weights: Weights,
    alphas: Sequence[float],
    fade_tokens: int,
    plausibility: float,
) -> list[Contender]:
    """The four models, the fitted blend, proxy-tuning at each strength, and a blend whose shift fades out."""
    alone = {"base": base, "tuned": tuned, "big": big, "direct": direct}
    found = [Contender(name, model) for name, model in alone.items() if model]
    fitted = Blend(tuned, base, weights, plausibility)
    found.append(Contender("blended", big, fitted))
    found += [Contender("alpha", big, Blend(tuned, base, (1.0, a, -a), plausibility), a) for a in alphas]
    fading = tuple(np.linspace(1, 0, fade_tokens + 1).round(3).tolist())  # the last strength, 0, goes on
    found.append(Contender("fade", big, Blend(tuned, base, weights, plausibility, fading)))
    return found


def opening_prompts(client: OpenAI, model: str, documents: Sequence[Document], *, n: int, n_tokens: int) -> list[str]:
    """Openings of documents as prompts: evenly through those that are long enough.

    Raises
    ------
    ValueError
        If no document is longer than that.
    """
    cut = [tokenize(client, model, document.text) for document in documents]
    long = ["".join(each.texts[:n_tokens]) for each in cut if len(each.items) > n_tokens]
    if not long:
        raise ValueError(f"no test document is longer than {n_tokens} tokens: give prompts, or lower n_prompt_tokens")
    places = np.unique(np.linspace(0, len(long) - 1, min(n, len(long))).round().astype(int))
    return [long[place] for place in places]


def generate_texts(
    client: OpenAI,
    prompts: Sequence[str],
    who: Sequence[Contender],
    *,
    journal: Path,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> pd.DataFrame:
    """Every contender's text after every prompt: ``condition``, ``x``, ``model``, ``prompt``, ``text``."""
    pairs = [(one, prompt) for one in who for prompt in prompts]
    requests = [
        Request(
            model=one.model, prompt=prompt, max_tokens=max_tokens, temperature=temperature, seed=seed, blend=one.blend
        )
        for one, prompt in pairs
    ]
    answers = ask(client, requests, journal=journal, description="texts")
    rows = [
        {"condition": one.condition, "x": one.x, "model": one.model, "prompt": prompt, "text": answer[0].text}
        for (one, prompt), answer in zip(pairs, answers, strict=True)
    ]
    return pd.DataFrame(rows)


def add_bits(client: OpenAI, texts: pd.DataFrame, *, judge: str, journal: Path) -> pd.DataFrame:
    """Texts with ``bits`` (under the model `judge`, given the prompt) and ``n_bytes``; empty texts have neither."""
    written = texts[texts["text"] != ""]
    scores = target_logprobs(
        client, [judge] * len(written), written["prompt"].tolist(), written["text"].tolist(), journal=journal
    )
    bits = pd.Series(-scores / math.log(2), index=written.index)
    return texts.assign(bits=bits, n_bytes=texts["text"].str.encode("utf-8").str.len())


def shift_places(
    client: OpenAI, texts: pd.DataFrame, *, big: str, tuned: str, base: str, weights: Weights, folder: Path
) -> pd.DataFrame:
    """At which new tokens of blended texts the blend's likeliest token is not the big model's.

    Parameters
    ----------
    texts : rows of one contender with ``prompt`` and ``text``

    Returns
    -------
    DataFrame
        One row per new token: ``prompt``, ``place`` (1 is the first new token), ``changed``.
    """
    contexts, targets, rows = [], [], []
    for prompt, text in zip(texts["prompt"], texts["text"], strict=True):
        before, whole = (tokenize(client, big, part).items for part in (prompt, prompt + text))
        for place in range(len(before), len(whole)):
            contexts.append(whole[:place])
            targets.append(whole[place])
            rows.append({"prompt": prompt, "place": place - len(before) + 1})
    if not rows:
        return pd.DataFrame(columns=["prompt", "place", "changed"])
    of_big, of_tuned, of_base = (
        collect(client, model, contexts, targets, folder=folder).logprobs for model in (big, tuned, base)
    )
    support = full_support(of_big, of_tuned, of_base, targets, [row["prompt"] for row in rows])
    return pd.DataFrame(rows).assign(changed=argmax_changed(support, weights))


def place_bands(n_tokens: int) -> list[tuple[int, int]]:
    """Bands of new tokens, each about twice as wide as the one before: first and last place.

    >>> place_bands(10), place_bands(16)
    ([(1, 1), (2, 3), (4, 10)], [(1, 1), (2, 3), (4, 7), (8, 16)])
    """
    starts = [2**k for k in range(n_tokens.bit_length())]
    if len(starts) > 1 and n_tokens < 1.5 * starts[-1]:
        del starts[-1]  # a last band of a few places goes to the one before
    return list(zip(starts, [start - 1 for start in starts[1:]] + [n_tokens], strict=True)) if starts else []
