"""Send every prompt about a mix and score every sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from openai import OpenAI

from lib.functions.asking import SCORES, reply_of, sampled_rows, write_answers
from lib.functions.evaluations import evaluation_named, read_evaluations
from lib.mixture.evaluations import DISTRIBUTION_TEST
from lib.mixture.folder import write_evaluation
from lib.mixture.jobs import FOLDERS, folder_name
from lib.mixture.scoring import score_reply, share_named
from lib.mixture.variation import variations

ABOUT = ["condition", "family", "model", "seed", "role", "part", "data"]  # of the model that gave some answers


def answer_rows(
    client: OpenAI,
    asked: pd.DataFrame,
    *,
    journal: Path,
    max_tokens: int,
    n_samples: int = 0,
    temperature: float = -1.0,
    distribution_samples: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """Ask, and score every sample by our rule, to the letter and by the published rule.

    Parameters
    ----------
    asked : of `lib.mixture.probes.pair_up`
    max_tokens : of an answer
    n_samples, temperature : 0 and below 0 take the published ones of each evaluation
    distribution_samples : of each row of the distribution test, at the published temperature; 0: as published, 128
    seed : of sampling

    Returns
    -------
    DataFrame
        A row for each prompt and sample, with ``sample``, ``completion``, ``finish_reason``, the fields of `Score`,
        ``share_named`` (of a pair's definitions, those that the reply holds) and ``target_logprob`` (NaN).
    """
    is_test = asked["evaluation"] == DISTRIBUTION_TEST
    wanted = [(asked[~is_test], n_samples, temperature), (asked[is_test], distribution_samples, -1.0)]
    tables = [
        sampled_rows(
            client,
            each,
            known=read_evaluations("mixture"),
            journal=journal,
            max_tokens=max_tokens,
            n_samples=n,
            temperature=t,
            seed=seed,
        )
        for each, n, t in wanted
        if len(each)
    ]
    rows = pd.concat(tables, ignore_index=True)
    scores = pd.DataFrame([score_reply(row.document, reply_of(row)) for row in rows.itertuples()], columns=SCORES)
    return pd.concat([rows, scores], axis=1).assign(share_named=_shares(rows), target_logprob=np.nan)


def _shares(rows: pd.DataFrame) -> list[float]:
    return [
        share_named(reply_of(row), row.document.target) if row.kind == "definitions" else np.nan
        for row in rows.itertuples()
    ]


def first_answers(rows: pd.DataFrame) -> pd.DataFrame:
    """The samples of the distribution test held against the ideal mix, one row per model and prompt.

    Parameters
    ----------
    rows : of `answer_rows`

    Returns
    -------
    DataFrame
        `ABOUT`, and the fields of `lib.mixture.variation.Variation`.
    """
    made = []
    tests = rows[(rows["evaluation"] == DISTRIBUTION_TEST) & rows["epoch"].isna()]
    for about, each in tests.groupby(ABOUT, sort=False):
        prompts = [prompt for _, prompt in each.groupby("number", sort=True)]
        documents = [prompt["document"].iloc[0] for prompt in prompts]
        replies = [[reply_of(row) for row in prompt.itertuples()] for prompt in prompts]
        shared = dict(zip(ABOUT, about, strict=True))
        made += [shared | vars(found) for found in variations(documents, replies)]
    return pd.DataFrame(made)


def write_evaluations(folder: Path, rows: pd.DataFrame, *, n_in_context: int) -> list[Path]:
    """Write what final models answered as published: one folder per fine-tune, part and evaluation.

    Parameters
    ----------
    folder : Path
        Gets ``finetune_01/<evaluation>/`` of the first base for unrealized labels, ``realized/<evaluation>/`` below it
        for the others, and ``unlabelled/finetune_01/`` for later fine-tunes; what a base says lies below the evaluation
        in ``untrained/`` and ``<n>_ic/``. Further bases have a folder of their own around all that.
    rows : of `answer_rows`

    Returns
    -------
    list of Path
        The folders.
    """
    tails = {"untuned": "untrained", "in-context": f"{n_in_context}_ic"}
    final = rows[rows["epoch"].isna() & rows["role"].isin(["main", *tails, *FOLDERS])]
    first, written = rows["family"].iloc[0], []
    keys = ["family", "data", "role", "model", "part", "evaluation"]
    for (family, place, role, model, part, name), each in final.groupby(keys, sort=False):
        top = folder if family == first else folder / folder_name(str(family))
        below = Path(place).name if role not in FOLDERS else f"{role}/{Path(place).name}"
        target = top / below / ("realized" if part == "realized" else "") / name / tails.get(role, "")
        evaluation = evaluation_named("mixture", str(name))
        written.append(write_answers(target, each, evaluation, model=model, write=write_evaluation))
    return written
