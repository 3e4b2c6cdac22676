"""What a client may ask of a fine-tuning job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from lib.server.errors import ApiError
from lib.server.service import Strict


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
