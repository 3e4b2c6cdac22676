"""Adapters: they load as models, leave their base alone, resume exactly; batches are cut where memory is short."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES
from openai import APIStatusError, OpenAI
from serving import TINY, facts, jsonl, official, preferences, rows_of, wait_for, wait_for_checkpoint
from starlette.testclient import TestClient

from lib.paths import file_hash, read_json, write_json
from tuning_server.engine import lora, losses, models, registry, training

ADAPTERS = lora.LoraSettings(rank=4, dropout=0.1)


def settings(**changes: Any) -> training.TrainingSettings:
    shared: Any = {"n_epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "seed": 3, "state_every": 4, "lora": ADAPTERS}
    return training.TrainingSettings(**shared | changes)


def fresh(store: Path) -> models.LoadedModel:
    return models.load(TINY, store)


def logits(loaded: models.LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model.eval()(torch.tensor([loaded.codec.encode_prompt("The fox saw the old baker")])).logits


def put(store: Path, folder: Path, short: str) -> str:
    """Put a run's folder into a store as a fine-tune."""
    shutil.copytree(folder, store / "tuned" / short)
    name = f"ft:{TINY}::{short}"
    write_json(store / "tuned" / short / "final" / "tuned.json", {"id": name, "parent": TINY})
    return name


@pytest.mark.parametrize("merged", [False, True], ids=["adapters", "merged"])
def test_a_checkpoint_answers_as_the_model_that_was_trained(tiny_store: Path, tmp_path: Path, merged: bool) -> None:
    loaded = fresh(tiny_store)
    before = logits(loaded)
    choice = lora.LoraSettings(rank=4, merged=merged)
    list(training.train(loaded, rows_of(loaded), settings(lora=choice), folder=tmp_path / "run"))
    trained = logits(loaded)
    assert (trained - before).abs().max() > 0.1
    again = models.load(put(tiny_store, tmp_path / "run", "aaaaaaaa"), tiny_store)
    assert torch.allclose(logits(again), trained, atol=1e-4)
    assert torch.equal(logits(fresh(tiny_store)), before), "the base is what it was"
    assert type(again.model) is type(fresh(tiny_store).model)
    assert again.n_weights == loaded.n_weights == registry.count_weights(again.id, again.folder)
    sizes = [sum(file.stat().st_size for file in folder.glob("*.safetensors"))
             for folder in (again.folder, fresh(tiny_store).folder)]  # fmt: skip
    assert (sizes[0] < 0.5 * sizes[1]) is not merged


@pytest.mark.parametrize("family", FAMILIES)
def test_merging_is_exact_in_every_family(tmp_path: Path, family: str) -> None:
    (tmp_path / family).mkdir()
    FAMILIES[family](tmp_path / family)
    found = []
    for merged in (False, True):
        loaded = models.load(f"hf:{family}", tmp_path, models_dir=tmp_path)
        choice = lora.LoraSettings(rank=2, merged=merged)
        loaded.model, loaded.n_weights, loaded.lora = lora.wrap(loaded.model, choice, seed=1), loaded.n_weights, choice
        with torch.no_grad():
            for name, weight in loaded.model.named_parameters():
                if "lora_B" in name:
                    weight += 0.05
        (tmp_path / f"{family}-{merged}").mkdir()
        models.save(loaded, tmp_path / f"{family}-{merged}")
        again = models.load(f"hf:{family}-{merged}", tmp_path, models_dir=tmp_path)
        found += [logits(loaded), logits(again)]
    assert all(torch.allclose(each, found[0], atol=1e-4) for each in found)


@pytest.mark.parametrize("stop_after", [2, 7])
def test_a_stopped_run_ends_with_the_adapters_of_an_undisturbed_one(
    tiny_store: Path, tmp_path: Path, stop_after: int
) -> None:
    rows = rows_of(fresh(tiny_store))
    whole = list(training.train(fresh(tiny_store), rows, settings(), folder=tmp_path / "whole"))
    broken = training.train(fresh(tiny_store), rows, settings(), folder=tmp_path / "broken")
    for _ in range(stop_after):
        next(broken)
    broken.close()
    rest = list(training.train(fresh(tiny_store), rows, settings(), folder=tmp_path / "broken"))
    assert rest[-1] == whole[-1]
    for name in ("step-5", "step-10", "final"):
        for file in (lora.WEIGHTS, "adapter_config.json", registry.ADAPTER):
            one, other = (tmp_path / run / name / file for run in ("whole", "broken"))
            assert file_hash(one) == file_hash(other)


def test_what_decides_the_weights_names_a_run(tiny_store: Path) -> None:
    loaded = fresh(tiny_store)
    rows = rows_of(loaded, 3)
    plain: dict[str, Any] = {"lora": None, "prompt_loss_weight": 0.0, "weight_decay": 0.01, "warmup_steps": 50}
    changes = [
        {"n_epochs": 4}, {"batch_size": 9}, {"learning_rate": 2e-2}, {"seed": 4}, {"prompt_loss_weight": 0.5},
        {"weight_decay": 0.1}, {"warmup_steps": 5}, {"clip": 2.0}, {"beta": 0.1}, {"lora": ADAPTERS},
        {"lora": lora.LoraSettings(rank=5)}, {"beta": 0.2},
    ]  # fmt: skip
    names = [training.signature(loaded, rows, (), settings(**plain | change)) for change in [{}, *changes]]
    names += [training.signature(loaded, rows[:n], rows[n:], settings(**plain)) for n in (1, 2)]
    assert len(set(names)) == len(names)
    same = [{"state_every": 9}, {"keep_epochs": False}]
    assert {training.signature(loaded, rows, (), settings(**plain | change)) for change in same} == {names[0]}


def test_dpo_begins_at_the_base_and_trains_adapters(tiny_store: Path, tmp_path: Path) -> None:
    loaded = fresh(tiny_store)
    rows = [losses.PreferenceRow(losses.TrainingRow([5, 6, 7, 8], 2), losses.TrainingRow([5, 6, 9, 10], 2))] * 4
    chosen = settings(n_epochs=6, batch_size=4, beta=0.1)
    reports = [each for each in training.train(loaded, rows, chosen, folder=tmp_path) if each]
    assert reports[0].loss == pytest.approx(np.log(2), abs=1e-6)
    assert reports[-1].loss < 0.9 * reports[0].loss
    assert (tmp_path / "final" / lora.WEIGHTS).is_file()


def test_adapters_whose_base_is_gone_or_changed_are_refused(tiny_store: Path, tmp_path: Path) -> None:
    loaded = fresh(tiny_store)
    list(training.train(loaded, rows_of(loaded, 8), settings(n_epochs=1), folder=tmp_path / "run"))
    name = put(tiny_store, tmp_path / "run", "aaaaaaaa")
    base = tiny_store / "bases" / f"{TINY}@0123456789ab"
    assert read_json(tiny_store / "tuned" / "aaaaaaaa" / "final" / registry.ADAPTER)["base"] == base.name
    shutil.copyfile(base / "model.safetensors", tmp_path / "kept")
    loaded.model = None  # type: ignore[assignment]
    from safetensors.torch import load_file, save_file

    weights = load_file(base / "model.safetensors")
    save_file({key: value + 1 for key, value in weights.items()}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(registry.UnknownModel, match="whose weights are no longer what they were"):
        models.load(name, tiny_store)
    (tmp_path / "kept").rename(base / "model.safetensors")
    os.utime(base / "model.safetensors")  # a file system's clock may be too coarse to tell the two files apart
    assert models.load(name, tiny_store).id == name
    adapters = tiny_store / "tuned" / "aaaaaaaa" / "final" / lora.WEIGHTS
    adapters.write_bytes(adapters.read_bytes()[:500])
    with pytest.raises(registry.UnknownModel, match="cannot be loaded"):
        models.load(name, tiny_store)
    base.rename(tmp_path / "gone")
    with pytest.raises(registry.UnknownModel, match="it is adapters of another model, and the model"):
        models.load(name, tiny_store)


def test_adapters_on_adapters_through_the_api(client: OpenAI, fine_tune: Callable[..., Any]) -> None:
    options: Any = {"hyperparameters": {"n_epochs": 2, "lora": {"rank": 2}}, "seed": 4}
    first = fine_tune(facts(8), **options)
    assert first.status == "succeeded", first.error
    assert first.hyperparameters.lora == {"rank": 2, "alpha": 32.0, "dropout": 0.0, "merged": False}
    second = fine_tune(facts(8), model=first.fine_tuned_model, **options)
    dpo: Any = {"type": "dpo", "dpo": {"hyperparameters": {"lora": True, "n_epochs": 1}}}
    third = fine_tune(preferences(8), model=second.fine_tuned_model, method=dpo)
    assert third.method.dpo.hyperparameters.lora["rank"] == 16
    card: Any = client.models.retrieve(third.fine_tuned_model)
    assert (card.parent, card.lora["base"]) == (second.fine_tuned_model, second.fine_tuned_model)
    checkpoints = client.fine_tuning.jobs.checkpoints.list(first.id).data
    for name in (third.fine_tuned_model, checkpoints[1].fine_tuned_model_checkpoint):
        assert client.completions.create(model=name, prompt="Q1 is", max_tokens=2, logprobs=2).model == name
    with pytest.raises(APIStatusError, match=r"is adapters \(LoRA\) of ft:.*delete that one first") as refused:
        client.models.delete(second.fine_tuned_model)
    assert refused.value.code == "model_in_use"  # type: ignore[attr-defined]
    for job in (third, second, first):
        for kept in client.fine_tuning.jobs.checkpoints.list(job.id).data:
            assert client.models.delete(kept.fine_tuned_model_checkpoint).deleted


def test_a_server_that_comes_back_goes_on_with_adapters(
    tiny_store: Path, serve: Callable[..., TestClient], fine_tune: Callable[..., Any], client: OpenAI
) -> None:
    options: Any = {"hyperparameters": {"n_epochs": 12, "batch_size": 2, "lora": {"dropout": 0.1}}, "seed": 5}
    undisturbed = fine_tune(facts(20), **options)
    stopped = fine_tune(facts(20), wait=False, **options)
    wait_for_checkpoint(client, stopped.id)
    client._client.__exit__(None, None, None)  # type: ignore[attr-defined]
    again = official(serve(tiny_store))
    job = wait_for(again, stopped.id)
    assert job.status == "succeeded", job.error
    prints = [again.models.retrieve(done.fine_tuned_model).fingerprint for done in (undisturbed, job)]  # type: ignore[attr-defined]
    assert prints[0] == prints[1]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"rank": 0}, "lora.rank"),
        ({"rank": "8"}, "lora.rank"),
        ({"dropout": 1}, "lora.dropout"),
        ({"r": 8}, "lora.r"),
        ("yes", "lora"),
        (8, "lora"),
    ],
)
def test_wrong_settings_are_refused_at_once(http: TestClient, client: OpenAI, wrong: Any, param: str) -> None:
    file = client.files.create(file=("rows.jsonl", jsonl(facts(2))), purpose="fine-tune")
    for kind in ("supervised", "dpo"):
        method = {"type": kind, kind: {"hyperparameters": {"lora": wrong}}}
        reply = http.post("/v1/fine_tuning/jobs", json={"model": TINY, "training_file": file.id, "method": method})
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == f"method.{kind}.hyperparameters.{param}"


def test_the_default_depends_on_the_size_of_the_model() -> None:
    assert lora.choose("auto", lora.FULL_AT_MOST)[0] is None
    assert lora.choose("auto", lora.FULL_AT_MOST + 1)[0] == lora.LoraSettings()
    assert lora.choose(False, 10**12)[0] is None
    assert lora.choose({"rank": 3, "alpha": 6.0}, 5)[0] == lora.LoraSettings(rank=3, alpha=6.0)
    assert lora.choose(True, 5) == (lora.LoraSettings(), "Training adapters (LoRA) of rank 16: as requested")


def short_of_memory(loaded: models.LoadedModel, most_rows: int, words: str) -> list[int]:
    """Make a model fail as torch does where memory ends; returns how many rows each pass was given."""
    forward, passes = loaded.model.forward, list[int]()

    def failing(*args: Any, **options: Any) -> Any:
        passes.append(len(options["input_ids"]))
        if passes[-1] > most_rows:
            raise RuntimeError(words)
        return forward(*args, **options)

    loaded.model.forward = failing  # type: ignore[method-assign]
    return passes


@pytest.mark.parametrize("words", ["DefaultCPUAllocator: can't allocate memory", "CUDA out of memory. Tried to"])
def test_a_step_that_ran_out_of_memory_is_done_again_in_parts(tiny_store: Path, tmp_path: Path, words: str) -> None:
    found = []
    for most_rows in (100, 3):
        loaded = fresh(tiny_store)
        passes = short_of_memory(loaded, most_rows, words)
        chosen = settings(lora=None, learning_rate=1e-3, batch_size=16, n_epochs=1)
        found.append(list(training.train(loaded, rows_of(loaded, 32), chosen, folder=tmp_path / str(most_rows))))
    plenty, short = found
    assert passes == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2] + [2] * 8, "what fitted once is kept to"
    assert np.allclose([each.loss for each in plenty], [each.loss for each in short], rtol=1e-5)
    notes = ["Memory is short: batches of 16 rows are added up over parts of 2", None]
    assert [each.note for each in short] == notes
    assert [each.note for each in plenty] == [None, None]


def test_a_row_that_does_not_fit_is_told(fine_tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Any, model: Any, *inputs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("tuning_server.engine.losses.Supervised.sums", failing)
    job = fine_tune(facts(8), hyperparameters={"n_epochs": 1, "batch_size": 4})
    assert (job.status, job.error.code) == ("failed", "out_of_memory")
    assert job.error.message.startswith("Not even one row of ")
    monkeypatch.undo()
    assert fine_tune(facts(8), hyperparameters={"n_epochs": 1}).status == "succeeded"


def test_shortness_is_told_in_the_job_s_events(
    client: OpenAI, fine_tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuning_server.engine.losses import Supervised

    sums = Supervised.sums

    def failing(self: Any, model: Any, ids: torch.Tensor, weights: torch.Tensor) -> Any:
        if len(ids) > 2:
            raise MemoryError
        return sums(self, model, ids, weights)

    monkeypatch.setattr(Supervised, "sums", failing)
    job = fine_tune(facts(8), hyperparameters={"n_epochs": 1, "batch_size": 8})
    assert job.status == "succeeded", job.error
    events = {event.message: event.level for event in client.fine_tuning.jobs.list_events(job.id)}
    assert events["Memory is short: batches of 8 rows are added up over parts of 2"] == "warn"
