"""The engine: rows do not see each other, resumed training ends with the same weights, offsets and scores are exact."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from serving import rows_of

from lib.paths import file_hash
from tuning_server.engine import batches, drawing, kv_cache, losses, models, registry, sampling, steps, training
from tuning_server.engine.cache import ModelCache

TINY = "fork-tiny"
PROMPTS = ["The red fox", "café 東京 🙂", "0", "Ada Lind is the mother of Bo Lind. The old"]


@pytest.fixture
def tiny(tiny_store: Path) -> models.LoadedModel:
    return models.load(TINY, tiny_store, dtype=torch.float32)


def test_a_batch_gives_what_each_row_gives_alone(tiny: models.LoadedModel) -> None:
    requests = [
        sampling.SamplingRequest(
            prompt_ids=tiny.codec.encode_prompt(text),
            max_tokens=3 + k,  # some end before enough have ended for the others to go on without them
            temperature=0.7 * (k % 4),
            seed=k,
            logprobs=(3, None)[k % 2],
            top_p=1 - 0.1 * (k % 4),
            logit_bias={k: 5.0} if k % 3 else {},
        )
        for k, text in enumerate(PROMPTS * 6)
    ]
    together = sampling.sample(tiny, requests)
    for request, answer in zip(requests, together, strict=True):
        alone = sampling.sample(tiny, [request])[0]
        assert alone.ids == answer.ids
        if request.logprobs:
            assert np.allclose([t.logprob for t in alone.tokens], [t.logprob for t in answer.tokens], atol=1e-5)


def test_greedy_equals_generate_and_scores_equal_a_forward_pass(tiny: models.LoadedModel) -> None:
    ids = tiny.codec.encode_prompt(PROMPTS[0])
    request = sampling.SamplingRequest(prompt_ids=ids, max_tokens=100, temperature=0, logprobs=0, echo=True)
    answer = sampling.sample(tiny, [request])[0]
    theirs = tiny.model.generate(torch.tensor([ids]), max_new_tokens=100, do_sample=False, pad_token_id=0)[0]
    assert ids + answer.ids == theirs.tolist()[: len(ids) + len(answer.ids)]
    with torch.no_grad():
        direct = tiny.model(torch.tensor([ids + answer.ids])).logits.log_softmax(-1)[0]
    expected = [float(direct[k, token]) for k, token in enumerate((ids + answer.ids)[1:])]
    assert answer.tokens[0].logprob is None
    assert np.allclose([t.logprob for t in answer.tokens[1:]], expected, atol=1e-5)


def test_offsets_and_labels_are_exact_inside_characters(tiny: models.LoadedModel) -> None:
    text = "né 東🙂"
    request = sampling.SamplingRequest(prompt_ids=tiny.codec.encode_prompt(text), max_tokens=0, logprobs=1, echo=True)
    tokens = sampling.sample(tiny, [request])[0].tokens
    for token in tokens:
        if not token.text.startswith("bytes:"):
            assert text[token.offset :].startswith(token.text)
    assert [t.offset for t in tokens] == sorted(t.offset for t in tokens)
    assert {t.offset for t in tokens} <= set(range(len(text)))


def test_sampling_draws_from_the_distribution_it_reports(tiny: models.LoadedModel) -> None:
    ids = tiny.codec.encode_prompt("The")
    requests = [
        sampling.SamplingRequest(prompt_ids=ids, max_tokens=1, temperature=0.5, seed=k, logprobs=None)
        for k in range(4000)
    ]
    drawn = np.bincount(
        [a.ids[0] if a.ids else tiny.codec.eos_id for a in sampling.sample(tiny, requests)], minlength=tiny.vocab_size
    )
    with torch.no_grad():
        probs = (tiny.model(torch.tensor([ids])).logits[0, -1] / 0.5).softmax(-1).numpy()
    order = np.argsort(-probs)[:8]
    expected, seen = probs[order] * 4000, drawn[order]
    assert (np.abs(seen - expected) < 5 * np.sqrt(expected)).all()


def test_a_seed_always_draws_the_same_tokens(tiny: models.LoadedModel) -> None:
    """By inverse transform of numbers from Philox: whoever has a seed and the model's predictions has the answer."""
    ids, rows = tiny.codec.encode_prompt("The"), []
    for seed in range(5):
        request = sampling.SamplingRequest(
            prompt_ids=ids, max_tokens=20, temperature=0.8, seed=seed, logprobs=tiny.vocab_size
        )
        answer = sampling.sample(tiny, [request])[0]
        uniforms = np.random.Generator(np.random.Philox(key=seed)).random(20)
        for token, uniform in zip(answer.tokens, uniforms, strict=False):
            logprobs = np.array([value for _, value in sorted(token.top)])
            mass = np.cumsum(np.exp(logprobs / 0.8))
            rows.append(token.id == np.searchsorted(mass, uniform * mass[-1], side="right"))
    assert len(rows) > 50
    assert all(rows)


def test_batches_are_cut_to_the_memory_that_is_free(tiny: models.LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [
        sampling.SamplingRequest(prompt_ids=[1 + k, 2, 3], max_tokens=5, seed=k, temperature=0.8) for k in range(20)
    ]

    def sizes() -> list[int]:
        return [len(batch) for batch in batches.batches([tiny], [(8, 3)] * 20)]

    assert sizes() == [20]
    of_row = 8 * batches.token_bytes(tiny) + batches.LOGITS_BYTES * tiny.n_outputs
    whole = sampling.sample(tiny, requests)
    for n_rows, expected in ((7.5, [7, 7, 6]), (0.1, [1] * 20)):
        monkeypatch.setattr(batches, "free_bytes", lambda _, n_rows=n_rows: n_rows * of_row / batches.USABLE)
        assert sizes() == expected
    assert [answer.ids for answer in sampling.sample(tiny, requests)] == [answer.ids for answer in whole]


def test_the_memory_of_a_token_covers_its_keys_and_values(tiny: models.LoadedModel) -> None:
    reader = kv_cache.Reader(tiny)
    reader.read(torch.ones(1, 30, dtype=torch.long))
    layers = reader._cache.layers
    kept = sum(part.nbytes for layer in layers for part in (layer.keys, layer.values))
    assert 2 * kept <= 30 * batches.token_bytes(tiny) < 20 * kept


def test_stop_bias_and_nucleus_are_obeyed(tiny: models.LoadedModel) -> None:
    ids = tiny.codec.encode_prompt("The")
    letter = tiny.codec.encode("x")[0]
    biased = sampling.SamplingRequest(prompt_ids=ids, max_tokens=6, logit_bias={letter: 100.0}, logprobs=0)
    answer = sampling.sample(tiny, [biased])[0]
    assert answer.text == "xxxxxx"
    assert answer.finish_reason == "length"
    assert all(t.logprob is not None and t.logprob < -1 for t in answer.tokens), "bias must not change the scores"
    stopped = sampling.SamplingRequest(prompt_ids=ids, max_tokens=6, logit_bias={letter: 100.0}, stop=("xxx",))
    assert (sampling.sample(tiny, [stopped])[0].text, sampling.sample(tiny, [stopped])[0].finish_reason) == ("", "stop")
    narrow = [sampling.SamplingRequest(prompt_ids=ids, max_tokens=4, top_p=1e-9, seed=k) for k in range(5)]
    greedy = sampling.sample(tiny, [sampling.SamplingRequest(prompt_ids=ids, max_tokens=4, temperature=0)])[0]
    assert {tuple(a.ids) for a in sampling.sample(tiny, narrow)} == {tuple(greedy.ids)}


def test_a_nucleus_of_nothing_is_greedy() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0], [3.0, 1.0, 0.0]])
    probs = drawing.distribution(logits, torch.ones(2, 1), torch.tensor([[0.0], [1.0]]))
    assert probs[0].tolist() == [0, 1, 0]
    assert torch.equal(probs[1], logits[1].double().softmax(-1))


def test_tokens_are_drawn_on_the_device_of_the_logits() -> None:
    """No tensor on PyTorch's meta device can be copied to the processor, nor be mixed with one that is there."""
    requests = [
        sampling.SamplingRequest(prompt_ids=[1], max_tokens=1, temperature=temperature, top_p=0.9, logit_bias=bias)
        for temperature, bias in ((0.0, {}), (0.7, {3: 1.0}))
    ]
    uniforms = drawing.random_numbers(requests, torch.device("meta"))
    chosen = drawing.Draws(requests, uniforms).choose(torch.empty(2, 50, device="meta"), 0)
    assert (uniforms.device.type, uniforms.dtype, uniforms.shape) == ("meta", torch.float64, (2, 1))
    assert (chosen.device.type, chosen.dtype, chosen.shape) == ("meta", torch.int64, (2,))


def test_padded_outputs_are_never_drawn_nor_scored(tiny: models.LoadedModel) -> None:
    request = sampling.SamplingRequest(
        prompt_ids=tiny.codec.encode_prompt(PROMPTS[0]), max_tokens=6, seed=1, logprobs=2, echo=True
    )
    before = sampling.sample(tiny, [request])[0]
    n_tokens = tiny.vocab_size
    tiny.model.resize_token_embeddings(n_tokens + 40)
    tiny.model.lm_head.weight.data[-40:] = 9.0
    after = sampling.sample(tiny, [request])[0]
    assert (after.ids, after.text) == (before.ids, before.text)
    assert [t.logprob for t in after.tokens[1:]] == pytest.approx([t.logprob for t in before.tokens[1:]], abs=1e-5)


def test_the_vocabulary_is_what_tokenizer_and_outputs_share(tiny_store: Path) -> None:
    def vocab_size(n_added: int, n_outputs: int) -> int:
        tiny = models.load(TINY, tiny_store)
        tiny.tokenizer.add_tokens([f"<{k}>" for k in range(n_added)])
        tiny.model.resize_token_embeddings(n_outputs)
        return tiny.vocab_size

    n_tokens = models.load(TINY, tiny_store).vocab_size
    assert [vocab_size(0, n_tokens + 9), vocab_size(5, n_tokens), vocab_size(5, n_tokens + 9)] == [
        n_tokens, n_tokens, n_tokens + 5
    ]  # fmt: skip


def test_what_does_not_fit_the_context_is_refused(tiny: models.LoadedModel) -> None:
    with pytest.raises(ValueError, match="context is 512 tokens, but 600 were requested"):
        sampling.sample(tiny, [sampling.SamplingRequest(prompt_ids=[1] * 500, max_tokens=100)])


@pytest.mark.parametrize("stop_after", [1, 7, 12])
def test_a_stopped_run_ends_with_the_weights_of_an_undisturbed_one(
    tiny_store: Path, tmp_path: Path, stop_after: int
) -> None:
    settings = training.TrainingSettings(n_epochs=3, batch_size=8, learning_rate=1e-3, seed=3, state_every=4)

    def fresh() -> models.LoadedModel:
        return models.load(TINY, tiny_store, dtype=torch.float32)

    rows = rows_of(fresh())
    reports = list(training.train(fresh(), rows, settings, folder=tmp_path / "whole"))
    broken = training.train(fresh(), rows, settings, folder=tmp_path / "broken")
    for _ in range(stop_after):
        next(broken)
    broken.close()
    rest = list(training.train(fresh(), rows, settings, folder=tmp_path / "broken"))
    assert len(reports) == 15
    assert rest[-1] == reports[-1]
    for name in ("step-5", "step-10", "final"):
        one, other = (tmp_path / run / name / "model.safetensors" for run in ("whole", "broken"))
        assert file_hash(one) == file_hash(other)


def test_another_run_is_not_continued(tiny: models.LoadedModel, tmp_path: Path) -> None:
    rows = rows_of(tiny)
    settings = training.TrainingSettings(n_epochs=2, batch_size=8, learning_rate=1e-3)
    steps = training.train(tiny, rows, settings, folder=tmp_path)
    for _ in range(6):
        next(steps)
    steps.close()
    with pytest.raises(ValueError, match="holds another run"):
        next(training.train(tiny, rows[1:], settings, folder=tmp_path))


def mean_loss(loaded: models.LoadedModel, rows: list[losses.TrainingRow]) -> float:
    return losses.evaluate(loaded, rows, losses.Supervised())["loss"]


def test_training_learns_completions_and_leaves_prompts_alone(tiny: models.LoadedModel, tmp_path: Path) -> None:
    rows = rows_of(tiny)
    prompt_only = [losses.TrainingRow(row.ids[: row.n_prompt], 0) for row in rows]
    before, before_prompt = mean_loss(tiny, rows), mean_loss(tiny, prompt_only)
    settings = training.TrainingSettings(n_epochs=8, batch_size=8, learning_rate=3e-3)
    reports = list(training.train(tiny, rows, settings, folder=tmp_path))
    after, after_prompt = mean_loss(tiny, rows), mean_loss(tiny, prompt_only)
    assert after < 0.5 * before
    assert after_prompt > 0.8 * before_prompt
    assert reports[-1].learning_rate < 0.1 * max(report.learning_rate for report in reports)


def test_a_batch_cut_for_memory_has_the_same_gradient(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = training.TrainingSettings(n_epochs=1, batch_size=16, learning_rate=1e-3, prompt_loss_weight=0.3)
    found = []
    for limit in (2**28, 1):
        monkeypatch.setitem(losses.MICRO_BATCH_BYTES, "cpu", limit)
        loaded = models.load(TINY, tiny_store, dtype=torch.float32)
        found.append([r.loss for r in training.train(loaded, rows_of(loaded), settings, folder=tmp_path / str(limit))])
    assert np.allclose(found[0], found[1], rtol=1e-4)


def test_longer_rows_change_no_loss(tiny: models.LoadedModel) -> None:
    for loss, rows in (
        (losses.Supervised(0.3), [losses.TrainingRow(range(5, 5 + n), 2) for n in (7, 18, 20)]),
        (losses.Preference(0.3), [losses.PreferenceRow(losses.TrainingRow([5, 6, 7]), losses.TrainingRow([5, 8]))]),
    ):
        inputs = loss.inputs(rows)  # type: ignore[arg-type]
        longer = steps.padded(inputs)
        assert longer[0].shape[1] % 16 == 0 < inputs[0].shape[1] % 16
        with torch.no_grad():
            sums, expected = (loss.sums(tiny.model, *each) for each in (longer, inputs))
        assert sums == {name: pytest.approx(float(value), rel=1e-5) for name, value in expected.items()}


def test_moments_that_do_not_fit_make_the_parts_smaller(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = training.TrainingSettings(n_epochs=1, batch_size=8, learning_rate=1e-3)

    def reports(name: str) -> list[training.StepReport | None]:
        loaded = models.load(TINY, tiny_store, dtype=torch.float32)
        return list(training.train(loaded, rows_of(loaded), settings, folder=tmp_path / name))

    undisturbed = [report.loss for report in reports("undisturbed") if report]
    step, n_calls = torch.optim.AdamW.step, 0

    def failing(self: torch.optim.AdamW, closure: None = None) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 1:
            weight = self.param_groups[0]["params"][0]
            self.state[weight]["step"] = torch.tensor(0.0)  # half of what was to be allocated
            raise MemoryError
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", failing)
    found = [report for report in reports("failing") if report]
    assert [report.loss for report in found] == pytest.approx(undisturbed, rel=1e-4)
    assert [bool(report.note) for report in found] == [True] + [False] * (len(found) - 1)


def test_version_1_of_fsdp_is_refused(tiny: models.LoadedModel) -> None:
    settings = training.TrainingSettings(n_epochs=1, batch_size=8, learning_rate=1e-3)
    accelerator: Any = SimpleNamespace(distributed_type="FSDP", is_fsdp2=False)
    with pytest.raises(ValueError, match="expected version 2 of FSDP, found version 1"):
        steps.SpreadStepper(tiny, rows_of(tiny), losses.Supervised(), settings, accelerator)


def test_every_row_is_seen_once_an_epoch() -> None:
    lengths = list(np.random.default_rng(0).integers(3, 60, 1001))
    batches = losses.epoch_batches(lengths, 32, seed=1, epoch=2)
    assert sorted(np.concatenate(batches)) == list(range(1001))
    assert [b.tolist() for b in batches] != [b.tolist() for b in losses.epoch_batches(lengths, 32, seed=1, epoch=3)]
    spread = np.mean([np.ptp(np.array(lengths)[batch]) for batch in batches])
    assert spread < 0.3 * np.ptp(lengths)


@pytest.mark.parametrize(
    "model_id", ["fork-9x", "ft:fork-tiny::aaaaaaaa", "hf:../../etc", "nonsense", "fork-tiny@ffff"]
)
def test_unknown_models_are_refused_with_a_way_out(tiny_store: Path, model_id: str) -> None:
    with pytest.raises(registry.UnknownModel, match="does not exist"):
        registry.resolve(model_id, tiny_store, models_dir=tiny_store)


def test_the_name_of_an_open_model_is_answered_with_its_id(tiny_store: Path) -> None:
    with pytest.raises(registry.UnknownModel, match="have ids like hf:gpt2"):
        registry.resolve("gpt2", tiny_store)


def test_the_cache_drops_the_least_recently_used(tiny_store: Path) -> None:
    cache = ModelCache(tiny_store, limit_bytes=1)
    first = cache.get(TINY)
    assert cache.get(TINY) is first
    cache.get(f"{TINY}:init")
    assert cache.get(TINY) is not first
