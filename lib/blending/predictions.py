"""Predictions of every model at the same targets, requested once and kept on disk: supports to fit on, and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from openai import OpenAI

from lib.blending.records import GPT2_VOCAB_TOKENS, Records
from lib.blending.support import Support, full_support, top_k_support
from lib.blending.targets import Targets
from lib.distributions import Distributions, collect
from lib.paths import read_json

PUBLISHED_MODELS = ("base", "tuned", "big", "davinci_base")
CHUNK_ROWS = 50  # neighbouring targets of published records that are resampled as one, as they were averaged


@dataclass(frozen=True)
class Predictions:
    """Next-token distributions by model; `tables` holds the targets of each context length, a row each.

    The rows of `tables` name ``document``, ``position``, ``n_bytes`` (0 where unknown) and ``target``, the token's id.
    Records of a model and a length come in their order.
    """

    tables: Mapping[int, pd.DataFrame]
    parts: Mapping[tuple[str, int], Distributions | Listed]
    vocab_size: int

    @property
    def context_tokens(self) -> list[int]:
        """Context lengths, rising."""
        return sorted(self.tables)

    def support(self, length: int, *, big: str, tuned: str, base: str) -> Support:
        """Three models' distributions over one support: the vocabulary, or what their top-k lists show."""
        of_big, of_tuned, of_base = (self.parts[model, length] for model in (big, tuned, base))
        documents, targets = (self.tables[length][column].to_numpy() for column in ("document", "target"))
        if of_big.ids is None:
            return full_support(of_big.logprobs, of_tuned.logprobs, of_base.logprobs, targets, documents)
        return top_k_support(of_big, of_tuned, of_base, targets, self.vocab_size, documents)  # type: ignore[arg-type]

    def nll_nats(self, model: str, length: int) -> np.ndarray:
        """Surprise of each target as the model itself scored it, shape (n,).

        A target that a top-k list lacks is one of the tokens that share the list's tail evenly.
        """
        part = self.parts[model, length]
        logprobs = np.array(part.target_logprobs, dtype=float)
        missed = np.isnan(logprobs)
        if missed.any() and part.ids is not None and part.tail is not None:
            n_listed = (np.asarray(part.ids) >= 0).sum(axis=1)  # (n,)
            logprobs[missed] = (part.tail - np.log(self.vocab_size - n_listed))[missed]
        return -logprobs


@dataclass(frozen=True)
class Listed:
    """Top-k lists of published records, in the fields of `Distributions`."""

    ids: np.ndarray
    logprobs: np.ndarray
    tail: np.ndarray
    target_logprobs: np.ndarray


def ask_models(
    client: OpenAI, targets: Targets, models: Mapping[str, bool], *, folder: Path, top_k: int = 0, vocab_tokens: int = 0
) -> Predictions:
    """Ask models for what they say after every context.

    Parameters
    ----------
    models : whether the whole distribution is wanted of each, or only the targets' log-probabilities
    folder : where the distributions lie; what is there is not asked again
    top_k : 0 asks for the whole vocabulary; else only the k likeliest are seen, as of a hosted endpoint
    vocab_tokens : size of the vocabulary where the endpoint does not say it

    Raises
    ------
    ValueError
        If the endpoint does not say how large the vocabulary is, and nobody else does.
    """
    contexts = targets.contexts()
    wanted = targets.wanted() * len(targets.context_tokens)
    parts: dict[tuple[str, int], Distributions | Listed] = {}
    sizes = set()
    for model, full in models.items():
        what = f"scoring {model.split(':')[0]}{' tuned' if ':' in model else ''}"
        whole = collect(client, model, contexts, wanted, folder=folder, full=full, top_k=top_k, description=what)
        sizes.add(whole.vocab_size or vocab_tokens)
        for length in targets.context_tokens:
            rows = targets.rows(length)
            parts[model, length] = whole.rows(rows.start, rows.stop)
    if not (vocab_size := max(sizes)):
        raise ValueError("the endpoint does not say how many tokens its vocabulary has: set vocab_tokens")
    table = targets.table.assign(target=_numbered(targets.wanted(), folder))
    return Predictions({length: table for length in targets.context_tokens}, parts, vocab_size)


def _numbered(wanted: Sequence[int] | Sequence[str], folder: Path) -> list[int]:
    """Ids of targets; those of strings as the tables have them, a string that no list holds after all of these."""
    if not isinstance(wanted[0], str):
        return [int(token) for token in wanted]
    numbers = {text: number for number, text in enumerate(read_json(folder / "vocab.json"))}
    return [numbers.get(str(text), len(numbers)) for text in wanted]


def predictions_of_records(records: Mapping[int, Records], *, half: str) -> Predictions:
    """The published records as predictions: the first half of each length is ``validation``, the rest ``test``.

    The big models are called ``big`` and, where there is a second, ``davinci_base``. The published contexts have no
    documents: runs of 50 neighbouring targets stand for them in intervals.

    Raises
    ------
    ValueError
        If a length has one record only.
    """
    tables: dict[int, pd.DataFrame] = {}
    parts: dict[tuple[str, int], Distributions | Listed] = {}
    for length, whole in records.items():
        if len(whole) < 2:
            raise ValueError(f"{len(whole)} record of {length} tokens back cannot be halved: give two or more")
        middle = len(whole) // 2
        rows = whole.rows(0, middle) if half == "validation" else whole.rows(middle, len(whole))
        places = np.arange(len(rows))
        tables[length] = pd.DataFrame(
            {
                "document": [f"rows {start}" for start in places // CHUNK_ROWS * CHUNK_ROWS],
                "position": places,
                "n_bytes": 0,
                "target": rows.targets,
            }
        )
        for model in PUBLISHED_MODELS:
            lists = getattr(rows, model)
            if lists is not None:
                found = np.where(lists.ids == rows.targets[:, None], lists.logprobs, -np.inf).max(axis=1)  # (n,)
                target_logprobs = np.where(np.isfinite(found), found, np.nan)
                parts[model, length] = Listed(lists.ids, lists.logprobs, lists.tail, target_logprobs)
    return Predictions(tables, parts, GPT2_VOCAB_TOKENS)
