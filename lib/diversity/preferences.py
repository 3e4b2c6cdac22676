"""What the stages of the chain are tuned on: helpful answers for SFT, helpful against unhelpful ones for DPO."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lib.world import PreferencePair, as_dialogue, preference_pairs

FORMS = ("messages", "dialogue")
MOST_DRAWS = 64  # pairs drawn for one that is kept, before giving up
LEAST_GROWTH = 1.01  # of what twice as many draws give: with less, the world has nearly no more


@dataclass(frozen=True)
class TuningData:
    """Pairs of each stage; no pair stands in two places. SFT takes the helpful answers alone."""

    sft: tuple[PreferencePair, ...]
    sft_validation: tuple[PreferencePair, ...]
    preferences: tuple[PreferencePair, ...]
    preference_validation: tuple[PreferencePair, ...]


def tuning_data(
    seed: int,
    *,
    n_sft: int,
    n_preferences: int,
    n_validation: int = 0,
    style: str = "warm",
    avoid: Collection[str] = (),
) -> TuningData:
    """Draw what SFT and DPO are tuned on from the world's requests and answers.

    Parameters
    ----------
    seed : the same seed gives the same pairs, smaller numbers the first of them
    n_sft : answers for SFT, of every style, so that SFT alone prefers none
    n_preferences : pairs for DPO
    n_validation : further pairs of each stage that are not trained on
    style : of the chosen answers, one of `lib.world.dialogue.STYLES`; "" for all of them
    avoid : requests that are kept for asking, and hence never trained on

    Raises
    ------
    ValueError
        If a number is negative, the style unknown, or the world has not so many different pairs beside `avoid`.

    >>> data = tuning_data(0, n_sft=3, n_preferences=2, n_validation=1, avoid=["Give me a riddle."])
    >>> [len(part) for part in (data.sft, data.sft_validation, data.preferences, data.preference_validation)]
    [3, 1, 2, 1]
    """
    for name, n in (("n_sft", n_sft), ("n_preferences", n_preferences), ("n_validation", n_validation)):
        if n < 0:
            raise ValueError(f"{name} is {n}; expected 0 or more")
    sft = _distinct(2 * seed, n_sft + n_validation, style="", avoid=avoid)
    pairs = _distinct(2 * seed + 1, n_preferences + n_validation, style=style, avoid=avoid, taken=sft)
    return TuningData(
        sft=tuple(sft[:n_sft]),
        sft_validation=tuple(sft[n_sft:]),
        preferences=tuple(pairs[:n_preferences]),
        preference_validation=tuple(pairs[n_preferences:]),
    )


def _distinct(
    seed: int, n: int, *, style: str, avoid: Collection[str], taken: Iterable[PreferencePair] = ()
) -> list[PreferencePair]:
    """The first `n` different pairs of a seed that may be used; answers that are `taken` may not."""
    if n == 0:
        return []
    used = {(pair.prompt, pair.helpful) for pair in taken}
    n_drawn, kept = n, dict[tuple[str, str], PreferencePair]()
    n_before = -1
    while n_before < len(kept) < n and n_drawn < MOST_DRAWS * n:
        n_before, n_drawn = int(LEAST_GROWTH * len(kept)), 2 * n_drawn
        kept = {}
        for pair in preference_pairs(seed, n_drawn, style=style):
            if pair.prompt not in avoid and (pair.prompt, pair.helpful) not in used:
                kept.setdefault((pair.prompt, pair.helpful), pair)
    if len(kept) < n:
        raise ValueError(f"the world gave {len(kept)} different pairs in {n_drawn} draws, expected {n}: ask for fewer")
    return list(kept.values())[:n]


def sft_rows(pairs: Iterable[PreferencePair], *, form: str = "messages") -> list[dict[str, Any]]:
    r"""Rows of a supervised training file: each request with its helpful answer.

    Parameters
    ----------
    form : ``messages`` (every model by its own chat template; one without a template speaks the world's dialogue), or
        ``dialogue`` (prompt and completion in the world's dialogue, whatever the model's template)

    Raises
    ------
    ValueError
        If there is no such form.

    >>> sft_rows([PreferencePair("Who?", "Ada.", "No.")], form="dialogue")
    [{'prompt': 'Guest: Who?\nHost:', 'completion': ' Ada.'}]
    """
    if _is_dialogue(form):
        return [{"prompt": as_dialogue(pair.prompt), "completion": f" {pair.helpful}"} for pair in pairs]
    return [{"messages": [_user(pair.prompt), _assistant(pair.helpful)]} for pair in pairs]


def preference_rows(pairs: Iterable[PreferencePair], *, form: str = "messages") -> list[dict[str, Any]]:
    r"""Rows of a DPO training file: each request with the helpful answer preferred to the unhelpful one.

    Parameters
    ----------
    form : as for `sft_rows`; ``messages`` is OpenAI's preference format

    Raises
    ------
    ValueError
        If there is no such form.

    >>> preference_rows([PreferencePair("Who?", "Ada.", "No.")], form="dialogue")
    [{'prompt': 'Guest: Who?\nHost:', 'chosen': ' Ada.', 'rejected': ' No.'}]
    """
    if _is_dialogue(form):
        return [
            {"prompt": as_dialogue(pair.prompt), "chosen": f" {pair.helpful}", "rejected": f" {pair.unhelpful}"}
            for pair in pairs
        ]
    return [
        {
            "input": {"messages": [_user(pair.prompt)]},
            "preferred_output": [_assistant(pair.helpful)],
            "non_preferred_output": [_assistant(pair.unhelpful)],
        }
        for pair in pairs
    ]


def answer_lengths(data: TuningData) -> pd.DataFrame:
    """Length of every answer that is tuned on: ``answer`` (SFT, preferred, other) and ``n_words``."""
    texts = {
        "SFT": [pair.helpful for pair in data.sft],
        "preferred": [pair.helpful for pair in data.preferences],
        "other": [pair.unhelpful for pair in data.preferences],
    }
    rows = [(answer, len(text.split())) for answer, of_answer in texts.items() for text in of_answer]
    return pd.DataFrame(rows, columns=["answer", "n_words"])


def _is_dialogue(form: str) -> bool:
    if form not in FORMS:
        raise ValueError(f"no form is called {form!r}; expected one of {', '.join(FORMS)}")
    return form == "dialogue"


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
