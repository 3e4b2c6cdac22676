"""Extension ``blend`` of ``/v1/completions``: a small tuned model and its base steer the request's model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from openai.types.completion_usage import CompletionTokensDetails
from pydantic import Field

from tuning_server.engine.blending import BlendSettings, check_blend, generate
from tuning_server.engine.cache import ModelCache
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.registry import UnknownModel
from tuning_server.engine.sampling import Sample, SamplingRequest
from tuning_server.engine.speculation import speculate
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
    speculative : let the tuned model draft `n_draft` tokens at a time; the same distribution in fewer passes
    """

    tuned: ModelId
    base: ModelId
    weights: list[Weight] = Field(default=[1.0, 1.0, -1.0], min_length=3, max_length=3)
    plausibility: float = Field(default=0.0, ge=0, le=1)
    schedule: list[Weight] = Field(default=[], max_length=MAX_SCHEDULE)
    speculative: bool = False
    n_draft: int = Field(default=4, ge=1, le=64)

    def run(
        self, cache: ModelCache, model_id: str, prepare: Callable[[LoadedModel], list[SamplingRequest]]
    ) -> tuple[list[LoadedModel], list[Sample], CompletionTokensDetails | None]:
        """The three models, their blend's answers, and how many drafts were accepted where the tuned model drafts.

        Raises
        ------
        ApiError
            If a model is unknown, they do not share a tokenizer, or one cannot read a prompt or take back drafts.
        """
        models, ids = [], {"model": model_id, "blend.tuned": self.tuned, "blend.base": self.base}
        for param, name in ids.items():
            try:
                models.append(cache.get(name, beside=ids.values()))
            except UnknownModel as error:
                raise model_error(error, param=param) from error
        big, tuned, base = models
        with refusing("blend", code="different_tokenizers"):
            check_blend(big, tuned, base)
        requests = prepare(big)
        with refusing("prompt", code="context_length_exceeded"):
            check_blend(big, tuned, base, requests)
        settings = BlendSettings(tuple(self.weights), self.plausibility, tuple(self.schedule))
        if not self.speculative:
            return models, generate(big, tuned, base, requests, settings), None
        with refusing("blend.speculative", code="unsupported"):
            answers = speculate(big, tuned, base, requests, settings, n_draft=self.n_draft)
        n_drafted, n_accepted = sum(one.n_drafted for one in answers), sum(one.n_accepted for one in answers)
        details = CompletionTokensDetails(
            accepted_prediction_tokens=n_accepted, rejected_prediction_tokens=n_drafted - n_accepted
        )
        return models, [one.sample for one in answers], details
