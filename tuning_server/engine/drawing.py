"""How the next token of a row is chosen: the likeliest, or drawn with a random number of the row's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from tuning_server.engine.devices import precision


@dataclass(frozen=True, kw_only=True)
class SamplingRequest:
    """What to continue and how.

    `temperature` 0 is greedy (the lowest id wins a tie). `logprobs` k requests the k likeliest tokens at each position
    besides the chosen one; None for no log-probabilities. `echo` scores the prompt's tokens too.
    """

    prompt_ids: Sequence[int]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    logprobs: int | None = None
    echo: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)


def distribution(logits: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor | None = None) -> torch.Tensor:
    """What rows are drawn from.

    Parameters
    ----------
    logits : tensor, shape (rows, vocab)
    temperature, top_p : tensors, shape (rows, 1); None where no row has a nucleus

    Returns
    -------
    float64 tensor (see `precision`) on the device of the logits, shape (rows, vocab), each row adding up to one
    """
    probs = (logits.to(precision(logits.device)) / temperature).softmax(-1)
    if top_p is None:
        return probs
    ordered, indices = torch.sort(probs, dim=-1, descending=True, stable=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    outside[:, 0] = False
    probs = probs.scatter(-1, indices, ordered.masked_fill(outside, 0.0))
    return probs / probs.sum(-1, keepdim=True)


def draw(probs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Token ids drawn from `probs` (rows, vocab) by inverse transform of one uniform number per row, shape (rows,)."""
    mass = probs.cumsum(-1)
    drawn = torch.searchsorted(mass, uniforms.to(mass)[:, None] * mass[:, -1:], right=True)[:, 0]
    return drawn.clamp(max=probs.shape[-1] - 1)


def random_numbers(requests: Sequence[SamplingRequest], device: torch.device) -> torch.Tensor:
    """A uniform number for each new token, from the seed of its row, shape (rows, most new tokens)."""
    numbers = np.zeros((len(requests), max(request.max_tokens for request in requests)))
    for row, request in zip(numbers, requests, strict=True):
        row[: request.max_tokens] = np.random.Generator(np.random.Philox(key=request.seed)).random(request.max_tokens)
    return torch.from_numpy(numbers).to(precision(device)).to(device)


class Draws:
    """How the next tokens of rows are chosen; `uniforms` (rows, most new tokens) and all settings are on the device."""

    def __init__(self, requests: Sequence[SamplingRequest], uniforms: torch.Tensor) -> None:
        drawn = [r for r, request in enumerate(requests) if request.temperature > 0]
        self._has_greedy, self._has_drawn = len(drawn) < len(requests), bool(drawn)
        self._drawn = torch.tensor(drawn, device=uniforms.device) if self._has_greedy else slice(None)
        self._uniforms = uniforms[self._drawn] if drawn else uniforms
        settings = [(requests[r].temperature, requests[r].top_p) for r in drawn]
        self._temperature, top_p = uniforms.new_tensor(settings).reshape(-1, 2).T[..., None]  # (drawn, 1)
        self._top_p = top_p if any(nucleus < 1 for _, nucleus in settings) else None
        biases = [(r, *bias) for r, request in enumerate(requests) for bias in request.logit_bias.items()]
        places = torch.tensor([bias[:2] for bias in biases], dtype=torch.long, device=uniforms.device)
        self._biased = places.reshape(-1, 2).T  # rows, tokens
        self._bias = uniforms.new_tensor([bias[2] for bias in biases])

    def choose(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """Next id of each row, shape (rows,): greedy, or drawn with the row's own uniform number."""
        if len(self._bias):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            logits = logits.index_put(tuple(self._biased), self._bias.to(logits), accumulate=True)
        chosen = logits.argmax(-1) if self._has_greedy else logits.new_empty(len(logits), dtype=torch.long)
        if self._has_drawn:
            probs = distribution(logits[self._drawn], self._temperature, self._top_p)
            chosen[self._drawn] = draw(probs, self._uniforms[:, step])
        return chosen
