"""Files of others: read as plain data, their swapped labels put right, damaged and foreign ones refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from lib.diversity import given_completions, read_calculations, read_completions, read_perplexity, read_results
from lib.sources.unpickle import read_npy, read_torch


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


def results_file(folder, kinds=("creative", "factual"), name="pythia-2.8b_results_20_words"):
    values = {
        kind: {"average_pairwise_jaccard_2": np.full((15, 2, 1), k, dtype=np.float32), "order_3_cosine": _with_nan()}
        for k, kind in enumerate(kinds, start=1)
    }
    path = folder / f"{name}.npy"
    np.save(path, np.array(values, dtype=object))
    return path


def _with_nan():
    array = np.ones((15, 2, 1), dtype=np.float32)
    array[14, 1, 0] = np.nan
    return array


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


def test_swapped_labels_are_put_right_and_said_so(tmp_path, caplog):
    found = read_results(results_file(tmp_path))
    assert "creative and factual are swapped in the file, as published; put right here" in caplog.text
    means = found[found["measure"] == "jaccard_2"].groupby(["kind", "published_kind"])["value"].mean()
    assert means.to_dict() == {("factual", "creative"): 1.0, ("creative", "factual"): 2.0}
    drawn = found[found["measure"] == "order_3_cosine_drawn"]
    assert drawn["failure"].tolist().count("published as NaN") == 2
    assert set(found["n_words"]) == {20}


def test_seen_prompts_keep_their_label(tmp_path, caplog):
    found = read_results(results_file(tmp_path, ["seen"], "pythia-2.8b-dpo_results_5_words"))
    assert set(found["kind"]) == set(found["published_kind"]) == {"seen"}
    assert not caplog.text


def test_completions_of_ours_and_a_folder_of_both(tmp_path):
    completions_file(tmp_path)
    row = {"model": "m", "kind": "creative", "prompt": "p", "temperature": 1, "text": "a", "token_ids": [1, 2]}
    (tmp_path / "ours.jsonl").write_text(json.dumps(row))
    found = read_completions(tmp_path)
    assert found["model"].value_counts().to_dict() == {"pythia-2.8b-sft3_1": 90, "m": 1}
    assert found.loc[found["model"] == "m", "token_ids"].tolist() == [[1, 2]]


def test_perplexity_is_read_and_its_misnamed_entropy_checked(tmp_path):
    path = tmp_path / "pythia14b-perplexity.json"
    path.write_text('{"entropy": 2.0219902992, "perplexity": 7.5533432961}')
    found = read_perplexity(path)
    assert found["model"] == "pythia14b"
    assert found["nll_nats"] == pytest.approx(2.0219902992)
    path.write_text('{"entropy": 1.0, "perplexity": 7.55}')
    with pytest.raises(ValueError, match="is not the logarithm of its perplexity"):
        read_perplexity(path)
    path.write_text('{"perplexity": "seven"}')
    with pytest.raises(ValueError, match="expected a perplexity of at least 1"):
        read_perplexity(path)


def calculations(rng, *, n_documents=4):
    lengths = rng.integers(3, 9, n_documents).tolist()
    return {
        "all_logprobs": [-rng.random(n).astype(np.float32) for n in lengths],
        "all_positions": [np.arange(n) for n in lengths],
        "next_pred": [],
        "next_pred_confidence": [rng.random((1, n)).astype(np.float32) for n in lengths],
        "entropy": [rng.random(n).astype(np.float32) for n in lengths],
        "mean_probs": [rng.dirichlet(np.ones(6), size=2), rng.dirichlet(np.ones(6), size=3)],
        "aggregate_length": sum(lengths),
        "aggregate_utf8_length": 4.0 * sum(lengths),
    }


def test_calculation_data_of_torch_are_read_without_torch(tmp_path):
    told = calculations(np.random.default_rng(0))
    torch.save(told, tmp_path / "m-calculation_data10000pc.p")
    found = read_calculations(tmp_path / "m-calculation_data10000pc.p")
    logprobs = np.concatenate(told["all_logprobs"]).astype(float)
    assert found.perplexity == pytest.approx(np.exp(-logprobs.mean()))
    assert found.bits_per_byte == pytest.approx(-logprobs.mean() / np.log(2) / 4)
    np.testing.assert_allclose(found.mean_probs, np.concatenate(told["mean_probs"]).mean(axis=0))
    assert found.n_windows == 5
    assert found.documents.columns.tolist() == ["n_tokens", "nll_nats", "entropy_nats", "confidence"]
    assert found.documents["confidence"][0] == pytest.approx(told["next_pred_confidence"][0].mean())


def test_calculation_data_that_do_not_add_up_are_refused(tmp_path):
    path = tmp_path / "m.p"
    told = calculations(np.random.default_rng(1))
    torch.save(told | {"aggregate_length": 3}, path)
    with pytest.raises(ValueError, match="log-probabilities for 3 tokens"):
        read_calculations(path)
    torch.save([1], path)
    with pytest.raises(ValueError, match="lacks all_logprobs, aggregate_length, aggregate_utf8_length"):
        read_calculations(path)
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"asks for|is no whole pickle"):
        read_torch(path)
    path.write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="is no file of torch.save"):
        read_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.txt", "x")
    with pytest.raises(ValueError, match="it holds no data.pkl"):
        read_torch(path)


def test_nothing_in_a_file_is_run(tmp_path):
    mark = tmp_path / "ran"
    attack = Attack(os.system, f"touch {mark}")
    np.save(tmp_path / "a.npy", np.array([attack, None], dtype=object))
    with pytest.raises(ValueError, match=r"a.npy asks for \w+\.system: expected only lists"):
        read_npy(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.p", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(attack))
    with pytest.raises(ValueError, match=r"a.p asks for \w+\.system"):
        read_torch(tmp_path / "a.p")
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
    np.save(tmp_path / "m_results_20_words.npy", np.arange(3))
    with pytest.raises(ValueError, match="expected one dict of creative and factual"):
        read_results(tmp_path / "m_results_20_words.npy")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="no completions in"):
        read_completions(tmp_path / "none")
    with pytest.raises(ValueError, match="nowhere is not there: expected a .jsonl"):
        read_completions(tmp_path / "nowhere")
    alone = {"model": "m", "kind": "creative", "prompt": "p", "temperature": 1, "text": "a"}
    (tmp_path / "alone.jsonl").write_text(json.dumps(alone) + "\n")
    with pytest.raises(ValueError, match="has one text a model, prompt and temperature: expected two"):
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
