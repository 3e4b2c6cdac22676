"""Next-token distributions written by hand, with an effect in them: what the tests of the blending study look for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from lib.blending.predictions import Predictions
from lib.distributions import Distributions, top_k

VOCAB = 24
N_DOCUMENTS = 30
STRENGTH = 0.6  # of the shift that the tuned model overdoes: the best weights are (1, 0.6, -0.6)


@dataclass
class World:
    """Models by name at each context length, shape (n, vocab), nats, and what they are to predict."""

    logprobs: dict[tuple[str, int], np.ndarray]
    tables: dict[int, pd.DataFrame]

    def predictions(self, *, k: int = 0) -> Predictions:
        parts = {}
        for (model, length), rows in self.logprobs.items():
            own = rows[np.arange(len(rows)), self.tables[length]["target"]]
            about = Distributions(Path(), model, model, VOCAB, own, rows)
            if k:
                cut = top_k(rows, k)
                missed = ~(cut.ids == self.tables[length]["target"].to_numpy()[:, None]).any(axis=1)
                own = np.where(missed, np.nan, own)
                about = replace(about, target_logprobs=own, ids=cut.ids, logprobs=cut.logprobs, tail=cut.tail)
            parts[model, length] = about
        return Predictions(self.tables, parts, VOCAB)


def world(
    seed: int,
    *,
    n: int = 300,
    lengths: Sequence[int] = (4,),
    unknown: float = 0.0,
    n_seeds: int = 1,
    further: bool = False,
) -> World:
    """Stories of a domain: `direct` knows its shift whole, the tuned models all but the `unknown` part."""
    rng = np.random.default_rng(seed)
    document = np.arange(n) % N_DOCUMENTS
    logprobs, tables = {}, {}
    for length in lengths:
        common, own, shift, rest, other = rng.normal(0, 1, (5, n, VOCAB))
        logits = {"base": common + 0.3 * own, "big": 1.5 * common}
        for k in range(n_seeds):
            logits[f"tuned:{k}"] = logits["base"] + (shift + 0.1 * k * other) / STRENGTH
            logits[f"direct:{k}"] = logits["big"] + shift + unknown * rest + 0.05 * k * other
        if further:
            logits["bigger"] = logits["big"] + 0.3 * rest
            logits["direct:bigger"] = logits["direct:0"] + 0.1 * rest
        for model, each in logits.items():
            logprobs[model, length] = log_softmax(each, axis=1).astype(np.float32)
        target = drawn(logprobs["direct:0", length], rng)
        n_bytes = rng.integers(1, 6, n)
        tables[length] = pd.DataFrame(
            {"document": [f"d{d}" for d in document], "position": np.arange(n), "n_bytes": n_bytes, "target": target}
        )
    return World(logprobs, tables)


def drawn(logprobs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (np.exp(logprobs).cumsum(axis=1) < rng.random((len(logprobs), 1))).sum(axis=1).clip(0, VOCAB - 1)


def number(
    summary: pd.DataFrame, condition: str, metric: str, *, big: str = "big", x: float = math.nan, x_name: str = ""
) -> pd.Series:
    at = (summary["x_name"] == x_name) & (summary["x"].isna() if math.isnan(x) else summary["x"] == x)
    rows = summary[at & (summary["condition"] == condition) & (summary["metric"] == metric) & (summary["model"] == big)]
    assert len(rows) == 1, f"{condition} {metric}: {len(rows)} rows"
    return rows.iloc[0]
