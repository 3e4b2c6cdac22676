"""What asking may cost: a preview before anything is sent, and a ledger of money that stops at the budget."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from lib.journal import Request
from lib.prices import Prices, estimated_tokens

_ROUNDING_USD = 1e-9  # a sum of prices is no more exact than that


class BudgetExceeded(RuntimeError):
    """The next request could pass the budget."""


@dataclass(frozen=True)
class Preview:
    """What requests may cost: prompts, their estimated tokens, and completions that all run to ``max_tokens``."""

    n_requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float

    def __str__(self) -> str:
        return (
            f"{self.n_requests:,} requests, about {self.prompt_tokens:,} tokens of prompts and up to "
            f"{self.completion_tokens:,} of completions: up to ${self.usd:.4f}"
        )


def preview(requests: Iterable[Request], prices: Prices, *, batch: bool = False) -> Preview:
    """What asking these requests may cost.

    Raises
    ------
    UnknownPrice
        If a model has none.

    >>> from lib.prices import Price
    >>> table = Prices([Price("m", 1.0, 2.0, math.nan, 0.5, "2025-01-01", "invoice")])
    >>> str(preview([Request(model="m", prompt="A fox, a hen.", max_tokens=10, n=2)], table))
    '1 requests, about 4 tokens of prompts and up to 20 of completions: up to $0.0000'
    """
    n = prompt = completion = 0
    usd = []
    for request in requests:
        price = prices.of(request.model)
        n_prompt, n_new = estimated_tokens(request.prompt), request.n * request.max_tokens
        n, prompt, completion = n + 1, prompt + n_prompt, completion + n_new
        usd.append(price.usd(n_prompt, n_new) * (price.batch_factor if batch else 1))
    return Preview(n, prompt, completion, math.fsum(usd))


class Spending:
    """The ledger of a run's money, a file of JSON lines, and the budget that it may not pass.

    A line ``sent`` is written before a request goes out and says the most that it may cost; a line ``reply`` with the
    same id says what it did cost (``usd``, ``prompt_tokens``, ``completion_tokens``), or ``free`` that it cost nothing.
    What was sent and never answered (a kill, a dropped connection) may have cost that most, and counts against the
    budget; it is not counted as spent. Several threads and processes may write to one ledger.

    Parameters
    ----------
    path : Path
        As in ``spend.jsonl`` of a run folder.
    budget_usd : float
        With 0 only what is free is let through.

    Raises
    ------
    ValueError
        If the budget is negative or not finite.
    """

    def __init__(self, path: Path, *, budget_usd: float, prices: Prices) -> None:
        if not (math.isfinite(budget_usd) and budget_usd >= 0):
            raise ValueError(f"budget_usd is {budget_usd}: expected a number of US dollars, 0 or more")
        self.path, self.budget_usd, self.prices = path, float(budget_usd), prices
        self.spent_usd = 0.0
        self._unanswered: dict[str, float] = {}
        self._settled: set[str] = set()
        self._under_way: set[str] = set()  # by this process: their replies may still turn out cheaper
        self._place = 0
        self._changed = threading.Condition()
        self._lock = FileLock(path.parent / f".{path.name}.lock")
        if path.exists():
            with self._changed, self._file():
                pass

    @property
    def unanswered_usd(self) -> float:
        """The most that requests without a reply may have cost."""
        return math.fsum(self._unanswered.values())

    def left_usd(self) -> float:
        """What may still be spent."""
        return self.budget_usd - self.spent_usd - self.unanswered_usd

    def unanswered(self, prefix: str) -> list[str]:
        """Ids that begin so, sent and not answered."""
        return [key for key in self._unanswered if key.startswith(prefix)]

    def most_usd(self, key: str) -> float:
        """The most that a request without a reply may have cost."""
        return self._unanswered[key]

    def reserve(self, key: str, usd: float, *, wait: bool = True, **facts: Any) -> None:
        """Write down that a request goes out, and the most that it may cost.

        Parameters
        ----------
        wait : let requests of this process end first, since they may cost less than their most; without it the
            reservation stands until it is settled, as for a job of hours

        Raises
        ------
        BudgetExceeded
            If it could pass the budget.
        """
        with self._changed:
            while True:
                with self._file() as file:
                    if usd <= self.left_usd() + _ROUNDING_USD:
                        self._write(file, [{"id": key, "state": "sent", "most_usd": usd, **facts}])
                        self._under_way |= {key} if wait else set()
                        return
                if not self._under_way:
                    raise BudgetExceeded(self._refusal(usd))
                self._changed.wait()

    def settle(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count what requests did cost, each id once: rows of ``id``, ``usd`` and facts; on disk when this returns."""
        with self._changed, self._file() as file:
            rows = [row for row in rows if row["id"] not in self._settled]
            self._write(file, [{"state": "reply", **row} for row in rows], sync=True)
            self._under_way -= {row["id"] for row in rows}
            self._changed.notify_all()

    def release(self, key: str) -> None:
        """The request was refused: it cost nothing."""
        self.settle([{"id": key, "state": "free", "usd": 0.0}])

    def lose(self, key: str) -> None:
        """No whole reply came: the request may have cost its most, and there is nothing more to wait for."""
        with self._changed:
            self._under_way.discard(key)
            self._changed.notify_all()

    def _refusal(self, usd: float) -> str:
        lost = f", ${self.unanswered_usd:.4f} more may have been (no reply came)" if self._unanswered else ""
        return (
            f"stopped before a request that may cost ${usd:.4f}: ${self.spent_usd:.4f} of the budget of "
            f"${self.budget_usd:.4f} is spent{lost}; answers so far are kept, a higher budget_usd goes on from there"
        )

    @contextmanager
    def _file(self) -> Iterator[int]:
        """The ledger, read up to its end, for this process alone."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                self._read(file)
                yield file
            finally:
                os.close(file)

    def _read(self, file: int) -> None:
        n_bytes = os.fstat(file).st_size - self._place
        raw = os.pread(file, n_bytes, self._place) if n_bytes > 0 else b""
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):  # torn by a kill: nobody else writes while we hold the lock
            os.ftruncate(file, self._place + len(whole))
        for line in whole.splitlines():
            self._count(json.loads(line))
        self._place += len(whole)

    def _write(self, file: int, rows: Sequence[Mapping[str, Any]], *, sync: bool = False) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        os.write(file, "".join(json.dumps({"at": at, **row}, ensure_ascii=False) + "\n" for row in rows).encode())
        if sync:
            os.fsync(file)
        self._read(file)

    def _count(self, row: Mapping[str, Any]) -> None:
        if row["id"] in self._settled:
            return
        if row["state"] == "sent":
            self._unanswered[row["id"]] = row["most_usd"]
        else:
            self._unanswered.pop(row["id"], None)
            self._settled.add(row["id"])
            self.spent_usd += row["usd"]


def spent_usd(path: Path) -> float:
    """What the replies in a ledger cost together; 0 without one, and a torn last line does not count."""
    raw = path.read_bytes() if path.exists() else b""
    rows = [json.loads(line) for line in raw[: raw.rfind(b"\n") + 1].splitlines()]
    return math.fsum({row["id"]: row["usd"] for row in rows if row["state"] != "sent"}.values())
