"""The questions of the reversal study and the scored answers: one table, one row per question."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from openai import OpenAI

from lib.probing import add_completions, target_logprobs, target_ranks
from lib.reversal.dataset import ReversalDataset
from lib.reversal.evaluation import candidate_targets, in_context_prompt, test_rows, training_facts, training_rows
from lib.scoring import prefix_match, strict_match

RANKED_PHRASINGS = 3


def probe_rows(dataset: ReversalDataset, *, n_train_rows: int, rng: np.random.Generator) -> pd.DataFrame:
    """The questions: every test prompt, some training prompts, and the reverse ones with the fact in the prompt.

    Parameters
    ----------
    n_train_rows : training prompts drawn at random in each group

    Returns
    -------
    DataFrame
        The columns of `test_rows`, and ``probe`` (test, train, in-context), ``condition`` and ``phrasing`` (a person's
        k-th question of one file and order).
    """
    tests = test_rows(dataset).assign(probe="test")
    trained = training_rows(dataset)
    drawn = [
        rows.iloc[np.sort(rng.permutation(len(rows))[:n_train_rows])]
        for _, rows in trained.groupby("group", sort=False)
    ]
    facts = training_facts(dataset)
    reverse = tests[tests["direction"] == "reverse"]
    # the k-th question is asked with the person's k-th sentence: all questions with one would test one wording
    told = [
        in_context_prompt(facts[person][k % len(facts[person])], prompt)
        for person, prompt, k in zip(
            reverse["person"], reverse["prompt"], reverse.groupby(["file", "person"]).cumcount(), strict=True
        )
    ]
    rows = pd.concat(
        [tests, *(part.assign(probe="train") for part in drawn), reverse.assign(probe="in-context", prompt=told)],
        ignore_index=True,
    )
    rows["condition"] = rows["group"] + "/" + rows["direction"]
    rows.loc[rows["probe"] == "in-context", "condition"] += "/in-context"
    rows["phrasing"] = rows.groupby(["probe", "file", "order", "person"]).cumcount()
    return rows


def answer_rows(
    client: OpenAI, models: pd.DataFrame, probes: pd.DataFrame, *, journal: Path, max_tokens: int
) -> pd.DataFrame:
    """Ask each model each probe, greedily, and score the answers by the published rule and strictly.

    Parameters
    ----------
    models : DataFrame with ``model``, ``base``, ``seed``, ``epoch`` and ``role``
    max_tokens : of a completion; longer than the longest target

    Returns
    -------
    DataFrame
        A row for each model and probe with ``completion``, ``correct`` (published rule) and ``strict``.
    """
    asked = models[["model", "base", "seed", "epoch", "role"]].merge(probes, how="cross")
    rows = add_completions(client, asked, journal=journal, max_tokens=max_tokens)
    pairs = list(zip(rows["completion"], rows["target"], rows["order"], strict=True))
    return rows.assign(
        correct=[prefix_match(said, wanted) for said, wanted, _ in pairs],
        strict=[strict_match(said, wanted, continued=order == "d2p") for said, wanted, order in pairs],
        target_logprob=np.nan,
        control_logprob=np.nan,
        name_rank=np.nan,
    )


def add_logprobs(client: OpenAI, rows: pd.DataFrame, *, journal: Path) -> pd.DataFrame:
    """Log-probabilities of the right and the wrong target (nats), and the right name's rank in reverse.

    For the main models; rows without a wrong target keep NaN. Ranked are prompts that ask for a name in reverse, the
    first three about each person: each costs as many questions as there are names.
    """
    rows = rows.copy()
    main = rows["role"] == "main"
    scored = rows.index[main & (rows["probe"] != "train") & rows["control_target"].notna()]
    told = rows.loc[scored]
    for column, target in (("target_logprob", "target"), ("control_logprob", "control_target")):
        rows.loc[scored, column] = target_logprobs(
            client, told["model"].tolist(), told["prompt"].tolist(), told[target].tolist(), journal=journal
        )
    asks_name = (rows["probe"] == "test") & (rows["direction"] == "reverse") & (rows["candidates"] != "")
    named = rows[main & asks_name & (rows["phrasing"] < RANKED_PHRASINGS)]
    if len(named):
        options = candidate_targets(named)
        candidates = [
            list(dict.fromkeys([target, *options[key]]))
            for target, key in zip(named["target"], named["candidates"], strict=True)
        ]
        rows.loc[named.index, "name_rank"] = target_ranks(client, named, candidates, journal=journal)
    return rows
