"""A trial of the published tuning against its pipeline of dictionaries, which copies and aligns every record anew."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
from measuring import Way, compare, speed

from lib.blending.published import prepare
from lib.blending.records import PaddedLists
from lib.blending.temperatures import Temperatures

N_RECORDS, N_IDS, VOCAB, SHARED = 6_300, 100, 50_257, 70
KEYS = ("big", "tuned", "base")
PUBLISHED = Temperatures(base=8.8268, tuned=2.2340, big=1.6695)


def made_records() -> list[dict]:
    """Lists of 100 ids that share some with big's, 9 true ids of 10 in big's list."""
    rng = np.random.default_rng(0)
    records = []
    for _ in range(N_RECORDS):
        ids = rng.choice(VOCAB, size=2 * N_IDS, replace=False)  # the first half is big's list
        own = {
            "big": ids[:N_IDS],
            "tuned": ids[N_IDS - SHARED : 2 * N_IDS - SHARED],
            "base": np.concatenate([ids[:SHARED], ids[SHARED - N_IDS :]]),
        }
        target = ids[rng.integers(N_IDS)] if rng.random() < 0.9 else ids[-1]
        record: dict = {"target": int(target)}
        for key in KEYS:
            logprobs = np.log(np.sort(rng.dirichlet(np.full(N_IDS, 0.3)) + 1e-9)[::-1] / 1.1)
            record[key] = dict(zip(own[key].tolist(), logprobs.tolist(), strict=True))
        records.append(record)
    return records


def dictionary_trial(records: list[dict], temperatures: Temperatures) -> float:
    """Perplexity of the blend, record by record: copy, align, impute, divide, add, softmax; chunks of 50."""
    found = []
    for record in records:
        each = {key: copy.deepcopy(record[key]) for key in KEYS}
        ids = sorted(each["big"])
        scaled = {"big": {token: each["big"][token] / temperatures.big for token in ids}}
        for key, temperature in (("tuned", temperatures.tuned), ("base", temperatures.base)):
            aligned = {token: each[key].get(token, math.nan) for token in ids}
            lowest = min(value for value in aligned.values() if not math.isnan(value))
            filled = {token: lowest if math.isnan(value) else value for token, value in aligned.items()}
            scaled[key] = {token: value / temperature for token, value in filled.items()}
        scores = {token: scaled["big"][token] + scaled["tuned"][token] - scaled["base"][token] for token in ids}
        powers = {token: math.exp(score) for token, score in scores.items()}
        total = sum(powers.values())
        blended = {token: math.log(power / total) for token, power in powers.items()}
        found.append(blended.get(record["target"], -30.0))
    chunks = [found[start : start + 50] for start in range(0, len(found), 50)]
    return sum(math.exp(-sum(chunk) / len(chunk)) for chunk in chunks) / len(chunks)


def lists_of(records: list[dict], key: str) -> PaddedLists:
    ids = np.array([list(record[key]) for record in records])
    logprobs = np.array([list(record[key].values()) for record in records])
    return PaddedLists(ids, logprobs, np.zeros(len(records)))


def test_a_trial_is_much_faster_and_says_the_same(report: Callable) -> None:
    records = made_records()
    big, tuned, base = (lists_of(records, key) for key in KEYS)
    prepared = prepare(big, tuned, base, [record["target"] for record in records])
    expected = dictionary_trial(records, PUBLISHED)
    assert prepared.perplexity(PUBLISHED, rounded=False) == pytest.approx(expected, rel=1e-6)
    ratio = compare(
        f"tuning trial, {N_RECORDS:,} records x {N_IDS} ids",
        lambda: speed(lambda: [prepared.perplexity(PUBLISHED) for _ in range(20)], 20 * N_RECORDS),
        Way("a dictionary a record", lambda: speed(lambda: dictionary_trial(records, PUBLISHED), N_RECORDS)),
        unit="records/s",
        n_repetitions=3,
        target=200,
    )
    report(ratio, lambda: "one exponential a listed id and six passes over memory are the whole of our trial")
