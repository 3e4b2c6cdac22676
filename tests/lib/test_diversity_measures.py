"""Every measure against its closed form, against a plain pair-by-pair version, and under what must not change it."""

from __future__ import annotations

import gzip
import math
from string import ascii_lowercase

import numpy as np
import pandas as pd
import plain_diversity
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.diversity import failures, measure, registry
from lib.diversity.answers import holds_answer
from lib.diversity.cell import Cell, UndefinedMeasure
from lib.diversity.compression import gzip_length
from lib.diversity.measuring import FUNCTIONS
from lib.diversity.overlap import edit_distances
from lib.diversity.similarity import order_q, order_q_drawn, vendi

N = 25
WORDS = ["heron", "miller", "clock", "river", "Stone", "blue", "sings", "walked", "mouse", "snow", "the", "a", "of"]
SAME = "the grey heron waits by the river"
ORDER_BOUND = {"compression_ratio_full", "compression_ratio_target"} | {n for n in registry() if n.endswith("_drawn")}
OF_TEXTS = [name for name, each in registry().items() if each.needs in ("", "embeddings")]


def embed(texts):
    """A bag of letters: equal texts are alike, texts without a common letter at right angles."""
    return np.array([[text.lower().count(letter) for letter in ascii_lowercase] for text in texts], dtype=float)


def cells(texts_by_prompt, *, model="m", kind="creative", temperature=1.0, **more):
    rows = [
        {"model": model, "kind": kind, "prompt": prompt, "temperature": temperature, "text": text, **more}
        for prompt, texts in texts_by_prompt.items()
        for text in texts
    ]
    return pd.DataFrame(rows)


def values(texts, **options):
    told = measure(cells({"p": texts, "q": ["some other thing is told here"] * 2}), embed=embed, **options)
    return told[told["prompt"] == "p"].set_index("measure")["value"]


def random_texts(rng, n=N, longest=20):
    return [" ".join(rng.choice(WORDS, size=rng.integers(5, longest))) for _ in range(n)]


def disjoint(n=N):
    return [" ".join(f"w{k}x{j}" for j in range(6)) for k in range(n)]


def highest(known, n):
    """Greatest value that a set of n texts can have."""
    return {"n": n, "log n": math.log(n)}[known.high] if known.high in ("n", "log n") else float(known.high)


def test_the_registry_and_the_functions_are_the_same_list():
    assert set(FUNCTIONS) == {name for name, each in registry().items() if each.needs != "corpus"}
    assert sum(bool(each.published) for each in registry().values()) == 20
    for each in registry().values():
        assert each.low < highest(each, N)
        assert each.min_texts >= 1
        assert each.says
        assert (each.direction == "none") == math.isnan(each.turned(1.0))


def test_identical_texts():
    found = values([SAME] * N)
    for name in ("self_bleu", "jaccard_2", "jaccard_3", "jaccard_4", "cosine"):
        assert found[name] == pytest.approx(1), name
    for name in [name for name in found.index if name.startswith(("order_", "vendi_"))]:
        assert found[name] == pytest.approx(1), name
    assert found["edit_distance"] == 0
    assert found["distinct_texts"] == 1 / N
    assert found["distinct_1"] == pytest.approx(6 / (7 * N))
    assert found["distinct_2"] == pytest.approx(6 / (6 * N))
    assert found["ncd"] == pytest.approx((len(gzip.compress(f"{SAME} {SAME}".encode())) - _c(SAME)) / _c(SAME))
    joint = " ".join([SAME] * N)
    assert found["compression_ratio_target"] == pytest.approx(_c(SAME) / len(SAME) - _c(joint) / len(joint))
    short = " ".join([SAME] * (N - 1))
    assert found["compression_ratio_full"] == pytest.approx(_c(short) / len(short) - _c(joint) / len(joint))


def _c(text):
    return len(gzip.compress(text.encode()))


def test_disjoint_texts():
    found = values(disjoint(), n_vocabulary=6 * N)
    for name in ("self_bleu", "jaccard_2", "jaccard_3", "jaccard_4"):
        assert found[name] == 0, name
    for name in ("vendi_jaccard_2", *(f"order_{q}_jaccard_2" for q in range(2, 7))):
        assert found[name] == pytest.approx(N), name
    for name in ("edit_distance", "distinct_texts", "distinct_1", "distinct_2", "distinct_3"):
        assert found[name] == 1, name
    v = c = 6 * N
    assert found["ead"] == pytest.approx(v / (v * (1 - (1 - 1 / v) ** c)))


@pytest.mark.parametrize("size", [2, 10, 24])
def test_two_clusters(size):
    texts = [SAME] * size + ["nobody knows when snow falls"] * (N - size)
    found = values(texts)
    p = size / N
    assert found["vendi_jaccard_2"] == pytest.approx(math.exp(-p * math.log(p) - (1 - p) * math.log(1 - p)))
    for q in range(2, 7):
        assert found[f"order_{q}_jaccard_2"] == pytest.approx((p**q + (1 - p) ** q) ** (1 / (1 - q)))
    pairs = (size * (size - 1) + (N - size) * (N - size - 1)) / (N * (N - 1))
    for name in ("jaccard_2", "jaccard_3", "jaccard_4"):
        assert found[name] == pytest.approx(pairs)
    assert found["edit_distance"] == pytest.approx(1 - pairs)
    assert found["distinct_texts"] == 2 / N
    if size < 24:  # every text has its equal among the references
        assert found["self_bleu"] == pytest.approx(1)
    else:
        assert found["self_bleu"] == pytest.approx(24 / 25)


def test_two_clusters_at_right_angles_by_cosine():
    found = values(["aaa bbb"] * 10 + ["ccc ddd"] * 15)
    p = 0.4
    assert found["vendi_cosine"] == pytest.approx(math.exp(-p * math.log(p) - (1 - p) * math.log(1 - p)))
    assert found["cosine"] == pytest.approx((10 * 9 + 15 * 14) / (25 * 24))
    assert found["order_3_cosine"] == pytest.approx((p**3 + (1 - p) ** 3) ** -0.5)


def test_answers_uniform_and_point():
    accepted = ["Paris", "City of Light"]
    point = measure(cells({"p": ["It is Paris.", "paris", "City of light!"]}, accepted=accepted))
    told = point.set_index("measure")["value"]
    assert (told["accuracy"], told["answer_entropy"]) == (1, 0)
    towns = ["Paris", "Lyon", "Nice", "Brest"]
    uniform = measure(cells({"p": [f"{town}, a town" for town in towns]}, accepted=accepted))
    told = uniform.set_index("measure")["value"]
    assert told["accuracy"] == 0.25
    assert told["answer_entropy"] == pytest.approx(math.log(4))
    with pytest.raises(ValueError, match="an accepted answer is empty"):
        holds_answer("anything", [" "])


def test_creative_prompts_have_no_rows_of_accuracy():
    both = pd.concat([cells({"p": ["a b"] * 2}), cells({"f": ["Paris"] * 2}, kind="factual", accepted=["Paris"])])
    told = measure(both, measures=["accuracy", "distinct_1"])
    assert told.groupby("measure")["kind"].unique().map(list).to_dict() == {
        "accuracy": ["factual"],
        "distinct_1": ["creative", "factual"],
    }
    with pytest.raises(ValueError, match="2 different lists of accepted answers"):
        measure(cells({"p": ["a"]}, accepted=["x"]).merge(pd.DataFrame({"accepted": [["y"], ["x"]]}), how="cross",
                suffixes=("_", "")))  # fmt: skip


def test_self_repetition_counts_across_prompts_only():
    told = measure(cells({"p": [SAME, SAME], "q": [SAME + " today"], "r": ["nobody knows when snow falls"]}))
    told = told[told["measure"] == "self_repetition_4"].set_index("prompt")["value"]
    assert told.tolist() == [1, 4 / 5, 0]
    other = pd.concat([cells({"p": [SAME]}), cells({"q": [SAME]}, model="n")])
    told = measure(other, measures=["self_repetition_4"])
    assert told["value"].isna().all()
    assert set(told["failure"]) == {"no text of 4 words, or no other prompt"}


def test_every_measure_is_as_the_plain_version_has_it():
    rng = np.random.default_rng(0)
    some = random_texts(rng)
    sets = {
        "various": some,
        "repeated": [some[k] for k in rng.integers(4, size=N)],
        "short": [*random_texts(rng, 20, 7), "one", "one", "ONE", "two words", "a b c"],
        "three": random_texts(rng, 7),
        "marks": [f"Ünïcode, “{text}”\n{k % 5}!" for k, text in enumerate(random_texts(rng, 9))],
    }
    told = measure(cells(sets, accepted=["heron", "the mouse"]), embed=embed, n_vocabulary=300)
    assert (told["failure"] == "").all() or set(told.loc[told["failure"] != "", "measure"]) <= ORDER_BOUND
    for prompt, texts in sets.items():
        expected = plain_diversity.measures(texts, embed, 300) | plain_diversity.answers(texts, ["heron", "the mouse"])
        others = [text for key, more in sets.items() if key != prompt for text in more]
        expected["self_repetition_4"] = plain_diversity.self_repetition(texts, others)
        found = told[told["prompt"] == prompt].set_index("measure")["value"]
        assert set(found.index) == set(expected) == set(registry())
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-6, nan_ok=True), (prompt, name)


def test_values_lie_in_their_range():
    rng = np.random.default_rng(1)
    told = measure(cells({k: random_texts(rng, 12) for k in range(10)}, accepted=["heron"]), embed=embed)
    for row in told.dropna(subset=["value"]).to_dict("records"):
        known = registry()[row["measure"]]
        assert known.low - 1e-9 <= row["value"] <= highest(known, 12) + 1e-9, row


def test_the_order_of_texts_does_not_matter():
    rng = np.random.default_rng(2)
    texts = [*random_texts(rng, 20), *random_texts(rng, 1) * 5]
    one, other = values(texts), values([texts[k] for k in rng.permutation(N)])
    for name in [name for name in one.index if name not in ORDER_BOUND]:
        assert one[name] == pytest.approx(other[name], abs=1e-12), name


def test_drawing_everything_twice_changes_no_whole_matrix_measure():
    texts = random_texts(np.random.default_rng(3), 12)
    one, twice = values(texts), values(texts * 2)
    for name in (
        "vendi_jaccard_2",
        "vendi_cosine",
        *(f"order_{q}_{k}" for q in (2, 4, 6) for k in ("jaccard_2", "cosine")),
    ):
        assert one[name] == pytest.approx(twice[name]), name
    for name in ("distinct_1", "distinct_2", "distinct_texts"):
        assert twice[name] == pytest.approx(one[name] / 2), name
    assert twice["self_bleu"] == pytest.approx(1)


def test_draws_tend_to_the_whole_matrix():
    texts = tuple(random_texts(np.random.default_rng(4), 10))
    matrix = Cell(texts).jaccard(2)
    for q in (2, 3):
        many = np.mean([order_q_drawn(matrix, q, seed=seed, n_draws=5000) for seed in range(20)])
        assert many == pytest.approx(order_q(matrix, q), rel=0.05)
    assert order_q_drawn(matrix, 3, seed=1) == order_q_drawn(matrix, 3, seed=1)
    with pytest.raises(UndefinedMeasure, match="not more than 6 texts"):
        order_q_drawn(np.eye(6), 6)
    with pytest.raises(ValueError, match="expected an order of at least 2"):
        order_q(matrix, 1)


def test_negative_cosines_have_no_order_but_a_vendi_score():
    matrix = np.array([[1.0, -1.0], [-1.0, 1.0]])
    with pytest.raises(UndefinedMeasure, match="mean similarity is not above 0"):
        order_q(matrix, 2)
    assert vendi(matrix) == pytest.approx(1)


def test_failures_are_counted_and_short_texts_told():
    table = cells({"one": ["a heron"], "empty": ["", "a heron waits"], "none": ["", ""], "short": ["Paris"] * 3})
    told = measure(table, embed=embed)
    assert (told["value"].isna() == (told["failure"] != "")).all()
    counted = failures(told, by=("model",)).set_index(["measure", "failure"])
    assert counted.loc[("jaccard_2", "fewer than 2 texts"), "n_failed"] == 1
    assert counted.loc[("compression_ratio_target", "an empty text"), ["n_failed", "n_cells"]].tolist() == [2, 4]
    assert counted.loc[("vendi_cosine", "a text without an embedding"), "n_failed"] == 2
    assert counted.loc[("distinct_1", "no text of 1 words"), "n_failed"] == 1
    short = told[(told["prompt"] == "short") & (told["measure"] == "jaccard_2")].iloc[0]
    assert (short["value"], short["n_short"], short["n_distinct"]) == (1, 3, 1)


def test_kinds_travel_in_the_data_whatever_the_order_of_rows():
    rng = np.random.default_rng(5)
    table = pd.concat([cells({"p": random_texts(rng)}), cells({"p": [SAME] * N}, kind="factual")], ignore_index=True)
    one, other = measure(table), measure(table.sample(frac=1, random_state=0))
    keys = ["model", "kind", "prompt", "temperature", "measure"]
    both = one.merge(other, on=keys)
    both = both[~both["measure"].isin(ORDER_BOUND)]
    np.testing.assert_allclose(both["value_x"], both["value_y"], atol=1e-12)
    assert one.set_index(keys)["value"]["m", "factual", "p", 1.0, "jaccard_2"] == 1


def test_what_cannot_be_measured_is_said_in_one_line():
    table = cells({"p": ["a", "b"]})
    for wrong, told in (
        (lambda: measure(table.drop(columns="kind")), "no column kind in the completions"),
        (lambda: measure(table.iloc[:0]), "no rows in the completions"),
        (lambda: measure(table.assign(text=[None, "a"])), "1 of 2 texts are no text"),
        (lambda: measure(table, measures=["selfbleu"]), "'selfbleu' is no measure: did you mean 'self_bleu'"),
        (lambda: measure(table, measures=["cosine"]), "cosine needs embeddings: give embed="),
        (lambda: measure(table, measures=["accuracy"]), "accuracy needs answers: give a column accepted"),
        (lambda: measure(table, embed=lambda texts: np.ones((1, 3))), r"gave shape \(1, 3\) for 2 texts"),
        (lambda: measure(table, measures=["ead"], n_vocabulary=1), "n_vocabulary is 1, but the texts hold 2"),
        (lambda: measure(table.assign(accepted="Paris")), "accepted is the text 'Paris'"),
        (lambda: Cell(()), "a set of at least one text"),
    ):
        with pytest.raises(ValueError, match=told):
            wrong()


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=900), st.text("ab c", max_size=4200).map(str.encode)))
def test_short_data_are_packed_to_the_length_of_gzip(data):
    assert gzip_length(data) == len(gzip.compress(data))


@pytest.mark.parametrize("n", [249, 250, 251, 761, 762, 763, 1785, 1786, 3799, 3800, 3801, 9000])
def test_lengths_at_the_edges_of_windows_are_those_of_gzip(n):
    rng = np.random.default_rng(n)
    for data in (rng.bytes(n), b"ab" * (n // 2), bytes(rng.choice(list(b"the heron"), size=n).tolist())):
        assert gzip_length(data) == len(gzip.compress(data))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=7), min_size=1, max_size=5))
def test_edit_distances_are_those_of_the_textbook(sequences):
    found = edit_distances([np.array(each, dtype=int) for each in sequences])
    for i, one in enumerate(sequences):
        for j, other in enumerate(sequences):
            share = plain_diversity.edits(" ".join(map(str, one)), " ".join(map(str, other)))
            assert found[i, j] == pytest.approx(share * max(1, len(one), len(other)))
