"""The client of an endpoint that costs money: requests are paid from the budget, and repeated only where that helps.

What is paid for goes through one door, `HostedClient.request`, so that no study can spend past its ledger.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from openai import APIConnectionError, APIStatusError, OpenAI, OpenAIError
from pydantic import BaseModel

from lib.budget import Spending, preview
from lib.journal import Request
from lib.prices import Price, estimated_tokens
from lib.sending import CHAT, COMPLETIONS

log = logging.getLogger(__name__)

TRIES = 8
FIRST_WAIT_SECONDS = 0.5  # doubled at every try
MOST_WAIT_SECONDS = 120  # a longer Retry-After is not waited for
POLL_SECONDS = 10
CHAT_TOKENS = 8  # that a message adds to its text, its role and the marks around it
DEFAULT_MAX_TOKENS = 16  # of a completion that does not say, in OpenAI's reference
UNPAID = ("/files", "/uploads", "/tokenize", "/detokenize")  # as posts; what only reads is free everywhere
PAID_AS_JOBS = ("/fine_tuning/jobs", "/batches")  # reserved by who makes them: their requests do not tell the tokens


class _NotWhole(OpenAIError):
    """A reply that came, and is not what was asked for."""


@dataclass(frozen=True)
class _Charge:
    """What one paid request may cost, and what its reply must hold."""

    price: Price
    prompt_tokens: int
    completion_tokens: int
    n_choices: int | None

    @property
    def most_usd(self) -> float:
        return self.price.usd(self.prompt_tokens, self.completion_tokens)

    def row(self, key: str, reply: Any) -> dict[str, Any]:
        """The ledger's line for a reply; one that tells no usage counts as its most."""
        usage = getattr(reply, "usage", None)
        n_prompt = getattr(usage, "prompt_tokens", None)
        n_new = getattr(usage, "completion_tokens", 0)
        if not (isinstance(n_prompt, int) and isinstance(n_new, int)):
            n_prompt, n_new = self.prompt_tokens, self.completion_tokens
        tokens = {"prompt_tokens": n_prompt, "completion_tokens": n_new}
        return {"id": key, "model": self.price.model, **tokens, "usd": self.price.usd(n_prompt, n_new)}


class HostedClient(OpenAI):
    """The official client, with a ledger.

    Parameters
    ----------
    spending : Spending
        Where money is counted; a request that could pass the budget is not sent (`lib.budget.BudgetExceeded`).
    batch : bool, default False
        Let `lib.api.ask` hand its requests over as a batch, where the endpoint takes batches.
    """

    def __init__(self, *, spending: Spending, batch: bool = False, **settings: Any) -> None:
        super().__init__(**(settings | {"max_retries": 0}))  # its own retries would neither be counted nor bounded
        self.spending, self.batch = spending, batch

    def copy(self, *, _extra_kwargs: Mapping[str, Any] | None = None, **settings: Any) -> HostedClient:
        """The same with other settings, on the same ledger."""
        own = {"spending": self.spending, "batch": self.batch, **(_extra_kwargs or {})}
        return super().copy(_extra_kwargs=own, **settings)

    with_options = copy

    def request(
        self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None
    ) -> Any:  # the signature of openai's one door
        """Send a request, again where that can help, and count what it cost."""
        path, is_post = "/" + str(options.url).strip("/"), options.method.lower() == "post"
        charge = self._charge(path, options.json_data) if is_post else None
        is_job = is_post and path in PAID_AS_JOBS
        options.idempotency_key = options.idempotency_key or uuid.uuid4().hex
        send: Callable[[], Any] = lambda: super(HostedClient, self).request(  # noqa: E731
            cast_to, options, stream=stream, stream_cls=stream_cls
        )
        key = self._reserve(charge)
        for attempt in range(1, TRIES + 1):
            try:
                reply = send()
                read = reply.parse() if hasattr(reply, "http_response") else reply  # with_raw_response
                if not stream:
                    _check(read, cast_to, charge)
            except (APIConnectionError, _NotWhole, json.JSONDecodeError, UnicodeDecodeError) as error:
                # Whoever cannot reach the endpoint has spent nothing; any other request may have been answered.
                unsent = type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
                if charge and not unsent:
                    self.spending.lose(key)
                if attempt == TRIES or (is_job and not unsent):
                    if charge and unsent:
                        self.spending.release(key)
                    raise self._told(error, path, attempt) from error
                wait = _backoff(attempt)
                if charge and not unsent:
                    key = self._reserve(charge)
            except APIStatusError as error:
                wait = _wait_seconds(error, attempt, only_429=is_job)
                if attempt == TRIES or not wait <= MOST_WAIT_SECONDS:
                    if charge:
                        self.spending.release(key)
                    raise self._without_key(error) from None
            except BaseException:
                if charge:
                    self.spending.lose(key)
                raise
            else:
                if charge:
                    self.spending.settle([charge.row(key, read)])
                return reply
            log.info("%s: try %d of %d did not succeed, the next in %.1f s", path, attempt, TRIES, wait)
            time.sleep(wait)
        raise AssertionError("unreachable")

    def _reserve(self, charge: _Charge | None) -> str:
        key = uuid.uuid4().hex[:16]
        if charge:
            self.spending.reserve(key, charge.most_usd, model=charge.price.model)
        return key

    def _charge(self, path: str, body: Any) -> _Charge | None:
        """What a post may cost, None for one that is free or was reserved as a job."""
        if path.startswith((*UNPAID, *PAID_AS_JOBS)):
            return None
        body = body if isinstance(body, Mapping) else {}
        counted = _tokens(path, body)
        if counted is None:
            raise OpenAIError(f"{path} is not asked at a hosted endpoint: nothing here knows what it costs")
        return _Charge(self.spending.prices.of(str(body.get("model"))), *counted)

    def _told(self, error: Exception, path: str, n_tries: int) -> OpenAIError:
        what = f"{type(error).__name__}: {error}"
        return OpenAIError(self._hide(f"{path}: no whole reply in {n_tries} tries; the last one: {what}"))

    def _without_key(self, error: APIStatusError) -> APIStatusError:
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


def announce(client: OpenAI, requests: Iterable[Request], description: str, *, in_batches: bool = False) -> None:
    """Say in one line what requests may cost before the first is sent; silent where nothing costs money.

    Raises
    ------
    lib.prices.UnknownPrice
        If a model has no price.
    """
    if (ledger := spending_of(client)) is None:
        return
    told, left = preview(requests, ledger.prices, batch=in_batches), max(0.0, ledger.left_usd())
    beyond = "; more than is left, so it may stop on the way" if told.usd > left else ""
    # a warning, since a notebook shows no less
    log.warning("%s: %s, $%.4f of $%.4f left%s", description, told, left, ledger.budget_usd, beyond)


def _tokens(path: str, body: Mapping[str, Any]) -> tuple[int, int, int | None] | None:
    """Tokens of a request and at most of its reply, and how many choices it must hold; None where that is unknown."""
    n = body.get("n") or 1
    if path == COMPLETIONS:
        prompts = body.get("prompt") or [""]
        if isinstance(prompts, str) or isinstance(prompts[0], int):
            prompts = [prompts]
        n_tokens = sum(estimated_tokens(each) if isinstance(each, str) else len(each) for each in prompts)
        most = body.get("max_tokens")
        n_new = DEFAULT_MAX_TOKENS if most is None else most
        return n_tokens, len(prompts) * max(n, body.get("best_of") or 1) * n_new, len(prompts) * n
    if path == CHAT:
        most = body.get("max_completion_tokens") or body.get("max_tokens")
        if not most:
            raise OpenAIError("a chat without max_tokens has no bound on what it costs: set it")
        texts = [json.dumps(each.get("content"), ensure_ascii=False) for each in body.get("messages", [])]
        return sum(estimated_tokens(text) + CHAT_TOKENS for text in texts), n * most, n
    if path == "/embeddings":
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        return sum(estimated_tokens(each) if isinstance(each, str) else len(each) for each in texts), 0, None
    if path == "/scores":
        fed = [*(body.get("contexts") or []), *(body.get("documents") or [])]
        return sum(map(len, fed)), 0, None
    return None


def _check(reply: Any, cast_to: Any, charge: _Charge | None) -> None:
    """Refuse a reply that is text instead of JSON, or JSON of another form, or has too few or too many choices."""
    if isinstance(cast_to, type) and issubclass(cast_to, BaseModel) and not isinstance(reply, BaseModel):
        raise _NotWhole(f"expected JSON, found {str(reply)[:60]!r}")
    if charge is None or charge.n_choices is None or not isinstance(reply, BaseModel):
        return
    choices = getattr(reply, "choices", None)
    if not isinstance(choices, list) or len(choices) != charge.n_choices:
        found = len(choices) if isinstance(choices, list) else "none"
        raise _NotWhole(f"expected {charge.n_choices} choices, found {found}")
    if sorted(getattr(choice, "index", -1) for choice in choices) != list(range(len(choices))):
        raise _NotWhole("the choices are not numbered from 0 up")
    if any(getattr(choice, "text", None) is None and getattr(choice, "message", None) is None for choice in choices):
        raise _NotWhole("a choice has no text")


def _backoff(attempt: int) -> float:
    return float(min(MOST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1)) * random.uniform(0.75, 1))


def _wait_seconds(error: APIStatusError, attempt: int, *, only_429: bool) -> float:
    """How long to wait before the next try; infinite where it cannot help."""
    status = error.status_code
    passes = status == 429 if only_429 else status in (408, 409, 429) or status >= 500
    if not passes or status == 501 or error.code == "insufficient_quota":
        return math.inf
    if error.response.headers.get("x-should-retry") == "false":
        return math.inf
    return max(_backoff(attempt), _retry_after(error.response.headers))


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the endpoint asks to wait, 0 where it does not say.

    >>> _retry_after({"retry-after": "2"}), _retry_after({"retry-after-ms": "500"}), _retry_after({})
    (2.0, 0.5, 0.0)
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        told = headers.get(name, "")
        try:
            seconds = float(told) * unit
        except ValueError:
            try:
                seconds = (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds()
            except (TypeError, ValueError):  # not said, or neither a number nor a date with its zone
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return 0.0
