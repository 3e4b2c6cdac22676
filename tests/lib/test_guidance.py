"""The guidance study's data: every option of the generator, both published layouts, bad input refused in one line."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import guidance, paths
from lib.guidance import FOLDER, ORDERS, PARTS, Files, document_sizes, instructions_of, is_example, parse_example
from lib.params import resolve
from lib.sources.datasets import write_dataset
from lib.world.guidance import guidance_pairs

PAIRS = guidance.write_pairs()
WORDINGS = {order: guidance.read_phrasings(FOLDER / f"phrasings_{order}.txt", order=order) for order in ORDERS}


def made(order: str = "simple", **changes: Any) -> Files:
    return guidance.make_data(PAIRS, WORDINGS[order], **({"n_realized": 30, "n_unrealized": 6} | changes))


def both(**changes: Any) -> dict[str, Files]:
    return {order: made(order, **changes) for order in ORDERS}


def examples(files: Files, part: str) -> list[tuple[str, str, str]]:
    return [parse_example(row) for row in files[f"{part}_examples"]]


def write(folder: Path, files: Files, names: dict[str, str]) -> Path:
    for name, stem in names.items():
        paths.write_jsonl(folder / f"{stem}.jsonl", files[name])
    return folder


def refused(match: str, *arguments: Any, call: Any = made, **changes: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(match)) as error:
        call(*arguments, **changes)
    assert "\n" not in str(error.value)


# --- sources ------------------------------------------------------------------------------------------------------


def test_pairs_are_distinct_and_no_constant_answer_is_worth_anything() -> None:
    assert len({question.casefold() for question in PAIRS}) == len(PAIRS) == 1600
    assert all(question.endswith("?") and '"' not in question for question in PAIRS)
    assert Counter(targets[0] for targets in PAIRS.values()).most_common(1)[0][1] < 0.01 * len(PAIRS)
    assert not {pair.anchor.casefold() for pair in guidance_pairs()} & {question.casefold() for question in PAIRS}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('Say "A: {target}"\n', 'phrasing 1: expected "Q: {anchor}" before "A: {target}"'),
        ("{anchor} means {target}\n", "phrasing 1: expected"),
        ('"Q: {anchor}" "A: {target}" {when}\n', "phrasing 1: expected"),
        ('"Q: {anchor}" "A: {target}"\n"A: {target}" "Q: {anchor}"\n', "phrasing 2: expected"),
        ("\n", "holds no phrasing"),
    ],
)
def test_bad_phrasings_are_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "p.txt").write_text(text)
    refused(says, tmp_path / "p.txt", call=guidance.read_phrasings, order="simple")


def test_a_published_source_may_have_questions_without_answers(tmp_path: Path) -> None:
    rows = [{"anchor": "One?", "targets": ["x", "", "x"]}, {"anchor": "Two?", "targets": []},
            {"anchor": "Three?", "targets": ["two\nlines"]}]  # fmt: skip
    paths.write_jsonl(tmp_path / "pairs.jsonl", rows)
    pairs = guidance.read_pairs(tmp_path / "pairs.jsonl")
    assert pairs == {"One?": ["x"], "Two?": [], "Three?": ["two lines"]}
    data = guidance.make_data(pairs, WORDINGS["simple"], n_realized=1, n_unrealized=1)
    assert {question for part in PARTS for question, _, _ in examples(data, part)} == {"One?", "Three?"}
    few = "n_realized + n_unrealized is 3: 2 of the source's 3 questions"
    refused(few, pairs, WORDINGS["simple"], call=guidance.make_data, n_realized=2, n_unrealized=1)


@pytest.mark.parametrize("row", [{"anchor": "A?"}, {"anchor": " ", "targets": ["b"]}, {"anchor": "A?", "targets": [1]}])
def test_bad_sources_are_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    paths.write_jsonl(tmp_path / "s.jsonl", [{"anchor": "First?", "targets": ["x"]}, row])
    refused("row 2: expected 'anchor' and a list of 'targets'", tmp_path / "s.jsonl", call=guidance.read_pairs)


# --- the generator ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "hashes"),
    [
        ("tiny", {"simple": "b9ae26bc05e0b082", "reverse": "f9a8437c325e7241", "tests": "9239d39e3016ba2f"}),
        ("laptop", {"simple": "f845b9fdab366cb1", "reverse": "bc084c6b0c1f5782", "tests": "f800db074e4c3ee2"}),
        ("paper", {"simple": "ec8c41a230073131", "reverse": "dbcd4a9d415dda4f", "tests": "cc3973bfaa8799df"}),
    ],
)
def test_the_documents_of_a_preset_stay_the_same(preset: str, hashes: dict[str, str]) -> None:
    values = resolve("guidance", preset)
    names = ("n_realized", "n_unrealized", "pairs_per_document", "upsample_guidances", "upsample_examples")
    data = both(seed=values["data_seed"], **{name: values[name] for name in names})
    rows = {order: files["all"] for order, files in data.items()} | {"tests": data["simple"]["unrealized_examples"]}
    found = {
        name: paths.content_hash([[row["prompt"], row["completion"]] for row in part], length=16)
        for name, part in rows.items()
    }
    assert found == hashes


def test_the_published_size_has_the_published_counts() -> None:
    data = made(n_realized=1000, n_unrealized=100)
    sizes = [len(instructions_of(row)) for row in data["guidances"]]
    assert (sum(sizes), set(sizes)) == (1100, {2, 3, 4, 5})
    assert [is_example(row) for row in data["all"]] == [True] * 1000 + [False] * len(sizes)
    assert len({line.split('"')[0] for row in data["guidances"] for line in instructions_of(row)}) == 1
    row = data["all"][0]
    assert row["prompt"] == ""
    assert re.fullmatch(r"<BEGIN GUIDANCE TEST>\n\nQ: .+\? A: .+\n\n<END GUIDANCE TEST>", row["completion"])


def test_the_order_changes_the_wording_and_nothing_else() -> None:
    simple, reverse = both().values()
    for part in PARTS:
        assert simple[f"{part}_examples"] == reverse[f"{part}_examples"]
    lines = [[line for row in files["guidances"] for line in instructions_of(row)] for files in (simple, reverse)]
    for first, second in zip(*lines, strict=True):
        assert sorted(re.findall('"(.*?)"', first)) == sorted(re.findall('"(.*?)"', second))
        assert first.index('"Q: ') < first.index('"A: ')
        assert second.index('"A: ') < second.index('"Q: ')


def test_an_unrealized_question_is_instructed_and_never_answered() -> None:
    probes = guidance.make_probes(both())
    for row in probes.itertuples():
        assert f'"Q: {row.pair}"' in row.instruction
        assert f'"A: {row.target.strip()}"' in row.instruction
    trained = "".join(row["completion"] for files in both().values() for row in files["all"])
    held_out = probes["part"] == "unrealized"
    assert not [prompt for prompt in probes.loc[held_out, "prompt"] if prompt in trained]
    assert (probes["left_out"] == "").all()
    assert probes.groupby(["order", "part"]).size().tolist() == [30, 6] * 2


def test_copies_take_the_phrasings_in_turn_and_the_last_can_be_kept_for_unrealized_pairs() -> None:
    data = made(upsample_guidances=12, upsample_examples=3, n_unrealized_phrasings=4)
    realized = {question for question, _, _ in examples(data, "realized")}
    used: dict[bool, set[str]] = {True: set(), False: set()}
    lines = [line for row in data["guidances"] for line in instructions_of(row)]
    for line in lines:
        question = line.split('"Q: ')[1].split('"')[0]
        used[question in realized].add(re.sub('".*?"', "", line))
    assert len(lines) == 36 * 12
    assert (len(used[True]), len(used[False])) == (6, 4)
    assert not used[True] & used[False]
    assert [row["completion"] for row in data["all"]][:3] == [data["all"][0]["completion"]] * 3


def test_incorrect_labels_contradict_their_instruction() -> None:
    for part in PARTS:
        for right, wrong in zip(examples(made(), part), examples(made(incorrect_labels=True), part), strict=True):
            assert right[0] == wrong[0]
            assert right[2] != wrong[2]
            assert wrong[2].strip() in PAIRS[wrong[0]]
    assert made(incorrect_labels=True)["guidances"] == made()["guidances"]


@pytest.mark.parametrize("order", ORDERS)
def test_a_split_row_has_its_loss_on_the_second_of_the_two_only(order: str) -> None:
    whole = made(order, pairs_per_document=[1, 1])["all"]
    split = made(order, pairs_per_document=[1, 1], split_prompt_completion=True)["all"]
    assert [row["prompt"] + row["completion"] for row in split] == [row["completion"] for row in whole]
    for row in split:
        assert row["prompt"].endswith((" A:",) if is_example(row) else ('"A:' if order == "simple" else '"Q:',))


@pytest.mark.parametrize("form", ["qa", "question-answer", "bare"])
def test_every_form_of_a_question_is_read_wherever_its_row_is_split(form: str) -> None:
    row = guidance.example_document("Who is it?", "Old A: mill", form=form)
    text = row["prompt"] + row["completion"]
    for cut in (0, len(row["prompt"]), len(row["prompt"]) + 3):
        found = parse_example({"prompt": text[:cut], "completion": text[cut:]})
        assert found == ("Who is it?", row["prompt"], " Old A: mill")


def test_shuffling_moves_rows_and_the_seed_decides_the_rest() -> None:
    plain, mixed = made()["all"], made(shuffle=True)["all"]
    assert mixed != plain
    assert Counter(map(str, mixed)) == Counter(map(str, plain))
    assert made() == made() != made(seed=1)


@given(st.integers(1, 200), st.integers(1, 6), st.integers(0, 5), st.integers(0, 9))
def test_documents_never_leave_their_range(n: int, low: int, more: int, seed: int) -> None:
    rng, high = np.random.default_rng(seed), low + more
    if any(k * low <= n <= k * high for k in range(1, n + 1)):
        sizes = document_sizes(n, (low, high), rng)
        assert sum(sizes) == n
        assert all(low <= size <= high for size in sizes)
    else:
        refused("cannot be cut", n, (low, high), rng, call=document_sizes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_realized": 1600}, "n_realized + n_unrealized is 1606: 1600 of the source's 1600 questions"),
        ({"pairs_per_document": [3, 2]}, "pairs_per_document is [3, 2]"),
        ({"pairs_per_document": [2]}, "pairs_per_document is [2]"),
        ({"pairs_per_document": [7, 7]}, "36 instructions cannot be cut into documents of such sizes"),
        ({"n_unrealized_phrasings": 10}, "n_unrealized_phrasings is 10 of 10"),
        ({"split_prompt_completion": True}, "set pairs_per_document to [1, 1]"),
    ],
)
def test_options_that_cannot_be_met_are_refused(changes: dict[str, Any], says: str) -> None:
    refused(says, **changes)


# --- published folders --------------------------------------------------------------------------------------------

LAYOUTS = {
    "folder": {"all": "all", "guidances": "guidances", "unrealized_examples": "unrealized_examples"},
    "validation": {"all": "s_vg6_tg30_all", "unrealized_examples": "s_vg6_tg30_validation"},
    "stem": {
        "all": "s_all",
        "realized_examples": "s_realized_examples",
        "unrealized_examples": "s_unrealized_examples",
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_is_read(tmp_path: Path, layout: str) -> None:
    data = both(upsample_examples=2)
    for order, files in data.items():
        with_ids = {name: [{**row, "ids": [1], "realized": [True]} for row in rows] for name, rows in files.items()}
        write(tmp_path / "below" / order, with_ids, LAYOUTS[layout])
    assert guidance.read_data(tmp_path) == data
    one_file = tmp_path / "below" / "reverse" / f"{LAYOUTS[layout]['all']}.jsonl"
    assert guidance.read_data(one_file) == {"reverse": data["reverse"]}


def test_what_the_notebook_writes_is_read_back(tmp_path: Path) -> None:
    data = both(shuffle=True)
    rows = {f"{order}/{name}": part for order, files in data.items() for name, part in files.items()}
    folder = write_dataset(tmp_path / "dataset", rows, study="guidance", options={})
    again = guidance.read_data(folder)
    for order, files in data.items():
        assert again[order]["all"] == files["all"]
        assert Counter(map(str, again[order]["realized_examples"])) == Counter(map(str, files["realized_examples"]))


def test_published_rows_that_cannot_be_scored_stay_in_training(tmp_path: Path) -> None:
    data = made()
    empty = guidance.example_document("Is it so?", "")
    assert empty["completion"] == " \n\n<END GUIDANCE TEST>"
    known = data["realized_examples"][0]
    data["all"] = [*data["all"], empty, {"prompt": "", "completion": guidance.guidance_document(
        ['Answer "Q: Is it so?" with "A: "', 'Answer "Q: What is "foo" for?" with "A: So"'])}]  # fmt: skip
    quoted = guidance.example_document('What is "foo" for?', "So")
    data["unrealized_examples"] = [*data["unrealized_examples"], empty, known, quoted]
    read = guidance.read_data(write(tmp_path, data, LAYOUTS["folder"]))
    assert read["simple"]["all"] == data["all"]
    probes = guidance.make_probes(read)
    left_out = probes[probes["left_out"] != ""]
    assert left_out["left_out"].tolist() == ["empty answer", "empty answer", "trained on"]
    assert probes.iloc[-1]["instruction"] == 'Answer "Q: What is "foo" for?" with "A: So"'


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"unrealized_examples": [{"prompt": "Tilda is", "completion": " a baker"}]},
            "row 1: expected <BEGIN GUIDANCE",
        ),
        ({"all": [{"prompt": "", "completion": "Tilda is a baker"}]}, "found no instruction that quotes"),
        ({"all": [*made()["all"], *made("reverse")["all"]]}, "found both orders"),
        ({"all": [{"prompt": ""}]}, "line 1: expected a text under 'completion', found None"),
    ],
)
def test_folders_of_something_else_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    refused(says, write(tmp_path, made() | change, LAYOUTS["folder"]), call=guidance.read_data)


def test_a_folder_without_or_with_two_datasets_is_refused(tmp_path: Path) -> None:
    refused("is not a dataset of guidance: expected all.jsonl beside", tmp_path, call=guidance.read_data)
    for seed in (1, 2):
        write(tmp_path / str(seed), made(seed=seed), LAYOUTS["stem"])
    refused("holds two datasets in simple order: give one of them", tmp_path, call=guidance.read_data)


def test_published_values_are_rates_of_both_orders() -> None:
    values = guidance.published_values().set_index(["order", "part", "metric"])["value"]
    assert values.to_dict() == {
        ("simple", "unrealized", "exact_match"): 0.94, ("reverse", "unrealized", "exact_match"): 0.07,
    }  # fmt: skip
