"""Types that the whole server shares: settings, pages of lists, what requests and rows consist of, requests of jobs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tuning_server.errors import ApiError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server was started. Only a hash of the key is kept; sizes are in bytes."""

    store: Path
    registry: Path | None = None  # of bases and fine-tunes, shared with other servers; None: in the store
    models_dir: Path | None = None
    download: bool = False
    key_hash: bytes | None = None
    allow_hosts: frozenset[str] = frozenset()
    max_file_bytes: int = 512 * 2**20
    max_request_bytes: int = 32 * 2**20
    max_waiting: int = 1024  # requests for the engine
    launcher: tuple[str, ...] = ()  # command that starts the processes of a job; none: the server trains it itself
    cache_bytes: int | None = None  # half of the device's memory

    @property
    def weights(self) -> Path:
        """Folder of bases and fine-tunes."""
        return self.registry or self.store

    @property
    def source(self) -> dict[str, Any]:
        """Where models of others come from, as `tuning_server.engine.registry.resolve` takes it."""
        return {"models_dir": self.models_dir, "download": self.download}


def hash_key(key: str) -> bytes:
    """What the server keeps of an API key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Strict(BaseModel):
    """A request, or a part of one: unknown fields and wrong types are refused, and null means the default."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    EMPTY: ClassVar[tuple[Any, ...]] = (None,)

    @field_validator("*", mode="before")
    @classmethod
    def default_of_empty(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        return field.get_default() if value in cls.EMPTY and not field.is_required() else value


def only(*values: Any) -> AfterValidator:
    """Accept a field of OpenAI's at the values that change nothing; refuse others as unsupported."""

    def check(value: Any) -> Any:
        if value is not None and value not in values:
            expected = " or ".join(map(json.dumps, values)) or "null"
            raise PydanticCustomError("unsupported", f"is not supported: leave it out, or send {expected}")
        return value

    return AfterValidator(check)


def check_text(text: str) -> str:
    """Refuse half of a surrogate pair, which JSON lets through."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is not text") from None
    return text


Text = Annotated[str, AfterValidator(check_text)]
ModelId = Annotated[str, Field(min_length=1, max_length=500)]


Page = dict[str, Any]  # of a list, as OpenAI has it


class PageQuery(Strict):
    """Cursor pagination as OpenAI's lists have it; an empty parameter, or ``null``, is the same as none."""

    model_config = ConfigDict(strict=False)  # every value of a query is a string
    EMPTY: ClassVar[tuple[Any, ...]] = ("", "null")
    after: str | None = None
    limit: int = Field(default=20, ge=1, le=1000)


MAX_PROMPTS = 4096


def split_prompts(prompt: Any) -> list[str] | list[list[int]]:
    """Prompts of a request: a string, several, token ids, or several lists of them.

    By hand, since pydantic would report each of a million wrong tokens for each branch of the union.

    >>> split_prompts("a"), split_prompts([1, 2]), split_prompts([[1], []])
    (['a'], [[1, 2]], [[1], []])
    """
    if isinstance(prompt, str) or (prompt and _is_token_list(prompt)):
        prompt = [prompt]
    is_texts = isinstance(prompt, list) and all(isinstance(part, str) for part in prompt)
    if not prompt or not (is_texts or (isinstance(prompt, list) and all(map(_is_token_list, prompt)))):
        raise ValueError("expected a string, strings, token ids, or lists of token ids")
    if len(prompt) > MAX_PROMPTS:
        raise ValueError(f"at most {MAX_PROMPTS} prompts per request, found {len(prompt)}")
    return [check_text(text) for text in prompt] if is_texts else list(prompt)


def _is_token_list(part: Any) -> bool:
    return isinstance(part, list) and all(type(token) is int for token in part)


MAX_MESSAGES = 2048


class TextPart(Strict):
    """A part of a message's content; other kinds, as images, are refused."""

    type: Literal["text"]
    text: Text


Parts = Annotated[list[TextPart], Field(min_length=1)]
Content = Annotated[
    Annotated[Text, Tag("[text]")] | Annotated[Parts, Tag("[parts]")],
    Discriminator(lambda content: "[parts]" if isinstance(content, list) else "[text]"),
    AfterValidator(lambda content: content if isinstance(content, str) else "".join(part.text for part in content)),
]


class Message(Strict):
    """One turn of a conversation: its content as one string, whether it came as a string or in parts.

    A `weight` of 0 keeps an assistant's turn from being learned. A reply's message, whose further fields are empty, may
    be sent back as it came.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    weight: Annotated[float, Field(ge=0, le=1, multiple_of=1)] | None = None
    name: Annotated[Any, only()] = None
    refusal: Annotated[Any, only()] = None
    audio: Annotated[Any, only()] = None
    function_call: Annotated[Any, only()] = None
    tool_calls: Annotated[Any, only([])] = None
    annotations: Annotated[Any, only([])] = None

    @model_validator(mode="after")
    def check_weight(self) -> Message:
        if self.weight is not None and self.role != "assistant":
            raise ValueError(f"'weight' is for the assistant's messages only, found it in a {self.role} message")
        return self

    @property
    def is_learned(self) -> bool:
        """Whether training learns this turn."""
        return self.role == "assistant" and self.weight != 0

    @property
    def turn(self) -> dict[str, str]:
        """As the engine and chat templates have it."""
        return {"role": "system" if self.role == "developer" else self.role, "content": str(self.content)}


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]


def check_learned(messages: list[Message]) -> list[Message]:
    """Refuse a conversation from which nothing would be learned, or that ends with another than the assistant."""
    if messages[-1].role != "assistant":
        raise ValueError(f"the last message is of the role {messages[-1].role!r}, but must be the assistant's")
    for k, message in enumerate(messages):
        if message.role == "assistant" and not message.content:
            raise ValueError(f"the content of message {k} is empty, so there is nothing to learn")
    if not any(message.is_learned for message in messages):
        raise ValueError("every message of the assistant has the weight 0: there is nothing to learn")
    return messages


TrainingMessages = Annotated[Messages, AfterValidator(check_learned)]


Auto = Literal["auto"]


class Lora(Strict):
    """Low-rank adapters in place of all weights; `merged` keeps checkpoints as whole models."""

    rank: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=32.0, gt=0, le=10_000)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    merged: bool = False


class SharedHyperparameters(Strict):
    """Hyperparameters of every method; `lora` is an extension, its "auto" depends on the size of the model."""

    n_epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=10_000)] | Auto = "auto"
    lora: Lora | bool | Auto = "auto"


class Hyperparameters(SharedHyperparameters):
    """Hyperparameters of a supervised job; `prompt_loss_weight` is an extension (0: loss on the completion alone)."""

    prompt_loss_weight: float = Field(default=0.0, ge=0, le=1)


class DpoHyperparameters(SharedHyperparameters):
    """Hyperparameters of a DPO job; `beta` is the strength of the KL penalty."""

    beta: Annotated[float, Field(gt=0, le=100)] | Auto = "auto"


class Supervised(Strict):
    """The supervised method's settings."""

    hyperparameters: Hyperparameters | None = None


class Dpo(Strict):
    """The DPO method's settings."""

    hyperparameters: DpoHyperparameters | None = None


class Method(Strict):
    """How to train; `reinforcement` is known and refused."""

    type: Annotated[Literal["supervised", "dpo", "reinforcement"], only("supervised", "dpo")]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: Annotated[Any, only()] = None


Pairs = dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]]
Metadata = Annotated[Pairs, Field(max_length=16)]


class JobRequest(Strict):
    """A fine-tuning job to start."""

    model: ModelId
    training_file: str
    validation_file: str | None = None
    method: Method = Method(type="supervised")
    hyperparameters: Hyperparameters | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    suffix: str | None = Field(default=None, max_length=64)
    metadata: Metadata | None = None
    integrations: Annotated[list[Any] | None, only([])] = None

    def chosen(self) -> Hyperparameters | DpoHyperparameters:
        """The hyperparameters, from ``method`` or (of a supervised job) from their deprecated field.

        Raises
        ------
        ApiError
            If settings of another method, or both fields, are given.
        """
        kind = self.method.type
        other = "dpo" if kind == "supervised" else "supervised"
        if getattr(self.method, other) is not None:
            raise ApiError(f"Method {kind!r} takes no settings of {other!r}.", param=f"method.{other}")
        settings = getattr(self.method, kind)
        inner = settings and settings.hyperparameters
        if self.hyperparameters and (inner or kind == "dpo"):
            message = f"Give the hyperparameters of {kind!r} in 'method.{kind}.hyperparameters' only."
            raise ApiError(message, param="hyperparameters")
        return inner or (DpoHyperparameters() if kind == "dpo" else self.hyperparameters or Hyperparameters())
