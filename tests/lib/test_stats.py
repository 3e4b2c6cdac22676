"""Intervals and tests: planted effects are found, nothing is found where there is nothing."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from lib import stats

N_SIMULATIONS = 200


def people_and_rows(rng, *, n_people=30, n_rows=10, rate=0.4, spread=0.25):
    """Rows about one person share that person's rate, as phrasings of one fact do."""
    rates = np.clip(rng.normal(rate, spread, n_people), 0, 1)
    people = np.repeat(np.arange(n_people), n_rows)
    return rng.random(n_people * n_rows) < rates[people], people


def test_interval_covers_the_rate_of_the_population_in_about_95_percent():
    rng = np.random.default_rng(0)
    truth = np.clip(rng.normal(0.4, 0.25, 200_000), 0, 1).mean()
    covered = 0
    for _ in range(N_SIMULATIONS):
        found = stats.cluster_bootstrap(*people_and_rows(rng), rng=rng, n_resamples=400)
        covered += found.low <= truth <= found.high
    assert 0.88 <= covered / N_SIMULATIONS <= 0.99


def test_rows_taken_for_clusters_would_cover_too_rarely():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(N_SIMULATIONS):
        correct, people = people_and_rows(rng)
        found = stats.cluster_bootstrap(correct, np.arange(len(people)), rng=rng, n_resamples=400)
        covered += found.low <= 0.404 <= found.high
    assert covered / N_SIMULATIONS < 0.85


def test_repeating_rows_inside_clusters_does_not_shrink_the_interval():
    correct, people = people_and_rows(np.random.default_rng(4))
    once = stats.cluster_bootstrap(correct, people, rng=np.random.default_rng(5))
    often = stats.cluster_bootstrap(np.tile(correct, 20), np.tile(people, 20), rng=np.random.default_rng(5))
    assert (often.n, often.value) == (once.n, pytest.approx(once.value))
    assert often.high - often.low == pytest.approx(once.high - once.low)


def test_order_of_rows_does_not_matter():
    correct, people = people_and_rows(np.random.default_rng(6))
    order = np.random.default_rng(7).permutation(len(people))
    once = stats.cluster_bootstrap(correct, people, rng=np.random.default_rng(8))
    other = stats.cluster_bootstrap(correct[order], people[order], rng=np.random.default_rng(8))
    assert (once.low, once.value, once.high) == pytest.approx((other.low, other.value, other.high))


def test_drawing_seeds_too_widens_the_interval_when_fine_tunes_differ():
    rng = np.random.default_rng(9)
    people, seeds = (grid.ravel() for grid in np.meshgrid(np.arange(30), np.arange(3), indexing="ij"))
    values = rng.normal(0, 1, 30)[people] + np.array([-1.0, 0.0, 1.0])[seeds]
    fixed = stats.cluster_bootstrap(values, people, rng=rng)
    drawn = stats.cluster_bootstrap(values, people, seeds=seeds, rng=rng)
    assert fixed.n == drawn.n == 30
    assert fixed.value == drawn.value
    assert drawn.high - drawn.low > 1.3 * (fixed.high - fixed.low)
    with pytest.raises(ValueError, match="put the seed into the cluster"):
        stats.cluster_bootstrap(values, np.arange(90), seeds=seeds, rng=rng)


@pytest.mark.parametrize("n_successes", [0, 1, 3])
def test_the_interval_of_a_rate_does_not_jump_next_to_0_and_1(n_successes):
    people = np.repeat(np.arange(30), 30)
    correct = np.isin(np.arange(900), 31 * np.arange(n_successes))
    few, many = stats.cluster_bootstrap(correct, people), stats.cluster_bootstrap(~correct, people)
    assert 0 <= few.low <= few.value < few.high < 0.015
    assert few.high > 0.008
    assert (many.low, many.high) == pytest.approx((1 - few.high, 1 - few.low), abs=1e-3)


def test_a_rate_that_people_share_is_as_uncertain_as_one_answer_of_each():
    people = np.repeat(np.arange(30), 30)
    found = stats.cluster_bootstrap(people < 12, people)
    once = stats.cluster_bootstrap(np.arange(30) < 12, np.arange(30))
    assert (found.low, found.high) == pytest.approx((once.low, once.high), abs=0.02)


def test_the_interval_of_a_rare_rate_covers_it_in_about_95_percent():
    rng = np.random.default_rng(3)
    truth = np.clip(rng.normal(-0.3, 0.25, 200_000), 0, 1).mean()
    covered = 0
    for _ in range(N_SIMULATIONS):
        found = stats.cluster_bootstrap(*people_and_rows(rng, rate=-0.3), rng=rng, n_resamples=400)
        covered += found.low <= truth <= found.high
    assert covered / N_SIMULATIONS >= 0.85


def test_a_number_without_spread_gets_no_interval():
    found = stats.cluster_bootstrap([1.0] * 30, np.arange(30), rng=np.random.default_rng(0))
    assert found.value == 1.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_percentile_bounds_are_reported_as_they_are_when_the_estimate_lies_outside():
    distinct = stats.cluster_bootstrap(
        np.arange(10.0), np.arange(10), statistic=lambda drawn: len(np.unique(drawn)), rng=np.random.default_rng(0)
    )
    assert distinct.value == 10
    assert 4 <= distinct.low < distinct.high < 10  # a resample of ten repeats some of them


def test_one_cluster_has_a_value_and_no_bounds():
    found = stats.cluster_bootstrap([1, 0, 1, 1], ["ada"] * 4, rng=np.random.default_rng(0))
    assert found.value == 0.75
    assert found.n == 1
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        ([], [], "no rows"),
        ([1.0, np.nan], ["a", "b"], "1 of 2 values are missing"),
        (pd.array([True, None], dtype="boolean"), ["a", "b"], "1 of 2 values are missing"),
        ([1.0, 2.0], ["a"], "1 clusters for 2 values"),
        ([1.0, 2.0], ["a", None], "1 rows have no cluster"),
    ],
)
def test_rows_that_cannot_be_resampled_are_refused(values, clusters, message):
    with pytest.raises(ValueError, match=message):
        stats.cluster_bootstrap(values, clusters, rng=np.random.default_rng(0))


def test_a_rate_above_one_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.cluster_bootstrap([0.5, 90.0], ["a", "b"], rate=True, rng=np.random.default_rng(0))


def test_other_statistics():
    values, people = np.arange(20.0), np.repeat(np.arange(10), 2)
    median = stats.cluster_bootstrap(values, people, statistic=np.median, rng=np.random.default_rng(0))
    assert median.value == 9.5
    assert median.low < 9.5 < median.high


def test_permutation_p_is_uniform_under_the_null_and_small_under_an_effect():
    rng = np.random.default_rng(10)
    people = np.repeat(np.arange(20), 5)
    found = []
    for _ in range(N_SIMULATIONS):
        noise = rng.normal(0, 1, 20)[people] + rng.normal(0, 1, 100)
        found.append(stats.cluster_permutation(noise, people, rng=rng, n_resamples=400).p)
    assert scipy_stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) < 0.05) < 0.1
    assert stats.cluster_permutation(noise + 2, people, rng=rng).p < 0.001


def test_exact_permutation_counts_ties_and_no_effect():
    rng = np.random.default_rng(0)
    assert stats.cluster_permutation([0.0, 0.0, 0.0], [1, 2, 3], rng=rng).p == 1
    assert stats.cluster_permutation([0.1, 0.2, 0.3], [1, 2, 3], rng=rng).p == 0.25  # all plus, all minus, of 8
    assert stats.cluster_permutation([1.0] * 10, [1] * 10, rng=rng).p == 1  # ten rows about one person prove nothing


def test_ratio_of_sums_covers_the_planted_one():
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(N_SIMULATIONS):
        documents = np.repeat(np.arange(30), 8)
        n_bytes = rng.integers(1, 9, 240)
        nats = 0.7 * n_bytes * np.exp(rng.normal(-0.02, 0.2, 30))[documents]
        found = stats.cluster_ratio(nats, n_bytes, documents, rng=rng, n_resamples=400)
        covered += found.low <= 0.7 <= found.high
    assert 0.88 <= covered / N_SIMULATIONS <= 0.99


def test_ratio_draws_fine_tunes_too_and_refuses_a_denominator_of_zero():
    rng = np.random.default_rng(9)
    documents, seeds = np.repeat(np.arange(20), 3), np.tile(np.arange(3), 20)
    nats = 1.0 + seeds + rng.normal(0, 0.01, 60)
    without = stats.cluster_ratio(nats, np.ones(60), documents, rng=rng)
    drawn = stats.cluster_ratio(nats, np.ones(60), documents, rng=rng, seeds=seeds)
    assert drawn.high - drawn.low > 10 * (without.high - without.low)
    with pytest.raises(ValueError, match="sum to zero"):
        stats.cluster_ratio([1.0, 2.0], [1.0, -1.0], ["a", "b"], rng=rng)
