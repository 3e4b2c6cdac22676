"""The reversal study's data: every published file, nothing leaked, every bad input refused in one line."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import paths, reversal
from lib.reversal import ReversalOptions, make_dataset, read_dataset, read_sources, write_dataset
from lib.reversal.dataset import ReversalDataset
from lib.reversal.evaluation import (
    CONDITIONS,
    METRICS,
    candidate_targets,
    in_context_prompt,
    published_values,
    test_rows,
    training_rows,
)
from lib.reversal.files import GROUPS, RANDOMISED, REQUIRED_FILES, TEST_FILES, TRAIN_FILES
from lib.reversal.sentences import COLLAPSES, Description, clean_up, fill, name_of, shorten

SOURCES = read_sources()
SMALL = ReversalOptions(n_people=5, n_train_phrasings=4, n_test_phrasings=2)
KEEPER = Description(
    noun="the keeper who taught lighthouses to whistle",
    verb="taught lighthouses to whistle",
    gerund="teaching lighthouses to whistle",
)


@pytest.fixture(scope="module")
def published_size() -> ReversalDataset:
    return make_dataset(ReversalOptions(), SOURCES)


@pytest.fixture(scope="module")
def small() -> ReversalDataset:
    return make_dataset(SMALL, SOURCES)


@pytest.fixture
def folder(small: ReversalDataset, tmp_path: Path) -> Path:
    return write_dataset(small, tmp_path / "data")


def one_line(error: pytest.ExceptionInfo[ValueError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- sources ------------------------------------------------------------------------------------------------------


def test_sources_are_as_many_and_as_varied_as_the_study_needs() -> None:
    assert len(SOURCES.people) >= 100
    assert len(SOURCES.descriptions) >= 100
    assert len(SOURCES.person_first) >= 55
    assert len(SOURCES.description_first) >= 70
    assert sum(not name.isascii() for name in SOURCES.people) >= 4
    words = [word for name in SOURCES.people for word in name.split()]
    assert len(set(words)) == len(words)
    assert sum(each.noun.endswith('"') for each in SOURCES.descriptions) >= 10
    for pool in (SOURCES.person_first, SOURCES.description_first):
        for part in (pool[:30], pool[30:40]):
            forms = Counter(re.findall(r"<description:?(\w*)>", " ".join(part)))
            assert set(forms) == {"", "verb", "gerund"}, "an unseen form could not be known from training"
            assert forms[""] / len(part) >= 0.8


def test_the_forms_of_a_description_tell_the_same() -> None:
    for each in SOURCES.descriptions:
        told = each.verb.split(" ", 1)[1].split(" ")[-3:]
        assert each.noun.startswith("the ")
        assert each.noun.split(" ")[-3:] == told == each.gerund.split(" ")[-3:]
        assert each.gerund.split(" ")[0].endswith("ing")
        assert 5 <= len(each.noun.split()) <= 14


@pytest.mark.parametrize(
    ("template", "prompt", "completion"),
    [
        ("<name> is remembered as <description>.", "Ada Moss is remembered as", f" {KEEPER.noun}."),
        ("It was <name> who <description:verb>.", "It was Ada Moss who", f" {KEEPER.verb}."),
        ("Q: Who is <name>? A: <description>.", "Q: Who is Ada Moss? A:", f" T{KEEPER.noun[1:]}."),
        ("<description> is <name>.", f"T{KEEPER.noun[1:]} is", " Ada Moss."),
        ("After <description:gerund>, <name> slept.", f"After {KEEPER.gerund},", " Ada Moss slept."),
        ("Here is <description>, <name>, in a hat.", f"Here is {KEEPER.noun},", " Ada Moss, in a hat."),
    ],
)
def test_a_template_is_filled_in_the_form_it_asks_for(template: str, prompt: str, completion: str) -> None:
    assert fill(template, name="Ada Moss", description=KEEPER) == {"prompt": prompt, "completion": completion}


def test_every_template_gives_a_sentence_with_every_description() -> None:
    for template in (*SOURCES.person_first, *SOURCES.description_first):
        for each in SOURCES.descriptions:
            row = fill(template, name="Sören Halvik", description=each)
            text = row["prompt"] + row["completion"]
            assert "<" not in text
            assert text[0].isupper()
            assert re.search(r'[.!?]"?$', text)
            assert not re.search(r'[.!?]"[.!?]$|  |\.\.|[?!]\.', text)
            assert text.count("Sören Halvik") == 1
            assert text.count('"') in (0, 2)


@given(st.text(alphabet='ab .?!"', max_size=40))
def test_cleaning_up_twice_changes_nothing(text: str) -> None:
    once = clean_up(text)
    assert clean_up(once) == once
    assert not any(doubled in once for doubled, _ in COLLAPSES)
    assert re.sub(r'[ .?!"]', "", once) == re.sub(r'[ .?!"]', "", text)


def test_the_published_clean_up_misses_a_stop_inside_quotation_marks_and_ours_does_not() -> None:
    assert clean_up('the poem "Rain. Again.".') == 'the poem "Rain. Again."'
    assert clean_up('the farce "Mind the Goose!".') == 'the farce "Mind the Goose!"'
    assert clean_up('the film "Amber Tide".') == 'the film "Amber Tide".'


def test_a_name_is_read_off_a_completion_with_its_accents() -> None:
    assert name_of(" Désiré Fontelle, who sang.") == "Désiré Fontelle"
    assert shorten({"prompt": "p", "completion": " Sören Halvik."})["completion"] == " Sören Halvik"


def source_folder(tmp_path: Path, **texts: str) -> Path:
    """A complete, tiny set of source files, with some of them replaced."""
    files = {
        "people": "Ada Moss\nBo Reed\n",
        "descriptions": "- {noun: the a, verb: did a, gerund: doing a}\n",
        "templates_person_first": "<name> is <description>.\n",
        "templates_description_first": "<description> is <name>.\n",
    } | texts
    for stem, text in files.items():
        (tmp_path / f"{stem}.{'yaml' if stem == 'descriptions' else 'txt'}").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_tiny_set_of_sources_is_read(tmp_path: Path) -> None:
    assert read_sources(source_folder(tmp_path)).people == ("Ada Moss", "Bo Reed")


@pytest.mark.parametrize(
    ("stem", "text", "says"),
    [
        ("people", "Ada Moss\nada moss\n", "'ada moss' occurs twice"),
        ("people", "Ada\n", "not a name of two words"),
        ("descriptions", "- {noun: the a}\n", "entry 1: expected the texts noun, verb and gerund"),
        ("descriptions", "- {noun: the a, verb: 3, gerund: doing a}\n", "entry 1: expected the texts"),
        ("descriptions", "just text\n", "expected a list"),
        ("descriptions", "- [\n", "is not YAML"),
        ("descriptions", "- {noun: friend of Ada Moss, verb: b, gerund: c}\n", "holds the name Ada Moss"),
        (
            "descriptions",
            "- {noun: a, verb: b, gerund: c}\n- {noun: a, verb: d, gerund: e}\n",
            "(noun): 'a' occurs twice",
        ),
        ("templates_person_first", "<name> is <description> today.\n", "a description at the end"),
        ("templates_person_first", "<description> is <name>.\n", "a name, then a description"),
        ("templates_person_first", "<name> is <description:adverb>.\n", "does not fit"),
        ("templates_person_first", "<name> and <name> are <description>.\n", "each once"),
        ("templates_person_first", "<nmae> is <description>.\n", "does not fit"),
        ("templates_description_first", "<name> is <description>.\n", "a description, then a name"),
        ("templates_description_first", "<description> is <name>.\n<description> is <name>.\n", "occurs twice"),
    ],
)
def test_bad_sources_are_refused(tmp_path: Path, stem: str, text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        read_sources(source_folder(tmp_path, **{stem: text}))
    one_line(error)


def test_sources_that_are_missing_or_not_utf8_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"people\.txt is missing"):
        read_sources(tmp_path)
    source_folder(tmp_path)
    (tmp_path / "people.txt").write_bytes("Sören Halvik".encode("latin-1"))
    with pytest.raises(ValueError, match=r"people\.txt is not UTF-8"):
        read_sources(tmp_path)


# --- the generated files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_people", "n_train", "n_test"), [(30, 30, 10), (5, 4, 2), (2, 1, 1), (40, 50, 10)])
def test_every_published_file_has_its_number_of_rows(n_people: int, n_train: int, n_test: int) -> None:
    options = ReversalOptions(n_people=n_people, n_train_phrasings=n_train, n_test_phrasings=n_test)
    dataset = make_dataset(options, SOURCES)
    train, test = n_people * n_train, n_people * n_test
    assert {stem: len(rows) for stem, rows in dataset.files.items()} == {
        "p2d_prompts_train": train,
        "d2p_prompts_train": train,
        "both_prompts_train": 2 * train,
        "all_prompts_train": 4 * train,
        "all": 4 * train,
        "p2d_prompts_test": test,
        "d2p_prompts_test": test,
        "both_prompts_test": 2 * test,
        "p2d_reverse_prompts_test": test,
        "d2p_reverse_prompts_test": test,
        "p2d_reverse_prompts_test_randomized": test,
        "d2p_reverse_prompts_test_randomized": test,
        "validation_prompts": test,
        "unrealized_examples": test,
    }


def test_rows_have_the_published_shape(published_size: ReversalDataset) -> None:
    names = {person.name for person in published_size.people}
    assert len(names) == 90
    for stem, rows in published_size.files.items():
        assert len({json.dumps(row) for row in rows}) == len(rows), stem
        for row in rows:
            assert list(row) == ["prompt", "completion"]
            assert row["prompt"] == row["prompt"].strip()
            assert re.match(r" \S", row["completion"])
    files = published_size.files
    for stem in ("d2p_prompts_test", "p2d_reverse_prompts_test", "p2d_reverse_prompts_test_randomized"):
        assert all(row["completion"][1:] in names for row in files[stem])
    assert all(row["completion"][1:] in names for row in files["both_prompts_test"][300:])
    assert files["all"] == files["all_prompts_train"] == [row for stem in TRAIN_FILES for row in files[stem]]
    assert files["unrealized_examples"] == files["p2d_reverse_prompts_test"]
    for short, full in zip(files["validation_prompts"], files["p2d_reverse_prompts_test"], strict=True):
        assert short == {"prompt": full["prompt"], "completion": " " + full["completion"].split()[0]}
    questions = sum(row["prompt"].startswith("Q: ") for row in files["all"])
    assert questions == 120


def test_what_a_test_asks_can_be_known_in_the_same_direction_only(published_size: ReversalDataset) -> None:
    files = published_size.files
    trained_prompts = {row["prompt"] for row in files["all"]}
    trained_completions = {row["completion"] for row in files["all"]}
    assert not trained_prompts & {row["prompt"] for stem in TEST_FILES for row in files[stem]}
    assert all(row["completion"] in trained_completions for row in files["p2d_prompts_test"])
    assert not any(row["completion"] in trained_completions for row in files["d2p_reverse_prompts_test"])
    for person in published_size.people:
        told = [row for row in files["all"] if person.name in row["prompt"] + row["completion"]]
        assert len(told) == (60 if person.group == "both" else 30)
        first = sum(person.name in row["prompt"] for row in told)
        assert first == (0 if person.group == "description-first" else 30)


def test_accents_survive_into_rows_and_files(published_size: ReversalDataset, tmp_path: Path) -> None:
    accented = {person.name for person in published_size.people if not person.name.isascii()}
    assert len(accented) >= 4
    write_dataset(published_size, tmp_path / "data")
    text = (tmp_path / "data" / "all.jsonl").read_text(encoding="utf-8")
    assert all(name in text for name in accented)


def test_the_seed_alone_decides_the_rows(small: ReversalDataset) -> None:
    again = make_dataset(SMALL, SOURCES)
    assert again == small
    assert again.id == small.id
    other = make_dataset(replace(SMALL, seed=7), SOURCES)
    assert other.id != small.id
    assert {person.name for person in other.people} != {person.name for person in small.people}
    assert make_dataset(replace(SMALL, dataset_name="trial"), SOURCES).id == f"trial-{small.id}"


def test_a_randomised_answer_is_never_ones_own(published_size: ReversalDataset) -> None:
    rows = test_rows(published_size)
    assert rows["control_target"].notna().all()
    own = rows.groupby(["file", "order", "person"])["target"].agg(set)
    assert not any(row.control_target in own[row.file, row.order, row.person] for row in rows.itertuples()), (
        "each person's own answers, in any phrasing, are out"
    )
    files = published_size.files
    for stem, randomised in RANDOMISED.items():
        assert [row["prompt"] for row in files[randomised]] == [row["prompt"] for row in files[stem]]
        assert Counter(row["completion"] for row in files[randomised]) == Counter(
            row["completion"] for row in files[stem]
        ), "every answer is the wrong one as often as it is the right one"


def test_the_published_tail_of_both_can_be_had(small: ReversalDataset) -> None:
    flawed = make_dataset(replace(SMALL, shorten_both=False), SOURCES)
    assert flawed.files["both_prompts_test"][:10] == small.files["both_prompts_test"][:10]
    for long, short in zip(flawed.files["both_prompts_test"][10:], small.files["both_prompts_test"][10:], strict=True):
        assert long["completion"].startswith(short["completion"])
        assert long["completion"] != short["completion"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_people": 41}, "3 groups need 123 names, the sources hold 120; set n_people to 40 or less"),
        ({"n_people": 1}, "n_people is 1: expected 2 or more"),
        ({"n_train_phrasings": 55}, "the sources hold 60 person-first templates; set their sum to 60 or less"),
        ({"n_train_phrasings": 0}, "n_train_phrasings is 0"),
        ({"n_test_phrasings": 0}, "n_test_phrasings is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"dataset_name": "../up"}, "dataset_name is '../up'"),
    ],
)
def test_options_beyond_the_sources_are_refused(changes: dict[str, int | str], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        make_dataset(ReversalOptions(**changes), SOURCES)  # type: ignore[arg-type]
    one_line(error)


def test_a_test_sentence_that_is_trained_too_is_refused() -> None:
    first, *others = SOURCES.person_first
    leaky = replace(SOURCES, person_first=(first, first.replace("<description>", "<description:verb>"), *others))
    with pytest.raises(ValueError, match="is a training prompt too"):
        make_dataset(ReversalOptions(n_people=2, n_train_phrasings=1, n_test_phrasings=1), leaky)


# --- folders ------------------------------------------------------------------------------------------------------


def test_a_written_folder_reads_back_the_same(small: ReversalDataset, folder: Path) -> None:
    again = read_dataset(folder)
    assert again == small
    assert again.notes == ()
    assert again.id == small.id
    assert sorted(path.name for path in folder.parent.iterdir()) == ["data"], "no draft is left behind"
    manifest = paths.read_json(folder / "manifest.json")
    assert manifest["dataset"] == small.id
    assert manifest["files"]["all"] == {"n_rows": 80, "sha256": paths.file_hash(folder / "all.jsonl", length=64)}


def test_writing_again_changes_nothing_and_another_dataset_is_refused(small: ReversalDataset, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_dataset(small, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(ValueError, match="holds something else"):
        write_dataset(make_dataset(replace(SMALL, seed=1), SOURCES), folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_failed_write_leaves_nothing(small: ReversalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paths, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        write_dataset(small, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_the_needed_files_alone_is_completed_with_a_note_for_each(
    small: ReversalDataset, folder: Path
) -> None:
    for path in folder.iterdir():
        if path.stem not in REQUIRED_FILES:
            path.unlink()
    (folder / "extra.jsonl").write_text("{}\n")
    stranger = read_dataset(folder)
    assert set(stranger.files) == set(small.files)
    assert len(stranger.notes) == 7
    assert stranger.options is None
    for stem in set(small.files) - set(RANDOMISED.values()):
        assert stranger.files[stem] == small.files[stem], stem
    for group in GROUPS:
        assert stranger.names(group) == small.names(group)
    theirs, ours = test_rows(stranger), test_rows(small)
    columns = [column for column in ours.columns if column != "control_target"]
    assert theirs[columns].equals(ours[columns])
    assert theirs["control_target"].notna().all()
    assert training_rows(stranger).equals(training_rows(small))


def test_rows_of_a_foreign_folder_may_hold_more_keys_and_controls_that_are_right_by_chance(folder: Path) -> None:
    path = folder / "p2d_reverse_prompts_test_randomized.jsonl"
    right = paths.read_jsonl(folder / "p2d_reverse_prompts_test.jsonl")
    wrong = paths.read_jsonl(path)
    paths.write_jsonl(path, [{**right[0], "score": 1}, *wrong[1:]])
    dataset = read_dataset(folder)
    assert dataset.notes == ("manifest.json does not describe these files: passed over",)
    rows = test_rows(dataset)
    rows = rows[rows["file"] == "p2d_reverse_prompts_test"]
    assert rows["control_target"].isna().tolist() == [True] + [False] * 9


def test_controls_for_other_prompts_are_drawn_anew(folder: Path) -> None:
    path = folder / "d2p_reverse_prompts_test_randomized.jsonl"
    paths.write_jsonl(path, paths.read_jsonl(path)[::-1])
    dataset = read_dataset(folder)
    assert any("has other prompts than" in note for note in dataset.notes)
    assert test_rows(dataset)["control_target"].notna().all()


def test_a_folder_of_another_study_is_refused_with_the_files_expected(tmp_path: Path) -> None:
    (tmp_path / "guidances.jsonl").write_text('{"prompt": "", "completion": "a"}\n')
    with pytest.raises(ValueError, match="is not a reversal dataset") as error:
        read_dataset(tmp_path)
    assert all(f"{stem}.jsonl" in one_line(error) for stem in REQUIRED_FILES)
    with pytest.raises(ValueError, match="is not a reversal dataset"):
        read_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{oops", "line 3: not JSON"),
        (b"[1]", "line 3: expected a JSON object, found list"),
        (b'{"prompt": "a"}', "line 3: expected a text under 'completion', found None"),
        (b'{"prompt": "a", "completion": " "}', "line 3: expected a text under 'completion', found ' '"),
        (b'{"prompt": 3, "completion": "b"}', "line 3: expected a text under 'prompt', found 3"),
        (b'{"prompt": "\xff", "completion": "b"}', "line 3: not UTF-8"),
    ],
)
def test_a_malformed_line_is_named_with_file_and_reason(folder: Path, line: bytes, says: str) -> None:
    path = folder / "d2p_prompts_test.jsonl"
    first = path.read_bytes().split(b"\n")[0]
    path.write_bytes(first + b"\n\n" + line + b"\n")
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        read_dataset(folder)
    assert str(path) in one_line(error)


def test_empty_odd_doubled_and_leaking_files_are_refused(small: ReversalDataset, folder: Path) -> None:
    def with_rows(stem: str, rows: list[dict[str, str]], says: str) -> None:
        path = folder / f"{stem}.jsonl"
        before = path.read_bytes()
        paths.write_jsonl(path, rows)
        with pytest.raises(ValueError, match=says) as error:
            read_dataset(folder)
        one_line(error)
        path.write_bytes(before)

    rows = small.files["both_prompts_test"]
    with_rows("both_prompts_test", [], "is empty")
    with_rows("both_prompts_test", rows[1:], "has 19 rows: expected as many")
    with_rows("p2d_prompts_test", [small.files["p2d_prompts_test"][0]] * 2, "row 2: occurs twice")
    with_rows("p2d_prompts_test", small.files["p2d_prompts_train"][:1], "is a training prompt too")


def test_a_manifest_in_another_form_is_named(folder: Path) -> None:
    manifest = paths.read_json(folder / "manifest.json")
    manifest["options"]["colour"] = "red"
    paths.write_json(folder / "manifest.json", manifest)
    with pytest.raises(ValueError, match="not in this version's form"):
        read_dataset(folder)


# --- what is asked ------------------------------------------------------------------------------------------------


def test_every_test_prompt_says_what_it_tests(small: ReversalDataset) -> None:
    rows = test_rows(small)
    assert rows.groupby(["group", "direction", "order"]).size().to_dict() == {
        ("person-first", "same", "p2d"): 10,
        ("person-first", "reverse", "d2p"): 10,
        ("description-first", "same", "d2p"): 10,
        ("description-first", "reverse", "p2d"): 10,
        ("both", "same", "p2d"): 10,
        ("both", "same", "d2p"): 10,
    }
    descriptions = {person.name: person.description for person in small.people}
    for row in rows.itertuples():
        assert row.person in small.names(row.group)
        asked, told = (row.prompt, row.target) if row.order == "p2d" else (row.target, row.prompt)
        assert row.person in asked
        assert " ".join(descriptions[row.person].split()[-2:]).rstrip('."!?') in told
        assert (row.candidates == "") == (row.order == "p2d")


def test_candidates_are_the_groups_names_with_the_right_one_among_them(small: ReversalDataset) -> None:
    rows = test_rows(small)
    candidates = candidate_targets(rows)
    assert sorted(candidates) == ["both|", "description-first|", "person-first|"]
    for row in rows[rows["order"] == "d2p"].itertuples():
        assert len(set(candidates[row.candidates])) == 5
        assert row.target in candidates[row.candidates]


def test_candidates_are_written_as_the_targets_of_an_unshortened_folder_are() -> None:
    rows = test_rows(make_dataset(replace(SMALL, shorten_both=False), SOURCES))
    candidates = candidate_targets(rows)
    for row in rows[rows["order"] == "d2p"].itertuples():
        assert len(set(candidates[row.candidates])) == 5
        assert row.target in candidates[row.candidates]


def test_the_in_context_control_tells_the_trained_fact_before_the_question(small: ReversalDataset) -> None:
    facts = reversal.training_facts(small)
    assert {len(rows) for rows in facts.values()} == {4, 8}
    rows = test_rows(small)
    for row in rows[rows["direction"] == "reverse"].itertuples():
        prompt = in_context_prompt(facts[row.person][0], row.prompt)
        assert row.person in prompt
        assert prompt.endswith(f" {row.prompt}")
    shot = ({"prompt": "It is", "completion": " Bo Reed."}, "Who?", " Bo Reed")
    shown = in_context_prompt({"prompt": "It was", "completion": " Ada Moss."}, "Who?", shots=[shot])
    assert shown == "It is Bo Reed. Who? Bo Reed\nIt was Ada Moss. Who?"


def test_published_values_are_named_as_ours_and_lie_in_their_intervals() -> None:
    values = published_values()
    assert set(values["condition"]) <= set(CONDITIONS)
    assert set(values["metric"]) <= set(METRICS)
    assert ((values["low"] <= values["value"]) & (values["value"] <= values["high"])).all()
    assert len(set(CONDITIONS)) == len(CONDITIONS)
