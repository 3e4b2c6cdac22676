"""Requests at random to every route of a server process: no error of the server's own, no hang, no memory kept.

``FUZZED_REQUESTS=10000`` asks for more of them than the few hundred of ``make test``, and then memory is compared too.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from fuzzing import Fuzzed, requests
from hypothesis import HealthCheck, given, settings
from serving import TINY, facts, grow, jsonl, preferences, served, spoken

N_REQUESTS = int(os.environ.get("FUZZED_REQUESTS") or 300)
N_WARM_UP = 1_000  # requests after which memory is first measured
PATIENCE_S = 30.0
MOST_GROWTH = 1.10
MODELS = [TINY, f"{TINY}:init", "fork-kin", "fork-short"]
ROWS = [jsonl(facts(6)), jsonl(preferences(6)), jsonl([spoken(row) for row in preferences(6)])]


class Fuzzer:
    """Sends requests, remembers ids that the server has reported, and what it answered."""

    def __init__(self, http: httpx2.Client, process: psutil.Process) -> None:
        self.http, self.process = http, process
        self.known: dict[str, list[str]] = {"file": [], "job": [], "model": []}
        self.statuses: Counter[int] = Counter()
        self.slowest_s, self.n_sent, self.warm_bytes = 0.0, 0, 0

    def send(self, request: Fuzzed) -> None:
        """Send one request and hold the answer to what every answer must be."""
        path, body = request.path, request.body
        for kind, ids in self.known.items():
            found = ids[self.n_sent % len(ids)] if ids else f"no-{kind}"
            path, body = path.replace(f"<{kind}>", found), body.replace(f"<{kind}>".encode(), found.encode())
        started = time.monotonic()
        answer = self.http.request(request.method, path, content=body, headers={"content-type": request.content_type})
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        self.n_sent += 1
        self.statuses[answer.status_code] += 1
        assert answer.status_code < 500, answer.text
        if request.method == "HEAD":
            assert not answer.content
        elif answer.status_code >= 400:
            reported = answer.json()["error"]
            assert set(reported) == {"message", "type", "param", "code"}
            assert reported["message"]
        elif answer.headers.get("content-type") == "application/json":
            self._learn(answer.json())
        if self.n_sent == N_WARM_UP:
            self.warm_bytes = self.rest()

    def _learn(self, reported: Any) -> None:
        kind = {"file": "file", "fine_tuning.job": "job"}.get(reported.get("object", ""))
        if kind and reported["id"] not in self.known[kind]:
            self.known[kind] = [*self.known[kind][-7:], reported["id"]]
        if reported.get("fine_tuned_model"):
            self.known["model"] = [*self.known["model"][-3:], reported["fine_tuned_model"]]

    def rest(self) -> int:
        """Wait until no job is left to do; the server's resident memory in bytes."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            jobs = self.http.get("/v1/fine_tuning/jobs", params={"limit": 1000}).json()["data"]
            left = [job["id"] for job in jobs if job["status"] in ("validating_files", "queued", "running")]
            if not left:
                time.sleep(1)
                return int(self.process.memory_info().rss)
            for job_id in left:
                self.http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
            time.sleep(0.1)
        raise AssertionError("jobs that were cancelled go on")


@pytest.fixture
def fuzzer(tmp_path: Path) -> Iterator[Fuzzer]:
    store = tmp_path / "store"
    for seed, (name, context_tokens) in enumerate(((TINY, 64), ("fork-kin", 64), ("fork-short", 24))):
        grow(store, name, seed=seed, context_tokens=context_tokens)
    with served(store, "--cache-mb", "1") as (process, url):
        first = {"model": TINY, "prompt": "a", "max_tokens": 1}
        httpx2.post(f"{url}/completions", json=first, timeout=300).raise_for_status()  # torch is loaded with it
        with httpx2.Client(base_url=url.removesuffix("/v1"), timeout=PATIENCE_S) as http:
            yield Fuzzer(http, psutil.Process(process.pid))
        assert process.poll() is None, (store / "server.log").read_text()[-2000:]


def test_no_request_breaks_the_server(fuzzer: Fuzzer) -> None:
    spec = fuzzer.http.get("/openapi.json").json()

    @settings(
        max_examples=N_REQUESTS, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(requests(spec, MODELS, ROWS))
    def ask(request: Fuzzed) -> None:
        fuzzer.send(request)

    ask()
    assert fuzzer.statuses[200] > N_REQUESTS / 10, fuzzer.statuses
    n_bytes = fuzzer.rest()
    reported = f"{fuzzer.n_sent} requests, {dict(fuzzer.statuses)}, slowest {fuzzer.slowest_s:.1f} s"
    print(f"{reported}; {fuzzer.warm_bytes / 2**20:.0f} MiB warm, {n_bytes / 2**20:.0f} MiB at the end")
    assert not fuzzer.warm_bytes or n_bytes < MOST_GROWTH * fuzzer.warm_bytes
