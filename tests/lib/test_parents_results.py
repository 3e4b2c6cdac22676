"""Planted effects: a model that knows one direction shows the curse, one that knows both does not."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lib import parents
from lib.parents.form import world_form
from lib.parents.pair_tables import read_pair_table
from lib.parents.people import paired_rows, world_rows
from lib.parents.probes import probe_rows

RIGHT, WRONG = -0.5, -9.0  # nats per word
FORM = world_form(3)


class Stub:
    """An endpoint whose only model knows answers to given questions, and says them in some of n samples."""

    def __init__(self, known: dict[str, str], *, otherwise: str = "Nemo Nobody") -> None:
        self.known, self.otherwise, self.n_asked = known, otherwise, 0
        about = SimpleNamespace(model_dump=lambda: {"id": "stub", "n_weights": 7})
        self.models = SimpleNamespace(retrieve=lambda model: about)
        self.completions = SimpleNamespace(create=self.complete)
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.talk))

    def replies(self, question: str, n: int) -> list[str]:
        self.n_asked += 1
        right = self.known.get(question, self.otherwise)
        return [right if k == 0 else self.otherwise for k in range(n)]

    def complete(self, *, prompt: list[str], echo: bool, n: int, **_: Any) -> Any:
        choices = []
        for k, text in enumerate(prompt):
            question, _, target = text.split("Q: ")[-1].partition("\nA:")
            for sample, reply in enumerate(self.replies(question, n)):
                choice = {
                    "index": k * n + sample,
                    "text": f" {reply}\nQ: more",
                    "finish_reason": "stop",
                    "logprobs": None,
                }
                if echo:
                    choice["text"] = text
                    words = list(re.finditer(r"\s*\S+", text))
                    score = RIGHT if self.known.get(question) == target.strip() else WRONG
                    choice["logprobs"] = {
                        "tokens": [word[0] for word in words],
                        "token_logprobs": [None, *[score] * (len(words) - 1)],
                        "text_offset": [word.start() for word in words],
                    }
                choices.append(choice)
        named = [
            SimpleNamespace(**(c | {"logprobs": c["logprobs"] and SimpleNamespace(**c["logprobs"])})) for c in choices
        ]
        return SimpleNamespace(choices=named, model_dump=lambda: {"choices": choices})

    def talk(self, *, messages: list[dict[str, str]], n: int, **_: Any) -> Any:
        assert [turn["role"] for turn in messages[:2]] == ["system", "user"]
        choices = [
            {"index": k, "message": {"content": reply}, "finish_reason": "stop"}
            for k, reply in enumerate(self.replies(messages[-1]["content"], n))
        ]
        return SimpleNamespace(choices=choices, model_dump=lambda: {"choices": choices})


PEOPLE = world_rows(n_shots=3, n_each=12)
PROBES = probe_rows(PEOPLE)


def knowing(*conditions: str) -> dict[str, str]:
    rows = PROBES[PROBES["condition"].isin(conditions)]
    return dict(zip(rows["question"], rows["target"], strict=True))


def run(
    folder: Path, stub: Any, *, ways: list[str], seeds: tuple[int, ...] = (0,)
) -> tuple[pd.DataFrame, pd.DataFrame]:
    taken = {"model": "stub", "base": "stub", "role": "main", "seed": 0, "n_epochs": 0, "is_final": True}
    models = parents.asked_models(pd.DataFrame([taken]), seeds=seeds, ways=ways)
    asking = parents.Asking(form=FORM, journal=folder / "journal", n_samples=4)
    first = models.groupby("way", sort=False).head(1)
    found = parents.greedy_rows(stub, first, parents.both_questions(PEOPLE), asking)
    answers = parents.greedy_rows(stub, models, parents.all_probes(PEOPLE, found), asking)
    answers = parents.add_samples(stub, answers, asking)
    if "logprob" in ways:
        answers = parents.add_logprobs(stub, answers, asking)
    given = pd.DataFrame({"metric": []})
    settings = {"preset": "tiny", "main_base": "stub", "n_weights": {}, "given": given}
    return answers, parents.summarise(answers, found, **settings, rng=np.random.default_rng(0))  # type: ignore[arg-type]


def value(summary: pd.DataFrame, condition: str, metric: str) -> pd.Series:
    row = summary[(summary["condition"] == condition) & (summary["metric"] == metric)]
    assert len(row) == 1, f"{condition}, {metric}: {len(row)} rows"
    return row.iloc[0]


@pytest.fixture(scope="module")
def cursed(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    stub = Stub(knowing("one-way/parent", "two-way/parent", "two-way/child"))
    return run(tmp_path_factory.mktemp("cursed"), stub, ways=["completion", "chat", "logprob"], seeds=(0, 1))


@pytest.mark.parametrize("way", ["", "/chat"])
def test_a_cursed_model_names_parents_and_no_children(cursed: tuple[pd.DataFrame, pd.DataFrame], way: str) -> None:
    summary = cursed[1]
    parent, child = (value(summary, f"one-way/{asked}{way}", "exact_match") for asked in ("parent", "child"))
    assert (parent["value"], child["value"]) == (1, 0)
    assert child["high"] < parent["low"]
    for asked in ("parent", "child"):
        assert value(summary, f"two-way/{asked}{way}", "exact_match")["value"] == 1
        assert value(summary, f"two-way/{asked}{way}/randomised", "exact_match")["value"] == 0
    assert value(summary, f"two-way/child{way}", "mean_of_n")["value"] == 0.25, "one of four samples is right"
    assert value(summary, f"two-way/child{way}", "any_of_n")["value"] == 1


def test_log_probabilities_tell_the_known_direction_from_the_other(cursed: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    summary = cursed[1]
    assert value(summary, "one-way/parent", "logprob_difference")["value"] == pytest.approx(2 * (RIGHT - WRONG))
    assert value(summary, "one-way/parent", "permutation_p")["value"] < 0.01
    assert value(summary, "one-way/parent", "target_prob")["value"] == pytest.approx(np.exp(2 * RIGHT), rel=1e-5)
    assert value(summary, "one-way/child", "logprob_difference")["value"] == 0
    assert value(summary, "one-way/child", "permutation_p")["value"] == 1


def test_found_is_not_right(cursed: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    summary = cursed[1]
    assert value(summary, "one-way/parent", "found_rate")["value"] == 1, "it names somebody for every question"
    assert value(summary, "one-way/parent", "found_right_rate")["value"] == 0.5, "the world tells of one parent"
    assert value(summary, "two-way/child/collected", "reversed_rate")["value"] == 0.5


def test_a_model_that_refuses_is_found_nothing_of(tmp_path: Path) -> None:
    answers, summary = run(tmp_path, Stub({}, otherwise="I don't know."), ways=["completion"])
    assert value(summary, "one-way/parent", "found_rate")["value"] == 0
    assert not summary["metric"].isin(["found_right_rate", "reversed_rate", "target_prob"]).any()
    assert parents.published_files(answers) == {}
    with pytest.raises(ValueError, match="nobody to ask about in reverse"):
        parents.all_probes(PEOPLE.assign(is_told=False), PEOPLE.head(0))


def test_files_given_back_give_the_same_figures(cursed: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path) -> None:
    answers = cursed[0]
    files = parents.published_files(answers)
    assert list(files) == [
        "parent_child_pairs.csv",
        "stub_reversal_test_results.csv",
        "stub_logprob_reversal_test_results.csv",
    ]
    for name, table in files.items():
        parents.write_pair_table(tmp_path / name, table)
    read = [read_pair_table(tmp_path / name) for name in files]
    assert [table.kind for table in read] == ["pairs", "samples", "logprobs"]
    n_asked = PEOPLE["person"].nunique()
    rows = pd.concat([parents.recompute(table, n_asked=n_asked, rng=np.random.default_rng(0)) for table in read])
    given = rows[rows["metric"] != ""].set_index(["condition", "metric"])["value"]
    own = answers[(answers["seed"] == 0) & (answers["way"] == "completion")]
    own = own[own["condition"].str.endswith("collected")]
    child, parent = own[own["direction"] == "child"], own[own["direction"] == "parent"]
    assert given["given/child", "reversed_rate"] == pytest.approx((child["prediction"] != "").mean())
    assert given["given/parent", "found_rate"] == 1
    assert given["given/child", "mean_of_n"] == pytest.approx((child["n_right"] / child["n_samples"]).mean())
    assert given["given/parent", "any_of_n"] == (parent["n_right"] > 0).mean()
    assert given["given/parent", "target_prob"] == pytest.approx(np.exp(parent["target_logprob"]).mean())
    asked = paired_rows(read[0].rows, n=len(child))
    again = probe_rows(asked)
    assert again["question"].tolist() == pd.concat([parent, child])["question"].tolist()


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    stub = Stub(knowing("one-way/parent"))
    first = run(tmp_path, stub, ways=["completion", "chat"])[1]
    n_asked = stub.n_asked
    again = run(tmp_path, stub, ways=["completion", "chat"])[1]
    assert stub.n_asked == n_asked
    pd.testing.assert_frame_equal(first, again)


def test_a_conversation_that_fails_keeps_the_others(tmp_path: Path) -> None:
    class Breaks(Stub):
        def talk(self, **asked: Any) -> Any:
            if "Who is" in asked["messages"][-1]["content"] and self.n_asked >= 3:
                raise RuntimeError("no more")
            return super().talk(**asked)

    with pytest.raises(RuntimeError, match="no more"):
        run(tmp_path, Breaks({}), ways=["chat"])
    kept = (tmp_path / "journal").read_text().splitlines()
    assert len(kept) >= 3


def test_an_unknown_way_is_named() -> None:
    with pytest.raises(ValueError, match="expected one or more of completion, chat, logprob"):
        parents.asked_models(pd.DataFrame(), seeds=[0], ways=["mail"])


def test_only_a_model_without_the_form_is_taught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {"stub": Stub({}), "mute": Stub({}, otherwise="and so on and on")}
    rates = {
        name: parents.form_rates(stub, [name], FORM, n_questions=9, journal=tmp_path / name)[name]  # type: ignore[arg-type]
        for name, stub in shares.items()
    }
    assert rates == {"stub": 1, "mute": 0}
    made: list[Any] = []

    def finetune(client: Any, wanted: Any, **_: Any) -> pd.DataFrame:
        made.extend(wanted)
        return pd.DataFrame([{"base": each.base, "model": f"ft:{each.base}", "seed": each.seed} for each in wanted])

    monkeypatch.setattr("lib.parents.teaching.finetune", finetune)
    params = {"base": "mute", "size_bases": ["stub"], "n_seeds": 3, "tuned_model": "", "other_models": ["stub"]}
    params |= {"min_form_rate": 0.8, "n_epochs": 2, "batch_sizes": [8], "learning_rate_multipliers": [1.0]}
    params |= {"prompt_loss_weight": 0.0}
    models = parents.models_with_form(
        shares["stub"],  # type: ignore[arg-type]
        params,
        rates,
        seeds=[0, 1, 2],
        training_file=tmp_path,
    )
    assert {each.base for each in made} == {"mute"}
    assert models.groupby("role")["model"].agg(set).to_dict() == {"main": {"ft:mute"}, "size": {"stub"}}


def test_figure_tables_place_every_model(cursed: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    answers, summary = cursed
    assert parents.asked_groups(summary) == ["one-way", "two-way", "asked-about"]
    assert len(parents.group_rates(summary)) == 6
    rows = parents.model_rates(summary, group="one-way")
    assert rows["who"].iloc[0] == "stub"
    assert not rows.duplicated(["who", "asked"]).any()
    assert set(parents.published_rates()["who"]) <= set(rows["who"])
    scored = parents.logprob_rows(answers, group="one-way")
    assert scored.groupby(["direction", "whose"]).size().eq(12).all()
    assert set(parents.found_rates(summary)["rate of"]) == {"found", "right", "reversed"}


def test_a_model_that_was_only_talked_to_has_its_figures_too(tmp_path: Path) -> None:
    answers, summary = run(tmp_path, Stub(knowing("one-way/parent")), ways=["chat"])
    rates = parents.group_rates(summary).set_index(["group", "asked"])["value"]
    assert rates["one-way", "parent"] == 1
    assert rates["one-way", "child"] == 0
    assert len(parents.model_rates(summary, group="one-way").dropna()) == 2
    assert set(parents.found_rates(summary)["rate of"]) == {"found", "right", "reversed"}
    assert parents.logprob_rows(answers, group="one-way").empty
