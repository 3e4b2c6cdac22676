"""What the figures of the blending notebooks show: rows of the summary, picked and named for people to read."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lib.blending.evaluation import MODEL_CONDITIONS
from lib.blending.support import MODELS

CONTEXT_LABEL = "tokens of context"


def weight_curves(fits: pd.DataFrame, *, big: str) -> pd.DataFrame:
    """Weights of the best blend, one row per model and context length, of one big model and its first seed."""
    rows = fits[(fits["big"] == big) & (fits["seed"] == fits["seed"].min()) & (fits["form"] == "weights")]
    rows = rows[rows["context_tokens"].notna()]
    parts = [
        pd.DataFrame(
            {
                "context_tokens": rows["context_tokens"],
                "model": model,
                "value": rows[f"weight_{model}"],
                "low": rows[f"low_{model}"],
                "high": rows[f"high_{model}"],
            }
        )
        for model in MODELS
    ]
    return pd.concat(parts, ignore_index=True).assign(metric="weight", unit="exponent", x_name=CONTEXT_LABEL)


def context_curves(
    summary: pd.DataFrame, *, big: str, conditions: Sequence[str], metric: str = "perplexity"
) -> pd.DataFrame:
    """One metric over the length of the context, for some contenders of one big model, in the order given."""
    rows = summary[(summary["model"] == big) & (summary["metric"] == metric) & (summary["x_name"] == "context_tokens")]
    rows = rows[rows["condition"].isin(conditions)]
    order = rows["condition"].map(list(conditions).index)
    return rows.assign(x_name=CONTEXT_LABEL).iloc[order.argsort(kind="stable")]


def pooled_rows(summary: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """Rows of one metric of the headline's big model, over all pooled context lengths."""
    return summary[(summary["metric"] == metric) & summary["x"].isna()]


def gap_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """Part of the gap that each contender closes, by big model, the best first."""
    rows = summary[(summary["metric"] == "gap_closed") & ~summary["x_name"].isin(["context_tokens", "top_k"])]
    return rows.sort_values(["x", "value"], ascending=[True, False], na_position="first", kind="stable")


def truncation_curves(summary: pd.DataFrame, *, big: str) -> pd.DataFrame:
    """Perplexity of a big model and its blend over context length: whole, cut to k with a tail bucket, as published."""
    names = {"": "whole", "top-k": "tail bucket", "published": "floor of -30"}
    rows = summary[
        (summary["model"] == big) & (summary["metric"] == "perplexity") & (summary["x_name"] == "context_tokens")
    ]
    parts = rows["condition"].str.partition("/")
    rows = rows.assign(contender=parts[0], how=parts[2])
    shown = rows[rows["contender"].isin(["big", "blended"]) & rows["how"].isin(names)]
    return shown.assign(how=shown["how"].map(names), x_name=CONTEXT_LABEL)


def sweep_rows(numbers: pd.DataFrame) -> pd.DataFrame:
    """Surprise of the directly tuned big model at text of each strength of the shift."""
    rows = numbers[(numbers["metric"] == "bits_under_direct") & (numbers["condition"] == "alpha")]
    return rows.assign(metric="NLL", x_name="strength of the shift")


def text_rows(numbers: pd.DataFrame) -> pd.DataFrame:
    """Surprise of the directly tuned big model at the text of each model and blend."""
    rows = numbers[(numbers["metric"] == "bits_under_direct") & numbers["x"].isna()]
    order = [*MODEL_CONDITIONS, "blended", "fade"]
    return rows.sort_values("condition", key=lambda column: column.map(order.index))


def shift_curve(numbers: pd.DataFrame, *, condition: str = "blended") -> pd.DataFrame:
    """Share of new tokens whose likeliest token changed, by place in the text."""
    rows = numbers[(numbers["metric"] == "argmax_changed") & (numbers["x_name"] == "new_token")]
    return rows[rows["condition"] == condition].assign(metric="changed", x_name="new token")
