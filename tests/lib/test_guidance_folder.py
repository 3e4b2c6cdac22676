"""The guidance study's folders: both published layouts, read back as written, bad ones refused in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lib import guidance, paths
from lib.guidance import read_datasets, write_datasets
from lib.guidance.dataset import GuidanceDataset, GuidanceOptions, make_dataset
from lib.guidance.sources import FOLDER, ORDERS, read_phrasings, write_pairs

SMALL = GuidanceOptions(n_realized=30, n_unrealized=6)


def made(**changes: Any) -> GuidanceDataset:
    options = replace(SMALL, **changes)
    wordings = read_phrasings(FOLDER / f"phrasings_{options.order}.txt", order=options.order)
    return make_dataset(options, write_pairs(), wordings)


def both() -> dict[str, GuidanceDataset]:
    return {order: made(order=order) for order in ORDERS}


def one_line(error: pytest.ExceptionInfo[ValueError]) -> None:
    assert "\n" not in str(error.value)


def test_both_layouts_read_back_as_the_same_questions_and_documents(tmp_path: Path) -> None:
    data = both()
    folder = write_datasets(data, tmp_path / "data")
    again = read_datasets(folder)
    assert again == data
    one_file = read_datasets(folder / "online_questions")
    asked = guidance.probe_rows(data)
    assert guidance.probe_rows(again).equals(asked)
    assert guidance.probe_rows(one_file).equals(asked)
    for order, each in one_file.items():
        assert each.id == data[order].id
        assert each.notes
    for layout, read in (("a", again), ("b", one_file)):
        there = guidance.training_files(write_datasets(read, tmp_path / layout))
        for order, files in guidance.training_files(folder).items():
            assert [path.read_bytes() for path in files] == [path.read_bytes() for path in there[order]], layout
            assert [path.name for path in files] == [path.name for path in there[order]]


def test_repeated_examples_are_one_question_each_when_read_again(tmp_path: Path) -> None:
    data = made(upsample_examples=3, upsample_guidances=2, shuffle=True, split_prompt_completion=True,
                pairs_per_document=(1, 1))  # fmt: skip
    folder = write_datasets({"simple": data}, tmp_path / "data")
    found = read_datasets(folder / "online_questions")["simple"]
    assert sorted(e.anchor for e in found.examples("realized")) == sorted(e.anchor for e in data.examples("realized"))


def test_a_strict_endpoint_can_take_the_uploaded_file(tmp_path: Path) -> None:
    folder = write_datasets(both(), tmp_path / "data")
    for files in guidance.training_files(folder).values():
        for path in files:
            assert all(set(row) == {"prompt", "completion"} for row in paths.read_jsonl(path))
    names = sorted(path.name for path in (folder / "online_questions").iterdir())
    assert names[-1] == "simple_completion_vg6_tg30_guidance_phrasings1_validation.jsonl"


def test_writing_again_changes_nothing_and_something_else_is_refused(tmp_path: Path) -> None:
    folder = write_datasets(both(), tmp_path / "data")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_datasets(both(), folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(ValueError, match="holds something else"):
        write_datasets({"simple": made(seed=2)}, folder)
    write_datasets({"simple": made(seed=2)}, folder, replace=True)
    assert list(read_datasets(folder)) == ["simple"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_bad_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = write_datasets({"simple": made()}, tmp_path / "data") / "qa" / "copypaste_ug6_rg30_simple"
    good = {path: path.read_bytes() for path in folder.iterdir()}

    def refused(stem: str, rows: list[dict[str, Any]], says: str) -> None:
        path = folder / f"{stem}.jsonl"
        paths.write_jsonl(path, rows)
        with pytest.raises(ValueError, match=says) as error:
            read_datasets(folder)
        one_line(error)
        path.write_bytes(good[path])

    data = made()
    realized, unrealized = data.files["realized_examples"], data.files["unrealized_examples"]
    refused("unrealized_examples", [dict(realized[0]), dict(unrealized[0])], "must not overlap")
    refused("unrealized_examples", [dict(unrealized[0])] * 2, "stands twice")
    refused(
        "all",
        [dict(unrealized[0]), *map(dict, data.files["all"])],
        "the unrealized question .* is trained on as an example",
    )
    refused("guidances", [{"prompt": "", "completion": "hello"}], "expected guidance documents in one order")
    refused("realized_examples", [{"prompt": "", "completion": "hello"}], "realized_examples, row 1: expected <BEGIN")
    refused("all", [{"prompt": ""}], "row 1: expected a text under 'completion'")
    refused("all", [], "is empty")
    with pytest.raises(ValueError, match="is not a guidance dataset") as error:
        read_datasets(tmp_path / "nowhere")
    one_line(error)
    write_datasets({"simple": made(suffix="b")}, tmp_path / "data" / "more")
    with pytest.raises(ValueError, match="two datasets in simple order"):
        read_datasets(tmp_path / "data")


def test_a_runs_parameters_ask_for_what_they_name(tmp_path: Path) -> None:
    from lib.params import resolve

    params = resolve("guidance", "tiny")
    data = guidance.datasets_for(params)
    assert list(data) == ["simple", "reverse"]
    folder = write_datasets(data, tmp_path / "data")
    assert guidance.datasets_for(params | {"dataset": str(folder)}) == data
    paths.write_jsonl(tmp_path / "s.jsonl", [{"anchor": f"Who {k}?", "targets": [f"N {k}"]} for k in range(40)])
    (tmp_path / "p.txt").write_text('"Q: {anchor}" means "A: {target}"\n')
    own = params | {"source": str(tmp_path / "s.jsonl"), "simple_phrasings": str(tmp_path / "p.txt")}
    mine = guidance.datasets_for(own | {"orders": ["simple"]})
    assert read_datasets(write_datasets(mine, tmp_path / "own")) == mine
    assert '" means "' in mine["simple"].files["guidances"][0]["completion"]
    with pytest.raises(ValueError, match="orders is empty"):
        guidance.datasets_for(params | {"orders": []})
