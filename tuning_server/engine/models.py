"""Load models: weights and tokenizer, from the folder that an id stands for.

Nothing that came with a model is run, and no weight that its files lack is made up.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from tuning_server.disk import read_json
from tuning_server.engine import lora
from tuning_server.engine.devices import choose_placement, is_out_of_memory
from tuning_server.engine.registry import BASE, BrokenModel, UnknownModel, broken, count_weights, fingerprint, resolve
from tuning_server.engine.tokenization import TokenCodec, describe

transformers_logging.disable_progress_bar()  # its bars for each small file would drown ours


def config_of(model_id: str, folder: Path) -> Any:
    """The model's configuration, if its architecture is one that needs no code of its own."""
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = "its architecture is not one of the installed transformers, and code of a model's own is never run"
        raise BrokenModel(model_id, f"{reason} ({str(error).splitlines()[0]})") from error


def tokenizer_of(model_id: str, folder: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a tokenizer's files are read by many hands, and each fails in its own way
        raise BrokenModel(model_id, f"its tokenizer cannot be read ({error})") from error


def weights_of(model_id: str, folder: Path, dtype: torch.dtype | str, *, older: bool = False) -> PreTrainedModel:
    """All weights of a whole model, none of them made up; `older` ones are in ``.bin`` files."""
    config = config_of(model_id, folder)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=not older, weights_only=True, local_files_only=True,
            trust_remote_code=False, output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise BrokenModel(
            model_id, f"its weights cannot be read, or are not what its config describes ({error})"
        ) from error
    lacking = sorted([*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])])
    if lacking:
        raise BrokenModel(model_id, f"its files lack {len(lacking)} of its weights, among them {lacking[0]}")
    return model


@dataclass
class LoadedModel:
    """Weights and tokenizer in memory; with `lora`, the adapters that are being trained beside them."""

    id: str
    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    lora: lora.LoraSettings | None = None
    codec: TokenCodec = field(init=False)

    def __post_init__(self) -> None:
        self.codec = TokenCodec(self.tokenizer, self.id)

    @cached_property
    def device(self) -> torch.device:
        return self.model.device

    @cached_property
    def context_tokens(self) -> int:
        return int(getattr(self.model.config, "max_position_embeddings", 0) or 2048)

    @cached_property
    def vocab_size(self) -> int:
        """Number of token ids that both the tokenizer and the output layer have; either may have more."""
        return min(max(self.tokenizer.get_vocab().values()) + 1, self.n_outputs)

    @cached_property
    def n_outputs(self) -> int:
        """Width of the output layer."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @cached_property
    def n_weights(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer: the end of text, and what else ``generation_config.json`` names."""
        if not (self.folder / "generation_config.json").is_file():
            return frozenset([self.codec.eos_id])  # what a library would make up instead is another model's
        named = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        return frozenset([self.codec.eos_id, *([named] if isinstance(named, int) else named or [])])

    @property
    def weights_hash(self) -> str:
        """Hash of the weights as they were loaded, whatever the id."""
        return self.fingerprint.rpartition("-")[2]

    @property
    def lasting_id(self) -> str:
        """Id that still names these weights when the plain name of a base stands for another one."""
        base = BASE.fullmatch(self.id)
        if not base:
            return self.id
        return f"{self.folder.parent.name}:init" if base[3] else self.folder.name


def check_same_tokens(loaded: LoadedModel, *others: LoadedModel) -> None:
    """Refuse (ValueError) models whose predictions are of other tokens, so that they cannot be compared or added up."""
    for other in others:
        if other.codec.vocabulary_hash != loaded.codec.vocabulary_hash:
            raise ValueError(
                f"{loaded.id} and {other.id} have different tokenizers ({loaded.vocab_size} and {other.vocab_size} "
                "tokens), so that their predictions are of different tokens: take models of one family"
            )


def load(model_id: str, store: Path, *, dtype: torch.dtype | None = None, **source: Any) -> LoadedModel:
    """Load a model for sampling and scoring; adapters are merged into their base.

    Device and precision are those of `choose_placement`, unless `dtype` is given; `source` as for `resolve`.

    Raises
    ------
    UnknownModel
        If the id names nothing that can be loaded (`BrokenModel`: its files are damaged).
    """
    folder = resolve(model_id, store, **source)
    device, usual_dtype = choose_placement(count_weights(model_id, folder))
    adapter = lora.read_adapter(folder)
    if adapter is None:
        model = weights_of(model_id, folder, dtype or usual_dtype).to(device)
    else:
        try:
            base = load(adapter.base, store, dtype=dtype, **source)
        except UnknownModel as error:
            raise BrokenModel(model_id, f"it is adapters of another model, and {error}") from error
        if base.weights_hash != adapter.base_weights:
            raise BrokenModel(model_id, f"it is adapters of {adapter.base}, whose weights are no longer what they were")
        try:
            model = lora.merge(base.model, folder, adapter)
        except (ValueError, OSError, SafetensorError) as error:
            raise BrokenModel(model_id, str(error)) from error
    return _loaded(model_id, folder, model)


def _loaded(model_id: str, folder: Path, model: PreTrainedModel) -> LoadedModel:
    return LoadedModel(model_id, folder, model.eval(), tokenizer_of(model_id, folder), fingerprint(model_id, folder))


def outline(model_id: str, store: Path, **source: Any) -> LoadedModel:
    """All of a model but its weights, which are on torch's meta device: enough to tokenise rows and to know sizes."""
    folder = resolve(model_id, store, **source)
    count_weights(model_id, folder)  # raises if they are damaged or missing
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(model_id, folder), trust_remote_code=False)
    return _loaded(model_id, folder, model)


def about(model_id: str, folder: Path) -> dict[str, Any]:
    """What a model's files say of it, for people and clients; kept in ``tuned.json``, so that lists need not read them.

    Raises
    ------
    UnknownModel
        If a file is damaged; says which.
    """
    try:
        config, n_weights = read_json(folder / "config.json"), count_weights(model_id, folder)
        (tokenizer, vocab_tokens), adapter = describe(folder), lora.read_adapter(folder)
    except (OSError, ValueError) as error:
        raise broken(model_id, folder, error) from error
    return {
        "fingerprint": fingerprint(model_id, folder), "n_weights": n_weights,
        "context_tokens": config.get("max_position_embeddings") or config.get("n_positions"),  # GPT-2's name for it
        "lora": {"base": adapter.base, "rank": adapter.rank, "alpha": adapter.alpha} if adapter else None,
        "tokenizer": tokenizer, "vocab_tokens": vocab_tokens or config.get("vocab_size"),
    }  # fmt: skip


def sizes(folder: Path) -> dict[str, int]:
    """Size of each file of weights, by name."""
    with os.scandir(folder) as files:
        return {file.name: file.stat().st_size for file in files if file.name.endswith(".safetensors")}


def save(loaded: LoadedModel, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write weights (those of the model, unless others are given) and tokenizer into a folder."""
    if loaded.lora is None:
        loaded.model.save_pretrained(folder, state_dict=weights)
    else:
        rank, alpha = loaded.lora.rank, loaded.lora.alpha
        about = lora.Adapter(loaded.lasting_id, loaded.weights_hash, loaded.n_weights, rank, alpha)
        lora.save(loaded.model, folder, about, merged=loaded.lora.merged)
    loaded.tokenizer.save_pretrained(folder)
