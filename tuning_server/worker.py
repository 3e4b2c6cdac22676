"""The engine's thread: it answers requests for a model as one batch, takes tasks in turn, and trains between batches.

Which thread does what:

- The event loop reads requests and writes replies; it never computes and never waits for a file.
- Endpoints that are plain functions (uploads too) run in a pool of threads; they use the store and the files alone.
- The engine's thread (`Worker`) is the only one that computes with torch: the model cache and the trainer are its own.

They share the list of work in `Worker`, guarded by its condition; the store, which has a lock of its own; and folders
of models, which appear and disappear by rename. An endpoint submits a `Sampling`, or a `Task` for any other work, and
awaits its future.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tuning_server.engine.cache import ModelCache
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.sampling import Sample, SamplingRequest, sample
from tuning_server.errors import ApiError, known_failure
from tuning_server.store import Store
from tuning_server.trainer import Trainer
from tuning_server.types import Settings

logger = logging.getLogger(__name__)
MAX_ROWS = 256  # rows of one model answered before the next training step may come between
GATHERING_S = (0.01, 0.1)  # between two requests that are to be one batch, and for all of them, at most
STOPPING = "The server is stopping; send the request again when it is back."
BUSY = "Too many requests are waiting (see --max-waiting); send the request again in a second."


@dataclass
class Sampling:
    """A request for samples of one model, which shares batches with others.

    Parameters
    ----------
    prepare : makes the engine's requests, given the model (its tokenizer, its context); may raise `ApiError`
    answer : makes the reply from the model and its samples, in the order of the requests
    """

    model: str
    prepare: Callable[[LoadedModel], Sequence[SamplingRequest]]
    answer: Callable[[LoadedModel, list[Sample]], Any]
    future: Future[Any] = field(default_factory=Future)  # never set to running, so that it can be cancelled


@dataclass(eq=False)
class Task:
    """Work of one request that no other request can share a batch with; tasks run one at a time, in turn.

    Parameters
    ----------
    run : called on the engine's thread with the cache of models (keep a reference to each: fetching the next one may
        drop it from the cache); what it returns ends the future
    """

    run: Callable[[ModelCache], Any]
    future: Future[Any] = field(default_factory=Future)


class Worker:
    """Runs samplings, tasks and jobs until it is stopped."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.last_worked = time.monotonic()
        self._settings = settings
        self._trainer = Trainer(settings, store)
        self._pending: list[Sampling | Task] = []
        self._serving: list[Sampling | Task] = []
        self._n_served = 0  # in the turn before
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, work: Sampling | Task) -> Future[Any]:
        """Queue a request; its future ends with what `answer` or `run` returns.

        Raises
        ------
        ApiError
            If the server is stopping (503), or too many requests wait (429).
        """
        with self._changed:
            if self._stopping:
                raise ApiError(STOPPING, status=503)
            if len(self._pending) >= self._settings.max_waiting:
                raise ApiError(BUSY, status=429, code="rate_limit_exceeded")
            self._pending.append(work)
            self._changed.notify()
        return work.future

    def wake(self) -> None:
        """Notify the engine that the jobs in the store have changed."""
        with self._changed:
            self._changed.notify()

    @property
    def busy(self) -> bool:
        """Whether anything is being computed or waits to be."""
        return bool(self._pending) or self._trainer.has_work()

    def stop(self) -> None:
        """Take no more work and end what waits or is being served; training stops at a step. Returns at once."""
        with self._changed:
            self._stopping = True
            waiting, self._pending = [*self._pending, *self._serving], []
            self._changed.notify()
        for work in waiting:
            _fail(work, ApiError(STOPPING, status=503))

    def join(self, *, timeout: float) -> bool:
        """Wait for the thread; False if it is still inside a step."""
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        settings = self._settings
        cache = ModelCache(settings.weights, limit_bytes=settings.cache_bytes, **settings.source)
        while not self._stopping:
            try:
                self._turn(cache)
            except Exception as error:  # only a stop ends this thread: clients would wait for it for ever
                logger.error("a turn of the engine failed: %s", error, exc_info=not isinstance(error, sqlite3.Error))
                for work in self._serving:
                    _fail(work, error)
                self._serving = []
                with self._changed:  # try again, but not at full speed
                    self._changed.wait(timeout=1.0)
        self._trainer.close()

    def _turn(self, cache: ModelCache) -> None:
        """Answer what waits, then take one step of training."""
        has_work = self._trainer.has_work()  # not under the condition: it reads the store, which may wait for the disk
        with self._changed:
            if not self._pending and not has_work:
                self._changed.wait(timeout=1.0)
            self._gather()
            self._serving, self._pending = turn(self._pending)
            self._n_served = len(self._serving)
        groups = dict[str, list[Sampling]]()  # the model that has waited longest first
        for work in self._serving:
            if isinstance(work, Sampling):
                groups.setdefault(work.model, []).append(work)
        for model, samplings in groups.items():
            self._serve(cache, model, samplings)
        for task in self._serving:
            if isinstance(task, Task) and not task.future.done():
                _answer(task, lambda: task.run(cache))  # noqa: B023 (called at once)
        if self._serving:
            self.last_worked, self._serving = time.monotonic(), []
        if not self._stopping and self._trainer.has_work():
            if self._trainer.advance(cache):
                self.last_worked = time.monotonic()
            else:  # all jobs that are due wait for other servers
                with self._changed:
                    self._changed.wait(timeout=1.0)

    def _gather(self) -> None:
        """Let clients that were answered together ask again, so that they are answered together once more."""
        gap, most = GATHERING_S
        deadline = time.monotonic() + most
        while self._n_served > 1 and self._changed.wait(timeout=gap) and time.monotonic() < deadline:
            pass

    def _serve(self, cache: ModelCache, model: str, samplings: list[Sampling]) -> None:
        """Answer all requests for one model, their rows in common batches."""
        ready: list[tuple[Sampling, int]] = []
        rows: list[SamplingRequest] = []
        samples: list[Sample] = []
        samplings = [sampling for sampling in samplings if not sampling.future.done()]
        if not samplings:
            return
        try:
            loaded = cache.get(model)
            for sampling in samplings:
                try:
                    requests = sampling.prepare(loaded)
                except Exception as error:
                    _fail(sampling, error)
                    continue
                ready.append((sampling, len(requests)))
                rows += requests
            for start in range(0, len(rows), MAX_ROWS):
                if all(sampling.future.done() for sampling, _ in ready):  # all clients are gone, or the server stops
                    return
                samples += sample(loaded, rows[start : start + MAX_ROWS])
        except Exception as error:
            for sampling in samplings:
                _fail(sampling, error)
            return
        for sampling, n_rows in ready:
            own, samples = samples[:n_rows], samples[n_rows:]
            _answer(sampling, lambda: sampling.answer(loaded, own))  # noqa: B023 (called at once)


def turn(pending: Sequence[Sampling | Task]) -> tuple[list[Sampling | Task], list[Sampling | Task]]:
    """What is served next and what waits: every sampling, but one task, so that many tasks delay nobody for long."""
    tasks = [work for work in pending if isinstance(work, Task)]
    return [*(work for work in pending if isinstance(work, Sampling)), *tasks[:1]], [*tasks[1:]]


def _answer(work: Sampling | Task, compute: Callable[[], Any]) -> None:
    """End a request with a result, or with the error that came instead."""
    try:
        result = compute()
    except Exception as error:
        _fail(work, error)
        return
    with suppress(InvalidStateError):  # the server is stopping and has answered
        work.future.set_result(result)


def _fail(work: Sampling | Task, error: Exception) -> None:
    with suppress(InvalidStateError):  # it was cancelled, or answered otherwise
        work.future.set_exception(known_failure(error) or error)
