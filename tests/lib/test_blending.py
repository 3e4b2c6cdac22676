"""The blend against its oracles, the convex fit against a search, and what either does with bad records."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax

from lib.blending import full_support, support, tune_temperatures
from lib.blending.blend import target_logprobs
from lib.blending.fit import FORMS, fit_weights
from lib.blending.support import top_k_support
from lib.blending.temperatures import Temperatures, search_temperatures

VOCAB = 40


def three_models(n=3, *, seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    return [log_softmax(rng.normal(0, scale, (n, VOCAB)), axis=1) for _ in range(3)]


def blended(big, tuned, base, weights):
    big, tuned, base = (each.astype(float) for each in (big, tuned, base))
    return log_softmax(weights[0] * big + weights[1] * tuned + weights[2] * base, axis=-1)


def planted(weights, *, n=4000, seed=0, n_documents=200):
    """Records whose true tokens are drawn from a known blend."""
    big, tuned, base = three_models(n, seed=seed, scale=1.0)
    rng = np.random.default_rng(seed + 1)
    probs = np.exp(blended(big, tuned, base, weights))
    targets = (probs.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, VOCAB - 1)
    return full_support(big, tuned, base, targets, np.arange(n) % n_documents)


@dataclass
class Lists:
    ids: np.ndarray
    logprobs: np.ndarray
    tail: np.ndarray


def truncate(logprobs, k):
    ids = np.argsort(-logprobs, axis=1)[:, :k]
    kept = np.take_along_axis(logprobs, ids, axis=1)
    with np.errstate(divide="ignore"):
        return Lists(ids, kept, np.log(np.maximum(1 - np.exp(kept).sum(axis=1), 1e-300)))


@pytest.mark.parametrize("scale", [2.0, 3000.0])
def test_oracles_of_the_blend(scale):
    rng = np.random.default_rng(0)
    big, tuned, base = (rng.normal(0, scale, (5, VOCAB)) for _ in range(3))
    targets = np.arange(5)
    records = full_support(big, tuned, base, targets, targets)
    for weights in ((1, 1, -1), (1, 0, 0), (0.5, 0.7, -0.2)):
        by_hand = blended(big, tuned, base, weights)[targets, targets]
        np.testing.assert_allclose(target_logprobs(records, weights), by_hand, rtol=0, atol=1e-5)
    same = full_support(big, base, base, targets, targets)
    np.testing.assert_allclose(target_logprobs(same), log_softmax(big, axis=1)[targets, targets], rtol=0, atol=1e-5)


def test_bad_weights_are_refused():
    with pytest.raises(ValueError, match="three finite weights"):
        target_logprobs(planted((1, 0, 0), n=2), (1, 1))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_scores_of_targets_do_not_depend_on_the_blocks(dtype, monkeypatch):
    big, tuned, base = (each.astype(dtype) for each in three_models(50))
    targets = np.arange(50) % VOCAB
    records = full_support(big, tuned, base, targets, np.arange(50))
    expected = blended(big, tuned, base, (0.8, 0.6, -0.4))[np.arange(50), targets]
    for size in (1, 7 * VOCAB, 10**6):
        monkeypatch.setattr(support, "BLOCK_SIZE", size)
        np.testing.assert_allclose(target_logprobs(records, (0.8, 0.6, -0.4)), expected, atol=1e-5)


def test_memory_does_not_grow_with_the_records(tmp_path):
    peaks = []
    for n in (200, 2000):
        maps = [np.memmap(tmp_path / f"{n}-{i}", mode="w+", dtype=np.float16, shape=(n, 4096)) for i in range(3)]
        records = full_support(*maps, np.zeros(n, dtype=int), np.arange(n))
        tracemalloc.start()
        target_logprobs(records)
        fit_weights(records)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_whole_lists_are_the_full_support_and_equal_small_models_cancel():
    big, tuned, base = three_models(30)
    targets, documents = np.arange(30) % VOCAB, np.arange(30)
    full = full_support(big, tuned, base, targets, documents)
    whole = top_k_support(*(truncate(each, VOCAB) for each in (big, tuned, base)), targets, VOCAB, documents)
    np.testing.assert_allclose(target_logprobs(whole), target_logprobs(full), atol=1e-9)
    cut = top_k_support(truncate(big, 5), truncate(base, 9), truncate(base, 9), targets, VOCAB, documents)
    alone = target_logprobs(cut, (1, 0, 0))
    np.testing.assert_allclose(target_logprobs(cut), alone, atol=1e-9)
    swapped = top_k_support(truncate(base, 9), truncate(tuned, 5), truncate(base, 9), targets, VOCAB, documents)
    np.testing.assert_allclose(target_logprobs(swapped), target_logprobs(swapped, (0, 1, 0)), atol=1e-9)


def test_top_k_support_equals_lists_written_out_over_the_vocabulary():
    models, k = three_models(20, seed=3), 6
    targets = np.random.default_rng(0).integers(VOCAB, size=20)
    lists = [truncate(each, k) for each in models]
    for each in lists:  # rows of unequal length, as published records have
        each.ids[::3, 4:], each.logprobs[::3, 4:] = -1, -np.inf
        each.tail = np.log(1 - np.exp(each.logprobs).sum(axis=1))
    written = []
    for each in lists:
        n_outside = VOCAB - (each.ids >= 0).sum(axis=1)
        table = np.repeat((each.tail - np.log(n_outside))[:, None], VOCAB, axis=1)
        for row in range(20):
            for token, logprob in zip(each.ids[row], each.logprobs[row], strict=True):
                if token >= 0:
                    table[row, token] = logprob
        written.append(table)
    cut = top_k_support(*lists, targets, VOCAB, np.arange(20))
    full = full_support(*written, targets, np.arange(20))
    for weights in ((1, 0, 0), (0, 1, 0), (1, 1, -1), (0.6, 0.4, -0.1)):
        np.testing.assert_allclose(target_logprobs(cut, weights), target_logprobs(full, weights), atol=1e-9)
    np.testing.assert_allclose(fit_weights(cut).weights, fit_weights(full).weights, atol=1e-6)
    n_in_lists = (cut.target < cut.big.shape[1] - 1).sum()
    assert 0 < n_in_lists < 20, "both kinds of target are tested"


def test_bad_lists_are_refused():
    lists = truncate(three_models(4)[0], 3)
    with pytest.raises(ValueError, match="outside the vocabulary of 5 tokens"):
        top_k_support(lists, lists, lists, np.zeros(4, dtype=int), 5, np.arange(4))
    twice = Lists(np.array([[1, 2], [3, 3]]), np.full((2, 2), -1.0), np.zeros(2))
    with pytest.raises(ValueError, match="record 1: an id comes twice in the list of big"):
        top_k_support(twice, twice, twice, np.zeros(2, dtype=int), VOCAB, np.arange(2))
    with pytest.raises(ValueError, match="n targets"):
        top_k_support(lists, lists, lists, np.zeros(3, dtype=int), VOCAB, np.arange(3))


def test_planted_weights_are_found_inside_their_intervals():
    truth = (0.7, 0.9, -0.5)
    fit = fit_weights(planted(truth))
    assert fit.converged
    assert (fit.n, fit.n_documents) == (4000, 200)
    for low, value, high in zip(fit.low, truth, fit.high, strict=True):
        assert low < value < high < low + 0.3


def test_intervals_cover_the_planted_strength_in_about_95_percent():
    covered = 0
    for seed in range(100):
        fit = fit_weights(planted((1, 0.8, -0.8), n=300, seed=1000 + 2 * seed, n_documents=60), form="alpha")
        covered += fit.low[1] <= 0.8 <= fit.high[1]
    assert 87 <= covered <= 100


def test_records_of_one_document_said_twice_do_not_narrow_the_interval():
    records = planted((1, 1, -1), n=500, n_documents=500)
    once, twice = fit_weights(records), fit_weights([records, records])
    np.testing.assert_allclose(np.subtract(twice.high, twice.low), np.subtract(once.high, once.low), rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_the_fit_is_the_optimum_of_its_form(form):
    records = planted((0.7, 0.9, -0.5), n=300)
    start, mapping = FORMS[form]

    def nll(parameters):
        return -target_logprobs(records, start + mapping @ parameters).mean()

    found = minimize(nll, np.zeros(mapping.shape[1]), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12})
    fit = fit_weights(records, form=form)
    assert fit.nll_nats == pytest.approx(found.fun, abs=1e-8)
    assert fit.nll_nats <= found.fun + 1e-10
    assert fit.nll_nats == pytest.approx(-target_logprobs(records, fit.weights).mean(), abs=1e-9)
    np.testing.assert_allclose(fit.weights, start + mapping @ found.x, atol=1e-3)
    fixed = ~mapping.any(axis=1)
    np.testing.assert_array_equal(np.array(fit.low)[fixed], start[fixed])


@settings(deadline=None, max_examples=25)
@given(st.tuples(*[st.floats(-3, 3)] * 3), st.integers(0, 5))
def test_no_tried_point_is_better_than_the_fit(weights, seed):
    records = planted((0.5, 1.5, -1.0), n=60, seed=seed)
    assert fit_weights(records).nll_nats <= -target_logprobs(records, weights).mean() + 1e-9


def test_equal_small_models_are_told_not_to_be_determined():
    records = planted((1, 1, -1), n=400)
    collinear = replace(records, base=records.tuned)
    fit = fit_weights(collinear)
    assert fit.converged
    assert fit.weights[1] == pytest.approx(fit.weights[2]), "of the equally good ones the smallest"
    np.testing.assert_allclose(np.abs(fit.undetermined), [[0, 2**-0.5, 2**-0.5]], atol=1e-6)
    assert np.isfinite(fit.low[0])
    assert np.isnan([fit.low[1], fit.high[1], fit.low[2], fit.high[2]]).all()
    expert_alone = fit_weights(replace(records, big=records.tuned))
    assert expert_alone.weights[0] == pytest.approx(expert_alone.weights[1]), "also where the descent starts elsewhere"
    strength = fit_weights(collinear, form="alpha")
    assert strength.weights == (1.0, 0.0, 0.0)
    assert strength.nll_nats == pytest.approx(-target_logprobs(records, (1, 0, 0)).mean())


def test_targets_that_are_always_the_likeliest_do_not_break_the_fit():
    big, tuned, base = three_models(50)
    fit = fit_weights(full_support(big, tuned, base, big.argmax(axis=1), np.arange(50)))
    assert 0 <= fit.nll_nats < 1e-3


def test_one_document_has_no_interval():
    fit = fit_weights(planted((1, 1, -1), n=200, n_documents=1), form="mixture")
    assert np.isnan(fit.low[:2]).all()
    assert fit.low[2] == fit.high[2] == 0


def test_bad_records_are_refused():
    big, tuned, base = three_models(4)
    targets, documents = np.zeros(4, dtype=int), np.arange(4)
    with pytest.raises(ValueError, match=r"tuned \(3, 40\) \(expected \(4, 40\)\)"):
        full_support(big, tuned[:3], base, targets, documents)
    with pytest.raises(ValueError, match="are there any targets"):
        full_support(big[:0], tuned[:0], base[:0], targets[:0], documents[:0])
    with pytest.raises(ValueError, match="target of record 1 is 40"):
        full_support(big, tuned, base, [0, VOCAB, 0, 0], documents)
    with pytest.raises(ValueError, match="expected integers"):
        full_support(big, tuned, base, targets + 0.5, documents)
    tuned[2, 7] = np.nan
    records = full_support(big, tuned, base, targets, documents)
    with pytest.raises(ValueError, match="record 2 holds NaN"):
        fit_weights(records)
    with pytest.raises(ValueError, match="record 2 holds NaN"):
        target_logprobs(records)
    with pytest.raises(ValueError, match="no form of weights named 'beta': expected one of weights, mixture"):
        fit_weights(records, form="beta")
    with pytest.raises(ValueError, match="no records"):
        fit_weights([])


def test_the_fit_is_not_worse_than_a_hundred_trials(tmp_path):
    parts = [planted((0.7, 0.9, -0.5), n=150, seed=seed) for seed in (0, 7)]
    tuned = tune_temperatures(parts, storage=tmp_path / "trials.log")
    assert len(tuned.trials) == 100
    assert tuned.trials.loc[0, ["base", "tuned", "big"]].tolist() == [6.0, 2.0, 1.5]
    assert tuned.nll_nats == tuned.trials["value"].min()
    pooled = -np.concatenate([target_logprobs(part, tuned.weights) for part in parts]).mean()
    assert tuned.nll_nats == pytest.approx(pooled, abs=1e-12)
    assert fit_weights(parts).nll_nats <= tuned.nll_nats + 1e-9


def test_a_stopped_search_goes_on_as_if_undisturbed(tmp_path):
    records, others = planted((1, 1, -1), n=30), planted((1, 1, -1), n=30, seed=9)
    straight = tune_temperatures(records, storage=tmp_path / "a.log", n_trials=16, seed=3)
    tune_temperatures(records, storage=tmp_path / "b.log", n_trials=5, seed=3)
    own = tune_temperatures(others, storage=tmp_path / "b.log", n_trials=4, seed=3)  # a search of its own in one file
    first = Temperatures(base=6.0, tuned=2.0, big=1.5)
    assert own.trials.loc[0, "value"] == pytest.approx(-target_logprobs(others, first.weights).mean())
    resumed = tune_temperatures(records, storage=tmp_path / "b.log", n_trials=16, seed=3)
    assert resumed.trials.equals(straight.trials)
    assert straight.trials["base"].nunique() == 16, "each trial draws anew"
    assert (resumed.trials["base"] == 6.0).sum() == 1, "the first trial is enqueued once"
    size = (tmp_path / "b.log").stat().st_size
    again = tune_temperatures(records, storage=tmp_path / "b.log", n_trials=10, seed=3)
    assert again.trials.equals(straight.trials[:10])
    assert (tmp_path / "b.log").stat().st_size - size < 1000, "nothing was tried again"
    other_seed = tune_temperatures(records, storage=tmp_path / "b.log", n_trials=3, seed=4)
    assert not other_seed.trials.equals(straight.trials[:3])


def test_failed_trials_count_and_bad_storage_is_refused(tmp_path):
    def mostly_nan(temperatures: Temperatures) -> float:
        return temperatures.big if temperatures.big > 2.5 else float("nan")

    found = search_temperatures(mostly_nan, key="half", storage=tmp_path / "a.log", n_trials=12)
    assert found.trials["value"].isna().any()
    assert found.value == found.trials["value"].min() == found.temperatures.big
    with pytest.raises(ValueError, match="none of 2 trials gave a number"):
        search_temperatures(lambda _: float("nan"), key="all", storage=tmp_path / "a.log", n_trials=2)
    with pytest.raises(ValueError, match="n_trials is 0"):
        search_temperatures(mostly_nan, key="half", storage=tmp_path / "a.log", n_trials=0)
    (tmp_path / "b.log").write_text("not a journal\n")
    with pytest.raises(ValueError, match="is not a journal of Optuna"):
        search_temperatures(mostly_nan, key="half", storage=tmp_path / "b.log", n_trials=1)
    assert (tmp_path / "b.log").read_text() == "not a journal\n"
