"""Blended decoding: what it must equal, how rows keep apart, and that drafting ahead changes nothing but the speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from serving import TEXTS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from tuning_server.engine.blending import BlendSettings, blend_logits, generate
from tuning_server.engine.fork import build_model, build_tokenizer
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.sampling import Sample, SamplingRequest, distribution, sample
from tuning_server.engine.speculation import count_accepted, residual, speculate

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
@pytest.mark.parametrize("ahead", [False, True], ids=["plain", "speculative"])
def test_scores_are_those_of_a_pass_without_caches(
    three: tuple[LoadedModel, ...], settings: BlendSettings, ahead: bool
) -> None:
    big, tuned, base = three
    requests = [replace(request, logprobs=big.vocab_size) for request in requests_of(big)]
    if ahead:
        answers = [one.sample for one in speculate(big, tuned, base, requests, settings, n_draft=3)]
    else:
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
    ahead = speculate(big, tuned, base, requests, settings)
    alone = [speculate(big, tuned, base, [request], settings)[0] for request in requests]
    same([one.sample for one in ahead], [one.sample for one in alone])
    assert [(one.n_drafted, one.n_accepted) for one in ahead] == [(one.n_drafted, one.n_accepted) for one in alone]
    assert sum(one.n_accepted for one in ahead) > 0
    assert sum(one.n_drafted - one.n_accepted for one in ahead) > 0


def test_logits_of_thousands_are_safe() -> None:
    generator = torch.Generator().manual_seed(1)
    big, tuned, base = 5000 * torch.randn(3, 8, 50, generator=generator)
    for settings in (PLAIN, BlendSettings((1, 7, -6)), BlendSettings(plausibility=1.0)):
        blended = blend_logits((big, tuned, base), settings)
        assert torch.allclose(blended.exp().sum(-1), torch.ones(8, dtype=torch.float64))
    assert torch.equal(blend_logits((big, tuned, tuned), PLAIN), big.double().log_softmax(-1))
    assert torch.allclose(blend_logits((base, tuned, base), PLAIN), tuned.double().log_softmax(-1), atol=1e-9)


@pytest.mark.parametrize("n_draft", [1, 4, 9])
def test_greedy_ahead_is_greedy(three: tuple[LoadedModel, ...], n_draft: int) -> None:
    big, tuned, base = three
    requests = requests_of(big, max_tokens=25, temperature=0.0, top_p=1.0)
    requests += [replace(requests[0], max_tokens=1), replace(requests[1], stop=(" the", "e"))]
    for settings in (PLAIN, BlendSettings((0.2, 1.0, -0.1)), BlendSettings((1, 0, 0), plausibility=0.5)):
        ahead = speculate(big, tuned, base, requests, settings, n_draft=n_draft)
        same([one.sample for one in ahead], generate(big, tuned, base, requests, settings))
    assert all(0 <= one.n_accepted <= one.n_drafted for one in ahead)


def test_a_drafter_that_is_right_is_always_accepted(three: tuple[LoadedModel, ...]) -> None:
    _, tuned, base = three
    for one in speculate(base, tuned, base, requests_of(base, max_tokens=20, temperature=0.9), PLAIN):
        # rounding may reject one in very many, but the seeds are fixed
        assert one.n_accepted == one.n_drafted > 0


def test_accepted_and_replaced_drafts_have_the_distribution_of_the_blend() -> None:
    p, q = torch.rand(2, 40, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    p[:, 0], q[:, 1] = 0, 0
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    kept = torch.minimum(p, q)  # of a draft from q, kept with min(1, p / q)
    assert torch.allclose(kept + (1 - kept.sum(-1, keepdim=True)) * residual(p, q), p)
    assert torch.equal(residual(p, p), p)
    drafted = torch.tensor([[1, 2, 3]])
    p, q = torch.full((1, 3, 6), 0.2), torch.full((1, 3, 6), 0.4)
    assert [int(count_accepted(p, q, drafted, torch.tensor([u]))) for u in ([0.4, 0.4, 0.6], [0.5, 0, 0])] == [2, 0]


@pytest.fixture(scope="module")
def letters() -> tuple[LoadedModel, LoadedModel, LoadedModel]:
    """Three different models over five letters and the end of text."""
    torch.set_num_threads(1)
    names = ["<end>", *"abcde"]
    core = Tokenizer(models.WordLevel({name: k for k, name in enumerate(names)}, unk_token="<end>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")
    loaded = []
    for seed in range(3):
        config = GPTNeoXConfig(
            vocab_size=6, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=32,
        )  # fmt: skip
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            model = GPTNeoXForCausalLM(config).eval()
            model.get_output_embeddings().weight *= 12
        loaded.append(LoadedModel(f"letters-{seed}", None, model, tokenizer, ""))  # type: ignore[arg-type]
    return loaded[0], loaded[1], loaded[2]


def test_drafting_ahead_draws_from_the_blend(letters: tuple[LoadedModel, LoadedModel, LoadedModel]) -> None:
    """20,000 answers of up to three tokens against their exact probabilities."""
    n_draws, settings = 20_000, BlendSettings((0.7, 0.9, -0.5), schedule=(1.0, 0.6))
    options = {"max_tokens": 3, "temperature": 0.8, "top_p": 0.95}
    requests = [SamplingRequest(prompt_ids=[1, 2], seed=k, **options) for k in range(n_draws)]  # type: ignore[arg-type]
    answers = speculate(*letters, requests, settings, n_draft=2)
    seen: dict[tuple[int, ...], int] = {}
    for answer in answers:
        ids = tuple(answer.sample.ids) + (0,) * (answer.sample.finish_reason == "stop")
        seen[ids] = seen.get(ids, 0) + 1

    expected: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        grown: dict[tuple[int, ...], float] = {}
        for ids, prob in expected.items():
            if ids[-1:] == (0,):
                grown[ids] = prob
                continue
            logprobs = torch.tensor(teacher_forced(letters, [1, 2], [*ids, 1], settings)[-1:])
            for token, share in enumerate(distribution(logprobs, requests[:1])[0].tolist()):
                grown[(*ids, token)] = prob * share
        expected = {ids: prob for ids, prob in grown.items() if prob > 0}
    assert set(seen) <= set(expected)
    assert len(expected) > 60

    often = [ids for ids, prob in expected.items() if prob * n_draws >= 5]
    counts = [seen.get(ids, 0) for ids in often]
    probs = [expected[ids] for ids in often]
    rest = (n_draws - sum(counts), 1 - sum(probs))
    result = stats.chisquare([*counts, rest[0]], n_draws * np.array([*probs, rest[1]]))
    assert result.pvalue > 0.001
    rate = sum(answer.n_accepted for answer in answers) / sum(answer.n_drafted for answer in answers)
    assert 0.3 < rate < 0.95, "the test needs both kept and replaced drafts"


def test_what_cannot_be_blended_is_refused(three: tuple[LoadedModel, ...], letters: tuple[LoadedModel, ...]) -> None:
    big, tuned, base = three
    request = requests_of(big)[0]
    with pytest.raises(ValueError, match=r"big-1 and letters-1 have different tokenizers \(\d+ and 6 tokens\)"):
        generate(big, letters[1], base, [request], PLAIN)
    with pytest.raises(ValueError, match="big-1: the model's context is 512 tokens"):
        speculate(big, tuned, base, [replace(request, max_tokens=600)], PLAIN)
    assert generate(big, tuned, base, [], PLAIN) == []
