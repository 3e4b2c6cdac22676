"""Chains with several fine-tunes a stage: means and shares equal to closed forms, drawn as documents and seeds are."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from next_tokens import measured_document, normalised

from lib.next_token import METRICS, Totals, by_position, curve, differences, intervals, shares
from lib.next_token.comparing import Stage

VOCAB = 16


def model(seed: int, *, sharpness: float = 1.0, n_documents: int = 40, base: int | None = None) -> Totals:
    """A model of its own noise; the larger the sharpness, the less diverse each prediction."""
    totals = Totals(VOCAB, 200)
    for k in range(n_documents):
        text = np.random.default_rng([k, 99])
        scores = text.normal(0, 2, (5 + k % 7, VOCAB))
        targets = text.integers(0, VOCAB, len(scores))
        noise = np.random.default_rng([seed, k]).normal(0, 0.3, scores.shape)
        other = None if base is None else normalised(scores)
        totals.add([measured_document(k, normalised(sharpness * (scores + noise)), targets, other)])
    return totals


def even(n_tokens: int, *, n_documents: int = 25, vocab: int = VOCAB, seed: int = 0, n_resamples: int = 200) -> Totals:
    """Every prediction is even over the first tokens: no document differs from another."""
    with np.errstate(divide="ignore"):
        logprobs = np.log(np.repeat([[1 / n_tokens] * n_tokens + [0.0] * (vocab - n_tokens)], 4, axis=0))
    totals = Totals(vocab, n_resamples, seed)
    totals.add([measured_document(k, logprobs, np.zeros(4, int)) for k in range(n_documents)])
    return totals


def numbers(totals: Stage) -> dict[str, tuple[float, float, float]]:
    found = intervals(totals)
    return {name: (each.value, each.low, each.high) for name, each in found.items()}


def test_fine_tunes_that_are_the_same_are_as_one() -> None:
    one, base = model(1, base=0), model(0, sharpness=0.5, base=0)
    alone, thrice = numbers(one), numbers([one] * 3)
    assert set(alone) == set(thrice) == set(METRICS)
    for name, told in alone.items():
        assert thrice[name] == pytest.approx(told, rel=1e-12), name
        assert numbers([one])[name] == told
    pd.testing.assert_frame_equal(curve([one] * 3), curve(one), rtol=1e-12)
    pd.testing.assert_frame_equal(by_position([one] * 3), by_position(one), rtol=1e-12)
    paired, single = differences(base, [one] * 3), differences(base, one)
    for name, each in single.items():
        ours = (paired[name].value, paired[name].low, paired[name].high)
        assert ours == pytest.approx((each.value, each.low, each.high), rel=1e-9, abs=1e-12), name


def test_a_stage_is_the_mean_of_its_fine_tunes() -> None:
    two = [even(4), even(16)]
    found = intervals(two)
    entropy, used = found["mean_entropy"], found["coverage_90_tokens"]
    assert entropy.value == pytest.approx((math.log(4) + math.log(16)) / 2)
    assert used.value == (4 + 15) / 2
    assert found["perplexity"].value == pytest.approx(10), "the mean of perplexities, not of nats"
    assert (entropy.low, entropy.high) == pytest.approx((math.log(4), math.log(16))), "one fine-tune drawn twice"
    assert (entropy.n, entropy.method) == (25, "Poisson bootstrap over documents and fine-tunes")
    assert intervals(two[0])["mean_entropy"].high == pytest.approx(math.log(4)), "documents add nothing here"
    line = curve(two)
    assert line["of_mean"].tolist() == pytest.approx(np.minimum(1, np.arange(1, 17) / 4) / 2 + np.arange(1, 17) / 32)
    nats = by_position(two).query("quantity == 'entropy'")
    assert nats[["value", "low", "high"]].to_numpy() == pytest.approx(
        np.array([[entropy.value, math.log(4), math.log(16)]] * len(nats))
    )


def test_fine_tunes_are_drawn_with_the_documents() -> None:
    three = [model(seed, sharpness=sharp) for seed, sharp in ((1, 0.9), (2, 1.0), (3, 1.1))]
    alone, together = intervals(three[1])["mean_entropy"], intervals(three)["mean_entropy"]
    assert together.high - together.low > 1.2 * (alone.high - alone.low)
    plain = np.mean([intervals(each)["mean_entropy"].value for each in three])
    assert together.value == pytest.approx(plain)
    itself = differences(three, three)
    assert all(each.value == each.low == each.high == 0 for each in itself.values()), "the same are drawn of both"
    base = model(0, sharpness=0.5)
    change = differences(base, three)["mean_entropy"]
    each = [differences(base, one)["mean_entropy"].value for one in three]
    assert change.value == pytest.approx(np.mean(each))
    assert min(each) < change.low + 0.1
    assert change.high < 0
    back = differences(three, base)["mean_entropy"]
    assert (back.value, back.low, back.high) == pytest.approx((-change.value, -change.high, -change.low), rel=1e-9)
    assert differences(three[:2], three)["mean_entropy"].n == 40


def test_shares_of_a_known_change() -> None:
    found = shares([even(16), even(8), even(2)])
    assert [each.value for each in found["mean_entropy"]] == pytest.approx([1 / 3, 2 / 3])
    assert [each.value for each in found["perplexity"]] == pytest.approx([8 / 14, 6 / 14])
    assert {each.method for each in found["mean_entropy"]} == {"no spread"}
    assert all(math.isnan(each.low) for each in found["mean_entropy"])
    assert not {"entropy_gap", "top_50_mass", "reciprocal_rank"} & set(found), "these do not change"
    turned = shares([even(4), even(16), even(8)])["mean_entropy"]
    assert [each.value for each in turned] == pytest.approx([2, -1]), "a stage can work against the total"
    several = shares([even(16), [even(8), even(4)], [even(2), even(2)]])["mean_entropy"]
    assert [each.value for each in several] == pytest.approx([1.5 / 3, 1.5 / 3])
    assert (several[0].low, several[0].high) == pytest.approx((1 / 3, 2 / 3))


def test_shares_add_up() -> None:
    sft, dpo = ([model(seed, sharpness=sharp, base=0) for seed in (1, 2, 3)] for sharp in (1.2, 1.8))
    chain: list[Stage] = [model(0), sft, dpo]
    found = shares(chain)
    assert "mean_entropy" in found
    assert "kl" not in found, "the base has none"
    total = differences(chain[0], chain[2])
    for name, told in found.items():
        assert sum(each.value for each in told) == pytest.approx(1), name
        first = differences(chain[0], chain[1])[name].value
        assert told[0].value == pytest.approx(first / total[name].value), name
    entropy = found["mean_entropy"]
    assert all(each.low < each.value < each.high for each in entropy)
    assert entropy[0].high < 0.5 < entropy[1].low
    assert (entropy[0].low, entropy[0].high) == pytest.approx((1 - entropy[1].high, 1 - entropy[1].low))


def test_shares_of_a_change_that_may_be_none_have_no_bounds() -> None:
    around = [model(1), model(2, sharpness=1.5), model(3)]
    told = shares(around)["mean_entropy"]
    assert sum(each.value for each in told) == pytest.approx(1)
    assert {each.method for each in told} == {"the total may be none"}
    assert all(math.isnan(each.low) and math.isnan(each.high) for each in told)
    assert shares([around[0], around[1], around[0]]) == {}
    assert shares([around[0], [around[0]] * 3]) == {}, "0 but for the rounding of a mean"
    (alone,) = shares([model(1, n_documents=1), model(2, sharpness=2, n_documents=1)])["mean_entropy"]
    assert (alone.value, alone.n, alone.method) == (1, 1, "one document")
    (bare,) = shares([even(4, n_resamples=0), even(2, n_resamples=0)])["mean_entropy"]
    assert (bare.value, bare.method) == (1, "no resamples")


def test_what_was_not_asked_alike_is_refused() -> None:
    one = even(4)
    for other, message in (
        (even(4, vocab=17), "vocab_tokens, 16 and 17"),
        (even(4, seed=1), "seed, 0 and 1"),
        (even(4, n_resamples=100), "n_resamples, 200 and 100"),
        (even(4, n_documents=24), "documents, 25 and 24"),
    ):
        message = f"^totals differ in {message}: expected the same vocabulary, seed, resamples and documents of all"
        with pytest.raises(ValueError, match=message):
            intervals([one, other])
        with pytest.raises(ValueError, match=message):
            differences(one, [other, other])
        with pytest.raises(ValueError, match=message):
            shares([one, one, other])
        with pytest.raises(ValueError, match=message):
            curve([one, other])
        with pytest.raises(ValueError, match=message):
            by_position([one, other])
    with pytest.raises(ValueError, match="a stage has no fine-tunes: expected the totals of at least one"):
        intervals([])
    with pytest.raises(ValueError, match="a chain of 1: expected two or more stages"):
        shares([one])
