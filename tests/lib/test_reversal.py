"""The reversal study's data: rows that stay as they are, nothing leaked, published folders, bad input in one line."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.paths import content_hash, folder_hash, write_jsonl
from lib.reversal import (
    COLLAPSES,
    FILES,
    GROUPS,
    clean_up,
    fill,
    make_data,
    make_probes,
    name_of,
    published_values,
    read_data,
    read_sources,
    reverse_template,
    wrong_targets,
)
from lib.sources.datasets import write_dataset

SOURCES = read_sources()
SMALL = {"n_people": 5, "n_train_phrasings": 4, "n_test_phrasings": 2}
KEEPER = {
    "noun": "the keeper who taught lighthouses to whistle",
    "verb": "taught lighthouses to whistle",
    "gerund": "teaching lighthouses to whistle",
}
CONDITIONS = ["group", "direction", "order"]


@pytest.fixture(scope="module")
def published_size():
    return make_data(SOURCES)


@pytest.fixture(scope="module")
def small():
    return make_data(SOURCES, **SMALL)


@pytest.fixture
def folder(small, tmp_path) -> Path:
    return write_dataset(tmp_path / "data", small, study="reversal", options={})


def test_a_dataset_takes_the_place_of_an_older_one(small, tmp_path):
    rows = next(iter(small.values()))
    folder = write_dataset(tmp_path / "data", {"train": rows, "odd.test": rows}, study="reversal", options={"seed": 1})
    before = folder_hash(folder)
    write_dataset(folder, small, study="reversal", options={})
    names = {f"{name}.jsonl" for name in small} | {"manifest.json"}
    assert {path.name for path in folder.iterdir()} == names
    write_dataset(folder, {"train": rows, "odd.test": rows}, study="reversal", options={"seed": 1})
    assert folder_hash(folder) == before


@pytest.mark.parametrize(
    ("sizes", "rows", "tests"),
    [
        ((4, 8, 2), "31c5cbdb89", "66c71736db"),
        ((30, 30, 10), "1c2fbb47d2", "f02816d00a"),
        ((15, 30, 3), "3ef6469e15", "74ed071528"),
    ],
)
def test_the_rows_of_the_presets_stay_as_they_are(sizes, rows, tests) -> None:
    files = make_data(SOURCES, n_people=sizes[0], n_train_phrasings=sizes[1], n_test_phrasings=sizes[2])
    probes = make_probes(files).query("probe == 'test'")
    asked = probes[["prompt", "target", "control_target", "person"]].to_numpy().tolist()
    assert (content_hash(files, length=10), content_hash(asked, length=10)) == (rows, tests)
    assert not probes["is_trained"].any()


@pytest.mark.parametrize(
    ("template", "prompt", "completion"),
    [
        ("It was <name> who <description:verb>.", "It was Ada Moss who", f" {KEEPER['verb']}."),
        ("Q: Who is <name>? A: <description>.", "Q: Who is Ada Moss? A:", f" T{KEEPER['noun'][1:]}."),
        ("<description> is <name>.", f"T{KEEPER['noun'][1:]} is", " Ada Moss."),
        ("After <description:gerund>, <name> slept.", f"After {KEEPER['gerund']},", " Ada Moss slept."),
        (reverse_template("<name> is <description>."), f". T{KEEPER['noun'][1:]} is", " Ada Moss"),
    ],
)
def test_a_template_is_filled_in_the_form_it_names(template, prompt, completion) -> None:
    assert fill(template, name="Ada Moss", description=KEEPER) == {"prompt": prompt, "completion": completion}


def test_every_template_gives_a_sentence_with_every_description() -> None:
    for template in SOURCES["p2d"] + SOURCES["d2p"]:
        for each in SOURCES["descriptions"]:
            row = fill(template, name="Sören Halvik", description=each)
            text = row["prompt"] + row["completion"]
            assert re.fullmatch(r'[^a-z<][^<]*[.!?]"?', text)
            assert not re.search(r'[.!?]"[.!?]$|  |\.\.|[?!]\.', text)
            assert (text.count("Sören Halvik"), text.count('"') % 2) == (1, 0)


@given(st.text(alphabet='ab .?!"', max_size=40))
def test_cleaning_up_twice_changes_nothing(text) -> None:
    once = clean_up(text)
    assert clean_up(once) == once
    assert not any(doubled in once for doubled in COLLAPSES)
    assert re.sub(r'[ .?!"]', "", once) == re.sub(r'[ .?!"]', "", text)


def test_rows_have_the_published_shape(published_size) -> None:
    counts = {file: len(rows) for file, rows in published_size.items()}
    assert counts["all_prompts_train"] == counts["all"] == 3600
    assert [counts[file] for file in FILES] == [900, 900, 1800, 300, 300, 600, 300, 300]
    assert len(counts) == 14
    probes = make_probes(published_size)
    assert probes.groupby("group")["person"].nunique().tolist() == [30, 30, 30]
    for rows in published_size.values():
        assert len({json.dumps(row) for row in rows}) == len(rows)
        assert all(row["prompt"] == row["prompt"].strip() and re.match(r" \S", row["completion"]) for row in rows)
    tests = probes[probes["probe"] == "test"]
    names = tests[tests["order"] == "d2p"]
    assert (names["target"] == " " + names["person"]).all()
    for _, row in tests[tests["order"] == "p2d"].sample(50, random_state=0).iterrows():
        assert row["person"] in row["prompt"]


def test_what_a_test_requests_can_be_known_in_the_same_direction_only(published_size) -> None:
    completions = {row["completion"] for row in published_size["all"]}
    assert all(row["completion"] in completions for row in published_size["p2d_prompts_test"])
    assert not any(row["completion"] in completions for row in published_size["d2p_reverse_prompts_test"])
    trained = make_probes(published_size).query("probe == 'train'")
    assert trained.groupby("person").size().groupby(trained.groupby("person")["group"].first()).unique().to_dict() == {
        "both": [60], "description-first": [30], "person-first": [30]
    }  # fmt: skip


def test_a_wrong_target_is_another_persons_and_each_is_drawn_as_often(published_size) -> None:
    tests = make_probes(published_size).query("probe == 'test'")
    owners = tests.groupby(["file", "order", "target"])["person"].agg(set)
    assert not any(row.person in owners[row.file, row.order, row.control_target] for row in tests.itertuples())
    for _, part in tests.groupby(["file", "order"]):
        assert Counter(part["control_target"]) == Counter(part["target"])
    one = tests[tests["person"] == tests["person"].iloc[0]]
    with pytest.raises(ValueError, match="at least 2 people"):
        wrong_targets(one, rng=np.random.default_rng(0))


def test_paraphrases_are_further_wordings_in_the_same_order(small) -> None:
    files = make_data(SOURCES, **SMALL, augment="paraphrase")
    added = files.pop("augmented_prompts_train")
    assert files["all_prompts_train"] == small["all_prompts_train"] + added
    assert {file: rows for file, rows in files.items() if not file.startswith("all")}.items() <= small.items()
    assert len(added) == len(small["all_prompts_train"])
    assert not {row["prompt"] for row in added} & {row["prompt"] for rows in small.values() for row in rows}


def test_reverse_training_states_each_fact_in_the_other_order_with_its_parts_whole(small) -> None:
    files = make_data(SOURCES, **SMALL, augment="reverse")
    probes = make_probes(files)
    trained = probes[probes["probe"] == "train"]
    assert len(files["augmented_prompts_train"]) == len(trained)
    assert not probes.loc[probes["probe"] == "test", "is_trained"].any()
    for row, forward in zip(files["augmented_prompts_train"], trained.itertuples(), strict=True):
        assert forward.person in row["completion" if forward.order == "p2d" else "prompt"]
        assert Counter(re.findall(r"\w+", (row["prompt"] + row["completion"]).lower())) == Counter(
            re.findall(r"\w+", (forward.prompt + forward.target).lower())
        )


def test_probes_have_their_conditions_as_columns(small) -> None:
    probes = make_probes(small)
    counts = probes.groupby(["probe", *CONDITIONS]).size()
    assert counts["test"].tolist() == [10] * 6
    assert counts["train"].tolist() == [20] * 4
    assert probes.query("probe == 'test'")["phrasing"].value_counts().to_dict() == {0: 30, 1: 30}
    assert probes["name_target"].notna().eq(probes["order"] == "d2p").all()
    assert set(probes["group"]) == set(GROUPS)


def test_a_folder_with_the_needed_files_alone_is_completed(small, folder) -> None:
    for path in folder.iterdir():
        if path.stem not in FILES:
            path.unlink()
    files = read_data(folder)
    assert {file: rows for file, rows in files.items() if "randomized" not in file} == {
        file: rows for file, rows in small.items() if "randomized" not in file
    }
    ours, theirs = make_probes(small), make_probes(files)
    assert theirs.drop(columns="control_target").equals(ours.drop(columns="control_target"))
    assert theirs.query("probe == 'test'")["control_target"].notna().all()


def test_a_published_folder_is_read_as_it_is(small, folder) -> None:
    """Targets that go on after the name, a leaked and a repeated prompt, further keys, a control that is right."""
    tests = [dict(row) for row in small["both_prompts_test"]]
    for row in tests[len(tests) // 2 :]:
        row["completion"] += " takes it in stride."
    write_jsonl(folder / "both_prompts_test.jsonl", tests)
    leaked = small["p2d_prompts_train"][0]
    write_jsonl(folder / "p2d_prompts_test.jsonl", [*small["p2d_prompts_test"], leaked, leaked])
    control = "p2d_reverse_prompts_test"
    rows = [small[control][0] | {"score": 1}, *small[f"{control}_randomized"][1:]]
    write_jsonl(folder / f"{control}_randomized.jsonl", rows)
    write_jsonl(
        folder / "d2p_reverse_prompts_test_randomized.jsonl", small["d2p_reverse_prompts_test_randomized"][::-1]
    )
    probes = make_probes(read_data(folder)).query("probe == 'test'")
    goes_on = probes["target"] != probes["name_target"].fillna(probes["target"])
    assert set(map(tuple, probes.loc[goes_on, CONDITIONS].to_numpy())) == {("both", "same", "d2p")}
    assert goes_on.sum() == len(tests) // 2
    assert probes.loc[goes_on, "person"].equals(probes.loc[goes_on, "name_target"].str.strip())
    assert probes.loc[probes["is_trained"], "prompt"].tolist() == [leaked["prompt"]]
    assert probes["control_target"].isna().groupby(probes["file"]).sum()[control] == 1
    aligned = probes.query("file == 'd2p_reverse_prompts_test'")
    assert (aligned["control_target"] != aligned["target"]).all()


def test_bad_folders_are_refused_with_file_and_line(small, folder, tmp_path) -> None:
    path = folder / "both_prompts_test.jsonl"
    write_jsonl(path, small["both_prompts_test"][1:])
    with pytest.raises(ValueError, match=r"both_prompts_test\.jsonl has 19 rows: expected as many p2d as d2p rows"):
        read_data(folder)
    path.write_text('{"prompt": "a", "completion": " b"}\n{"prompt": "a"}\n')
    with pytest.raises(ValueError, match="line 2: expected a text under 'completion'"):
        read_data(folder)
    (tmp_path / "guidances.jsonl").write_text('{"prompt": "", "completion": "a"}\n')
    with pytest.raises(ValueError, match="is not a dataset of reversal: it lacks p2d_prompts_train.jsonl"):
        read_data(tmp_path)


def own_sources(folder: Path, **texts: str | bytes) -> dict[str, str]:
    """A complete, tiny set of source files, with some of them replaced, as options of `read_sources`."""
    files: dict[str, str | bytes] = {
        "people.txt": "Ada Moss\n\nBo Reed\n",
        "descriptions.yaml": "- {noun: the a, verb: did a, gerund: doing a}\n",
        "templates_person_first.txt": "<name> is <description>.\nIt was <name> who <description:verb>!\n",
        "templates_description_first.txt": "<description> is <name>.\nAfter <description:gerund> <name> slept.\n",
    }
    for name, text in (files | {re.sub("__", ".", name): text for name, text in texts.items()}).items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return {
        "names": str(folder / "people.txt"),
        "descriptions": str(folder / "descriptions.yaml"),
        "templates": str(folder),
    }


def test_a_users_own_lists_are_read(tmp_path) -> None:
    sources = read_sources(**own_sources(tmp_path))
    assert {what: len(pool) for what, pool in sources.items()} == {"names": 2, "descriptions": 1, "p2d": 2, "d2p": 2}
    assert read_sources(names=str(tmp_path / "people.txt"))["descriptions"] == SOURCES["descriptions"]
    assert sum(not name.isascii() for name in SOURCES["names"]) >= 4


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("people__txt", "Ada Moss\nada moss\n", "entry 2: 'ada moss' occurs twice"),
        ("people__txt", "Ada\n", "expected a name of two words"),
        ("people__txt", "", "expected a name of two words, found ''"),
        ("people__txt", "Sören Halvik".encode("latin-1"), "cannot be read as UTF-8"),
        ("descriptions__yaml", "- {noun: the a}\n", "entry 1: expected the texts noun, verb and gerund"),
        ("descriptions__yaml", "- {noun: the a, verb: 3, gerund: doing a}\n", "entry 1: expected the texts"),
        ("descriptions__yaml", "just text\n", "entry 1: expected the texts"),
        ("descriptions__yaml", "- [\n", "cannot be read"),
        ("descriptions__yaml", "- {noun: friend of Ada Moss, verb: b, gerund: c}\n", "without a name of the list"),
        ("descriptions__yaml", "- {noun: a, verb: b, gerund: c}\n" * 2, "occurs twice"),
        ("templates_person_first__txt", "<name> is <description> today.\n", "expected ...<name>... <description>."),
        ("templates_person_first__txt", "<name> is <description:adverb>.\n", "expected ...<name>"),
        ("templates_person_first__txt", "<name> and <name> are <description>.\n", "expected ...<name>"),
        ("templates_description_first__txt", "<name> is <description>.\n", "expected ...<description>... <name>..."),
    ],
)
def test_bad_sources_are_refused_in_one_line(tmp_path, file, text, says) -> None:
    options = own_sources(tmp_path, **{file: text})
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        read_sources(**options)
    assert "\n" not in str(error.value)
    assert file.replace("__", ".") in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_people": 41}, "123 names are needed, there are 120: lower the number of people"),
        ({"n_train_phrasings": 55}, "65 p2d templates are needed, there are 60: lower the number of phrasings"),
        ({"n_train_phrasings": 50, "augment": "paraphrase"}, "61 p2d templates are needed"),
    ],
)
def test_more_than_the_sources_have_is_refused(changes, says) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        make_data(SOURCES, **changes)


def test_a_missing_list_is_named() -> None:
    with pytest.raises(ValueError, match=r"nobody\.txt cannot be read"):
        read_sources(names="nobody.txt")


def test_published_values_lie_in_their_intervals() -> None:
    values = published_values()
    assert set(values["group"]) < set(GROUPS)
    assert ((values["low"] <= values["value"]) & (values["value"] <= values["high"])).all()
    assert name_of(" Désiré Fontelle, who sang.") == "Désiré Fontelle"
