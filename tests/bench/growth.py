"""How the cost of the server grows: python tests/bench/growth.py [PART ...] [--out FILE].

A tiny model of random weights, so that what is measured is the server and not the arithmetic. Memory is that of this
process, in which server and clients run.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
import psutil
from openai import OpenAI, RateLimitError

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
from serving import TINY, facts, grow, jsonl, listening, served, speak, upload, wait_for

from lib.diversity.next_token import score
from tuning_server.types import Settings

LIMIT = 64  # requests that may wait
LARGE_MB = 512
Row = tuple[object, ...]


def memory_mb() -> int:
    return round(psutil.Process().memory_info().rss / 2**20)


@contextmanager
def server(registry: Path, **settings: int) -> Iterator[tuple[str, OpenAI]]:
    """A server with a store of its own; its address, and a client."""
    with (
        tempfile.TemporaryDirectory() as store,
        listening(Settings(store=Path(store), registry=registry, **settings)) as url,
    ):
        gc.freeze()  # as a server's own process does
        yield url, speak(url)


def documents(registry: Path, folder: Path, sizes: list[int]) -> Iterator[Row]:
    """Next-token statistics of documents of about 50 tokens."""
    with server(registry) as (_, client):
        for n in sizes:
            path = folder / f"{n}.jsonl"
            rng = random.Random(0)
            texts = (" ".join(rng.choices(["the", "red", "fox", "saw", "an", "old", "baker"], k=25)) for _ in range(n))
            path.write_bytes(jsonl([{"text": text} for text in texts]))
            started = time.perf_counter()
            tokens = int(score(client, TINY, str(path), folder=folder / f"of-{n}").documents["tokens"].sum())
            seconds = time.perf_counter() - started
            yield (
                f"{n:,} documents, {tokens:,} tokens",
                f"{seconds:.1f} s",
                f"{1e3 * seconds / n:.2f} ms",
                memory_mb(),
            )


def fine_tunes(registry: Path, sizes: list[int]) -> Iterator[Row]:
    """Starting a server, and listing the models of its registry."""
    with server(registry) as (_, client):
        file = upload(client, jsonl(facts(8)))
        job = client.fine_tuning.jobs.create(model=TINY, training_file=file.id, seed=0, hyperparameters={"n_epochs": 1})
        model = wait_for(client, job.id).fine_tuned_model
    made, n_made = registry / "tuned" / model.rpartition(":")[2] / "final", 0
    card = json.loads((made / "tuned.json").read_text())
    for n in sizes:
        for k in range(n_made, n):
            copy = registry / "tuned" / f"{k:08d}" / "final"
            copy.mkdir(parents=True)
            for file in made.iterdir():
                if file.name != "tuned.json":
                    os.link(file, copy / file.name)
            (copy / "tuned.json").write_text(json.dumps(card | {"id": f"ft:{TINY}::{k:08d}"}))
        started, n_made = time.perf_counter(), n
        with server(registry) as (url, _):
            start = time.perf_counter() - started
            lists = []
            for _ in range(4):
                started = time.perf_counter()
                assert len(httpx.get(f"{url}/v1/models", timeout=60).json()["data"]) > n
                lists.append(time.perf_counter() - started)
        listed = f"list {lists[0]:.2f}, then {median(lists[1:]):.2f} s"
        yield f"{n:,} fine-tunes", f"start {start:.2f} s", listed, memory_mb()


def rows(registry: Path, sizes: list[int]) -> Iterator[Row]:
    """Upload of rows, and the check of a job over them, which tokenises each."""
    with server(registry) as (_, client):
        for n in sizes:
            content = jsonl([{"prompt": f"Q{k} is", "completion": f" the baker {k % 7}."} for k in range(n)])
            started = time.perf_counter()
            file = upload(client, content)
            sent = time.perf_counter() - started
            job = client.fine_tuning.jobs.create(model=TINY, training_file=file.id, hyperparameters={"n_epochs": 1})
            wait_for(client, job.id, status=("queued", "running", "succeeded"), patience_s=3600)
            seconds = time.perf_counter() - started - sent
            client.fine_tuning.jobs.cancel(job.id)
            client.files.delete(file.id)
            size = f"{len(content) / 2**20:.1f} MB"
            yield f"{n:,} rows, {size}", f"upload {sent:.2f} s", f"check {seconds:.1f} s", memory_mb()


def clients(registry: Path, sizes: list[int], n_requests: int = 20) -> Iterator[Row]:
    """Clients that each send 20 requests for 16 tokens, one after another; beyond a limit they are asked to wait."""
    with server(registry, max_waiting=LIMIT) as (url, _):
        for n in sizes:
            refused, waits = list[int](), list[float]()

            def work(seed: int, refused: list[int] = refused, waits: list[float] = waits) -> None:
                client = OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
                for k in range(n_requests):
                    started = time.perf_counter()
                    while True:
                        try:
                            client.completions.create(model=TINY, prompt="The red fox", max_tokens=16, seed=seed + k)
                            break
                        except RateLimitError as error:
                            refused.append(seed)
                            time.sleep(float(error.response.headers["retry-after"]) * random.uniform(0.5, 1.5))
                    waits.append(time.perf_counter() - started)

            started = time.perf_counter()
            with ThreadPoolExecutor(n) as pool:
                list(pool.map(work, range(n)))
            seconds = time.perf_counter() - started
            answered = f"{len(waits) / seconds:,.0f} requests/s"
            slow = f"95% within {sorted(waits)[int(0.95 * len(waits))]:.2f} s, {len(refused):,} times 429"
            yield f"{n} clients, {len(waits):,} requests", answered, slow, memory_mb()


UPLOAD = """
import sys, openai
client = openai.OpenAI(base_url=sys.argv[1], api_key="any")
client.files.create(file=open(sys.argv[2], "rb"), purpose="fine-tune")
"""


def beside_an_upload(registry: Path, folder: Path) -> Iterator[Row]:
    """Completions beside an upload of 512 MB, and without it; server, upload and client are processes of their own."""
    line = jsonl([{"prompt": "a" * 400, "completion": "b" * 600}])
    (folder / "rows.jsonl").write_bytes(line * ((LARGE_MB - 1) * 2**20 // len(line)))
    (folder / "store").mkdir()

    def seconds() -> float:
        started = time.perf_counter()
        client.completions.create(model=TINY, prompt="The red fox", max_tokens=4)
        return time.perf_counter() - started

    with served(folder / "store", "--registry", str(registry)) as (process, url):
        client, memory = OpenAI(base_url=url, api_key="any"), psutil.Process(process.pid).memory_info
        seconds()
        alone = [seconds() for _ in range(50)], memory().rss
        upload = subprocess.Popen([sys.executable, "-c", UPLOAD, url, folder / "rows.jsonl"])
        beside: list[float] = []
        while upload.poll() is None:
            beside.append(seconds())
        assert upload.returncode == 0
        during = beside, memory().rss
    for name, (found, rss) in (("alone", alone), (f"beside an upload of {LARGE_MB} MB", during)):
        yield (f"completions {name}", f"median {1e3 * median(found):.0f} ms", f"slowest {1e3 * max(found):.0f} ms",
               round(rss / 2**20))  # fmt: skip


def main() -> None:
    parts: dict[str, Callable[[Path, Path], Iterator[Row]]] = {
        "documents": lambda registry, folder: documents(registry, folder, [1_000, 10_000, 100_000]),
        "fine-tunes": lambda registry, _: fine_tunes(registry, [10, 100, 1_000, 10_000]),
        "rows": lambda registry, _: rows(registry, [1_000, 10_000, 100_000, 1_000_000]),
        "clients": lambda registry, _: clients(registry, [1, 4, 16, 64, 256]),
        "upload": beside_an_upload,
    }
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", default=[*parts], help=f"of {', '.join(parts)}; all by default")
    parser.add_argument("--out", type=Path, help="file to write the table to")
    args = parser.parse_args()
    lines = ["| size | | | memory, MB |", "|---|---|---|---|"]
    for part in args.parts:
        with tempfile.TemporaryDirectory() as folder:
            registry = Path(folder, "registry")
            grow(registry)
            for row in parts[part](registry, Path(folder)):
                lines.append(f"| {' | '.join(map(str, row))} |")
                print(lines[-1], flush=True)
    if args.out:
        before, _, rest = args.out.read_text(encoding="utf-8").partition("<!-- growth -->")
        table, after = "\n".join(lines), rest.partition("<!-- growth end -->")[2]
        text = f"{before}<!-- growth -->\n\n{table}\n\n<!-- growth end -->{after}"
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
