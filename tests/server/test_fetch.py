"""Older weights become safetensors that equal them, and nothing in such a file is run; a model of the hub is pinned."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from safetensors.torch import load_file

from tuning_server.__main__ import main
from tuning_server.disk import read_json
from tuning_server.engine import models
from tuning_server.engine.models import tokenizer_of


class Trap:
    """A pickle that opens a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def older(folder: Path, family: str, *, n_parts: int = 1, zipped: bool = True) -> dict[str, torch.Tensor]:
    """Write a model as it would have been years ago; returns its tensors. GPT-2's tied output lies there twice."""
    FAMILIES[family](folder)
    tensors = load_file(folder / "model.safetensors")
    if family == "gpt2":
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = [f"pytorch_model-{k + 1:05}-of-{n_parts:05}.bin" for k in range(n_parts)]
    files = ["pytorch_model.bin"] if n_parts == 1 else files
    for k, file in enumerate(files):
        part = {name: tensors[name] for name in names[k::n_parts]}
        torch.save(part, folder / file, _use_new_zipfile_serialization=zipped)
    if n_parts > 1:
        files_by_name = {name: files[k % n_parts] for k, name in enumerate(names)}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files_by_name}))
    return tensors


@pytest.mark.parametrize(
    ("family", "options"), [("gpt2", {}), ("llama", {"n_parts": 3}), ("qwen2", {"zipped": False}), ("neox", {})]
)
def test_a_converted_model_has_the_same_weights(
    tmp_path: Path, family: str, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old").mkdir()
    older(tmp_path / "old", family, **options)
    (tmp_path / "same").mkdir()
    FAMILIES[family](tmp_path / "same")
    assert main(["fetch", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert "weights as safetensors" in capsys.readouterr().out
    loaded, same = (models.load(f"hf:{name}", tmp_path, models_dir=tmp_path) for name in ("new", "same"))
    converted = dict(loaded.model.named_parameters())
    for name, weight in same.model.named_parameters():
        assert torch.equal(weight, converted[name]), name
    assert loaded.codec.encode_prompt("The red fox") == tokenizer_of("", tmp_path / "old").encode("The red fox")
    assert not list((tmp_path / "new").glob("*.bin"))
    assert main(["fetch", str(tmp_path / "old"), str(tmp_path / "new")]) == 1, "what is there is never overwritten"


def test_a_file_that_does_more_than_hold_tensors_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old").mkdir()
    tensors = older(tmp_path / "old", "gpt2")
    for zipped in (True, False):
        torch.save(
            {**tensors, "extra": Trap(tmp_path / "ran")},
            tmp_path / "old" / "pytorch_model.bin",
            _use_new_zipfile_serialization=zipped,
        )
        assert main(["fetch", str(tmp_path / "old"), str(tmp_path / "new")]) == 1
        assert "holds more than tensors in its .bin files, and none of it was run" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["old"]


def test_what_cannot_be_converted_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(out: str = "new") -> str:
        assert main(["fetch", str(tmp_path / "old"), str(tmp_path / out)]) == 1
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert not (tmp_path / "new").exists()
        return message

    assert "has no config.json" in refusal()
    (tmp_path / "old").mkdir()
    tensors = older(tmp_path / "old", "gpt2")
    weights = tmp_path / "old" / "pytorch_model.bin"
    whole = weights.read_bytes()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    assert "holds something else already" in refusal("other")
    weights.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refusal()
    del tensors["transformer.h.0.ln_1.weight"]
    torch.save(tensors, weights)
    assert "lack 1 of its weights, among them transformer.h.0.ln_1.weight" in refusal()
    weights.unlink()
    assert "has no weights" in refusal()
    shutil.copyfile(__file__, weights.with_name("model.safetensors"))
    assert "has safetensors already" in refusal()


def test_a_model_of_the_hub_is_downloaded_and_pinned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(repo: str, *, revision: str | None, **options: Any) -> str:
        folder = tmp_path / "cache" / (revision or "c" * 40)
        folder.mkdir(parents=True)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    store = ["--store", str(tmp_path / "store")]
    assert main(["fetch", "hf:own/model", *store]) == 0
    assert capsys.readouterr().out == f"hf:own/model is there, at commit {'c' * 40}\n"
    assert read_json(tmp_path / "store" / "hub" / "own--model.json") == {"id": "hf:own/model", "commit": "c" * 40}
    assert main(["fetch", "hf:own/model", str(tmp_path / "out"), *store]) == 1
    assert "expected no folder" in capsys.readouterr().err
    assert main(["fetch", str(tmp_path), *store]) == 1
    assert "is converted into another folder" in capsys.readouterr().err
