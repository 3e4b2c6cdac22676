"""Scores and tokens over HTTP: equal to a plain forward pass, in numpy's own format, and clear about limits."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openai import OpenAI
from serving import TINY, facts
from starlette.testclient import TestClient

from tuning_server import scores as endpoint
from tuning_server.engine import models
from tuning_server.engine.tokenization import describe
from tuning_server.errors import ApiError
from tuning_server.worker import Sampling, Task, turn

CONTEXTS = [[5, 6, 7], [5], [5, 6, 7, 8, 9, 10], [9, 8, 7]]


def direct(store: Path, ids: list[int]) -> np.ndarray:
    loaded = models.load(TINY, store, dtype=torch.float32)
    with torch.no_grad():
        return loaded.model(torch.tensor([ids])).logits[0].double().log_softmax(-1).numpy()


def ask(http: TestClient, **body: Any) -> dict[str, np.ndarray]:
    reply = http.post("/v1/scores", json={"model": TINY, **body})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/octet-stream"
    with np.load(io.BytesIO(reply.content), allow_pickle=False) as arrays:
        return dict(arrays)


def test_nested_contexts_equal_a_forward_pass(http: TestClient, tiny_store: Path) -> None:
    exact = np.array([direct(tiny_store, ids)[-1] for ids in CONTEXTS])
    got = ask(http, contexts=CONTEXTS, targets=[1, 2, 3, 4], full=True)
    assert {name: array.dtype.name for name, array in got.items()} == {
        "target_logprobs": "float32",
        "logprobs": "float16",
    }
    assert np.allclose(got["target_logprobs"], exact[range(4), [1, 2, 3, 4]], atol=1e-4)
    assert np.allclose(got["logprobs"], exact, atol=0.01)
    assert set(ask(http, contexts=CONTEXTS, targets=[1, 2, 3, 4])) == {"target_logprobs"}


def test_truncated_to_the_likeliest(http: TestClient, tiny_store: Path) -> None:
    got = ask(http, contexts=CONTEXTS, targets=[1, 2, 3, 4], top_k=3)
    exact = np.array([direct(tiny_store, ids)[-1] for ids in CONTEXTS])
    assert np.allclose(got["logprobs"], -np.sort(-exact, axis=1)[:, :3], atol=1e-4)
    assert np.allclose(np.exp(got["logprobs"]).sum(1) + np.exp(got["tail"]), 1, atol=1e-5)


def test_rolling_over_documents(http: TestClient, tiny_store: Path) -> None:
    documents = [list(range(40, 60)), [3], [4, 5, 6]]
    got = ask(http, documents=documents, window_tokens=32, stride_tokens=16, full=True)
    expected = [direct(tiny_store, ids)[k, token] for ids in documents for k, token in enumerate(ids[1:])]
    assert np.allclose(got["target_logprobs"], expected, atol=1e-4)
    assert got["logprobs"].shape[0] == len(expected) == 21


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "Give 'contexts' and 'targets', or 'documents'"),
        ({"contexts": [[1]], "documents": [[1]]}, "Give 'contexts'"),
        ({"contexts": [[1]], "targets": []}, "Expected one target per context, found 0 for 1"),
        ({"contexts": [[]], "targets": [1]}, ": context 0 has no tokens"),
        ({"contexts": [[1] * 513], "targets": [1]}, "has 513 tokens; fork-tiny takes 1 to 512"),
        ({"contexts": [[10**6]], "targets": [1]}, ": context 0: token id 1000000 is not in the vocabulary"),
        ({"contexts": [[1]], "targets": [10**6]}, ": targets: token id 1000000 is not in the vocabulary"),
        ({"contexts": [["1"]], "targets": [1]}, "Invalid value for 'contexts"),
        ({"contexts": [[1]], "targets": [1], "full": True, "top_k": 2}, "not both"),
        ({"contexts": [[1]], "targets": [1], "top_k": 10**6}, ": top_k is at most the vocabulary"),
        ({"documents": [[1, 2]], "window_tokens": 9, "stride_tokens": 10}, ": expected 1 <= stride_tokens <= window"),
        ({"contexts": [[1]], "targets": [1], "full": True, "statistics": ["rank"]}, "'full' is what 'top_k'"),
        ({"contexts": [[1]], "targets": [1], "statistics": ["entopy"]}, "entopy is not one of the statistics: choose"),
        ({"contexts": [[1]], "targets": [1], "statistics": "rank"}, "Invalid value for 'statistics'"),
        ({"contexts": [[1]], "targets": [1], "statistics": ["probs"]}, "'probs' is a sum over the positions of a"),
        ({"contexts": [[1]], "targets": [1], "statistics": ["kl"]}, "'kl' is the divergence from 'base': give both"),
        ({"contexts": [[1]], "targets": [1], "base": TINY}, "'kl' is the divergence from 'base': give both"),
        ({"contexts": [[1]], "targets": [1], "temperature": 1}, "Unrecognized request argument supplied: temperature"),
    ],
)
def test_bad_requests_are_refused_with_a_reason(http: TestClient, body: dict[str, Any], words: str) -> None:
    reply = http.post("/v1/scores", json={"model": TINY, **body})
    assert reply.status_code == 400
    assert words in reply.json()["error"]["message"]


def test_limits_say_how_much_may_be_sent(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "MAX_POSITIONS", 3)
    reply = http.post("/v1/scores", json={"model": TINY, "contexts": CONTEXTS, "targets": [1, 2, 3, 4]})
    assert "At most 3 positions per request, found 4" in reply.json()["error"]["message"]
    monkeypatch.setattr(endpoint, "MAX_POSITIONS", 100)
    monkeypatch.setattr(endpoint, "MAX_REPLY_BYTES", 2_000)
    body = {"model": TINY, "contexts": CONTEXTS, "targets": [1, 2, 3, 4], "full": True}
    error = http.post("/v1/scores", json=body).json()["error"]
    assert error["code"] == "reply_too_large"
    n_positions = int(error["message"].split("At most ")[1].split()[0])
    assert 0 < n_positions < 4
    body |= {"contexts": CONTEXTS[:n_positions], "targets": [1, 2, 3, 4][:n_positions]}
    assert http.post("/v1/scores", json=body).status_code == 200
    monkeypatch.setattr(endpoint, "MAX_REPLY_BYTES", 100_000)
    body = {"model": TINY, "documents": CONTEXTS * 9, "window_tokens": 9, "stride_tokens": 9, "statistics": ["probs"]}
    error = http.post("/v1/scores", json=body).json()["error"]
    assert (error["code"], error["param"]) == ("reply_too_large", "documents")
    assert "documents per request, found 36" in error["message"]


def test_only_what_is_named_is_sent(http: TestClient, tiny_store: Path) -> None:
    documents = [list(range(40, 60)), [3], [4, 5, 6]]
    body: dict[str, Any] = {"documents": documents, "window_tokens": 32, "stride_tokens": 16}
    assert set(ask(http, **body, statistics=None, base=None)) == {"target_logprobs"}
    got = ask(http, **body, statistics=["rank", "entropy", "kl", "probs"], base=TINY)
    assert {name: (array.shape, array.dtype.name) for name, array in got.items()} == {
        "target_logprobs": ((21,), "float32"),
        "rank": ((21,), "int32"),
        "entropy": ((21,), "float32"),
        "kl": ((21,), "float32"),
        "probs": ((3, models.load(TINY, tiny_store).vocab_size), "float32"),
    }
    assert (got["kl"] == 0).all()
    nats = direct(tiny_store, documents[0])[:-1]
    assert np.allclose(got["entropy"][:19], -(np.exp(nats) * nats).sum(1), atol=1e-4)
    assert np.allclose(got["probs"].sum(1), [19, 0, 2], atol=1e-4)


def test_an_unknown_base_is_404_and_one_of_another_tokenizer_is_refused(
    family_store: Path, serve: Callable[..., TestClient]
) -> None:
    http = serve(family_store)
    body: dict[str, Any] = {"model": TINY, "contexts": [[1]], "targets": [1], "statistics": ["kl"]}
    reply = http.post("/v1/scores", json=body | {"base": "fork-tinny"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (404, "base")
    error = http.post("/v1/scores", json=body | {"base": "fork-other"}).json()["error"]
    assert (error["param"], error["code"]) == ("base", "different_tokenizers")
    assert "take models of one family" in error["message"]
    assert http.post("/v1/scores", json=body | {"base": "fork-kin"}).status_code == 200


def test_an_unknown_model_is_404(http: TestClient) -> None:
    reply = http.post("/v1/scores", json={"model": "fork-tinny", "contexts": [[1]], "targets": [1]})
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "model_not_found"
    assert "fork-tinny" in reply.json()["error"]["message"]


def test_tokens_of_a_text(http: TestClient, tiny_store: Path) -> None:
    text = "café 東京 saw"
    got = http.post("/v1/tokenize", json={"model": TINY, "prompt": text}).json()
    loaded = models.load(TINY, tiny_store)
    assert got["tokens"] == loaded.codec.encode(text)
    assert got["count"] == len(got["tokens"])
    assert got["max_model_len"] == 512
    assert sum(got["n_bytes"]) == len(text.encode())
    assert len(got["token_strs"]) == got["count"]
    for bad in ({"prompt": 3}, {"prompt": "a", "text": "b"}):
        assert http.post("/v1/tokenize", json={"model": TINY, **bad}).status_code == 400


def test_a_model_tells_its_tokenizer_and_a_fine_tune_keeps_it(
    client: OpenAI, fine_tune: Callable[..., Any], tiny_store: Path
) -> None:
    job = fine_tune(facts(8), hyperparameters={"n_epochs": 1, "batch_size": 4})
    base = client.models.retrieve(TINY).model_dump()
    tuned = client.models.retrieve(job.fine_tuned_model).model_dump()
    assert base["vocab_tokens"] == models.load(TINY, tiny_store).vocab_size
    assert (tuned["tokenizer"], tuned["vocab_tokens"]) == (base["tokenizer"], base["vocab_tokens"])


def test_another_vocabulary_is_another_tokenizer(tiny_store: Path) -> None:
    folder = next((tiny_store / "bases").glob(f"{TINY}@*"))
    before = describe(folder)
    path = folder / "tokenizer.json"
    about = json.loads(path.read_text())
    about["truncation"] = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(about))
    assert describe(folder) == before
    vocabulary = about["model"]["vocab"]
    vocabulary["Ġfox"], vocabulary["a"] = vocabulary["a"], vocabulary["Ġfox"]
    path.write_text(json.dumps(about))
    assert describe(folder)[0] != before[0]
    path.write_text("{}")
    with pytest.raises(ValueError, match="tokenizer.json cannot be read"):
        describe(folder)
    path.unlink()
    assert describe(folder)[1] is None


def test_tasks_take_turns_with_samplings() -> None:
    first, second = Task(lambda cache: 1), Task(lambda cache: 2)
    sampling = Sampling(TINY, lambda loaded: [], lambda loaded, samples: None)
    assert turn([first, second, sampling]) == ([sampling, first], [second])
    assert turn([second]) == ([second], [])


def test_a_task_runs_on_the_engine_thread_and_its_failure_is_its_own(http: TestClient) -> None:
    worker = http.app.state.service.worker  # type: ignore[attr-defined]
    tasks = [Task(lambda cache: threading.current_thread().name), Task(lambda cache: 1 // 0), Task(lambda cache: "on")]
    futures = [worker.submit(task) for task in tasks]
    assert futures[0].result(timeout=20) == "engine"
    with pytest.raises(ZeroDivisionError):
        futures[1].result(timeout=20)
    assert futures[2].result(timeout=20) == "on"
    worker.stop()
    with pytest.raises(ApiError, match="stopping"):
        worker.submit(Task(lambda cache: None))
