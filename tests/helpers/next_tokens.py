"""A model without weights behind the API, and next-token statistics as plainly as they can be written."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import numpy as np

from lib.diversity.next_token import N_RANKED

VOCAB = 257  # a byte each, and the one that begins a text
BEGIN = 256
CONTEXT = 16
Logprobs = Callable[[Sequence[int]], np.ndarray]


def normalised(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def of_last_token(seed: int) -> Logprobs:
    """Distributions that depend on the last token, from a table: quick."""
    table = normalised(np.random.default_rng(seed).normal(0, 3, (VOCAB, VOCAB)))
    return lambda context: table[context[-1]]


def of_whole_context(context: Sequence[int]) -> np.ndarray:
    """Distributions that another context would change, however little."""
    rng = np.random.default_rng(crc32(bytes(str(list(context)), "ascii")))
    return normalised(rng.normal(0, 3, VOCAB))


def contexts_of(n_tokens: int, window: int, stride: int) -> list[slice]:
    """Which tokens stand before each but the first: windows that move by a stride."""
    found: list[slice] = []
    while len(found) < n_tokens - 1:
        end = window if not found else len(found) + stride
        found += [slice(max(0, end - window), k) for k in range(len(found) + 1, min(end, n_tokens - 1) + 1)]
    return found


def statistics_of(
    logprobs: np.ndarray, targets: Sequence[int] | np.ndarray, base: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """What the server is to report of the positions of one document, shape (n, vocab), in double precision."""
    nats = logprobs.astype(float)
    p, told = np.exp(nats), nats[np.arange(len(nats)), targets]
    with np.errstate(invalid="ignore"):
        found = {
            "target_logprobs": told,
            "rank": 1 + (nats > told[:, None]).sum(axis=1),
            "entropy": -np.where(p == 0, 0, p * nats).sum(axis=1),
            "confidence": p.max(axis=1),
            "likeliest": p.argmax(axis=1),
        }
    lost = np.isnan(told)
    if base is not None:
        found["kl"] = (p * (nats - base.astype(float))).sum(axis=1)
        lost |= np.isnan(found["kl"])
    p = np.where(lost[:, None], 0, p)
    return found | {"probs": p.sum(axis=0), "ranked": -np.sort(-p, axis=1)[:, :N_RANKED].sum(axis=0)}


class StubClient:
    """The few calls that scoring needs; `n_asked` counts requests for scores."""

    def __init__(self, models: dict[str, Logprobs], *, stop_after: int = 10**9) -> None:
        self.logprobs, self.stop_after = models, stop_after
        self.n_asked = 0
        self.models = SimpleNamespace(retrieve=self.retrieve)

    def retrieve(self, model: str) -> Any:
        about = {"id": model, "vocab_tokens": VOCAB, "context_tokens": CONTEXT, "tokenizer": "bytes"}
        return SimpleNamespace(model_dump=lambda: about)

    def post(self, path: str, *, cast_to: Any, body: dict[str, Any]) -> Any:
        if path == "/tokenize":
            is_begin = body["prompt"] == "<|endoftext|>"
            ids = [BEGIN] if is_begin else list(body["prompt"].encode())
            return SimpleNamespace(
                json=lambda: {"tokens": ids, "token_strs": list(map(chr, ids)), "n_bytes": [1] * len(ids)}
            )
        if self.n_asked == self.stop_after:
            self.stopped()
        self.n_asked += 1
        replies = [self.of_document(ids, body) for ids in body["documents"]]
        file = io.BytesIO()
        sums = {name: np.array([reply.pop(name) for reply in replies], np.float32) for name in ("probs", "ranked")}
        columns = {name: np.concatenate([reply[name] for reply in replies]) for name in replies[0]}
        assert {*columns, *sums} == {*body["statistics"], "target_logprobs"}
        np.savez(file, **columns, **sums)  # type: ignore[arg-type]
        return SimpleNamespace(content=file.getvalue())

    def of_document(self, ids: list[int], body: dict[str, Any]) -> dict[str, np.ndarray]:
        contexts = [ids[where] for where in contexts_of(len(ids), body["window_tokens"], body["stride_tokens"])]
        named = [name for name in (body["model"], body.get("base")) if name]
        rows = [np.array([self.logprobs[name](c) for c in contexts]).reshape(-1, VOCAB) for name in named]
        return statistics_of(rows[0], ids[1:], *rows[1:])

    def stopped(self) -> None:
        raise KeyboardInterrupt


def plain_statistics(
    documents: Sequence[tuple[np.ndarray, np.ndarray]], n_bytes: int, base: Sequence[np.ndarray] = ()
) -> dict[str, float]:
    """Every statistic from full log-probabilities, which are kept; `documents`: (log-probabilities, targets)."""
    p = np.concatenate([np.exp(logprobs) for logprobs, _ in documents])
    t = np.concatenate([targets for _, targets in documents])
    at_target, mean = p[np.arange(len(p)), t], p.mean(axis=0)
    entropy, spread = -(p * np.log(p)).sum(axis=1).mean(), -(mean * np.log(mean)).sum()
    falling, ranked = np.cumsum(np.sort(mean)[::-1]), np.cumsum(-np.sort(-p, axis=1).mean(axis=0))
    found = {
        "perplexity": math.exp(-np.log(at_target).mean()),
        "bits_per_byte": -np.log2(at_target).sum() / n_bytes,
        "entropy_of_mean": spread,
        "mean_entropy": entropy,
        "entropy_gap": spread - entropy,
        "confidence": p.max(axis=1).mean(),
        "accuracy": (p.argmax(axis=1) == t).mean(),
        "reciprocal_rank": (1 / (1 + (p > at_target[:, None]).sum(axis=1))).mean(),
        "top_10_mass": -np.sort(-p, axis=1)[:, :10].sum(axis=1).mean(),
    }
    for level in (70, 90):
        found[f"coverage_{level}_tokens"] = 1 + int((falling < level / 100).sum())
        found[f"coverage_{level}"] = found[f"coverage_{level}_tokens"] / p.shape[1]
        found[f"choices_{level}_tokens"] = 1 + int((ranked < level / 100).sum())
    if base:
        found["kl"] = (p * (np.log(p) - np.concatenate(base))).sum(axis=1).mean()
    return found
