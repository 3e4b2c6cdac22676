"""What the blending study reads and tells: documents, targets, published records, who writes, numbers of texts."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from openai import OpenAI
from planted import World, number, world

from lib import world as invented
from lib.api import Blend
from lib.blending import read_records, save_records
from lib.blending import targets as drawing
from lib.blending.dataset import SPLITS, Dataset, make_dataset, read_split, split_table, write_dataset
from lib.blending.generating import contenders, place_bands
from lib.blending.predictions import predictions_of_records
from lib.blending.records import GPT2_VOCAB_TOKENS, load_records
from lib.blending.stages import fit_all, pooled_lengths, run_models, run_predictions, score_all, sizes_of
from lib.blending.summary import summarise
from lib.blending.targets import draw_targets
from lib.blending.text_summary import summarise_texts
from lib.distributions import Tokens, top_k
from lib.notebook import Run
from lib.paths import read_jsonl
from lib.sources.corpus import Document

PARAMS: dict[str, Any] = {
    "stories": "", "document": "auto", "n_documents": 20, "validation_share": 0.2, "test_share": 0.2,
    "segment_words": 30, "segments": "document", "max_tune_examples": 0, "data_seed": 1,
}  # fmt: skip
NO_CLIENT: Any = SimpleNamespace()  # whatever would ask it fails


def dataset(**changes: Any) -> Dataset:
    return make_dataset(PARAMS | changes)


def told(error: pytest.ExceptionInfo[ValueError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def tales(tmp_path: Path) -> Path:
    """Twelve files; the last is the first in other capitals."""
    texts = [story.text for story in invented.stories(5, 11)]
    (tmp_path / "tales").mkdir()
    for k, text in enumerate([*texts, texts[0].upper()]):
        (tmp_path / "tales" / f"{k:02}.txt").write_text(text)
    return tmp_path / "tales"


def test_no_document_is_in_two_splits_and_rows_come_from_tuning_documents(tmp_path: Path) -> None:
    data = dataset()
    names = [document.name for split in SPLITS for document in data.documents[split]]
    assert len(names) == len(set(names)) == 20
    assert split_table(data)["documents"].to_dict() == {"tuning": 12, "validation": 4, "test": 4}
    text = {split: "\n".join(document.text for document in data.documents[split]) for split in SPLITS}
    for row in data.training_rows:
        assert (row["prompt"], row["completion"][0]) == ("", " ")
        assert row["completion"][1:] in text["tuning"]
        assert len(row["completion"][1:].split(" ")) <= 30
        assert row["completion"][1:] not in text["validation"] + text["test"]
    write_dataset(data, tmp_path)
    for split in SPLITS:
        assert read_split(tmp_path, split) == data.documents[split]
    assert read_jsonl(tmp_path / "train.jsonl") == data.training_rows
    first = read_jsonl(tmp_path / "validation.jsonl")[0]["completion"]
    assert data.documents["validation"][0].text.startswith(first[1:])
    assert dataset() == data
    assert dataset(data_seed=2).documents["test"] != data.documents["test"]


def test_near_duplicates_stay_on_one_side(tales: Path) -> None:
    sides = set()
    for seed in range(6):
        data = dataset(stories=str(tales), data_seed=seed)
        assert data.n_duplicates == 2
        side = {split for split in SPLITS for document in data.documents[split] if document.name[:2] in ("00", "11")}
        assert len(side) == 1
        sides |= side
    assert len(sides) > 1, "they are not always put there by chance"


def test_rows_can_be_cut_as_published() -> None:
    data = dataset(segments="published", max_tune_examples=5)
    words = "\n".join(document.text for document in data.documents["tuning"]).split(" ")
    step = len(words) // (len(words) // 30)
    expected = [" " + " ".join(words[k * step : (k + 1) * step]) for k in range(5)]
    assert [row["completion"] for row in data.training_rows] == expected
    assert len(dataset(segments="published").training_rows) > 5


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ([], "no text in"),
        (["A fox.", "An owl."], "2 documents cannot be split in 3, expected at least 3: give more text"),
        (["A fox saw the old baker.", "A fox saw the old baker!", "An owl."], "2 when near-duplicates count as one"),
    ],
)
def test_too_few_documents_are_one_clear_line(tmp_path: Path, texts: list[str], why: str) -> None:
    for k, text in enumerate(texts):
        (tmp_path / f"{k}.txt").write_text(text)
    with pytest.raises(ValueError) as error:
        dataset(stories=str(tmp_path))
    assert why in told(error)


def test_shares_and_rows_that_leave_nothing_to_tune_on_are_refused() -> None:
    for shares in ({"validation_share": 0.5, "test_share": 0.5}, {"validation_share": 0.9}):
        with pytest.raises(ValueError) as error:
            dataset(**shares)
        assert "validation_share and test_share sum to 1" in told(error)
    with pytest.raises(ValueError) as error:
        dataset(segments="published", segment_words=100_000)
    assert "segment_words" in told(error)


def by_words(client: OpenAI, model: str, text: str) -> Tokens:
    words = text.split()
    return Tokens(tuple(int(word[1:]) for word in words), tuple(words), tuple(map(len, words)))


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> list[Document]:
    """Documents whose k-th token is number k, but for the hundreds, which tell the document."""
    monkeypatch.setattr(drawing, "tokenize", by_words)
    return [Document(f"d{d}", " ".join(f"w{100 * d + k}" for k in range(20 + d))) for d in range(1, 5)]


def test_targets_are_the_same_after_nested_contexts(numbered: list[Document]) -> None:
    targets = draw_targets(NO_CLIENT, "m", numbered, n_targets=15, context_tokens=[1, 3, 12])
    assert len(targets) == 15
    assert set(targets.table["document"]) == {"d1", "d2", "d3", "d4"}
    assert targets.table["position"].min() == 12
    wanted, contexts = targets.wanted(), targets.contexts()
    assert len(contexts) == 3 * 15
    for row, token in zip(targets.table.itertuples(), wanted, strict=True):
        assert token == 100 * int(row.document[1:]) + row.position
        assert row.n_bytes == len(f"w{token}")
    for length in (1, 3, 12):
        for token, context in zip(wanted, contexts[targets.rows(length)], strict=True):
            assert list(context) == list(range(token - length, token)), "what stands right before it"
    everything = draw_targets(NO_CLIENT, "m", numbered, n_targets=10_000, context_tokens=[12])
    assert len(everything) == sum(20 + d - 12 for d in range(1, 5)), "each place once"


def test_contexts_that_no_document_has_are_refused(numbered: list[Document]) -> None:
    assert len(draw_targets(NO_CLIENT, "m", numbered, n_targets=9, context_tokens=[1, 23])) == 1
    with pytest.raises(ValueError) as error:
        draw_targets(NO_CLIENT, "m", numbered, n_targets=9, context_tokens=[1, 24])
    assert "no document of 4 has a token after 24 others (the longest: 24 tokens)" in told(error)
    for lengths in ([], [0, 1], [4, 2], [2, 2]):
        with pytest.raises(ValueError) as error:
            draw_targets(NO_CLIENT, "m", numbered, n_targets=9, context_tokens=lengths)
        assert "expected rising lengths from 1 on" in told(error)


def published_folder(folder: Path, *, n: int = 240, second_big: bool = True) -> tuple[Path, World]:
    """Results as published: a pickle a context length, its lists by id."""
    made = world(5, n=n, lengths=(1, 4), further=True)
    names = {"small_untuned_logprobs": "base", "small_tuned_logprobs": "tuned:0", "big_logprobs": "big"}
    names |= {"davinci_base_logprobs": "bigger"} if second_big else {}
    folder.mkdir()
    for length in (1, 4):
        lists = {key: top_k(made.logprobs[model, length], 6) for key, model in names.items()}
        rows = [
            {
                key: dict(zip(each.ids[i].tolist(), each.logprobs[i].tolist(), strict=True))
                for key, each in lists.items()
            }
            | {"token": int(made.tables[length]["target"][i]), "word": "wolf"}
            for i in range(n)
        ]
        (folder / f"raw_api_results_{n}ex_{length}tb.pkl").write_bytes(pickle.dumps(rows))
    return folder, made


@pytest.mark.parametrize("second_big", [True, False])
def test_saved_records_come_back_whole(tmp_path: Path, second_big: bool) -> None:
    records = read_records(published_folder(tmp_path / "raw", n=20, second_big=second_big)[0])
    save_records(records, tmp_path / "records.npz")
    found = load_records(tmp_path / "records.npz")
    assert list(found) == list(records) == [1, 4]
    for length, each in found.items():
        assert each.context_tokens == length
        assert (each.davinci_base is not None) == second_big
        np.testing.assert_array_equal(each.targets, records[length].targets)
        for name in ("big", "tuned", "base", *(["davinci_base"] if second_big else [])):
            for array in ("ids", "logprobs", "tail"):
                saved, read = (getattr(getattr(which, name), array) for which in (each, records[length]))
                np.testing.assert_array_equal(saved, read)


def test_published_records_go_the_way_of_a_run(tmp_path: Path) -> None:
    folder, made = published_folder(tmp_path / "raw")
    params = {"records": str(folder)}
    run = Run("blending", "04-blending", "tiny", tmp_path, params, np.random.default_rng(0))
    save_records(read_records(folder), run.path("dataset/records.npz"))
    models = run_models(run)
    assert models.bigs == ("big", "davinci_base")
    predictions = {half: run_predictions(run, models, split=half, n_targets=0) for half in ("validation", "test")}
    for half, rows in {"validation": slice(0, 120), "test": slice(120, 240)}.items():
        np.testing.assert_array_equal(predictions[half].tables[4]["target"], made.tables[4]["target"][rows])
        whole = -made.logprobs["big", 4][np.arange(240), made.tables[4]["target"]][rows]
        there = ~np.isnan(predictions[half].parts["big", 4].target_logprobs)
        assert 0 < there.sum() < 120
        np.testing.assert_allclose(predictions[half].nll_nats("big", 4)[there], whole[there], atol=1e-5)
    assert predictions["test"].tables[4].groupby("document").size().to_dict() == {
        "rows 0": 50,
        "rows 50": 50,
        "rows 100": 20,
    }
    assert predictions["test"].vocab_size == GPT2_VOCAB_TOKENS
    assert pooled_lengths(predictions["test"], 4) == [4]
    assert pooled_lengths(predictions["test"], 25) == [4], "the longest, where none is long enough"
    assert sizes_of(run, models) == {"big": 0, "davinci_base": 0}
    fits = fit_all(predictions["validation"], models, pooled=[4], storage=tmp_path / "trials.log", n_trials=2, seed=0)
    scores, rng = score_all(predictions["test"], models, fits), np.random.default_rng(0)
    summary = summarise(scores, fits, preset="tiny", bigs=models.bigs, pooled=[4], n_weights={}, rng=rng)
    assert np.isfinite(scores["nll_nats"]).all()
    assert "bits_per_byte" not in set(summary["metric"]), "records do not tell bytes"
    assert number(summary, "big", "nats_saved")["low"] > 0


def test_one_record_cannot_be_halved(tmp_path: Path) -> None:
    records = read_records(published_folder(tmp_path / "raw", n=1)[0])
    with pytest.raises(ValueError, match="1 record of 1 tokens back cannot be halved") as refused:
        predictions_of_records(records, half="validation")
    assert "\n" not in str(refused.value)


def test_contenders_of_the_texts() -> None:
    options: dict[str, Any] = {"big": "B", "tuned": "T", "base": "U", "weights": (1.0, 0.8, -0.7), "plausibility": 0.1}
    who = contenders(**options, direct="D", alphas=[0.0, 0.5], fade_tokens=4)
    names = ["base", "tuned", "big", "direct", "blended", "alpha", "alpha", "fade"]
    assert [one.condition for one in who] == names
    assert [one.model for one in who] == ["U", "T", "B", "D", "B", "B", "B", "B"]
    assert [one.x for one in who if not math.isnan(one.x)] == [0.0, 0.5]
    assert [one.blend for one in who[:4]] == [None] * 4
    blended, none, half, fade = (one.blend for one in who[4:])
    assert blended == Blend("T", "U", (1.0, 0.8, -0.7), 0.1)
    assert (none.weights, half.weights) == ((1, 0, 0), (1, 0.5, -0.5))
    assert fade.schedule == (1, 0.75, 0.5, 0.25, 0), "four tokens with a shift, then none"
    assert (fade.weights, fade.plausibility) == ((1.0, 0.8, -0.7), 0.1)
    without = contenders(**options, direct="", alphas=[], fade_tokens=1)
    assert [one.condition for one in without] == ["base", "tuned", "big", "blended", "fade"]
    assert without[-1].blend.schedule == (1, 0)


@pytest.mark.parametrize("n", range(20))
def test_bands_of_places_cover_each_place_once(n: int) -> None:
    assert [place for first, last in place_bands(n) for place in range(first, last + 1)] == list(range(1, n + 1))


def texts_of(bits: dict[str, list[float]]) -> pd.DataFrame:
    rows = [
        {"condition": name.partition("@")[0], "x": float(name.partition("@")[2] or "nan"), "prompt": f"p{k}",
         "text": "wolf", "bits": value, "n_bytes": k + 1}
        for name, values in bits.items()
        for k, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_numbers_of_texts(tmp_path: Path) -> None:
    texts = texts_of({"big": [2, 4, 6], "blended": [1, 2, math.nan], "alpha@0.5": [1, 1, 1], "alpha@1": [2, 2, 2]})
    places = [(f"p{k}", place) for k in range(3) for place in range(1, 7)]
    shift = pd.DataFrame(places, columns=["prompt", "place"])
    shift["changed"] = (shift["place"] == 1) | ((shift["place"] >= 4) & (shift["prompt"] == "p0"))
    found = summarise_texts(texts, shift, preset="tiny", big="big", rng=np.random.default_rng(0))
    bits = found[found["metric"] == "bits_under_direct"].set_index(["condition", "x"])
    assert bits.loc["big", "value"].item() == pytest.approx(12 / 6)
    assert bits.loc["blended", ["value", "n"]].to_numpy().tolist() == [[1.0, 2]], "an empty text has no bits"
    assert bits.loc[("alpha", 0.5), "value"] == pytest.approx(3 / 6)
    assert bits.loc[("alpha", 1.0), "value"] == pytest.approx(1.0)
    changed = found[found["metric"] == "argmax_changed"]
    assert dict(zip(changed["x"], changed["value"], strict=True)) == pytest.approx({1: 1, 2: 0, 4: 1 / 3}, abs=1e-5)
    assert set(changed["x_name"]) == {"new_token"}


def test_no_texts_give_no_numbers() -> None:
    texts = pd.DataFrame(columns=["condition", "x", "prompt", "text", "bits", "n_bytes"])
    shift = pd.DataFrame(columns=["prompt", "place", "changed"])
    assert summarise_texts(texts, shift, preset="tiny", big="big", rng=np.random.default_rng(0)).empty
