"""Each preset file against its study's keys, and the keys against what papermill sees."""

from __future__ import annotations

from pathlib import Path

import jupytext
import papermill
import pytest
import yaml

from lib.params import check, notebook_keys, read_preset, resolve, stages, studies, study_keys

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "params").glob("*/*.yaml"))
BOOKS = [path for study in studies() for path in stages(study)]
SHARED = {"preset": ("str", "tiny"), "out": ("str", ""), "seed": ("int", 0), "n_seeds": ("int", 1)}
each_study = pytest.mark.parametrize("study", studies())


@each_study
def test_stages_agree_and_defaults_fit_their_own_rules(study):
    keys = study_keys(study)
    for name, (kind, default) in SHARED.items():
        assert (keys[name].type, keys[name].default) == (kind, default)
        assert len(keys[name].stages) == len(stages(study)), f"{name} is declared by every stage"
    for key in keys.values():
        key.validate(key.default)
        assert key.help, f"{key.name} has no comment that says what it is"


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
