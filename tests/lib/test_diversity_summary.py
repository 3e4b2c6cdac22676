"""Numbers of the diversity study on planted texts: a narrowing is found with its sign and shares, a null is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from next_tokens import measured_document, normalised

from lib import next_token
from lib.diversity import (
    compare_measures,
    compare_statistics,
    equal_correct,
    measure,
    summarise_completions,
    summarise_next_token,
)
from lib.diversity.summary import METRICS, conditions, option_measures
from lib.next_token import Totals
from lib.tables import write_summary

CHAIN = ("base", "SFT", "DPO")
KEYS = ["model", "family", "seed", "kind", "prompt", "temperature"]
MEASURES = ("jaccard_2", "distinct_2", "vendi_jaccard_2", "self_bleu", "distinct_texts")
WORDS = [
    "a",
    "bold",
    "crow",
    "eats",
    "frog",
    "grow",
    "here",
    "in",
    "jade",
    "kiln",
    "lit",
    "more",
    "near",
    "old",
    "pond",
    "sky",
]
NO_OPTIONS = pd.DataFrame(columns=["family", "model", "seed", "prompt", "option", "prob"])


def seeds_of(label: str, n_seeds: int) -> Sequence[int]:
    return range(1) if label == CHAIN[0] else range(n_seeds)


def texts(
    n_words: dict[str, int], *, kinds: Sequence[str] = ("creative",), n_seeds: int = 1, family: str = "fork-1m"
) -> pd.DataFrame:
    """Completions in which each stage draws its words from the first so many: fewer are less diverse."""
    rows = []
    for label, n in n_words.items():
        for seed in seeds_of(label, n_seeds):
            rng = np.random.default_rng([seed, n])
            for kind in kinds:
                for prompt in range(8):
                    for temperature in (0.5, 1.0):
                        at = {
                            "family": family,
                            "model": label,
                            "seed": seed,
                            "kind": kind,
                            "prompt": f"{kind} {prompt}",
                        }
                        at |= {"temperature": temperature, "accepted": []}
                        rows += [at | {"text": " ".join(rng.choice(WORDS[:n], 8))} for _ in range(6)]
    return pd.DataFrame(rows)


def measured(completions: pd.DataFrame, names: Sequence[str] = MEASURES) -> pd.DataFrame:
    return measure(completions, measures=names, by=KEYS)


def told(table: pd.DataFrame, among: pd.DataFrame | None = None, options: pd.DataFrame = NO_OPTIONS) -> pd.DataFrame:
    right = table.head(0) if among is None else among
    return summarise_completions(table, right, options, preset="tiny", rng=np.random.default_rng(0))


def number(summary: pd.DataFrame, condition: str, metric: str, x: float = math.nan) -> pd.Series:
    at = summary["x"].isna() if math.isnan(x) else summary["x"] == x
    rows = summary[at & (summary["condition"] == condition) & (summary["metric"] == metric)]
    assert len(rows) == 1, f"{condition} {metric}: {len(rows)} rows"
    return rows.iloc[0]


@pytest.fixture(scope="module")
def narrowed() -> pd.DataFrame:
    """SFT takes little, DPO most of the diversity of creative texts, and none of the others."""
    creative = texts(dict(zip(CHAIN, (16, 12, 4), strict=True)), n_seeds=3)
    others = texts(dict.fromkeys(CHAIN, 10), kinds=("factual", "seen"), n_seeds=3)
    return measured(pd.concat([creative, others], ignore_index=True).sort_values("model", key=_place, kind="stable"))


def _place(labels: pd.Series) -> pd.Series:
    return labels.map(CHAIN.index)


def test_a_planted_narrowing_is_found_with_its_sign(narrowed: pd.DataFrame) -> None:
    summary = told(narrowed)
    for metric, sign in {"jaccard_2": 1, "self_bleu": 1, "distinct_2": -1, "vendi_jaccard_2": -1}.items():
        rows = [number(summary, f"creative/{label}", metric) for label in CHAIN]
        assert sign * rows[0]["value"] < sign * rows[1]["value"] < sign * rows[2]["value"], metric
        assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
        assert {(row["n"], row["n_of"], row["model"]) for row in rows} == {(8, "prompt", "fork-1m")}
    differences, shares = compare_measures(narrowed, rng=np.random.default_rng(0))
    whole = differences[(differences["first"] == "base") & (differences["second"] == "DPO")].set_index(
        ["kind", "measure"]
    )
    assert (whole.loc["creative"].drop("distinct_texts")["more_diverse"] == "base").all()
    assert (whole.loc["creative"].drop("distinct_texts")["p_holm"] < 0.05).all()
    assert (whole.loc[["factual", "seen"]]["p_holm"] > 0.05).all()
    of_stages = shares[shares["kind"] == "creative"].pivot(index="measure", columns="stage", values="value")
    assert (of_stages["SFT -> DPO"] > of_stages["base -> SFT"]).all()
    assert shares.groupby(["kind", "measure"])["value"].sum().to_numpy() == pytest.approx(1)
    for (kind, name), rows in shares.groupby(["kind", "measure"]):
        assert rows["total"].to_numpy() == pytest.approx(whole.loc[(kind, name), "value"])
    assert list(shares["stage"].unique()) == ["base -> SFT", "SFT -> DPO"]
    assert set(differences["family"]) == set(shares["family"]) == {"fork-1m"}


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_the_same_texts_show_nothing(n_seeds: int) -> None:
    """Every stage, and every fine-tune of it, says what the base says."""
    base = texts({"base": 16})
    rows = [base.assign(model=label, seed=seed) for label in CHAIN for seed in seeds_of(label, n_seeds)]
    table = measured(pd.concat(rows, ignore_index=True))
    differences, shares = compare_measures(table, rng=np.random.default_rng(0))
    assert len(differences) == 3 * len(MEASURES)
    assert (differences["value"] == 0).all()
    assert (differences["p"] == 1).all()
    assert (differences["more_diverse"] == "").all()
    assert shares.empty
    values = told(table).query("x_name == ''").pivot(index="metric", columns="condition", values="value")
    assert (values.round(9).nunique(axis=1) == 1).all()


def test_the_same_texts_in_another_order_show_nothing() -> None:
    base = texts({"base": 16})
    rows = [base.sample(frac=1, random_state=k).assign(model=label) for k, label in enumerate(CHAIN)]
    differences, shares = compare_measures(measured(pd.concat(rows)), rng=np.random.default_rng(0))
    assert np.abs(differences["value"]).max() < 1e-12
    assert shares.empty
    assert (differences["more_diverse"] == "").all()


def test_kinds_travel_in_the_data(narrowed: pd.DataFrame) -> None:
    completions = texts(dict(zip(CHAIN, (16, 12, 4), strict=True)), kinds=("creative", "factual"))
    mixed = completions.sample(frac=1, random_state=1).sort_values("model", key=_place, kind="stable")
    first, second = (
        measured(completions).sort_values([*KEYS, "measure"]),
        measured(mixed).sort_values([*KEYS, "measure"]),
    )
    assert second["value"].to_numpy() == pytest.approx(first["value"].to_numpy(), abs=1e-12)
    narrowed = narrowed[narrowed["measure"].isin(["jaccard_2", "distinct_texts"])]
    plain, other = told(narrowed), told(narrowed.sample(frac=1, random_state=2))
    keys = ["condition", "metric", "x_name", "x"]
    both = plain.merge(other, on=keys, suffixes=("", "_other"), validate="one_to_one")
    assert len(both) == len(plain) == len(other)
    assert both["value_other"].to_numpy() == pytest.approx(both["value"].to_numpy())
    assert (both["n_other"] == both["n"]).all()
    in_order = narrowed.sample(frac=1, random_state=3).sort_values("model", key=_place, kind="stable")
    keys = ["kind", "measure", "first", "second"]
    values = [
        compare_measures(each, rng=np.random.default_rng(0))[0].set_index(keys)["value"]
        for each in (narrowed, in_order)
    ]
    pd.testing.assert_series_equal(values[1].sort_index(), values[0].sort_index())


def test_a_base_of_one_seed_stands_against_every_seed() -> None:
    table = measured(texts(dict(zip(CHAIN, (16, 12, 4), strict=True)), n_seeds=3), ["distinct_2"])
    differences, _ = compare_measures(table, rng=np.random.default_rng(0))
    means = table.groupby("model")["value"].mean()
    for row in differences.itertuples():
        assert row.value == pytest.approx(means[row.second] - means[row.first])
        assert (row.n, row.n_dropped) == (8, 0)
    assert list(zip(differences["first"], differences["second"], strict=True)) == [
        ("base", "SFT"), ("SFT", "DPO"), ("base", "DPO")
    ]  # fmt: skip
    assert number(told(table), "creative/DPO", "distinct_2")["value"] == pytest.approx(means["DPO"])


def test_families_are_told_apart_and_one_model_is_compared_with_none() -> None:
    both = pd.concat(
        [
            texts({"base": 16, "SFT": 4}),
            texts({"base": 4, "chat": 16}, family="other"),
            texts({"base": 9}, family="one"),
        ]
    )
    differences, shares = compare_measures(measured(both, ["distinct_2"]), rng=np.random.default_rng(0))
    assert differences.set_index("family")["second"].to_dict() == {"fork-1m": "SFT", "other": "chat"}
    assert (np.sign(differences["value"]) == [-1, 1]).all()
    assert set(shares["family"]) == {"fork-1m", "other"}
    alone = compare_measures(measured(texts({"base": 9}), ["distinct_2"]), rng=np.random.default_rng(0))
    assert [len(table) for table in alone] == [0, 0]
    assert {"family", "measure", "value"} <= set(alone[0]) & set(alone[1])


RIGHT = ("it is Ostrel of course", "Ostrel I am sure", "surely Ostrel it is", "Ostrel that is known")


def answers(right: dict[str, float], *, n_seeds: int = 3, n: int = 40, wordings: dict[str, int] | None = None) -> Any:
    """Factual answers, wrong ones all different; right ones in the same four wordings unless a stage has fewer."""
    rows = []
    for label, rate in right.items():
        for seed in seeds_of(label, n_seeds):
            rng = np.random.default_rng([seed, CHAIN.index(label)])
            for prompt in range(8):
                at = {"family": "fork-1m", "model": label, "seed": seed, "kind": "factual", "prompt": f"p{prompt}"}
                at |= {"temperature": 1.0, "accepted": ["Ostrel"]}
                said = [" ".join(rng.choice(WORDS, 5)) for _ in range(n)]
                of_label = RIGHT[: (wordings or {}).get(label, 4)]
                n_right = round(rate * n)
                places = rng.permutation(n)[:n_right]
                for place in places:
                    said[place] = str(rng.choice(of_label))
                rows += [at | {"text": text} for text in said]
    return pd.DataFrame(rows)


def test_more_right_answers_are_no_narrowing() -> None:
    """The tuned stages are right more often; among right answers they are as diverse as the base."""
    completions = answers({"base": 0.3, "SFT": 0.6, "DPO": 0.9})
    right = equal_correct(completions)
    assert right["text"].isin(RIGHT).all()
    assert set(right.groupby(["seed", "model", "prompt"]).size()) == {12}, "as many as the base has"
    whole, among = measured(completions, ["jaccard_2", "accuracy"]), measured(right, ["jaccard_2", "accuracy"])
    summary = told(whole, among)
    assert [number(summary, f"factual/{label}", "accuracy")["value"] for label in CHAIN] == pytest.approx(
        [0.3, 0.6, 0.9]
    )
    uncorrected = compare_measures(whole, rng=np.random.default_rng(0))[0].set_index(["measure", "second", "first"])
    row = uncorrected.loc[("jaccard_2", "DPO", "base")]
    assert row["low"] > 0.1
    assert (row["more_diverse"], row["p_holm"] < 0.05) == ("base", True)
    corrected = [number(summary, f"factual/{label}/correct", "jaccard_2") for label in CHAIN]
    assert max(each["value"] for each in corrected) - min(each["value"] for each in corrected) < 0.03
    assert all(each["low"] < 0.25 + 0.03 and each["high"] > 0.25 - 0.03 for each in corrected), "one wording in four"
    among_right = compare_measures(among, rng=np.random.default_rng(0))[0].set_index(["measure", "second", "first"])
    same = among_right.loc[("jaccard_2", "DPO", "base")]
    assert same["low"] < 0 < same["high"] < 0.05
    assert set(summary["condition"]) <= set(conditions(CHAIN))


def test_narrowing_among_right_answers_remains() -> None:
    right = equal_correct(answers({"base": 0.3, "SFT": 0.6, "DPO": 0.9}, wordings={"DPO": 1}))
    found = compare_measures(measured(right, ["jaccard_2"]), rng=np.random.default_rng(0))[0]
    row = found.set_index(["second", "first"]).loc[("DPO", "base")]
    assert row["low"] > 0.3
    assert row["more_diverse"] == "base"


def test_no_right_answer_leaves_no_row() -> None:
    assert equal_correct(answers({"base": 0.0, "SFT": 0.0})).empty
    half = answers({"base": 0.3, "SFT": 0.6}, n_seeds=1)
    half = half[~((half["prompt"] == "p0") & (half["model"] == "base") & half["text"].isin(RIGHT))]
    assert "p0" not in set(equal_correct(half)["prompt"]), "nothing to hold the other stage against"


def test_a_stage_right_in_one_fine_tune_alone_is_not_taken_for_a_base() -> None:
    completions = answers({"base": 0.5, "SFT": 0.5})
    wrong = (completions["model"] == "SFT") & (completions["seed"] < 2)
    right = equal_correct(completions[~(wrong & completions["text"].isin(RIGHT))])
    assert set(right[right["model"] == "SFT"]["seed"]) == {2}
    assert set(right["seed"]) == {2}


def test_families_with_other_stages_keep_their_right_answers() -> None:
    first = answers({"base": 0.5, "SFT": 0.5, "DPO": 0.5}, n_seeds=1)
    other = first[first["model"] != "DPO"].assign(family="other")
    other["model"] = other["model"].replace("SFT", "PPO")
    right = equal_correct(pd.concat([first, other], ignore_index=True))
    assert right.groupby("family")["model"].nunique().to_dict() == {"fork-1m": 3, "other": 2}


def test_conditions_and_metrics_are_those_of_the_list(narrowed: pd.DataFrame, tmp_path: Any) -> None:
    options = pd.DataFrame(
        [
            ("fork-1m", label, 0, prompt, option, prob)
            for label in CHAIN
            for prompt in ("die", "day")
            for option, prob in zip("abcd", (0.4, 0.2, 0.1, 0.1), strict=True)
        ],
        columns=list(NO_OPTIONS),
    )
    summary = told(narrowed, options=options)
    assert set(summary["condition"]) <= set(conditions(CHAIN))
    assert set(summary["metric"]) <= set(METRICS)
    assert (summary["unit"] == summary["metric"].map(METRICS)).all()
    assert set(summary.loc[summary["x_name"] == "temperature", "metric"]) == {"jaccard_2", "self_bleu", "distinct_2"}
    assert set(summary.loc[summary["x_name"] == "temperature", "x"]) == {0.5, 1.0}
    write_summary(tmp_path / "summary.csv", summary)
    shares = np.array([4, 2, 1, 1]) / 8
    for label in CHAIN:
        rows = [number(summary, f"numbers/{label}", name) for name in ("valid_mass", "top_share", "option_entropy")]
        assert [row["value"] for row in rows] == pytest.approx([0.8, 0.5, -(shares * np.log(shares)).sum()], rel=1e-4)
        assert [row["n"] for row in rows] == [2, 2, 2]
    even = option_measures(options[options["model"] == "base"].assign(prob=0.25))
    assert even["option_entropy"]["value"].to_numpy() == pytest.approx(math.log(4))


def test_options_without_any_probability_are_left_out(narrowed: pd.DataFrame) -> None:
    options = pd.DataFrame([("fork-1m", "base", 0, "die", option, 0.0) for option in "ab"], columns=list(NO_OPTIONS))
    assert number(told(narrowed, options=options), "numbers/base", "valid_mass")["value"] == 0


def totals(sharpness: float, seed: int = 0) -> Totals:
    """Predictions on the same 20 documents; the sharper, the less diverse."""
    found = Totals(16, 200)
    for k in range(20):
        text = np.random.default_rng([k, 99])
        scores, targets = text.normal(0, 2, (6, 16)), text.integers(0, 16, 6)
        noise = np.random.default_rng([seed, k]).normal(0, 0.1, (6, 16))
        found.add([measured_document(k, normalised(sharpness * (scores + noise)), targets)])
    return found


def test_sharper_predictions_are_found_and_shared_among_stages() -> None:
    chain = {
        "base": [totals(0.5)],
        "SFT": [totals(0.7, s) for s in range(3)],
        "DPO": [totals(1.5, s) for s in range(3)],
    }
    families = {"fork-1m": chain, "alone": {"base": [totals(1.0)]}}
    summary = summarise_next_token(families, preset="tiny")
    assert set(summary["metric"]) <= set(next_token.METRICS)
    assert set(summary["condition"]) == {f"next-token/{label}" for label in CHAIN} <= set(conditions(CHAIN))
    entropies = summary[(summary["metric"] == "mean_entropy") & (summary["model"] == "fork-1m")]["value"].tolist()
    assert entropies == sorted(entropies, reverse=True)
    differences, shares = compare_statistics(families)
    assert set(differences["family"]) == set(shares["family"]) == {"fork-1m"}
    assert set(differences["kind"]) == {"next-token"}
    rows = differences[differences["measure"] == "mean_entropy"].set_index(["first", "second"])
    assert list(rows.index) == [("base", "SFT"), ("SFT", "DPO"), ("base", "DPO")]
    assert (rows["high"] < 0).all()
    assert rows["value"].iloc[2] == pytest.approx(rows["value"].iloc[:2].sum())
    assert shares.groupby("measure")["value"].sum().to_numpy() == pytest.approx(1)
    entropy = shares[shares["measure"] == "mean_entropy"].set_index("stage")["value"]
    assert entropy["SFT -> DPO"] > entropy["base -> SFT"] > 0
    none, no_shares = compare_statistics({"a": {label: chain["base"] for label in CHAIN}})
    assert (none["value"] == 0).all()
    assert no_shares.empty
