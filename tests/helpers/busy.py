"""Clients that keep a server at everything that writes, and what it acknowledged to them before it was killed."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from openai import APIConnectionError, OpenAI
from serving import TINY, facts, jsonl, preferences, upload

N_FILES = 8  # that are kept; older ones are deleted
N_JOBS = 2  # that are not done
PAUSE_S = 0.05  # between what one client asks
ROWS = {"rows": facts(60), "held_out": facts(7), "pairs": preferences(40), "held_out_pairs": preferences(5)}


def kinds(client: OpenAI, **hyperparameters: int) -> dict[str, dict[str, Any]]:
    """What to ask for to start each kind of job, its files uploaded; `hyperparameters` other than the usual."""
    ids = {name: upload(client, jsonl(rows), f"{name}.jsonl").id for name, rows in ROWS.items()}
    supervised = {"training_file": ids["rows"], "validation_file": ids["held_out"]}
    pairs = {"training_file": ids["pairs"], "validation_file": ids["held_out_pairs"]}
    usual = {"n_epochs": 10, "batch_size": 4, **hyperparameters}
    methods: dict[str, dict[str, Any]] = {
        "supervised": {**supervised, "hyperparameters": usual},
        "dpo": {**pairs, "method": {"type": "dpo", "dpo": {"hyperparameters": usual}}},
        "lora": {**supervised, "hyperparameters": {**usual, "lora": {"rank": 4}}},
    }
    return {name: {"model": TINY, "seed": 3, "metadata": {"kind": name}, **asked} for name, asked in methods.items()}


def begin(client: OpenAI, asked: dict[str, Any]) -> Any:
    """Start a job; extensions of hyperparameters pass the official client as they are."""
    return client.fine_tuning.jobs.create(**asked)


@dataclass
class Acknowledged:
    """What answers of the server said: none of it may be lost. Each part is changed by one client only."""

    files: dict[str, str] = field(default_factory=dict)  # id to SHA-256
    deleted: set[str] = field(default_factory=set)
    jobs: set[str] = field(default_factory=set)
    checkpoints: dict[str, set[str]] = field(default_factory=dict)  # ids, by job
    models: dict[str, str] = field(default_factory=dict)  # id of a fine-tune to its fingerprint


class Load:
    """Clients at work, each in a thread, until the server is killed or they are told to stop."""

    def __init__(self, url: str, known: Acknowledged, wanted: dict[str, dict[str, Any]], rng: random.Random) -> None:
        self.client = OpenAI(base_url=url, api_key="any", max_retries=0, timeout=300)
        self.known, self.wanted = known, wanted
        self.done, self.cut = Counter[str](), Counter[str]()
        self.errors: list[Exception] = []
        self._under_way: dict[str, str] = {}
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._loop, args=(work, random.Random(rng.random())))
            for work in (self._files, self._jobs, self._samples)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def is_on(self) -> bool:
        """Whether each client has been answered."""
        assert not self.errors, self.errors
        return all(self.done[name] for name in ("upload", "job", "sampling"))

    def join(self) -> None:
        """Wait until all have stopped, telling them to; what went wrong is raised."""
        self._ending.set()
        for thread in self._threads:
            thread.join()
        assert not self.errors, self.errors

    def _loop(self, work: Callable[[random.Random], None], rng: random.Random) -> None:
        while not self._ending.is_set():
            try:
                work(rng)
                time.sleep(PAUSE_S * rng.random())
            except APIConnectionError:
                self.cut[self._under_way[work.__name__]] += 1
                return
            except Exception as error:
                self.errors.append(error)
                return

    def _files(self, rng: random.Random) -> None:
        text = "the old baker " * rng.randint(1, 100)
        raw = jsonl([{"prompt": f"{k} {rng.random()}", "completion": text} for k in range(rng.randint(1, 1500))])
        self._under_way["_files"] = "upload"
        self.known.files[upload(self.client, raw).id] = hashlib.sha256(raw).hexdigest()
        self.done["upload"] += 1
        if len(self.known.files) > N_FILES:
            self._under_way["_files"] = "deletion"
            oldest = next(iter(self.known.files))
            del self.known.files[oldest]  # not known whether it is there, until it is acknowledged that it is not
            self.client.files.delete(oldest)
            self.known.deleted.add(oldest)

    def _jobs(self, rng: random.Random) -> None:
        jobs = self.client.fine_tuning.jobs
        self._under_way["_jobs"] = "looking at jobs"
        told = list(jobs.list(limit=100))
        for job in told:
            if job.status == "succeeded" and job.fine_tuned_model not in self.known.models:
                assert job.fine_tuned_model
                self.known.models[job.fine_tuned_model] = fingerprint(self.client, job.fine_tuned_model)
        left = [job for job in told if job.status != "succeeded"]
        for job in left:
            self.known.checkpoints.setdefault(job.id, set()).update(
                checkpoint.id for checkpoint in jobs.checkpoints.list(job.id, limit=100)
            )
        self._under_way["_jobs"] = "job"
        for _ in range(N_JOBS - len(left)):
            kind = list(self.wanted)[len(self.known.jobs) % len(self.wanted)]
            self.known.jobs.add(begin(self.client, self.wanted[kind]).id)
        self.done["job"] += 1

    def _samples(self, rng: random.Random) -> None:
        self._under_way["_samples"] = "sampling"
        model = rng.choice([TINY, *self.known.models])
        asked: dict[str, Any] = {"prompt": "The red fox", "max_tokens": rng.randint(1, 32), "n": rng.randint(1, 4)}
        self.client.completions.create(model=model, **asked)
        self.done["sampling"] += 1


def fingerprint(client: OpenAI, model: str) -> str:
    """What the server says the weights of a model are."""
    return str(client.models.retrieve(model).fingerprint)  # type: ignore[attr-defined]
