"""Requests to ``/v1/scores``, several under way at once."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import httpx
import numpy as np
from openai import NotFoundError, OpenAI

from lib.tokens import lacks_model

Columns = dict[str, np.ndarray]
Item = TypeVar("Item")
Reply = TypeVar("Reply")


def request_scores(client: OpenAI, body: Mapping[str, Any], *, instead: str) -> Columns:
    """The arrays of one reply of ``/scores``.

    Raises
    ------
    ValueError
        If the endpoint has no ``/scores``; ends in `instead`, which says what would help.
    openai.OpenAIError
        What the endpoint refused.
    """
    try:
        reply = client.post("/scores", cast_to=httpx.Response, body=dict(body))
    except NotFoundError as error:
        if lacks_model(error):
            raise
        raise ValueError(f"The endpoint has no /scores. {instead}") from error
    with np.load(io.BytesIO(reply.content), allow_pickle=False) as arrays:
        return dict(arrays)


def in_order(ask: Callable[[Item], Reply], items: Iterable[Item], concurrency: int) -> Iterator[Reply]:
    """Replies in the order of the items, the next ones already under way; no more of them are kept in memory."""
    waiting: deque[Future[Reply]] = deque()
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(ask, item))
                if len(waiting) == concurrency:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
