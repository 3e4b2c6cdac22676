"""Extension ``blend`` of ``/v1/completions``: a small tuned model and its base steer the request's model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import Field

from tuning_server.engine.blending import BlendSettings, generate
from tuning_server.engine.cache import ModelCache
from tuning_server.engine.models import LoadedModel, check_same_tokens
from tuning_server.engine.registry import UnknownModel
from tuning_server.engine.sampling import Sample, SamplingRequest
from tuning_server.errors import model_error, refusing
from tuning_server.types import ModelId, Strict

MAX_SCHEDULE = 4096
Weight = Annotated[float, Field(ge=-1000, le=1000)]


class Blend(Strict):
    """What to blend the request's model with.

    Parameters
    ----------
    tuned, base : ids of the small model that was tuned and of what it was tuned from
    weights : of the request's model, tuned and base
    plausibility : tokens less probable to the request's model than this times its likeliest one are ruled out
    schedule : factor of the small models' weights at each new token; the last one applies from there on
    """

    tuned: ModelId
    base: ModelId
    weights: list[Weight] = Field(default=[1.0, 1.0, -1.0], min_length=3, max_length=3)
    plausibility: float = Field(default=0.0, ge=0, le=1)
    schedule: list[Weight] = Field(default=[], max_length=MAX_SCHEDULE)

    def run(
        self, cache: ModelCache, model_id: str, prepare: Callable[[LoadedModel], list[SamplingRequest]]
    ) -> tuple[list[LoadedModel], list[Sample]]:
        """The three models, and their blend's answers.

        Raises
        ------
        ApiError
            If a model is unknown, they do not share a tokenizer, or a prompt is too long for one.
        """
        ids = {"model": model_id, "blend.tuned": self.tuned, "blend.base": self.base}
        big, tuned, base = models = load_together(cache, ids, param="blend")
        requests = prepare(big)
        settings = BlendSettings(tuple(self.weights), self.plausibility, tuple(self.schedule))
        with refusing("prompt", code="context_length_exceeded"):
            return models, generate(big, tuned, base, requests, settings)


def load_together(cache: ModelCache, ids: Mapping[str, str], *, param: str) -> list[LoadedModel]:
    """The models that the parameters of one request name; a refusal (`ApiError`) says which parameter is wrong.

    It is `param` where the models do not share a tokenizer.
    """
    models = []
    for name, model_id in ids.items():
        try:
            models.append(cache.get(model_id, beside=ids.values()))
        except UnknownModel as error:
            raise model_error(error, param=name) from error
    with refusing(param, code="different_tokenizers"):
        check_same_tokens(*models)
    return models
