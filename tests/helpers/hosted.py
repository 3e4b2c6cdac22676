"""A stand-in for a hosted endpoint: OpenAI's wire format in a process of its own, its bill, and its bad days.

Run as ``python hosted.py`` with a JSON object of `Settings` as its argument: it prints its port, and ``GET /state``
tells what it was asked. Each reply runs to ``max_tokens``; a text has as many tokens as fours of characters.
"""

from __future__ import annotations

import json
import math
import random
import re
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHAT_ONLY = "This is a chat model and not supported in the v1/completions endpoint."
FAILURES = ("429", "500", "drop", "drop inside")


@dataclass
class Settings:
    """What the endpoint can do, and how often a paid request fails."""

    chat_only: tuple[str, ...] = ("gpt-4o-mini",)
    no_echo: tuple[str, ...] = ("gpt-3.5-turbo-instruct",)
    failing: float = 0.0
    failures: tuple[str, ...] = FAILURES  # one after the other
    retry_after: float = 0.05
    refuse: int = 0  # status of every paid request
    refuse_after: int = 0  # so many posts that are answered
    slow: float = 0.0
    repeats_key: bool = False
    loses_jobs: bool = False  # hangs up after it has made one
    lists_only: tuple[str, ...] = ()  # its models, which cannot be retrieved one by one, as with vLLM


@dataclass
class State:
    settings: Settings
    rng: random.Random = field(default_factory=lambda: random.Random(5))
    lock: Any = field(default_factory=threading.Lock)
    answered: Counter[str] = field(default_factory=Counter)  # whole replies by prompt
    failures: Counter[str] = field(default_factory=Counter)
    not_before: dict[str, float] = field(default_factory=dict)
    too_early: int = 0
    n_posts: Counter[str] = field(default_factory=Counter)
    tokens: dict[str, list[int]] = field(default_factory=dict)  # billed, of prompts and completions, by model
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    made: dict[str, dict[str, Any]] = field(default_factory=dict)  # jobs


def tokens_of(text: str) -> int:
    return math.ceil(len(text) / 4)


class Refused(Exception):
    def __init__(self, status: int, message: str, **about: Any) -> None:
        self.status, self.body = status, {"error": {"message": message, "type": "invalid_request_error", **about}}


def completion(state: State, body: dict[str, Any]) -> dict[str, Any]:
    model, n = body["model"], body.get("n") or 1
    prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
    if model in state.settings.chat_only:
        raise Refused(404, CHAT_ONLY, param="model", code=None)
    if body.get("echo") and model in state.settings.no_echo:
        raise Refused(400, "Setting 'echo' and 'logprobs' at the same time is not supported.", param="echo", code=None)
    choices = []
    for prompt in prompts:
        for _ in range(n):
            words = re.findall(r"\s*\S+|\s+", prompt) if body.get("echo") else []
            offsets = [sum(map(len, words[:k])) for k in range(len(words))]
            told = {"tokens": words, "text_offset": offsets, "token_logprobs": [None, *[-1.0] * (len(words) - 1)]}
            text = prompt if body.get("echo") else f" re: {prompt}"
            about = {"index": len(choices), "text": text, "finish_reason": "length"}
            choices.append(about | {"logprobs": told if body.get("logprobs") is not None else None})
    n_prompt, n_new = sum(map(tokens_of, prompts)), len(choices) * body.get("max_tokens", 16)
    return _reply("text_completion", model, choices, n_prompt, n_new)


def chat(state: State, body: dict[str, Any]) -> dict[str, Any]:
    prompt, n = body["messages"][-1]["content"], body.get("n") or 1
    told = [{"token": token, "logprob": -0.5, "bytes": None, "top_logprobs": []} for token in (" re", ":")]
    choices = [
        {
            "index": k,
            "message": {"role": "assistant", "content": f" re: {prompt}"},
            "finish_reason": "stop",
            "logprobs": {"content": told} if body.get("logprobs") else None,
        }
        for k in range(n)
    ]
    return _reply("chat.completion", body["model"], choices, tokens_of(prompt) + 7, n * body["max_tokens"])


def _reply(kind: str, model: str, choices: list[Any], n_prompt: int, n_new: int) -> dict[str, Any]:
    usage = {"prompt_tokens": n_prompt, "completion_tokens": n_new, "total_tokens": n_prompt + n_new}
    return {"id": "x", "object": kind, "created": 0, "model": model, "choices": choices, "usage": usage}


class Endpoint(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet
    state: State

    def log_message(self, *_: Any) -> None:
        pass

    def say(
        self, value: Any, status: int = 200, *, raw: bytes | None = None, kind: str = "application/json", **more: str
    ):
        content = json.dumps(value).encode() if raw is None else raw
        self.send_response(status)
        for name, told in {"Content-Type": kind, "Content-Length": str(len(content)), **more}.items():
            self.send_header(name.replace("_", "-"), told)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "x", "max_model_len": 512}

    def do_GET(self) -> None:
        state, path = self.state, self.path.split("?")[0].removeprefix("/v1")
        if path == "/state":
            names = ("answered", "failures", "too_early", "n_posts", "tokens", "files")
            return self.say({name: getattr(state, name) for name in names})
        if path == "/models":
            return self.say({"object": "list", "data": [self.model(name) for name in state.settings.lists_only]})
        if path.startswith("/models/"):
            if state.settings.lists_only:
                return self.say({"detail": "Not Found"}, 404)
            return self.say(self.model(path.split("/")[2]))
        if path == "/files":
            return self.say({"object": "list", "data": [], "has_more": False})
        if path.endswith("/content"):
            return self.say(None, raw=state.files[path.split("/")[2]]["content"].encode(), kind="text/plain")
        if path.endswith(("/checkpoints", "/events")):
            return self.say({"object": "list", "data": [], "has_more": False})
        if path == "/fine_tuning/jobs":
            return self.say({"object": "list", "data": [*state.made.values()][::-1], "has_more": False})
        self.say(state.made[path.split("/")[-1]])

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.removeprefix("/v1")
        with self.state.lock:
            self.state.n_posts[path] += 1
        if path == "/files":
            content = raw.split(b"filename=", 1)[1].split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0].decode()
            number = f"file-{len(self.state.files)}"
            self.state.files[number] = {"content": content}
            return self.say({"id": number, "object": "file", "bytes": len(content), "created_at": 0, "purpose": "x"})
        body = json.loads(raw)
        try:
            if self.state.settings.refuse and sum(self.state.n_posts.values()) > self.state.settings.refuse_after:
                key = self.headers["Authorization"] if self.state.settings.repeats_key else "the key"
                raise Refused(self.state.settings.refuse, f"Refused: {key}", code="refused")
            if path == "/fine_tuning/jobs":
                made = self.job(body)
                return self.hang_up() if self.state.settings.loses_jobs else self.say(made)
            reply = (chat if path == "/chat/completions" else completion)(self.state, body)
        except Refused as refused:
            return self.say(refused.body, refused.status)
        time.sleep(self.state.settings.slow)
        self.answer(body, reply)

    def answer(self, body: dict[str, Any], reply: dict[str, Any]) -> None:
        """Send a reply, whole or as on a bad day; only whole ones are billed and remembered."""
        state, settings = self.state, self.state.settings
        prompts = body.get("prompt") or [body["messages"][-1]["content"]]
        with state.lock:
            state.too_early += any(time.monotonic() < state.not_before.get(prompt, 0) for prompt in prompts)
            bad_day = state.rng.random() < settings.failing
            failure = settings.failures[sum(state.failures.values()) % len(settings.failures)] if bad_day else ""
            if failure:
                state.failures[failure] += 1
            else:
                state.answered.update(prompts)
                self.bill(reply)
            if failure == "429":
                state.not_before |= dict.fromkeys(prompts, time.monotonic() + settings.retry_after)
        whole = json.dumps(reply).encode()
        if failure == "429":
            self.say({"error": {"message": "slow down"}}, 429, Retry_After=str(settings.retry_after))
        elif failure == "500":
            self.say({"error": {"message": "oh"}}, 500)
        elif failure == "drop":
            self.hang_up()
        elif failure == "drop inside":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
            self.hang_up()
        elif failure == "not json":
            self.say(None, raw=whole[: len(whole) // 2])
        elif failure == "other json":
            self.say({"hello": "world"})
        elif failure == "html":
            self.say(None, raw=b"<html>busy</html>", kind="text/html")
        elif failure == "too few":
            self.say(reply | {"choices": reply["choices"][:-1]})
        else:
            self.say(reply)

    def bill(self, reply: dict[str, Any]) -> None:
        tokens = self.state.tokens.setdefault(reply["model"], [0, 0])
        tokens[0] += reply["usage"]["prompt_tokens"]
        tokens[1] += reply["usage"]["completion_tokens"]

    def job(self, body: dict[str, Any]) -> dict[str, Any]:
        number, epochs = f"job-{len(self.state.made)}", body["method"]["supervised"]["hyperparameters"]["n_epochs"]
        rows = [json.loads(line) for line in self.state.files[body["training_file"]]["content"].splitlines()]
        if body["model"] in self.state.settings.chat_only and any("messages" not in row for row in rows):
            raise Refused(400, "The training file must hold chats.", param="training_file", code="invalid_file_format")
        texts = [text for row in rows for text in ([m["content"] for m in row.get("messages", [])] or row.values())]
        n_tokens = sum(map(tokens_of, texts))
        about = {
            "id": number,
            "object": "fine_tuning.job",
            "created_at": 0,
            "status": "succeeded",
            "hyperparameters": {},
        }
        about |= {"model": body["model"], "seed": 0, "result_files": [], "organization_id": "x"}
        about |= {"training_file": body["training_file"], "metadata": body.get("metadata")}
        about |= {"fine_tuned_model": f"ft:{body['model']}:x:{number}", "trained_tokens": n_tokens * epochs}
        self.state.made[number] = about
        return about


if __name__ == "__main__":
    Endpoint.state = State(Settings(**json.loads(sys.argv[1])))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    print(server.server_address[1], flush=True)
    server.serve_forever()
