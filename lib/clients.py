"""The official client, for servers that end when idle, that leave out parts of OpenAI's API, or that cost money."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from openai import APIConnectionError, APIError, APIStatusError, NotFoundError, OpenAI, OpenAIError
from openai.resources import Models
from openai.types import Model
from pydantic import BaseModel

from lib.budget import Spending, max_tokens_of_body

RETRIES = 8  # of the client itself, which waits as long as Retry-After says
FREE = ("/files", "/uploads", "/tokenize", "/detokenize", "/fine_tuning/jobs")  # jobs are charged by lib.finetune
_UNSENT = ("ConnectError", "ConnectTimeout")  # what httpx raises where the endpoint was not reached


class _Models(Models):
    def retrieve(self, model: str, **options: Any) -> Model:
        """One model; where single models cannot be retrieved, as with vLLM, the one of the list."""
        try:
            return super().retrieve(model, **options)
        except NotFoundError:
            if listed := next((each for each in self.list() if each.id == model), None):
                return listed
            raise


class EndpointClient(OpenAI):
    """The official client, for servers that leave out parts of OpenAI's API."""

    @cached_property
    def models(self) -> Models:
        """Models of the endpoint."""
        return _Models(self)


class StoreClient(OpenAI):
    """The official client of a store's server, which ends when nothing was requested for two minutes.

    Parameters
    ----------
    find : returns a client of a running server of the store, started if there is none; called when it has ended
    """

    def __init__(self, *, find: Callable[[], OpenAI], **settings: Any) -> None:
        super().__init__(**settings)
        self._find = find

    def copy(self, *, _extra_kwargs: Mapping[str, Any] | None = None, **settings: Any) -> StoreClient:
        """The same with other settings."""
        return super().copy(_extra_kwargs={"find": self._find, **(_extra_kwargs or {})}, **settings)

    with_options = copy

    def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        """Send a request, and once more to another server where it reached none; every method ends here."""
        try:
            return super().request(cast_to, options, stream=stream, stream_cls=stream_cls)
        except APIConnectionError as error:
            if type(error.__cause__).__name__ not in _UNSENT:
                raise
        found = self._find()
        self.base_url, self.api_key = found.base_url, found.api_key
        return super().request(cast_to, options, stream=stream, stream_cls=stream_cls)


class HostedClient(EndpointClient):
    """The official client with a budget: what is not free is charged to `spending`, or not sent (`BudgetExceeded`)."""

    def __init__(self, *, spending: Spending, **settings: Any) -> None:
        super().__init__(**({"max_retries": RETRIES} | settings))
        self.spending = spending

    def copy(self, *, _extra_kwargs: Mapping[str, Any] | None = None, **settings: Any) -> HostedClient:
        """The same with other settings, on the same ledger."""
        return super().copy(_extra_kwargs={"spending": self.spending, **(_extra_kwargs or {})}, **settings)

    with_options = copy

    def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        """Send a request and charge it; every method of the client ends here."""
        path, body = "/" + str(options.url).strip("/"), options.json_data
        key, price = uuid.uuid4().hex[:16], None
        if options.method.lower() == "post" and not path.startswith(FREE):
            body = body if isinstance(body, Mapping) else {}
            price = self.spending.prices.of(str(body.get("model")))
            self.spending.reserve(key, price.usd(*max_tokens_of_body(path, body)), model=price.model)
        try:
            reply = super().request(cast_to, options, stream=stream, stream_cls=stream_cls)
            read = reply.parse() if hasattr(reply, "http_response") else reply  # with_raw_response
        except (APIStatusError, APIConnectionError) as error:
            if price and (isinstance(error, APIStatusError) or type(error.__cause__).__name__ in _UNSENT):
                self.spending.charge(key, 0.0, model=price.model)
            raise self._without_key(error)  # noqa: B904 (the same error)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise OpenAIError(f"{path}: the reply is not JSON ({type(error).__name__})") from None
        if isinstance(cast_to, type) and issubclass(cast_to, BaseModel) and not isinstance(read, BaseModel):
            raise OpenAIError(self._hide(f"{path}: expected JSON, found {str(read)[:60]!r}"))
        usage = getattr(read, "usage", None)
        n_prompt, n_new = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", 0)
        if price and isinstance(n_prompt, int) and isinstance(n_new, int):
            tokens = {"prompt_tokens": n_prompt, "completion_tokens": n_new}
            self.spending.charge(key, price.usd(**tokens), model=price.model, **tokens)
        return reply

    def _without_key(self, error: APIError) -> APIError:
        """Some endpoints repeat the key that they refuse, and what is raised ends in a notebook."""
        if self._hide(text := f"{error.message} {error.body}") != text:
            error.message, error.body = self._hide(error.message), None
            error.args = (error.message,)
        return error

    def _hide(self, text: str) -> str:
        return text.replace(self.api_key, "(the key)") if len(self.api_key) >= 8 else text


def spending_of(client: OpenAI) -> Spending | None:
    """The ledger of a client that costs money."""
    return client.spending if isinstance(client, HostedClient) else None
