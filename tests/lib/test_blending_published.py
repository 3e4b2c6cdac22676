"""The published pipeline against an independent plain one: per-record dicts in plain Python."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import replace

import numpy as np
import pytest

from lib.blending import published
from lib.blending.records import PaddedLists
from lib.blending.temperatures import Temperatures

PUBLISHED = Temperatures(base=8.8268, tuned=2.2340, big=1.6695)
TEMPERATURES = (PUBLISHED, Temperatures(base=6.0, tuned=2.0, big=1.5), Temperatures(base=0.5, tuned=0.4, big=0.3))


def plain_blend(record, temperatures):
    """One record's blend, as the notebooks describe it: copy, align, impute, divide, add, softmax, log."""
    record = copy.deepcopy(record)
    big = dict(sorted(record["big"].items()))
    scaled = {}
    for name in ("base", "tuned"):
        aligned = {token: record[name].get(token, math.nan) for token in big}
        present = [value for value in aligned.values() if not math.isnan(value)]
        lowest = min(present) if present else math.nan
        filled = {token: lowest if math.isnan(value) else value for token, value in aligned.items()}
        scaled[name] = {token: value / getattr(temperatures, name) for token, value in filled.items()}
    scores = {t: value / temperatures.big + (scaled["tuned"][t] - scaled["base"][t]) for t, value in big.items()}
    powers = {token: math.exp(score) for token, score in scores.items()}
    total = sum(powers.values())
    return {token: math.log(power / total) for token, power in powers.items()}


def plain_perplexity(distributions, targets):
    found = [each.get(target, -30.0) for each, target in zip(distributions, targets, strict=True)]
    chunks = [found[start : start + 50] for start in range(0, len(found), 50)]
    perplexities = [math.exp(-sum(chunk) / len(chunk)) for chunk in chunks]
    return sum(perplexities) / len(perplexities)


def random_records(n, *, seed=0, k=8, vocab=20, shortest=3):
    """Lists of unequal length that overlap in part, in id 0 at least; some true ids are in no list."""
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(n):
        record = {"target": int(rng.integers(vocab))}
        for name in published.MODELS:
            ids = np.append(rng.choice(np.arange(1, vocab), size=rng.integers(shortest, k), replace=False), 0)
            record[name] = dict(zip(ids.tolist(), (-rng.exponential(4, len(ids))).tolist(), strict=True))
        records.append(record)
    return records


def padded(dicts):
    width = max(map(len, dicts))
    ids = np.array([[*each, *[-1] * (width - len(each))] for each in dicts])
    logprobs = np.array([[*each.values(), *[-np.inf] * (width - len(each))] for each in dicts])
    return PaddedLists(ids, logprobs, np.zeros(len(dicts)))


def prepared(records):
    lists = [padded([record[name] for record in records]) for name in ("big", "tuned", "base")]
    return published.prepare(*lists, [record["target"] for record in records])


@pytest.mark.parametrize("n", [1, 50, 51, 230])
@pytest.mark.parametrize("temperatures", TEMPERATURES)
def test_the_pipeline_equals_a_plain_one(n, temperatures):
    records = random_records(n, seed=n)
    targets = [record["target"] for record in records]
    ready = prepared(records)
    expected = plain_perplexity([plain_blend(record, temperatures) for record in records], targets)
    assert ready.perplexity(temperatures, rounded=False) == pytest.approx(expected, rel=1e-9)
    assert ready.perplexity(temperatures) == round(round(expected, 2), 1)
    for name in published.MODELS:
        alone = plain_perplexity([record[name] for record in records], targets)
        assert ready.model_perplexity(name, rounded=False) == pytest.approx(alone, rel=1e-9)


def test_each_record_equals_a_plain_one_and_blocks_do_not_matter(monkeypatch):
    records = random_records(60, seed=5)
    found = prepared(records).logprobs(PUBLISHED)
    expected = [plain_blend(record, PUBLISHED).get(record["target"], -30.0) for record in records]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert 0 < sum(value == -30.0 for value in expected) < 60, "both kinds of target are tested"
    monkeypatch.setattr(published, "BLOCK_ROWS", 7)
    np.testing.assert_array_equal(prepared(records).logprobs(PUBLISHED), found)


def test_lists_without_a_common_id_give_nan():
    records = random_records(3)
    records[1] |= {"big": {1: -1.0, 2: -2.0}, "tuned": {3: -1.0}, "target": 1}
    ready = prepared(records)
    assert math.isnan(ready.logprobs(PUBLISHED)[1])
    assert math.isnan(ready.perplexity(PUBLISHED))
    assert not math.isnan(ready.model_perplexity("tuned"))
    records[1]["target"] = 4  # not in big's list: the floor, whatever the blend
    assert prepared(records).logprobs(PUBLISHED)[1] == -30.0


def test_underflow_is_published_as_it_comes():
    record = {"big": {1: -50.0, 2: -60.0}, "tuned": {1: -1.0, 2: -1.0}, "base": {1: -1.0, 2: -1.0}, "target": 1}
    cold = Temperatures(base=1.0, tuned=1.0, big=0.05)
    assert math.isnan(prepared([record]).perplexity(cold)), "every exponential is zero"
    warm = Temperatures(base=1.0, tuned=1.0, big=1.0)
    assert prepared([record]).logprobs(warm)[0] == pytest.approx(-math.log1p(math.exp(-10)))


def test_bad_lists_are_refused():
    records = random_records(3)
    ready = [padded([record[name] for record in records]) for name in ("big", "tuned", "base")]
    with pytest.raises(ValueError, match="'targets': 2"):
        published.prepare(*ready, [1, 2])
    with pytest.raises(ValueError, match="record 1: big's list is empty"):
        published.prepare(
            replace(ready[0], ids=np.where([[False], [True], [False]], -1, ready[0].ids)), *ready[1:], [1, 2, 3]
        )
    with pytest.raises(ValueError, match="at least one context length"):
        published.tuning_records({24: prepared(records)})


def test_a_list_of_no_ids_aligns_to_nothing():
    empty = PaddedLists(np.full((2, 1), -1), np.full((2, 1), -np.inf), np.zeros(2))
    assert np.isnan(published.align(empty, np.array([[0, 1], [2, 3]]))).all()


def test_halves_and_pool_keep_file_order():
    short, long = random_records(5, seed=1), random_records(8, seed=2, k=12, vocab=30)
    by_context = {6: prepared(random_records(4)), 100: prepared(long), 25: prepared(short)}
    pooled = published.tuning_records(by_context)
    assert len(pooled) == 2 + 4
    one_by_one = prepared(short[:2] + long[:4])
    np.testing.assert_allclose(pooled.logprobs(PUBLISHED), one_by_one.logprobs(PUBLISHED), atol=1e-12)
    _, test = published.halves(by_context[25])
    assert len(test) == 3
    assert test.model_perplexity("big") == prepared(short[2:]).model_perplexity("big")


def test_the_curve_is_smoothed_over_test_halves_without_the_shortest():
    by_context = {k: prepared(random_records(20, seed=k)) for k in (4, 6, 10, 15, 20)}
    curve = published.published_curve(by_context, PUBLISHED)
    assert curve.index.tolist() == [6, 10, 15, 20]
    assert curve.columns.tolist() == ["base", "tuned", "big", "blended"]
    values = [published.halves(by_context[k])[1].perplexity(PUBLISHED) for k in (6, 10, 15, 20)]
    for _ in range(3):
        values = [sum(values[max(0, i - 2) : i + 1]) / len(values[max(0, i - 2) : i + 1]) for i in range(4)]
    np.testing.assert_allclose(curve["blended"], values)


def test_the_kernel_of_three_smoothings_is_the_published_one():
    impulse = np.zeros(13)
    impulse[6] = 27
    np.testing.assert_allclose(published.smooth(impulse)[6:], [1, 3, 6, 7, 6, 3, 1], atol=1e-12)


def test_the_search_minimises_the_published_perplexity_and_resumes(tmp_path):
    ready = prepared(random_records(60, seed=8))
    found = published.tune_published(ready, storage=tmp_path / "trials.log", n_trials=12)
    assert found.value == ready.perplexity(found.temperatures) == found.trials["value"].min()
    first = Temperatures(base=6.0, tuned=2.0, big=1.5)
    assert found.trials.loc[0, "value"] == ready.perplexity(first)
    again = published.tune_published(ready, storage=tmp_path / "trials.log", n_trials=12)
    assert again.trials.equals(found.trials)
    other = published.tune_published(prepared(random_records(60, seed=9)), storage=tmp_path / "trials.log", n_trials=2)
    assert other.trials.loc[0, "value"] != found.trials.loc[0, "value"]


def test_a_trial_at_published_size_is_quick():
    rng = np.random.default_rng(0)
    lists = []
    for _ in range(3):
        ids = np.argsort(rng.random((6300, 200)), axis=1)[:, :100]
        lists.append(PaddedLists(ids, -rng.exponential(3, ids.shape), np.zeros(6300)))
    ready = published.prepare(*lists, rng.integers(200, size=6300))
    took = []
    for _ in range(5):
        start = time.perf_counter()
        ready.perplexity(PUBLISHED)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.1, "about 10 ms on an idle core"
