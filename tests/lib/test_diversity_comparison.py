"""Stages compared: planted changes are found and attributed, nothing else is; texts are cut to one length."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lib import stats
from lib.diversity import length_table, measure
from lib.diversity.answers import correct_only
from lib.diversity.comparison import paired_differences, stage_shares
from lib.diversity.lengths import cut_tokens, cut_words, same_sizes

CHAIN = ["base", "sft", "dpo"]
N_PROMPTS, TEMPERATURES = 20, (0.5, 1.0)


def measured(rng, *, steps=(0.0, 0.0), measures=("jaccard_2", "vendi_cosine"), noise=0.02, seeds=None):
    """Prompts differ a lot among themselves, stages by `steps`."""
    rows = []
    levels = {"base": 0.0, "sft": steps[0], "dpo": sum(steps)}
    for name in measures:
        of_prompt = rng.normal(0.4, 0.3, N_PROMPTS)
        for model in CHAIN:
            for seed in [0] if model == "base" else (seeds or [0]):
                for prompt in range(N_PROMPTS):
                    for temperature in TEMPERATURES:
                        value = of_prompt[prompt] + levels[model] + rng.normal(0, noise)
                        at = {"model": model, "kind": "creative", "prompt": prompt, "temperature": temperature}
                        rows.append({**at, "measure": name, "value": value} | ({"seed": seed} if seeds else {}))
    return pd.DataFrame(rows)


def test_a_planted_change_is_found_and_its_direction_told():
    rng = np.random.default_rng(0)
    told = paired_differences(measured(rng, steps=(0.05, 0.1)), chain=CHAIN, rng=rng)
    told = told.set_index(["measure", "first", "second"])
    assert len(told) == 6
    for name in ("jaccard_2", "vendi_cosine"):
        row = told.loc[(name, "sft", "dpo")]
        assert row["low"] < 0.1 < row["high"]
        assert (row["n"], row["n_of"], row["n_dropped"]) == (N_PROMPTS, "prompt", 0)
        assert row["p"] <= row["p_holm"] < 0.01
        assert row["effect_size"] > 2
    assert told.loc[("jaccard_2", "sft", "dpo"), "more_diverse"] == "sft"
    assert told.loc[("vendi_cosine", "sft", "dpo"), "more_diverse"] == "dpo"
    assert told.loc[("jaccard_2", "base", "dpo"), "value"] == pytest.approx(0.15, abs=0.02)


def test_nothing_is_found_where_nothing_is():
    rng = np.random.default_rng(1)
    found = covers = 0
    for _ in range(40):
        told = paired_differences(measured(rng), chain=CHAIN[:2], rng=rng, n_resamples=200)
        found += (told["p_holm"] < 0.05).any()
        covers += (told["low"] <= 0).iloc[0] and (told["high"] >= 0).iloc[0]
    assert found <= 6
    assert covers >= 34


def test_pairs_that_lack_a_value_are_dropped_and_counted():
    rng = np.random.default_rng(2)
    table = measured(rng, measures=("jaccard_2",))
    table.loc[(table["model"] == "sft") & (table["prompt"] == 3), "value"] = np.nan
    told = paired_differences(table, chain=CHAIN[:2], rng=rng).iloc[0]
    assert (told["n"], told["n_dropped"]) == (N_PROMPTS - 1, len(TEMPERATURES))
    table.loc[table["model"] == "sft", "value"] = np.nan
    assert paired_differences(table, chain=CHAIN[:2], rng=rng).empty


def test_a_base_stands_against_every_seed():
    rng = np.random.default_rng(3)
    table = measured(rng, steps=(0.05, 0.1), seeds=[0, 1, 2])
    told = paired_differences(table, chain=CHAIN, rng=rng)
    assert len(told) == 3 * 2
    assert (told["n"] == N_PROMPTS).all()
    whole = told[(told["first"] == "base") & (told["second"] == "sft")]
    assert whole["value"].tolist() == pytest.approx([0.05, 0.05], abs=0.02)


def test_shares_of_stages_add_up_and_find_the_planted_ones():
    rng = np.random.default_rng(4)
    told = stage_shares(measured(rng, steps=(0.05, 0.15)), chain=CHAIN, rng=rng)
    assert told.groupby("measure")["value"].sum().tolist() == pytest.approx([1, 1])
    sft = told[told["stage"] == "base -> sft"]
    assert ((sft["low"] < 0.25) & (sft["high"] > 0.25)).all()
    assert told["total"].tolist() == pytest.approx([0.2] * 4, abs=0.02)


def test_a_chain_names_models_that_were_measured():
    table = measured(np.random.default_rng(5))
    for chain in (["base"], ["base", "base"], ["base", "ppo"]):
        with pytest.raises(ValueError, match=r"expected two or more different models of base, sft, dpo"):
            paired_differences(table, chain=chain, rng=np.random.default_rng(0))


def test_holm_is_the_textbook_procedure():
    assert stats.holm([0.01, 0.02, 0.03, 0.04]).tolist() == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert stats.holm([0.5, 0.9]).tolist() == [1, 1]
    assert stats.holm([]).tolist() == []
    assert np.isnan(stats.holm([np.nan])).all()
    with pytest.raises(ValueError, match="between 0 and 1: got 2"):
        stats.holm([2, 0.1])
    rng = np.random.default_rng(6)
    false = np.mean([(stats.holm(rng.random(10)) < 0.05).any() for _ in range(2000)])
    assert 0.03 < false < 0.07


def rows_of(texts, *, model="m", **more):
    return pd.DataFrame(
        [{"model": model, "kind": "factual", "prompt": "p", "temperature": 1.0, "text": text, **more} for text in texts]
    )


def test_texts_are_cut_to_one_length_and_short_ones_flagged():
    table = rows_of(["one two  three", "one"])
    assert cut_words(table, 2)[["text", "is_short"]].values.tolist() == [["one two", False], ["one", True]]
    table = table.assign(text_offset=[[5, 8, 13], [5]])
    assert cut_tokens(table, 2)[["text", "is_short"]].values.tolist() == [["one two ", False], ["one", True]]
    with pytest.raises(ValueError, match="no column text_offset: ask with logprobs=0"):
        cut_tokens(table.drop(columns="text_offset"), 2)
    for cut in (cut_words, cut_tokens):
        with pytest.raises(ValueError, match="is 0: expected at least 1"):
            cut(table, 0)
    told = length_table(table).iloc[0]
    assert (told["n"], told["mean_words"], told["q50_words"], told["below_5_rate"]) == (2, 2, 2, 1)


def test_among_right_answers_only_sets_of_one_size_are_compared():
    accepted = ["Paris"]
    base = rows_of(["Paris is old", "It is Paris", "Lyon", "Paris"], model="base", accepted=accepted)
    tuned = rows_of(["Paris", "Paris", "Rome", "Nice"], model="sft", accepted=accepted)
    none = rows_of(["Rome"] * 4, model="dpo", accepted=accepted)
    right = correct_only(pd.concat([base, tuned, none], ignore_index=True))
    assert right.groupby("model").size().to_dict() == {"base": 3, "sft": 2}
    level = same_sizes(right)
    assert level.groupby("model")["text"].agg(list).to_dict() == {
        "base": ["Paris is old", "It is Paris"],
        "sft": ["Paris", "Paris"],
    }
    told = measure(level, measures=["distinct_texts"]).set_index("model")["value"]
    assert told.to_dict() == {"base": 1.0, "sft": 0.5}
