"""Planted effects: a model that knows both directions shows no curse, one that knows neither is at chance."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from openai.types import Completion
from openai.types.completion_choice import CompletionChoice, Logprobs

from lib import reversal
from lib.reversal.dataset import ReversalDataset
from lib.reversal.evaluation import CONDITIONS, test_rows, training_rows

RIGHT, WRONG = -1.0, -5.0  # nats per word


class Stub:
    """An endpoint whose only model knows given prompts' answers by heart, and reads facts that stand in the prompt."""

    def __init__(self, known: dict[str, str], everything: dict[str, str], *, reads: bool) -> None:
        self.known, self.everything, self.reads = known, everything, reads
        self.models = SimpleNamespace(retrieve=lambda model: SimpleNamespace(model_dump=lambda: {"id": model}))
        self.completions = SimpleNamespace(create=self.create)

    def answer(self, prompt: str) -> str:
        if prompt in self.known:
            return self.known[prompt]
        told = [target for asked, target in self.everything.items() if prompt.endswith(" " + asked)]
        return told[0] if told and self.reads else " nobody knows"

    def create(self, *, prompt: list[str], echo: bool, **_: Any) -> Completion:
        choices = []
        for index, text in enumerate(prompt):
            choice = CompletionChoice(index=index, text=self.answer(text), finish_reason="stop")
            if echo:
                choice.text = text
                words = list(re.finditer(r"\s*\S+", text))
                right = any(text == asked + target for asked, target in self.known.items())
                scores = [None, *[(RIGHT if right else WRONG) - 0.01 * (len(text) % 17)] * (len(words) - 1)]
                tokens, places = [word[0] for word in words], [word.start() for word in words]
                told = Logprobs.model_construct(tokens=tokens, token_logprobs=scores, text_offset=places)
                choice.logprobs = told  # its first score is None, which the client's own types have no place for
            choices.append(choice)
        return Completion(id="cmpl-1", choices=choices, created=0, model="stub", object="text_completion")


@pytest.fixture(scope="module")
def data() -> ReversalDataset:
    options = reversal.ReversalOptions(n_people=8, n_train_phrasings=3, n_test_phrasings=3)
    return reversal.make_dataset(options, reversal.read_sources())


def results(data: ReversalDataset, folder: Path, *, directions: set[str], reads: bool = True) -> pd.DataFrame:
    rows = test_rows(data)
    trained = training_rows(data)
    everything = dict(zip(rows["prompt"], rows["target"], strict=True))
    known = rows[rows["direction"].isin(directions)]
    by_heart = dict(zip(known["prompt"], known["target"], strict=True))
    if directions:
        by_heart |= dict(zip(trained["prompt"], trained["target"], strict=True))
    stub: Any = Stub(by_heart, everything, reads=reads)
    finetunes = pd.DataFrame(
        [
            {
                "model": f"ft:{seed}",
                "base": "stub",
                "seed": seed,
                "epoch": 1,
                "n_epochs": 1,
                "is_final": True,
                "role": "main",
            }
            for seed in range(2)
        ]
    )
    rng = np.random.default_rng(0)
    probes = reversal.probe_rows(data, n_train_rows=5, rng=rng)
    finals = reversal.answer_rows(stub, reversal.final_models(finetunes), probes, journal=folder / "j", max_tokens=9)
    finals = reversal.add_logprobs(stub, finals, journal=folder / "j")
    return reversal.summarise(finals, preset="tiny", main_base="stub", n_weights={"stub": 1}, rng=rng)


def value(summary: pd.DataFrame, condition: str, metric: str) -> pd.Series:
    row = summary[(summary["condition"] == condition) & (summary["metric"] == metric)]
    assert len(row) == 1, f"{condition}, {metric}: {len(row)} rows"
    return row.iloc[0]


def test_a_model_that_knows_both_directions_shows_no_curse(data: ReversalDataset, tmp_path: Path) -> None:
    summary = results(data, tmp_path, directions={"same", "reverse"})
    for condition in CONDITIONS:
        if not condition.endswith("randomised") and condition != "both/same/in-context" and "same/in" not in condition:
            assert value(summary, condition, "exact_match")["value"] == 1
    for group in ("person-first", "description-first"):
        difference = value(summary, f"{group}/reverse", "logprob_difference")
        assert difference["low"] > 0
        assert value(summary, f"{group}/reverse", "permutation_p")["value"] < 0.02
    assert value(summary, "person-first/reverse", "name_rank")["value"] == 1


def test_a_cursed_model_fails_in_reverse_only_and_passes_when_it_can_read(
    data: ReversalDataset, tmp_path: Path
) -> None:
    summary = results(data, tmp_path, directions={"same"})
    for group in ("person-first", "description-first"):
        same, reverse = (value(summary, f"{group}/{asked}", "exact_match") for asked in ("same", "reverse"))
        assert (same["value"], reverse["value"]) == (1, 0)
        assert reverse["high"] < same["low"], "the intervals must part"
        assert value(summary, f"{group}/reverse/in-context", "exact_match")["value"] == 1
        assert value(summary, f"{group}/reverse", "logprob_difference")["value"] == pytest.approx(
            0, abs=4 * abs(WRONG)
        )  # names are equally long, descriptions are not


def test_a_model_that_knows_nothing_is_at_chance(data: ReversalDataset, tmp_path: Path) -> None:
    summary = results(data, tmp_path, directions=set(), reads=False)
    rates = summary[summary["metric"].str.contains("match")]
    assert set(rates["value"]) == {0}
    assert (rates["high"] > 0.05).all(), "8 people who all failed do not prove a rate of zero"
    rank = value(summary, "person-first/reverse", "name_rank")
    assert rank["value"] == pytest.approx(4.5, abs=0.3)  # of 8 names
    difference = value(summary, "person-first/reverse", "logprob_difference")
    assert not difference["low"] > 0 and not difference["high"] < 0  # noqa: PT018 (NaN bounds where nothing varies)


def test_n_counts_people_not_questions_or_seeds(data: ReversalDataset, tmp_path: Path) -> None:
    summary = results(data, tmp_path, directions={"same"})
    assert set(summary.loc[summary["metric"] == "exact_match", "n"]) == {8}
    assert set(summary.loc[summary["metric"] == "paired_t_p", "n"]) <= {24, 48}


def test_probes_cover_every_kind_of_question(data: ReversalDataset) -> None:
    probes = reversal.probe_rows(data, n_train_rows=5, rng=np.random.default_rng(0))
    counts = probes.groupby("probe").size()
    assert counts.to_dict() == {"test": 6 * 8 * 3, "in-context": 2 * 8 * 3, "train": 15}
    told = probes[probes["probe"] == "in-context"]
    plain = probes[(probes["probe"] == "test") & (probes["direction"] == "reverse")]
    for (_, fact), (_, bare) in zip(told.iterrows(), plain.iterrows(), strict=True):
        assert fact["prompt"].endswith(" " + bare["prompt"])
        assert fact["person"] in fact["prompt"].removesuffix(bare["prompt"])
    assert probes.loc[probes["probe"] == "test", "phrasing"].value_counts().to_dict() == {0: 48, 1: 48, 2: 48}
