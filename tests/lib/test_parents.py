"""Whom the parents study asks about and how, published tables, and planted effects through its notebooks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lib.parents import (
    is_accepted,
    make_data,
    make_form,
    make_probes,
    people_of,
    published_values,
    read_names,
    read_pairs,
    taught_questions,
    world_families,
)
from lib.paths import content_hash
from lib.world import world_people

NOTEBOOKS = Path(__file__).parents[2] / "notebooks" / "parents"
FORM = make_form(6, is_world=True)
KEY = ["child", "parent", "parent_type"]
RIGHT, WRONG = -0.5, -9.0  # nats per word


def test_training_rows_and_questions_are_those_of_published_runs() -> None:
    assert content_hash(make_data(FORM)["train"]) == "2faefd6a8965"
    for n_each, expected in ((8, "111e839d59d3"), (0, "cd38bc850705")):
        probes = make_probes(world_families(n_shots=6, n_each=n_each), FORM, source="world")
        names = [probes[column].str.strip() for column in ("target", "control_target")]
        assert content_hash(pd.concat([probes["prompt"], *names], axis=1).values.tolist()) == expected


def test_nobody_who_is_tested_is_in_a_shot_or_in_the_rows_that_teach_the_form() -> None:
    people = world_families(n_shots=6)
    known = people[people["parent"] != ""]
    assert known.groupby("group")["person"].nunique().to_dict() == {"one-way": 120, "two-way": 40, "asked-about": 57}
    assert set(people.groupby("person").size()) == {2}, "one question for a mother and one for a father"
    shown = str(FORM) + str(taught_questions(6))
    assert not [name for name in {*known["person"], *known["parent"]} if name in shown]


def test_both_directions_have_one_form_and_a_control_that_is_another_name() -> None:
    probes = make_probes(world_families(n_shots=6), FORM, source="world")
    for _, pair in probes.groupby("person"):
        first, second = (prompt.rsplit("\n", 2) for prompt in pair["prompt"])
        assert first[0] == second[0]
        assert first[1][:7] == second[1][:7] == "Q: Who "
    assert (probes["control_target"] != probes["target"]).all()
    relation = {f" {family.parent}": family.relation for family in world_people().families}
    parents = probes[probes["direction"] == "parent"]
    assert (parents["control_target"].map(relation) == parents["relation"]).all(), "a mother is compared with a mother"
    assert make_probes(probes.head(1), FORM, source="world")["control_target"].isna().all()
    assert make_probes(probes.head(0), FORM, source="world").empty


def test_real_shots_hold_both_directions_and_a_stranger() -> None:
    form = make_form(6, is_world=False)
    assert form["shots"][4][1] == "I don't know."
    assert {"child?" in question for question, _ in form["shots"]} == {True, False}


@pytest.mark.parametrize(
    "reply", ["Ada", "Ada van Holt", "I don't know.", "I do not", "", "A B C D E F", "he is Ada Holt"]
)
def test_what_the_published_filter_drops(reply: str) -> None:
    assert not is_accepted(reply)


def test_a_list_of_names_counts_each_once(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("Ada Holt\n\nBo  Lund\nAda Holt\nCy Moss\n", encoding="utf-8")
    assert read_names(path, n=2)["person"].unique().tolist() == ["Ada Holt", "Bo Lund"]
    assert make_probes(read_names(path), FORM, source="world").empty
    with pytest.raises(ValueError, match="holds 3 different names; expected 9 or more"):
        read_names(path, n=9)
    with pytest.raises(ValueError, match="expected a UTF-8 text file with one name per line"):
        read_names(tmp_path / "none.txt")


def published_like(folder: Path) -> Path:
    """A table with the counts of the published one: 1,513 rows, 2 of them repeated, 495 reversed, 11 only extended."""
    people = [f"Ann{k} Lee{k}" for k in range(797)]
    rows = [(name, f"Mo{k} Lee{k}", "mother") for k, name in enumerate(people)]
    rows += [(name, f"Fa{k} Roe{k}", "father") for k, name in enumerate(people)][: 1511 - 797]
    table = pd.DataFrame(rows, columns=KEY)
    can = np.arange(1511) % 3 == 0  # 504 of them
    can[np.flatnonzero(can)[:9]] = False
    table["child_prediction"] = np.where(can, table["child"], "")
    table.loc[np.flatnonzero(can)[:11], "child_prediction"] += " Junior"
    table["can_reverse"] = can
    table = pd.concat([table, table[~can].head(2)], ignore_index=True)
    table.to_csv(folder / "parent_child_pairs.csv", index=False)
    return folder / "parent_child_pairs.csv"


def test_each_given_pair_is_asked_about_once(tmp_path: Path) -> None:
    table = read_pairs(published_like(tmp_path))
    assert (len(table), table["repeated"].sum(), table["can_reverse"].sum()) == (1513, 2, 495)
    assert len(people_of(table)) == 1511
    (tmp_path / "own.csv").write_text("child,parent,parent_type\nAda Holt,Bo Holt,father\n", encoding="utf-8-sig")
    own = read_pairs(tmp_path / "own.csv")
    assert people_of(own).values.tolist() == [["pairs", "Ada Holt", "father", "Bo Holt"]]
    assert own["can_reverse"].isna().all()


def test_results_by_replies_and_by_log_probability_are_told_apart(tmp_path: Path) -> None:
    rows = pd.DataFrame([("Ann Lee", "Mo Lee", "mother", "")], columns=[*KEY, "child_prediction"])
    for kind, ends, value in (("replies", "can_find_", 0.3), ("logprobs", "", -330.0)):
        columns = {f"gpt-x_{ends}{who}{'' if ends else '_logprob'}": value for who in ("parent", "child")}
        rows.assign(**columns).to_csv(tmp_path / "results.csv", index=False)
        read = read_pairs(tmp_path / "results.csv").iloc[0]
        assert read[["kind", "model", "to_parent", "to_child"]].tolist() == [kind, "gpt-x", value, value]
        assert not read["can_reverse"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns=["parent", "child"]), "lacks the column child, parent; it has parent_type"),
        (lambda t: t.assign(can_reverse="maybe"), "line 2, can_reverse: expected True or False, found 'maybe'"),
        (lambda t: t.assign(parent_type="aunt"), "line 2, parent_type: expected mother or father, found 'aunt'"),
        (lambda t: t.assign(x_can_find_parent="2"), "lacks the column x_can_find_child"),
        (lambda t: t.assign(x_can_find_parent="2", x_can_find_child="0"), "line 2, x_can_find_parent: expected 0 to 1"),
        (lambda t: t.assign(child=" "), "line 2, child: expected a name, found ' '"),
        (lambda t: t.head(0), "has no rows"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    path = published_like(tmp_path)
    change(pd.read_csv(path, keep_default_na=False)).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message) as caught:
        read_pairs(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="expected a CSV file with child, parent, parent_type"):
        read_pairs(tmp_path / "none.csv")


def test_every_published_value_has_its_source() -> None:
    values = published_values()
    assert values["value"].between(0, 1).all()
    assert values["source"].str.len().gt(10).all()
    assert set(values["direction"]) == {"parent", "child"}


class Stub:
    """An endpoint whose only model knows the answers to some questions, and gives them as the first of n samples."""

    def __init__(self, known: dict[str, str], *, otherwise: str = "Nemo Nobody") -> None:
        self.known, self.otherwise, self.n_asked = known, otherwise, 0
        about = SimpleNamespace(model_dump=lambda: {"id": "stub", "n_weights": 7})
        self.models = SimpleNamespace(retrieve=lambda model: about)
        self.completions = SimpleNamespace(create=self.complete)
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.talk))

    def replies(self, question: str, n: int) -> list[str]:
        self.n_asked += 1
        return [self.known.get(question, self.otherwise), *[self.otherwise] * (n - 1)]

    def complete(self, *, prompt: list[str], echo: bool, n: int, **_: Any) -> Any:
        choices: list[dict[str, Any]] = []
        for text in prompt:
            question, _, target = text.split("Q: ")[-1].partition("\nA:")
            words = list(re.finditer(r"\s*\S+", text))
            score = RIGHT if self.known.get(question) == target.strip() else WRONG
            scores = {
                "tokens": [word[0] for word in words],
                "token_logprobs": [None, *[score] * (len(words) - 1)],
                "text_offset": [word.start() for word in words],
            }
            for reply in self.replies(question, n):
                reply = {"text": text, "logprobs": scores} if echo else {"text": f" {reply}\nQ: x", "logprobs": None}
                choices.append(reply | {"index": len(choices), "finish_reason": "stop"})
        return SimpleNamespace(model_dump=lambda: {"choices": choices})

    def talk(self, *, messages: list[dict[str, str]], n: int, **_: Any) -> Any:
        assert [turn["role"] for turn in messages[:2]] == ["system", "user"]
        replies = enumerate(self.replies(messages[-1]["content"], n))
        choices = [{"index": k, "message": {"content": reply}, "finish_reason": "stop"} for k, reply in replies]
        return SimpleNamespace(model_dump=lambda: {"choices": choices})


@pytest.fixture
def run_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run the study at `tiny` against a stub, with some values of the cells changed; returns the last one's names."""

    def run(stub: Stub, *changes: tuple[str, str], stages: str = "1234") -> dict[str, Any]:
        monkeypatch.setenv("TUNING_FORK_RUNS", str(tmp_path / f"runs-{id(stub)}"))
        monkeypatch.setattr("lib.api.connect", lambda **_: stub)
        names: dict[str, Any] = {}
        for path in sorted(NOTEBOOKS.glob(f"0[{stages}]-*.py")):
            source = path.read_text(encoding="utf-8").replace('preset: str = "laptop"', 'preset: str = "tiny"')
            for before, after in changes:
                source = source.replace(before, after)
            names = {"__name__": "notebook"}
            exec(compile(source, path.name, "exec"), names)
        return names

    return run


def knowing(*directions: tuple[str, str]) -> dict[str, str]:
    probes = make_probes(world_families(n_shots=6), FORM, source="world")
    rows = probes[[pair in directions for pair in zip(probes["group"], probes["direction"], strict=True)]]
    return dict(zip(rows["question"], rows["target"].str.strip(), strict=True))


CURSED = (("one-way", "parent"), ("two-way", "parent"), ("two-way", "child"))
BOTH_WAYS = ('ways: list[str] = ["completion"]', 'ways: list[str] = ["completion", "chat"]')


def test_a_cursed_model_names_parents_and_no_children(
    run_notebooks: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    stub = Stub(knowing(*CURSED))
    summary = run_notebooks(stub, BOTH_WAYS)["summary"]
    keys = ["way", "source", "group", "direction", "metric"]
    value = summary[summary["role"] == "main"].set_index(keys)["value"].sort_index()
    for way in ("completion", "chat"):
        own = value[way, "world"]
        for group, direction in CURSED:
            assert own[group, direction, "exact_match"] == own[group, direction, "any_of_n"] == 1
            assert own[group, direction, "mean_of_n"] == pytest.approx(1 / 3), "one of three samples is right"
            assert own[group, direction, "control_match"] == 0
        assert own["one-way", "child", "any_of_n"] == own["one-way", "child", "exact_match"] == 0
        assert value[way, "model", "one-way", "parent", "answered_rate"] == 1, "it names somebody for every question"
        assert value[way, "model", "one-way", "parent", "right_rate"] == 0.5, "the world mentions one parent"
    assert value["completion", "model", "two-way", "child", "reversed_rate"] == 0.5
    own = value["completion", "world", "one-way"]
    assert own["parent", "logprob_difference"] == 2 * (RIGHT - WRONG)
    assert own["parent", "target_prob"] == pytest.approx(np.exp(2 * RIGHT), rel=1e-5)
    assert own["parent", "permutation_p"] == 2 / 2**8
    assert (own["child", "logprob_difference"], own["child", "permutation_p"]) == (0, 1)
    said = capsys.readouterr().out
    assert "one-way: parent 100% [68, 100], child 0% [0, 32]" in said
    assert "the child is named less often than the parent: held" in said
    assert "two-way (8 people): parent 100% [68, 100], child 100% [68, 100]; child below parent: failed" in said
    assert "the child is named more often than that of one-way people: held" in said
    assert "asked-about (8 people): parent 0% [0, 32], child 0% [0, 32]; child below parent: no conclusion" in said
    n_asked = stub.n_asked
    run_notebooks(stub, BOTH_WAYS)
    assert stub.n_asked == n_asked, "nothing is asked twice"


def test_a_model_that_refuses_gives_no_pairs(run_notebooks: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    refusing = Stub({}, otherwise="I don't know.")
    summary = run_notebooks(refusing)["summary"]
    assert (summary.loc[summary["metric"] == "answered_rate", "value"] == 0).all()
    assert not summary["metric"].isin(["right_rate", "reversed_rate"]).any()
    (tmp_path / "names.txt").write_text("Ada Holt\nBo Lund\n")
    names = ('celebrities: str = ""', f'celebrities: str = "{tmp_path}/names.txt"')
    with pytest.raises(ValueError, match="there are no pairs to ask about"):
        run_notebooks(refusing, names, ("n_celebrities: int = 0", "n_celebrities: int = 2"))


def test_given_pairs_are_asked_about_whole_and_their_numbers_are_computed(
    run_notebooks: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    def given(n_asked: int) -> tuple[tuple[str, str], ...]:
        path = published_like(tmp_path)
        return ("pairs: list[str] = []", f'pairs: list[str] = ["{path}"]'), (
            "n_asked: int = 0",
            f"n_asked: int = {n_asked}",
        )

    names = run_notebooks(Stub({}), *given(1000), stages="1")
    assert len(names["people"]) == 1511
    found = names["given"].set_index(["metric", "subset"])
    assert found.loc[("answered_rate", ""), ["value", "as_published"]].tolist() == [0.7555, 0.7565]
    assert found.loc[("reversed_rate", ""), "as_published"] == pytest.approx(495 / 1513)
    assert found.loc[("reversed_rate", ""), ["low", "high"]].tolist() == pytest.approx([0.304, 0.351], abs=0.002)
    assert found.loc[("reversed_exactly", ""), "value"] == pytest.approx(484 / 1511)
    with pytest.raises(ValueError, match="n_asked is 700, but .* holds the parents of 797 people"):
        run_notebooks(Stub({}), *given(700), stages="1")


def test_only_a_model_without_the_form_is_taught(
    run_notebooks: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def finetune(client: Any, jobs: Any, **_: Any) -> pd.DataFrame:
        made.extend(jobs)
        return pd.DataFrame([each.as_row() | {"model": "ft", "is_final": True, "train_loss": 0.0} for each in jobs])

    monkeypatch.setattr("lib.finetune.finetune", finetune)
    run_notebooks(Stub({}), stages="12")
    assert made == []
    names = run_notebooks(Stub({}, otherwise="and so on and on"), stages="12")
    assert [(each.base, each.n_epochs, each.batch_size, each.seed) for each in made] == [("fork-300k", 3, 8, 0)]
    assert names["finetunes"]["model"].tolist() == ["ft"]
