"""Files through the official client: uploads are kept whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI
from serving import TINY, facts, jsonl, upload, wait_for
from starlette.testclient import TestClient


def test_files_live_and_die(client: OpenAI) -> None:
    content = jsonl(facts(3))
    made = upload(client, content, "../../etc/rows é.jsonl")
    assert (made.object, made.bytes, made.status, made.purpose) == ("file", len(content), "processed", "fine-tune")
    assert made.filename == "rows é.jsonl"
    assert client.files.content(made.id).read() == content
    assert client.files.wait_for_processing(made.id).id == made.id
    others = [upload(client, content).id for _ in range(4)]
    assert [file.id for file in client.files.list(limit=2)] == [*reversed(others), made.id]
    assert [file.id for file in client.files.list(order="asc")] == [made.id, *others]
    assert list(client.files.list(purpose="batch")) == []
    assert client.files.delete(made.id).deleted
    with pytest.raises(NotFoundError, match=f"No such file object: {made.id}"):
        client.files.retrieve(made.id)
    with pytest.raises(NotFoundError, match="No such object"):
        client.files.list(after=made.id)


BAD_FILES = [
    (b"", "empty"),
    (b"\n\n", "empty"),
    (b'{"prompt": "a", "completion": "b"}\n{"prompt": \n', "Line 2: not JSON"),
    (b'{"prompt": "a"}\n\n[1]\n', "Line 3: expected a JSON object, found list"),
    (b'{"prompt": "a"}\n{"prompt": "\xff"}\n', "Line 2: not UTF-8"),
    (b"[" * 100_000, "Line 1: not JSON that can be read"),
    (b'{"prompt": "a", "prompt": "b", "completion": "c"}', "Line 1: the key 'prompt' occurs twice in one object"),
    (b'{"a": 1}\n{"messages": [{"role": "user", "role": "assistant"}]}', "Line 2: the key 'role' occurs twice"),
    (b'\xef\xbb\xbf\n{"prompt": \n', "Line 2: not JSON"),
    (b'{"prompt": "a"}\n' + b" " * 2**24 + b"{}\n", "Line 2: longer than 16777216 bytes"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES)
def test_a_malformed_upload_is_refused_and_not_kept(
    client: OpenAI, tiny_store: Path, content: bytes, message: str
) -> None:
    with pytest.raises(BadRequestError, match=message) as refused:
        upload(client, content)
    assert refused.value.code == "invalid_file_format"
    assert list((tiny_store / "files").iterdir()) == []


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\xef\xbb\xbf\r\n\r\n", b"\n \n"])
def test_a_byte_order_mark_and_blank_lines_are_skipped(client: OpenAI, start: bytes) -> None:
    content = start + jsonl(facts(2))
    file = upload(client, content)
    assert client.files.content(file.id).read() == content
    job = client.fine_tuning.jobs.create(model=TINY, training_file=file.id, hyperparameters={"n_epochs": 1})
    assert wait_for(client, job.id).status == "succeeded"


def test_upload_forms_are_checked(http: TestClient, tiny_store: Path, serve: Callable[..., TestClient]) -> None:
    file = ("a.jsonl", jsonl(facts(1)))
    for form, param in (
        ({"purpose": "batch"}, "purpose"),
        ({}, "purpose"),
        ({"purpose": "fine-tune", "expires_after[anchor]": "created_at"}, "expires_after[anchor]"),
    ):
        reply = http.post("/v1/files", data=form, files={"file": file})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert http.post("/v1/files", data={"purpose": "fine-tune"}).json()["error"]["param"] == "file"
    assert http.post("/v1/files", content=b"x", headers={"content-type": "multipart/form-data"}).status_code == 400


def test_large_uploads_and_requests_are_refused(tiny_store: Path, serve: Callable[..., TestClient]) -> None:
    http = serve(tiny_store, max_file_bytes=1000, max_request_bytes=1000)
    for size in (2_000, 100_000):
        files = {"file": ("a.jsonl", jsonl(facts(1)) + b" " * size)}
        reply = http.post("/v1/files", data={"purpose": "fine-tune"}, files=files)
        assert reply.status_code == 413, reply.text
    assert http.post("/v1/completions", json={"model": TINY, "prompt": "a" * 2000}).status_code == 413
    assert list((tiny_store / "files").iterdir()) == []


def test_a_full_disk_is_507_and_leaves_nothing(
    client: OpenAI, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tuning_server.files.json_rows", full)
    with pytest.raises(APIStatusError, match="disk of the server is full") as refused:
        upload(client, jsonl(facts(1)))
    assert refused.value.status_code == 507
    assert list((tiny_store / "files").iterdir()) == []
    monkeypatch.undo()
    assert upload(client, jsonl(facts(1))).bytes
