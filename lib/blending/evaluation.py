"""What the blending study compares, in which units, and what was published."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lib import paths

# What is scored. The weights of `FITTED` come from validation documents; `blended` is the convex fit of all three.
FITTED = {
    "weights": "blended",
    "temperatures": "blended/temperatures",  # the published search
    "mixture": "mixture",  # big and tuned without base
    "alpha": "proxy",  # proxy-tuning with one fitted strength
    "temperature": "big/temperature",  # the big model alone, at its best temperature
}
MODEL_CONDITIONS = ("base", "tuned", "big", "direct")
VARIANTS = (*FITTED.values(), "proxy/alpha-1")
TRUNCATED = ("big/top-k", "blended/top-k", "big/published", "blended/published")
STEERED = ("alpha", "fade")  # text of proxy-tuning at several strengths, and of a shift that fades out
CONDITIONS = (*MODEL_CONDITIONS, *VARIANTS, *TRUNCATED, *STEERED)
METRICS = {  # and the unit of each
    "perplexity": "per token",  # exp of the mean negative log-likelihood; its interval resamples documents
    "bits_per_byte": "bits per byte",
    "nats_saved": "nats per token",  # negative log-likelihood of this one minus that of the blend, paired
    "gap_closed": "of the gap",  # (big - this) / (big - direct), in nats
    "argmax_changed": "rate",  # the likeliest token is not the big model's
    "miss_rate": "rate",  # of targets that the big model's top k does not hold
    "weight_big": "exponent",
    "weight_tuned": "exponent",
    "weight_base": "exponent",
    "bits_under_direct": "bits per byte",  # of generated text, under the directly tuned big model
}
DOCUMENT = "document"


def published_values(path: Path = paths.DATA / "blending" / "published.csv") -> pd.DataFrame:
    """Published numbers: ``source, condition, metric, x, x_name, value``; read off figures where the source says so."""
    return pd.read_csv(path, comment="#")
