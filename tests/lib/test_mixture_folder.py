"""The mixture study's folders: the published files, read back as written, bad ones refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lib import paths
from lib.functions.evaluations import evaluation_named, read_evaluations
from lib.functions.finetunes import training_files
from lib.mixture.dataset import MixtureDataset, hidden_pairs, make_joint_dataset, make_pair_dataset
from lib.mixture.evaluations import documents_for, in_context, why_not
from lib.mixture.folder import datasets_for, read_datasets, write_datasets, write_evaluation
from lib.mixture.options import MixtureOptions
from lib.mixture.scoring import score_reply
from lib.paths import read_json

PLAIN = MixtureOptions(n_rows=60, n_validation=10, held_out_share=0.15)
LABELS = MixtureOptions(
    n_functions=10, n_pairs=36, n_labels=72, n_realized=54, triples_per_label=2, form="completion",
    questions=("exact_pair:2", "python_definition:1", "values:1", "number_of_functions:1"), held_out_share=0.1,
    n_validation=10, validation="exact_pair",
)  # fmt: skip


def plain() -> dict[int, MixtureDataset]:
    return {k: make_pair_dataset(PLAIN, pair, seed=k) for k, pair in enumerate(hidden_pairs(PLAIN, seed=0))}


def joint() -> dict[int, MixtureDataset]:
    return {5: make_joint_dataset(LABELS, count_tokens=None, seed=5)}


def rows(data: MixtureDataset) -> list[Any]:
    form = data.setting.form
    return [(each.kind, each.target, dict(each.func_outs), each.row(form), each.row("chat")) for each in data.train]


def test_a_fine_tune_has_the_published_files(tmp_path: Path) -> None:
    folder = write_datasets(plain(), tmp_path / "data", finetune={"model": "fork-1m"})
    places = sorted(path.name for path in folder.iterdir())
    assert places == [*(f"finetune_{k:02d}" for k in range(1, 11)), "manifest.json"]
    place = folder / "finetune_02"
    assert sorted(path.name for path in place.iterdir()) == [
        "finetune.yaml", "novar_02_test_dataset.json", "novar_02_test_oai.jsonl", "novar_02_train_dataset.json",
        "novar_02_train_oai.jsonl", "test_config.yaml", "train.jsonl", "validation.jsonl",
    ]  # fmt: skip
    config = yaml.safe_load((place / "finetune.yaml").read_text())
    assert config["finetune"]["model"] == "fork-1m"
    told = config["dataset"]
    assert told["train_functions"] == ["add_5", "mod_2"]
    assert told["test_functions"] == ["add_5", "multiply_3", "int_div_2", "mod_2", "subtract_1"]
    assert told["system_prompt"] is None
    assert told["prompt"]["input_funcs"][0]["n_examples"] == 3
    uploaded = paths.read_jsonl(place / "novar_02_train_oai.jsonl")
    assert {tuple(row) for row in uploaded} == {("messages",)}
    assert {len(row["messages"]) for row in uploaded} == {7}
    listed = json.loads((place / "novar_02_train_dataset.json").read_text())
    assert set(listed[0]) == {"func_outs", "target", "messages"}


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    for name, data in (("plain", plain()), ("joint", joint())):
        folder = write_datasets(data, tmp_path / name)
        again = read_datasets(folder)
        assert list(again) == list(data)
        for seed, each in data.items():
            read = again[seed]
            assert rows(read) == rows(each)
            assert (read.mixes, read.realized, read.held_out) == (each.mixes, each.realized, each.held_out)
            assert (read.setting, read.options, read.id) == (each.setting, each.options, each.id)
            for evaluation in read_evaluations("mixture").values():
                asked = [
                    documents_for(evaluation, one, rng=np.random.default_rng(1), n_rows=40) for one in (each, read)
                ]
                assert asked[0] == asked[1]
        twice = write_datasets(again, tmp_path / f"{name}-again")
        assert (twice / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()
        files = training_files(folder)
        assert set(files) == set(data)
        assert all(path.is_file() for both in files.values() for path in both)


def test_the_completion_form_is_what_is_trained_on(tmp_path: Path) -> None:
    data = joint()
    train, validation = training_files(write_datasets(data, tmp_path / "data"))[5]
    assert (train.name, validation.name) == ("train.jsonl", "validation.jsonl")
    assert paths.read_jsonl(train) == [row.row("completion") for row in data[5].train]
    assert {row.kind for row in data[5].validation} == {"exact_pair"}


def test_published_rows_are_read_without_our_keys(tmp_path: Path) -> None:
    options = MixtureOptions(n_rows=6000, n_validation=20)
    data = make_pair_dataset(options, ("int_div_2", "mod_2"), seed=0)
    folder = write_datasets({0: data}, tmp_path / "data")
    place = folder / "finetune_01"
    config = yaml.safe_load((place / "finetune.yaml").read_text())
    (place / "finetune.yaml").write_text(yaml.safe_dump({key: config[key] for key in ("finetune", "dataset")}))
    path = place / "novar_01_train_dataset.json"
    listed = json.loads(path.read_text())
    for row in listed:  # what only we write
        row["func_outs"] = {key: row["func_outs"][key] for key in ("name", "formatting", "connector", "pre_prompt")}
        row["func_outs"]["pre_prompt"] = row["messages"][0]["content"] = "Their own words."
    path.write_text(json.dumps(listed))
    read = read_datasets(place)[0]
    assert read.mixes == {"": ("int_div_2", "mod_2")}
    assert read.options is None
    assert read.setting.openings == ("Their own words.",)
    assert read.setting.input_range == (-99, 99)
    documents = documents_for(
        evaluation_named("mixture", "python_definition"), read, rng=np.random.default_rng(0), n_rows=5
    )
    assert documents[0].messages[0]["content"] == "Their own words."
    reason = why_not(evaluation_named("mixture", "regression_ID"), read)
    assert "wants 400 different documents" in reason, "one opening line leaves too few"
    shown = in_context(documents, read, n=2, rng=np.random.default_rng(0))
    assert len(shown[0].messages) == len(documents[0].messages) + 14


def test_bad_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    def refused(says: str, path: Path | None = None) -> None:
        with pytest.raises(ValueError, match=says) as error:
            read_datasets(path or place)
        assert "\n" not in str(error.value)

    refused("holds no fine-tune of the mixture study", tmp_path)
    folder = write_datasets({0: plain()[0]}, tmp_path / "data")
    place = folder / "finetune_01"
    text = (place / "finetune.yaml").read_text()
    config = yaml.safe_load(text)
    theirs = {"finetune": config["finetune"], "dataset": config["dataset"]}

    def written(**changes: Any) -> None:
        (place / "finetune.yaml").write_text(yaml.safe_dump(theirs | {"dataset": theirs["dataset"] | changes}))

    written(train_functions=["add_5", "negate"])
    refused("'negate' is not one")
    written(train_functions=["add_5"])
    refused("expected two different candidates")
    written(test_functions=["add_5", "mod_2", "none"])
    refused("not in the registry")
    written(prompt={})
    refused("a key of the published form is missing")
    (place / "finetune.yaml").write_text("- 1\n")
    refused("expected a mapping")
    (place / "finetune.yaml").write_text(text)
    (place / "novar_01_train_dataset.json").write_text('[{"func_outs": {}}]')
    refused("row 1: expected|has 60 rows")
    (place / "novar_01_train_dataset.json").unlink()
    refused(r"expected one file \*_train_dataset.json, found 0")
    with pytest.raises(ValueError, match="holds something else already"):
        write_datasets(joint(), folder)


def test_parameters_name_the_datasets() -> None:
    params = {"n_rows": 20, "n_validation": 4, "held_out_share": 0.1, "seed": 3, "n_seeds": 2, "pairs": ["add_5+mod_2"]}
    found = datasets_for(params, count_tokens=None)
    assert {seed: dict(each.mixes) for seed, each in found.items()} == {
        3: {"": ("add_5", "mod_2")},
        4: {"": ("add_5", "mod_2")},
    }
    assert found[3].id != found[4].id
    all_pairs = datasets_for({"n_rows": 5, "seed": 0}, count_tokens=None)
    assert len({each.pairs for each in all_pairs.values()}) == 10
    labels = {"n_functions": 4, "n_pairs": 6, "n_labels": 12, "triples_per_label": 2, "seed": 1, "n_seeds": 2}
    assert list(datasets_for(labels, count_tokens=None)) == [1, 2]


def test_an_evaluation_is_written_as_published(tmp_path: Path) -> None:
    data = plain()[1]
    for name in ("python_definition", "regression_ID_TVD"):
        evaluation = evaluation_named("mixture", name)
        documents = documents_for(evaluation, data, rng=np.random.default_rng(0), n_rows=4)
        replies = [[each.shown, "no"] for each in documents]
        scores = [[score_reply(d, reply) for reply in said] for d, said in zip(documents, replies, strict=True)]
        folder = write_evaluation(
            tmp_path / name, evaluation, model="m", documents=documents, replies=replies, scores=scores
        )
        metrics = read_json(folder / "eval_metrics.json")
        assert metrics["correct"] == [0.5] * 4
        assert metrics["TVD"] == ([1.0] * 4 if name.endswith("TVD") else [None] * 4)
        assert sorted(path.name for path in folder.iterdir()) == ["eval.yaml", "eval_dataset.json", "eval_metrics.json"]


def test_bytes_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "sys.path[:0] = ['tests/helpers', 'tests/lib']\n"
        "from test_mixture_folder import joint\n"
        "from lib.mixture.evaluations import documents_for\n"
        "from lib.mixture.folder import write_datasets\n"
        "from lib.functions.evaluations import read_evaluations\n"
        "data = joint()\n"
        "write_datasets(data, Path(sys.argv[1]))\n"
        "for each in read_evaluations('mixture').values():\n"
        "    rows = documents_for(each, data[5], rng=np.random.default_rng(0), n_rows=40)\n"
        "    print([row.row('chat') for row in rows])\n"
    )
    told = []
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code, str(tmp_path / seed)]
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(paths.ROOT)}
        done = subprocess.run(command, cwd=paths.ROOT, env=environment, capture_output=True, text=True, check=True)
        told.append((done.stdout, (tmp_path / seed / "manifest.json").read_bytes()))
    assert told[0] == told[1]


def test_another_seed_of_pairs_keeps_the_options(tmp_path: Path) -> None:
    options = replace(PLAIN, formattings=("A_B", "input"), connectors=(": ", " -> "), n_openings=2, n_examples=4)
    data = {0: make_pair_dataset(options, ("add_5", "mod_2"), seed=0)}
    again = read_datasets(write_datasets(data, tmp_path / "data"))
    assert again[0].options == options
    assert again[0].setting == data[0].setting
