"""Blended text: 16 prompts together against one at a time, and drafting ahead against plain decoding of one prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from measuring import Way, compare, load, share_in_models, speed
from transformers import DynamicCache

from lib import world
from tuning_server.engine import losses, training
from tuning_server.engine.blending import BlendSettings, generate
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.sampling import Sample, SamplingRequest
from tuning_server.engine.speculation import N_DRAFT, Speculated, speculate

N_PROMPTS, NEW_TOKENS = 16, 48
PLAIN = BlendSettings()
Three = tuple[LoadedModel, LoadedModel, LoadedModel]


@pytest.fixture(scope="module")
def stories() -> list[str]:
    return [document.text[:600] for document in world.stories(1, 400 + N_PROMPTS)]


@pytest.fixture(scope="module")
def three(stories: list[str], tmp_path_factory: pytest.TempPathFactory) -> Three:
    """Big, tuned and base; the base is tuned for some seconds on stories, for acceptance depends on the pair."""
    big, tuned, base = load("fork-1m"), load("fork-300k"), load("fork-300k")
    rows = [losses.TrainingRow([*tuned.codec.encode(text)[:120], tuned.codec.eos_id]) for text in stories[:-N_PROMPTS]]
    settings = training.TrainingSettings(n_epochs=4, batch_size=16, learning_rate=3e-3)
    list(training.train(tuned, rows, settings, folder=tmp_path_factory.mktemp("tuned")))
    for loaded in (big, tuned, base):
        loaded.model.eval()
        loaded.model.set_attn_implementation("sdpa")
    return big, tuned, base


@torch.inference_mode()
def one_at_a_time(three: Sequence[LoadedModel], prompt: Sequence[int], n_tokens: int) -> list[int]:
    """Greedy blended decoding of one prompt: three caches, one token a step."""
    caches = [DynamicCache(config=loaded.model.config) for loaded in three]
    fed = torch.tensor([list(prompt)], device=three[0].device)
    ids: list[int] = []
    while len(ids) < n_tokens:
        big, tuned, base = (
            loaded.model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
            .logits[0, -1]
            .log_softmax(-1)
            for loaded, cache in zip(three, caches, strict=True)
        )
        chosen = int((big + tuned - base).argmax())
        if chosen == three[0].codec.eos_id:
            break
        ids.append(chosen)
        fed = fed.new_tensor([[chosen]])
    return ids


def requests_of(big: LoadedModel, stories: Sequence[str], *, temperature: float) -> list[SamplingRequest]:
    """Openings of stories that were not tuned on, 8 to 38 tokens long."""
    return [
        SamplingRequest(
            prompt_ids=big.codec.encode(text)[: 8 + 2 * k], max_tokens=NEW_TOKENS, seed=k, temperature=temperature
        )
        for k, text in enumerate(stories[-N_PROMPTS:])
    ]


def new_tokens(samples: Sequence[Sample]) -> int:
    return sum(len(sample.ids) for sample in samples)


def test_prompts_together(three: Three, stories: list[str], report: Callable) -> None:
    requests = requests_of(three[0], stories, temperature=0.0)
    together = generate(*three, requests, PLAIN)
    alone = [one_at_a_time(three, request.prompt_ids, NEW_TOKENS) for request in requests]
    same = sum(sample.ids == ids for sample, ids in zip(together, alone, strict=True))
    assert same >= N_PROMPTS - 2, (
        f"{same} of {N_PROMPTS} greedy answers are the same; rounding parts one or two at most"
    )
    n_tokens = new_tokens(together)
    ratio = compare(
        f"blended text, {N_PROMPTS} prompts",
        lambda: speed(lambda: generate(*three, requests, PLAIN), n_tokens),
        Way(
            "a plain loop, one prompt at a time",
            lambda: speed(
                lambda: [one_at_a_time(three, request.prompt_ids, NEW_TOKENS) for request in requests],
                sum(map(len, alone)),
            ),
        ),
        unit="tokens/s",
        n_repetitions=3,
        target=3.0,
    )
    report(
        ratio,
        lambda: (
            f"{share_in_models(lambda: generate(*three, requests, PLAIN), *three):.0%} of our time is forward passes"
        ),
    )


@pytest.mark.parametrize(("temperature", "n_draft"), [(0.0, N_DRAFT), (1.0, N_DRAFT), (1.0, 2)])
def test_drafting_ahead_of_one_prompt(
    three: Three, stories: list[str], temperature: float, n_draft: int, report: Callable
) -> None:
    """Without a target: what is gained depends on the pair, and no model here costs much more a call than another."""
    requests = requests_of(three[0], stories, temperature=temperature)[:6]

    def drafted() -> list[Speculated]:
        return [speculate(*three, [request], PLAIN, n_draft=n_draft)[0] for request in requests]

    def plain() -> list[Sample]:
        return [generate(*three, [request], PLAIN)[0] for request in requests]

    answers, others = drafted(), plain()
    accepted = sum(each.n_accepted for each in answers) / sum(each.n_drafted for each in answers)
    if temperature == 0:
        assert sum(each.sample.ids == other.ids for each, other in zip(answers, others, strict=True)) >= len(others) - 1
    n_drafted, n_plain = new_tokens([each.sample for each in answers]), new_tokens(others)
    ratio = compare(
        f"drafting {n_draft} ahead, 1 prompt, {'drawn' if temperature else 'greedy'}",
        lambda: speed(drafted, n_drafted),
        Way("plain blended decoding, 1 prompt", lambda: speed(plain, n_plain)),
        unit="tokens/s",
        n_repetitions=3,
        note=f"{accepted:.0%} of drafts accepted",
    )
    report(ratio)
