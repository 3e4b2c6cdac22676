"""From a model id to weights and tokenizer in memory: device, dtype, memory limit."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lib.engine.catalogue import UnknownModel, fingerprint, resolve
from lib.engine.tokens import TokenBytes

transformers_logging.disable_progress_bar()  # its bars for each small file would drown ours


@dataclass
class LoadedModel:
    """Weights and tokenizer in memory."""

    id: str
    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    token_bytes: TokenBytes = field(init=False)

    def __post_init__(self) -> None:
        self.token_bytes = TokenBytes(self.tokenizer)

    @cached_property
    def context_tokens(self) -> int:
        return int(getattr(self.model.config, "max_position_embeddings", 0) or 2048)

    @cached_property
    def vocab_size(self) -> int:
        """Tokens that the tokenizer knows; the output layer may be padded to more."""
        return len(self.tokenizer)

    @cached_property
    def n_weights(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def n_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    @cached_property
    def eos_id(self) -> int:
        eos = self.tokenizer.eos_token_id
        if not isinstance(eos, int):
            raise ValueError(f"{self.id}: its tokenizer has no end-of-text token, which training and sampling need")
        return eos

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt as the model expects it; an empty one is the end-of-text token, which begins a document."""
        ids = list(self.tokenizer.encode(text))
        return ids or [self.eos_id]

    def encode(self, text: str) -> list[int]:
        """Ids of a text that goes on from another one: no special tokens are put in front."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        return self.token_bytes.text(ids)


def best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def native_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 matrices itself; where it does not, float32 is faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capability = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else ""
    flags = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    return "AVX512" in capability and ("avx512_bf16" in flags or "amx_bf16" in flags)


def load(
    model_id: str,
    store: Path,
    *,
    models_dir: Path | None = None,
    download: bool = False,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> LoadedModel:
    """Load a model for sampling and scoring, or (``dtype=torch.float32``) for training.

    Weights are float32 on a processor and bfloat16 on a GPU that has it, unless `dtype` says otherwise. Only
    safetensors are read and no code that comes with a model is run.

    Raises
    ------
    UnknownModel
        If the id names nothing that can be loaded here.
    """
    folder = resolve(model_id, store, models_dir=models_dir, download=download)
    device = device or best_device()
    if dtype is None:
        dtype = torch.bfloat16 if device.type == "cuda" and native_bfloat16(device) else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UnknownModel(f"{model_id!r} cannot be loaded from its folder: {str(error).splitlines()[0]}") from error
    model.to(device).eval()
    return LoadedModel(model_id, folder, model, tokenizer, device, dtype, fingerprint(model_id, folder))


def load_for_training(
    model_id: str, store: Path, *, models_dir: Path | None = None, download: bool = False
) -> LoadedModel:
    """Load a copy of a model to train: float32 weights that no cache shares."""
    return load(model_id, store, models_dir=models_dir, download=download, dtype=torch.float32)


def save(loaded: LoadedModel, folder: Path) -> None:
    """Write weights and tokenizer into a folder.

    Raises
    ------
    OSError
        If they cannot be written, as on a full disk.
    """
    try:
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    except SafetensorError as error:
        raise OSError(f"{folder} cannot be written: {error}") from error


class ModelCache:
    """Models in memory, least recently used dropped first when they pass `limit_bytes`."""

    def __init__(
        self, store: Path, *, models_dir: Path | None = None, download: bool = False, limit_bytes: int = 4 * 2**30
    ) -> None:
        self.store, self.models_dir, self.download, self.limit_bytes = store, models_dir, download, limit_bytes
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()

    def get(self, model_id: str) -> LoadedModel:
        """The model of an id, loaded at most once while it stays in memory and its weights stay the same."""
        folder = resolve(model_id, self.store, models_dir=self.models_dir, download=self.download)
        print_ = fingerprint(model_id, folder)
        held = self._loaded.get(model_id)
        if held is None or held.fingerprint != print_:
            held = load(model_id, self.store, models_dir=self.models_dir, download=self.download)
            self._loaded[model_id] = held
        self._loaded.move_to_end(model_id)
        while len(self._loaded) > 1 and sum(kept.n_bytes for kept in self._loaded.values()) > self.limit_bytes:
            self._loaded.popitem(last=False)
        return held
