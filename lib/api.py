"""The studies' only way to a model: the ``openai`` client, with a budget where it costs money, and `ask`."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlparse

from dotenv import dotenv_values
from openai import OpenAI, OpenAIError

from lib.budget import Spending, preview, read_prices
from lib.clients import EndpointClient, HostedClient, StoreClient, spending_of
from lib.console import progress
from lib.journal import Answer, Answered, Blend, Journal, Request
from lib.paths import ROOT, read_json, runs_root, store_root
from lib.sending import ChatOnly, NoEcho, Part, Sender

log = logging.getLogger(__name__)

__all__ = ["Answer", "Blend", "NoEcho", "Request", "ask", "connect", "fingerprint"]

PROMPTS_A_REQUEST = 32
START_SECONDS = 120
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def connect(
    store: Path | None = None, *, budget_usd: float = 0.0, only_free: bool = False, spend: Path | None = None
) -> OpenAI:
    """Client of the API: ``OPENAI_BASE_URL`` if set, else the server of the store, started whenever there is none.

    With the variables ``TUNING_FORK_MODELS`` (a folder) and ``TUNING_FORK_DOWNLOAD`` (1) it finds ``hf:`` models
    there or on the hub. One that an earlier run started without them is replaced, unless it trains a model.

    Parameters
    ----------
    budget_usd : the most that may be spent, over all runs of the ledger `spend`, at an endpoint not on this machine
    only_free : no budget is needed, since whatever costs is refused
    spend : ledger of money, as in ``spend.jsonl`` of a run folder; by default that of the folder of all runs

    Raises
    ------
    ValueError
        If ``OPENAI_BASE_URL`` is not on this machine and there is no budget.
    RuntimeError
        If the store's server cannot be started; says why.
    """
    settings = {**dotenv_values(ROOT / ".env"), **os.environ}
    url = settings.get("OPENAI_BASE_URL")
    if not url:
        find = partial(_store_client, store or store_root())
        found = find()
        own = {"base_url": found.base_url, "api_key": found.api_key, "organization": "", "project": ""}
        return StoreClient(find=find, **own, max_retries=5)
    account = {
        "base_url": url,
        "api_key": settings.get("OPENAI_API_KEY") or "none",
        "organization": settings.get("OPENAI_ORG_ID"),
        "project": settings.get("OPENAI_PROJECT_ID"),
    }
    host = urlparse(url).hostname or ""
    if host in LOOPBACK:
        return EndpointClient(**account)  # type: ignore[arg-type]
    if not (budget_usd > 0 or only_free):
        raise ValueError(
            f"OPENAI_BASE_URL names {host!r}, which may cost money: set budget_usd above 0 (found {budget_usd}), or "
            "unset OPENAI_BASE_URL to stay on this machine"
        )
    path = spend or runs_root() / "spend.jsonl"
    ledger = Spending(path, budget_usd=0 if only_free else budget_usd, prices=read_prices())
    return HostedClient(spending=ledger, **account)


def _store_client(store: Path) -> OpenAI:
    models, download = os.environ.get("TUNING_FORK_MODELS"), os.environ.get("TUNING_FORK_DOWNLOAD") == "1"
    options = [f"--models={Path(models).resolve()}"] if models else []
    options += ["--download"] if download else []
    client = _running_server(store)
    if client is not None:
        about = read_json(store / "server.json")
        if set(options) <= {f"--models={about.get('models')}", "--download" if about.get("download") else ""}:
            return client
        _stop_own_server(store, client, " ".join(options), idle_minutes=about.get("idle_minutes"))
    store.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tuning_server", "serve", "--store", str(store), "--port", "0"]
    command += ["--idle-minutes", "2", "--key-file", str(store / "server.key"), *options]
    with (store / "server.log").open("ab") as output:
        server = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        client = _running_server(store)
        if client is not None:
            return client
        if server.poll() not in (None, 3):  # 3: another process starts one for this store, so wait for that
            break
        time.sleep(0.2)
    last = (store / "server.log").read_text(errors="replace").strip().splitlines()[-1:]
    raise RuntimeError(f"no server for the store {store}: {last[0] if last else 'it wrote nothing'}")


def _stop_own_server(store: Path, client: OpenAI, options: str, *, idle_minutes: float | None) -> None:
    """Stop a server that runs without `options`, unless it trains a model or a person started it."""
    stop = [sys.executable, "-m", "tuning_server", "stop", "--store", str(store)]
    at_work = ("validating_files", "queued", "running")
    running = [job.id for job in client.fine_tuning.jobs.list(limit=20) if job.status in at_work]
    if running or not idle_minutes:
        why = f"trains a model ({running[0]})" if running else "was not started by a run"
        command = f"python {' '.join(stop[1:])}"
        raise RuntimeError(f"the server of {store} runs without {options} and {why}: stop it first ({command})")
    log.info("restarting the server of %s with %s", store, options)
    subprocess.run(stop, cwd=ROOT, check=True)


def _running_server(store: Path) -> OpenAI | None:
    """Client of the server that `server.json` names, if it answers."""
    try:
        about = read_json(store / "server.json")
        key = (store / about["key_file"]).read_text().strip() if about.get("key_file") else "none"
        client = OpenAI(base_url=about["url"], api_key=key, organization="", project="", max_retries=0, timeout=5)
        client.files.list(limit=1)  # needs no weights, hence quick
    except (OSError, ValueError, KeyError, OpenAIError):
        return None
    return client


def fingerprint(client: OpenAI, model: str) -> str:
    """Hash of the weights behind a model id, if the endpoint reports one, else the id: part of every content key."""
    about = client.models.retrieve(model).model_dump()
    return str(about.get("fingerprint") or about.get("id") or model)


def ask(
    client: OpenAI, requests: Sequence[Request], *, journal: Path, description: str = "asking", concurrency: int = 8
) -> list[list[Answer]]:
    """Ask every request once, some at a time, and keep each answer on disk as it comes.

    Parameters
    ----------
    journal : file of answers; those in it (same request, same weights) are not asked for again
    concurrency : HTTP requests under way at once, each of up to 32 prompts with the same settings

    Returns
    -------
    list of lists of Answer
        The `n` samples of each request, in the order of `requests`.

    Raises
    ------
    openai.OpenAIError
        What the endpoint refused; answers that had come by then stay in the journal.
    RuntimeError
        If another process writes to the journal.
    lib.budget.BudgetExceeded
        If the next request could exceed the budget of a hosted endpoint.
    """
    names = sorted({model for request in requests for model in request.models})
    fingerprints = {model: fingerprint(client, model) for model in names}
    keys = [request.key(fingerprints) for request in requests]
    book, sender = Journal(journal), Sender(client)
    try:
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in book.answers}
        if missing:
            announce(client, missing.values(), description)
        with progress(len(missing), description, unit="prompt") as bar:
            for answered in _answers(sender, _parts(missing), concurrency):
                book.add(answered)
                bar.update(len(answered))
        return [book.answers[key] for key in keys]
    finally:
        book.close()


def _parts(missing: dict[str, Request]) -> list[Part]:
    """Requests of the same settings, as many as go out together."""
    groups: dict[Request, list[tuple[str, Request]]] = {}
    for key, request in missing.items():
        groups.setdefault(replace(request, prompt=""), []).append((key, request))
    return [
        group[start : start + PROMPTS_A_REQUEST]
        for group in groups.values()
        for start in range(0, len(group), PROMPTS_A_REQUEST)
    ]


def _answers(sender: Sender, parts: Sequence[Part], concurrency: int) -> Iterator[Answered]:
    """Answers as they come; after a failure also those that were still under way, since they are paid for."""
    failure: BaseException | None = None
    left, waiting = deque(parts), dict[Future[Answered], Part]()
    with ThreadPoolExecutor(concurrency) as pool:
        while waiting or (left and not failure):
            # no more at a time, so that a kill loses no more: the caller has what was yielded on disk by now
            while left and not failure and len(waiting) < concurrency:
                part = left.popleft()
                waiting[pool.submit(sender.send, part)] = part
            try:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt as interrupt:
                if failure:  # a second one does not wait
                    raise
                failure, done = interrupt, set()
            for future in done:
                part, error = waiting.pop(future), future.exception()
                if isinstance(error, ChatOnly):
                    left.extend([one] for one in part)
                elif error:
                    failure = failure or error
                else:
                    yield future.result()
    if failure:
        raise failure


def announce(client: OpenAI, requests: Iterable[Request], description: str) -> None:
    """Log in one line what requests may cost; silent where nothing costs money (`UnknownPrice` without a price)."""
    if (spending := spending_of(client)) is None:
        return
    most, left = preview(requests, spending.prices), max(0.0, spending.left_usd())
    beyond = "; more than is left, so it may stop before the end" if most.usd > left else ""
    # a warning, since a notebook shows no less
    log.warning("%s: %s, $%.4f of $%.4f left%s", description, most, left, spending.budget_usd, beyond)
