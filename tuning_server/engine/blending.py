"""Decoding from a blend of three models, each with its cache: a small model's tuning lent to a big one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tuning_server.engine.devices import precision
from tuning_server.engine.kv_cache import Reader
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.sampling import Sample, SamplingRequest, check_lengths, decode, finish, in_batches


@dataclass(frozen=True)
class BlendSettings:
    """How three models are blended.

    Parameters
    ----------
    weights : exponents of big, tuned and base; (1, 0, 0) is the big model
    plausibility : in [0, 1]; tokens that the big model finds less probable than this times its likeliest one are
        ruled out before blending (contrastive decoding, Li et al. 2023, section 3.3); 0 rules out none
    schedule : factors of the weights of tuned and base at each new token, the last one from there on; empty for 1
        throughout

    >>> [BlendSettings(schedule=(1.0, 0.5)).strength(position) for position in range(3)], BlendSettings().strength(9)
    ([1.0, 0.5, 0.5], 1.0)
    """

    weights: tuple[float, ...] = (1.0, 1.0, -1.0)
    plausibility: float = 0.0
    schedule: tuple[float, ...] = ()

    def strength(self, position: int) -> float:
        """Factor of the small models' weights at the new token `position` (from 0)."""
        return self.schedule[min(position, len(self.schedule) - 1)] if self.schedule else 1.0


def generate(
    big: LoadedModel,
    tuned: LoadedModel,
    base: LoadedModel,
    requests: Sequence[SamplingRequest],
    settings: BlendSettings,
) -> list[Sample]:
    """Continue prompts with the blend of three models, in as few batches as memory allows.

    Log-probabilities are those of the blend, before temperature, nucleus and bias. A row's draws come from its own
    seed and are those that `sample` would make from the same distribution.

    Parameters
    ----------
    big, tuned, base : of one tokenizer (see `check_same_tokens`)
    requests : as for `sample`, but without `echo`

    Returns
    -------
    list of Sample, in the order of `requests`

    Raises
    ------
    ValueError
        If a prompt does not fit a model's context.
    """

    def blended(logits: Sequence[torch.Tensor], position: int) -> torch.Tensor:
        return blend_logits(logits, settings, settings.strength(position))

    def answer(batch: list[SamplingRequest]) -> list[Sample]:
        return [finish(big, row) for row in decode([Reader(loaded) for loaded in (big, tuned, base)], batch, blended)]

    for loaded in (big, tuned, base):
        check_lengths(loaded, requests)
    return in_batches([big, tuned, base], requests, answer)


def blend_logits(logits: Sequence[torch.Tensor], settings: BlendSettings, strength: float = 1.0) -> torch.Tensor:
    """Blend next-token distributions.

    Parameters
    ----------
    logits : three tensors of shape (..., vocab): big, tuned, base; normalised or not. Tokens for which one of them has
        no output are left out
    strength : multiplies the weights of tuned and base

    Returns
    -------
    float64 tensor (float32 where a device has no float64), shape (..., vocab), nats
        Normalised; minus infinity where `settings.plausibility` rules a token out.

    Notes
    -----
    Each model's normaliser is the same for all tokens, so that it cancels: only the blend is normalised. Beside logits
    of thousands, float32 has three decimals left, and the models' sums must cancel where tuned equals base.

    >>> flat, steep = torch.zeros(3), torch.tensor([0.0, 3000.0, 6000.0])
    >>> blend_logits((flat, steep, steep), BlendSettings()).exp().tolist()
    [0.333..., 0.333..., 0.333...]
    >>> blend_logits((steep, flat, steep), BlendSettings((1, 1, -0.5))).exp().tolist()
    [0.0, 0.0, 1.0]
    """
    n_vocab = min(part.shape[-1] for part in logits)
    big, tuned, base = (part[..., :n_vocab].to(precision(part.device)) for part in logits)
    of_big, of_tuned, of_base = settings.weights
    blended = of_big * big + strength * (of_tuned * tuned + of_base * base)
    if settings.plausibility > 0:
        least = big.amax(-1, keepdim=True) + math.log(settings.plausibility)  # (..., 1)
        blended = blended.masked_fill(big < least, -math.inf)
    return blended.log_softmax(-1)
