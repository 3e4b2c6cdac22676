"""Completions from files: read as plain data; damaged and foreign ones are refused in one line."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from lib.diversity import given_completions, read_completions
from lib.sources.unpickle import read_npy


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def completions_file(folder, kind="creative", *, n_prompts=2, shape=None):
    array = np.empty((15, n_prompts, 1), dtype=object)
    for t, p in np.ndindex(15, n_prompts):
        array[t, p, 0] = [f"text {t} {p} {k}" for k in range(3)]
    path = folder / f"pythia-2.8b-sft3_1_completions_{kind}_max_length70.npy"
    np.save(path, array if shape is None else array.reshape(shape))
    return path


def test_published_completions_say_model_and_kind_by_their_name(tmp_path):
    found = read_completions(completions_file(tmp_path, "factual"))
    assert len(found) == 15 * 2 * 3
    last = found.iloc[-1].to_dict()
    assert last == {
        "model": "pythia-2.8b-sft3_1",
        "kind": "factual",
        "prompt": "factual 01",
        "temperature": 1.5,
        "sample": 2,
        "text": "text 14 1 2",
    }


def test_completions_of_ours_and_a_folder_of_both(tmp_path):
    completions_file(tmp_path)
    row = {"model": "m", "kind": "creative", "prompt": "p", "temperature": 1, "text": "a", "token_ids": [1, 2]}
    (tmp_path / "ours.jsonl").write_text(json.dumps(row))
    found = read_completions(tmp_path)
    assert found["model"].value_counts().to_dict() == {"pythia-2.8b-sft3_1": 90, "m": 1}
    assert found.loc[found["model"] == "m", "token_ids"].tolist() == [[1, 2]]


def test_nothing_in_a_file_is_run(tmp_path):
    mark = tmp_path / "ran"
    attack = Attack(os.system, f"touch {mark}")
    np.save(tmp_path / "a.npy", np.array([attack, None], dtype=object))
    with pytest.raises(ValueError, match=r"a.npy asks for \w+\.system: expected only lists"):
        read_npy(tmp_path / "a.npy")
    assert not mark.exists()


def test_arrays_of_objects_keep_lists_of_one_length_and_their_order(tmp_path):
    array = np.empty((2, 3), dtype=object, order="F")
    for k, place in enumerate(np.ndindex(array.shape)):
        array[place] = [f"{k}", {"n": np.arange(k)}]
    for version in ((1, 0), (2, 0)):
        with (tmp_path / "a.npy").open("wb") as file:
            np.lib.format.write_array(file, array, version=version)
        found = read_npy(tmp_path / "a.npy")
        assert found.shape == (2, 3)
        assert [cell[0] for cell in found.ravel()] == list("012345")
        assert found[1, 2][1]["n"].tolist() == [0, 1, 2, 3, 4]
    np.save(tmp_path / "b.npy", np.arange(4.0))
    assert read_npy(tmp_path / "b.npy").tolist() == [0, 1, 2, 3]


def test_damaged_and_foreign_files_are_refused(tmp_path):
    whole = completions_file(tmp_path)
    raw = whole.read_bytes()
    whole.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match="is no whole pickle"):
        read_completions(whole)
    whole.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"is no whole \.npy file"):
        read_completions(whole)
    np.save(tmp_path / "c.npy", np.zeros(2, dtype=[("a", object)]))
    with pytest.raises(ValueError, match="holds a numpy dtype"):
        read_npy(tmp_path / "c.npy")
    with pytest.raises(ValueError, match="says neither model nor kind"):
        read_completions(tmp_path / "c.npy")
    with pytest.raises(ValueError, match=r"has shape \(30,\): expected \(15 temperatures, prompts, 1\)"):
        read_completions(completions_file(tmp_path, shape=(30,)))
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="no completions in"):
        read_completions(tmp_path / "none")
    with pytest.raises(ValueError, match="nowhere is not there: expected a .jsonl"):
        read_completions(tmp_path / "nowhere")
    alone = {"model": "m", "kind": "creative", "prompt": "p", "temperature": 1, "text": "a"}
    (tmp_path / "alone.jsonl").write_text(json.dumps(alone) + "\n")
    with pytest.raises(ValueError, match="has one text per model, prompt and temperature: expected two"):
        given_completions(tmp_path / "alone.jsonl")
    for line, told in (
        ('{"model": "m", "kind": "c", "prompt": "p", "temperature": 1}', "row 1: expected a text under 'text'"),
        ('{"model": "m", "kind": "c", "prompt": "p", "text": "a"}', "expected a number under 'temperature'"),
        ("", "is empty"),
        ("{", "line 1: not JSON"),
    ):
        (tmp_path / "a.jsonl").write_text(line)
        with pytest.raises(ValueError, match=told):
            read_completions(tmp_path / "a.jsonl")
