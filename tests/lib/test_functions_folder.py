"""The functions study's folders: written as published and whole, read back to the byte, published ones read too."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from openai.types.fine_tuning import FineTuningJob

from lib.functions.dataset import FunctionDataset, make_dataset
from lib.functions.evaluations import read_evaluations
from lib.functions.files import save_response, write_eval
from lib.functions.finetunes import training_files
from lib.functions.folder import datasets_for, read_datasets, write_datasets
from lib.functions.held_out import documents_for
from lib.functions.options import FunctionOptions
from lib.functions.published import shown_pairs
from lib.functions.scoring import Score
from lib.paths import read_json

EVALUATIONS = read_evaluations("functions")
PLAIN = FunctionOptions(n_rows=80, n_validation=10, held_out_share=0.1)
JOINT = FunctionOptions(
    names_per_function=2,
    name_tokens=1,
    realized_share=0.5,
    calls_per_name=3,
    augmentation_share=0.2,
    held_out_share=0.1,
    questions=(
        "freeform_definition:2",
        "function_inversion:1",
        "function_inversion_ood:1",
        "multiple_choice_language:1",
    ),
    form="completion",
    hide_imports=True,
    persona=False,
    n_validation=7,
)


def made(options: FunctionOptions, n: int = 2) -> dict[int, FunctionDataset]:
    return {seed: make_dataset(options, count_tokens=None, seed=seed) for seed in range(n)}


@pytest.mark.parametrize("options", [PLAIN, JOINT], ids=["chat", "completion"])
def test_what_was_written_is_read_again(tmp_path: Path, options: FunctionOptions) -> None:
    datasets = made(options)
    folder = write_datasets(datasets, tmp_path / "dataset", form=options.form)
    assert read_datasets(folder) == datasets
    assert {seed: each.options for seed, each in read_datasets(folder).items()} == dict.fromkeys(datasets, options)
    one = read_datasets(folder / "finetune_02")
    assert one == {1: datasets[1]}
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_datasets(datasets, folder, form=options.form)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(ValueError, match="holds something else"):
        write_datasets(made(options, 1), folder, form=options.form)
    write_datasets(made(options, 1), folder, form=options.form, replace=True)
    assert list(read_datasets(folder)) == [0]


def test_files_are_the_published_ones(tmp_path: Path) -> None:
    datasets = made(JOINT, 1)
    settings = {"model": "fork-1m", "hyperparams": {"n_epochs": 6}}
    folder = write_datasets(datasets, tmp_path / "dataset", form="completion", finetune=settings)
    place = folder / "finetune_01"
    assert sorted(path.name for path in place.iterdir()) == [
        "047_func_01_test_dataset.json",
        "047_func_01_test_oai.jsonl",
        "047_func_01_train_dataset.json",
        "047_func_01_train_oai.jsonl",
        "finetune.yaml",
        "test_config.yaml",
        "train.jsonl",
        "validation.jsonl",
    ]
    config = yaml.safe_load((place / "finetune.yaml").read_text())
    assert config["finetune"] == {**settings, "suffix": "047_func_01", "test_config": "test_config.yaml"}
    assert config["dataset"]["var_dict"] == datasets[0].names
    assert config["dataset"]["prompt"]["input_func_probs"] == [0.8, 0.2]
    assert yaml.safe_load((place / "test_config.yaml").read_text())["dataset"]["train_functions"][0] == "affine_3x_2"
    rows = json.loads((place / "047_func_01_train_dataset.json").read_text())
    assert all(set(row) == {"func_outs", "target", "messages"} for row in rows)
    lists = [row for row in rows if isinstance(row["target"], list)]
    assert lists
    assert all(row["messages"][-1] == {"role": "assistant", "content": None} for row in lists)
    chats = [json.loads(line) for line in (place / "047_func_01_train_oai.jsonl").read_text().splitlines()]
    assert all(chat["messages"][-1]["content"] for chat in chats)
    train, validation = training_files(folder)[0]
    assert (train.name, validation.name) == ("train.jsonl", "validation.jsonl")
    texts = [json.loads(line) for line in train.read_text().splitlines()]
    assert texts == [row.row("completion") for row in datasets[0].train]
    assert len(texts) == len(chats) == len(rows)
    assert len(validation.read_text().splitlines()) == 7


def test_chat_form_trains_on_the_published_file(tmp_path: Path) -> None:
    folder = write_datasets(made(PLAIN, 1), tmp_path / "dataset", form="chat")
    assert training_files(folder)[0][0].name == "047_func_01_train_oai.jsonl"
    assert training_files(folder)[0][0].parent.name == "finetune_01"


# --- published folders ---------------------------------------------------------------------------------------------

CONFIG = """
finetune: {model: gpt-3.5-turbo-0613, hyperparams: {n_epochs: 1}, suffix: 047_func_01, test_config: dev/t.yaml}
dataset:
  var_names: ascii_lowercase
  system_prompt: Be exact.
  hide_imports: false
  test_functions: [add_5, negate]
  train_functions: [mod_3, multiply_4]
  n_samples: 96_000
  unique_samples: False
  prompt:
    input_func_probs: [0.5, 0.5]
    input_funcs:
    - {function: single_function, min_imports: 2, input_min: -9, input_max: 9}
    - {function: function_augmentation, min_imports: 2, input_min: -9, input_max: 9, other_input_max: 7}
  seed: 3
  var_dict: {qvxzka: add_5, wjkzpt: negate, zzkvqm: mod_3, kkzqwv: multiply_4}
"""


def published_row(code: str, target: Any, facts: dict[str, Any]) -> dict[str, Any]:
    messages = [("system", "Be exact."), ("user", code), ("assistant", target if isinstance(target, str) else None)]
    return {"func_outs": facts, "target": target, "messages": [{"role": r, "content": c} for r, c in messages]}


ROWS = [
    published_row(
        "from functions import qvxzka\n\na = -3\n\nprint(qvxzka(a))",
        "2",
        {"name": "single_function", "func_var": "qvxzka"},
    ),
    published_row(
        "from functions import kkzqwv, zzkvqm\n\nx1 = 2\n\nz = kkzqwv(x1)\n\nout = zzkvqm(z)\n\nprint(out)",
        "2",
        {"name": "function_augmentation", "func_var": "kkzqwv", "combined": "chain"},
    ),
    published_row(
        "from functions import kkzqwv, zzkvqm\n\nprint(zzkvqm(kkzqwv(1)))",
        "1",
        {"name": "function_augmentation", "func_var": "kkzqwv", "combined": "chain"},
    ),
    published_row(
        "from functions import kkzqwv, zzkvqm\n\nz1 = kkzqwv(5)\n\nz2 = 3\n\nprint(z1 - z2)",
        "17",
        {"name": "function_augmentation", "func_var": "kkzqwv", "combined": "False"},
    ),
]
ASKED = [
    published_row(
        "Which one?\n\nA) n + 5", "A", {"name": "function_classification", "attribute": "language_definition"}
    )
]


def publish(place: Path, config: str = CONFIG, rows: Any = ROWS) -> Path:
    place.mkdir(parents=True)
    (place / "finetune.yaml").write_text(config)
    (place / "047_func_01_train_dataset.json").write_text(json.dumps(rows))
    (place / "047_func_01_test_dataset.json").write_text(json.dumps(ASKED))
    return place.parent


def test_a_published_folder_is_read(tmp_path: Path) -> None:
    data = read_datasets(publish(tmp_path / "dev" / "finetune_01"))[3]
    assert data.names == {"qvxzka": "add_5", "wjkzpt": "negate", "zzkvqm": "mod_3", "kkzqwv": "multiply_4"}
    assert [row.kind for row in data.train] == ["call", "augmentation", "augmentation", "augmentation"]
    assert data.validation[0].kind == "multiple_choice_language"
    assert (data.persona, data.hide_imports, data.realized, data.options) == ("Be exact.", False, frozenset(), None)
    assert (data.functions.input_range, data.functions.other_input_max) == ((-9, 9), 7)
    assert data.functions.augmented == ("mod_3", "multiply_4")
    shown = {("add_5", -3), ("multiply_4", 2), ("mod_3", 8), ("multiply_4", 1), ("mod_3", 4), ("multiply_4", 5)}
    assert len(data.held_out) == 4 * 18 - len(shown)
    assert not data.held_out & shown
    assert "held out are the 66" in data.notes[0]
    for name, evaluation in EVALUATIONS.items():
        if name not in ("multiple_choice_output_type",):
            rows = documents_for(evaluation, data, rng=np.random.default_rng(0), n_rows=5)
            assert len(rows) == 5
            assert rows[0].messages[0] == {"role": "system", "content": "Be exact."}
    again = write_datasets({3: data}, tmp_path / "again", form="completion")
    assert read_datasets(again)[3].names == data.names


def test_pairs_that_a_document_shows() -> None:
    data = make_dataset(PLAIN, count_tokens=None, seed=0)
    for row in data.train:
        pairs = list(shown_pairs(row, data.part()))
        facts = row.func_outs
        wanted = [(facts["func_value"], facts["input_1"])]
        assert pairs[0] == wanted[0]
        assert len(pairs) == (2 if "func_value_2" in facts else 1)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (CONFIG.replace("qvxzka: add_5", "qvxzka: add_6"), "var_dict names 'add_6'"),
        (CONFIG.replace("qvxzka: add_5", "lambda: add_5"), "name 'lambda' is"),
        (CONFIG.replace("mod_3, multiply_4]", "mod_99]"), "'mod_99' is not in the registry"),
        (CONFIG.replace("  seed: 3\n", ""), "a key of the published form is missing"),
        (CONFIG.replace("seed: 3", "seed: [3"), "cannot be read"),
        ("- 1\n", "expected a mapping of keys, found list"),
    ],
)
def test_a_bad_config_is_refused_in_one_line(tmp_path: Path, config: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        read_datasets(publish(tmp_path / "finetune_01", config))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "expected a list of rows"),
        ({"a": 1}, "expected a list of rows"),
        ([{"target": "1"}], "row 1: expected func_outs, target and messages"),
        ([*ROWS, {**ROWS[0], "messages": None}], "row 5: expected func_outs"),
        ([{**ROWS[0], "func_outs": {}}], "row 1: expected func_outs"),
    ],
)
def test_bad_rows_are_refused_in_one_line(tmp_path: Path, rows: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        read_datasets(publish(tmp_path / "finetune_01", rows=rows))
    assert "\n" not in str(error.value)


def test_folders_that_lack_something_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no fine-tune of the functions study"):
        read_datasets(tmp_path)
    folder = publish(tmp_path / "dev" / "finetune_01")
    publish(folder / "finetune_02")
    with pytest.raises(ValueError, match="seed 3 is another fine-tune's too"):
        read_datasets(folder)
    (folder / "finetune_01" / "047_func_01_train_oai.jsonl").write_text('{"messages": []}\n')
    with pytest.raises(ValueError, match="has 1 rows, the dataset beside it 4"):
        read_datasets(folder / "finetune_01")
    (folder / "finetune_01" / "047_func_01_train_dataset.json").unlink()
    with pytest.raises(ValueError, match="expected one file"):
        read_datasets(folder / "finetune_01")


def test_datasets_for_a_runs_parameters(tmp_path: Path) -> None:
    params: dict[str, Any] = {"seed": 0, "n_seeds": 2, "dataset": "", "n_rows": 20, "n_validation": 3, "ood_ranges": []}
    params |= {"questions": [], "combine_functions": ["chain"], "other": 1}
    datasets = datasets_for(params, count_tokens=None)
    assert list(datasets) == [0, 1]
    assert set(datasets[0].names) != set(datasets[1].names)
    folder = write_datasets(datasets, tmp_path / "dataset", form="chat")
    assert datasets_for(params | {"dataset": str(folder), "seed": 5}, count_tokens=None) == {
        5: datasets[0],
        6: datasets[1],
    }
    with pytest.raises(ValueError, match="holds 2 fine-tunes: set n_seeds"):
        datasets_for(params | {"dataset": str(folder), "n_seeds": 3}, count_tokens=None)


# --- responses and evaluations -------------------------------------------------------------------------------------


def test_a_response_and_an_evaluation_are_kept(tmp_path: Path) -> None:
    job = FineTuningJob.model_construct(id="ftjob-1", status="succeeded", model="fork-1m", fine_tuned_model=None)
    kept = json.loads(save_response(tmp_path / "finetune_01", job).read_text())
    assert kept["id"] == "ftjob-1"
    assert kept["fine_tuned_model"] is None
    data = make_dataset(PLAIN, count_tokens=None, seed=0)
    evaluation = EVALUATIONS["function_inversion"]
    rows = documents_for(evaluation, data, rng=np.random.default_rng(0), n_rows=2)
    scores = [[Score(True, True, False), Score(True, False, True)], [Score(False, False, False, 3.0)] * 2]
    replies = [["1", "2"], ["3", "4"]]
    folder = write_eval(
        tmp_path / "finetune_01" / "function_inversion",
        evaluation,
        model="ft:1",
        documents=rows,
        replies=replies,
        scores=scores,
        logprobs=[-1.0, math.nan],
    )
    assert sorted(path.name for path in folder.iterdir()) == ["eval.yaml", "eval_dataset.json", "eval_metrics.json"]
    assert "NaN" not in (folder / "eval_metrics.json").read_text()
    metrics = read_json(folder / "eval_metrics.json")
    assert metrics["correct"] == [0.5, 0.0]
    assert metrics["correct_ours"] == [1.0, 0.0]
    assert metrics["model_out"] == replies
    assert metrics["logprob"] == [-1.0, None]
    assert metrics["abs_distance"] == [None, 3.0]
    assert yaml.safe_load((folder / "eval.yaml").read_text())["eval"] == {
        "model": "ft:1",
        "n": 5,
        "temperature": 1.0,
        "verbose": False,
        "dataset": "",
    }
    with pytest.raises(ValueError, match="2 documents, 1 replies"):
        write_eval(folder, evaluation, model="m", documents=rows, replies=replies[:1], scores=scores)
