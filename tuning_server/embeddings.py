"""Endpoint ``/v1/embeddings``: texts as vectors, in OpenAI's shape, by any model of the store."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from openai.types import CreateEmbeddingResponse
from pydantic import Field
from starlette.responses import JSONResponse, Response

from tuning_server.errors import ApiError
from tuning_server.service import CurrentService
from tuning_server.types import Strict, split_prompts
from tuning_server.worker import Task

if TYPE_CHECKING:
    from tuning_server.engine.models import LoadedModel, ModelCache

router = APIRouter(prefix="/v1/embeddings", tags=["embeddings"])
MAX_TOKENS = 300_000  # of one request, as at OpenAI
MAX_NUMBERS = 32_000_000  # of one reply


class EmbeddingRequest(Strict):
    """What to embed: a text, texts, or either as token ids; the official client asks for base64 by itself."""

    model: str = Field(min_length=1, max_length=500)
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None

    def run(self, cache: ModelCache) -> tuple[np.ndarray, int]:
        """Vectors and the number of tokens read, on the engine's thread."""
        from tuning_server.engine.embedding import embed
        from tuning_server.engine.registry import non_finite

        loaded = cache.get(self.model)
        given: Sequence[Any] = split_prompts(self.input, param="input")
        texts = [self._ids(loaded, text, place) for place, text in enumerate(given)]
        n_tokens = sum(map(len, texts))
        if n_tokens > MAX_TOKENS:
            message = f"At most {MAX_TOKENS} tokens a request, found {n_tokens}: ask for fewer texts at a time."
            raise ApiError(message, param="input", code="max_tokens_per_request")
        width = loaded.model.get_input_embeddings().weight.shape[1]
        if len(texts) * width > MAX_NUMBERS:
            message = f"The reply would hold more than {MAX_NUMBERS} numbers: ask for {MAX_NUMBERS // width} texts."
            raise ApiError(message, param="input", code="reply_too_large")
        try:
            vectors = embed(loaded, texts)
        except ValueError as error:
            text = str(error)
            raise ApiError(f"{text[:1].upper()}{text[1:]}.", param="input", code="invalid_value") from error
        if not np.isfinite(vectors).all():
            raise non_finite(self.model)
        return vectors, n_tokens

    def _ids(self, loaded: LoadedModel, text: str | list[int], place: int) -> list[int]:
        if not text:
            message = f"Text {place} of 'input' is empty: there is nothing to embed, leave it out."
            raise ApiError(message, param="input", code="invalid_value")
        ids = loaded.encode_prompt(text) if isinstance(text, str) else text
        if len(ids) > loaded.context_tokens:
            message = (
                f"This model's maximum context length is {loaded.context_tokens} tokens, however text {place} of "
                f"'input' has {len(ids)}. Shorten it."
            )
            raise ApiError(message, param="input", code="context_length_exceeded")
        return ids


@router.post("", response_model=CreateEmbeddingResponse)
async def create(wanted: EmbeddingRequest, request: Request, service: CurrentService) -> Response:
    """Mean of the last hidden states over the tokens of each text, float32."""
    if wanted.dimensions is not None:
        raise ApiError("'dimensions' is not supported: the model's width is.", param="dimensions", code="unsupported")
    split_prompts(wanted.input, param="input")
    vectors, n_tokens = await service.answered(Task(wanted.run), request)
    return await asyncio.to_thread(_reply, wanted, vectors, n_tokens)


def _reply(wanted: EmbeddingRequest, vectors: np.ndarray, n_tokens: int) -> Response:
    if wanted.encoding_format == "float":
        written: list[Any] = vectors.tolist()
    else:
        written = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    data = [{"object": "embedding", "index": k, "embedding": vector} for k, vector in enumerate(written)]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return JSONResponse({"object": "list", "data": data, "model": wanted.model, "usage": usage})
