"""What is asked, what is answered, and how answers are kept on disk so that nothing is asked twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


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
    """One prompt and how to continue it. `temperature` 0 is greedy; `echo` with `max_tokens` 0 scores the prompt.

    With `messages`, pairs of role and content, a conversation is asked; `prompt` is then its text, by which costs are
    estimated. `token_ids` asks for the ids of what is written, where the endpoint tells them.
    """

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
    messages: tuple[tuple[str, str], ...] = ()
    token_ids: bool = False

    @property
    def models(self) -> list[str]:
        """Every model that has a part in the answer."""
        return [self.model, *([self.blend.tuned, self.blend.base] if self.blend else [])]


@dataclass(frozen=True)
class Answer:
    """One sample. Token lists are empty unless log-probabilities (nats) or ids were asked for."""

    text: str
    finish_reason: str
    tokens: tuple[str, ...] = ()
    token_logprobs: tuple[float | None, ...] = ()
    text_offset: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()


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
    lists = {name: tuple(row.get(name, ())) for name in ("tokens", "token_logprobs", "text_offset", "token_ids")}
    return Answer(row["text"], row["finish_reason"], **lists)
