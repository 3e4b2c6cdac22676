"""Publishing: which runs are taken, what is copied, and what the README's table says."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import nbformat
import pandas as pd
import pytest

from lib.headlines import Study, agreement, answer, read_studies, results_table
from lib.params import default_preset, studies
from lib.paths import ROOT, file_hash, read_json
from lib.run import StageFailed
from lib.summary import read_summaries
from tools import publish
from tools.committed import copy_outputs, is_stale
from tools.publish import fill, finished_run

NUMBER = {"label": "same", "group": "a", "metric": "match"}
CLAIMS = [{**NUMBER, "label": "most", "above": 0.5}, {**NUMBER, "label": "all", "above": 0.99}]
STUDY = Study("demo", "Is it?", "yes", {"laptop": {"numbers": [NUMBER], "claims": CLAIMS[:1]}}, "hero")
ROW = {"study": "demo", "preset": "laptop", "model": "fork-1m", "group": "a", "metric": "match", "x": float("nan")}
ROW |= {"value": 0.9, "low": 0.85, "high": 0.95, "n": 30, "n_of": "person", "unit": "rate"}


def demo(**about: object) -> Study:
    return replace(STUDY, presets={"laptop": {"numbers": [NUMBER], "claims": CLAIMS} | about})


def test_an_answer_has_its_interval_its_n_and_its_model():
    summary = pd.DataFrame([ROW, {**ROW, "x": 2.0, "value": 0.1}])
    assert answer(STUDY, "laptop", summary) == "fork-1m: same 90% [85, 95] (n = 30 people)"
    assert answer(STUDY, "laptop", summary.assign(preset="smollm2")) == ""
    lacking = summary.assign(metric=summary["metric"] + "_of_another_form")
    with pytest.raises(ValueError, match="found 0"):
        answer(STUDY, "laptop", lacking)
    assert answer(STUDY, "laptop", lacking, partial=True) == ""
    with pytest.raises(ValueError, match="demo, laptop: expected one row for .*, found 2"):
        answer(STUDY, "laptop", pd.DataFrame([ROW, ROW]))


def test_the_n_of_all_numbers_is_given_and_a_unit_once():
    study = demo(numbers=[{"label": label, "metric": "match", "group": label} for label in ("pairs", "few", "many")])
    rows = [
        {**ROW, "group": "pairs", "n": 9, "n_of": "pair"},
        {**ROW, "group": "few", "n": 17},
        {**ROW, "group": "many"},
    ]
    rows = [{**row, "value": 2.5, "low": 2, "high": 3, "unit": "nats"} for row in rows]
    each = "2.50 [2.00, 3.00]"
    expected = f"fork-1m: pairs {each} nats, few {each}, many {each} (n = 9 pairs, 17 to 30 people)"
    assert answer(study, "laptop", pd.DataFrame(rows)) == expected


def test_agreement_is_computed_from_the_interval():
    summary = pd.DataFrame([ROW])
    assert agreement(STUDY, "laptop", summary) == "agrees"
    assert agreement(demo(), "laptop", summary) == "most: agrees, all: disagrees"
    assert agreement(demo(claims=CLAIMS[1:]), "laptop", summary.assign(high=1.0)) == "unclear"
    assert agreement(demo(claims=[{**NUMBER, "below": 0.5}]), "laptop", summary) == "disagrees"
    assert agreement(demo(not_comparable="other data"), "laptop", summary) == "not comparable: other data"


def test_a_page_without_its_markers_is_refused():
    for text in ("", f"{publish.END}{publish.BEGIN}", f"{publish.BEGIN}{publish.END}" * 2):
        with pytest.raises(ValueError, match="expected"):
            fill(text, "table")


def test_only_a_finished_run_with_three_seeds_is_published(home, make_stage):
    make_stage("demo/01-data-prep")
    with pytest.raises(ValueError, match="has not been run: make figures STUDY=demo PRESET=laptop SEEDS=3"):
        finished_run("demo", "laptop")
    folder = home / "runs" / "laptop" / "demo"
    (folder / "figures").mkdir(parents=True)
    notebook = home / "notebooks" / "demo" / "01-data-prep.py"
    inputs = {"notebooks/demo/01-data-prep.py": file_hash(notebook), "dataset": "abc"}
    (folder / "01.manifest.json").write_text(json.dumps({"n_seeds": 1, "inputs": inputs}))
    with pytest.raises(ValueError, match="was run with 1 seed"):
        finished_run("demo", "laptop")
    (folder / "01.manifest.json").write_text(json.dumps({"n_seeds": 3, "inputs": inputs}))
    notebook.write_text(notebook.read_text() + "\n# edited\n")
    with pytest.raises(ValueError, match="01-data-prep was run from another notebooks/demo/01-data-prep.py"):
        finished_run("demo", "laptop")
    notebook.write_text(notebook.read_text().removesuffix("\n# edited\n"))
    for name in ("summary.csv", "figures/hero.png", "figures/hero.txt", "figures/notes.log"):
        (folder / name).write_text(name)
    target = home / "figures" / "demo"
    target.mkdir(parents=True)
    for name in ("old.png", "README.md"):
        (target / name).write_text(name)
    publish.copy_run(finished_run("demo", "laptop"), target)
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "hero.png", "hero.txt", "summary.csv"]


def test_every_study_that_is_listed_exists():
    for study in read_studies():
        assert (ROOT / "notebooks" / study.name).is_dir()
        assert all(about["numbers"] for about in study.presets.values())
        assert "|" not in study.question + study.published, "it would break the table"


RECORDS = sorted((ROOT / "figures").rglob(publish.RECORD))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: "-".join(path.parent.parts[-2:]))
def test_published_numbers_were_made_by_what_is_here(path):
    record = read_json(path)
    now = publish.made_from(record["study"], record["preset"])
    again = f"make publish STUDY={record['study']}"
    for what in ("values", "notebooks"):
        assert record[what] == now[what], f"{path.parent} was published from other {what}: {again}"
    for base in now["bases"]:
        assert base in record["bases"], f"{path.parent} was published from another {base.split('@')[0]}: {again}"


@pytest.mark.parametrize("study", [study for study in studies() if default_preset(study) != "tiny"])
def test_notebooks_with_the_parameters_of_a_published_run_were_published(study):
    assert ROOT / "figures" / study / publish.RECORD in RECORDS


def test_the_readme_has_the_published_numbers():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == fill(text, results_table(read_studies(), read_summaries(ROOT / "figures"))), "make publish"
    assert sum(any(map(str.isalnum, word)) for word in text.split()) <= 1000
    assert set(re.findall(r"\d+%", fill(text, ""))) <= {"95%"}  # no result is repeated by hand


def cells(*outputs, injected=False):
    """A notebook of a parameters cell and one that printed `outputs`, as papermill leaves it or as it is committed."""
    found = [nbformat.v4.new_code_cell("n = 1", metadata={"tags": ["parameters"]}, execution_count=1)]
    if injected:
        found.append(nbformat.v4.new_code_cell("n = 2", metadata={"tags": ["injected-parameters"]}, execution_count=2))
    printed = [nbformat.v4.new_output("execute_result", {"text/plain": text}, execution_count=3) for text in outputs]
    printed += [nbformat.v4.new_output("stream", name="stderr", text="a progress bar")] if injected else []
    return nbformat.v4.new_notebook(cells=[*found, nbformat.v4.new_code_cell("n", execution_count=3, outputs=printed)])


def test_a_committed_notebook_gets_the_outputs_of_a_run(tmp_path):
    run, path = tmp_path / "run.ipynb", tmp_path / "01.ipynb"
    nbformat.write(cells("7", injected=True), run)
    nbformat.write(cells(), path)
    copy_outputs(run, path)
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2]
    assert notebook.cells[1].outputs[0].data == {"text/plain": "7"}
    assert [output.execution_count for output in notebook.cells[1].outputs] == [2]
    assert not is_stale(notebook)
    before = path.read_bytes()
    other = cells("8")
    other.cells[1].source = "n + 1"
    nbformat.write(other, run)
    with pytest.raises(StageFailed, match="has other cells"):
        copy_outputs(run, path)
    assert path.read_bytes() == before
