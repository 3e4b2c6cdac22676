"""What the figures and tables of the parents notebooks show: rows picked and named for people to read."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.parents.probes import COLLECTED, DIRECTIONS
from lib.parents.recomputed import published_values

KINDS = {  # what a published number counts, shortly
    "found_rate": "found",
    "reversed_rate": "found",
    "mean_of_n": "mean of 10",
    "target_prob": "probability",
}


def asked_groups(summary: pd.DataFrame) -> list[str]:
    """Groups of people that were asked about, in the order of the summary."""
    own = summary[summary["metric"] == "exact_match"]["condition"].str.split("/").str[0]
    return list(dict.fromkeys(own))


def group_rates(summary: pd.DataFrame, *, metric: str = "exact_match") -> pd.DataFrame:
    """A rate of the main model by ``group`` and ``asked`` (parent, child).

    Where no truth is known, what was collected stands in for it; where nothing was asked by completion, chat.
    """
    rows = _parts(summary[(summary["metric"] == metric) & (summary["x_name"] == "")])
    return _plainest(rows)


def model_rates(summary: pd.DataFrame, *, group: str) -> pd.DataFrame:
    """Greedy replies that are right, by ``who`` (a model, smallest first) and ``asked``; below them the published.

    Published models have rows without a value, so that they get a place on the axis and a diamond each.
    """
    rows = _parts(summary[summary["metric"] == "exact_match"])
    own = _plainest(rows[rows["group"] == group])
    placed = own[own["x_name"] != ""]
    own = (placed if len(placed) else own).assign(who=lambda rows: rows["model"]).sort_values("x", kind="stable")
    others = published_rates().assign(value=np.nan, low=np.nan, high=np.nan)
    others = others.assign(metric="exact_match", unit="rate")
    return pd.concat([own, others], ignore_index=True)[["who", "asked", "value", "low", "high", "metric", "unit"]]


def published_rates() -> pd.DataFrame:
    """Published rates by ``who`` (model, and what was counted) and ``asked``."""
    rows = published_values()
    who = rows["model"] + ", " + rows["metric"].map(KINDS)
    return rows.assign(who=who, asked=rows["condition"].str.split("/").str[1])


def found_rates(summary: pd.DataFrame) -> pd.DataFrame:
    """What was collected, by ``group`` and ``rate of``: found, right (where a truth is known) and reversed."""
    named = {"found_rate": "found", "found_right_rate": "right", "reversed_rate": "reversed"}
    rows = _parts(summary[summary["metric"].isin(list(named)) & (summary["x_name"] == "")])
    rows = rows[rows["group"] != "given"]
    by_chat = rows["suffix"].str.endswith("chat")
    rows = rows[by_chat == by_chat.all()]
    rows = rows.assign(**{"rate of": rows["metric"].map(named)})
    return rows.sort_values("rate of", key=lambda names: names.map(list(named.values()).index), kind="stable")


def logprob_rows(answers: pd.DataFrame, *, group: str) -> pd.DataFrame:
    """Log-probability of the right name (``whose`` correct) and of another (randomized), by ``direction``.

    Of the main model's first seed; without rows where nothing was scored.
    """
    scored = answers[(answers["group"] == group) & answers["control_logprob"].notna() & (answers["role"] == "main")]
    scored = scored[scored["seed"] == scored["seed"].min()]
    truth = scored[~scored["condition"].str.contains(COLLECTED)]
    scored = truth if len(truth) else scored
    right = scored.assign(whose="correct")
    wrong = scored.assign(whose="randomized", target_logprob=scored["control_logprob"])
    return pd.concat([right, wrong], ignore_index=True)[["direction", "condition", "whose", "target_logprob"]]


def _parts(frame: pd.DataFrame) -> pd.DataFrame:
    """With the condition's parts: ``group``, what was ``asked`` (parent, child), and the rest, ``suffix``."""
    rows = frame[frame["condition"].str.split("/").str[1].isin(DIRECTIONS)]
    parts = rows["condition"].str.split("/", n=2)
    return rows.assign(group=parts.str[0], asked=parts.str[1], suffix=parts.str[2].fillna(""))


def _plainest(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows about what is true rather than collected, and by completion rather than in chat, as far as there are any."""
    suffixes = [each for each in ("", COLLECTED, "chat", f"{COLLECTED}/chat") if each in set(rows["suffix"])]
    return rows[rows["suffix"] == suffixes[0]] if suffixes else rows
