"""Requests handed over as a batch: cheaper, within a day, and found again when the one who waited was killed."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from openai import APIStatusError, OpenAIError
from openai.types import Batch

from lib import hosted
from lib.budget import preview
from lib.hosted import HostedClient
from lib.journal import Answer, Journal, Request
from lib.paths import content_hash
from lib.progress import progress
from lib.sending import COMPLETIONS, Sender, chat_body, completion_body, read_chat, read_completions

log = logging.getLogger(__name__)

KEY = "content_key"
MOST_ROWS = 50_000  # of a batch, in OpenAI's reference
_ENDED = ("completed", "failed", "expired", "cancelled")


def takes_batches(client: HostedClient) -> bool:
    """Whether an endpoint has batches; one line is logged if not."""
    try:
        client.batches.list(limit=1)
    except APIStatusError as error:
        if error.status_code not in (404, 405, 501):
            raise
        log.warning("the endpoint takes no batches: its requests go out one by one, at their full price")
        return False
    return True


def ask_in_batches(
    client: HostedClient, sender: Sender, missing: Mapping[str, Request], book: Journal, *, description: str
) -> None:
    """Ask by batches, and put what comes back into a journal.

    `missing` are the requests without an answer when the journal was opened, some of which may have one by now. Batches
    that an earlier run made for them and did not wait for are waited for first. A request that a batch could not
    answer stays without one.

    Raises
    ------
    lib.budget.BudgetExceeded
        If a batch could pass the budget; it is not made.
    RuntimeError
        If a batch fails, ends before its time or lacks answers because it expired; says what to do.
    """
    prefix = f"batch:{content_hash(book.path.name, length=8)}:"
    for ledger_key in client.spending.unanswered(prefix):
        batch = _find(client, ledger_key.split(":")[2])
        if batch is None:  # killed before it was made
            client.spending.release(ledger_key)
        elif all(row["custom_id"] in missing for row in _rows(client, batch.input_file_id)):  # else another question's
            _collect(client, batch, ledger_key, missing, book, description)
    groups: dict[tuple[str, bool], dict[str, Request]] = {}
    for key, request in missing.items():
        if key not in book.answers:  # a batch is of one model and one endpoint
            groups.setdefault((request.model, bool(request.messages)), {})[key] = request
    made = []
    for group in groups.values():
        first, *items = group.items()
        book.add(sender.send([first]))  # by itself, at its full price: it shows whether the model only chats
        for start in range(0, len(items), MOST_ROWS):
            made.append(_make(client, sender, dict(items[start : start + MOST_ROWS]), prefix))
    for ledger_key, batch in made:
        _collect(client, batch, ledger_key, missing, book, description)


def _make(client: HostedClient, sender: Sender, group: Mapping[str, Request], prefix: str) -> tuple[str, Batch]:
    """A batch of these requests, and its key in the ledger."""
    path = sender.path(next(iter(group.values())))
    lines = []
    for key, request in group.items():
        request = sender.as_sent(request)
        body = completion_body([(key, request)]) if path == COMPLETIONS else chat_body(request)
        body |= body.pop("extra_body", {})
        body = {name: value for name, value in body.items() if value is not None}
        lines.append(json.dumps({"custom_id": key, "method": "POST", "url": f"/v1{path}", "body": body}))
    content = content_hash(sorted(group), length=24)
    ledger_key = f"{prefix}{content}:{uuid.uuid4().hex[:8]}"
    most = preview(list(group.values()), client.spending.prices, batch=True).usd
    client.spending.reserve(ledger_key, most, wait=False)
    try:
        file = client.files.create(file=(f"{content}.jsonl", "\n".join(lines).encode()), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/completions" if path == COMPLETIONS else "/v1/chat/completions",
            completion_window="24h",
            metadata={KEY: content},
        )
    except APIStatusError:
        client.spending.release(ledger_key)
        raise
    return ledger_key, batch


def _find(client: HostedClient, content: str) -> Batch | None:
    return next((each for each in client.batches.list(limit=100) if (each.metadata or {}).get(KEY) == content), None)


def _collect(
    client: HostedClient,
    batch: Batch,
    ledger_key: str,
    missing: Mapping[str, Request],
    book: Journal,
    description: str,
) -> None:
    """Wait for a batch; count its money, then keep its answers, then close its reservation."""
    batch = _wait(client, batch, description)
    answered: list[tuple[str, list[Answer]]] = []
    costs = []
    for row in _rows(client, batch.output_file_id):
        key, told = row["custom_id"], row.get("response") or {}
        if told.get("status_code") != 200:
            continue
        request, reply = missing[key], told["body"]
        price = client.spending.prices.of(request.model)
        usage = reply.get("usage") or {}
        tokens = {name: int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}
        usd = price.usd(**tokens) * price.batch_factor
        costs.append({"id": f"{batch.id}:{key}", "model": price.model, **tokens, "usd": usd})
        read = read_completions if batch.endpoint.endswith(f"/v1{COMPLETIONS}") else read_chat
        try:
            answered += read([(key, request)], reply)
        except (OpenAIError, KeyError, TypeError) as error:
            log.info("batch %s, request %s: %s", batch.id, key, error)
    client.spending.settle(costs)
    book.add(answered)
    client.spending.release(ledger_key)
    if batch.status != "completed":
        reasons = [error.message for error in (batch.errors.data or []) if error.message] if batch.errors else []
        raise RuntimeError(
            f"batch {batch.id} {batch.status} with {len(answered)} answers, which are kept"
            f"{': ' + reasons[0] if reasons else ''}; run again for the rest, or with batch=false"
        )


def _wait(client: HostedClient, batch: Batch, description: str) -> Batch:
    total = batch.request_counts.total if batch.request_counts else 0
    with progress(total, f"{description}, batch", unit="prompt") as bar:
        while batch.status not in _ENDED:
            time.sleep(hosted.POLL_SECONDS)
            batch = client.batches.retrieve(batch.id)
            if batch.request_counts:
                bar.total = batch.request_counts.total
                bar.update(batch.request_counts.completed - bar.n)
    return batch


def _rows(client: HostedClient, file_id: str | None) -> Sequence[dict[str, Any]]:
    text = client.files.content(file_id).text if file_id else ""
    return [json.loads(line) for line in text.splitlines() if line.strip()]
