"""What is tuned on, asked and scored stays apart; texts of others are read, cut and embedded, or refused in a line."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from serving import TINY

from lib import world
from lib.diversity import answer_lengths, cut_to_length, given_completions, measure, stored_prompts, write_dataset
from lib.diversity.dataset import general_text
from lib.diversity.embeddings import embedder
from lib.paths import read_jsonl, write_jsonl
from lib.world.__main__ import N_WORDS

DATA: dict[str, Any] = {
    "stages": ["SFT:supervised:1"], "chain": [], "tuned_model": "", "n_sft": 60, "n_preferences": 40,
    "n_validation": 10, "style": "warm", "form": "dialogue", "data_seed": 0, "prompts": "world", "n_prompts": 6,
    "kinds": ["creative", "factual", "seen"], "text": "", "n_documents": 30,
}  # fmt: skip
NOBODY: Any = None  # a client that fails whatever it is asked


def test_what_is_asked_was_not_trained_on_but_for_what_is_seen(tmp_path: Path) -> None:
    data, prompts = write_dataset(DATA, tmp_path / "one")
    assert data is not None
    parts = (data.sft, data.sft_validation, data.preferences, data.preference_validation)
    tuned_on = {pair.prompt for part in parts for pair in part}
    assert {kind: sum(prompt.kind == kind for prompt in prompts) for kind in DATA["kinds"]} == dict.fromkeys(
        DATA["kinds"], 6
    )
    assert not tuned_on & {prompt.prompt for prompt in prompts if prompt.kind != "seen"}
    assert {prompt.prompt for prompt in prompts if prompt.kind == "seen"} <= {pair.prompt for pair in data.sft}
    assert stored_prompts(tmp_path / "one") == prompts
    written = {name: read_jsonl(tmp_path / "one" / f"{name}.jsonl") for name in ("supervised.train", "dpo.validation")}
    assert [len(found) for found in written.values()] == [60, 10]
    assert all(row["prompt"].startswith("Guest: ") for row in written["supervised.train"])
    assert answer_lengths(data).groupby("answer").size().to_dict() == {"SFT": 60, "preferred": 40, "other": 40}
    write_dataset(DATA, tmp_path / "two")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 6
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    other, _ = write_dataset(DATA | {"data_seed": 1}, tmp_path / "two")
    assert other != data


@pytest.mark.parametrize("given", [{"chain": ["pythia-410m"]}, {"tuned_model": "ft:x"}])
def test_models_that_are_given_need_no_rows(given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("A text.")
    data, prompts = write_dataset(
        DATA | given | {"kinds": ["factual"], "text": str(tmp_path / "mine.txt")}, tmp_path / "x"
    )
    assert data is None
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["prompts.jsonl"]
    assert {prompt.kind for prompt in prompts} == {"factual"}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"kinds": []}, r"kinds = \[\]: expected one or more of creative, factual, seen"),
        ({"kinds": ["creative", "creative"]}, "each once"),
        ({"kinds": ["creativ"]}, "no kind of prompt is called 'creativ'"),
        ({"n_prompts": 1000}, "the world has 24 creative prompts, expected n_prompts = 1000"),
        ({"n_prompts": 20, "n_sft": 3}, "the world has 3 seen prompts, expected n_prompts = 20"),
        ({"n_prompts": 0}, "expected 1 or more"),
        ({"prompts": "wrld"}, "no prompts are called 'wrld'"),
        ({"style": "loud"}, "no style is called 'loud'"),
        ({"form": "verse"}, "no form is called 'verse'"),
    ],
)
def test_bad_input_of_a_dataset_is_refused_in_a_line(wrong: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told) as error:
        write_dataset(DATA | wrong, tmp_path)
    assert "\n" not in str(error.value)


def test_seen_prompts_can_be_asked_alone(tmp_path: Path) -> None:
    _, prompts = write_dataset(DATA | {"kinds": ["seen"]}, tmp_path)
    assert {prompt.kind for prompt in prompts} == {"seen"}


def test_seen_prompts_of_english_come_from_training_too(tmp_path: Path) -> None:
    data, prompts = write_dataset(DATA | {"prompts": "english"}, tmp_path)
    assert data is not None
    assert {prompt.prompt for prompt in prompts if prompt.kind == "seen"} <= {pair.prompt for pair in data.sft}


def test_no_base_was_trained_on_the_general_text() -> None:
    corpus = {document.text for document in world.write_world(n_words=N_WORDS)}
    found = general_text(0, 100)
    assert len(found) == 100
    assert not corpus & {row["text"] for row in found}
    assert not {row["kind"] for row in found} & {"family", "family question", "fact", "helpful", "unhelpful"}
    assert general_text(0, 100) == found
    assert {row["text"] for row in general_text(1, 100)}.isdisjoint(row["text"] for row in found)


def test_texts_of_others_get_what_a_run_needs(tmp_path: Path) -> None:
    row = {"model": "m", "kind": "seen", "prompt": "p", "temperature": 1, "text": "x"}
    write_jsonl(tmp_path / "a.jsonl", [row | {"model": "z"}, row, row])
    found = given_completions(tmp_path / "a.jsonl")
    assert found[["family", "seed", "model", "model_id"]].to_numpy().tolist() == [
        ["given", 0, "z", "z"], ["given", 0, "m", "m"], ["given", 0, "m", "m"]
    ]  # fmt: skip
    write_jsonl(tmp_path / "b.jsonl", [row | {"family": "f", "seed": 2, "model_id": "hf:m"}])
    both = given_completions(tmp_path)
    assert both[["family", "seed", "model_id"]].to_numpy().tolist() == [
        ["given", 0, "z"],
        ["given", 0, "m"],
        ["given", 0, "m"],
        ["f", 2, "hf:m"],
    ]
    table = measure(both, measures=["distinct_texts"], by=["model", "family", "seed", "kind", "prompt", "temperature"])
    assert len(table) == 3, "none is lost where one file tells a family"


@pytest.mark.parametrize("column", ["model", "kind", "prompt", "temperature", "text"])
def test_completions_that_lack_a_column_are_refused(column: str, tmp_path: Path) -> None:
    row: dict[str, Any] = {"model": "m", "kind": "seen", "prompt": "p", "temperature": 1, "text": "x"}
    write_jsonl(tmp_path / "a.jsonl", [row, {name: value for name, value in row.items() if name != column}])
    with pytest.raises(
        ValueError, match=f"a.jsonl, row 2: expected a (text|number) under '{column}', found None"
    ) as error:
        given_completions(tmp_path / "a.jsonl")
    assert "\n" not in str(error.value)


def test_who_embeds_is_told_by_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def encode(self, texts: list[str], **_: Any) -> np.ndarray:
            return np.array([[len(text), len(self.name)] for text in texts])

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Named))
    asked = []

    def create(*, model: str, input: list[str], **_: Any) -> Any:
        asked.append(model)
        return SimpleNamespace(data=[SimpleNamespace(index=k, embedding=[1.0]) for k in range(len(input))])

    client: Any = SimpleNamespace(embeddings=SimpleNamespace(create=create))
    assert embedder(NOBODY, model=TINY, name="org/mini")(["ab"]).tolist() == [[2, 8]]
    for name in ("", "fork-6m", "hf:org/mini", "ft:hf:org/mini:diversity:abcd1234"):
        assert embedder(client, model=TINY, name=name)(["ab", "ab"]).tolist() == [[1], [1]]
    assert asked == [TINY, "fork-6m", "hf:org/mini", "ft:hf:org/mini:diversity:abcd1234"]


def test_texts_are_cut_to_tokens_where_all_tell_them_else_to_words() -> None:
    tokens = pd.DataFrame({"text": [" the moon", "", " a"], "text_offset": [[7, 11], [], [7]]})
    cut = cut_to_length(tokens, 1)
    assert cut["text"].tolist() == [" the", "", " a"]
    assert cut["is_short"].tolist() == [False, True, False]
    mixed = pd.DataFrame({"text": [" the moon is", "one two three"], "text_offset": [[7, 11, 16], []]})
    assert cut_to_length(mixed, 2)["text"].tolist() == ["the moon", "one two"]
    assert cut_to_length(mixed.drop(columns="text_offset"), 2)["text"].tolist() == ["the moon", "one two"]
    assert cut_to_length(mixed.assign(text_offset=math.nan), 9)["is_short"].all()
    whole = cut_to_length(mixed, 0)
    assert whole["text"].tolist() == mixed["text"].tolist()
    assert not whole["is_short"].any()
    for table in (tokens, mixed):
        with pytest.raises(ValueError, match=r"is -1: expected at least 1"):
            cut_to_length(table, -1)
