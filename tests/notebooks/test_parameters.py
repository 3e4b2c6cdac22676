"""Each preset file against its study's keys, and the keys against what papermill sees."""

from __future__ import annotations

from pathlib import Path

import jupytext
import papermill
import pytest
import yaml

from lib.keys import notebook_keys
from lib.params import check, default_preset, read_preset, resolve, stages, studies, study_keys

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "params").glob("*/*.yaml"))
BOOKS = [path for study in studies() for path in stages(study)]
each_study = pytest.mark.parametrize("study", studies())


@each_study
def test_defaults_fit_their_own_rules_and_are_the_values_of_their_preset(study):
    for key in study_keys(study).values():
        key.validate(key.default)
        assert key.help, f"{key.name} has no comment that says what it is"
    values = read_preset(study, default_preset(study))
    for path in stages(study) if values else ():
        cell = {key.name: key.default for key in notebook_keys(path)}
        assert {name: values.get(name) for name in cell} == cell, f"{path.stem} and its preset differ"


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_papermill_sees_the_same_keys(path):
    seen = papermill.inspect_notebook(jupytext.read(path))
    keys = notebook_keys(path)
    assert list(seen) == [key.name for key in keys]
    assert [seen[key.name]["inferred_type_name"].replace(" ", "") for key in keys] == [key.type for key in keys]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_preset_file_fits_its_study(path):
    study, preset = path.parent.name, path.stem
    values = read_preset(study, preset)
    check(study, values)
    resolve(study, preset)
    assert values["preset"] == preset, "papermill alone reads the name of the preset from its file"
    assert values == yaml.safe_load(path.read_text(encoding="utf-8")), "papermill alone reads it otherwise"
    head = path.read_text(encoding="utf-8").partition("\npreset:")[0]
    for word in ("Purpose", "Hardware", "Time", "Expected"):
        assert word.lower() in head.lower(), f"the head of a preset says its {word.lower()}"


@each_study
def test_a_study_has_the_preset_of_the_main_job(study):
    assert "laptop" in [path.stem for path in PRESETS if path.parent.name == study]
