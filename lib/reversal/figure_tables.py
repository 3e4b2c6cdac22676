"""What the figures and tables of the reversal notebooks show: rows picked and named for people to read."""

from __future__ import annotations

import pandas as pd

from lib.reversal.dataset import ReversalDataset
from lib.reversal.evaluation import published_values, test_rows
from lib.reversal.files import GROUPS

ASKED = ("same", "reverse", "in-context")


def file_counts(dataset: ReversalDataset) -> pd.DataFrame:
    """Rows, people and mean lengths (characters) of each published file."""
    finder = [person.name for person in dataset.people]
    rows = []
    for stem, lines in dataset.files.items():
        text = "\n".join(line["prompt"] + line["completion"] for line in lines)
        rows.append(
            {
                "file": stem,
                "rows": len(lines),
                "people": sum(name in text for name in finder),
                "prompt_characters": sum(len(line["prompt"]) for line in lines) / len(lines),
                "completion_characters": sum(len(line["completion"]) for line in lines) / len(lines),
            }
        )
    return pd.DataFrame(rows).set_index("file").round(1)


def row_lengths(dataset: ReversalDataset) -> pd.DataFrame:
    """Length of each test answer (``characters``), and whether a name or a description is ``asked for``."""
    tests = test_rows(dataset)
    kinds = tests["order"].map({"d2p": "name", "p2d": "description"})
    return pd.DataFrame({"asked for": kinds, "characters": tests["target"].str.strip().str.len()})


def _parts(frame: pd.DataFrame) -> pd.DataFrame:
    """With the condition's parts: ``group`` and what was ``asked`` (same, reverse, in-context)."""
    parts = frame["condition"].str.split("/")
    return frame.assign(group=parts.str[0], asked=parts.str[-1])


def headline_rates(summary: pd.DataFrame) -> pd.DataFrame:
    """Exact match of the final main models by ``group`` and what was ``asked``, in the order of the paper's table."""
    rows = _parts(summary[(summary["metric"] == "exact_match") & (summary["x_name"] == "")])
    order = {group: k for k, group in enumerate(GROUPS)}
    return rows.sort_values(["group", "asked"], key=lambda c: c.map(order | {a: k for k, a in enumerate(ASKED)}))


def published_rates() -> pd.DataFrame:
    """Published exact match of GPT-3 175B by ``group`` and what was ``asked``."""
    return _parts(published_values()).query("metric == 'exact_match'")


def rate_curves(summary: pd.DataFrame, *, x_name: str) -> pd.DataFrame:
    """Exact match over epochs or sizes of the two groups that were trained in one order."""
    rows = _parts(summary[(summary["metric"] == "exact_match") & (summary["x_name"] == x_name)])
    return rows[rows["group"] != "both"]


def logprob_rows(answers: pd.DataFrame) -> pd.DataFrame:
    """Log-probability of the right target (``whose`` correct) and of another person's (randomized), one row each.

    Of the main models and the two groups that were trained in one order; ``asked`` is same, reverse or in-context.
    """
    scored = _parts(answers[answers["control_logprob"].notna() & (answers["role"] == "main")])
    scored = scored[scored["group"] != "both"].sort_values("asked", key=lambda c: c.map(ASKED.index))
    right = scored.assign(whose="correct")
    wrong = scored.assign(whose="randomized", target_logprob=scored["control_logprob"])
    return pd.concat([right, wrong], ignore_index=True)[["group", "asked", "whose", "target_logprob"]]
