"""Publishing: which runs are taken, what is copied, and what the README's table says."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from lib.paths import ROOT
from lib.tables.headlines import Study, answer, read_studies
from tools import publish
from tools.publish import fill, finished_run

STUDY = Study("demo", "Is it?", "yes", ({"label": "same", "condition": "a/same", "metric": "match"},), "hero")
ROW = {"study": "demo", "model": "fork-1m", "condition": "a/same", "metric": "match", "x": float("nan")}
ROW |= {"value": 0.9, "low": 0.85, "high": 0.95, "n": 30, "n_of": "person", "unit": "rate"}


def test_an_answer_has_its_interval_its_n_and_its_model():
    summary = pd.DataFrame([ROW, {**ROW, "x": 2.0, "value": 0.1}])
    assert answer(STUDY, summary) == "same 90% [85, 95] (95% intervals; 30 x person, fork-1m)"
    assert answer(STUDY, summary[summary["study"] == "other"]) == ""
    with pytest.raises(ValueError, match="expected one row a/same match in its summary, found 2"):
        answer(STUDY, pd.DataFrame([ROW, ROW]))


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
    (folder / "01.manifest.json").write_text(json.dumps({"n_seeds": 1}))
    with pytest.raises(ValueError, match="was run with 1 seed"):
        finished_run("demo", "laptop")
    (folder / "01.manifest.json").write_text(json.dumps({"n_seeds": 3}))
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
        assert study.headline
        assert "|" not in study.question + study.published, "it would break the table"
