"""The blending study against a server: which models may be blended, what is tuned and asked, what is written."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from openai import NotFoundError, OpenAI
from serving import TINY, facts, official
from starlette.testclient import TestClient

from lib.blending import models as tuning
from lib.blending.generating import add_bits, contenders, generate_texts, opening_prompts, shift_places
from lib.blending.models import Models, base_ids, models_to_tune, read_models, tune
from lib.blending.pair import check_models
from lib.blending.predictions import ask_models
from lib.blending.targets import Targets, draw_targets
from lib.distributions import collect, tokenize
from lib.paths import write_jsonl
from lib.sources.corpus import Document

KIN, SHORT, OTHER = "fork-kin", "fork-short", "fork-other"
PROMPTS = ["The red fox", "Ada Lind is the"]
WEIGHTS = (1.0, 0.8, -0.7)
STORIES = [Document(f"d{k}", "The red fox saw the old baker. " * (k + 1)) for k in range(4)]
PARAMS: dict[str, Any] = {
    "base": TINY, "bigs": [KIN], "size_bases": [], "general": "", "records": "", "tuned_model": "", "direct_models": [],
    "tune_bigs": True, "n_seeds": 1, "seed": 0, "n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 4.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def client(family_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """A client of one server for all tests of this file."""
    from tuning_server.app import make_app
    from tuning_server.types import Settings

    store = tmp_path_factory.mktemp("blending") / "store"
    shutil.copytree(family_store, store)
    with TestClient(make_app(Settings(store=store, allow_hosts=frozenset({"testserver"})))) as http:
        yield official(http)


@pytest.fixture(scope="module")
def finetunes(client: OpenAI, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The small model and the big one, tuned on a few facts."""
    folder = tmp_path_factory.mktemp("rows")
    for name in ("train", "validation"):
        write_jsonl(folder / f"{name}.jsonl", facts(16))
    return tune(client, PARAMS, models_to_tune(PARAMS, seeds=[0]), folder=folder)


@pytest.fixture(scope="module")
def pair(finetunes: pd.DataFrame) -> Models:
    return read_models(finetunes, PARAMS)


def test_both_sizes_are_tuned_and_found_again(finetunes: pd.DataFrame, pair: Models) -> None:
    final = finetunes[finetunes["is_final"]]
    assert final[["role", "base"]].to_numpy().tolist() == [["tuned", TINY], ["direct", KIN]]
    assert (pair.base, pair.bigs) == (TINY, (KIN,))
    assert pair.tuned == {0: final["model"].iloc[0]}
    assert pair.direct == {(KIN, 0): final["model"].iloc[1]}
    assert ":blending:" in pair.tuned[0]


def test_existing_models_are_looked_up_and_not_trained(client: OpenAI, pair: Models, tmp_path: Path) -> None:
    given = PARAMS | {"tuned_model": pair.tuned[0], "direct_models": [pair.direct[KIN, 0]], "seed": 7}
    jobs = models_to_tune(given, seeds=[7])
    assert jobs == {}
    table = tune(client, given, jobs, folder=tmp_path)
    assert read_models(table, given) == Models(TINY, (KIN,), {7: pair.tuned[0]}, {(KIN, 7): pair.direct[KIN, 0]})
    with pytest.raises(ValueError, match="1 direct_models for 2 big models: expected one for each"):
        tune(client, given | {"bigs": [KIN, SHORT]}, jobs, folder=tmp_path)
    with pytest.raises(NotFoundError, match="does not exist"):
        tune(client, given | {"tuned_model": "ft:none"}, jobs, folder=tmp_path)


def test_which_models_a_run_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    three = PARAMS | {"n_seeds": 3, "size_bases": [SHORT, KIN]}
    assert base_ids(three) == (TINY, [KIN, SHORT]), "each big model once"
    assert base_ids(three | {"n_seeds": 2}) == (TINY, [KIN])
    jobs = models_to_tune(three, seeds=[0, 1, 2])
    assert [job.seed for job in jobs["tuned"]] == [0, 1, 2]
    assert [(job.base, job.seed) for job in jobs["direct"]] == [(KIN, 0), (KIN, 1), (KIN, 2), (SHORT, 0)]
    assert set(models_to_tune(three | {"tune_bigs": False}, seeds=[0])) == {"tuned"}
    with pytest.raises(ValueError, match="bigs is empty: name at least one big model"):
        base_ids(PARAMS | {"bigs": []})
    monkeypatch.setattr(tuning, "make_base", lambda name, text: f"{name}@{text.name}")
    general = PARAMS | {"general": "my/texts", "base": "fork-1m:init", "bigs": ["fork-6m", "fork-6m@a", "hf:b"]}
    assert base_ids(general) == ("fork-1m@texts:init", ["fork-6m@texts", "fork-6m@a", "hf:b"])


def test_a_pair_that_fits_passes(client: OpenAI, pair: Models) -> None:
    told = {"base": TINY, "tuned": [pair.tuned[0]], "bigs": [KIN, *pair.direct.values()]}
    check_models(client, **told, longest=511)
    # the same weights by another name
    for base in (f"{TINY}@0123456789ab", f"{TINY}:init"):
        check_models(client, **(told | {"base": base}), longest=8)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"bigs": [KIN, OTHER]}, f"{OTHER} and {TINY} have different tokenizers"),
        ({"longest": 512}, f"a context of 512 tokens and its target are too long for {TINY}, which reads 512"),
        ({"bigs": [SHORT], "longest": 24}, f"too long for {SHORT}, which reads 24"),
        ({"base": KIN}, f"was made from {TINY}, not from {KIN}"),
        ({"tuned": [KIN]}, f"{KIN} does not say what it was made from, not from {TINY}"),
    ],
)
def test_a_pair_that_does_not_fit_is_one_clear_line(
    client: OpenAI, pair: Models, changed: dict[str, Any], why: str
) -> None:
    told: dict[str, Any] = {"base": TINY, "tuned": [pair.tuned[0]], "bigs": [KIN], "longest": 8} | changed
    with pytest.raises(ValueError) as error:
        check_models(client, **told)
    assert why in str(error.value)
    assert "\n" not in str(error.value)
    with nullcontext() if "made from" in why else pytest.raises(ValueError):
        check_models(client, **told, allow_unrelated=True)


def endpoint(models: Mapping[str, dict[str, Any]]) -> Any:
    """An endpoint that tells no more than this of its models."""

    def retrieve(model: str) -> Any:
        if model not in models:
            response = httpx.Response(404, request=httpx.Request("GET", f"http://testserver/v1/models/{model}"))
            raise NotFoundError("no such model", response=response, body=None)
        return SimpleNamespace(model_dump=lambda: {"id": model} | models[model])

    return SimpleNamespace(models=SimpleNamespace(retrieve=retrieve))


@pytest.mark.parametrize("parent", ["other", "gone"])
def test_an_endpoint_that_tells_no_fingerprint_does_not_make_models_related(parent: str) -> None:
    hosted = endpoint({"base": {}, "other": {}, "tuned": {"parent": parent}})
    with pytest.raises(ValueError, match=f"tuned was made from {parent}, not from base"):
        check_models(hosted, base="base", tuned=["tuned"], bigs=["other"], longest=9_999)
    check_models(hosted, base="base", tuned=["tuned"], bigs=["other"], longest=9_999, allow_unrelated=True)


@pytest.fixture(scope="module")
def targets(client: OpenAI) -> Targets:
    return draw_targets(client, TINY, STORIES, n_targets=12, context_tokens=[1, 5])


def test_every_model_is_asked_for_the_same_targets(
    client: OpenAI, pair: Models, targets: Targets, tmp_path: Path
) -> None:
    predictions = ask_models(client, targets, {TINY: True, pair.tuned[0]: True, KIN: False}, folder=tmp_path)
    assert (predictions.context_tokens, predictions.vocab_size) == ([1, 5], client.models.retrieve(TINY).vocab_tokens)
    wanted = targets.wanted()
    assert predictions.tables[5]["target"].tolist() == wanted
    for length in (1, 5):
        for row in (0, 7, 11):
            document, position = targets.table.loc[row, ["document", "position"]]
            context = targets.tokens[document].ids[position - length : position]
            alone = collect(client, KIN, [context], [wanted[row]], folder=tmp_path / "alone", full=False)
            assert predictions.nll_nats(KIN, length)[row] == pytest.approx(-float(alone.target_logprobs[0]), abs=1e-4)
        support = predictions.support(length, big=TINY, tuned=pair.tuned[0], base=TINY)
        own = support.tuned[np.arange(12), wanted].astype(float)
        np.testing.assert_allclose(own, -predictions.nll_nats(pair.tuned[0], length), atol=0.01)
    assert (predictions.nll_nats(TINY, 1) != predictions.nll_nats(TINY, 5)).all()


def test_an_endpoint_that_shows_few_tokens_fills_the_same_table(
    client: OpenAI, pair: Models, targets: Targets, tmp_path: Path
) -> None:
    few = ask_models(client, targets, dict.fromkeys([TINY, pair.tuned[0]], True), folder=tmp_path, top_k=100)
    whole = ask_models(client, targets, {TINY: False}, folder=tmp_path)
    missed = np.isnan(few.parts[TINY, 5].target_logprobs)
    assert 0 < missed.sum() < 12
    np.testing.assert_allclose(few.nll_nats(TINY, 5)[~missed], whole.nll_nats(TINY, 5)[~missed], atol=1e-4)
    support = few.support(5, big=TINY, tuned=pair.tuned[0], base=TINY)
    assert support.log_counts is not None
    assert np.isfinite(few.nll_nats(TINY, 5)).all()


def test_prompts_are_openings_of_documents(client: OpenAI) -> None:
    prompts = opening_prompts(client, TINY, STORIES, n=2, n_tokens=5)
    assert len(prompts) == 2
    assert all(document.text.startswith(prompt) for document, prompt in zip(STORIES[::3], prompts, strict=True))
    assert [len(tokenize(client, TINY, prompt).items) for prompt in prompts] == [5, 5]
    assert len(opening_prompts(client, TINY, STORIES, n=9, n_tokens=5)) == 4
    with pytest.raises(ValueError, match="no test document is longer than 500 tokens: give prompts, or lower"):
        opening_prompts(client, TINY, STORIES, n=2, n_tokens=500)


@pytest.fixture(scope="module")
def texts(client: OpenAI, pair: Models, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    who = contenders(
        big=KIN, tuned=pair.tuned[0], base=TINY, direct=pair.direct[KIN, 0], weights=WEIGHTS, alphas=[0.0, 1.0],
        fade_tokens=3, plausibility=0.0,
    )  # fmt: skip
    journal = tmp_path_factory.mktemp("texts") / "journal.jsonl"
    return generate_texts(client, PROMPTS, who, journal=journal, max_tokens=12, temperature=0.8, seed=3)


def written(texts: pd.DataFrame, condition: str, x: float = math.nan) -> list[str]:
    at = texts["x"].isna() if math.isnan(x) else texts["x"] == x
    return texts.loc[at & (texts["condition"] == condition), "text"].tolist()


def test_everyone_continues_the_same_prompts(client: OpenAI, texts: pd.DataFrame) -> None:
    assert texts.groupby(["condition", "x"], dropna=False)["prompt"].apply(list).map(lambda p: p == PROMPTS).all()
    assert len(texts) == 8 * 2
    options = {"max_tokens": 12, "temperature": 0.8, "seed": 3}
    alone = [client.completions.create(model=KIN, prompt=prompt, **options).choices[0].text for prompt in PROMPTS]
    assert written(texts, "big") == alone == written(texts, "alpha", 0.0)
    assert written(texts, "alpha", 1.0) != alone
    assert written(texts, "blended") != alone


def test_texts_are_read_by_a_judge(client: OpenAI, texts: pd.DataFrame, tmp_path: Path) -> None:
    some = pd.concat([texts.iloc[:2], texts.iloc[:1].assign(text="")], ignore_index=True)
    read = add_bits(client, some, judge=KIN, journal=tmp_path / "bits.jsonl")
    assert read["n_bytes"].tolist() == [*(len(text.encode()) for text in some["text"][:2]), 0]
    assert math.isnan(read["bits"][2])
    prompt, text = some.loc[0, ["prompt", "text"]]
    echo = client.completions.create(model=KIN, prompt=prompt + text, max_tokens=0, echo=True, logprobs=0)
    told = echo.choices[0].logprobs
    ends = np.array([*told.text_offset[1:], len(prompt + text)])
    after = np.array(told.token_logprobs[1:], dtype=float)[ends[1:] > len(prompt)].sum()
    assert read["bits"][0] == pytest.approx(-after / math.log(2), abs=1e-3)
    nothing = add_bits(client, some.iloc[2:], judge=KIN, journal=tmp_path / "bits.jsonl")
    assert nothing["bits"].isna().all()


def test_where_the_shift_acts(client: OpenAI, pair: Models, texts: pd.DataFrame, tmp_path: Path) -> None:
    blended = texts[texts["condition"] == "blended"]
    three = {"big": KIN, "tuned": pair.tuned[0], "base": TINY}
    shift = shift_places(client, blended, **three, weights=WEIGHTS, folder=tmp_path)
    assert shift["prompt"].unique().tolist() == PROMPTS
    for _, rows in shift.groupby("prompt"):
        assert rows["place"].tolist() == list(range(1, len(rows) + 1))
    assert 0 < shift["changed"].mean() < 1
    for prompt in PROMPTS:  # the first new token, greedily
        options: dict[str, Any] = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 1}
        blend = {"blend": {"tuned": pair.tuned[0], "base": TINY, "weights": WEIGHTS}}
        firsts = [
            client.completions.create(model=KIN, **options, extra_body=extra).choices[0].logprobs.tokens
            for extra in (None, blend)
        ]
        at = (shift["prompt"] == prompt) & (shift["place"] == 1)
        assert shift.loc[at, "changed"].item() == (firsts[0] != firsts[1])
    unmoved = shift_places(client, blended, **(three | {"base": pair.tuned[0]}), weights=(1, 1, -1), folder=tmp_path)
    assert not unmoved["changed"].any()
    empty = blended.assign(text="")
    assert shift_places(client, empty, **three, weights=WEIGHTS, folder=tmp_path).columns.tolist() == [*shift.columns]
