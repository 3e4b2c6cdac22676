"""Tiny random checkpoints of the open families, laid out as their publishers lay them out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving import TEXTS

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + "
    "m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
CONTEXT_TOKENS = 64
END = "<|endoftext|>"
SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": CONTEXT_TOKENS,
}  # fmt: skip


def tokenizer_of(specials: list[str], *, bos: str | None = None, composed: bool = False, qwen: bool = False) -> Any:
    """Byte-level BPE; `bos` is put in front of every text, `composed` joins accents; Qwen has its own idea of words."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if qwen:
        words = pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated")
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence([words, plain])
    if composed or qwen:
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS * 20, trainer)
    if bos:
        made.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 0)])
    return made


def write(folder: Path, config: Any, tokenizer: Any, kind: str, ends: list[int], **about: Any) -> None:
    """Weights, tokenizer and generation settings of one model."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 3  # random weights of the usual size say much the same everywhere
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **about}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))


def gpt2(folder: Path) -> None:
    """Learned positions, transposed linear layers, tied output; its context goes by another name."""
    from transformers import GPT2Config

    made = tokenizer_of([END])
    config = GPT2Config(
        vocab_size=made.get_vocab_size(), n_positions=CONTEXT_TOKENS, n_embd=32, n_layer=2, n_head=4,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    write(folder, config, made, "GPT2Tokenizer", [0], bos_token=END, eos_token=END, unk_token=END)


def neox(folder: Path) -> None:
    """Rotary positions in a quarter of each head, parallel residual, more outputs than tokens."""
    from transformers import GPTNeoXConfig

    made = tokenizer_of([END, "<|padding|>"], composed=True)
    config = GPTNeoXConfig(vocab_size=512, rotary_pct=0.25, bos_token_id=0, eos_token_id=0, **SMALL)
    write(folder, config, made, "GPTNeoXTokenizer", [0], bos_token=END, eos_token=END, unk_token=END)


def llama(folder: Path) -> None:
    """A token that begins every text, grouped attention, two tokens that end one, a chat template."""
    from transformers import LlamaConfig

    bos, eot = "<|begin_of_text|>", "<|eot_id|>"
    made = tokenizer_of([bos, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", eot], bos=bos)
    config = LlamaConfig(vocab_size=made.get_vocab_size(), num_key_value_heads=2, eos_token_id=[1, 4], **SMALL)
    write(folder, config, made, "PreTrainedTokenizerFast", [1, 4], bos_token=bos, eos_token=eot, chat_template=LLAMA3)


def qwen2(folder: Path) -> None:
    """No token that begins a text, biases in attention, tied output, padded outputs, ChatML."""
    from transformers import Qwen2Config

    config = Qwen2Config(vocab_size=512, num_key_value_heads=2, tie_word_embeddings=True, eos_token_id=2, **SMALL)
    write_qwen(folder, config)


def qwen3(folder: Path) -> None:
    """Heads wider than their share, normalised queries and keys."""
    from transformers import Qwen3Config

    config = Qwen3Config(vocab_size=512, num_key_value_heads=2, head_dim=16, eos_token_id=2, **SMALL)
    write_qwen(folder, config)


def write_qwen(folder: Path, config: Any) -> None:
    made = tokenizer_of([END, "<|im_start|>", "<|im_end|>"], qwen=True)
    write(folder, config, made, "Qwen2Tokenizer", [2, 0], eos_token="<|im_end|>", pad_token=END, chat_template=CHATML)


FAMILIES: dict[str, Callable[[Path], None]] = {
    "gpt2": gpt2, "neox": neox, "llama": llama, "qwen2": qwen2, "qwen3": qwen3
}  # fmt: skip


def write_families(models_dir: Path) -> Path:
    """A folder with one model of each family, by name."""
    for name, family in FAMILIES.items():
        (models_dir / name).mkdir(parents=True)
        family(models_dir / name)
    return models_dir
