"""Money at hosted endpoints: prices, a preview of what requests may cost, and the ledger of what was spent.

Every count of tokens made here is an upper bound: by tiktoken where it knows the model's encoding and can load it, else
one token per byte of UTF-8. What a reply reports as its usage replaces the bound.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import IO, Annotated, Any

import tiktoken
from filelock import FileLock
from openai import OpenAIError
from pydantic import BaseModel, Field, ValidationError

from lib.journal import Request
from lib.paths import DATA

log = logging.getLogger(__name__)

Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MILLION = 1_000_000
SPECIAL_TOKENS = 2  # at most, that an encoding puts in front of a text
MESSAGE_TOKENS = 8  # at most, that a message adds to its text: its role and what separates it from the next
DEFAULT_MAX_TOKENS = 16  # of a completion that does not say, in OpenAI's reference
_SNAPSHOT = re.compile(r"-\d{4}-\d\d-\d\d$")
_ROUNDING_USD = 1e-9  # a sum of prices is no more exact than that


class UnknownPrice(ValueError):
    """A model without a price: nothing may be sent to it."""


class BudgetExceeded(RuntimeError):
    """The next request could exceed the budget."""


class Price(BaseModel, frozen=True):
    """Price of a model in US dollars per million tokens; ``training_usd`` is None where it cannot be trained."""

    model: str
    prompt_usd: Usd
    completion_usd: Usd
    training_usd: Usd | None
    as_of: date
    source: str

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of a request and its reply."""
        return (prompt_tokens * self.prompt_usd + completion_tokens * self.completion_usd) / MILLION


class Prices:
    """Prices by model; of two rows for one model the later date counts.

    >>> about = {"model": "ft:small", "training_usd": None, "as_of": "2025-01-01", "source": "invoice"}
    >>> table = Prices([Price(prompt_usd=1.0, completion_usd=2.0, **about)])
    >>> table.of("ft:small-2024-07-18:team:try:1").usd(1_000_000, 500_000)
    2.0
    """

    def __init__(self, rows: Iterable[Price]) -> None:
        self.rows = {row.model: row for row in sorted(rows, key=lambda row: row.as_of)}

    def of(self, model: str) -> Price:
        """Price of a model: of its own id, else without its snapshot's date; a fine-tune has the row ``ft:<base>``.

        Raises
        ------
        UnknownPrice
            If no row fits; says where to add one.
        """
        name = ":".join(model.split(":")[:2]) if model.startswith("ft:") else model
        for known in (model, name, _SNAPSHOT.sub("", name)):
            if known in self.rows:
                return self.rows[known]
        raise UnknownPrice(
            f"no price is known for {model!r}, so nothing was sent: add a row for {name!r} to a table in data/prices"
        )

    def training_usd(self, base: str, n_tokens: int) -> float:
        """Price of training on so many tokens, all epochs counted (`UnknownPrice` if there is none)."""
        price = self.of(base)
        if price.training_usd is None:
            raise UnknownPrice(
                f"no training price is known for {base!r}, so nothing was sent: fill in training_usd in data/prices"
            )
        return n_tokens * price.training_usd / MILLION


def read_prices(folder: Path = DATA / "prices") -> Prices:
    """All tables of a folder; a missing column or a value that is none is a `ValueError` that names the row."""
    rows = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(line for line in file if not line.startswith("#")), start=1):
                try:
                    rows.append(Price.model_validate({name: value or None for name, value in row.items()}))
                except ValidationError as error:
                    first = error.errors()[0]
                    raise ValueError(
                        f"{path}, row {number}, {first['loc'][0]}: {first['msg']} (prices are USD per million tokens, "
                        f"found {first['input']!r})"
                    ) from None
    return Prices(rows)


def max_tokens_of(text: str, model: str) -> int:
    """At most how many tokens a text has for a model.

    >>> max_tokens_of("東京", "my-own-model")
    8
    """
    encoding = _encoding(":".join(model.split(":")[:2]))
    if encoding:
        return len(encoding.encode_ordinary(text))
    return len(text.encode("utf-8", "surrogatepass")) + SPECIAL_TOKENS


@cache
def _encoding(model: str) -> tiktoken.Encoding | None:
    """The model's encoding; None where tiktoken does not know the model, or cannot load its file."""
    try:
        return tiktoken.encoding_for_model(model)
    except KeyError:
        return None
    except (OSError, ValueError) as error:
        log.info("no encoding for %s (%s): tokens are bounded by bytes", model, type(error).__name__)
        return None


@dataclass(frozen=True)
class Preview:
    """The most that requests may cost: tokens of their prompts, and completions that all run to ``max_tokens``."""

    n_requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float

    def __str__(self) -> str:
        return (
            f"{self.n_requests:,} requests, up to {self.prompt_tokens:,} tokens of prompts and "
            f"{self.completion_tokens:,} of completions: up to ${self.usd:.4f}"
        )


def preview(requests: Iterable[Request], prices: Prices) -> Preview:
    """The most that these requests may cost (`UnknownPrice` if a model has no price)."""
    n = prompt = completion = 0
    usd = 0.0
    for request in requests:
        n_prompt, n_new = max_tokens_of(request.prompt, request.model), request.n * request.max_tokens
        n_prompt += MESSAGE_TOKENS * max(1, len(request.messages))
        n, prompt, completion = n + 1, prompt + n_prompt, completion + n_new
        usd += prices.of(request.model).usd(n_prompt, n_new)
    return Preview(n, prompt, completion, usd)


class Spending:
    """A budget and its ledger, a file of JSON lines that several threads and processes may write to.

    Before a request is sent, a line with its ``id`` says the most that it may cost (``usd``); when its reply has come,
    a second line with the same id says what it did cost. The last line of an id counts, so that a request whose reply
    was lost counts with its most. A repetition by the client itself, after a lost reply, is not counted anew.

    Parameters
    ----------
    path : Path
        As in ``spend.jsonl`` of a run folder.
    budget_usd : float
        With 0 only what is free is sent.

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
        self._usd: dict[str, float] = {}
        self._n_bytes = 0  # of the ledger, that have been read
        self._thread_lock, self._lock = threading.Lock(), FileLock(path.parent / f".{path.name}.lock")
        if path.exists():
            with self._ledger():
                pass

    def left_usd(self) -> float:
        """What may still be spent."""
        return self.budget_usd - self.spent_usd

    def is_charged(self, key: str) -> bool:
        """Whether something was charged under this id."""
        return key in self._usd

    def reserve(self, key: str, usd: float, **facts: Any) -> None:
        """Charge the most that a request may cost before it is sent (`BudgetExceeded` if that is more than is left)."""
        with self._ledger() as file:
            if usd > self.left_usd() + _ROUNDING_USD:
                raise BudgetExceeded(
                    f"stopped before a request that may cost ${usd:.4f}: ${self.spent_usd:.4f} of the budget of "
                    f"${self.budget_usd:.4f} is spent or may be; answers so far are kept, a higher budget_usd continues"
                )
            self._append(file, key, usd, facts)

    def charge(self, key: str, usd: float, **facts: Any) -> None:
        """Charge what a request did cost in place of what it might have cost."""
        with self._ledger() as file:
            self._append(file, key, usd, facts)
            os.fsync(file.fileno())

    @contextmanager
    def _ledger(self) -> Iterator[IO[bytes]]:
        """The ledger, read up to its end, for this thread alone; a line that a kill left unfinished is cut off."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._thread_lock, self._lock, self.path.open("a+b") as file:
            file.seek(self._n_bytes)
            raw = file.read()
            whole = raw[: raw.rfind(b"\n") + 1]
            for line in whole.splitlines():
                row = json.loads(line)
                self._count(row["id"], float(row.get("usd", row.get("most_usd", 0.0))))  # most_usd: of version 1
            self._n_bytes += len(whole)
            if len(whole) < len(raw):
                file.truncate(self._n_bytes)
            yield file

    def _append(self, file: IO[bytes], key: str, usd: float, facts: Mapping[str, Any]) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"at": at, "id": key, "usd": usd, **facts}, ensure_ascii=False).encode() + b"\n"
        file.write(line)
        file.flush()
        self._n_bytes += len(line)
        self._count(key, usd)

    def _count(self, key: str, usd: float) -> None:
        self.spent_usd += usd - self._usd.get(key, 0.0)
        self._usd[key] = usd


def max_tokens_of_body(path: str, body: Mapping[str, Any]) -> tuple[int, int]:
    """At most how many tokens a request and its reply have (`OpenAIError` where that is not known)."""
    model, n = str(body.get("model")), body.get("n") or 1

    def count(texts: Any) -> int:
        listed = [texts] if isinstance(texts, str) or (texts and isinstance(texts[0], int)) else texts
        return sum(max_tokens_of(each, model) if isinstance(each, str) else len(each) for each in listed)

    if path == "/completions":
        prompts = body.get("prompt") or ""
        n_prompts = len(prompts) if isinstance(prompts, list) and not isinstance(prompts[0], int) else 1
        n_new = DEFAULT_MAX_TOKENS if body.get("max_tokens") is None else body["max_tokens"]
        return count(prompts), n_prompts * max(n, body.get("best_of") or 1) * n_new
    if path == "/chat/completions":
        n_new = body.get("max_completion_tokens") or body.get("max_tokens")
        if not n_new:
            raise OpenAIError("a chat without max_tokens has no bound on what it costs: set it")
        parts = [*body.get("messages", []), *(body.get("tools") or [])]
        texts = [json.dumps(part.get("content", part), ensure_ascii=False) for part in parts]
        return count(texts) + MESSAGE_TOKENS * len(texts), n * n_new
    if path == "/embeddings":
        return count(body["input"]), 0
    if path == "/scores":
        return count([*(body.get("contexts") or []), *(body.get("documents") or [])]), 0
    raise OpenAIError(f"{path} is not sent to a hosted endpoint: its cost is not known")
