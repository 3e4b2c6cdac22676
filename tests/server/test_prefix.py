"""Prompts that begin alike: read once, and every answer is what its request gets alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from families import FAMILIES, write_families
from serving import TINY

from tuning_server.engine import kv_cache, models, sampling
from tuning_server.engine.blending import BlendSettings, generate
from tuning_server.engine.kv_cache import LEAST_SAVED_TOKENS
from tuning_server.engine.sampling import Sample, SamplingRequest, sample

OPENING, N_PROMPTS = 40, 16  # tokens that all prompts share, and prompts
assert OPENING * (N_PROMPTS - 2) > LEAST_SAVED_TOKENS


@pytest.fixture(scope="module")
def open_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_families(tmp_path_factory.mktemp("models"))


@pytest.fixture(params=[TINY, *FAMILIES])
def loaded(request: pytest.FixtureRequest, grown_store: Path, open_models: Path) -> models.LoadedModel:
    model_id = request.param if request.param == TINY else f"hf:{request.param}"
    return models.load(model_id, grown_store, models_dir=open_models)


def few_shot(loaded: models.LoadedModel, **settings: object) -> list[SamplingRequest]:
    """Prompts with one opening and endings of 0 to 15 tokens."""
    ids = [5 + (7 * k * k) % (loaded.vocab_size - 5) for k in range(OPENING + 2 * N_PROMPTS)]
    prompts = [[*ids[:OPENING], *ids[OPENING + k : OPENING + 2 * k]] for k in range(N_PROMPTS)]
    plain = [SamplingRequest(prompt_ids=prompt, max_tokens=8, temperature=0) for prompt in prompts]
    return [replace(request, **settings) for request in plain]  # type: ignore[arg-type]


def mixed(loaded: models.LoadedModel) -> list[SamplingRequest]:
    """Greedy and drawn, with and without log-probabilities of the answer and of the prompt, some prompts twice."""
    requests = [
        replace(request, temperature=0.5 * (k % 3), seed=k, logprobs=(None, 0, 4)[k // 2 % 3], echo=k % 2 == 0)
        for k, request in enumerate(few_shot(loaded))
    ]
    again = [replace(request, seed=k, temperature=1.0, echo=True, logprobs=2) for k, request in enumerate(requests[:4])]
    return [*requests, *again, replace(requests[-1], max_tokens=0, echo=True, logprobs=1)]


def same(one: Sample, other: Sample) -> bool:
    """Same tokens; log-probabilities to 1e-4 nats."""
    tokens, expected = ([(token.id, token.text, token.offset) for token in answer.tokens] for answer in (one, other))
    logprobs = ([token.logprob for token in answer.tokens] for answer in (one, other))
    tops = ([dict(token.top) for token in answer.tokens] for answer in (one, other))
    return (
        (one.ids, one.text, one.finish_reason, tokens) == (other.ids, other.text, other.finish_reason, expected)
        and next(logprobs) == pytest.approx(next(logprobs), abs=1e-4)
        and all(
            list(top.values()) == pytest.approx(list(like.values()), abs=1e-4) for top, like in zip(*tops, strict=True)
        )
    )


@contextmanager
def passes(loaded: models.LoadedModel) -> Iterator[list[int]]:
    """Tokens of each forward pass, rows and padding counted."""
    n_tokens: list[int] = []
    hook = loaded.model.register_forward_pre_hook(
        lambda _, __, given: n_tokens.append(given["input_ids"].numel()), with_kwargs=True
    )
    try:
        yield n_tokens
    finally:
        hook.remove()


def n_prefilled(loaded: models.LoadedModel, requests: Sequence[SamplingRequest]) -> int:
    with passes(loaded) as n_tokens:
        sample(loaded, [replace(request, max_tokens=1) for request in requests])
    return sum(n_tokens)


def test_answers_are_those_that_each_request_gets_alone(loaded: models.LoadedModel) -> None:
    requests = mixed(loaded)
    for request, together in zip(requests, sample(loaded, requests), strict=True):
        assert same(together, sample(loaded, [request])[0]), request


@pytest.mark.parametrize("options", [{}, {"echo": True, "logprobs": 1}])
def test_what_all_share_is_read_once(loaded: models.LoadedModel, options: dict[str, int]) -> None:
    requests = few_shot(loaded, **options)
    longest_rest = N_PROMPTS  # the last shared token is read with what follows it
    times = 2 if options else 1  # once to go on from, once to score
    assert n_prefilled(loaded, requests) == times * (OPENING - 1 + N_PROMPTS * longest_rest)


def test_answers_to_one_prompt_read_it_once(loaded: models.LoadedModel) -> None:
    prompt = few_shot(loaded)[-1].prompt_ids
    requests = [SamplingRequest(prompt_ids=prompt, max_tokens=6, seed=k, logprobs=1, echo=True) for k in range(20)]
    assert n_prefilled(loaded, requests) == 2 * len(prompt)
    for request, together in zip(requests, sample(loaded, requests), strict=True):
        assert same(together, sample(loaded, [request])[0])


def test_little_is_not_shared(loaded: models.LoadedModel) -> None:
    requests = few_shot(loaded)[-2:]
    assert n_prefilled(loaded, requests) == 2 * len(requests[1].prompt_ids)


def test_echo_without_logprobs_scores_nothing(loaded: models.LoadedModel) -> None:
    with passes(loaded) as n_tokens:
        answers = sample(loaded, few_shot(loaded, max_tokens=0, echo=True))
    assert n_tokens == []
    assert [len(answer.tokens) for answer in answers] == [len(one.prompt_ids) for one in few_shot(loaded)]


def test_blends_share_too(family_store: Path) -> None:
    three = [models.load(name, family_store) for name in (TINY, "fork-kin", f"{TINY}:init")]
    requests = few_shot(three[0], temperature=0.8, logprobs=2, seed=3)
    settings = BlendSettings((1.0, 0.7, -0.7), plausibility=0.01, schedule=(1.0, 0.5, 0.2))

    def blend(requests: Sequence[SamplingRequest]) -> list[Sample]:
        return generate(*three, requests, settings)

    with passes(three[1]) as n_tokens:
        together = blend(requests)
    assert n_tokens[:2] == [OPENING - 1, N_PROMPTS * N_PROMPTS]
    for request, answer in zip(requests, together, strict=True):
        assert same(answer, blend([request])[0])


def test_steps_that_could_be_recorded_give_the_same_answers(
    loaded: models.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, settings = mixed(loaded), BlendSettings((1.0, 0.5, -0.5))
    drawn = [replace(request, echo=False) for request in requests]
    expected = [*sample(loaded, requests), *generate(loaded, loaded, loaded, drawn, settings)]
    monkeypatch.setattr(kv_cache, "REPLAYING", {"cpu"})
    for most in (3, 256):  # memory is reserved several times, or once
        monkeypatch.setattr(sampling, "MOST_REPLAYED", most)
        found = [*sample(loaded, requests), *generate(loaded, loaded, loaded, drawn, settings)]
        assert all(map(same, found, expected))
