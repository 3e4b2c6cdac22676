"""Scores equal a plain forward pass, each position comes once, and memory does not grow with what is scored."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tuning_server.engine import models, scoring

TINY = "fork-tiny"


@pytest.fixture
def tiny(tiny_store: Path) -> models.LoadedModel:
    return models.load(TINY, tiny_store, dtype=torch.float32)


def direct(loaded: models.LoadedModel, ids: list[int]) -> np.ndarray:
    """Log-probabilities after each token, by one plain pass in double precision."""
    with torch.no_grad():
        logits = loaded.model(torch.tensor([ids])).logits[0, :, : loaded.vocab_size]
    return logits.double().log_softmax(-1).numpy()


def draw(loaded: models.LoadedModel, *lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, loaded.vocab_size, n).tolist() for n in lengths]


def test_next_logprobs_equal_a_pass_of_each_context_alone(
    tiny: models.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 120)  # several batches, some of one length and some padded
    contexts = draw(tiny, *[30] * 9, *range(20, 30), 1, 2, 512, 1)
    seen = []
    for indices, logprobs in scoring.next_logprobs(tiny, contexts):
        assert logprobs.dtype == np.float32
        assert np.allclose(np.exp(logprobs.astype(float)).sum(1), 1, atol=1e-5)
        for k, row in zip(indices, logprobs, strict=True):
            assert np.allclose(row, direct(tiny, contexts[k])[-1], atol=1e-4)
        seen += indices.tolist()
    assert sorted(seen) == list(range(len(contexts)))


@pytest.mark.parametrize(("window", "stride"), [(16, 16), (16, 5), (16, 1), (100, 50)])
def test_rolling_gives_each_position_once_with_the_context_it_was_promised(
    tiny: models.LoadedModel, window: int, stride: int
) -> None:
    [ids] = draw(tiny, 53)
    found = {}
    for positions, logprobs in scoring.rolling_logprobs(tiny, ids, window_tokens=window, stride_tokens=stride):
        assert not set(positions) & set(found)
        found |= dict(zip(positions.tolist(), logprobs, strict=True))
    assert sorted(found) == list(range(1, 53))
    starts = {
        p: s for s, e, first in scoring.windows(53, window_tokens=window, stride_tokens=stride, most=99)
        for p in range(first, e + 1)
    }  # fmt: skip
    for position, row in found.items():
        n_context = position - starts[position]
        assert min(position, window - stride + 1) <= n_context <= window
        assert np.allclose(row, direct(tiny, ids[starts[position] : position])[-1], atol=1e-4)


def test_a_window_is_cut_where_its_logits_would_not_fit() -> None:
    for most in (1, 3, 7, 100):
        parts = list(scoring.windows(60, window_tokens=20, stride_tokens=8, most=most))
        assert [p for _, end, first in parts for p in range(first, end + 1)] == list(range(1, 60))
        assert all(end - first + 1 <= most and end - start <= 20 for start, end, first in parts)
        assert all(first - start >= min(first, 20 - 8) for start, end, first in parts)


def test_padded_outputs_are_cut_off_and_the_rest_is_normalised(tiny: models.LoadedModel) -> None:
    [ids] = draw(tiny, 12)
    before = scoring.score_contexts(tiny, [ids], [3], full=True)
    tiny.model.resize_token_embeddings(tiny.vocab_size + 40)
    tiny.model.lm_head.weight.data[-40:] = 9.0
    after = scoring.score_contexts(tiny, [ids], [3], full=True)
    assert after.logprobs is not None
    assert after.logprobs.shape == (1, tiny.vocab_size)
    assert np.allclose(before.target_logprobs, after.target_logprobs, atol=1e-4)


def test_scores_come_in_the_order_asked_whole_or_truncated(tiny: models.LoadedModel) -> None:
    contexts, targets = draw(tiny, 5, 90, 5, 17, 1), [0, 1, 2, 3, 4]
    exact = np.array([direct(tiny, ids)[-1] for ids in contexts])
    whole = scoring.score_contexts(tiny, contexts, targets, full=True)
    assert np.allclose(whole.target_logprobs, exact[range(5), targets], atol=1e-4)
    assert whole.logprobs is not None
    assert whole.logprobs.dtype == np.float16
    assert np.allclose(whole.logprobs, exact, atol=0.01)
    part = scoring.score_contexts(tiny, contexts, targets, top_k=7)
    assert part.ids is not None
    assert part.ids.tolist() == np.argsort(-exact, axis=1, kind="stable")[:, :7].tolist()
    assert part.tail is not None
    assert part.logprobs is not None
    assert np.allclose(np.exp(part.logprobs).sum(1) + np.exp(part.tail), 1, atol=1e-5)
    assert scoring.score_contexts(tiny, [], []).target_logprobs.shape == (0,)


def test_documents_follow_each_other(tiny: models.LoadedModel) -> None:
    documents = draw(tiny, 40, 1, 9)
    scores = scoring.score_documents(tiny, documents, window_tokens=64, stride_tokens=32)
    expected = [direct(tiny, ids)[k, token] for ids in documents for k, token in enumerate(ids[1:])]
    assert np.allclose(scores.target_logprobs, expected, atol=1e-4)


def test_logits_of_thousands_stay_finite_in_half_precision(tiny: models.LoadedModel) -> None:
    tiny.model.lm_head.weight.data *= 1e7
    scores = scoring.score_contexts(tiny, draw(tiny, 4), [0], full=True)
    assert scores.logprobs is not None
    assert np.isfinite(scores.logprobs).all()
    assert scores.logprobs.min() == scoring.LOWEST


def test_bad_input_is_told(tiny: models.LoadedModel) -> None:
    def fails(contexts: list[list[int]], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            list(scoring.next_logprobs(tiny, contexts))

    fails([[1], []], "context 1 has no tokens")
    fails([[1] * 513], "has 513 tokens, fork-tiny takes at most 512")
    fails([[1, 99_999]], "token id 99999 is not in the vocabulary")
    fails([[-1, 2]], "token id -1 is not")
    for window, stride in ((513, 1), (4, 5), (4, 0)):
        with pytest.raises(ValueError, match="expected 1 <= stride_tokens <= window_tokens <= 512"):
            list(scoring.rolling_logprobs(tiny, [1, 2], window_tokens=window, stride_tokens=stride))
    with pytest.raises(ValueError, match="document 0 has no tokens"):
        list(scoring.rolling_logprobs(tiny, [], window_tokens=4, stride_tokens=4))
    with pytest.raises(ValueError, match="one target a context"):
        scoring.score_contexts(tiny, [[1]], [])
    with pytest.raises(ValueError, match="top_k is at most the vocabulary"):
        scoring.score_contexts(tiny, [[1]], [0], top_k=10_000)
    with pytest.raises(ValueError, match="target 9999 is not"):
        scoring.score_contexts(tiny, [[1]], [9999])


def test_memory_does_not_grow_with_the_number_of_contexts(
    tiny: models.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 256)
    largest = []

    def contexts(n: int) -> Iterator[list[int]]:
        for k in range(n):
            yield [k % 50] * 32

    for n in (500, 2_000):  # a buffer is 128 contexts
        tracemalloc.start()
        rows = max(len(indices) for indices, _ in scoring.next_logprobs(tiny, contexts(n)))
        largest.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert rows == 8
    assert largest[1] < 1.2 * largest[0]
