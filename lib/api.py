"""The studies' only way to a model: the ``openai`` client, and `ask`, which never asks the same thing twice."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from dotenv import dotenv_values
from openai import OpenAI, OpenAIError

from lib.paths import ROOT, content_hash, read_json, store_root
from lib.progress import progress

log = logging.getLogger(__name__)

PROMPTS_A_REQUEST = 32
START_SECONDS = 90
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def connect(store: Path | None = None) -> OpenAI:
    """Client of the API: ``OPENAI_BASE_URL`` if set, else the server of the store, started if there is none.

    Raises
    ------
    ValueError
        If ``OPENAI_BASE_URL`` is not on this machine: nothing here limits what a hosted run may spend.
    RuntimeError
        If the store's server cannot be started; says why.
    """
    settings = {**dotenv_values(ROOT / ".env"), **os.environ}
    url = settings.get("OPENAI_BASE_URL")
    if url:
        host = urlparse(url).hostname or ""
        if host not in LOOPBACK:
            raise ValueError(
                f"OPENAI_BASE_URL names {host!r}, which may cost money, and no spending limit exists yet: "
                "unset it, or forward the endpoint to a loopback address"
            )
        return OpenAI(
            base_url=url,
            api_key=settings.get("OPENAI_API_KEY") or "none",
            organization=settings.get("OPENAI_ORG_ID"),
            project=settings.get("OPENAI_PROJECT_ID"),
        )
    return _store_client(store or store_root())


def _store_client(store: Path) -> OpenAI:
    client = _running_server(store)
    if client is not None:
        return client
    store.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "lib.server", "--port", "0", "--store", str(store), "--idle-minutes", "2"]
    with (store / "server.log").open("ab") as output:
        server = subprocess.Popen(
            [*command, "--key-file", str(store / "server.key")],
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


@dataclass(frozen=True)
class Blend:
    """Models whose difference is added to what a request's model says, and how; an extension of our own server.

    Parameters
    ----------
    tuned, base : ids of a small tuned model and of what it was tuned from
    weights : of the request's model, tuned and base
    plausibility : tokens less probable to the request's model than this times its likeliest one are ruled out
    schedule : factor of the small models' weights at each new token, the last one from there on; empty for 1
    speculative : let the tuned model draft ahead; other draws of the same distribution, fewer passes
    """

    tuned: str
    base: str
    weights: tuple[float, float, float] = (1.0, 1.0, -1.0)
    plausibility: float = 0.0
    schedule: tuple[float, ...] = ()
    speculative: bool = False


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt and how to continue it. `temperature` 0 is greedy; `echo` with `max_tokens` 0 scores the prompt."""

    model: str
    prompt: str
    max_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    n: int = 1
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    echo: bool = False
    blend: Blend | None = None

    @property
    def models(self) -> list[str]:
        """Every model that has a part in the answer."""
        return [self.model, *([self.blend.tuned, self.blend.base] if self.blend else [])]


@dataclass(frozen=True)
class Answer:
    """One sample. Token lists are empty unless log-probabilities (nats) were asked for."""

    text: str
    finish_reason: str
    tokens: tuple[str, ...] = ()
    token_logprobs: tuple[float | None, ...] = ()
    text_offset: tuple[int, ...] = ()


class Journal:
    """Answers on disk, one JSON line each; an answer counts once its line is there. A torn last line is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, list[Answer]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = path.read_bytes() if path.exists() else b""
        whole = raw[: raw.rfind(b"\n") + 1]
        for line in whole.splitlines():
            row = json.loads(line)
            self.answers[row["key"]] = [_answer(sample) for sample in row["answers"]]
        if len(whole) < len(raw):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        self._file = path.open("ab")

    def add(self, answered: Iterable[tuple[str, list[Answer]]]) -> None:
        """Put answers on disk, then into memory."""
        answered = list(answered)
        for key, answers in answered:
            row = {"key": key, "answers": [asdict(answer) for answer in answers]}
            self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.answers.update(answered)

    def close(self) -> None:
        self._file.close()


def _answer(row: dict[str, Any]) -> Answer:
    lists = {name: tuple(row[name]) for name in ("tokens", "token_logprobs", "text_offset")}
    return Answer(row["text"], row["finish_reason"], **lists)


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
    book = Journal(journal)
    try:
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in book.answers}
        groups: dict[Request, list[tuple[str, Request]]] = {}
        for key, request in missing.items():
            groups.setdefault(replace(request, prompt=""), []).append((key, request))
        parts = [
            group[start : start + PROMPTS_A_REQUEST]
            for group in groups.values()
            for start in range(0, len(group), PROMPTS_A_REQUEST)
        ]
        with ThreadPoolExecutor(concurrency) as pool, progress(len(missing), description, unit="prompt") as bar:
            waiting = {pool.submit(_send, client, part): part for part in parts}
            try:
                for future in as_completed(waiting):
                    book.add(future.result())
                    bar.update(len(waiting[future]))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [book.answers[key] for key in keys]
    finally:
        book.close()


def _keys(requests: Sequence[Request], marks: dict[str, str]) -> list[str]:
    """Journal key of each request: what is asked, and what the weights of its models are."""
    keys = []
    for request in requests:
        asked = asdict(request)
        if request.blend is None:
            del asked["blend"]  # so that journals from before there were blends stay good
        keys.append(content_hash([*(marks[model] for model in request.models), asked], length=24))
    return keys


def _send(client: OpenAI, part: Sequence[tuple[str, Request]]) -> list[tuple[str, list[Answer]]]:
    """One HTTP request for prompts that share their settings."""
    request = part[0][1]
    reply = client.completions.create(
        model=request.model,
        prompt=[asked.prompt for _, asked in part],
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        n=request.n,
        seed=request.seed,
        stop=list(request.stop) or None,
        logprobs=request.logprobs,
        echo=request.echo,
        extra_body={"blend": asdict(request.blend)} if request.blend else None,
    )
    choices = sorted(reply.choices, key=lambda choice: choice.index)
    if len(choices) != len(part) * request.n:
        raise OpenAIError(f"the endpoint sent {len(choices)} choices for {len(part)} prompts x {request.n} samples")
    answers = []
    for choice in choices:
        answer = Answer(choice.text, choice.finish_reason)
        if told := choice.logprobs:
            lists = (tuple(told.tokens or ()), tuple(told.token_logprobs or ()), tuple(told.text_offset or ()))
            answer = Answer(choice.text, choice.finish_reason, *lists)
        answers.append(answer)
    return [(key, answers[k * request.n : (k + 1) * request.n]) for k, (key, _) in enumerate(part)]
