"""What a store holds is found without reading weights twice; a model of the hub stays the one that was first used."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from families import FAMILIES
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from serving import TINY
from starlette.testclient import TestClient

from tuning_server.disk import write_json
from tuning_server.engine import registry


@pytest.fixture
def files_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files of weights that are read to hash them."""
    names: list[str] = []
    file_hash = registry.file_hash

    def counted(path: Path) -> str:
        names.append(path.name)
        return file_hash(path)

    monkeypatch.setattr(registry, "file_hash", counted)
    restart()
    return names


def restart() -> None:
    """Forget what only the memory of a process holds."""
    registry._hashes.clear()


def test_weights_are_hashed_once_whatever_restarts(http: TestClient, files_read: list[str]) -> None:
    first = http.get("/v1/models").json()["data"]
    assert len(files_read) == len(first) == 2
    restart()
    assert http.get("/v1/models").json()["data"] == first
    assert http.get(f"/v1/models/{TINY}").json()["fingerprint"] == first[0]["fingerprint"]
    assert len(files_read) == 2


def test_an_unknown_model_is_refused_without_reading_weights(http: TestClient, files_read: list[str]) -> None:
    reply = http.post("/v1/completions", json={"model": "fork-tinny", "prompt": "a"})
    assert reply.status_code == 404
    assert f"Nearest ids: {TINY}, {TINY}:init" in reply.json()["error"]["message"]
    assert files_read == []


def test_weights_that_change_are_hashed_again(tiny_store: Path) -> None:
    folder = registry.resolve(TINY, tiny_store)
    weights = folder / "model.safetensors"
    before = registry.fingerprint(TINY, folder)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights)  # the clock of a file system may be too coarse to tell the two files apart
    for _ in range(2):
        assert registry.fingerprint(TINY, folder) != before
        restart()
    record = folder / registry.HASH_RECORD
    for damaged in ("", "{}", '{"files": []}'):
        record.write_text(damaged)
        restart()
        assert registry.fingerprint(TINY, folder) == registry.fingerprint(TINY, folder, recompute=True)


def test_a_byte_that_changes_behind_the_clock_is_found_when_it_is_looked_for(tiny_store: Path) -> None:
    folder = registry.resolve(TINY, tiny_store)
    weights = folder / "model.safetensors"
    before, times = registry.fingerprint(TINY, folder), weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert registry.fingerprint(TINY, folder) == before
    assert registry.fingerprint(TINY, folder, recompute=True) != before


@pytest.mark.skipif(os.geteuid() == 0, reason="the root user may write everywhere")
def test_a_folder_that_cannot_be_written_is_hashed_once_per_process(tiny_store: Path, files_read: list[str]) -> None:
    folder = registry.resolve(TINY, tiny_store)
    folder.chmod(0o555)
    try:
        assert registry.fingerprint(TINY, folder) == registry.fingerprint(TINY, folder)
    finally:
        folder.chmod(0o755)
    assert len(files_read) == 1


def test_a_model_without_weights_is_listed_as_broken(tiny_store: Path, serve: Callable[..., TestClient]) -> None:
    folder = registry.resolve(TINY, tiny_store)
    weights = folder / "model.safetensors"
    http = serve(tiny_store, models_dir=folder.parent)

    def reason() -> str:
        listed = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
        assert listed[f"{TINY}:init"]["n_weights"] > 0
        reply = http.get(f"/v1/models/{TINY}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_broken")
        assert listed[TINY]["broken"] == reply.json()["error"]["message"]
        return str(listed[TINY]["broken"])

    part = weights.rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": part.name, "b": "model-00002-of-00002.safetensors"}
    write_json(folder / "model.safetensors.index.json", {"weight_map": names})
    assert "its file model-00002-of-00002.safetensors is missing; delete it" in reason()
    (folder / "model.safetensors.index.json").unlink()
    part.rename(folder / "pytorch_model.bin")
    assert "it holds no weights; convert its older files (.bin) with: tuning-server fetch" in reason()
    reply = http.get(f"/v1/models/hf:{folder.name}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_broken")


class Hub:
    """A hub with one model, whose newest commit moves, and the folder of the snapshots that were downloaded."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.newest = cache, "a" * 40
        self.downloads: list[tuple[str, str | None]] = []

    def snapshot_download(
        self, repo: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool = False
    ) -> str:
        commit = self.newest if revision in (None, "main") else revision
        folder = self.cache / repo.replace("/", "--") / "snapshots" / commit
        if local_files_only:
            if not folder.is_dir():
                raise LocalEntryNotFoundError("not in the cache")
            return str(folder)
        self.downloads.append((repo, revision))
        if repo != "own/model":
            response = httpx.Response(404, request=httpx.Request("GET", "http://hub/own/model"))
            raise RepositoryNotFoundError("404 Client Error.\nRepository Not Found", response=response)
        if not folder.is_dir():
            folder.mkdir(parents=True)
            FAMILIES["gpt2"](folder)
            write_json(folder / "commit.json", {"commit": commit})
        return str(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def test_a_model_of_the_hub_is_downloaded_once_and_stays_at_its_commit(hub: Hub, tmp_path: Path, serve: Any) -> None:
    first = registry.resolve("hf:own/model", tmp_path / "store", download=True)
    assert first.name == "a" * 40
    hub.newest = "b" * 40
    http = serve(tmp_path / "store", download=True)
    body = {"model": "hf:own/model", "prompt": "a", "max_tokens": 1}
    replies = [http.post("/v1/completions", json=body).json() for _ in range(3)]
    assert {reply["system_fingerprint"] for reply in replies} == {registry.fingerprint("hf:own/model", first)}
    assert hub.downloads == [("own/model", None)]
    assert registry.resolve("hf:own/model@main", tmp_path / "store", download=True).name == "b" * 40
    assert registry.resolve("hf:own/model", tmp_path / "other store", download=True).name == "b" * 40


def test_the_pinned_commit_comes_back_when_the_cache_is_emptied(hub: Hub, tmp_path: Path) -> None:
    first = registry.resolve("hf:own/model", tmp_path, download=True)
    hub.newest = "b" * 40
    first.rename(tmp_path / "gone")
    assert registry.resolve("hf:own/model", tmp_path, download=True) == first
    assert hub.downloads[1:] == [("own/model", "a" * 40)]


def test_a_model_that_the_hub_does_not_have_is_refused_in_one_line(hub: Hub, tmp_path: Path, serve: Any) -> None:
    http = serve(tmp_path, download=True)
    reply = http.post("/v1/completions", json={"model": "hf:no/model", "prompt": "a"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    expected = "The model 'hf:no/model' cannot be downloaded: 404 Client Error."
    assert reply.json()["error"]["message"] == expected
    assert not list(tmp_path.glob("hub/*"))


class Refusing(BaseHTTPRequestHandler):
    """A proxy that lets nobody through."""

    def do_CONNECT(self) -> None:
        self.send_error(407)


def test_a_proxy_that_refuses_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Refusing) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        huggingface_hub.close_session()
        with pytest.raises(registry.UnknownModel, match=r"'hf:own/model' cannot be downloaded: .*407"):
            registry.resolve("hf:own/model", tmp_path, download=True)
        proxy.shutdown()
    huggingface_hub.close_session()


def test_a_learning_rate_is_that_of_the_card_or_falls_with_the_size() -> None:
    assert registry.reference_learning_rate({"learning_rate": 3e-4}, 1000) == 3e-4
    by_size = [registry.reference_learning_rate({}, int(n)) for n in (7e9, 1.35e8, 1e4)]
    assert by_size == [2e-5, 1.44e-4, 2e-3]
