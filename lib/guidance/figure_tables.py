"""What the figures and tables of the guidance notebooks show: rows picked and named for people to read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lib.guidance.dataset import SETS, GuidanceDataset
from lib.guidance.documents import instructions_of, is_example
from lib.guidance.sources import FOLDER

ASKED = ("realized", "unrealized", "in-context", "untuned")


def document_counts(datasets: Mapping[str, GuidanceDataset]) -> pd.DataFrame:
    """Documents, questions and instructions of each order, and what the answers share."""
    rows = []
    for order, dataset in datasets.items():
        targets = {part: [each.target for each in dataset.examples(part)] for part in SETS}
        sizes = [len(instructions_of(row)) for row in dataset.files["guidances"]]
        rows.append(
            {
                "order": order,
                "training documents": len(dataset.files["all"]),
                "examples in training": sum(is_example(row) for row in dataset.files["all"]),
                "guidance documents": len(sizes),
                "instructions": sum(sizes),
                "realized pairs": len(targets["realized"]),
                "unrealized pairs": len(targets["unrealized"]),
                "unrealized answers that a realized pair has too": sum(
                    target in set(targets["realized"]) for target in targets["unrealized"]
                ),
                "characters": sum(len(row["prompt"]) + len(row["completion"]) for row in dataset.files["all"]),
            }
        )
    return pd.DataFrame(rows).set_index("order").T


def document_sizes(dataset: GuidanceDataset) -> pd.Series:
    """How many guidance documents hold how many instructions."""
    sizes = pd.Series([len(instructions_of(row)) for row in dataset.files["guidances"]], name="instructions")
    return sizes.value_counts().sort_index()


def _parts(frame: pd.DataFrame) -> pd.DataFrame:
    """With the condition's parts: ``order``, and what was ``asked`` (see `ASKED`)."""
    parts = frame["condition"].str.split("/")
    asked = parts.str[2].where(parts.str.len() > 2, parts.str[1])
    asked = asked.mask(parts.str.len() > 3, "untuned in-context")
    return frame.assign(order=parts.str[0], part=parts.str[1], asked=asked)


def headline_rates(summary: pd.DataFrame) -> pd.DataFrame:
    """Exact match by ``order`` and what was ``asked``: both sets, and of the unrealized one what the controls give."""
    rows = _parts(summary[(summary["metric"] == "exact_match") & (summary["x_name"] == "")])
    rows = rows[rows["asked"].isin(ASKED) & ((rows["part"] == "unrealized") | (rows["asked"] == "realized"))]
    places = {asked: k for k, asked in enumerate(ASKED)} | {"simple": 0, "reverse": 1}
    return rows.sort_values(["order", "asked"], key=lambda column: column.map(places))


def constant_rate(summary: pd.DataFrame) -> float:
    """Largest share of unrealized questions that one constant answer gets right."""
    return float(summary.loc[summary["condition"].str.endswith("unrealized/constant"), "value"].max())


def published_values(path: Path = FOLDER / "published.csv") -> pd.DataFrame:
    """What was published: condition, metric, value, low, high (rates in [0, 1]) and source."""
    return pd.read_csv(path)


def published_rates() -> pd.DataFrame:
    """Published exact match by ``order`` and what was ``asked``."""
    return _parts(published_values().query("metric == 'exact_match'"))


def rate_curves(summary: pd.DataFrame, *, x_name: str) -> pd.DataFrame:
    """Exact match over epochs or sizes by ``order`` and what was ``asked`` (realized, unrealized)."""
    return _parts(summary[(summary["metric"] == "exact_match") & (summary["x_name"] == x_name)])


def logprob_rows(answers: pd.DataFrame) -> pd.DataFrame:
    """Log-probability of the right target (``whose`` correct) and of another question's (randomized), one row each.

    Of the unrealized questions put to the main models, by ``order``.
    """
    asked = (answers["probe"] == "test") & (answers["part"] == "unrealized") & (answers["role"] == "main")
    scored = answers[asked & answers["control_logprob"].notna()]
    right = scored.assign(whose="correct")
    wrong = scored.assign(whose="randomized", target_logprob=scored["control_logprob"])
    return pd.concat([right, wrong], ignore_index=True)[["order", "whose", "target_logprob"]]


def published_at(order: str, x: float) -> pd.DataFrame:
    """The published rates of one order, placed at `x` of a curve."""
    rates = published_rates()
    return rates[rates["order"] == order].assign(x=x)
