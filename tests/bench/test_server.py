"""Requests a second of a server process that 64 clients ask at once, against the same requests one after another."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest
from measuring import Way, compare
from serving import served

from lib import world
from lib.paths import store_root

MODEL = "fork-300k"
N_CLIENTS, N_EACH, N_ALONE = 64, 50, 200  # clients, requests of each, and requests one after another
TARGET = 5.0
TIMEOUT_S = 300  # of one reply; the first one waits until torch and the model are loaded


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own over the bases of this checkout."""
    if not (store_root() / "bases" / f"{MODEL}.json").is_file():
        pytest.fail(f"there is no {MODEL}: python -m tuning_server pretrain {MODEL} --corpus PATH", pytrace=False)
    store = tmp_path_factory.mktemp("store")
    (store / "bases").symlink_to((store_root() / "bases").resolve())
    with served(store) as (_, url):
        yield url


@pytest.fixture(scope="module")
def bodies() -> list[dict[str, Any]]:
    """Completions of 16 tokens after 20 to 60 characters: greedy or drawn, every fourth with log-probabilities."""
    texts = [document.text for document in world.stories(1, 200)]
    bodies = [
        {
            "model": MODEL, "prompt": texts[k % len(texts)][: 20 + 7 * k % 41], "max_tokens": 16,
            "temperature": k % 2, "seed": k,
        }
        for k in range(N_CLIENTS * N_EACH)
    ]  # fmt: skip
    return [body | ({"logprobs": 5} if k % 4 == 0 else {}) for k, body in enumerate(bodies)]


async def ask(url: str, bodies: Sequence[dict[str, Any]]) -> list[int]:
    """One client: a connection of its own, one request after another; the status of each reply.

    By hand, since a client library takes as long for a request as the server does, and all clients share a processor.
    """
    target = urlsplit(f"{url}/completions")
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    told = []
    for body in bodies:
        raw = json.dumps(body).encode()
        head = f"POST {target.path} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Length: {len(raw)}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + raw)
        answer = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT_S)).decode()
        told.append(int(answer.split(maxsplit=2)[1]))
        length = re.search(r"(?i)content-length: (\d+)", answer)
        assert length, answer
        assert json.loads(await reader.readexactly(int(length[1])))["object"] == "text_completion"
    writer.close()
    return told


def per_second(url: str, bodies: Sequence[dict[str, Any]], *, n_clients: int) -> float:
    """Requests a second of so many clients at once; any status but 200 is an error."""

    async def all_clients() -> list[list[int]]:
        return await asyncio.gather(*(ask(url, bodies[k::n_clients]) for k in range(n_clients)))

    started = time.perf_counter()
    told = list(itertools.chain(*asyncio.run(all_clients())))
    seconds = time.perf_counter() - started
    assert told == [200] * len(bodies)
    return len(bodies) / seconds


def test_many_clients_at_once(url: str, bodies: list[dict[str, Any]], report: Callable) -> None:
    per_second(url, bodies[:N_CLIENTS], n_clients=N_CLIENTS)  # the model is loaded with the first request
    ratio = compare(
        f"server, {N_CLIENTS} clients x {N_EACH} requests",
        lambda: per_second(url, bodies, n_clients=N_CLIENTS),
        Way(
            f"one client, {N_ALONE} of the same requests",
            lambda: per_second(url, bodies[:: len(bodies) // N_ALONE], n_clients=1),
        ),
        unit="requests/s",
        n_repetitions=3,
        target=TARGET,
    )
    report(ratio, lambda: "the event loop and the engine's thread take turns at one interpreter")
