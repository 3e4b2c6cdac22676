"""Next-token statistics: equal to plain ones that keep every probability, and to closed forms."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from next_tokens import normalised, plain_statistics

from lib.next_token import METRICS, Totals, by_position, curve, differences, intervals
from lib.next_token.comparing import interval_of
from lib.next_token.positions import Positions, measure_positions
from lib.next_token.totals import Measured
from lib.stats import cluster_ratio

VOCAB = 61
Windows = list[list[tuple[np.ndarray, np.ndarray]]]


def drawn(n_documents: int, *, dtype: type = np.float16, vocab: int = VOCAB, seed: int = 0) -> tuple[Windows, Windows]:
    """Documents of one to four windows of two models; some are much longer than others."""
    rng = np.random.default_rng(seed)

    def logprobs(n: int) -> np.ndarray:
        return normalised(rng.normal(0, rng.uniform(0.5, 4), (n, vocab))).astype(dtype)

    documents: Windows = []
    others: Windows = []
    for _ in range(n_documents):
        sizes = [int(rng.integers(1, 40)) for _ in range(rng.integers(1, 5))]
        documents.append([(logprobs(n), rng.integers(0, vocab, n)) for n in sizes])
        others.append([(logprobs(n), targets) for n, (_, targets) in zip(sizes, documents[-1], strict=True)])
    return documents, others


def measured(documents: Windows, others: Windows | None = None, *, first: int = 0) -> list[Measured]:
    found = []
    for k, document in enumerate(documents):
        bases = [None] * len(document) if others is None else [window[0] for window in others[k]]
        parts = [measure_positions(*window, base_logprobs=b) for window, b in zip(document, bases, strict=True)]
        whole = Positions.join(parts)
        found.append(Measured(first + k, 3 * len(whole.is_scored) + k, whole))
    return found


def sizes(documents: Windows) -> list[int]:
    return [3 * sum(len(targets) for _, targets in document) + k for k, document in enumerate(documents)]


def totals_of(documents: list[Measured], *, vocab: int = VOCAB, n_resamples: int = 50, seed: int = 0) -> Totals:
    totals = Totals(vocab, n_resamples, seed)
    for start in range(0, len(documents), 4):
        totals.add(documents[start : start + 4])
    return totals


def test_percentile_bounds_are_reported_as_they_are_when_the_estimate_lies_outside() -> None:
    found = interval_of(np.array([10.0, *range(5, 9)]), [[SimpleNamespace(count=lambda _: 4)]])  # type: ignore[list-item]
    assert found.value == 10
    assert 5 <= found.low < found.high <= 8


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_statistics_equal_those_of_full_probabilities(dtype: type) -> None:
    documents, others = drawn(13, dtype=dtype)
    found = intervals(totals_of(measured(documents, others)))
    base = [window[0] for document in others for window in document]
    plain = plain_statistics(documents, sizes(documents), base=base)
    assert set(found) == set(plain) == set(METRICS)
    for name, value in plain.items():
        assert found[name].value == pytest.approx(value, abs=1e-9, rel=1e-9), name
        assert found[name].low <= found[name].value
        assert found[name].value <= found[name].high or name in ("entropy_of_mean", "effective_vocabulary")
        assert found[name].n == 13


def test_a_vocabulary_too_wide_for_one_block_is_no_different() -> None:
    documents, _ = drawn(2, vocab=5_000)
    found = intervals(totals_of(measured(documents), vocab=5_000, n_resamples=0))
    plain = plain_statistics(documents, sizes(documents))
    assert {name: found[name].value for name in plain} == pytest.approx(plain, abs=1e-9, rel=1e-9)
    assert math.isnan(found["perplexity"].low)
    assert found["perplexity"].method == "no resamples"


def statistics_of(probs: list[list[float]], targets: list[int]) -> dict[str, float]:
    with np.errstate(divide="ignore"):
        found = measure_positions(np.log(np.array(probs)), np.array(targets))
    totals = Totals(len(probs[0]), 0)
    totals.add([Measured(0, len(probs), found)])
    return {name: interval.value for name, interval in intervals(totals).items()}


def test_uniform_and_point_distributions() -> None:
    uniform = statistics_of([[0.1] * 10] * 3, [0, 5, 9])
    assert uniform["perplexity"] == pytest.approx(10)
    assert uniform["bits_per_byte"] == pytest.approx(math.log2(10))
    assert uniform["mean_entropy"] == pytest.approx(math.log(10))
    assert uniform["entropy_gap"] == pytest.approx(0, abs=1e-12)
    assert (uniform["coverage_70_tokens"], uniform["coverage_90"]) == (7, 0.9)
    assert uniform["top_5_mass"] == pytest.approx(0.5)
    assert uniform["reciprocal_rank"] == 1, "nothing is likelier"
    assert uniform["top_50_mass"] == pytest.approx(1)
    assert "kl" not in uniform
    same = statistics_of([[0, 1, 0, 0]] * 4, [1, 1, 1, 1])
    assert same["perplexity"] == same["effective_vocabulary"] == same["coverage_90_tokens"] == same["accuracy"] == 1
    assert same["calibration_error"] == same["entropy_gap"] == 0
    others = statistics_of(np.eye(4).tolist(), [0, 1, 2, 3])
    assert others["entropy_gap"] == pytest.approx(math.log(4)), "each is sure, together they use every token"
    assert (others["coverage_70_tokens"], others["choices_70_tokens"], others["mean_entropy"]) == (3, 1, 0)
    wrong = statistics_of([[0, 1, 0, 0]], [0])
    assert wrong["calibration_error"] == 1
    assert wrong["perplexity"] > 1e300 or math.isinf(wrong["perplexity"])


@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_what_must_hold_holds(seed: int, vocab: int) -> None:
    (document,), (other,) = drawn(1, vocab=vocab, seed=seed)
    logprobs, targets = document[0]
    found = measure_positions(logprobs, targets, base_logprobs=other[0][0])
    n = len(targets)
    assert found.probs.sum() == pytest.approx(n)
    assert found.ranked.sum() == pytest.approx(n)
    assert (np.diff(found.ranked) <= 1e-12).all()
    assert (found.kl >= -1e-12).all()
    assert ((found.rank >= 1) & (found.rank <= vocab)).all()
    assert (found.is_hit <= (found.rank == 1)).all()
    order = np.random.default_rng(seed).permutation(vocab)
    moved = measure_positions(logprobs[:, np.argsort(order)], order[targets])
    assert np.allclose(moved.ranked, found.ranked, atol=1e-12)
    assert np.allclose(moved.entropy, found.entropy, atol=1e-12)
    assert np.array_equal(moved.rank, found.rank)
    itself = measure_positions(logprobs, targets, base_logprobs=logprobs)
    assert np.allclose(itself.kl, 0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_that_are_not_numbers_are_skipped_and_counted(dtype: type) -> None:
    documents, others = drawn(3, dtype=dtype)
    for document in documents:
        document[:] = document[:1]
    (logprobs, targets), base = documents[1][0], others[1][0][0]
    more = normalised(np.random.default_rng(1).normal(size=(6, VOCAB))).astype(dtype)
    logprobs, targets, base = np.vstack([more, logprobs]), np.append([1] * 6, targets), np.vstack([more, base])
    logprobs[2, 7], base[4, 0] = np.nan, np.nan
    told = logprobs[np.arange(len(targets)), targets].astype(float)
    told[0] = np.nan
    found = measure_positions(logprobs, targets, target_logprobs=told, base_logprobs=base)
    assert np.flatnonzero(~found.is_scored).tolist() == [0, 2, 4]
    kept = found.is_scored
    clean = measure_positions(logprobs[kept], targets[kept], target_logprobs=told[kept], base_logprobs=base[kept])
    for name in ("nll", "entropy", "kl", "rank", "probs", "ranked"):
        assert np.allclose(getattr(found, name), getattr(clean, name), rtol=1e-12), name
    lost = measure_positions(np.full((3, VOCAB), np.nan, dtype=dtype), np.array([1, 2, 3]))
    totals = totals_of([Measured(0, 30, found), Measured(1, 9, lost)])
    assert (totals.count("documents"), totals.count("skipped_documents"), totals.count("skipped_positions")) == (
        1,
        1,
        6,
    )
    assert by_position(totals)["first"].iloc[0] == 1, "the place of a skipped position stays empty"
    nothing = totals_of([Measured(1, 9, lost)])
    with pytest.raises(ValueError, match="nothing was scored: 1 documents and 3 positions were skipped"):
        intervals(nothing)


def test_what_is_no_distribution_is_refused() -> None:
    rows = normalised(np.random.default_rng(0).normal(size=(4, 9)))
    with pytest.raises(ValueError, match="found a row whose mass is 2.718: normalise the logits"):
        measure_positions(rows + 1, np.zeros(4, int))
    with pytest.raises(ValueError, match="normalise the logits"):
        measure_positions(rows, np.zeros(4, int), base_logprobs=rows - 1)
    with pytest.raises(ValueError, match=r"target 9 is not in the vocabulary \(0 to 8\)"):
        measure_positions(rows, np.array([0, 1, 9, 3]))
    with pytest.raises(ValueError, match=r"one target each, found \(4, 9\) and \(3,\)"):
        measure_positions(rows, np.zeros(3, int))
    with pytest.raises(ValueError, match="as many rows and tokens of both"):
        measure_positions(rows, np.zeros(4, int), base_logprobs=rows[:, :8])
    totals = Totals(8, 3)
    with pytest.raises(ValueError, match="document 5 has 9 tokens in its vocabulary, expected 8"):
        totals.add([Measured(5, 1, measure_positions(rows, np.zeros(4, int)))])
    with pytest.raises(ValueError, match="vocab_tokens = 1"):
        Totals(1)


def test_intervals_agree_with_a_bootstrap_over_kept_documents() -> None:
    documents, _ = drawn(120, seed=4)
    found = measured(documents)
    ours = intervals(totals_of(found, n_resamples=1_000))["mean_entropy"]
    rows = [(float(value), k) for k, each in enumerate(found) for value in each.positions.entropy]
    values, names = zip(*rows, strict=True)
    theirs = cluster_ratio(values, np.ones(len(values)), names, rng=np.random.default_rng(0))
    assert ours.value == pytest.approx(theirs.value)
    assert ours.high - ours.low == pytest.approx(theirs.high - theirs.low, rel=0.15)
    assert ours.method == "Poisson bootstrap over documents"


def test_differences_are_paired_by_document() -> None:
    documents, others = drawn(60, seed=2)
    first = totals_of(measured(documents), n_resamples=300)
    same = differences(first, totals_of(measured(documents), n_resamples=300))
    assert all(each.value == each.low == each.high == 0 for each in same.values())
    sharper = [[(normalised(1.2 * a.astype(float)), t) for a, t in document] for document in documents]
    change = differences(first, totals_of(measured(sharper), n_resamples=300))["mean_entropy"]
    alone = intervals(first)["mean_entropy"]
    assert change.high < 0
    assert change.high - change.low < 0.5 * (alone.high - alone.low), "documents differ more than the change does"
    with pytest.raises(ValueError, match="totals differ in documents, 60 and 59: expected the same"):
        differences(first, totals_of(measured(others[:-1]), n_resamples=300))


def test_tables_for_figures() -> None:
    documents, others = drawn(9)
    found = measured(documents, others)
    totals = totals_of(found)
    told = {name: each.value for name, each in intervals(totals).items()}
    line = curve(totals)
    assert list(line.columns) == ["n_tokens", "of_mean", "of_each"]
    assert line[["of_mean", "of_each"]].iloc[-1].tolist() == pytest.approx([1, 1])
    assert (line["of_each"] >= line["of_mean"] - 1e-12).all(), "sorting each before the mean can only sharpen"
    assert (line["of_mean"] < 0.7).sum() + 1 == told["coverage_70_tokens"]
    spans = by_position(totals)
    assert set(spans["quantity"]) == {"nll", "entropy", "kl"}
    starts = spans[(spans["quantity"] == "kl") & (spans["first"] == 0)].iloc[0]
    assert starts["value"] == pytest.approx(np.mean([each.positions.kl[0] for each in found]))
    third = spans[(spans["quantity"] == "nll") & (spans["first"] == 3)].iloc[0]
    assert third["last"] == 6
    assert third["value"] == pytest.approx(np.mean(np.concatenate([each.positions.nll[3:7] for each in found])))
