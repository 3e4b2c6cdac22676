"""What a client may ask of ``/v1/completions``.

What a client may ask of ``/v1/chat/completions``.

What a client may ask of a fine-tuning job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tuning_server.errors import ApiError
from tuning_server.messages import BadMessage, Message, read_messages


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server was started. Only a hash of the key is held; sizes are in bytes."""

    store: Path
    models_dir: Path | None = None
    download: bool = False
    key_hash: bytes | None = None
    allow_hosts: frozenset[str] = frozenset()
    max_file_bytes: int = 512 * 2**20
    max_request_bytes: int = 32 * 2**20
    cache_bytes: int = 4 * 2**30


class Strict(BaseModel):
    """A request, or a part of one: unknown fields and wrong types are refused, never ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class PageQuery(BaseModel):
    """Cursor pagination as OpenAI's lists have it."""

    model_config = ConfigDict(extra="forbid")
    after: str | None = None
    limit: int = Field(default=20, ge=1, le=1000)


class Page(BaseModel):
    """One page of a list."""

    object: Literal["list"] = "list"
    data: list[Any]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None

    @classmethod
    def of(cls, data: list[Any], has_more: bool) -> Page:
        """A page whose cursors are the ids of its first and last item."""
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return cls(data=data, has_more=has_more, first_id=first, last_id=last)


MAX_SCHEDULE = 4096
MAX_WEIGHT = 1000.0
ModelId = Annotated[str, Field(min_length=1, max_length=500)]
Weight = Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT)]


class Blend(Strict):
    """What to blend the request's model with.

    Parameters
    ----------
    tuned, base : ids of the small model that was tuned and of what it was tuned from
    weights : of the request's model, tuned and base
    plausibility : tokens less probable to the request's model than this times its likeliest one are ruled out
    schedule : factor of the small models' weights at each new token; the last one holds from there on
    speculative : let the tuned model draft `n_draft` tokens at a time; the same distribution in fewer passes
    """

    tuned: ModelId
    base: ModelId
    weights: list[Weight] = Field(default=[1.0, 1.0, -1.0], min_length=3, max_length=3)
    plausibility: float = Field(default=0.0, ge=0, le=1)
    schedule: list[Weight] = Field(default=[], max_length=MAX_SCHEDULE)
    speculative: bool = False
    n_draft: int = Field(default=4, ge=1, le=64)


MAX_PROMPTS = 4096


class StreamOptions(Strict):
    """Options of a stream."""

    include_usage: bool = False


class Sampled(Strict):
    """What all ways of asking share. ``return_token_ids`` is an extension; penalties are known and must be 0."""

    model: str = Field(min_length=1, max_length=500)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    n: int = Field(default=1, ge=1, le=1024)
    stop: str | list[str] | None = None
    seed: int | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    user: str | None = None
    return_token_ids: bool = False

    @field_validator("*", mode="before")
    @classmethod
    def default_of_null(cls, value: Any, info: Any) -> Any:
        field = cls.model_fields[info.field_name]
        return field.default if value is None and not field.is_required() else value

    @field_validator("presence_penalty", "frequency_penalty")
    @classmethod
    def none(cls, value: float) -> float:
        if value:
            raise ValueError("penalties are not supported: leave it out, or 0")
        return value


class CompletionRequest(Sampled):
    """What to continue. ``blend`` is an extension."""

    prompt: Any
    max_tokens: int = Field(default=16, ge=0)
    best_of: int | None = None
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0)
    suffix: str | None = None
    blend: Blend | None = None

    def check(self) -> None:
        """What no field can say alone.

        Raises
        ------
        ApiError
            Naming the field that does not fit.
        """
        if self.best_of is not None and self.best_of != self.n:
            raise ApiError("'best_of' is supported only where it equals 'n'.", param="best_of", code="unsupported")
        if self.suffix:
            raise ApiError("'suffix' (insertion) is not supported.", param="suffix", code="unsupported")
        if self.max_tokens == 0 and not self.echo:
            raise ApiError("'max_tokens' may be 0 only with 'echo'.", param="max_tokens", code="invalid_value")
        if self.stream_options is not None and not self.stream:
            raise ApiError("'stream_options' needs 'stream'.", param="stream_options", code="invalid_value")
        if len(self.stops) > 16 or not all(self.stops):
            found = "an empty one" if len(self.stops) <= 16 else str(len(self.stops))
            message = f"'stop' takes up to 16 strings, none of them empty: found {found}."
            raise ApiError(message, param="stop", code="invalid_value")
        if not all(map(is_text, self.stops)):
            message = "'stop' holds half of a surrogate pair, which is not text."
            raise ApiError(message, param="stop", code="invalid_value")

    @property
    def stops(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def is_text(text: str) -> bool:
    r"""Whether a string can be written as UTF-8: half of a surrogate pair, which JSON lets through, cannot.

    >>> is_text("é"), is_text("\ud800")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def split_prompts(prompt: Any, *, param: str = "prompt") -> list[str] | list[list[int]]:
    """Prompts of a request: a string, several, token ids, or several lists of them.

    Raises
    ------
    ApiError
        If it is anything else, or too many.

    >>> split_prompts("a"), split_prompts([1, 2]), split_prompts([[1], []])
    (['a'], [[1, 2]], [[1], []])
    """
    if isinstance(prompt, str):
        prompt = [prompt]
    if isinstance(prompt, list) and prompt and all(type(part) is int for part in prompt):
        prompt = [prompt]
    texts = isinstance(prompt, list) and all(isinstance(part, str) for part in prompt)
    tokens = isinstance(prompt, list) and all(
        isinstance(part, list) and all(type(token) is int for token in part) for part in prompt
    )
    if not prompt or not (texts or tokens):
        message = f"Invalid value for {param!r}: expected a string, strings, token ids, or lists of token ids."
        raise ApiError(message, param=param, code="invalid_value")
    if len(prompt) > MAX_PROMPTS:
        raise ApiError(
            f"At most {MAX_PROMPTS} prompts a request, found {len(prompt)}.", param=param, code="invalid_value"
        )
    if texts and not all(map(is_text, prompt)):
        message = "A prompt holds half of a surrogate pair, which is not text."
        raise ApiError(message, param=param, code="invalid_value")
    return prompt


class ChatRequest(Sampled):
    """A conversation to answer. Without a limit an answer may fill the context."""

    messages: Any
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0)

    def conversation(self) -> list[Message]:
        """The messages, checked.

        Raises
        ------
        ApiError
            Naming the message that does not fit.
        """
        try:
            return read_messages(self.messages)
        except BadMessage as error:
            raise ApiError(f"Invalid value: {error}.", param=error.param, code="invalid_value") from error

    def as_completion(self) -> CompletionRequest:
        """The same request of ``/v1/completions``, but for the prompt and, where there is no limit, the length.

        Raises
        ------
        ApiError
            If two fields contradict each other.
        """
        if len({self.max_tokens, self.max_completion_tokens} - {None}) > 1:
            message = "'max_tokens' is the older name of 'max_completion_tokens': give one of them."
            raise ApiError(message, param="max_tokens", code="invalid_value")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError("'top_logprobs' needs 'logprobs'.", param="top_logprobs", code="invalid_value")
        shared = {name: getattr(self, name) for name in Sampled.model_fields}
        return CompletionRequest(
            prompt="",
            max_tokens=self.limit_tokens or 1,
            logprobs=self.top_logprobs or 0 if self.logprobs else None,
            **shared,
        )

    @property
    def limit_tokens(self) -> int | None:
        """Most tokens of an answer; None for what the context leaves."""
        return self.max_completion_tokens or self.max_tokens


class Lora(Strict):
    """Low-rank adapters in place of all weights; `merged` keeps checkpoints as whole models."""

    rank: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=32.0, gt=0, le=10_000)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    merged: bool = False


LoraChoice = Lora | bool | Literal["auto"]  # an extension; "auto" goes by the size of the model


class Hyperparameters(Strict):
    """Hyperparameters of a supervised job; `prompt_loss_weight` is an extension (0: loss on the completion alone)."""

    n_epochs: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = "auto"
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=10_000)] | Literal["auto"] = "auto"
    prompt_loss_weight: float = Field(default=0.0, ge=0, le=1)
    lora: LoraChoice = "auto"


class Supervised(Strict):
    """The supervised method's settings."""

    hyperparameters: Hyperparameters | None = None


class DpoHyperparameters(Strict):
    """Hyperparameters of a DPO job; `beta` weighs staying near the model that training starts from."""

    n_epochs: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = "auto"
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=10_000)] | Literal["auto"] = "auto"
    beta: Annotated[float, Field(gt=0, le=100)] | Literal["auto"] = "auto"
    lora: LoraChoice = "auto"


class Dpo(Strict):
    """The DPO method's settings."""

    hyperparameters: DpoHyperparameters | None = None


class Method(Strict):
    """How to train; `reinforcement` is known and refused."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: Any = None


class JobRequest(Strict):
    """What starts a job."""

    model: str = Field(min_length=1, max_length=500)
    training_file: str
    validation_file: str | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    suffix: str | None = Field(default=None, max_length=64)
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = None
    integrations: list[Any] | None = None

    @field_validator("metadata")
    @classmethod
    def few_pairs(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        if value is not None and len(value) > 16:
            raise ValueError(f"at most 16 pairs, found {len(value)}")
        return value

    @property
    def method_type(self) -> str:
        return self.method.type if self.method else "supervised"

    def chosen(self) -> Hyperparameters | DpoHyperparameters:
        """The hyperparameters, from ``method`` or (of a supervised job) from their old place.

        Raises
        ------
        ApiError
            If the method is not supported, settings of another method or both places are used, or integrations are
            asked for.
        """
        if self.integrations:
            raise ApiError(
                "Integrations are not supported: read the job's events.", param="integrations", code="unsupported"
            )
        if self.method is None:
            return self.hyperparameters or Hyperparameters()
        kind = self.method.type
        if kind == "reinforcement":
            message = "Method 'reinforcement' is not supported: use {'type': 'supervised'} or {'type': 'dpo'}."
            raise ApiError(message, param="method.type", code="unsupported")
        for other in ("supervised", "dpo", "reinforcement"):
            if other != kind and getattr(self.method, other) is not None:
                message = f"Method {kind!r} does not go with settings of {other!r}: leave 'method.{other}' out."
                raise ApiError(message, param=f"method.{other}", code="invalid_value")
        of_kind = self.method.supervised if kind == "supervised" else self.method.dpo
        inner = of_kind and of_kind.hyperparameters
        if self.hyperparameters and (inner or kind == "dpo"):
            message = (
                "Give hyperparameters in 'method' or in the deprecated 'hyperparameters', not in both."
                if kind == "supervised"
                else "'hyperparameters' is for supervised jobs: give those of DPO in 'method.dpo.hyperparameters'."
            )
            raise ApiError(message, param="hyperparameters", code="invalid_value")
        return inner or (DpoHyperparameters() if kind == "dpo" else self.hyperparameters or Hyperparameters())


def method_of(job: Mapping[str, Any]) -> str:
    """How a job of the store trains; those from before there was DPO do not say.

    >>> method_of({"_method": "dpo"}), method_of({})
    ('dpo', 'supervised')
    """
    return str(job.get("_method", "supervised"))


def safe_suffix(suffix: str | None) -> str:
    """A suffix as it stands in a model id.

    >>> safe_suffix("my run/7")
    'my-run-7'
    """
    return re.sub(r"[^A-Za-z0-9._-]", "-", suffix or "")
