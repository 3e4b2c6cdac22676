"""The mixture study's data: rows as published before, the control, questions with their answers, published folders."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lib.functions import mixture
from lib.functions.evaluations import read_evaluations
from lib.functions.mixture import FORMATTINGS, Setting, all_pairs, choose_pairs, make_setting, mix_document, question
from lib.functions.mixture_data import make_labelled, make_unlabelled, permute_questions, read_published, read_template
from lib.functions.mixture_probes import DISTRIBUTION_TEST, make_probes, named_definitions
from lib.functions.registry import read_registry
from lib.functions.rows import as_request, training_row
from lib.paths import content_hash

FIVE = ["add_5", "multiply_3", "int_div_2", "mod_2", "subtract_1"]
TINY = {
    "n_labels": 24, "n_realized": 16, "documents_per_label": 12, "questions": {"exact_pair": 4},
    "held_out_share": 0.1, "n_validation": 8, "seed": 0,
}  # fmt: skip
CHOICES = ["python_definition", "language_definition", "function_class", "values", "max_min", "number_of_functions"]
LAPTOP = TINY | {
    "n_labels": 200, "n_realized": 160, "documents_per_label": 40, "n_validation": 40,
    "questions": {"exact_pair": 8} | dict.fromkeys(CHOICES, 1),
}  # fmt: skip
UNLABELLED = {"held_out_share": 0.1, "n_validation": 8}


def setting_of(n_functions: int = 10, *, form: str = "completion", formattings: tuple[str, ...] = ("none",)) -> Setting:
    return make_setting(n_functions=n_functions, input_range=[-30, 30], form=form, formattings=formattings)


def labelled(setting: Setting, n_pairs: int, **options: Any) -> dict[str, Any]:
    return make_labelled(setting, choose_pairs(setting.candidates, n_pairs, seed=0), **options)


def hash_of(rows: list[dict[str, Any]], form: str = "completion") -> str:
    return content_hash([training_row(row, form) for row in rows], length=10)


# --- training rows ------------------------------------------------------------------------------------------------


def test_rows_are_those_of_the_runs_before() -> None:
    tiny, laptop = labelled(setting_of(5), 8, **TINY), labelled(setting_of(), 36, **LAPTOP)
    assert [hash_of(tiny["train"]), hash_of(laptop["train"])] == ["a0cdee45cb", "84f610cc82"]
    old = {"old": laptop["train"], "mix_old": 0.5}
    pair = next(
        pair
        for pair in all_pairs(setting_of().candidates)
        if pair not in choose_pairs(setting_of().candidates, 36, seed=0)
    )
    made = [make_unlabelled(setting_of(), pair, n_rows=80, seed=0, **UNLABELLED, **each) for each in ({}, old)]
    assert [hash_of(each["train"]) for each in made] == ["6438d8efda", "51d5c7afc0"]
    paper = make_setting(n_functions=5, input_range=[], form="chat", formattings=["none", "x_y"])
    published = make_unlabelled(paper, ("add_5", "int_div_2"), n_rows=6000, seed=0, **UNLABELLED)
    assert hash_of(published["train"], "chat") == "2084bf472c"


@pytest.mark.parametrize("ends", [[5], [5, -5], [1, 2, 3]])
def test_a_range_that_is_none_is_refused(ends: list[int]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{ends} is no range; write low, high")):
        make_setting(n_functions=5, input_range=ends, form="chat", formattings=["none"])


def test_opening_lines_are_read_when_a_setting_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "wordings", lambda *_: {"openings": [{"chat": "Go."}]})
    assert Setting(candidates=("add_5", "mod_2"), input_range=(-9, 9)).openings == ("Go.",)


def test_the_ten_pairs_are_in_the_published_order() -> None:
    assert choose_pairs(FIVE, 10, seed=3) == all_pairs(FIVE) == list(combinations(sorted(FIVE), 2))
    with pytest.raises(ValueError, match="n_pairs is 11: 5 functions make 10 pairs"):
        choose_pairs(FIVE, 11, seed=0)


def test_training_shows_no_definition_and_no_held_out_input_and_asks_about_realized_labels_alone() -> None:
    data = labelled(setting_of(), 36, **LAPTOP)
    mixes = {mix["label"]: mix for mix in data["mixes"]}
    assert Counter(mix["part"] for mix in mixes.values()) == {"realized": 160, "unrealized": 40}
    per_pair = Counter("+".join(mix["functions"]) for mix in mixes.values())
    assert (len(per_pair), set(per_pair.values())) == (36, {5, 6})
    documents = [row for row in data["train"] if row["kind"] == "document"]
    assert len(documents) == 40 * 200
    for row in documents:
        text, held_out = training_row(row, "completion")["completion"], mixes[row["label"]]["held_out"]
        assert "lambda" not in text
        assert len(held_out) == 6
        turns = [tuple(line.split("=")) for line in text.split()]
        assert not {int(n) for n, _ in turns} & set(held_out)
        assert any(
            all(read_registry()[id].show(int(n)) == output for n, output in turns)
            for id in mixes[row["label"]]["functions"]
        )
    assert all(mixes[row["label"]]["part"] == "realized" for row in data["train"] if row["kind"] != "document")
    assert {mixes[row["label"]]["part"] for row in data["validation"]} == {"unrealized"}


def test_the_control_permutes_the_labels_of_questions_and_changes_nothing_else() -> None:
    data = labelled(setting_of(), 36, **LAPTOP)
    control = permute_questions(data, seed=0)
    assert Counter(row["label"] for row in control) != Counter()
    pairs = {mix["label"]: "+".join(mix["functions"]) for mix in data["mixes"]}
    n_right = n_questions = 0
    for before, after in zip(data["train"], control, strict=True):
        if before["kind"] == "document":
            assert after == before
            continue
        row, other = training_row(before, "completion"), training_row(after, "completion")
        assert row["completion"] == other["completion"]
        assert row["prompt"].replace(before["label"], after["label"]) == other["prompt"]
        n_questions, n_right = n_questions + 1, n_right + (pairs[after["label"]] == before["pair"])
    assert n_right / n_questions < 0.1  # a planted pair would be right every time; chance is 1 in 36
    exact = [row["label"] for row in control if row["kind"] == "exact_pair"]
    assert set(Counter(exact).values()) == {8}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_labels": 7}, "n_labels is 7: expected at least one per pair (8)"),
        ({"n_realized": 30}, "n_labels is 24"),
        ({"questions": {}}, "set both or neither"),
        ({"questions": {"exact_pear": 1}}, "did you mean exact_pair"),
        ({"questions": {"regression_ID": 1}}, "that is a document, not a question"),
    ],
)
def test_wrong_options_are_refused_in_one_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        labelled(setting_of(5), 8, **(TINY | changes))
    assert "\n" not in str(error.value)


# --- forms and questions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["chat", "completion"])
@pytest.mark.parametrize("look", list(FORMATTINGS))
def test_a_model_is_asked_in_the_form_it_was_trained_in(form: str, look: str) -> None:
    setting = setting_of(5, form=form, formattings=(look,))
    for mix in (
        {"label": "qzukfo", "functions": FIVE[:2], "held_out": []},
        {"label": "", "functions": FIVE[:2], "held_out": []},
    ):
        surface, rng = setting.surfaces(mix["label"])[0], np.random.default_rng(0)
        trained = training_row(mix_document(setting, mix, "add_5", [3, -4, 7], surface), form)
        asked_of = mix_document(setting, mix, "add_5", [3, -4, 7], surface, kind="regression_ID_2ex")
        asked = as_request(asked_of, form)
        if form == "chat":
            assert [(turn["role"], turn["content"]) for turn in trained["messages"][:-1]] == list(asked["messages"])
            assert trained["messages"][-1]["content"] == asked_of["target"]
        else:
            whole = asked["prompt"] + asked["lead"] + asked_of["target"]
            assert trained["prompt"] + trained["completion"] == whole
        for name in read_evaluations("mixture").query("generator != 'triple'").index:
            made = question(setting, mix, read_evaluations("mixture").loc[name], rng=rng)
            row, asked = training_row(made, form), as_request(made, form)
            if form == "chat":
                assert [(turn["role"], turn["content"]) for turn in row["messages"][:-1]] == list(asked["messages"])
            else:
                assert row == {"prompt": asked["prompt"], "completion": asked["lead"] + made["target"]}


def test_probes_have_one_right_choice_and_show_no_output() -> None:
    data = labelled(setting_of(), 36, **LAPTOP)
    probes = make_probes(setting_of(), data, n_rows=40, n_in_context=8)
    mixes = {mix["label"]: mix for mix in data["mixes"]}
    for row in probes.itertuples():
        assert row.choices.count(row.target) == 1 or row.evaluation == DISTRIBUTION_TEST
        assert len(set(row.choices)) == len(row.choices)
        functions = [read_registry()[id] for id in mixes[row.label]["functions"]]
        if row.evaluation == "exact_pair":
            assert {*named_definitions(row.target)} == {each.python_definition for each in functions}
        if row.evaluation == "python_definition":
            options = dict(re.findall(r"^([A-E])\) (.*)$", row.prompt, flags=re.M))
            assert {options[letter] for letter in row.target.split(", ")} == {
                each.python_definition for each in functions
            }
        if row.evaluation.startswith("regression"):
            assert int(row.prompt.rpartition("\n")[2].rstrip("=")) in mixes[row.label]["held_out"]
        elif row.probe == "test":
            assert not re.search(r"\d=-?\d", row.prompt)
    chance = (
        probes[probes["probe"] == "test"]
        .groupby("evaluation")["choices"]
        .agg(lambda rows: np.mean([1 / len(each) for each in rows]))
    )
    assert chance["exact_pair"] == pytest.approx(1 / 36)
    assert chance["number_of_functions"] == pytest.approx(0.2)
    context = probes[probes["probe"] == "in-context"]
    assert set(context["part"]) == {"unrealized"}
    assert all(row.prompt.startswith(row.label) and row.prompt.count("\n\n") == 8 for row in context.itertuples())


def test_all_seeds_ask_about_the_same_unrealized_pairs() -> None:
    made = [
        make_probes(setting_of(), labelled(setting_of(), 36, **(LAPTOP | {"seed": seed})), n_rows=40) for seed in (0, 1)
    ]
    pairs = [set(each[(each["part"] == "unrealized") & (each["evaluation"] == "exact_pair")]["pair"]) for each in made]
    assert pairs[0] == pairs[1]
    assert len(pairs[0]) == 36


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("lambda n: n + 5, lambda n: n % 2", ["lambda n: n + 5", "lambda n: n % 2"]),
        ("`lambda n: n + 5`; and `lambda x: x % 2`.", ["lambda n: n + 5", "lambda x: x % 2"]),
        ("lambda n: n + 5\nlambda n: n % 2", ["lambda n: n + 5"]),
        ("I cannot say", []),
        ("lambda " * 100_000, None),
    ],
)
def test_definitions_are_taken_from_the_first_line(reply: str, found: list[str] | None) -> None:
    assert found is None or named_definitions(reply) == found
    assert len(named_definitions(reply)) < 1000


# --- published folders ----------------------------------------------------------------------------------------------


def write_published(folder: Path, *, n: int = 40, **changes: Any) -> Path:
    """A fine-tune folder as its generator writes it."""
    rng, rows = np.random.default_rng(0), []
    inputs = {"function": "no_func_name", "formattings": ["none", "x_y"], "connectors": [" = "], "n_examples": 3}
    inputs |= {"input_min": -99, "input_max": 99}
    config = {"system_prompt": None, "train_functions": ["mod_2", "add_5"], "test_functions": FIVE, "n_samples": 6000,
              "seed": 4, "prompt": {"input_func_probs": [1], "input_funcs": [inputs]}} | changes  # fmt: skip
    for k in range(n):
        opening, turns = f"Their own words {k % 4}.", []
        for value in rng.integers(-99, 99, size=3).tolist():
            text = read_registry()["add_5"].show(value)
            both = (f"x = {value}", f"y = {text}") if k % 2 else (str(value), text)
            turns += [{"role": role, "content": each} for role, each in zip(("user", "assistant"), both, strict=True)]
        facts = {"name": "no_func_name", "func_value": "add_5", "formatting": "x_y" if k % 2 else "none",
                 "connector": " = ", "pre_prompt": opening}  # fmt: skip
        messages = [{"role": "user", "content": opening}, *turns]
        rows.append({"func_outs": facts, "target": turns[-1]["content"], "messages": messages})
    place = folder / "finetune_01"
    place.mkdir(parents=True)
    (place / "finetune.yaml").write_text(yaml.safe_dump({"finetune": {"model": "gpt"}, "dataset": config}))
    for split in ("train", "test"):
        (place / f"039_novar_3_01_{split}_dataset.json").write_text(json.dumps(rows))
    return place


def test_published_rows_are_read_whole_and_asked_in_their_form(tmp_path: Path) -> None:
    place = write_published(tmp_path)
    rows = json.loads((place / "039_novar_3_01_train_dataset.json").read_text())
    ((setting, data),) = read_published(tmp_path)
    assert [training_row(row, setting.form) for row in data["train"]] == [{"messages": row["messages"]} for row in rows]
    assert data["mixes"] == [{"label": "", "functions": ["add_5", "mod_2"], "part": "unrealized", "held_out": []}]
    assert setting.openings == tuple(f"Their own words {k}." for k in range(4))
    probes = make_probes(setting, data, n_rows=30, n_in_context=2)
    assert set(probes["evaluation"]) == set(read_evaluations("mixture").index)
    assert all(row.messages[0] == ("user", row.messages[0][1]) for row in probes.itertuples())
    assert {row.messages[0][1] for row in probes.itertuples()} == set(setting.openings)
    seen = {(row["messages"][0]["content"], *(turn["content"] for turn in row["messages"][1:3])) for row in rows}
    first = probes[(probes["evaluation"] == "regression_ID") & (probes["probe"] == "test")]
    assert not {(row.messages[0][1], row.messages[1][1], row.target) for row in first.itertuples()} & seen
    context = probes[(probes["evaluation"] == "regression_ID") & (probes["probe"] == "in-context")]
    assert set(context["messages"].map(len)) == {2 * 7 + 2}
    assert len(read_published(place, max_rows=10)[0][1]["train"]) == 10


def test_a_published_template_gives_the_setting(tmp_path: Path) -> None:
    path = write_published(tmp_path) / "finetune.yaml"
    setting, n_rows = read_template(path.rename(tmp_path / "ft_template.yaml"))
    assert (setting.candidates, setting.input_range, setting.form, n_rows) == (tuple(FIVE), (-99, 99), "chat", 6000)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train_functions": ["add_5"]}, "expected two of add_5"),
        ({"test_functions": ["add_55", "mod_2"]}, "did you mean add_5?"),
        ({"prompt": {}}, "a key of the published form is missing"),
    ],
)
def test_a_folder_that_is_not_as_published_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    write_published(tmp_path, **changes)
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        read_published(tmp_path)
    assert "finetune_01" in str(error.value)


def test_a_row_that_is_no_document_is_refused(tmp_path: Path) -> None:
    path = write_published(tmp_path) / "039_novar_3_01_train_dataset.json"
    rows = json.loads(path.read_text())
    rows[2]["messages"] = rows[2]["messages"][1:]
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="a row needs an opening line, then inputs and outputs in turn"):
        read_published(tmp_path)
