"""Endpoints ``/v1/embeddings``, and the extensions ``/v1/scores`` (exact log-probabilities) and ``/v1/tokenize``.

Statistics of the predictions are computed on the device, and only what a request names is sent: as the arrays of an
``.npz`` file, for a whole vocabulary at thousands of positions is too much for JSON.
"""

from __future__ import annotations

import base64
import io
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from openai.types import CreateEmbeddingResponse
from pydantic import AfterValidator, Field, model_validator
from starlette.responses import JSONResponse, Response

from tuning_server.completions import encode, load_together
from tuning_server.engine.cache import ModelCache
from tuning_server.engine.registry import NON_FINITE, BrokenModel
from tuning_server.engine.scoring import embed, score_contexts, score_documents
from tuning_server.engine.statistics import N_RANKED, OF_DOCUMENTS, OF_POSITIONS, Outputs
from tuning_server.engine.tokenization import label
from tuning_server.errors import ApiError, at_most, refusing
from tuning_server.service import CurrentService
from tuning_server.types import ModelId, Strict, check_text, split_prompts
from tuning_server.worker import Task

router = APIRouter(prefix="/v1", tags=["scores"])
MAX_POSITIONS = 2**22  # scored by one request: the longest of documents fit
MAX_REPLY_BYTES = 256 * 2**20
MAX_TEXT = 4_000_000  # characters tokenized by one request
MAX_TOKENS = 300_000  # embedded by one request, as at OpenAI


class ScoresRequest(Strict):
    """Score the `targets` after `contexts` or, rolling, every token of `documents` but each one's first."""

    model: ModelId
    contexts: list[list[int]] | None = None
    targets: list[int] | None = None
    documents: list[list[int]] | None = None
    window_tokens: int | None = Field(default=None, ge=1)
    stride_tokens: int | None = Field(default=None, ge=1)
    full: bool = False
    top_k: int = Field(default=0, ge=0)
    statistics: list[str] = []
    base: ModelId | None = None

    @model_validator(mode="after")
    def check_fields(self) -> ScoresRequest:
        """Check what no field can say alone."""
        nested, rolling = {"contexts", "targets"}, {"documents", "window_tokens", "stride_tokens"}
        if {name for name in nested | rolling if getattr(self, name) is not None} not in (nested, rolling):
            message = "Give 'contexts' and 'targets', or 'documents', 'window_tokens' and 'stride_tokens'."
            raise ApiError(message, param="contexts")
        names = OF_POSITIONS | OF_DOCUMENTS
        if unknown := [name for name in self.statistics if name not in names]:
            message = f"{unknown[0]:.100} is not one of the statistics: choose from {', '.join(names)}."
            raise ApiError(message, param="statistics")
        if self.full and (self.top_k or self.statistics):
            message = "'full' is what 'top_k' and 'statistics' are computed from: give one of them, not both."
            raise ApiError(message, param="full")
        if ("kl" in self.statistics) != (self.base is not None):
            message = "The statistic 'kl' is the divergence from 'base': give both or neither."
            raise ApiError(message, param="base")
        if self.documents is None and (summed := OF_DOCUMENTS.keys() & self.statistics):
            message = f"{min(summed)!r} is a sum over the positions of a document: give 'documents'."
            raise ApiError(message, param="statistics")
        n_contexts, n_targets = len(self.contexts or []), len(self.targets or [])
        if n_contexts != n_targets:
            message = f"Expected one target per context, found {n_targets} for {n_contexts} contexts."
            raise ApiError(message, param="targets")
        return self

    def run(self, cache: ModelCache) -> Response:
        """The arrays as an ``.npz`` file, in which nothing is pickled; computed on the engine's thread."""
        ids = {"model": self.model} | ({"base": self.base} if self.base else {})
        loaded, *bases = load_together(cache, ids, param="base")
        outputs = Outputs(self.statistics, bases[0] if bases else None, self.full, self.top_k)
        what = "contexts" if self.documents is None else "documents"
        self._check_size(what, loaded.vocab_size)
        with refusing(what):
            if self.documents is None:
                arrays = score_contexts(loaded, self.contexts or [], self.targets or [], outputs)
            else:
                window, stride = self.window_tokens or 0, self.stride_tokens or 0
                arrays = score_documents(
                    loaded, self.documents, window_tokens=window, stride_tokens=stride, outputs=outputs
                )
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **arrays)
        return Response(file.getvalue(), media_type="application/octet-stream")

    def _check_size(self, what: str, vocab: int) -> None:
        """Refuse (`ApiError`) more positions or documents than a reply has room for."""
        too_large: Any = {"param": what, "code": "reply_too_large"}
        n_bytes = 4 + 2 * vocab * self.full + 8 * self.top_k + 4 * len(self.statistics)  # per position
        n_positions = sum(max(0, len(ids) - 1) for ids in self.documents or []) or len(self.contexts or [])
        at_most(min(MAX_POSITIONS, MAX_REPLY_BYTES // n_bytes), n_positions, "positions", **too_large)
        if OF_DOCUMENTS.keys() & self.statistics:
            limit = MAX_REPLY_BYTES // (4 * (vocab + N_RANKED))
            at_most(limit, len(self.documents or []), "documents", **too_large)


@router.post("/scores")
async def create_scores(body: ScoresRequest, request: Request, service: CurrentService) -> Any:
    """Log-probabilities, in nats, at the requested positions."""
    return await service.answered(Task(body.run), request)


class TokenizeRequest(Strict):
    """A text to split into tokens, with vLLM's names."""

    model: ModelId
    prompt: Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(check_text)]
    add_special_tokens: bool = True

    def run(self, cache: ModelCache) -> dict[str, Any]:
        """Tokenize, on the engine's thread."""
        loaded = cache.get(self.model)
        codec = loaded.codec
        ids = [*codec.front, *codec.encode_document(self.prompt)]
        tokens = list(zip(ids, codec.pieces(ids), strict=True))[0 if self.add_special_tokens else len(codec.front) :]
        return {
            "tokens": [token for token, _ in tokens],
            "count": len(tokens),
            "max_model_len": loaded.context_tokens,
            "token_strs": [label(piece) for _, piece in tokens],
            "n_bytes": [len(piece) for _, piece in tokens],
        }


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, request: Request, service: CurrentService) -> Any:
    """The tokens of a text: ids, strings and how many bytes each of them adds."""
    return await service.answered(Task(body.run), request)


class EmbeddingRequest(Strict):
    """A text, texts, or either as token ids, to embed; the official client requests base64 by itself."""

    model: ModelId
    input: Annotated[Any, AfterValidator(split_prompts)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None

    def run(self, cache: ModelCache) -> Response:
        """The vectors in OpenAI's shape, computed on the engine's thread."""
        loaded = cache.get(self.model)
        if empty := [k for k, text in enumerate(self.input) if not text]:
            message = f"Text {empty[0]} of 'input' is empty: there is nothing to embed, leave it out."
            raise ApiError(message, param="input")
        texts = [encode(loaded, text, param="input", name=f"text {k} of 'input'") for k, text in enumerate(self.input)]
        n_tokens, width = sum(map(len, texts)), loaded.model.get_input_embeddings().weight.shape[1]
        if self.dimensions not in (None, width):
            message = f"'dimensions' is not supported but for the model's width, {width}: leave it out."
            raise ApiError(message, param="dimensions", code="unsupported")
        at_most(MAX_TOKENS, n_tokens, "tokens", param="input", code="max_tokens_per_request")
        vectors = embed(loaded, texts)
        if not np.isfinite(vectors).all():
            raise BrokenModel(self.model, NON_FINITE)
        data = []
        for index, vector in enumerate(vectors.astype("<f4")):
            numbers = vector.tolist() if self.encoding_format == "float" else base64.b64encode(vector).decode()
            data.append({"object": "embedding", "index": index, "embedding": numbers})
        usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        return JSONResponse({"object": "list", "data": data, "model": self.model, "usage": usage})


@router.post("/embeddings", response_model=CreateEmbeddingResponse)
async def create_embeddings(body: EmbeddingRequest, request: Request, service: CurrentService) -> Any:
    """Mean of the last hidden states over the tokens of each text, float32."""
    return await service.answered(Task(body.run), request)
