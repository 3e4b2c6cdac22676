"""Exact speculative decoding of a blend: the tuned model drafts some tokens, the other two check them in one pass.

What comes out has the blend's distribution whatever the drafter is (Leviathan et al. 2023; Chen et al. 2023): a draft x
that was drawn from q is kept with probability min(1, p(x) / q(x)), else replaced by a draw from max(0, p - q).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tuning_server.engine.blending import BLEND_BATCH_TOKENS, BlendSettings, blend_logits, check_blend, readers
from tuning_server.engine.kv_cache import left_padded
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.sampling import (
    Row,
    Sample,
    SamplingRequest,
    append,
    distribution,
    draw,
    finish,
    in_batches,
    precision,
    token_scores,
)

N_DRAFT = 4
TO_DRAFT, TO_ACCEPT, TO_REPLACE = range(3)  # what a token's three uniform numbers are for


@dataclass(frozen=True)
class Speculated:
    """An answer, and how much of it was drafted; drafts past the answer's end are not counted."""

    sample: Sample
    n_drafted: int
    n_accepted: int


@dataclass
class _DraftedRow(Row):
    n_drafted: int = 0
    n_accepted: int = 0


def speculate(
    big: LoadedModel,
    tuned: LoadedModel,
    base: LoadedModel,
    requests: Sequence[SamplingRequest],
    settings: BlendSettings,
    *,
    n_draft: int = N_DRAFT,
) -> list[Speculated]:
    """Continue prompts with the blend of three models, several tokens per pass of the big one.

    Parameters
    ----------
    requests : as for `generate`; bias, temperature and nucleus hold for draft and blend alike
    n_draft : tokens that the tuned model drafts at a time, at least 1

    Returns
    -------
    list of Speculated, in the order of `requests`
        Greedy answers are those of `generate`; drawn ones have its distribution, but are other draws.

    Raises
    ------
    ValueError
        As `check_blend`, and for a model whose cache cannot take tokens back.
    """
    check_blend(big, tuned, base, requests)

    def answer(batch: list[SamplingRequest]) -> list[Speculated]:
        rows = _Speculation(big, tuned, base, settings, n_draft).decode(batch)
        return [Speculated(finish(big, row), row.n_drafted, row.n_accepted) for row in rows]

    return in_batches(requests, answer, limit_tokens=BLEND_BATCH_TOKENS)


def count_accepted(p: torch.Tensor, q: torch.Tensor, drafted: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """How many drafts of each row are kept before the first one that is not, shape (rows,).

    Parameters
    ----------
    p, q : tensors, shape (rows, n, vocab)
        What the tokens should be drawn from, and what the drafts were drawn from.
    drafted : tensor, shape (rows, n), token ids
    uniforms : tensor, shape (rows, n), in [0, 1)
    """
    of_p, of_q = (probs.gather(-1, drafted[..., None])[..., 0] for probs in (p, q))  # (rows, n)
    return (uniforms * of_q < of_p).long().cumprod(-1).sum(-1)


def residual(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """What a rejected draft is replaced from: max(0, p - q), normalised, shape (rows, vocab).

    >>> residual(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[1.0, 0.0, 0.0]])).tolist()
    [[0.0, 0.5, 0.5]]
    """
    rest = (p - q).clamp(min=0)
    mass = rest.sum(-1, keepdim=True)
    # equal distributions reject nothing but by rounding, and then either will do
    return torch.where(mass > 0, rest / mass.clamp(min=torch.finfo(rest.dtype).tiny), p)


@dataclass
class _Round:
    """Drafts of the next `n` tokens of each row, and the three models' logits at their positions."""

    drafted: torch.Tensor  # (rows, n)
    q: torch.Tensor  # (rows, n, vocab)
    tuned: torch.Tensor  # (rows, n, vocab)
    big: torch.Tensor  # (rows, n + 1, vocab)
    base: torch.Tensor  # (rows, n + 1, vocab)


class _Speculation:
    """One batch; every row has exactly one token (at first its prompt) that no model has read."""

    def __init__(
        self, big: LoadedModel, tuned: LoadedModel, base: LoadedModel, settings: BlendSettings, n_draft: int
    ) -> None:
        self._model, self._settings, self._n_draft = big, settings, n_draft
        self._big, self._tuned, self._base = readers(big, tuned, base)
        for loaded, reader in ((big, self._big), (tuned, self._tuned), (base, self._base)):
            if not reader.can_forget:
                raise ValueError(
                    f"speculative decoding takes tokens back, which {loaded.id} cannot (it has a sliding window or a "
                    "recurrent state): decode without it"
                )
        self._active: list[_DraftedRow] = []

    def decode(self, requests: Sequence[SamplingRequest]) -> list[_DraftedRow]:
        """Continue all prompts together; rows that have ended leave the batch."""
        rows = [_DraftedRow(request, _uniforms(request, self._n_draft)) for request in requests]
        self._active = [row for row in rows if row.request.max_tokens > 0]
        if not self._active:
            return rows
        unread, mask = left_padded(self._model, [row.request.prompt_ids for row in self._active])
        while self._active:
            # random numbers belong to positions, so that how far the neighbours draft changes none of a row's draws
            positions = [len(row.ids) for row in self._active]
            n = min(self._n_draft, max(row.request.max_tokens - len(row.ids) for row in self._active))
            uniforms = torch.from_numpy(
                np.stack([row.uniforms[k : k + n + 1] for row, k in zip(self._active, positions, strict=True)])
            ).to(unread.device, precision(unread.device))  # (rows, n + 1, 3)
            drafts = self._draft(unread, mask, n, uniforms)
            unread, mask = self._check(drafts, positions, uniforms), None
        return rows

    def _draft(self, unread: torch.Tensor, mask: torch.Tensor | None, n: int, uniforms: torch.Tensor) -> _Round:
        """Let the tuned model write `n` tokens and the others read them."""
        requests = [row.request for row in self._active]
        q, tuned, read, hidden = [], [], [unread], mask
        for k in range(n):
            tuned.append(self._tuned.read(read[-1], hidden))  # (rows, 1, vocab)
            hidden = None
            q.append(distribution(tuned[-1][:, 0], requests))
            read.append(draw(q[-1], uniforms[:, k, TO_DRAFT])[:, None])
        ids = torch.cat(read, dim=1)
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(requests), n)], dim=1)
        big, base = (reader.read(ids, mask, n_last=n + 1) for reader in (self._big, self._base))
        return _Round(ids[:, -n:], torch.stack(q, 1), torch.cat(tuned, 1), big, base)

    def _check(self, drafts: _Round, positions: Sequence[int], uniforms: torch.Tensor) -> torch.Tensor:
        """Keep the drafts that the blend accepts and one token more; return that token, shape (rows, 1)."""
        n = drafts.drafted.shape[1]
        logprobs = self._blend((drafts.big[:, :n], drafts.tuned, drafts.base[:, :n]), positions)  # (rows, n, vocab)
        p = self._distribution(logprobs)
        accepted = count_accepted(p, drafts.q, drafts.drafted, uniforms[:, :n, TO_ACCEPT])
        n_accepted = accepted.tolist()
        self._keep_drafts(drafts.drafted, logprobs, n_accepted)
        going = self._going()
        if not going:
            self._active = []
            return drafts.drafted
        rows, first = torch.arange(len(n_accepted), device=p.device), accepted.clamp(max=n - 1)  # (rows,)
        last = logprobs[rows, first]  # (rows, vocab)
        following = residual(p[rows, first], drafts.q[rows, first])
        n_read = n  # by the tuned model: the unread token and all drafts but the last
        whole = accepted == n
        if any(n_accepted[r] == n for r in going):
            # the tuned model reads its last draft only where a token beyond it can be had
            tuned = self._tuned.read(drafts.drafted[:, -1:])
            n_read += 1
            beyond = self._blend((drafts.big[:, n:], tuned, drafts.base[:, n:]), [k + n for k in positions])
            last = torch.where(whole[:, None], beyond[:, 0], last)
            following = torch.where(whole[:, None], self._distribution(beyond)[:, 0], following)
        chosen = draw(following, uniforms[rows, accepted, TO_REPLACE])
        n_top = [row.request.logprobs if row.finish_reason is None else None for row in self._active]
        scores = token_scores(last, chosen, n_top)
        for r in going:
            append(self._model, self._active[r], int(chosen[r]), scores[r])
        if going := self._going():
            self._go_on(going, [n - count for count in n_accepted], [n_read - 1 - count for count in n_accepted])
        else:
            self._active = []
        return chosen[going, None]

    def _going(self) -> list[int]:
        return [r for r, row in enumerate(self._active) if row.finish_reason is None]

    def _keep_drafts(self, drafted: torch.Tensor, logprobs: torch.Tensor, n_accepted: Sequence[int]) -> None:
        """Add each row's accepted drafts to it, up to where it ends."""
        n = drafted.shape[1]
        n_top = [row.request.logprobs for row in self._active for _ in range(n)]
        scores = token_scores(logprobs.flatten(0, 1), drafted.flatten(), n_top)
        for r, (row, ids) in enumerate(zip(self._active, drafted.tolist(), strict=True)):
            kept, room = 0, row.request.max_tokens - len(row.ids)
            while kept < n_accepted[r] and row.finish_reason is None:
                append(self._model, row, ids[kept], scores[r * n + kept])
                kept += 1
            row.n_accepted += kept
            row.n_drafted += kept if row.finish_reason else min(n, room)

    def _go_on(self, going: Sequence[int], n_unused: Sequence[int], n_unused_by_tuned: Sequence[int]) -> None:
        """Go on with some rows, taking back from each what the models read of drafts that were not accepted."""
        for reader in (self._big, self._tuned, self._base):
            if len(going) < len(self._active):
                reader.keep(going)
            unused = n_unused_by_tuned if reader is self._tuned else n_unused
            reader.forget([unused[r] for r in going])
        self._active = [self._active[r] for r in going]

    def _blend(self, logits: Sequence[torch.Tensor], positions: Sequence[int]) -> torch.Tensor:
        """Log-probabilities of the blend from new token `positions` of each row on, shape (rows, n, vocab), nats."""
        strength: float | torch.Tensor = 1.0
        if self._settings.schedule:
            of_row = [[self._settings.strength(start + k) for k in range(logits[0].shape[1])] for start in positions]
            device = logits[0].device
            strength = torch.tensor(of_row, dtype=precision(device), device=device)[..., None]  # (rows, n, 1)
        return blend_logits(logits, self._settings, strength)

    def _distribution(self, logprobs: torch.Tensor) -> torch.Tensor:
        """What each row draws from at each position, shape (rows, n, vocab)."""
        requests = [row.request for row in self._active for _ in range(logprobs.shape[1])]
        return distribution(logprobs.flatten(0, 1), requests).unflatten(0, logprobs.shape[:2])


def _uniforms(request: SamplingRequest, n_draft: int) -> np.ndarray:
    """Three numbers for each token that may be drafted, shape (max_tokens + n_draft, 3)."""
    generator = np.random.Generator(np.random.Philox(key=request.seed))
    return generator.random((request.max_tokens + n_draft, 3))
