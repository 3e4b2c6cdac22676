"""Chains on a tiny server: models that exist, texts with their settings, and next-token statistics of documents."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from next_tokens import BEGIN, CONTEXT, StubClient, of_last_token, of_whole_context, plain_statistics
from openai import NotFoundError
from serving import TINY, official
from starlette.testclient import TestClient

from lib.diversity import next_token
from lib.diversity.chain import given_chain, known_models, read_stages, training_curves
from lib.diversity.measuring import cut_to_length, embedder, measure
from lib.diversity.next_token import score, stream
from lib.diversity.prompts import read_choices, read_prompts
from lib.diversity.sampling import likeliest_texts, option_probs, sample
from lib.diversity.statistics import kl_by_position, mean_over_seeds, read_units, values_of, with_intervals

TEXTS = [f"text {k} " + "abc def " * (k * 7 % 11) + "ü" * (k % 3) for k in range(30)]
BOTH = {"tuned": of_last_token(1), "base": of_last_token(2)}
SHAPES = {"70m": (6, 512), "160m": (12, 768), "410m": (24, 1024), "2.8b": (32, 2560), "6.9b": (32, 4096)}
LIMITS = {"creative": 5, "seen": 5, "factual": 3}


@pytest.fixture(scope="module")
def client(family_store, tmp_path_factory):
    """Of one server for the whole file."""
    from tuning_server.app import make_app
    from tuning_server.types import Settings

    store = tmp_path_factory.mktemp("study") / "store"
    shutil.copytree(family_store, store)
    with TestClient(make_app(Settings(store=store, allow_hosts=frozenset({"testserver"})))) as http:
        yield official(http)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in TEXTS))
    return str(path)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["SFT:supervised:1", "SFT:dpo:1"], "two stages of one chain are called 'SFT': give each a label of its own"),
        (["SFT:supervised:2", "SFT 1:dpo:1"], "two stages of one chain are called 'SFT 1'"),
        (["base:supervised:1"], "two stages of one chain are called 'base'"),
        (["SFT:ppo:1"], "stage 'SFT:ppo:1': expected label:method:epochs with a method of supervised, dpo"),
        (["SFT:supervised:0"], "stage 'SFT:supervised:0': expected"),
        (["S/T:dpo:1"], "stage 'S/T:dpo:1': expected"),
    ],
)
def test_wrong_stages_are_refused(stages, message):
    with pytest.raises(ValueError, match="stage") as error:
        read_stages(stages)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("family", SHAPES)
def test_declared_sizes_follow_from_the_published_shapes(family):
    layers, width = SHAPES[family]
    vocabulary = 50_432 if family == "6.9b" else 50_304
    n_weights = 2 * vocabulary * width + layers * (12 * width**2 + 13 * width) + 2 * width
    own = known_models().query("family == @family")
    assert set(own["n_parameters"]) == {n_weights}
    assert own["stage"].iloc[0] == "base"
    assert own["stage"].is_unique


def stub(**about):
    retrieve = lambda model: SimpleNamespace(model_dump=lambda: {"id": model, **about[model]})  # noqa: E731
    return SimpleNamespace(models=SimpleNamespace(retrieve=retrieve))


def test_known_names_are_compared_with_what_is_declared():
    declared = known_models().query("family == '410m'")
    about = {row.model: {"n_weights": row.n_parameters, "tokenizer": "t"} for row in declared.itertuples()}
    found = given_chain(stub(**about, **{"hf:mine": {"tokenizer": "t"}}), [*declared.index, "mine:hf:mine"])
    assert found["stage"].tolist() == ["base", "SFT", "DPO", "mine"]
    assert found["template"].tolist() == [*declared["template"], "chat"]
    assert set(found["family"]) == {"410m"}
    about[declared["model"].iloc[1]]["n_weights"] //= 2
    with pytest.raises(ValueError, match="weights, expected 405,334,016: the id is that of another model"):
        given_chain(stub(**about), list(declared.index))


def test_models_that_exist_are_looked_up(client):
    found = given_chain(client, [f"base:{TINY}", "my DPO:fork-kin"], seed=3)
    columns = ["family", "stage", "position", "seed", "model", "template", "job"]
    assert found[columns].to_numpy().tolist() == [
        [TINY, "base", 0, 3, TINY, "dialogue", ""], [TINY, "my DPO", 1, 3, "fork-kin", "dialogue", ""]
    ]  # fmt: skip
    families = given_chain(client, [f"a/base:{TINY}", "b/base:fork-other", "a/SFT:fork-kin"], template="plain")
    assert families[["family", "stage", "position"]].to_numpy().tolist() == [
        ["a", "base", 0], ["b", "base", 0], ["a", "SFT", 1]
    ]  # fmt: skip
    assert training_curves(client, found).empty
    with pytest.raises(ValueError, match=rf"fork-other \(\d+ tokens\) and {TINY} .* have different tokenizers"):
        given_chain(client, ["base:fork-other", f"SFT:{TINY}"])
    with pytest.raises(ValueError, match="two stages of one chain are called 'SFT'"):
        given_chain(client, [f"a/SFT:{TINY}", "a/SFT:fork-kin"])
    with pytest.raises(NotFoundError, match="fork-nowhere"):
        given_chain(client, ["base:fork-nowhere"])
    with pytest.raises(ValueError, match=r"'pythia-70' is not label:model, nor in data/diversity/models.yaml"):
        given_chain(client, [f"base:{TINY}", "pythia-70"])


def test_texts_come_with_every_setting_and_are_kept(client, tmp_path, monkeypatch):
    models = given_chain(client, [f"base:{TINY}", "SFT:fork-kin", "chat:fork-kin"])
    models["template"] = ["plain", "dialogue", "chat"]
    prompts = read_prompts("world", n_prompts=2, seen=["Give me a name.", "Give me a day."])
    drawing = {"temperatures": [0.5, 1.0], "n_samples": 3, "max_tokens": LIMITS, "stop": ["\nGuest:"]}
    drawing |= {"seed": 7, "journal": tmp_path / "j"}
    texts = sample(client, models, prompts, **drawing)
    assert len(texts) == 3 * 6 * 2 * 3
    assert not texts.duplicated(["stage", "kind", "prompt", "temperature", "sample"]).any()
    for column in ("token_logprobs", "text_offset"):
        assert (texts["token_ids"].map(len) == texts[column].map(len)).all()
    assert (texts["token_ids"].map(len) <= texts["kind"].map(LIMITS)).all()
    cut = cut_to_length(texts, 2)
    assert all(whole.startswith(part) for whole, part in zip(texts["text"], cut["text"], strict=True))
    names = ["jaccard_2", "cosine", "vendi_cosine", "distinct_texts"]
    sets = ["stage", "kind", "prompt", "temperature"]
    found = measure(texts, by=sets, embed=embedder(client, model=TINY), names=names)
    assert len(found) == 3 * 6 * 2 * 4
    assert found.query("measure == 'vendi_cosine'")["value"].dropna().between(1, 3.001).all()
    choices = read_choices()[:2]
    options = option_probs(client, models, choices, journal=tmp_path / "j")
    assert len(options) == 3 * 16
    assert (options.groupby(["stage", "prompt"])["prob"].sum() <= 1).all()
    likeliest = likeliest_texts(client, models, prompts[:1], max_tokens=3, journal=tmp_path / "j")
    assert likeliest["tokens"].map(len).equals(likeliest["token_logprobs"].map(len))
    monkeypatch.setattr(client.completions, "create", None)
    monkeypatch.setattr(client.chat.completions, "create", None)
    pd.testing.assert_frame_equal(sample(client, models, prompts, **drawing), texts)


def test_documents_are_scored_as_a_plain_loop_over_windows_does(text, tmp_path):
    found = score(StubClient(BOTH), "tuned", text, folder=tmp_path, base="base")
    documents, base = [], []
    for each in TEXTS:
        ids = list(each.encode())
        behind = [BEGIN, *ids]
        for start in range(0, len(ids), CONTEXT):
            contexts = [behind[start : k + 1] for k in range(start, min(start + CONTEXT, len(ids)))]
            documents.append((np.array([BOTH["tuned"](c) for c in contexts]), np.array(ids[start : start + CONTEXT])))
            base.append(np.array([BOTH["base"](c) for c in contexts]))
    n_bytes = sum(len(each.encode()) for each in TEXTS)
    plain = plain_statistics(documents, n_bytes, base=base)
    values = values_of(found)
    assert set(values) == set(plain) == set(read_units())
    for name, value in plain.items():
        assert values[name].iloc[0] == pytest.approx(value, rel=1e-6, abs=1e-6), name  # sums come in float32
    table = found.documents
    assert (table["tokens"].sum(), table["bytes"].sum()) == (n_bytes, n_bytes)
    assert table["document"].tolist() == list(range(30))
    tuned, other = BOTH["tuned"]([BEGIN]), BOTH["base"]([BEGIN])
    assert kl_by_position(found)[1].iloc[0] == pytest.approx((np.exp(tuned) * (tuned - other)).sum())


def test_documents_that_share_a_request_are_taken_apart(text, tmp_path, monkeypatch):
    client = StubClient({"m": of_whole_context})
    together = score(client, "m", text, folder=tmp_path / "together", window=12, stride=5)
    assert client.n_asked == 1
    monkeypatch.setattr(next_token, "REQUEST_TOKENS", 1)
    alone = score(client, "m", text, folder=tmp_path / "alone", window=12, stride=5)
    assert client.n_asked == 1 + len(TEXTS)
    pd.testing.assert_frame_equal(alone.documents, together.documents)
    assert np.allclose(alone.arrays["probs"], together.arrays["probs"], rtol=1e-9)


def test_a_killed_run_goes_on_where_it_ended(text, tmp_path, monkeypatch):
    monkeypatch.setattr(next_token, "REQUEST_TOKENS", 50)
    monkeypatch.setattr(next_token, "SAVE_SECONDS", 0)
    undisturbed = StubClient(BOTH)
    whole = score(undisturbed, "tuned", text, folder=tmp_path / "whole")
    killed = StubClient(BOTH, stop_after=undisturbed.n_asked * 6 // 10)
    with pytest.raises(KeyboardInterrupt):
        score(killed, "tuned", text, folder=tmp_path / "killed")
    resumed, again = StubClient(BOTH), StubClient(BOTH)
    for client in (resumed, again):
        found = score(client, "tuned", text, folder=tmp_path / "killed")
        pd.testing.assert_frame_equal(found.documents, whole.documents, check_exact=True)
        assert all(np.array_equal(found.arrays[name], array) for name, array in whole.arrays.items())
    assert 0 < resumed.n_asked < undisturbed.n_asked
    assert again.n_asked == 0


def test_resamples_are_of_documents_and_fine_tunes(text, tmp_path):
    one, other = (values_of(score(StubClient(BOTH), name, text, folder=tmp_path)) for name in ("tuned", "base"))
    table = with_intervals(one).set_index("metric")
    assert table.loc["perplexity", "low"] < table.loc["perplexity", "value"] < table.loc["perplexity", "high"]
    assert table.loc["mean_entropy", "unit"] == "nats"
    both = mean_over_seeds([one, other])
    assert both.iloc[0].to_numpy() == pytest.approx((one.iloc[0] + other.iloc[0]).to_numpy() / 2)
    wider = with_intervals(both).set_index("metric").loc["perplexity"]
    assert wider["high"] - wider["low"] > table.loc["perplexity", "high"] - table.loc["perplexity", "low"]
    pd.testing.assert_frame_equal(mean_over_seeds([one] * 3), one)
    assert (with_intervals(one - one)[["value", "low", "high"]] == 0).all(axis=None)


def test_what_is_read_and_refused(client, text, tmp_path):
    assert list(stream(text, 4)) == TEXTS[:4]
    (tmp_path / "a.jsonl").write_text('{"text": "The red fox saw the old baker."}\n{"text": ""}\n')
    found = score(client, TINY, str(tmp_path / "a.jsonl"), folder=tmp_path / "n", base=TINY)
    assert found.documents["tokens"].iloc[1] == 0, "an empty document counts nowhere, and has a row"
    assert values_of(found)["kl"].iloc[0] == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match=r"stride is 9, window is 4"):
        score(client, TINY, text, folder=tmp_path, window=4, stride=9)
    with pytest.raises(ValueError, match="have different tokenizers: there is no divergence"):
        score(client, TINY, text, folder=tmp_path, base="fork-other")
    with pytest.raises(ValueError, match="no such file or folder"):
        score(client, TINY, str(tmp_path / "none.txt"), folder=tmp_path)
