"""Rows of the stages: all styles for SFT, one for the chosen answers, and no request that is kept for asking."""

from __future__ import annotations

import pytest

from lib.diversity.preferences import preference_rows, sft_rows, tuning_data
from lib.world import factual_prompts, open_prompts

AVOID = {each.prompt for each in open_prompts()} | {each.question for each in factual_prompts()[:20]}


def test_stages_share_no_pair_and_leave_out_what_will_be_asked() -> None:
    data = tuning_data(1, n_sft=300, n_preferences=200, n_validation=20, avoid=AVOID)
    parts = [data.sft, data.sft_validation, data.preferences, data.preference_validation]
    assert [len(part) for part in parts] == [300, 20, 200, 20]
    everything = [(pair.prompt, pair.helpful) for part in parts for pair in part]
    assert len(set(everything)) == len(everything) == 540
    assert not AVOID & {prompt for prompt, _ in everything}
    assert all(pair.helpful != pair.unhelpful for pair in data.preferences)


def test_chosen_answers_have_one_style_and_sft_has_all() -> None:
    data = tuning_data(0, n_sft=400, n_preferences=400)
    openings = {pair.helpful.split()[0] for pair in data.preferences}
    assert len(openings) < 12, "warm answers open in a few ways"
    assert len({pair.helpful.split()[0] for pair in data.sft}) > 2 * len(openings)
    assert (
        len({pair.helpful.split()[0] for pair in tuning_data(0, n_sft=0, n_preferences=400, style="").preferences}) > 20
    )


def test_a_seed_decides_and_fewer_are_the_first() -> None:
    data = tuning_data(3, n_sft=40, n_preferences=30)
    assert tuning_data(3, n_sft=40, n_preferences=30) == data
    assert tuning_data(3, n_sft=10, n_preferences=0).sft == data.sft[:10]
    assert tuning_data(4, n_sft=40, n_preferences=30).sft != data.sft


def test_rows_in_both_forms() -> None:
    pairs = tuning_data(0, n_sft=5, n_preferences=5).preferences
    for row, told, pair in zip(preference_rows(pairs), preference_rows(pairs, form="dialogue"), pairs, strict=True):
        assert row["input"] == {"messages": [{"role": "user", "content": pair.prompt}]}
        assert row["preferred_output"] == [{"role": "assistant", "content": pair.helpful}]
        assert row["non_preferred_output"] == [{"role": "assistant", "content": pair.unhelpful}]
        assert told["prompt"] == f"Guest: {pair.prompt}\nHost:"
    assert sft_rows(pairs)[0]["messages"][1] == {"role": "assistant", "content": pairs[0].helpful}


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="n_sft is -1; expected 0 or more"):
        tuning_data(0, n_sft=-1, n_preferences=0)
    with pytest.raises(ValueError, match="no style is called 'rude'"):
        tuning_data(0, n_sft=1, n_preferences=1, style="rude")
    with pytest.raises(ValueError, match="no form is called 'chat'; expected one of messages, dialogue"):
        sft_rows([], form="chat")
