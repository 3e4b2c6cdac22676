"""Open models of four families: exact scores, their own chat templates, fine-tuning; what is refused, and how."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import CONTEXT_TOKENS, FAMILIES, write_families
from openai import APIStatusError, OpenAI
from serving import facts, jsonl, official, wait_for
from starlette.testclient import TestClient
from tokenizers import Tokenizer

from tuning_server.engine import cache, devices, models, registry, sampling, tokenization

PROMPTS = ["The red", "café 東京 saw the old baker and", "0", ""]
TEXT = "Ada saw café 東京 🙂 123's  fox\n\n x"
QUESTION = [{"role": "user", "content": "Who?"}]
GIB = 2**30


@pytest.fixture(scope="module")
def open_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_families(tmp_path_factory.mktemp("models"))


@pytest.fixture(params=FAMILIES)
def loaded(request: pytest.FixtureRequest, open_models: Path) -> models.LoadedModel:
    return models.load(f"hf:{request.param}", open_models, models_dir=open_models)


@pytest.fixture
def client(open_models: Path, tmp_path: Path, serve: Callable[..., TestClient]) -> OpenAI:
    http: Any = serve(tmp_path / "store", models_dir=open_models)
    return official(http)


def direct(loaded: models.LoadedModel, ids: list[int]) -> list[float]:
    """Log-probability of each token after the first, among those of the tokenizer, by one plain forward pass."""
    with torch.no_grad():
        logprobs = loaded.model(torch.tensor([ids])).logits[..., : loaded.vocab_size].log_softmax(-1)[0]
    return [float(logprobs[k, token]) for k, token in enumerate(ids[1:])]


def test_scores_are_those_of_a_forward_pass_and_greedy_is_generate(loaded: models.LoadedModel) -> None:
    requests = [
        sampling.SamplingRequest(
            prompt_ids=loaded.codec.encode_prompt(text), max_tokens=12, temperature=0, logprobs=2, echo=True
        )
        for text in PROMPTS
    ]
    together = sampling.sample(loaded, requests)
    for request, in_batch in zip(requests, together, strict=True):
        prompt = torch.tensor([list(request.prompt_ids)])
        alone = sampling.sample(loaded, [request])[0]
        padding = list(range(loaded.vocab_size, loaded.model.config.vocab_size))  # outputs without a token
        theirs = loaded.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, pad_token_id=0,
            suppress_tokens=padding or None,
        )[0].tolist()  # fmt: skip
        ids = [*request.prompt_ids, *in_batch.ids]
        assert alone.ids == in_batch.ids
        assert [*ids, *theirs[len(ids) :]] == theirs
        assert len(theirs) == len(ids) + (in_batch.finish_reason == "stop")
        expected = pytest.approx(direct(loaded, ids), abs=1e-4)
        for answer in (alone, in_batch):
            assert [token.logprob for token in answer.tokens[1 : len(ids)]] == expected  # with echo, the end follows


def test_text_becomes_the_tokens_of_the_model_s_own_file(loaded: models.LoadedModel) -> None:
    own = Tokenizer.from_file(str(loaded.folder / "tokenizer.json"))
    assert loaded.codec.encode_prompt(TEXT) == own.encode(TEXT).ids
    assert loaded.codec.encode(TEXT) == own.encode(TEXT, add_special_tokens=False).ids
    assert loaded.codec.decode(loaded.codec.encode(TEXT)) == TEXT
    assert loaded.context_tokens == CONTEXT_TOKENS


def test_conversations_take_the_model_s_own_form(loaded: models.LoadedModel) -> None:
    prompt = tokenization.chat_prompt(loaded.codec, QUESTION)
    if not loaded.codec.chat_template:
        assert loaded.codec.decode(prompt.ids) == "Guest: Who?\nHost:"
        return
    theirs = loaded.tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    assert prompt.ids == theirs
    lesson = tokenization.chat_row(loaded.codec, [*QUESTION, {"role": "assistant", "content": "Ada"}])
    assert lesson == (prompt.ids, [*loaded.codec.encode("Ada"), loaded.codec.eos_id])


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_fine_tuned_whole_and_by_adapters(client: OpenAI, family: str) -> None:
    file = client.files.create(file=("rows.jsonl", jsonl(facts(8))), purpose="fine-tune")
    for adapters in (False, {"rank": 4}):
        chosen: Any = {"n_epochs": 12, "batch_size": 8, "learning_rate_multiplier": 2, "lora": adapters}
        if adapters:
            chosen["learning_rate_multiplier"] = 1
        method: Any = {"type": "supervised", "supervised": {"hyperparameters": chosen}}
        job = client.fine_tuning.jobs.create(model=f"hf:{family}", training_file=file.id, method=method, seed=1)
        job = wait_for(client, job.id)
        assert job.status == "succeeded", job.error
        events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
        losses = [event.data["train_loss"] for event in reversed(events) if event.type == "metrics"]  # type: ignore[index]
        assert losses[-1] < 0.7 * losses[0]
        messages = [event.message for event in events]
        how = "adapters (LoRA) of rank 4: as requested" if adapters else "all"
        assert any(message.startswith(f"Training {how}") for message in messages)
        assert "Training on cpu: weights in float32, arithmetic in float32" in messages
        model: Any = client.models.retrieve(job.fine_tuned_model)
        base: Any = client.models.retrieve(f"hf:{family}")
        assert (model.device, model.dtype, model.context_tokens) == ("cpu", "float32", CONTEXT_TOKENS)
        assert model.tokenizer == base.tokenizer
        assert (model.n_weights, model.parent) == (base.n_weights, base.id)
        assert model.lora == ({"base": base.id, "rank": 4, "alpha": 32.0} if adapters else None)
        reply: Any = client.chat.completions.create(model=job.fine_tuned_model, messages=QUESTION, max_tokens=3)  # type: ignore[arg-type]
        assert reply.model == job.fine_tuned_model


def copied(open_models: Path, tmp_path: Path, name: str = "gpt2") -> Path:
    shutil.copytree(open_models / name, tmp_path / "broken")
    return tmp_path / "broken"


def refusal(tmp_path: Path) -> str:
    with pytest.raises(registry.UnknownModel) as refused:
        models.load("hf:broken", tmp_path, models_dir=tmp_path)
    return str(refused.value)


def test_code_of_a_model_s_own_is_never_run(open_models: Path, tmp_path: Path) -> None:
    folder = copied(open_models, tmp_path)
    about = json.loads((folder / "config.json").read_text())
    about |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "code of a model's own is never run" in refusal(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_not_whole_are_refused(open_models: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = copied(open_models, tmp_path) / "model.safetensors"
    whole = weights.read_bytes()
    for cut in (0, 5, 2000, len(whole) - 10):
        weights.write_bytes(whole[:cut])
        assert "damaged or cut short" in refusal(tmp_path)
    weights.write_bytes(whole)
    kept = load_file(weights)
    left_out = kept.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(kept, weights, {"format": "pt"})
    assert "lack 1 of its weights, among them transformer.h.1.mlp.c_fc.weight" in refusal(tmp_path)
    save_file({**kept, "transformer.h.1.mlp.c_fc.weight": left_out[:, 1:].contiguous()}, weights, {"format": "pt"})
    assert "cannot be loaded" in refusal(tmp_path)
    weights.rename(weights.with_name("pytorch_model.bin"))
    assert "tuning-server fetch" in refusal(tmp_path)


def test_a_model_without_a_tokenizer_is_refused(open_models: Path, tmp_path: Path) -> None:
    folder = copied(open_models, tmp_path)
    (folder / "tokenizer.json").write_text("{")
    assert "its tokenizer cannot be read" in refusal(tmp_path)


def test_device_and_precision_follow_the_memory_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def placements(n_bytes: int) -> list[tuple[str, torch.dtype]]:
        monkeypatch.setattr(devices, "memory_bytes", lambda device: n_bytes)
        chosen = [devices.choose_placement(n * 10**9) for n in (1, 4, 7)]
        return [(device.type, dtype) for device, dtype in chosen]

    monkeypatch.setattr(devices, "native_bfloat16", lambda device: False)
    with pytest.warns(UserWarning, match="no instructions for bfloat16"):
        assert placements(24 * GIB) == [("cpu", torch.float32), ("cpu", torch.float32), ("cpu", torch.bfloat16)]
    monkeypatch.setattr(devices, "native_bfloat16", lambda device: True)
    assert placements(24 * GIB) == [("cpu", torch.bfloat16)] * 3
    assert devices.choose_placement(10**7) == (torch.device("cpu"), torch.float32)
    monkeypatch.setattr(devices, "best_device", lambda: torch.device("cuda"))
    assert placements(24 * GIB) == [("cuda", torch.bfloat16)] * 3
    monkeypatch.setattr(devices, "native_bfloat16", lambda device: False)
    assert placements(24 * GIB) == [("cuda", torch.float32), ("cuda", torch.float32), ("cuda", torch.bfloat16)]


def full(monkeypatch: pytest.MonkeyPatch, fails: Callable[[], bool]) -> list[str]:
    """Make loading fail as torch does where memory ends; returns the ids that were loaded."""
    weights_of, read = models.weights_of, list[str]()

    def failing(model_id: str, *args: Any) -> Any:
        read.append(model_id)
        if fails():
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")
        return weights_of(model_id, *args)

    monkeypatch.setattr(models, "weights_of", failing)
    return read


def test_a_model_that_does_not_fit_is_refused_in_words(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    file = client.files.create(file=("rows.jsonl", jsonl(facts(4))), purpose="fine-tune")
    full(monkeypatch, lambda: True)
    for ask in (
        lambda: client.completions.create(model="hf:llama", prompt="a", max_tokens=1),
        lambda: client.chat.completions.create(model="hf:llama", messages=QUESTION, max_tokens=1),  # type: ignore[call-overload]
    ):
        with pytest.raises(APIStatusError, match="'hf:llama' does not fit in memory: choose a smaller one") as refused:
            ask()
        assert (refused.value.status_code, refused.value.code) == (400, "out_of_memory")  # type: ignore[attr-defined]
    job = wait_for(client, client.fine_tuning.jobs.create(model="hf:llama", training_file=file.id).id)
    assert (job.status, job.error.code, job.error.param) == ("failed", "out_of_memory", "model")
    assert "does not fit in memory" in job.error.message


def test_the_cache_makes_room_before_it_gives_up(open_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models_in_memory = cache.ModelCache(open_models, models_dir=open_models)
    models_in_memory.get("hf:gpt2")
    full(monkeypatch, lambda: "hf:gpt2" in models_in_memory._loaded)
    assert models_in_memory.get("hf:neox").id == "hf:neox"
    assert list(models_in_memory._loaded) == ["hf:neox"]
    monkeypatch.undo()
    full(monkeypatch, lambda: bool(models_in_memory._loaded))
    assert models_in_memory.for_training("hf:gpt2", adapters=False).id == "hf:gpt2"
    models_in_memory.get("hf:gpt2")
    with pytest.raises(devices.DoesNotFit, match="'hf:llama' does not fit in memory"):
        models_in_memory.get("hf:llama", beside=["hf:gpt2"])
    assert list(models_in_memory._loaded) == ["hf:gpt2"], "a model of the same request stays"


def test_models_of_one_request_are_read_once_however_large(open_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = full(monkeypatch, lambda: False)
    models_in_memory = cache.ModelCache(open_models, models_dir=open_models, limit_bytes=1)
    ids = ["hf:gpt2", "hf:neox", "hf:llama"]
    first = [models_in_memory.get(name, beside=ids) for name in ids]
    again = [models_in_memory.get(name, beside=ids) for name in ids]
    assert all(one is other for one, other in zip(first, again, strict=True))
    assert read == ids
    models_in_memory.get("hf:qwen2")
    assert list(models_in_memory._loaded) == ["hf:qwen2"]


def test_the_cache_s_limit_follows_the_memory_of_the_machine(
    open_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.devices, "memory_bytes", lambda device: 100 * GIB)
    assert cache.ModelCache(open_models).limit_bytes == 50 * GIB
    assert cache.ModelCache(open_models, limit_bytes=3).limit_bytes == 3


def test_bfloat16_answers_as_float32_does_to_a_few_hundredths_of_a_nat(open_models: Path) -> None:
    exact, rounded = (
        models.load("hf:llama", open_models, models_dir=open_models, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    ids = exact.codec.encode_prompt(TEXT)
    pairs = zip(direct(exact, ids), direct(rounded, ids), strict=True)
    differences = [abs(one - other) for one, other in pairs]
    assert 0 < sum(differences) / len(differences) < 0.05
    assert max(differences) < 0.3
