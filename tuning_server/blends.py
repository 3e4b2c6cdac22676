"""Extension ``blend`` of ``/v1/completions``: a small tuned model and its base steer the request's model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openai.types import Completion
from openai.types.completion_usage import CompletionTokensDetails

from tuning_server.errors import ApiError, model_error
from tuning_server.types import Blend, Settings
from tuning_server.worker import Task

if TYPE_CHECKING:
    from tuning_server.completions import Asked
    from tuning_server.engine.models import LoadedModel, ModelCache
    from tuning_server.engine.sampling import Sample, SamplingRequest

MAX_BLENDED = 1024  # prompts x n of one request: nothing else is computed meanwhile


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
        from tuning_server.engine.blending import check_blend

        big = _load(cache, asked.wanted.model, "model")
        tuned = _load(cache, blend.tuned, "blend.tuned")
        base = _load(cache, blend.base, "blend.base")
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


def _load(cache: ModelCache, model_id: str, param: str) -> LoadedModel:
    from tuning_server.engine.registry import UnknownModel

    try:
        return cache.get(model_id)
    except UnknownModel as error:
        raise model_error(error, param=param) from error


def _decode(
    big: LoadedModel, tuned: LoadedModel, base: LoadedModel, requests: list[SamplingRequest], blend: Blend
) -> tuple[list[Sample], CompletionTokensDetails | None]:
    """Answers of the blend, and how many drafts were taken up where the tuned model drafts."""
    from tuning_server.engine.blending import BlendSettings, generate
    from tuning_server.engine.speculation import speculate

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
