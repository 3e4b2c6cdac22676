"""What a client may ask of ``/v1/completions``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from lib.server.blends import Blend
from lib.server.errors import ApiError
from lib.server.service import Strict

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
