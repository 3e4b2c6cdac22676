"""Endpoints ``/v1/scores`` and ``/v1/tokenize``, extensions of ours: exact log-probabilities, and what the tokens are.

A whole vocabulary at thousands of places is no job for JSON: scores come back as the arrays of an ``.npz`` file.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from tuning_server.errors import ApiError
from tuning_server.service import CurrentService
from tuning_server.types import Strict, is_text
from tuning_server.worker import Task

if TYPE_CHECKING:
    from tuning_server.engine.models import LoadedModel, ModelCache
    from tuning_server.engine.scoring import Scores

router = APIRouter(prefix="/v1", tags=["scores"])
MAX_ROWS = 262_144  # places scored by one request
MAX_REPLY_BYTES = 256 * 2**20
MAX_TEXT = 4_000_000  # characters tokenized by one request


class ScoresRequest(Strict):
    """What to score: the `targets` after `contexts`, or, rolling, every token of `documents` but each one's first."""

    model: str = Field(min_length=1, max_length=500)
    contexts: list[list[int]] | None = None
    targets: list[int] | None = None
    documents: list[list[int]] | None = None
    window_tokens: int | None = Field(default=None, ge=1)
    stride_tokens: int | None = Field(default=None, ge=1)
    full: bool = False
    top_k: int = Field(default=0, ge=0)

    def check(self) -> None:
        """What no field can say alone.

        Raises
        ------
        ApiError
            Naming the field that does not fit.
        """
        nested, rolling = (self.contexts, self.targets), (self.documents, self.window_tokens, self.stride_tokens)
        if not (_all(nested) and _none(rolling) or _all(rolling) and _none(nested)):
            message = "Give 'contexts' and 'targets', or 'documents', 'window_tokens' and 'stride_tokens'."
            raise ApiError(message, param="contexts", code="invalid_value")
        if self.full and self.top_k:
            raise ApiError("Ask for 'full' or for 'top_k', not for both.", param="top_k", code="invalid_value")
        if self.contexts is not None and len(self.contexts) != len(self.targets or []):
            message = (
                f"Expected one target a context, found {len(self.targets or [])} for {len(self.contexts)} contexts."
            )
            raise ApiError(message, param="targets", code="invalid_value")
        if self.n_rows > MAX_ROWS:
            message = f"At most {MAX_ROWS} places a request, found {self.n_rows}: ask for a part at a time."
            raise ApiError(message, param=self.what, code="invalid_value")

    @property
    def what(self) -> str:
        return "documents" if self.contexts is None else "contexts"

    @property
    def n_rows(self) -> int:
        if self.contexts is not None:
            return len(self.contexts)
        return sum(max(0, len(ids) - 1) for ids in self.documents or [])

    def run(self, cache: ModelCache) -> Scores:
        """Score, on the engine's thread; what the model cannot do is refused in its words."""
        from tuning_server.engine.scoring import score_contexts, score_documents

        loaded = cache.get(self.model)
        n_bytes = self.n_rows * (4 + 2 * loaded.vocab_size * self.full + 8 * self.top_k)
        if n_bytes > MAX_REPLY_BYTES:
            message = (
                f"The reply would take {n_bytes} bytes, at most {MAX_REPLY_BYTES} are sent: ask for "
                f"{MAX_REPLY_BYTES * self.n_rows // n_bytes} places at a time."
            )
            raise ApiError(message, param=self.what, code="reply_too_large")
        how: dict[str, Any] = {"full": self.full, "top_k": self.top_k}
        try:
            if self.contexts is not None:
                return score_contexts(loaded, self.contexts, self.targets or [], **how)
            how |= {"window_tokens": self.window_tokens, "stride_tokens": self.stride_tokens}
            return score_documents(loaded, self.documents or [], **how)
        except ValueError as error:
            raise ApiError(_sentence(error), param=self.what, code="invalid_value") from error


class TokenizeRequest(Strict):
    """A text to cut into tokens, in vLLM's words."""

    model: str = Field(min_length=1, max_length=500)
    prompt: str = Field(max_length=MAX_TEXT)
    add_special_tokens: bool = True


def _all(parts: Sequence[Any]) -> bool:
    return all(part is not None for part in parts)


def _none(parts: Sequence[Any]) -> bool:
    return all(part is None for part in parts)


def _sentence(error: ValueError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def packed(scores: Scores) -> bytes:
    """The arrays as an ``.npz`` file; nothing in it is pickled."""
    names = {"target_logprobs": scores.target_logprobs, "logprobs": scores.logprobs, "ids": scores.ids}
    arrays: dict[str, Any] = {k: v for k, v in (names | {"tail": scores.tail}).items() if v is not None}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


@router.post("/scores")
async def scores(wanted: ScoresRequest, request: Request, service: CurrentService) -> Response:
    """Log-probabilities, in nats, at the places asked for."""
    wanted.check()
    scored = await service.answered(Task(wanted.run), request)
    return Response(await asyncio.to_thread(packed, scored), media_type="application/octet-stream")


@router.post("/tokenize")
async def tokenize(wanted: TokenizeRequest, request: Request, service: CurrentService) -> dict[str, Any]:
    """The tokens of a text: ids, strings and how many bytes each of them adds."""

    def run(cache: ModelCache) -> dict[str, Any]:
        return _tokenized(cache.get(wanted.model), wanted)

    return dict(await service.answered(Task(run), request))


def _tokenized(loaded: LoadedModel, wanted: TokenizeRequest) -> dict[str, Any]:
    from tuning_server.engine.tokenization import label

    if not is_text(wanted.prompt):
        message = "The prompt holds half of a surrogate pair, which is not text."
        raise ApiError(message, param="prompt", code="invalid_value")
    codec = loaded.codec
    ids = [*codec.front, *codec.encode_document(wanted.prompt)]
    tokens = list(zip(ids, codec.pieces(ids), strict=True))[0 if wanted.add_special_tokens else len(codec.front) :]
    return {
        "tokens": [token for token, _ in tokens],
        "count": len(tokens),
        "max_model_len": loaded.context_tokens,
        "token_strs": [label(piece) for _, piece in tokens],
        "n_bytes": [len(piece) for _, piece in tokens],
    }
