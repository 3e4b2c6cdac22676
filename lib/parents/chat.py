"""Ask in conversation: system, shots as turns, then the question. Answers are kept as `lib.api.ask` keeps them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI, OpenAIError

from lib.api import Answer, Journal, Request, fingerprint
from lib.budget import preview
from lib.hosted import HostedClient
from lib.paths import content_hash
from lib.progress import progress

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One question in conversation and how it is answered; `seed` and `temperature` as in `lib.api.Request`."""

    model: str
    messages: tuple[tuple[str, str], ...]  # role and content
    max_tokens: int
    temperature: float
    n: int
    seed: int

    @property
    def body(self) -> dict[str, Any]:
        """Arguments of ``chat.completions.create``."""
        settings = {name: getattr(self, name) for name in ("model", "max_tokens", "temperature", "n", "seed")}
        return settings | {"messages": [{"role": role, "content": content} for role, content in self.messages]}


def converse(
    client: OpenAI, asked: Sequence[Conversation], *, journal: Path, concurrency: int = 8
) -> list[list[Answer]]:
    """Ask every conversation once, some at a time.

    Parameters
    ----------
    journal : file of answers; what is there is not asked again

    Returns
    -------
    list of lists of Answer
        The `n` replies of each, in the order of ``asked``.

    Raises
    ------
    openai.OpenAIError
        What the endpoint refused; what was under way is still kept.
    """
    marks = {model: fingerprint(client, model) for model in sorted({each.model for each in asked})}
    keys = [content_hash(["chat", marks[each.model], each.body], length=24) for each in asked]
    book = Journal(journal)
    failure: BaseException | None = None
    try:
        missing = {key: each for key, each in zip(keys, asked, strict=True) if key not in book.answers}
        if missing and isinstance(client, HostedClient):
            log.warning("conversations: %s", preview(_priced(list(missing.values())), client.spending.prices))
        with ThreadPoolExecutor(concurrency) as pool, progress(len(missing), "conversations", unit="prompt") as bar:
            waiting = {pool.submit(_send, client, each): key for key, each in missing.items()}
            try:
                while waiting:
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        key, error = waiting.pop(future), future.exception()
                        if error is None:
                            book.add([(key, future.result())])
                            bar.update(1)
                            continue
                        failure = failure or error
                        # what is under way is paid for and awaited; a cancelled future would be waited for for ever
                        waiting = {each: name for each, name in waiting.items() if not each.cancel()}
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if failure is not None:
            raise failure
        return [book.answers[key] for key in keys]
    finally:
        book.close()


def _priced(asked: Sequence[Conversation]) -> list[Request]:
    """Requests of as many tokens, for the preview of what is spent."""
    return [
        Request(
            model=each.model,
            prompt="\n".join(content for _, content in each.messages),
            max_tokens=each.max_tokens,
            temperature=each.temperature,
            n=each.n,
        )
        for each in asked
    ]


def _send(client: OpenAI, each: Conversation) -> list[Answer]:
    reply = client.chat.completions.create(**each.body)
    choices = sorted(reply.choices, key=lambda choice: choice.index)
    if len(choices) != each.n:
        raise OpenAIError(f"the endpoint sent {len(choices)} replies to a conversation, {each.n} were asked for")
    return [Answer(choice.message.content or "", choice.finish_reason) for choice in choices]
