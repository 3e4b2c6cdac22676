"""Scores equal a plain forward pass, and each position of a document comes once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from next_tokens import statistics_of

from tuning_server.engine import models, scoring, statistics
from tuning_server.engine.statistics import Outputs

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


def test_scores_of_contexts_equal_a_pass_of_each_alone(
    tiny: models.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 120)  # several batches, some of one length and some padded
    contexts = draw(tiny, *[30] * 9, *range(20, 30), 1, 2, 512, 1)
    targets = [k % tiny.vocab_size for k in range(len(contexts))]
    scores = scoring.score_contexts(tiny, contexts, targets)
    assert scores["target_logprobs"].dtype == np.float32
    expected = [direct(tiny, ids)[-1, target] for ids, target in zip(contexts, targets, strict=True)]
    assert np.allclose(scores["target_logprobs"], expected, atol=1e-4)


@pytest.mark.parametrize(("window", "stride"), [(16, 16), (16, 5), (16, 1), (100, 50)])
def test_each_position_of_a_document_is_scored_in_its_window(
    tiny: models.LoadedModel, window: int, stride: int
) -> None:
    [ids] = draw(tiny, 53)
    scores = scoring.score_documents(tiny, [ids], window_tokens=window, stride_tokens=stride)
    starts = {
        p: s for s, e, first in scoring.windows(53, window_tokens=window, stride_tokens=stride, most=99)
        for p in range(first, e + 1)
    }  # fmt: skip
    assert scores["target_logprobs"].shape == (52,)
    for position in range(1, 53):
        n_context = position - starts[position]
        assert min(position, window - stride + 1) <= n_context <= window
        expected = direct(tiny, ids[starts[position] : position])[-1, ids[position]]
        assert scores["target_logprobs"][position - 1] == pytest.approx(expected, abs=1e-4)


def test_a_window_is_cut_where_its_logits_would_not_fit() -> None:
    for most in (1, 3, 7, 100):
        parts = list(scoring.windows(60, window_tokens=20, stride_tokens=8, most=most))
        assert [p for _, end, first in parts for p in range(first, end + 1)] == list(range(1, 60))
        assert all(end - first + 1 <= most and end - start <= 20 for start, end, first in parts)
        assert all(first - start >= min(first, 20 - 8) for start, end, first in parts)


def test_padded_outputs_are_cut_off_and_the_rest_is_normalised(tiny: models.LoadedModel) -> None:
    [ids] = draw(tiny, 12)
    before = scoring.score_contexts(tiny, [ids], [3], Outputs(full=True))
    tiny.model.resize_token_embeddings(tiny.vocab_size + 40)
    tiny.model.lm_head.weight.data[-40:] = 9.0
    after = scoring.score_contexts(tiny, [ids], [3], Outputs(full=True))
    assert after["logprobs"].shape == (1, tiny.vocab_size)
    assert np.allclose(before["target_logprobs"], after["target_logprobs"], atol=1e-4)


def test_scores_come_in_the_order_of_the_request_whole_or_truncated(tiny: models.LoadedModel) -> None:
    contexts, targets = draw(tiny, 5, 90, 5, 17, 1), [0, 1, 2, 3, 4]
    exact = np.array([direct(tiny, ids)[-1] for ids in contexts])
    whole = scoring.score_contexts(tiny, contexts, targets, Outputs(full=True))
    assert np.allclose(whole["target_logprobs"], exact[range(5), targets], atol=1e-4)
    assert whole["logprobs"].dtype == np.float16
    assert np.allclose(whole["logprobs"], exact, atol=0.01)
    part = scoring.score_contexts(tiny, contexts, targets, Outputs(top_k=7))
    assert part["ids"].tolist() == np.argsort(-exact, axis=1, kind="stable")[:, :7].tolist()
    assert np.allclose(np.exp(part["logprobs"]).sum(1) + np.exp(part["tail"]), 1, atol=1e-5)
    assert scoring.score_contexts(tiny, [], [])["target_logprobs"].shape == (0,)


def test_documents_follow_each_other(tiny: models.LoadedModel) -> None:
    documents = draw(tiny, 40, 1, 9)
    scores = scoring.score_documents(tiny, documents, window_tokens=64, stride_tokens=32)
    expected = [direct(tiny, ids)[k, token] for ids in documents for k, token in enumerate(ids[1:])]
    assert np.allclose(scores["target_logprobs"], expected, atol=1e-4)


def test_logits_of_thousands_stay_finite_in_half_precision(tiny: models.LoadedModel) -> None:
    tiny.model.lm_head.weight.data *= 1e7
    scores = scoring.score_contexts(tiny, draw(tiny, 4), [0], Outputs(full=True))
    assert np.isfinite(scores["logprobs"]).all()
    assert scores["logprobs"].min() == statistics.LOWEST


def test_bad_input_is_refused(tiny: models.LoadedModel) -> None:
    def fails(contexts: list[list[int]], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            scoring.score_contexts(tiny, contexts, [0] * len(contexts))

    fails([[1], []], "context 1 has no tokens; fork-tiny takes 1 to 512")
    fails([[1] * 513], "context 0 has 513 tokens")
    fails([[1, 99_999]], "context 0: token id 99999 is not in the vocabulary")
    fails([[-1, 2]], "token id -1 is not")
    for window, stride in ((513, 1), (4, 5), (4, 0)):
        with pytest.raises(ValueError, match="expected 1 <= stride_tokens <= window_tokens <= 512"):
            scoring.score_documents(tiny, [[1, 2]], window_tokens=window, stride_tokens=stride)
    with pytest.raises(ValueError, match="document 1 has no tokens"):
        scoring.score_documents(tiny, [[1], []], window_tokens=4, stride_tokens=4)
    with pytest.raises(ValueError, match="top_k is at most the vocabulary"):
        scoring.score_contexts(tiny, [[1]], [0], Outputs(top_k=10_000))
    with pytest.raises(ValueError, match="targets: token id 9999 is not"):
        scoring.score_contexts(tiny, [[1]], [9999])


POSITIONS = ["rank", "entropy", "confidence", "likeliest", "kl"]


@pytest.fixture
def other(tiny_store: Path) -> models.LoadedModel:
    """A model of the same tokenizer with other weights."""
    loaded = models.load(TINY, tiny_store, dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in loaded.model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return loaded


def test_statistics_equal_those_of_whole_distributions(
    tiny: models.LoadedModel, other: models.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "BLOCK_BYTES_ELSEWHERE", 4 * tiny.vocab_size * 7)  # blocks end within documents
    documents = draw(tiny, 40, 1, 9, 75)
    outputs = Outputs([*POSITIONS, "probs", "ranked"], other, top_k=3)
    found = scoring.score_documents(tiny, documents, window_tokens=64, stride_tokens=64, outputs=outputs)
    firsts = [ids[:64] for ids in documents]
    rows = [np.concatenate([direct(each, ids)[:-1] for ids in firsts]) for each in (tiny, other)]
    targets = np.concatenate([ids[1:] for ids in firsts]).astype(int)
    at = np.concatenate([np.arange(39), np.arange(39, 47), np.arange(47, 110)])  # all but those of the second window
    plain = statistics_of(rows[0], targets, rows[1])
    for name in ("target_logprobs", *POSITIONS):
        assert np.allclose(found[name][at], plain[name], atol=1e-4), name
    assert found["kl"].min() > 0.01
    assert np.allclose(found["logprobs"][:, 0], np.log(found["confidence"]), atol=1e-6)
    assert (found["ids"][:, 0] == found["likeliest"]).all()
    assert found["probs"].shape == (4, tiny.vocab_size)
    first = statistics_of(direct(tiny, documents[0])[:-1], np.array(documents[0][1:]))
    for name in ("probs", "ranked"):
        assert np.allclose(found[name][0], first[name][: found[name].shape[1]], atol=1e-4), name
        assert np.allclose(found[name].sum(1), [39, 0, 8, 74], rtol=0.2 if name == "ranked" else 1e-5)


def test_a_model_does_not_diverge_from_itself(tiny: models.LoadedModel) -> None:
    contexts = draw(tiny, 5, 90, 17)
    found = scoring.score_contexts(tiny, contexts, [0, 1, 2], Outputs(["kl"], tiny))
    assert set(found) == {"target_logprobs", "kl"}
    assert (found["kl"] == 0).all()


def test_sums_leave_out_positions_where_a_model_gives_no_number() -> None:
    logprobs, base = (statistics.normalised(torch.randn(5, 9)) for _ in range(2))
    logprobs[1], base[3] = torch.nan, torch.nan
    block = statistics.Block(logprobs, torch.zeros(5, dtype=torch.long), base)
    for names, kept in ((["probs", "ranked"], [1, 0, 1, 1, 1]), (["kl", "probs", "ranked"], [1, 0, 1, 0, 1])):
        for summands in statistics.of_documents(block, Outputs(names)).values():
            assert summands.sum(1).tolist() == pytest.approx(kept)


def test_a_base_must_read_and_predict_as_much(tiny: models.LoadedModel, other: models.LoadedModel) -> None:
    other.context_tokens = 8
    with pytest.raises(ValueError, match="fork-tiny takes 8 tokens at once, found 9"):
        scoring.score_contexts(tiny, draw(tiny, 9), [0], Outputs(["kl"], other))
    other.vocab_size = tiny.vocab_size - 1
    with pytest.raises(ValueError, match="fork-tiny predicts"):
        scoring.score_contexts(tiny, draw(tiny, 9), [0], Outputs(["kl"], other))
