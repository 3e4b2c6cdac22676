"""Scoring documents: each token once from the right context, whole after a kill, in memory that does not grow."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import torch
import zstandard
from next_tokens import BEGIN, CONTEXT, StubClient, of_last_token, of_whole_context, plain_statistics
from openai import NotFoundError, OpenAI
from serving import TINY

from lib.next_token import METRICS, Source, intervals, requests, score, scoring, source
from lib.next_token.requests import begin_token
from lib.next_token.scoring import NextToken, read
from tuning_server.engine import models

TEXTS = [f"text {k} " + "abc def " * (k * 7 % 11) + "ü" * (k % 3) for k in range(30)]
BOTH = {"tuned": of_last_token(1), "base": of_last_token(2)}


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in TEXTS))
    return str(path)


def values(found: NextToken) -> dict[str, tuple[float, float, float]]:
    told = intervals(found.totals)
    return {name: (each.value, each.low, each.high) for name, each in told.items()}


def same(first: NextToken, second: NextToken) -> None:
    """Same bytes, not only about the same."""
    for name, array in first.totals.arrays.items():
        assert np.array_equal(array, second.totals.arrays[name], equal_nan=True), name
    pd.testing.assert_frame_equal(first.documents, second.documents, check_exact=True)


def test_documents_are_scored_as_a_plain_loop_over_windows_does(text: str, tmp_path: Path) -> None:
    found = score(StubClient(BOTH), "tuned", Source(text), folder=tmp_path, base="base")
    documents, base = [], []
    for each in TEXTS:
        ids = list(each.encode())
        behind = [BEGIN, *ids]
        windows = []
        for start in range(0, len(ids), CONTEXT):
            contexts = [behind[start : k + 1] for k in range(start, min(start + CONTEXT, len(ids)))]
            windows.append(
                (np.array([BOTH["tuned"](c) for c in contexts]), np.array(ids[start : start + CONTEXT], dtype=int))
            )
            base.append(np.array([BOTH["base"](c) for c in contexts]))
        documents.append(windows)
    plain = plain_statistics(documents, [len(t.encode()) for t in TEXTS], base=base)
    told = values(found)
    assert set(told) == set(METRICS)
    for name, value in plain.items():
        assert told[name][0] == pytest.approx(value, rel=1e-6, abs=1e-6), name  # sums come in float32
    assert found.documents["n_tokens"].tolist() == found.documents["n_bytes"].tolist()
    assert found.documents["number"].tolist() == list(range(30))


def test_documents_that_share_a_request_are_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in TEXTS))
    client = StubClient({"m": of_whole_context})
    how: dict[str, Any] = {"window_tokens": 12, "stride_tokens": 5}
    together = score(client, "m", Source(str(path)), folder=tmp_path / "together", **how)
    assert client.n_asked == 1
    monkeypatch.setattr(requests, "REQUEST_TOKENS", 1)
    alone = score(client, "m", Source(str(path)), folder=tmp_path / "alone", **how)
    assert client.n_asked == 1 + len(TEXTS)
    pd.testing.assert_frame_equal(alone.documents, together.documents)
    assert np.allclose(alone.totals.probs, together.totals.probs, rtol=1e-9)
    monkeypatch.setattr(requests, "REQUEST_TOKENS", 10_000)
    monkeypatch.setattr(requests, "REPLY_BYTES", 4 * 257 * 10)
    score(client, "m", Source(str(path)), folder=tmp_path / "tens", **how)
    assert client.n_asked == 1 + len(TEXTS) + 3


def test_the_server_is_asked_for_what_a_forward_pass_gives(client: OpenAI, tiny_store: Path, tmp_path: Path) -> None:
    loaded = models.load(TINY, tiny_store, dtype=torch.float32)
    texts = ["The red fox saw the old baker.", "Ada Lind is the mother of Bo Lind. 東京"]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    found = score(client, TINY, Source(str(tmp_path / "t.jsonl")), folder=tmp_path / "n", n_resamples=20)
    assert found.about["begin_id"] == loaded.codec.eos_id
    assert found.about["window_tokens"] == 512
    documents = []
    for each in texts:
        ids = loaded.codec.encode(each)
        with torch.no_grad():
            logits = loaded.model(torch.tensor([[loaded.codec.eos_id, *ids[:-1]]])).logits[0]
        documents.append([(logits.double().log_softmax(-1).numpy(), np.array(ids))])
    plain = plain_statistics(documents, [len(each.encode()) for each in texts])
    told = values(found)
    for name in ("perplexity", "bits_per_byte", "mean_entropy", "entropy_of_mean", "top_10_mass", "confidence"):
        assert told[name][0] == pytest.approx(plain[name], rel=2e-4), name
    assert (
        score(client, TINY, Source(str(tmp_path / "t.jsonl")), folder=tmp_path / "n", n_resamples=20).about
        == found.about
    )
    twin = score(client, TINY, Source(str(tmp_path / "t.jsonl")), folder=tmp_path / "n", base=TINY, n_resamples=20)
    assert values(twin)["kl"][0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("save_seconds", [0, 1e9])
def test_a_killed_run_goes_on_where_it_ended(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_seconds: float
) -> None:
    monkeypatch.setattr(requests, "REQUEST_TOKENS", 50)
    undisturbed = StubClient(BOTH)
    whole = score(undisturbed, "tuned", Source(text), folder=tmp_path / "whole")
    monkeypatch.setattr(scoring, "SAVE_SECONDS", save_seconds)
    killed = StubClient(BOTH, stop_after=undisturbed.n_asked * 6 // 10)
    with pytest.raises(KeyboardInterrupt):
        score(killed, "tuned", Source(text), folder=tmp_path / "killed")
    [place] = (tmp_path / "killed").iterdir()
    with pytest.raises(ValueError, match="of 30 documents: score.. continues|holds no next-token"):
        read(place)
    part = place / "documents" / "000099.parquet"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(b"half of a part that no totals speak of")
    resumed = StubClient(BOTH)
    same(score(resumed, "tuned", Source(text), folder=tmp_path / "killed"), whole)
    if not save_seconds:
        assert killed.n_asked + resumed.n_asked <= undisturbed.n_asked + scoring.CONCURRENCY
    again = StubClient(BOTH)
    same(score(again, "tuned", Source(text), folder=tmp_path / "killed"), whole)
    assert again.n_asked == 0


KILLED = """
import os, signal, sys
sys.path.insert(0, "tests/helpers")
from pathlib import Path
from next_tokens import StubClient, of_last_token
from lib.next_token import Source, requests, score, scoring
class Killed(StubClient):
    def stopped(self):
        os.kill(os.getpid(), signal.SIGKILL)
requests.REQUEST_TOKENS, scoring.SAVE_SECONDS = 50, 0
client = Killed({"tuned": of_last_token(1)}, stop_after=int(sys.argv[3]))
score(client, "tuned", Source(sys.argv[1]), folder=Path(sys.argv[2]))
"""


def test_kill_9_leaves_what_was_done(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "REQUEST_TOKENS", 50)
    undisturbed = StubClient(BOTH)
    whole = score(undisturbed, "tuned", Source(text), folder=tmp_path / "whole")
    stop_after = undisturbed.n_asked * 6 // 10
    command = [sys.executable, "-c", KILLED, text, str(tmp_path / "killed"), str(stop_after)]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    resumed = StubClient(BOTH)
    same(score(resumed, "tuned", Source(text), folder=tmp_path / "killed"), whole)
    assert 0 < resumed.n_asked < undisturbed.n_asked, "what was done is not asked again"


def test_which_documents_are_scored(text: str, tmp_path: Path) -> None:
    def numbers(**how: Any) -> list[int]:
        return [number for number, _ in Source(text, **how)]

    (tmp_path / "list.json").write_text("[12, 3]")
    assert numbers() == list(range(30))
    assert numbers(max_docs=4) == [0, 1, 2, 3]
    assert numbers(documents=str(tmp_path / "list.json")) == [3, 12]
    assert Source(text, max_docs=4).survey().hash != Source(text).survey().hash
    assert Source(text).survey().n_documents == 30
    found = score(StubClient(BOTH), "tuned", Source(text, documents=str(tmp_path / "list.json")), folder=tmp_path / "n")
    assert found.documents["document"].tolist() == ["text.jsonl:4", "text.jsonl:13"]
    with pytest.raises(ValueError, match=r"max_docs = 1 and documents = '.*list.json': give one of them"):
        Source(text, max_docs=1, documents=str(tmp_path / "list.json"))
    for content, message in (
        ("[30]", "asks for document 30, .* has 0 to 29"),
        ("[1, 1]", "a document twice"),
        ("[-1]", "a JSON list"),
        ("{}", "a JSON list"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            Source(text, documents=str(tmp_path / "bad.json")).survey()
    with pytest.raises(ValueError, match="max_docs = -1"):
        Source(text, max_docs=-1)


def test_bad_text_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": each}) + "\n" for each in TEXTS).encode()
    (tmp_path / "cut.jsonl.zst").write_bytes(zstandard.compress(lines)[:-9])
    (tmp_path / "line.jsonl").write_bytes(lines + b"no JSON\n")
    client = StubClient(BOTH)
    for name, message in (
        ("cut.jsonl.zst", r"cut.jsonl.zst cannot be read: .*(cut short|decompress)"),
        ("line.jsonl", "line.jsonl, line 31: not JSON"),
        ("none.jsonl", "no such file or folder"),
    ):
        with pytest.raises(ValueError, match=message):
            score(client, "tuned", Source(str(tmp_path / name)), folder=tmp_path / "n")
    assert client.n_asked == 0
    assert not (tmp_path / "n").exists()
    (tmp_path / "whole.jsonl.zst").write_bytes(zstandard.compress(lines[:200]) + zstandard.compress(lines[200:]))
    assert Source(str(tmp_path / "whole.jsonl.zst")).survey().n_documents == 30


def test_data_sets_of_the_hub(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"hf:lab/pile:test: data sets of the hub need a package \(pip install"):
        Source("hf:lab/pile:test").survey()
    rows = [{"text": each} for each in TEXTS]
    asked: list[Any] = []

    def load(path: str, **how: Any) -> list[dict[str, str]]:
        asked.append((path, how))
        return rows

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    assert Source("hf:lab/pile:test").survey() == Source(text).survey()
    assert asked == [("lab/pile", {"split": "test", "streaming": True})]
    rows[3] = {"words": "x", "n": "y"}
    with pytest.raises(ValueError, match="row 3: expected a string field 'text', found words, n"):
        Source("hf:lab/pile").survey()
    assert source.HUB == "hf:"


def test_documents_without_numbers_are_skipped_and_reported(text: str, tmp_path: Path) -> None:
    clean = of_last_token(1)

    def broken(context: list[int]) -> np.ndarray:
        row = clean(context).copy()
        if context[-1] == ord("5"):
            row[3] = np.nan
        return row

    found = score(StubClient({"m": broken}), "m", Source(text), folder=tmp_path)
    bad = [k for k, each in enumerate(TEXTS) if "5" in each]
    assert found.totals.count("skipped_positions") == found.documents["n_skipped"].sum() == sum("5" in t for t in TEXTS)
    assert found.documents.loc[bad, "n_skipped"].tolist() == [1] * len(bad)
    assert (found.documents["n_bytes"] == found.documents["n_tokens"]).all()
    lost = score(
        StubClient({"m": lambda context: clean(context) * np.nan}), "m", Source(text, max_docs=3), folder=tmp_path / "l"
    )
    assert lost.totals.count("skipped_documents") == 3
    assert set(lost.documents["skipped"]) == {"no finite log-probability"}
    assert lost.documents["nll_nats"].isna().all()


def test_documents_of_one_token_and_of_none(tmp_path: Path) -> None:
    path = tmp_path / "short.jsonl"
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in ["a", "bc", ""]) + "\n")
    client = StubClient(BOTH)
    found = score(client, "tuned", Source(str(path)), folder=tmp_path / "n")
    table = found.documents
    assert table["n_tokens"].tolist() == [1, 2, 0]
    assert table["skipped"].tolist() == ["", "", "no tokens"]
    assert table["nll_nats"].iloc[0] == pytest.approx(-float(BOTH["tuned"]([BEGIN])[ord("a")]), rel=1e-3)
    assert (found.totals.count("documents"), found.totals.count("skipped_documents")) == (2, 1)
    assert values(found)["perplexity"][0] == pytest.approx(
        np.exp((table["nll_nats"] * table["n_tokens"]).sum() / 3), rel=1e-9
    )


def test_the_token_that_begins_a_text() -> None:
    def tokenizer(before: list[int], end: list[int]) -> Any:
        def post(path: str, *, cast_to: Any, body: dict[str, Any]) -> Any:
            ids = end if body["prompt"] == "<|endoftext|>" else [64]
            ids = [*before, *ids] if body["add_special_tokens"] else ids
            return SimpleNamespace(json=lambda: {"tokens": ids})

        return SimpleNamespace(post=post)

    assert begin_token(tokenizer([1], [5, 6, 7]), "llama") == 1
    assert begin_token(tokenizer([], [0]), "pythia") == 0
    with pytest.raises(
        ValueError, match="the tokenizer of odd has no token that begins a text: name one with begin_id"
    ):
        begin_token(tokenizer([], [5, 6, 7]), "odd")


def test_models_and_endpoints_that_do_not_fit(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, told = StubClient(BOTH), {"vocab_tokens": 257, "context_tokens": 16, "tokenizer": "bytes"}

    def retrieve(model: str) -> Any:
        own = {"id": model, **told} | ({"tokenizer": "words"} if model == "base" else {})
        return SimpleNamespace(model_dump=lambda: own)

    client.models.retrieve = retrieve
    with pytest.raises(ValueError, match="tuned and base have different tokenizers .*leave out base"):
        score(client, "tuned", Source(text), folder=tmp_path, base="base")
    with pytest.raises(ValueError, match="stride_tokens = 9: expected 1 up to window_tokens, 8"):
        score(client, "tuned", Source(text), folder=tmp_path, window_tokens=8, stride_tokens=9)
    told["context_tokens"] = 0
    with pytest.raises(ValueError, match="does not report how much context tuned takes: set window_tokens"):
        score(client, "tuned", Source(text), folder=tmp_path)
    told["vocab_tokens"] = 0
    with pytest.raises(ValueError, match="does not report the vocabulary of tuned.*tuning_server serve"):
        score(client, "tuned", Source(text), folder=tmp_path)

    def gone(path: str, **asked: Any) -> Any:
        reply = httpx.Response(404, json={}, request=httpx.Request("POST", f"http://testserver/v1{path}"))
        raise NotFoundError("Unknown request URL", response=reply, body=None)

    told |= {"vocab_tokens": 257, "context_tokens": 16}
    post = client.post
    monkeypatch.setattr(client, "post", gone)
    with pytest.raises(ValueError, match="has no /tokenize. Next-token statistics need one"):
        score(client, "tuned", Source(text), folder=tmp_path)
    monkeypatch.setattr(client, "post", lambda path, **asked: (gone if path == "/scores" else post)(path, **asked))
    with pytest.raises(ValueError, match="has no /scores. Next-token statistics need one"):
        score(client, "tuned", Source(text), folder=tmp_path)
    [place] = [each for each in tmp_path.iterdir() if each.is_dir()]
    (place / "totals.npz").write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match=r"totals.npz cannot be read .*: remove .* to begin anew"):
        score(client, "tuned", Source(text), folder=tmp_path)


def test_memory_does_not_grow_with_the_number_of_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "REQUEST_TOKENS", 200)
    monkeypatch.setattr(scoring, "SAVE_SECONDS", 0.2)
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {k % 7} of many, each alike."}) + "\n" for k in range(2_000)))
    client = StubClient(BOTH)
    how: dict[str, Any] = {"n_resamples": 100}
    score(client, "tuned", Source(str(path), max_docs=20), folder=tmp_path, **how)  # what is made once
    largest = []
    gc.freeze()
    for n in (300, 2_000):
        gc.collect()
        place = Source(str(path), max_docs=n)
        tracemalloc.start()
        found = score(client, "tuned", place, folder=tmp_path, **how)
        largest.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.totals.count("documents") == len(found.documents) == n
    gc.unfreeze()
    assert largest[1] < 1.1 * largest[0], f"{largest}: what was scored before stays in memory"
