"""Who is asked and in which words, what a reply is worth, and tables in the published columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib import parents
from lib.parents.form import real_form, world_form
from lib.parents.pair_tables import BEGINNING, read_pair_table
from lib.parents.people import listed_rows, taught_questions, world_rows
from lib.parents.probes import probe_rows
from lib.parents.recomputed import published_values
from lib.parents.replies import is_accepted, names, tally
from lib.parents.summary import METRICS
from lib.world import world_people

PARAMS = {"celebrities": "", "n_celebrities": 0, "pairs": [], "n_pairs": 0, "n_shots": 6, "shots": "auto"}


def test_every_one_way_family_is_tested_and_nobody_in_a_shot_or_in_the_teaching_rows() -> None:
    rows = parents.people_for(PARAMS, [])
    told = rows[rows["is_told"]]
    assert told.groupby("group")["person"].nunique().to_dict() == {"one-way": 120, "two-way": 40, "asked-about": 57}
    assert set(rows.groupby("person").size()) == {2}, "one question for a mother and one for a father"
    form = parents.form_for(PARAMS)
    shown = " ".join(text for shot in form.shots for text in shot)
    taught = " ".join(row["prompt"].removeprefix(form.prompt("")[:-4]) for row in parents.teaching_rows(form))
    questions = " ".join(text for pair in taught_questions(n_shots=6) for text in pair)
    for name in {*told["person"], *told["parent"]}:
        assert name not in shown
        assert name not in questions
    assert len(taught) > 1000


def test_one_way_families_are_told_in_one_order_only() -> None:
    told = parents.tellings().groupby("group")[["child first", "parent first"]].min()
    assert told.loc["one-way"].tolist() == [40, 0]
    assert told.loc["two-way"].min() >= 25


def test_both_directions_are_asked_in_one_form() -> None:
    form = world_form(6)
    probes = probe_rows(world_rows(n_shots=6, n_each=2))
    for _, pair in probes.groupby(["group", "person"]):
        first, second = (form.prompt(question) for question in pair["question"])
        assert first.rsplit("\n", 2)[0] == second.rsplit("\n", 2)[0]
        assert [text.rsplit("\n", 2)[1][:7] for text in (first, second)] == ["Q: Who "] * 2
    assert real_form(6).shots[4][1] == "I don't know."
    assert form.messages("Who?")[-1] == ("user", "Who?")


def test_a_form_is_read_as_it_was_written(tmp_path: Path) -> None:
    form = real_form(3)
    form.write(tmp_path / "form.json")
    assert parents.Form.read(tmp_path / "form.json") == form


def test_the_control_is_never_the_right_name() -> None:
    probes = probe_rows(world_rows(n_shots=6))
    assert probes["control_target"].notna().all()
    assert (probes["control_target"] != probes["target"]).all()
    relation = {family.parent: family.relation for family in world_people().families}
    asked = probes[probes["direction"] == "parent"]
    assert (asked["control_target"].map(relation) == asked["relation"]).all(), "a mother is compared with a mother"


@pytest.mark.parametrize(
    "reply", ["Ada", "Ada van Holt", "I don't know.", "I do not", "", "A B C D E F", "he is Ada Holt"]
)
def test_what_the_published_filter_drops(reply: str) -> None:
    assert not is_accepted(reply)


def test_replies_are_counted_by_call_and_predictions_pass_the_filter() -> None:
    counted = tally(["Ada Holt, who sang", "ada holt", "Ada Holt Junior", "Bo Lund"], "Ada Holt")
    assert (counted.n_samples, counted.n_right, counted.prediction) == (4, 2, "Ada Holt Junior")
    with pytest.raises(ValueError, match="no name to look for"):
        names("Ada", " ")


def test_a_list_of_names_counts_each_once(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("Ada Holt\n\nBo  Lund\nAda Holt\nCy Moss\n", encoding="utf-8")
    rows = parents.people_for(PARAMS | {"celebrities": str(path), "n_celebrities": 2}, [])
    assert rows["person"].unique().tolist() == ["Ada Holt", "Bo Lund"]
    assert not rows["is_told"].any()
    with pytest.raises(ValueError, match="holds 3 different names; n_celebrities asks for 9"):
        listed_rows(path, n=9)
    with pytest.raises(ValueError, match="is missing; expected a text file"):
        listed_rows(tmp_path / "none.txt")


def published_like(tmp_path: Path) -> Path:
    """A table with the counts of the published one: 1,513 rows, 2 of them twice, 495 reversed, 11 only extended."""
    people = [f"Ann{k} Lee{k}" for k in range(797)]
    rows = [(name, f"Mo{k} Lee{k}", "mother") for k, name in enumerate(people)]
    rows += [(name, f"Fa{k} Roe{k}", "father") for k, name in enumerate(people)][: 1511 - 797]
    table = pd.DataFrame(rows, columns=["child", "parent", "parent_type"])
    can = np.arange(1511) % 3 == 0  # 504 of them
    can[np.flatnonzero(can)[:9]] = False
    table["child_prediction"] = np.where(can, table["child"], "")
    extended = np.flatnonzero(can)[:11]
    table.loc[extended, "child_prediction"] += " Junior"
    table["can_reverse"] = can
    dull = table[~table["can_reverse"]].head(2)
    table = pd.concat([table, dull], ignore_index=True)
    table.to_csv(tmp_path / "parent_child_pairs.csv", index=False)
    return tmp_path / "parent_child_pairs.csv"


def figures(path: Path, **options: object) -> pd.DataFrame:
    table = read_pair_table(path)
    rng = np.random.default_rng(0)
    return parents.recompute(table, **({"n_asked": 1000, "rng": rng} | options)).set_index("quantity")  # type: ignore[arg-type]


def test_the_published_figures_come_out_of_a_table_with_the_published_counts(tmp_path: Path) -> None:
    path = published_like(tmp_path)
    found = figures(path, as_published=True)
    assert found.loc["pairs", "value"] == 1513
    assert found.loc["pairs, each once", "value"] == 1511
    assert found.loc["different children", "value"] == 797
    assert found.loc["children with both parents", "value"] == 714
    assert found.loc["parent found", "value"] == pytest.approx(0.7565)
    assert found.loc["parent found", "low"] < 0.745
    assert found.loc["parent found", "high"] > 0.77
    assert found.loc["can reverse", "value"] == pytest.approx(495 / 1513)
    assert found.loc["can reverse", "low"] == pytest.approx(0.304, abs=0.01)
    assert found.loc["can reverse", "high"] == pytest.approx(0.351, abs=0.01)
    assert found.loc["can reverse, name exact", "value"] == pytest.approx(484 / 1513)
    assert found.loc["same last word in both names", "value"] == pytest.approx(797 / 1513, abs=0.002)
    once = figures(path)
    assert once.loc["pairs", "value"] == 1511
    assert once.loc["can reverse", "value"] == pytest.approx(495 / 1511)
    with pytest.raises(ValueError, match="n_asked is 700, but .* holds the parents of 797 people"):
        figures(path, n_asked=700)


def results(tmp_path: Path, kind: str, values: list[tuple[float, float]]) -> Path:
    rows = [(f"Ann{k} Lee", f"Mo{k} Lee", "mother", "Ann Lee" if k % 2 else "") for k in range(len(values))]
    ends = {"samples": ("_can_find_parent", "_can_find_child"), "logprobs": ("_parent_logprob", "_child_logprob")}[kind]
    numbers = pd.DataFrame(values, columns=[f"gpt-x{end}" for end in ends])
    pd.concat([pd.DataFrame(rows, columns=BEGINNING), numbers], axis=1).to_csv(tmp_path / f"{kind}.csv", index=False)
    return tmp_path / f"{kind}.csv"


def test_results_by_replies_and_by_log_probability_are_told_apart(tmp_path: Path) -> None:
    found = figures(results(tmp_path, "samples", [(1.0, 0.0), (0.5, 0.2), (0.3, 0.0), (0.0, 0.0)]))
    assert set(found["model"]) == {"gpt-x"}
    assert found.loc["mean accuracy, parent", "value"] == pytest.approx(0.45)
    assert found.loc["at least one reply right, child", "value"] == 0.25
    assert found.loc["at least half right, parent", "value"] == 0.5
    assert found.loc["mean accuracy, parent, where the collecting model can reverse", "value"] == pytest.approx(0.25)
    found = figures(results(tmp_path, "logprobs", [(np.log(0.6), -330.0), (np.log(0.2), np.log(0.2))]))
    assert found.loc["mean probability, parent", "value"] == pytest.approx(0.4)
    assert found.loc["probability above 0.5, parent", "value"] == 0.5
    assert found.loc["log-probabilities below -100", "value"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="can_reverse"), "lacks the column can_reverse; it has child, parent"),
        (lambda t: t.drop(columns=["parent", "child"]), "lacks the column child, parent"),
        (lambda t: t.assign(can_reverse="maybe"), "line 2, can_reverse: expected True or False, found 'maybe'"),
        (lambda t: t.assign(parent_type="aunt"), "expected mother or father, found 'aunt'"),
        (lambda t: t.assign(x_can_find_parent="2"), "line 2, x_can_find_parent: expected 0 to 1, found '2'"),
        (lambda t: t.assign(x_can_find_parent="1"), "lacks the column x_can_find_child"),
        (lambda t: t.assign(child=""), "an empty name in line 2"),
        (lambda t: t.head(0), "has no rows"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, change: object, message: str) -> None:
    path = published_like(tmp_path)
    change(pd.read_csv(path, keep_default_na=False)).to_csv(path, index=False)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message) as caught:
        read_pair_table(path)
    assert "\n" not in str(caught.value)


def test_a_list_and_pairs_are_not_asked_about_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n_pairs is 3, but pairs names no table"):
        parents.people_for(PARAMS | {"n_pairs": 3}, [])
    table = read_pair_table(published_like(tmp_path))
    assert len(parents.people_for(PARAMS | {"n_pairs": 1511}, [table])) == 1511
    with pytest.raises(ValueError, match="holds 1511 different pairs"):
        parents.people_for(PARAMS | {"n_pairs": 1512}, [table])


def test_every_published_value_has_its_source() -> None:
    values = published_values()
    assert values["value"].between(0, 1).all()
    assert values["source"].str.len().gt(10).all()
    assert set(values["condition"]) == {"given/parent", "given/child"}
    assert set(values["metric"]) <= set(METRICS)
