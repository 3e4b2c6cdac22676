"""The questions of the guidance study and the scored answers: one table, one row per question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from openai import OpenAI

from lib.guidance.dataset import SETS, GuidanceDataset
from lib.guidance.documents import Example, in_context_prompt
from lib.guidance.folder import instruction_lines
from lib.guidance.sources import ORDERS
from lib.probing import add_completions, final_models, target_logprobs
from lib.scoring import prefix_match, strict_match

# `<order>/<realized|unrealized>[/<control>]`. untuned: the base is asked; shuffled: held against the answer to another
# question of the set; in-context: the instruction stands in the prompt; constant: the set's commonest answer, always.
CONTROLS = ("untuned", "shuffled", "in-context", "untuned/in-context", "constant")
CONDITIONS = tuple(
    f"{order}/{part}{control}"
    for order in ORDERS
    for part in SETS
    for control in ("", *(f"/{name}" for name in CONTROLS))
)
CONTROL_SEED = 27  # draws whose answer is the wrong one; not a run's seed, so that two layouts of a dataset agree


def probe_rows(datasets: Mapping[str, GuidanceDataset]) -> pd.DataFrame:
    """The questions: every realized and unrealized one, and the unrealized ones with their instruction in the prompt.

    Returns
    -------
    DataFrame
        One row per question: order; part (realized, unrealized); probe (test, in-context); condition; number, of the
        pair in its file; pair (the question, over which intervals resample); prompt; target; control_target (the answer
        to another question, None where it is the same).
    """
    rows = []
    for order, dataset in datasets.items():
        told = instruction_lines(dataset)
        for part in SETS:
            examples = dataset.examples(part)
            wrong = _other_targets(examples, rng=np.random.default_rng(CONTROL_SEED))
            for number, (each, other) in enumerate(zip(examples, wrong, strict=True)):
                row = {"order": order, "part": part, "number": number, "pair": each.anchor, "target": each.target}
                row |= {"control_target": other}
                rows.append(row | {"probe": "test", "condition": f"{order}/{part}", "prompt": each.prompt})
                if part == "unrealized" and each.anchor in told:
                    prompt = in_context_prompt(told[each.anchor], each.prompt)
                    rows.append(
                        row | {"probe": "in-context", "condition": f"{order}/{part}/in-context", "prompt": prompt}
                    )
    return pd.DataFrame(rows)


def _other_targets(examples: Sequence[Example], *, rng: np.random.Generator) -> list[str | None]:
    """For each question the answer to another one: a random cycle through all of them, so that none is its own."""
    cycle = rng.permutation(len(examples))
    other = dict(zip(cycle.tolist(), np.roll(cycle, 1).tolist(), strict=True))
    targets = [each.target for each in examples]
    return [targets[other[k]] if targets[other[k]] != target else None for k, target in enumerate(targets)]


def asked_models(finetunes: pd.DataFrame) -> pd.DataFrame:
    """The final models, and each order's main base as ``untuned`` (none for a model that was given)."""
    final = final_models(finetunes)
    trained = final[(final["role"] == "main") & (final["n_epochs"] > 0)].drop_duplicates(["order", "base"])
    return pd.concat([final, trained.assign(model=trained["base"], role="untuned")], ignore_index=True)


def answer_rows(
    client: OpenAI, models: pd.DataFrame, probes: pd.DataFrame, *, journal: Path, max_tokens: int
) -> pd.DataFrame:
    """Ask each model the probes of its order, greedily, and score the answers by the published rule and strictly.

    Parameters
    ----------
    models : DataFrame with ``model``, ``base``, ``seed``, ``epoch``, ``role`` and ``order``
    probes : as of `probe_rows`
    max_tokens : of an answer, which ends with its line

    Returns
    -------
    DataFrame
        A row for each model and probe with ``completion``, ``correct`` (published rule), ``strict`` and
        ``control_correct`` (held against the wrong answer).
    """
    asked = models[["model", "base", "seed", "epoch", "role", "order"]].merge(probes, on="order")
    untuned = asked["role"] == "untuned"
    tails = asked["probe"].map({"test": "", "in-context": "/in-context"})
    asked.loc[untuned, "condition"] = asked["order"] + "/" + asked["part"] + "/untuned" + tails
    rows = add_completions(client, asked, journal=journal, max_tokens=max_tokens, stop=("\n",))
    said = list(zip(rows["completion"], rows["target"], rows["control_target"], strict=True))
    return rows.assign(
        correct=[prefix_match(answer, target) for answer, target, _ in said],
        strict=[strict_match(answer, target) for answer, target, _ in said],
        control_correct=pd.array(
            [prefix_match(answer, other) if isinstance(other, str) else None for answer, _, other in said],
            dtype="boolean",
        ),
        target_logprob=np.nan,
        control_logprob=np.nan,
    )


def add_logprobs(client: OpenAI, rows: pd.DataFrame, *, journal: Path) -> pd.DataFrame:
    """Log-probabilities of the right and of the wrong target (nats), for the main models and the untuned ones."""
    rows = rows.copy()
    scored = rows.index[rows["role"].isin(["main", "untuned"]) & rows["control_target"].notna()]
    told = rows.loc[scored]
    for column, target in (("target_logprob", "target"), ("control_logprob", "control_target")):
        rows.loc[scored, column] = target_logprobs(
            client, told["model"].tolist(), told["prompt"].tolist(), told[target].tolist(), journal=journal
        )
    return rows
