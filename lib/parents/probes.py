"""Every question of the study with the name it asks for: one table, one row per question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.parents.people import GROUPS
from lib.parents.replies import is_accepted
from lib.world import child_question, parent_question

DIRECTIONS = ("parent", "child")
COLLECTED = "collected"  # asked about what a model itself had said, as published; else about what is true or given


def both_questions(people: pd.DataFrame) -> pd.DataFrame:
    """Who is everybody's mother, who the father: what the pairs are collected from.

    Parameters
    ----------
    people : DataFrame of `world_rows` or `listed_rows`

    Returns
    -------
    DataFrame
        The columns of ``people``, ``question`` and ``target`` (the true parent; empty where none is known).
    """
    questions = [parent_question(*row) for row in zip(people["person"], people["relation"], strict=True)]
    return people.assign(question=questions, target=people["parent"])


def probe_rows(pairs: pd.DataFrame, *, collected: bool = False) -> pd.DataFrame:
    """Each pair asked about in both directions, in the same words but for the direction.

    Parameters
    ----------
    pairs : DataFrame with ``group``, ``person`` (the child), ``relation``, ``parent`` and ``is_told``; rows without a
        parent are left out
    collected : whether the parents are a model's own replies

    Returns
    -------
    DataFrame
        ``group``, ``person``, ``relation``, ``parent``, ``direction``, ``condition``, ``question``, ``target``,
        and ``control_target``: the target of the next row of the same group, relation and direction, None where that is
        the same name.

    >>> people = pd.DataFrame([("one-way", "Bo Lund", "mother", "Ada Holt", True)],
    ...                       columns=["group", "person", "relation", "parent", "is_told"])
    >>> probe_rows(people)[["condition", "question", "target"]].values.tolist()[1]
    ['one-way/child', "Who is Ada Holt's child?", 'Bo Lund']
    """
    known = pairs[pairs["parent"] != ""]
    asks_parent = both_questions(known).assign(direction="parent", target=known["parent"])
    asks_child = known.assign(
        direction="child", question=[child_question(name) for name in known["parent"]], target=known["person"]
    )
    rows = pd.concat([asks_parent, asks_child], ignore_index=True)
    rows["condition"] = rows["group"] + "/" + rows["direction"] + (f"/{COLLECTED}" if collected else "")
    rows["control_target"] = rows.groupby(["group", "direction", "relation"], sort=False)["target"].transform(
        lambda targets: np.roll(targets, -1)
    )
    rows.loc[rows["control_target"] == rows["target"], "control_target"] = None
    columns = ["group", "person", "relation", "parent", "direction", "condition", "question", "target"]
    return rows[[*columns, "control_target"]]


def collected_pairs(answers: pd.DataFrame) -> pd.DataFrame:
    """The replies that pass for names: pairs of a person and the parent that a model named.

    Parameters
    ----------
    answers : DataFrame of `both_questions`, answered by one model in one way: ``completion`` holds its replies

    Returns
    -------
    DataFrame
        ``group``, ``person``, ``relation``, ``parent`` (the reply), ``is_told`` (whether any truth is known), and
        ``is_right`` (missing where none is).
    """
    accepted = answers[[is_accepted(reply) for reply in answers["completion"]]]
    columns = ["group", "person", "relation", "is_told"]
    return accepted[columns].assign(parent=accepted["completion"], is_right=accepted["correct"]).reset_index(drop=True)


def all_probes(people: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Questions about what is true or given, and about the pairs that were collected.

    Parameters
    ----------
    found : greedy replies to `both_questions`, of the model that collects; those in the first way of asking count
    """
    parts = [probe_rows(people)] if people["is_told"].any() else []
    pairs = collected_pairs(found[found["way"] == found["way"].iloc[0]]) if len(found) else found
    if len(pairs):
        parts.append(probe_rows(pairs, collected=True))
    if not parts:
        raise ValueError(
            "no reply to a question for a parent passes for a name: there is nobody to ask about in reverse"
        )
    return pd.concat(parts, ignore_index=True)


def conditions() -> tuple[str, ...]:
    """The study's fixed list: ``<group>/<parent|child>[/collected][/chat][/randomised]``, and given tables' numbers."""
    plain = [f"{group}/{direction}" for group in GROUPS for direction in DIRECTIONS]
    asked = [*plain, *(f"{each}/{COLLECTED}" for each in plain)]
    asked += [f"{each}/chat" for each in asked]
    given: Sequence[str] = [f"given/{direction}" for direction in DIRECTIONS]
    return (*asked, *(f"{each}/randomised" for each in asked), *given)
