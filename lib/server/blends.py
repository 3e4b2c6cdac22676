"""Extension ``blend`` of ``/v1/completions``: a small tuned model and its base steer the request's model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from openai.types import Completion
from openai.types.completion_usage import CompletionTokensDetails
from pydantic import Field

from lib.server.errors import ApiError
from lib.server.models import not_found
from lib.server.service import Settings, Strict
from lib.server.worker import Task

if TYPE_CHECKING:
    from lib.engine.models import LoadedModel, ModelCache
    from lib.engine.sampling import Sample, SamplingRequest
    from lib.server.completions import Asked

MAX_BLENDED = 1024  # prompts x n of one request: nothing else is computed meanwhile
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


def blending(asked: Asked, blend: Blend, settings: Settings) -> Task:
    """The work of one request with a blend.

    Raises
    ------
    ApiError
        If the request asks for what a blend cannot do.
    """
    if asked.wanted.echo:
        message = "'echo' is not supported with 'blend': ask for the prompt's log-probabilities of one model at a time."
        raise ApiError(message, param="echo", code="unsupported")
    if len(asked.prompts) * asked.wanted.n > MAX_BLENDED:
        message = f"At most {MAX_BLENDED} answers a request with 'blend': prompts times 'n'."
        raise ApiError(message, param="n", code="invalid_value")

    def run(cache: ModelCache) -> Completion:
        from lib.engine.generation import check_blend

        big = _load(cache, asked.wanted.model, "model", settings)
        tuned = _load(cache, blend.tuned, "blend.tuned", settings)
        base = _load(cache, blend.base, "blend.base", settings)
        try:
            check_blend(big, tuned, base)
        except ValueError as error:
            raise ApiError(f"{error}.", param="blend", code="different_tokenizers") from error
        requests = asked.prepare(big)
        try:
            check_blend(big, tuned, base, requests)
        except ValueError as error:
            raise ApiError(f"{error}.", param="prompt", code="context_length_exceeded") from error
        samples, details = _decode(big, tuned, base, requests, blend)
        reply = asked.answer(big, samples)
        reply.system_fingerprint = "+".join(loaded.fingerprint for loaded in (big, tuned, base))
        if reply.usage is not None:
            reply.usage.completion_tokens_details = details
        return reply

    return Task(run)


def _load(cache: ModelCache, model_id: str, param: str, settings: Settings) -> LoadedModel:
    from lib.engine.catalogue import UnknownModel

    try:
        return cache.get(model_id)
    except UnknownModel as error:
        missing = not_found(settings.store, model_id, error)
        missing.param = param
        raise missing from error


def _decode(
    big: LoadedModel, tuned: LoadedModel, base: LoadedModel, requests: list[SamplingRequest], blend: Blend
) -> tuple[list[Sample], CompletionTokensDetails | None]:
    """Answers of the blend, and how many drafts were taken up where the tuned model drafts."""
    from lib.engine.generation import BlendSettings, generate
    from lib.engine.speculation import speculate

    of_big, of_tuned, of_base = blend.weights
    settings = BlendSettings((of_big, of_tuned, of_base), blend.plausibility, tuple(blend.schedule))
    if not blend.speculative:
        return generate(big, tuned, base, requests, settings), None
    try:
        answers = speculate(big, tuned, base, requests, settings, n_draft=blend.n_draft)
    except ValueError as error:
        raise ApiError(f"{error}.", param="blend.speculative", code="unsupported") from error
    n_drafted, n_accepted = sum(one.n_drafted for one in answers), sum(one.n_accepted for one in answers)
    details = CompletionTokensDetails(
        accepted_prediction_tokens=n_accepted, rejected_prediction_tokens=n_drafted - n_accepted
    )
    return [one.sample for one in answers], details
