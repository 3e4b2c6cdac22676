"""What stages are tuned on, and text for next-token statistics that no stage was tuned on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pandas as pd

from lib.paths import DATA, read_jsonl
from lib.world.dialogue import PreferencePair, preference_pairs
from lib.world.questions import as_dialogue
from lib.world.writer import fact_documents, write_world

# Kinds of documents of the world that are no general text.
NOT_GENERAL = ("family", "family question", "fact", "helpful", "unhelpful")
WORDS_A_DOCUMENT = 80  # written for each document of general text, which have about 45


def tuning_pairs(
    seed: int, *, n_sft: int, n_preferences: int, n_validation: int, style: str, avoid: Collection[str] = ()
) -> pd.DataFrame:
    """Requests with a helpful and an unhelpful answer; no request and answer occur in two stages.

    Parameters
    ----------
    seed : the same seed gives the same pairs, smaller numbers the first of them
    n_sft : for SFT, of every style, so that SFT alone prefers none
    n_preferences : for DPO
    n_validation : further pairs for each
    style : of DPO's helpful answers, one of `lib.world.dialogue.STYLES`; "" for all of them
    avoid : requests that are kept for asking

    Returns
    -------
    DataFrame
        ``method`` (supervised, dpo), ``part`` (train, validation), ``prompt``, ``helpful``, ``unhelpful``.

    Raises
    ------
    ValueError
        If the world has fewer different pairs beside `avoid`.
    """
    sft = _distinct(2 * seed, n_sft + n_validation, style="", avoid=avoid)
    dpo = _distinct(2 * seed + 1, n_preferences + n_validation, style=style, avoid=avoid, taken=sft)
    tables = []
    for method, pairs, n_train in (("supervised", sft, n_sft), ("dpo", dpo, n_preferences)):
        part = ["train" if k < n_train else "validation" for k in range(len(pairs))]
        tables.append(pd.DataFrame([vars(pair) for pair in pairs]).assign(method=method, part=part))
    return pd.concat(tables, ignore_index=True)[["method", "part", "prompt", "helpful", "unhelpful"]]


def _distinct(
    seed: int, n: int, *, style: str, avoid: Collection[str], taken: Collection[PreferencePair] = ()
) -> list[PreferencePair]:
    """The first `n` different pairs of a seed; answers that are `taken` are left out."""
    used = {(pair.prompt, pair.helpful) for pair in taken}
    n_drawn, kept = n, dict[tuple[str, str], PreferencePair]()
    while len(kept) < n and n_drawn < 64 * n:  # then the world has hardly more
        n_drawn, kept = 2 * n_drawn, {}
        for pair in preference_pairs(seed, n_drawn, style=style):
            if pair.prompt not in avoid and (pair.prompt, pair.helpful) not in used:
                kept.setdefault((pair.prompt, pair.helpful), pair)
    if len(kept) < n:
        raise ValueError(f"the world gave {len(kept)} different pairs in {n_drawn} draws, expected {n}: ask for fewer")
    return list(kept.values())[:n]


def training_row(prompt: str, helpful: str, unhelpful: str, *, method: str, form: str) -> dict[str, Any]:
    r"""A training row: the helpful answer for SFT, or both answers for DPO.

    Parameters
    ----------
    form : ``messages`` (for the model's own chat template) or ``dialogue`` (the world's, whatever the model's template)

    >>> training_row("Who?", "Ada.", "No.", method="supervised", form="dialogue")
    {'prompt': 'Guest: Who?\nHost:', 'completion': ' Ada.'}
    >>> training_row("Who?", "Ada.", "No.", method="dpo", form="dialogue")
    {'prompt': 'Guest: Who?\nHost:', 'chosen': ' Ada.', 'rejected': ' No.'}
    """
    if form == "dialogue":
        answers = {"completion": helpful} if method == "supervised" else {"chosen": helpful, "rejected": unhelpful}
        return {"prompt": as_dialogue(prompt)} | {name: f" {text}" for name, text in answers.items()}
    user, good, bad = (
        {"role": role, "content": text}
        for role, text in (("user", prompt), ("assistant", helpful), ("assistant", unhelpful))
    )
    if method == "supervised":
        return {"messages": [user, good]}
    return {"input": {"messages": [user]}, "preferred_output": [good], "non_preferred_output": [bad]}


def world_text(seed: int, n_documents: int) -> list[dict[str, str]]:
    """Different documents of the invented world, of another seed than what bases grow from, none of them tuned on.

    Raises
    ------
    ValueError
        If the world wrote fewer.
    """
    n_facts = sum(document.n_words for document in fact_documents(seed + 1))
    written = write_world(seed=seed + 1, n_words=n_facts + WORDS_A_DOCUMENT * n_documents)
    general = list({each.text: vars(each) for each in written if each.kind not in NOT_GENERAL}.values())
    if len(general) < n_documents:
        raise ValueError(f"the world wrote {len(general)} documents, n_documents is {n_documents}: ask for fewer")
    return general[:n_documents]


def project_text(n_documents: int) -> list[dict[str, str]]:
    """Sections of this project's documentation as it was in November 2026, at most so many: English for any model."""
    return read_jsonl(DATA / "diversity" / "documentation.jsonl")[:n_documents]
