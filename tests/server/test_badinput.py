"""What clumsy and hostile clients send to a server: it says in words what is wrong, and goes on for everyone else."""

from __future__ import annotations

import json
import logging
import math
import shutil
import socket
import sqlite3
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from openai import OpenAI
from safetensors.torch import load_file, save_file
from serving import TINY, facts, jsonl, speak, upload, wait_for
from starlette.testclient import TestClient

Serve = Callable[..., TestClient]
REQUEST = {"model": TINY, "prompt": "a", "max_tokens": 1}
JSON = {"content-type": "application/json"}


def copy_base(store: Path, name: str) -> Path:
    """Folder of a copy of the tiny base under another name."""
    folder = store / "bases" / f"{name}@0123456789ab"
    shutil.copytree(store / "bases" / f"{TINY}@0123456789ab", folder)
    (store / "bases" / f"{name}.json").write_text(json.dumps({"current": "0123456789ab"}))
    return folder


def test_a_body_in_pieces_has_the_same_limit(tiny_store: Path, serve: Serve) -> None:
    http = serve(tiny_store, max_request_bytes=1000)
    reply = http.post("/v1/completions", content=(b" " * 400 for _ in range(5)), headers=JSON)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")


BODIES = [
    (b"[" * 100_000, "nested too deeply"),
    (b'{"max_tokens": ' + b"9" * 5000 + b"}", "a number too long"),
    (b'{"prompt": "\xe9"}', "its byte 13 is not UTF-8"),
    (b'{"prompt": "a",}', r"not JSON: .* \(character \d+\)"),
    (b"null", "should be a JSON object"),
]


@pytest.mark.parametrize(("body", "words"), BODIES)
def test_a_body_that_cannot_be_read_says_why(http: TestClient, body: bytes, words: str) -> None:
    reply = http.post("/v1/completions", content=body, headers=JSON)
    assert reply.status_code == 400
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(reply.json()["error"]["message"])


def test_a_body_of_another_type_says_which_is_expected(http: TestClient) -> None:
    reply = http.post("/v1/completions", content=json.dumps(REQUEST), headers={"content-type": "text/plain"})
    assert (reply.status_code, "'content-type: application/json'" in reply.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize("name", ["int", "query", "Lora", "colour"])
def test_a_field_is_named_whatever_it_is_called(http: TestClient, name: str) -> None:
    assert http.post("/v1/completions", json=REQUEST | {name: 1}).json()["error"]["param"] == name
    job = {"model": TINY, "training_file": "file-x", "hyperparameters": {name: 1}}
    assert http.post("/v1/fine_tuning/jobs", json=job).json()["error"]["param"] == f"hyperparameters.{name}"


def test_errors_do_not_repeat_megabytes(http: TestClient, client: OpenAI, fine_tune: Callable[..., Any]) -> None:
    long = "k" * 1_000_000
    for path, body in (
        ("/v1/completions", REQUEST | {long: 1}),
        ("/v1/fine_tuning/jobs", {"model": TINY, "training_file": long}),
    ):
        reply = http.post(path, json=body)
        assert reply.status_code == 400
        assert len(reply.content) < 10_000
    rows = [{long: 1}], [{"messages": [{"role": "user", "content": "a", long: 1}]}]
    for row in rows:
        assert len(fine_tune(row).error.message) < 500


NO_QUERY = [
    ("GET", "/v1/models"),
    ("GET", f"/v1/models/{TINY}"),
    ("POST", "/v1/completions"),
    ("GET", "/v1/files/file-x"),
    ("POST", "/v1/files"),
    ("GET", "/v1/fine_tuning/jobs/ftjob-x"),
    ("GET", "/v1/fine_tuning/jobs"),
]


@pytest.mark.parametrize(("method", "path"), NO_QUERY)
def test_unknown_query_parameters_are_refused(
    http: TestClient, method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    reply = http.request(method, path, params={"api_key": "sk-secret"}, json=REQUEST if method == "POST" else None)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "unknown_parameter", "api_key")
    assert not [record for record in caplog.records if record.name.startswith("lib") and "sk-secret" in str(record)]


FORMS = [
    (b"x", "multipart/form-data", "Missing boundary"),
    (b"x", "multipart/form-data; boundary=b", "Invalid multipart"),
]


@pytest.mark.parametrize(("body", "content_type", "words"), FORMS)
def test_a_broken_form_says_what_is_expected(http: TestClient, body: bytes, content_type: str, words: str) -> None:
    reply = http.post("/v1/files", content=body, headers={"content-type": content_type})
    reported = reply.json()["error"]["message"]
    assert (reply.status_code, words in reported, "one 'file' and its 'purpose'" in reported) == (400, True, True)


def test_a_name_that_ends_in_a_slash_is_none(client: OpenAI) -> None:
    assert upload(client, jsonl(facts(1)), "folder/").filename == "file.jsonl"


def test_the_schema_promises_what_is_answered(http: TestClient) -> None:
    schema = http.get("/openapi.json").json()
    operations = [operation for methods in schema["paths"].values() for operation in methods.values()]
    assert len(operations) > 15
    for operation in operations:
        assert "422" not in operation["responses"]
        for status in ("400", "default"):
            body = operation["responses"][status]["content"]["application/json"]["schema"]
            assert body == {"$ref": "#/components/schemas/ErrorBody"}
    assert not {name for name in schema["components"]["schemas"] if "ValidationError" in name}
    reported = http.post("/v1/completions", json={}).json()["error"]
    assert set(reported) == set(schema["components"]["schemas"]["ErrorDetail"]["properties"])


# models that are damaged


def test_a_folder_that_lost_its_parts_harms_no_other(tiny_store: Path, serve: Serve) -> None:
    (copy_base(tiny_store, "fork-lost") / "config.json").unlink()
    shutil.rmtree(copy_base(tiny_store, "fork-alone") / "init")
    (copy_base(tiny_store, "fork-cut") / "base.json").write_text("{")
    copy_base(tiny_store, "fork-unsaid")
    (tiny_store / "bases" / "fork-unsaid.json").write_text("{")
    http = serve(tiny_store)
    listed = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
    assert {TINY, "fork-lost", "fork-alone", "fork-unsaid@0123456789ab"} <= set(listed)
    assert "fork-alone:init" not in listed
    assert "broken" in listed["fork-lost"]
    assert "base.json is not JSON" in listed["fork-cut"]["broken"]
    sent = [http.post("/v1/completions", json=REQUEST | {"model": "fork-lost"}), http.get("/v1/models/fork-lost")]
    for reply in sent:
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_broken")
        assert "Nearest ids" not in reply.json()["error"]["message"]
    assert http.post("/v1/completions", json=REQUEST).status_code == 200


def test_a_damaged_card_is_a_damaged_model(tiny_store: Path, http: TestClient, fine_tune: Callable[..., Any]) -> None:
    tuned = fine_tune(facts(2), hyperparameters={"n_epochs": 1}).fine_tuned_model
    (card,) = tiny_store.glob("tuned/*/final/tuned.json")
    for text in ("{", "{}"):
        card.write_text(text)
        for reply in (http.post("/v1/completions", json=REQUEST | {"model": tuned}), http.get(f"/v1/models/{tuned}")):
            assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_broken")


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "a/" * 3000 + "b"])
def test_a_name_that_no_folder_can_have_is_no_model(tiny_store: Path, serve: Serve, tmp_path: Path, name: str) -> None:
    http = serve(tiny_store, models_dir=tmp_path, download=True)
    reply = http.post("/v1/embeddings", json={"model": f"hf:{name[:400]}", "input": "a"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


def test_nothing_ends_the_engine_but_a_stop(
    client: OpenAI, http: TestClient, fine_tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise OSError("what nobody thought of")

    monkeypatch.setattr("tuning_server.errors.model_error", broken)
    assert http.post("/v1/completions", json=REQUEST | {"model": "fork-none"}).status_code == 500
    fail = lambda *_, **__: (_ for _ in ()).throw(sqlite3.Error("no"))  # noqa: E731
    monkeypatch.setattr("tuning_server.store.Store.jobs_in", fail)
    assert http.post("/v1/completions", json=REQUEST).status_code == 200
    monkeypatch.undo()
    assert fine_tune(facts(2), hyperparameters={"n_epochs": 1}).status == "succeeded"


def test_weights_that_are_no_numbers_end_a_job_and_not_the_store(
    tiny_store: Path, serve: Serve, fine_tune: Callable[..., Any], http: TestClient
) -> None:
    file = copy_base(tiny_store, "fork-nan") / "model.safetensors"
    weights = load_file(file)
    save_file(
        {name: torch.full_like(weight, math.nan) for name, weight in weights.items()}, file, metadata={"format": "pt"}
    )
    turns = {"messages": [{"role": "user", "content": "a"}]}
    for path, sent in {"embeddings": {"input": "a"}, "completions": {"prompt": "a"}, "chat/completions": turns}.items():
        reply = http.post(f"/v1/{path}", json={"model": "fork-nan", **sent})
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_broken")
    job = fine_tune(facts(4), model="fork-nan", hyperparameters={"n_epochs": 1})
    assert (job.status, job.error.param) == ("failed", "learning_rate_multiplier")
    assert not list((tiny_store / "tuned").glob("*/final"))
    assert fine_tune(facts(4), hyperparameters={"n_epochs": 1}).status == "succeeded"


def test_too_much_for_the_memory_is_refused(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any) -> Any:
        raise RuntimeError("could not create a primitive")  # oneDNN's words for it

    monkeypatch.setattr("tuning_server.worker.sample", short)
    monkeypatch.setattr("tuning_server.scores.embed", short)
    for path, body in (("completions", REQUEST), ("embeddings", {"model": TINY, "input": "a"})):
        reply = http.post(f"/v1/{path}", json=body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "out_of_memory")


# clients that go away


def hang_up(url: str, head: str, body: bytes, *, after_s: float) -> None:
    """Send a request, or a part of it, and reset the connection."""
    at = urlsplit(url)
    with socket.create_connection((str(at.hostname), int(at.port or 0))) as line:
        line.sendall(f"{head}\r\nHost: {at.netloc}\r\n".encode() + body)
        time.sleep(after_s)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_work_for_a_client_that_went_away_is_dropped(
    live: Callable[..., str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("tuning_server.worker.MAX_ROWS", 4)
    client = speak(url := live())
    client.completions.create(model=TINY, prompt="a", max_tokens=1)  # the model is in memory
    sent = json.dumps({"model": TINY, "prompt": "a", "max_tokens": 400, "n": 1000}).encode()
    head = f"content-type: application/json\r\ncontent-length: {len(sent)}\r\n\r\n".encode()
    for _ in range(3):
        hang_up(url, "POST /v1/completions HTTP/1.1", head + sent, after_s=0.2)
    part = b"content-type: multipart/form-data; boundary=b\r\ncontent-length: 9000\r\n\r\n--b\r\ncontent-disposition: "
    hang_up(url, "POST /v1/files HTTP/1.1", part + b'form-data; name="file"; filename="a"\r\n\r\n{}\n', after_s=0.2)
    began = time.monotonic()
    assert client.completions.create(model=TINY, prompt="a", max_tokens=1).choices
    assert time.monotonic() - began < 10, "thousands of answers that nobody reads take longer"
    lines = [record.getMessage() for record in caplog.records if record.name == "tuning_server.app"]
    assert [line.split()[3] for line in lines].count("499") == 4
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_connections_that_say_nothing_keep_nobody_waiting(live: Callable[..., str]) -> None:
    at = urlsplit(url := live())
    lines = [socket.create_connection((str(at.hostname), int(at.port or 0))) for _ in range(200)]
    try:
        for line in lines[::2]:
            line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: loc")
        assert speak(url).files.list().data == []
    finally:
        for line in lines:
            line.close()


def test_jobs_with_bad_bases_and_files_go_no_further(client: OpenAI, tiny_store: Path) -> None:
    (copy_base(tiny_store, "fork-code") / "evil.py").write_text("raise SystemExit")
    folder = tiny_store / "bases" / "fork-code@0123456789ab"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    file = upload(client, jsonl(facts(2)))
    job = wait_for(client, client.fine_tuning.jobs.create(model="fork-code", training_file=file.id).id)
    assert (job.status, job.error.code) == ("failed", "model_broken")
    assert "code of a model's own is never run" in job.error.message
