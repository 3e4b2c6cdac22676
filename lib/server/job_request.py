"""What a client may ask of a fine-tuning job."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from lib.server.errors import ApiError
from lib.server.service import Strict


class Hyperparameters(Strict):
    """Hyperparameters of a supervised job; `prompt_loss_weight` is an extension (0: loss on the completion alone)."""

    n_epochs: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = "auto"
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=10_000)] | Literal["auto"] = "auto"
    prompt_loss_weight: float = Field(default=0.0, ge=0, le=1)


class Supervised(Strict):
    """The supervised method's settings."""

    hyperparameters: Hyperparameters | None = None


class Method(Strict):
    """How to train; `dpo` and `reinforcement` are known and refused."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Any = None
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

    def chosen(self) -> Hyperparameters:
        """The hyperparameters, from ``method`` or from their old place.

        Raises
        ------
        ApiError
            If the method is not supervised, both places are used, or integrations are asked for.
        """
        if self.integrations:
            raise ApiError(
                "Integrations are not supported: read the job's events.", param="integrations", code="unsupported"
            )
        if self.method is None:
            return self.hyperparameters or Hyperparameters()
        if self.method.type != "supervised" or self.method.dpo is not None or self.method.reinforcement is not None:
            message = f"Method {self.method.type!r} is not supported: use {{'type': 'supervised'}}."
            raise ApiError(message, param="method.type", code="unsupported")
        inner = self.method.supervised and self.method.supervised.hyperparameters
        if inner and self.hyperparameters:
            message = "Give hyperparameters in 'method' or in the deprecated 'hyperparameters', not in both."
            raise ApiError(message, param="hyperparameters", code="invalid_value")
        return inner or self.hyperparameters or Hyperparameters()


def safe_suffix(suffix: str | None) -> str:
    """A suffix as it stands in a model id.

    >>> safe_suffix("my run/7")
    'my-run-7'
    """
    return re.sub(r"[^A-Za-z0-9._-]", "-", suffix or "")
