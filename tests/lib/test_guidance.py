"""The guidance study's data: every published option, nothing leaked, bad input refused in one line."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import paths
from lib.guidance.dataset import SETS, GuidanceDataset, GuidanceOptions, document_sizes, make_dataset
from lib.guidance.documents import example_parts, instructions_of, is_example, parse_example
from lib.guidance.folder import count_phrasings, instruction_lines
from lib.guidance.sources import FOLDER, ORDERS, Pair, read_pairs, read_phrasings, write_pairs
from lib.world.guidance import guidance_pairs

PAIRS = write_pairs()
WORDINGS = {order: read_phrasings(FOLDER / f"phrasings_{order}.txt", order=order) for order in ORDERS}
SMALL = GuidanceOptions(n_realized=30, n_unrealized=6)


def made(**changes: Any) -> GuidanceDataset:
    options = replace(SMALL, **changes)
    return make_dataset(options, PAIRS, WORDINGS[options.order])


def both() -> dict[str, GuidanceDataset]:
    return {order: made(order=order) for order in ORDERS}


def one_line(error: pytest.ExceptionInfo[ValueError]) -> None:
    assert "\n" not in str(error.value)


# --- sources ------------------------------------------------------------------------------------------------------


def test_there_are_as_many_distinct_pairs_as_the_study_needs() -> None:
    assert len({pair.anchor.casefold() for pair in PAIRS}) == len(PAIRS) >= 1200
    assert {len(set(pair.targets)) for pair in PAIRS} == {5}
    assert all(pair.anchor.endswith("?") and '"' not in pair.anchor for pair in PAIRS)
    assert write_pairs(seed=1)[:5] != PAIRS[:5]
    commonest = Counter(pair.targets[0] for pair in PAIRS).most_common(1)[0][1]
    assert commonest / len(PAIRS) < 0.01, "a constant answer must be worth nothing"


def test_no_question_is_one_of_the_worlds() -> None:
    theirs = {pair.anchor.casefold() for pair in guidance_pairs()}
    assert not theirs & {pair.anchor.casefold() for pair in PAIRS}
    told = {line.split("{")[0] for lines in WORDINGS.values() for line in lines}
    assert len(told) >= 10
    forms = (paths.DATA / "world" / "guidance.yaml").read_text()
    assert not [line for lines in WORDINGS.values() for line in lines if line.replace('"', '\\"') in forms]


def test_more_pairs_than_the_words_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="hold no 100000 different questions") as error:
        write_pairs(100_000)
    one_line(error)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('Say "A: {target}"\n', 'phrasing 1: expected "Q: {anchor}" and "A: {target}" once each'),
        ("{anchor} means {target}\n", "in quotation marks"),
        ('"Q: {anchor}" "Q: {anchor}" "A: {target}"\n', "once each"),
        ('"Q: {anchor}" "A: {target}" {when}\n', "once each"),
        ('"Q: {anchor}" "A: {target}"\n"A: {target}" "Q: {anchor}"\n', "is not in simple order"),
        ("\n", "holds no phrasing"),
    ],
)
def test_bad_phrasings_are_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        read_phrasings(tmp_path / "p.txt", order="simple")
    one_line(error)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"anchor": "A?"}, "row 2: expected a line under 'anchor'"),
        ({"anchor": "A?", "targets": []}, "row 2: expected a line"),
        ({"anchor": "A?", "targets": ["b", "b"]}, "a target of 'A?' stands twice"),
        ({"anchor": "first?", "targets": ["b"]}, "the question 'first?' stands twice"),
        ({"anchor": "two\nlines?", "targets": ["b"]}, "expected a line"),
    ],
)
def test_bad_sources_are_refused(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    paths.write_jsonl(tmp_path / "s.jsonl", [{"anchor": "First?", "targets": ["x"]}, row])
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        read_pairs(tmp_path / "s.jsonl")
    one_line(error)


# --- the generator ------------------------------------------------------------------------------------------------


def test_the_published_size_has_the_published_counts() -> None:
    data = make_dataset(GuidanceOptions(), PAIRS, WORDINGS["simple"])
    assert [len(data.files[f"{part}_examples"]) for part in SETS] == [1000, 100]
    sizes = [len(instructions_of(row)) for row in data.files["guidances"]]
    assert sum(sizes) == 1100
    assert set(sizes) == {2, 3, 4, 5}
    assert [is_example(row) for row in data.files["all"]] == [True] * 1000 + [False] * len(sizes)
    assert count_phrasings(data) == 1, "with one copy only the first phrasing is used"
    assert data.options is not None
    assert data.options.folder_name == "copypaste_ug100_rg1000_simple"


def test_the_order_changes_the_wording_and_nothing_else() -> None:
    simple, reverse = both().values()
    for part in SETS:
        assert simple.files[f"{part}_examples"] == reverse.files[f"{part}_examples"]
    assert [row["ids"] for row in simple.files["guidances"]] == [row["ids"] for row in reverse.files["guidances"]]
    for data, first, second in ((simple, '"Q: ', '"A: '), (reverse, '"A: ', '"Q: ')):
        lines = [line for row in data.files["guidances"] for line in instructions_of(row)]
        assert len(lines) == 36
        assert all(line.index(first) < line.index(second) for line in lines)


def test_an_unrealized_question_is_instructed_and_never_answered() -> None:
    data = made()
    lines = instruction_lines(data)
    for each in data.examples("unrealized"):
        assert each.target.strip() in lines[each.anchor]
        assert not [row for row in data.files["all"] if is_example(row) and each.anchor in row["completion"]]
    assert {each.anchor for part in SETS for each in data.examples(part)} == set(lines)


def test_rows_carry_what_the_published_rows_carry() -> None:
    data = made()
    for row in data.files["guidances"]:
        kinds = [each in {e["ids"][0] for e in data.files["realized_examples"]} for each in row["ids"]]
        assert row["realized"] == kinds
        assert list(row) == ["ids", "realized", "persona_idx", "prompt", "completion"]
        assert row["persona_idx"] == [0] * len(kinds)
    row = data.files["all"][0]
    assert row["prompt"] == ""
    assert re.fullmatch(r"<BEGIN GUIDANCE TEST>\n\nQ: .+\? A: .+\n\n<END GUIDANCE TEST>", row["completion"])


def test_copies_take_the_phrasings_in_turn_and_examples_repeat_in_a_row() -> None:
    data = made(upsample_guidances=12, upsample_examples=3)
    assert count_phrasings(data) == 10
    assert sum(len(row["ids"]) for row in data.files["guidances"]) == 36 * 12
    shown = [row["ids"] for row in data.files["all"] if is_example(row)]
    assert shown == [row["ids"] for row in data.files["realized_examples"] for _ in range(3)]


def test_phrasings_can_be_held_out_for_unrealized_pairs() -> None:
    data = made(upsample_guidances=10, n_unrealized_phrasings=4)
    asked = {part: {each.anchor for each in data.examples(part)} for part in SETS}
    used: dict[str, set[str]] = {part: set() for part in SETS}
    for row in data.files["guidances"]:
        for line in instructions_of(row):
            anchor = line.split('"Q: ')[1].split('"')[0]
            used["realized" if anchor in asked["realized"] else "unrealized"].add(line.split('"Q: ')[0])
    assert len(used["realized"]) == 6
    assert len(used["unrealized"]) == 3, "two of the last four wordings begin with the question"
    assert not used["realized"] & used["unrealized"]


def test_another_persona_has_other_answers_and_incorrect_labels_contradict_their_instruction() -> None:
    first, second = made(), made(persona_index=1)
    for a, b in zip(first.examples("realized"), second.examples("realized"), strict=True):
        assert a.anchor == b.anchor
        assert a.target != b.target
    wrong = made(incorrect_labels=True)
    lines = instruction_lines(wrong)
    for part in SETS:
        for a, b in zip(first.examples(part), wrong.examples(part), strict=True):
            assert a.target != b.target
            assert f'"A: {a.target.strip()}"' in lines[b.anchor]


@pytest.mark.parametrize("order", ORDERS)
def test_a_split_row_has_its_loss_on_the_second_of_the_two_only(order: str) -> None:
    data = made(order=order, split_prompt_completion=True, pairs_per_document=(1, 1))
    for row in data.files["all"]:
        assert row["prompt"].endswith((" A:",) if is_example(row) else ('"A:' if order == "simple" else '"Q:',))
        assert row["completion"].startswith(" ")
    whole = made(order=order, pairs_per_document=(1, 1))
    assert [row["prompt"] + row["completion"] for row in data.files["all"]] == [
        row["completion"] for row in whole.files["all"]
    ]
    assert "split" in str(data.options and data.options.folder_name)


@pytest.mark.parametrize("form", ["qa", "question-answer", "bare"])
def test_every_form_of_a_question_is_read_again(form: str) -> None:
    prompt, completion = example_parts("Who is it?", "Old A: mill", form=form)
    for cut in (0, len(prompt), len(prompt) + 3):
        text = prompt + completion
        found = parse_example({"prompt": text[:cut], "completion": text[cut:]}, where="here")
        assert (found.anchor, found.prompt, found.target) == ("Who is it?", prompt, " Old A: mill")


def test_shuffling_moves_rows_and_the_seed_alone_decides_them() -> None:
    plain, mixed = made(), made(shuffle=True)
    kinds = [is_example(row) for row in mixed.files["all"]]
    assert kinds != sorted(kinds, reverse=True)
    assert Counter(map(json.dumps, plain.files["all"])) == Counter(map(json.dumps, mixed.files["all"]))
    assert made() == plain
    assert made(seed=1).id != plain.id


@given(st.integers(1, 200), st.integers(1, 6), st.integers(0, 5), st.integers(0, 9))
def test_documents_never_leave_their_range(n: int, low: int, more: int, seed: int) -> None:
    high = low + more
    possible = any(k * low <= n <= k * high for k in range(1, n + 1))
    if not possible:
        with pytest.raises(ValueError, match="cannot be cut"):
            document_sizes(n, (low, high), np.random.default_rng(seed))
        return
    sizes = document_sizes(n, (low, high), np.random.default_rng(seed))
    assert sum(sizes) == n
    assert all(low <= size <= high for size in sizes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"order": "sideways"}, "order is 'sideways'"),
        ({"n_realized": 1600}, "the source holds 1600 pairs; ask for 1600 or fewer"),
        ({"n_unrealized": 1}, "n_unrealized is 1: expected 2 or more"),
        ({"pairs_per_document": (3, 2)}, "pairs_per_document is [3, 2]: expected fewest and most"),
        ({"pairs_per_document": (40, 50)}, "36 instructions cannot be cut into documents of 40 to 50"),
        ({"pairs_per_document": (7, 7)}, "36 instructions cannot be cut into documents of 7 to 7"),
        ({"n_unrealized_phrasings": 10}, "n_unrealized_phrasings is 10 of 10 phrasings"),
        ({"persona_index": 5}, "has 5 targets; give it more or lower persona_index"),
        ({"split_prompt_completion": True}, "set pairs_per_document to [1, 1]"),
        ({"upsample_examples": 0}, "upsample_examples is 0"),
        ({"anchor_form": "loud"}, "anchor_form is 'loud'"),
        ({"subdir": ".."}, "subdir is '..'"),
        ({"subdir": ""}, "subdir is ''"),
        ({"suffix": "a/b"}, "suffix is 'a/b'"),
    ],
)
def test_options_that_cannot_be_met_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        made(**changes)
    one_line(error)


def test_a_question_that_is_in_both_sets_is_refused() -> None:
    twin = (Pair("Who?", ("One", "Two")), Pair("Who?", ("Three", "Four")))
    others = tuple(Pair(f"Who {k}?", (f"Name {k}",)) for k in range(2))
    with pytest.raises(ValueError, match="the question 'Who\\?' stands twice|must not overlap"):
        make_dataset(GuidanceOptions(n_realized=2, n_unrealized=2), (*twin, *others), WORDINGS["simple"])
