"""Next-token statistics: equal to plain ones that keep every probability, and to closed forms."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from next_tokens import measured_document, normalised, plain_statistics

from lib.next_token import METRICS, Totals, by_position, curve, differences, intervals
from lib.next_token.comparing import interval_of
from lib.next_token.totals import Measured
from lib.stats import cluster_ratio

VOCAB = 61
Windows = list[list[tuple[np.ndarray, np.ndarray]]]


def drawn(n_documents: int, *, vocab: int = VOCAB, seed: int = 0) -> tuple[Windows, Windows]:
    """Documents of one to four windows of two models; some are much longer than others."""
    rng = np.random.default_rng(seed)

    def logprobs(n: int) -> np.ndarray:
        return normalised(rng.normal(0, rng.uniform(0.5, 4), (n, vocab)))

    documents: Windows = []
    others: Windows = []
    for _ in range(n_documents):
        sizes = [int(rng.integers(1, 40)) for _ in range(rng.integers(1, 5))]
        documents.append([(logprobs(n), rng.integers(0, vocab, n)) for n in sizes])
        others.append([(logprobs(n), targets) for n, (_, targets) in zip(sizes, documents[-1], strict=True)])
    return documents, others


def measure_all(documents: Windows, others: Windows | None = None) -> list[Measured]:
    found = []
    for k, (document, size) in enumerate(zip(documents, sizes(documents), strict=True)):
        logprobs, targets = (np.concatenate(part) for part in zip(*document, strict=True))
        base = None if others is None else np.concatenate([window[0] for window in others[k]])
        found.append(measured_document(k, logprobs, targets, base, n_bytes=size))
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


def test_statistics_equal_those_of_full_probabilities() -> None:
    documents, others = drawn(13)
    found = intervals(totals_of(measure_all(documents, others)))
    base = [window[0] for document in others for window in document]
    plain = plain_statistics(documents, sizes(documents), base=base)
    assert set(found) == set(plain) == set(METRICS)
    for name, value in plain.items():
        assert found[name].value == pytest.approx(value, abs=1e-9, rel=1e-9), name
        assert found[name].low <= found[name].value
        assert found[name].value <= found[name].high or name in ("entropy_of_mean", "effective_vocabulary")
        assert found[name].n == 13


def test_a_vocabulary_wider_than_the_sums_by_rank_is_no_different() -> None:
    documents = [[(5 * logprobs, targets) for logprobs, targets in document] for document in drawn(2, vocab=5_000)[0]]
    documents = [[(normalised(logprobs), targets) for logprobs, targets in document] for document in documents]
    found = intervals(totals_of(measure_all(documents), vocab=5_000, n_resamples=0))
    plain = plain_statistics(documents, sizes(documents))
    assert {name: found[name].value for name in plain} == pytest.approx(plain, abs=1e-9, rel=1e-9)
    assert math.isnan(found["perplexity"].low)
    assert found["perplexity"].method == "no resamples"


def statistics_of(probs: list[list[float]], targets: list[int]) -> dict[str, float]:
    with np.errstate(divide="ignore"):
        logprobs = np.maximum(np.log(np.array(probs)), -65504)
    totals = Totals(len(probs[0]), 0)
    totals.add([measured_document(0, logprobs, np.array(targets), n_bytes=len(probs))])
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


def test_positions_without_numbers_are_counted_and_their_place_stays_empty() -> None:
    documents, others = drawn(2)
    (logprobs, targets), base = documents[0][0], others[0][0][0]
    more = normalised(np.random.default_rng(1).normal(size=(6, VOCAB)))
    logprobs, targets, base = np.vstack([more, logprobs]), np.append([1] * 6, targets), np.vstack([more, base])
    logprobs[0], base[4] = np.nan, np.nan
    found = measured_document(0, logprobs, targets, base)
    lost = measured_document(1, np.full((3, VOCAB), np.nan), np.array([1, 2, 3]))
    totals = totals_of([found, lost])
    counts = ("documents", "skipped_documents", "skipped_positions")
    assert [totals.count(name) for name in counts] == [1, 1, 5]
    assert totals.probs[0].sum() == pytest.approx(len(targets) - 2)
    assert by_position(totals)["first"].iloc[0] == 1, "the place of a skipped position stays empty"
    with pytest.raises(ValueError, match="nothing was scored: 1 documents and 3 positions were skipped"):
        intervals(totals_of([lost]))


def test_totals_are_of_one_tokenizer() -> None:
    rows = normalised(np.random.default_rng(0).normal(size=(4, 9)))
    totals = Totals(8, 3)
    with pytest.raises(ValueError, match="document 5 has 9 tokens in its vocabulary, expected 8"):
        totals.add([measured_document(5, rows, np.zeros(4, int))])
    with pytest.raises(ValueError, match="vocab_tokens = 1"):
        Totals(1)


def test_a_level_that_the_sums_by_rank_do_not_reach_is_left_out() -> None:
    flat = np.full((3, 600), -math.log(600))
    found = intervals(totals_of([measured_document(0, flat, np.zeros(3, int))], vocab=600))
    assert found["choices_70_tokens"].value == found["coverage_70_tokens"].value == 420
    assert found["coverage_90_tokens"].value == 540
    assert "choices_90_tokens" not in found, "512 tokens have 85%"


def test_intervals_agree_with_a_bootstrap_over_kept_documents() -> None:
    documents, _ = drawn(120, seed=4)
    found = measure_all(documents)
    ours = intervals(totals_of(found, n_resamples=1_000))["mean_entropy"]
    rows = [(float(value), k) for k, each in enumerate(found) for value in each.positions["entropy"]]
    values, names = zip(*rows, strict=True)
    theirs = cluster_ratio(values, np.ones(len(values)), names, rng=np.random.default_rng(0))
    assert ours.value == pytest.approx(theirs.value)
    assert ours.high - ours.low == pytest.approx(theirs.high - theirs.low, rel=0.15)
    assert ours.method == "Poisson bootstrap over documents"


def test_differences_are_paired_by_document() -> None:
    documents, others = drawn(60, seed=2)
    first = totals_of(measure_all(documents), n_resamples=300)
    same = differences(first, totals_of(measure_all(documents), n_resamples=300))
    assert all(each.value == each.low == each.high == 0 for each in same.values())
    sharper = [[(normalised(1.2 * a.astype(float)), t) for a, t in document] for document in documents]
    change = differences(first, totals_of(measure_all(sharper), n_resamples=300))["mean_entropy"]
    alone = intervals(first)["mean_entropy"]
    assert change.high < 0
    assert change.high - change.low < 0.5 * (alone.high - alone.low), "documents differ more than the change does"
    with pytest.raises(ValueError, match="totals differ in documents, 60 and 59: expected the same"):
        differences(first, totals_of(measure_all(others[:-1]), n_resamples=300))


def test_tables_for_figures() -> None:
    documents, others = drawn(9)
    found = measure_all(documents, others)
    totals = totals_of(found)
    told = {name: each.value for name, each in intervals(totals).items()}
    line = curve(totals)
    assert list(line.columns) == ["n_tokens", "of_mean"]
    assert line["of_mean"].iloc[-1] == pytest.approx(1)
    assert (line["of_mean"] < 0.7).sum() + 1 == told["coverage_70_tokens"]
    spans = by_position(totals)
    assert set(spans["quantity"]) == {"nll", "entropy", "kl"}
    starts = spans[(spans["quantity"] == "kl") & (spans["first"] == 0)].iloc[0]
    assert starts["value"] == pytest.approx(np.mean([each.positions["kl"][0] for each in found]))
    third = spans[(spans["quantity"] == "nll") & (spans["first"] == 3)].iloc[0]
    assert third["last"] == 6
    assert third["value"] == pytest.approx(np.mean(np.concatenate([each.positions["nll"][3:7] for each in found])))
