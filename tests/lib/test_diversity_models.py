"""Open models: what the list declares, a wrong one that is caught, and revisions of the hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from openai import NotFoundError
from safetensors.numpy import save_file
from serving import TINY, facts, jsonl, official, wait_for
from starlette.testclient import TestClient

from lib.diversity.models import Known, check_model, known_models, same_tokenizer
from tuning_server.engine import registry

PYTHIA = {"70m": (6, 512), "160m": (12, 768), "410m": (24, 1024), "1b": (16, 2048), "1.4b": (24, 2048)}
PYTHIA |= {"2.8b": (32, 2560), "6.9b": (32, 4096)}
MODELS = known_models()


def stub(**about: dict[str, Any] | Exception) -> Any:
    """A client that knows these models and nothing else."""

    def retrieve(model_id: str) -> Any:
        told = about[model_id]
        if isinstance(told, Exception):
            raise told
        return SimpleNamespace(model_dump=lambda: {"id": model_id, **told})

    return SimpleNamespace(models=SimpleNamespace(retrieve=retrieve))


def not_found(code: str | None) -> NotFoundError:
    response = httpx.Response(404, request=httpx.Request("GET", "http://here/v1/models/a"))
    return NotFoundError("none", response=response, body={"code": code})


@pytest.mark.parametrize("family", PYTHIA)
def test_declared_sizes_follow_from_the_published_shapes(family: str) -> None:
    layers, width = PYTHIA[family]
    vocabulary = 50_432 if family == "6.9b" else 50_304
    n_weights = 2 * vocabulary * width + layers * (12 * width**2 + 13 * width) + 2 * width
    assert {known.n_parameters for known in MODELS.values() if known.family == family} == {n_weights}


def test_every_chain_begins_with_its_base_and_has_no_stage_twice() -> None:
    families: dict[str, list[Known]] = {}
    for known in MODELS.values():
        families.setdefault(known.family, []).append(known)
    assert set(families) == {*PYTHIA, "llama-2-7b", "llama-7b"}
    for chain in families.values():
        stages = [known.stage for known in chain]
        assert stages[0] == "base"
        assert chain[0].template == "plain"
        assert len(set(stages)) == len(stages) > 1
        assert all(known.id.startswith("hf:") and known.template != "plain" for known in chain[1:])


def test_the_wrong_models_of_the_published_presets_are_caught() -> None:
    declared = MODELS["pythia-6.9b-sft"]
    wrong = Known(**{**vars(declared), "id": "hf:lomahony/eleuther-pythia2.8b-hh-sft"})
    client = stub(**{wrong.id: {"n_weights": 2_775_208_960}, declared.id: {"n_weights": 6_857_302_016}})
    with pytest.raises(
        ValueError, match=r"2,775,208,960 weights, as 2.8b have; expected 6,857,302,016 for pythia-6"
    ) as told:
        check_model(client, wrong.id, wrong)
    assert "\n" not in str(told.value)
    assert check_model(client, declared.id) == ""


@pytest.mark.parametrize("family", PYTHIA)
def test_no_size_of_pythia_passes_for_another(family: str) -> None:
    client = stub(a={"n_weights": MODELS[f"pythia-{family}"].n_parameters})
    for other in set(PYTHIA) - {family}:
        with pytest.raises(ValueError, match="another model"):
            check_model(client, "a", MODELS[f"pythia-{other}"])


def test_a_value_head_or_a_padded_vocabulary_passes() -> None:
    known = MODELS["pythia-6.9b-ppo"]
    head = 2 * 4096 * 4096 + 2 * 8192 + 1
    assert check_model(stub(a={"n_weights": known.n_parameters + head}), "a", known) == ""


def test_what_cannot_be_checked_is_said() -> None:
    known = MODELS["pythia-410m"]
    assert "does not tell how many" in check_model(stub(a={}), "a", known)
    assert "does not tell how many" in check_model(stub(a=not_found(None)), "a", known)
    assert "models.yaml does not say" in check_model(stub(a={"n_weights": 1}), "a")
    with pytest.raises(NotFoundError):
        check_model(stub(a=not_found("model_not_found")), "a", known)
    with pytest.raises(ValueError, match="no safetensors"):
        check_model(stub(a={"n_weights": 0}), "a", known)


def test_stages_of_a_chain_share_one_tokenizer() -> None:
    one, other = {"tokenizer": "a1", "vocab_tokens": 50_277}, {"tokenizer": "b2", "vocab_tokens": 32_000}
    client = stub(base=one, sft=one, chat=other, hosted={}, bare={"vocab_tokens": 50_277}, few={"vocab_tokens": 9})
    assert same_tokenizer(client, ["base", "sft"]) == "a1"
    assert same_tokenizer(client, ["base", "hosted"]) is None
    assert same_tokenizer(client, ["base", "bare"]) is None
    for ids in (["base", "sft", "chat"], ["hosted", "base", "chat"], ["base", "few"]):
        with pytest.raises(ValueError, match=r"base and \w+ have different tokenizers \(50277 tokens and") as told:
            same_tokenizer(client, ids)
        assert "\n" not in str(told.value)


def test_a_list_of_models_that_does_not_hold_together_is_refused(tmp_path: Path) -> None:
    row = '- {name: a, id: "hf:a", revision: main, family: f, stage: s, n_parameters: 1, template: plain}\n'
    for text, said in (
        (row * 2, r"model 2: a \(hf:a\) stands there twice"),
        (row.replace("plain", "plan"), "no template is called 'plan'"),
        (row.replace("s, n_parameters: 1", "s, n_parameters: few"), "model 1: found"),
        (row.replace("main", "1"), "model 1: found"),
    ):
        path = tmp_path / f"{abs(hash(text))}.yaml"
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            known_models(path)


def test_masks_and_rotations_are_no_weights(tmp_path: Path) -> None:
    layer = "gpt_neox.layers.0.attention"
    masks = {f"{layer}.bias": np.zeros((1, 1, 8, 8), bool), f"{layer}.masked_bias": np.array(-1e9, np.float32)}
    save_file({**masks, f"{layer}.rotary_emb.inv_freq": np.zeros(4, np.float32)}, tmp_path / "model-1.safetensors")
    weights = {f"{layer}.dense.weight": np.zeros((3, 5), np.float16), "embed_out.weight": np.zeros((7, 2), np.float16)}
    for k in (2, 3):
        save_file(weights, tmp_path / f"model-{k}.safetensors")
    assert registry.count_weights("hf:mixed", tmp_path) == 15 + 14


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str | None]]:
    """The hub, which gives one folder for everything and remembers what it was asked for."""
    asked: list[tuple[str, str | None]] = []

    def snapshot_download(name: str, *, revision: str | None = None, allow_patterns: list[str]) -> str:
        assert "*.safetensors" in allow_patterns
        asked.append((name, revision))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize(
    ("name", "revision"),
    [("org/name", None), ("org/name@1", "1"), ("gpt2@refs/pr/1", "refs/pr/1"), ("a/b@v0.1-x", "v0.1-x")],
)
def test_the_hub_is_asked_for_the_revision(hub: list[Any], tmp_path: Path, name: str, revision: str | None) -> None:
    assert registry.resolve(f"hf:{name}", tmp_path, download=True) == tmp_path / "snapshot"
    assert hub == [(name.partition("@")[0], revision)]


@pytest.mark.parametrize(
    "name", ["org/name@", "@1", "org/name@a@b", "org/name@../../x", "org/name@/x", "a/b/c@1", "a b@1"]
)
def test_what_is_no_revision_never_reaches_the_hub(hub: list[Any], tmp_path: Path, name: str) -> None:
    with pytest.raises(registry.UnknownModel, match="does not exist"):
        registry.resolve(f"hf:{name}", tmp_path, models_dir=tmp_path, download=True)
    assert hub == []


def test_a_local_folder_has_the_revision_in_its_name(hub: list[Any], tmp_path: Path) -> None:
    for name in ("org/plain", "org/name@v1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    places = {"models_dir": tmp_path, "download": True}
    assert registry.resolve("hf:org/name@v1", tmp_path, **places) == tmp_path / "org/name@v1"
    with pytest.raises(registry.UnknownModel, match="org/plain below --models has no revision; request 'hf:org/plain'"):
        registry.resolve("hf:org/plain@v1", tmp_path, **places)
    assert hub == []
    assert registry.resolve("hf:org/name@v2", tmp_path, **places) == tmp_path / "snapshot"
    with pytest.raises(registry.UnknownModel, match="--download"):
        registry.resolve("hf:org/name@v2", tmp_path, models_dir=tmp_path)


def test_a_revision_is_kept_in_the_name_of_a_fine_tune() -> None:
    match = registry.FINE_TUNE.fullmatch("ft:hf:org/name@refs/pr/1:mine:abcd1234:ckpt-step-3")
    assert match is not None
    assert (match["base"], match["suffix"], match["step"]) == ("hf:org/name@refs/pr/1", "mine", "3")


def test_a_model_of_a_revision_is_served_and_tuned(
    tiny_store: Path, serve: Callable[..., TestClient], tmp_path: Path
) -> None:
    shutil.copytree(tiny_store / "bases" / f"{TINY}@0123456789ab", tmp_path / "models" / "me" / "mine@v1")
    http: Any = serve(tiny_store, models_dir=tmp_path / "models")
    client = official(http)
    model = "hf:me/mine@v1"
    file = client.files.create(file=("rows.jsonl", jsonl(facts(4))), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=model, training_file=file.id, seed=0, suffix="own", hyperparameters={"n_epochs": 1}
    )
    tuned = wait_for(client, job.id).fine_tuned_model
    assert tuned.startswith("ft:hf:me/mine@v1:own:")
    shape = client.models.retrieve(model).model_dump()
    known = Known("mine", "hf:me/mine", "v1", "mine", "base", shape["n_weights"], "plain")
    assert known.model_id == model
    assert [check_model(client, each, known) for each in (model, tuned)] == ["", ""]
    assert same_tokenizer(client, [model, tuned]) == shape["tokenizer"]
    with pytest.raises(ValueError, match="another model"):
        check_model(client, tuned, MODELS["pythia-70m"])
    with pytest.raises(NotFoundError, match="has no revision|does not exist"):
        client.models.retrieve("hf:me/mine@v2")
