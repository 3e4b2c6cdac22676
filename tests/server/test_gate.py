"""Who may come in, and that every refusal has OpenAI's shape."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from starlette.testclient import TestClient

from tuning_server.store import SCHEMA_VERSION, CannotStart, Store
from tuning_server.types import hash_key


def refusal(reply: Any, status: int) -> dict[str, Any]:
    """The error of a reply that should be one."""
    assert reply.status_code == status, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    "host",
    [
        "evil@localhost",
        "localhost:a",
        "a b",
        "evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8080",
        "[::2]",
        "",
    ],
)
def test_foreign_hosts_are_refused(http: TestClient, host: str) -> None:
    assert refusal(http.get("/v1/models", headers={"host": host}), 403)["code"] == "foreign_host"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1:8080", "[::1]:8080", "testserver"])
def test_own_hosts_are_let_in(http: TestClient, host: str) -> None:
    assert http.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000", "http://testserver:81", "",
                                    "http://[bad", "ftp://testserver", "http://evil@testserver"])  # fmt: skip
def test_web_pages_of_others_are_refused(http: TestClient, origin: str) -> None:
    body = {"model": "fork-tiny", "training_file": "file-x"}
    reply = http.post("/v1/fine_tuning/jobs", json=body, headers={"origin": origin})
    assert refusal(reply, 403)["code"] == "foreign_origin"


def test_the_own_page_is_let_in(http: TestClient) -> None:
    for origin in ("http://testserver", "https://testserver"):  # the latter behind a proxy
        assert http.get("/v1/models", headers={"origin": origin}).status_code == 200
    two = [("origin", "http://testserver"), ("origin", "http://evil.example")]
    assert refusal(http.get("/v1/models", headers=two), 403)["code"] == "foreign_origin"


def test_pages_of_others_cannot_ask_without_an_origin(http: TestClient) -> None:
    for site in ("cross-site", "same-site"):
        headers = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
        assert refusal(http.get("/v1/models/hf:a/b", headers=headers), 403)["code"] == "foreign_origin"
        assert http.get("/", headers=headers).status_code == 200, "a link may lead to the page"
    for site in ("same-origin", "none"):
        assert http.get("/v1/models", headers={"sec-fetch-site": site}).status_code == 200


def test_a_key_is_required_and_never_logged(
    tiny_store: Path, serve: Callable[..., TestClient], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    http = serve(tiny_store, key_hash=hash_key("right-key"))
    for headers in ({}, {"authorization": "Bearer wrong-key"}, {"authorization": "Basic right-key"}):
        assert refusal(http.get("/v1/models", headers=headers), 401)["code"] == "invalid_api_key"
    assert http.get("/v1/models", headers={"authorization": "Bearer right-key"}).status_code == 200
    assert "right-key" not in caplog.text
    assert "wrong-key" not in caplog.text


def test_requests_have_an_id_and_one_line_in_the_log(http: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tuning_server.app")
    reply = http.get("/v1/mod%0Aels")
    assert refusal(reply, 404)["message"].startswith("Unknown request URL: GET ")
    lines = [record.getMessage() for record in caplog.records if record.name == "tuning_server.app"]
    assert len(lines) == 1
    assert reply.headers["x-request-id"] in lines[0]
    assert "\n" not in lines[0]


def test_malformed_requests_are_refused_in_words(http: TestClient) -> None:
    headers = {"content-type": "application/json"}
    for content, message in ((b"{", "not JSON"), (b"", "needs a JSON body"), (b"[1]", "should be a JSON object")):
        reported = refusal(http.post("/v1/completions", content=content, headers=headers), 400)["message"]
        assert message in reported
    reported = refusal(http.post("/v1/completions", content=b'"\xff"', headers=headers), 400)["message"]
    assert "expected JSON in UTF-8" in reported
    missing = refusal(http.post("/v1/completions", json={"prompt": "a"}), 400)
    assert (missing["param"], missing["code"]) == ("model", "missing_required_parameter")
    assert "Not allowed to DELETE" in refusal(http.delete("/v1/completions"), 405)["message"]
    refusal(http.get("/v1"), 404)


def test_what_breaks_inside_is_a_500_in_shape(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise KeyError("secret place")

    monkeypatch.setattr("tuning_server.worker.sample", broken)
    error = refusal(http.post("/v1/completions", json={"model": "fork-tiny", "prompt": "a"}), 500)
    assert error["type"] == "server_error"
    assert "secret" not in error["message"]
    monkeypatch.undo()
    assert http.post("/v1/completions", json={"model": "fork-tiny", "prompt": "a"}).status_code == 200


PATHS = [
    "../../etc",
    "hf:../..",
    "hf:/etc",
    "ft:../..:a:abcdefgh",
    "fork-tiny@../..",
    "fork-tiny@*",
    "a\x00b",
    "x" * 5000,
]


@pytest.mark.parametrize("name", PATHS)
def test_names_never_become_paths(client: OpenAI, http: TestClient, name: str) -> None:
    reply = http.post("/v1/completions", json={"model": name, "prompt": "a"})
    assert reply.status_code in (400, 404), reply.text
    with pytest.raises(Exception, match="404|400|Invalid|invalid"):
        client.models.retrieve(name)
    for kind in ("files", "fine_tuning/jobs"):
        assert http.get(f"/v1/{kind}/..%2F..%2Fserver.db").status_code == 404


def test_models_under_a_folder_are_found_by_hf_ids(
    tiny_store: Path, serve: Callable[..., TestClient], tmp_path: Path
) -> None:
    shutil.copytree(tiny_store / "bases" / "fork-tiny@0123456789ab", tmp_path / "models" / "me" / "mine")
    reply = serve(tiny_store).get("/v1/models/hf:me/mine")
    assert "--models DIR" in refusal(reply, 404)["message"]
    http = serve(tiny_store, models_dir=tmp_path / "models")
    reported = http.get("/v1/models/hf:me%2Fmine").json()
    assert (reported["id"], reported["owned_by"], reported["context_tokens"]) == ("hf:me/mine", "huggingface", 512)
    assert http.post("/v1/completions", json={"model": "hf:me/mine", "prompt": "a"}).status_code == 200
    assert http.get("/v1/models/hf:..%2Fstore").status_code == 404


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "server.db") as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(CannotStart, match="newer version"):
        Store(tmp_path)
    (tmp_path / "server.db").write_bytes(b"no database at all, but long enough to be looked at" * 50)
    for extra in ("server.db-wal", "server.db-shm"):
        (tmp_path / extra).unlink(missing_ok=True)
    with pytest.raises(CannotStart, match="cannot be used"):
        Store(tmp_path)
