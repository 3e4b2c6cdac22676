"""Blended decoding: what it must equal, and how rows keep apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from serving import TEXTS

from tuning_server.engine.blending import BlendSettings, blend_logits, generate
from tuning_server.engine.fork import build_model, build_tokenizer
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.sampling import Sample, SamplingRequest, sample

PROMPTS = ["The red fox", "café 東京 🙂", "0", "Ada Lind is the mother of Bo Lind. The old"]
PLAIN = BlendSettings()


def sharpened(loaded: LoadedModel, factor: float) -> LoadedModel:
    """Random weights say next to nothing; larger output weights make some tokens likely."""
    with torch.no_grad():
        loaded.model.gpt_neox.final_layer_norm.weight *= factor
    return loaded


@pytest.fixture(scope="module")
def three() -> tuple[LoadedModel, LoadedModel, LoadedModel]:
    """A big, a tuned and a base model; the tuned one is the base with other numbers in its weights."""
    torch.set_num_threads(1)
    tokenizer = build_tokenizer(TEXTS * 20, [])
    big, tuned, base = (
        sharpened(build_model(f"{name}-{seed}", tokenizer, width=width, layers=layers, heads=2, seed=seed), 4.0)
        for name, width, layers, seed in (("big", 48, 3, 1), ("tuned", 32, 2, 2), ("base", 32, 2, 2))
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in tuned.model.parameters():
            weights += 0.02 * torch.randn(weights.shape, generator=generator)
    return big, tuned, base


def requests_of(loaded: LoadedModel, *, max_tokens: int = 14, **options: float | int | None) -> list[SamplingRequest]:
    """The prompts, each at another temperature unless one is given."""
    return [
        SamplingRequest(
            prompt_ids=loaded.codec.encode_prompt(text),
            max_tokens=max_tokens,
            **{"seed": k, "logprobs": 3, "temperature": 0.7 * k, "top_p": 1 - 0.1 * k} | options,  # type: ignore[arg-type]
        )
        for k, text in enumerate(PROMPTS)
    ]


def same(some: Sequence[Sample], others: Sequence[Sample]) -> None:
    for one, other in zip(some, others, strict=True):
        assert one.ids == other.ids
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        assert [t.logprob for t in one.tokens] == pytest.approx([t.logprob for t in other.tokens], abs=1e-5)
        for mine, theirs in zip(one.tokens, other.tokens, strict=True):
            assert [i for i, _ in mine.top] == [i for i, _ in theirs.top]
            assert [v for _, v in mine.top] == pytest.approx([v for _, v in theirs.top], abs=1e-5)


def teacher_forced(
    three: Sequence[LoadedModel], prompt: Sequence[int], ids: Sequence[int], settings: BlendSettings
) -> np.ndarray:
    """Blend after each new token by one pass without a cache, in plain numpy, shape (n, vocab), nats."""
    rows = []
    with torch.no_grad():
        for loaded in three:
            logits = loaded.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].double()
            rows.append(logits.log_softmax(-1).numpy())
    big, tuned, base = rows
    strength = np.array([settings.strength(k) for k in range(len(ids))])[:, None]
    of_big, of_tuned, of_base = settings.weights
    scores = of_big * big + strength * of_tuned * tuned + strength * of_base * base
    if settings.plausibility:
        scores[np.exp(big) < settings.plausibility * np.exp(big).max(-1, keepdims=True)] = -np.inf
    return scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)


def test_no_shift_is_the_big_model(three: tuple[LoadedModel, ...]) -> None:
    big, tuned, base = three
    requests = requests_of(big)
    alone = sample(big, requests)
    assert any(answer.ids for answer in alone)
    same(generate(big, tuned, base, requests, BlendSettings(schedule=(0.0,))), alone)
    same(generate(big, tuned, base, requests, BlendSettings(weights=(1, 0, 0))), alone)
    same(generate(big, base, base, requests, PLAIN), alone)
    blended = generate(big, tuned, base, requests, PLAIN)
    assert [answer.ids for answer in blended] != [answer.ids for answer in alone], "else the test above says nothing"


def test_a_big_model_that_is_the_base_becomes_the_tuned_one(three: tuple[LoadedModel, ...]) -> None:
    _, tuned, base = three
    requests = requests_of(base)
    same(generate(base, tuned, base, requests, PLAIN), sample(tuned, requests))


@pytest.mark.parametrize(
    "settings",
    [PLAIN, BlendSettings((0.8, 0.5, -0.2)), BlendSettings(plausibility=0.3), BlendSettings(schedule=(2.0, 1.0, 0.25))],
    ids=["plain", "weights", "plausibility", "fade"],
)
def test_scores_are_those_of_a_pass_without_caches(three: tuple[LoadedModel, ...], settings: BlendSettings) -> None:
    big, tuned, base = three
    requests = [replace(request, logprobs=big.vocab_size) for request in requests_of(big)]
    answers = generate(big, tuned, base, requests, settings)
    n_ruled_out = 0
    for request, answer in zip(requests, answers, strict=True):
        expected = teacher_forced(three, request.prompt_ids, answer.ids, settings)
        for row, token in zip(expected, answer.tokens, strict=True):
            assert token.logprob == pytest.approx(row[token.id], abs=1e-4)
            ids = [i for i, _ in token.top]
            assert [value for _, value in token.top] == pytest.approx(row[ids].tolist(), abs=1e-4)
            assert set(ids) == set(np.flatnonzero(np.isfinite(row)))
            n_ruled_out += big.vocab_size - len(ids)
    assert (n_ruled_out > 0) == (settings.plausibility > 0)


def test_rows_do_not_see_each_other(three: tuple[LoadedModel, ...]) -> None:
    big, tuned, base = three
    settings = BlendSettings(schedule=(1.0, 0.5))
    requests = [replace(request, max_tokens=6 + 5 * k) for k, request in enumerate(requests_of(big))]
    together = generate(big, tuned, base, requests, settings)
    same(together, [generate(big, tuned, base, [request], settings)[0] for request in requests])


def test_logits_of_thousands_are_safe() -> None:
    generator = torch.Generator().manual_seed(1)
    big, tuned, base = 5000 * torch.randn(3, 8, 50, generator=generator)
    for settings in (PLAIN, BlendSettings((1, 7, -6)), BlendSettings(plausibility=1.0)):
        blended = blend_logits((big, tuned, base), settings)
        assert torch.allclose(blended.exp().sum(-1), torch.ones(8, dtype=torch.float64))
    assert torch.equal(blend_logits((big, tuned, tuned), PLAIN), big.double().log_softmax(-1))
    assert torch.allclose(blend_logits((base, tuned, base), PLAIN), tuned.double().log_softmax(-1), atol=1e-9)


def test_tokens_that_a_model_has_no_output_for_are_left_out() -> None:
    big, tuned, base = torch.randn(3, 8, 50, generator=torch.Generator().manual_seed(1))
    expected = blend_logits((big[:, :40], tuned[:, :40], base[:, :40]), PLAIN)
    assert torch.equal(blend_logits((big, tuned[:, :40], base[:, :45]), PLAIN), expected)


def test_what_cannot_be_blended_is_refused(three: tuple[LoadedModel, ...]) -> None:
    big, tuned, base = three
    request = requests_of(big)[0]
    with pytest.raises(ValueError, match="big-1: the model's context is 512 tokens"):
        generate(big, tuned, base, [replace(request, max_tokens=600)], PLAIN)
    assert generate(big, tuned, base, [], PLAIN) == []
