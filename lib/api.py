"""The studies' only way to a model: the ``openai`` client, and `ask`, which never asks the same thing twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import urlparse

from dotenv import dotenv_values
from openai import OpenAI, OpenAIError

from lib.batches import ask_in_batches, takes_batches
from lib.budget import Spending
from lib.hosted import HostedClient, announce
from lib.journal import Answer, Blend, Journal, Request
from lib.paths import ROOT, content_hash, read_json, runs_root, store_root
from lib.prices import read_prices
from lib.progress import progress
from lib.sending import ChatOnly, NoEcho, Part, Sender

__all__ = ["Answer", "Blend", "Journal", "NoEcho", "Request", "ask", "connect", "fingerprint"]

PROMPTS_A_REQUEST = 32
START_SECONDS = 90
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def connect(
    store: Path | None = None,
    *,
    budget_usd: float = 0.0,
    only_free: bool = False,
    spend: Path | None = None,
    batch: bool = False,
) -> OpenAI:
    """Client of the API: ``OPENAI_BASE_URL`` if set, else the server of the store, started if there is none.

    Parameters
    ----------
    budget_usd : the most that may be spent at an endpoint that is not on this machine, all told in the ledger `spend`
    only_free : no budget is needed, since whatever costs is refused
    spend : ledger of money, as in ``spend.jsonl`` of a run folder; by default that of the folder of all runs
    batch : let `ask` use an endpoint's batches

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
        return _store_client(store or store_root())
    account = {
        "base_url": url,
        "api_key": settings.get("OPENAI_API_KEY") or "none",
        "organization": settings.get("OPENAI_ORG_ID"),
        "project": settings.get("OPENAI_PROJECT_ID"),
    }
    host = urlparse(url).hostname or ""
    if host in LOOPBACK:
        return OpenAI(**account)  # type: ignore[arg-type]
    if not (budget_usd > 0 or only_free):
        raise ValueError(
            f"OPENAI_BASE_URL names {host!r}, which may cost money: set budget_usd above 0 (found {budget_usd}), or "
            "unset OPENAI_BASE_URL to stay on this machine"
        )
    ledger = Spending(
        spend or runs_root() / "spend.jsonl", budget_usd=0 if only_free else budget_usd, prices=read_prices()
    )
    return HostedClient(spending=ledger, batch=batch, **account)


def _store_client(store: Path) -> OpenAI:
    client = _running_server(store)
    if client is not None:
        return client
    store.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "tuning_server",
        "serve",
        "--port",
        "0",
        "--store",
        str(store),
        "--idle-minutes",
        "2",
    ]
    with (store / "server.log").open("ab") as output:
        server = subprocess.Popen(
            [*command, "--idle-minutes", "2", "--key-file", str(store / "server.key")],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
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


def _running_server(store: Path) -> OpenAI | None:
    """Client of the server that `server.json` names, if it answers."""
    try:
        about = read_json(store / "server.json")
        key = (store / about["key_file"]).read_text().strip() if about.get("key_file") else "none"
        client = OpenAI(base_url=about["url"], api_key=key, organization="", project="", max_retries=5)
        client.with_options(max_retries=0, timeout=5).files.list(limit=1)  # needs no weights, hence quick
    except (OSError, ValueError, KeyError, OpenAIError):
        return None
    return client


def fingerprint(client: OpenAI, model: str) -> str:
    """What the weights behind a model id are, if the endpoint says so, else the id: part of every journal key."""
    about = client.models.retrieve(model).model_dump()
    return str(about.get("fingerprint") or about.get("id") or model)


def ask(
    client: OpenAI, requests: Sequence[Request], *, journal: Path, description: str = "asking", concurrency: int = 8
) -> list[list[Answer]]:
    """Ask every request once, some at a time, and keep each answer on disk as it comes.

    Parameters
    ----------
    journal : file of answers; those in it (same request, same weights) are not asked again
    concurrency : HTTP requests under way at once, each of up to 32 prompts with the same settings

    Returns
    -------
    list of lists of Answer
        The `n` samples of each request, in the order of `requests`.

    Raises
    ------
    openai.OpenAIError
        What the endpoint refused; answers that had come by then stay in the journal.
    """
    names = sorted({model for request in requests for model in request.models})
    keys = _keys(requests, {model: fingerprint(client, model) for model in names})
    book, sender = Journal(journal), Sender(client)
    try:
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in book.answers}
        if missing and isinstance(client, HostedClient):
            in_batches = client.batch and takes_batches(client)
            announce(client, missing.values(), description, in_batches=in_batches)
            if in_batches:
                ask_in_batches(client, sender, missing, book, description=description)
        missing = {key: request for key, request in missing.items() if key not in book.answers}
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


def _answers(sender: Sender, parts: Sequence[Part], concurrency: int) -> Iterator[list[tuple[str, list[Answer]]]]:
    """What comes back, as it comes; after a failure also what was still under way, since it is paid for."""
    failure: BaseException | None = None
    with ThreadPoolExecutor(concurrency) as pool:
        waiting = {pool.submit(sender.send, part): part for part in parts}
        try:
            while waiting:
                try:
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        part = waiting.pop(future)
                        error = future.exception()
                        if error is None:
                            yield future.result()
                        elif isinstance(error, ChatOnly) and not failure:
                            waiting |= {pool.submit(sender.send, [one]): [one] for one in part}
                        elif not failure:
                            raise error
                except (Exception, KeyboardInterrupt) as error:
                    if failure:
                        raise
                    failure = error
                    pool.shutdown(wait=False, cancel_futures=True)
                    waiting = {future: part for future, part in waiting.items() if not future.cancelled()}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    if failure:
        raise failure


def _keys(requests: Sequence[Request], marks: dict[str, str]) -> list[str]:
    """Journal key of each request: what is asked, and what the weights of its models are."""
    keys = []
    for request in requests:
        asked = asdict(request)
        if request.blend is None:
            del asked["blend"]  # so that journals from before there were blends stay good
        if not request.messages:
            del asked["messages"]  # nor were there conversations
        if not request.token_ids:
            del asked["token_ids"]  # nor ids
        keys.append(content_hash([*(marks[model] for model in request.models), asked], length=24))
    return keys
