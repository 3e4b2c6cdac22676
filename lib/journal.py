"""Requests, their answers, and the journal that keeps answers on disk so that nothing is asked twice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lib.paths import content_hash


@dataclass(frozen=True)
class Blend:
    """Models whose difference is added to the log-probabilities of a request's model; an extension of our own server.

    Parameters
    ----------
    tuned, base : ids of a small tuned model and of what it was tuned from
    weights : of the request's model, tuned and base
    plausibility : tokens less probable to the request's model than this times its likeliest one are ruled out
    schedule : factor of the small models' weights at each new token, the last one from there on; empty for 1
    """

    tuned: str
    base: str
    weights: tuple[float, float, float] = (1.0, 1.0, -1.0)
    plausibility: float = 0.0
    schedule: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt and how to continue it. `temperature` 0 is greedy; `echo` with `max_tokens` 0 scores the prompt.

    With `messages`, pairs of role and content, a conversation is sent; `prompt` is then its text, by which costs are
    estimated. `token_ids` requests the ids of what is generated, from endpoints that report them.
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

    def key(self, fingerprints: Mapping[str, str]) -> str:
        """Key of the answer in a journal: the request, and the weights behind its models.

        Fields keep their names, and new ones are left out at their default, so that answers on disk stay valid.
        """
        optional = ("blend", "messages", "token_ids")
        content = {name: value for name, value in asdict(self).items() if value or name not in optional}
        return content_hash([*(fingerprints[model] for model in self.models), content], length=24)


@dataclass(frozen=True)
class Answer:
    """One sample. Token lists are empty unless log-probabilities (nats) or ids were requested."""

    text: str
    finish_reason: str
    tokens: tuple[str, ...] = ()
    token_logprobs: tuple[float | None, ...] = ()
    text_offset: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()


Answered = list[tuple[str, list[Answer]]]


class Journal:
    """Answers on disk, one JSON line each; an answer counts once its line is written.

    A journal has one writer at a time, and a last line that a kill left unfinished is cut off when it is opened.

    Raises
    ------
    RuntimeError
        If another process is writing to it.
    ValueError
        If a line is broken; names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, list[Answer]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path.parent / f".{path.name}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(
                f"{path} is being written by another run: wait for its end, or set a run folder of its own with out"
            ) from None
        try:
            self._read()
            self._file = path.open("ab")
        except BaseException:
            self._lock.release()
            raise

    def _read(self) -> None:
        raw = self.path.read_bytes() if self.path.exists() else b""
        whole = raw[: raw.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                self.answers[row["key"]] = [read_answer(sample) for sample in row["answers"]]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{self.path}, line {number} is broken: remove it, to have it asked again") from error
        if len(whole) < len(raw):
            os.truncate(self.path, len(whole))

    def add(self, answered: Answered) -> None:
        """Put answers on disk, then into memory."""
        for key, answers in answered:
            row = {"key": key, "answers": [asdict(answer) for answer in answers]}
            self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.answers.update(answered)

    def close(self) -> None:
        self._file.close()
        self._lock.release()


def read_answer(row: Mapping[str, Any]) -> Answer:
    """An answer from its JSON object; other fields of it are ignored."""
    lists = {name: tuple(row.get(name) or ()) for name in ("tokens", "token_logprobs", "text_offset", "token_ids")}
    return Answer(row["text"], row["finish_reason"], **lists)
