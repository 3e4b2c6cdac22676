"""Scoring tokens a second against bare forward passes: the same tokens, and logits at the same places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import pytest
import torch
from measuring import Way, compare, load, share_in_models, speed

from tuning_server.engine import scoring
from tuning_server.engine.models import LoadedModel

TARGET = 0.8
PASS_TOKENS = 2_048  # of a bare pass: on a processor none were faster
WINDOW, STRIDE = 256, 128


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    found = load("fork-1m")
    found.model.eval()
    return found


def ids_of(loaded: LoadedModel, lengths: Sequence[int]) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, loaded.vocab_size, length).tolist() for length in lengths]


@torch.inference_mode()
def bare_passes(loaded: LoadedModel, rows: Sequence[Sequence[int]], *, n_last: int) -> None:
    """Rows of one length side by side, without padding; the logits are thrown away."""
    for _, same in groupby(rows, key=len):
        alike = list(same)
        n_rows = PASS_TOKENS // len(alike[0])
        for start in range(0, len(alike), n_rows):
            ids = torch.tensor(alike[start : start + n_rows], device=loaded.device)
            loaded.model(input_ids=ids, use_cache=False, logits_to_keep=n_last)


def measure(
    name: str, loaded: LoadedModel, ours: Callable[[], object], fed: list[list[int]], n_last: int, report: Callable
) -> None:
    n_tokens = sum(map(len, fed))
    ours()
    ratio = compare(
        name,
        lambda: speed(ours, n_tokens),
        Way(
            "bare forward passes of the same tokens",
            lambda: speed(lambda: bare_passes(loaded, fed, n_last=n_last), n_tokens),
        ),
        unit="tokens/s",
        target=TARGET,
    )
    report(
        ratio, lambda: f"{share_in_models(ours, loaded):.0%} of our time is forward passes, the rest sums and copies"
    )


def test_after_contexts_of_one_length(loaded: LoadedModel, report: Callable) -> None:
    contexts = ids_of(loaded, [64] * 384)
    measure(
        "scoring, contexts of one length",
        loaded,
        lambda: scoring.score_contexts(loaded, contexts, [0] * len(contexts)),
        contexts,
        1,
        report,
    )


def test_nested_contexts(loaded: LoadedModel, report: Callable) -> None:
    contexts = ids_of(loaded, [2**k for k in range(9) for _ in range(40)])
    targets = [ids[0] for ids in contexts]
    measure(
        "scoring, nested contexts",
        loaded,
        lambda: scoring.score_contexts(loaded, contexts, targets),
        contexts,
        1,
        report,
    )


def test_rolling_over_a_document(loaded: LoadedModel, report: Callable) -> None:
    (document,) = ids_of(loaded, [24 * STRIDE + WINDOW + 1])
    fed = [document[start : start + WINDOW] for start in range(0, len(document) - WINDOW, STRIDE)]
    measure(
        "scoring, rolling over a document",
        loaded,
        lambda: scoring.score_documents(loaded, [document], window_tokens=WINDOW, stride_tokens=STRIDE),
        fed,
        STRIDE,
        report,
    )
