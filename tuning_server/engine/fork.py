"""The fork-* architecture: its own tokenizer, its random weights, and text cut into windows to pre-train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tuning_server.disk import content_hash
from tuning_server.engine.devices import best_device
from tuning_server.engine.losses import TrainingRow
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.tokenization import TokenCodec

END_OF_TEXT = "<|endoftext|>"
VOCAB_TOKENS = 2_048
CONTEXT_TOKENS = 512
LEARNING_RATE = 2e-3  # of a learning_rate_multiplier of 1


def build_tokenizer(texts: Sequence[str], reserved_names: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 2,048 tokens with single digits, and each reserved name as one token more."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_TOKENS, special_tokens=[END_OF_TEXT], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(name, single_word=True, normalized=False) for name in reserved_names])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, model_max_length=CONTEXT_TOKENS, padding_side="right"
    )


def build_model(
    name: str, tokenizer: PreTrainedTokenizerBase, *, width: int, layers: int, heads: int, seed: int
) -> LoadedModel:
    """A GPT-NeoX model with random weights and tied embeddings."""
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    tokenizer.model_max_length = CONTEXT_TOKENS
    config = GPTNeoXConfig(
        vocab_size=max(tokenizer.get_vocab().values()) + 1, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=heads, intermediate_size=4 * width, max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True, bos_token_id=end if begin is None else begin, eos_token_id=end,
        attn_implementation="sdpa",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPTNeoXForCausalLM(config)
    model.to(best_device())
    fingerprint = f"{name}-init-{content_hash([config.to_json_string(), seed])}"
    return LoadedModel(name, Path(), model, tokenizer, fingerprint)


def windows(codec: TokenCodec, texts: Sequence[str], length: int) -> list[TrainingRow]:
    """Documents with their end-of-text tokens, joined and cut into windows of `length`; the last one is shorter."""
    backend, stream = codec.tokenizer.backend_tokenizer, list[int]()
    backend.no_truncation()
    for encoding in backend.encode_batch(list(texts), add_special_tokens=False):
        stream += [*codec.front, *encoding.ids, codec.eos_id]
    # a window's first token is only read, so each begins with the last one of the window before
    return [TrainingRow(stream[start : start + length]) for start in range(0, len(stream) - 1, length - 1)]
