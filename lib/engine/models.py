"""From a model id to weights and tokenizer in memory: device, dtype, memory limit.

Ids: ``fork-1m`` (``:init`` its random weights, ``@<hash>`` one made from another corpus), ``hf:<folder or hub id>``,
``ft:<root base>:<suffix>:<short id>`` and its checkpoints ``...:ckpt-step-<n>``.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lib.engine.tokens import TokenBytes
from lib.paths import content_hash, file_hash, read_json

FORK = re.compile(r"(fork-[0-9a-z]+)(?:@([0-9a-f]{4,64}))?(:init)?")
FINE_TUNE = re.compile(
    r"ft:(?P<base>.+):(?P<suffix>[A-Za-z0-9._-]*):(?P<short>[a-z0-9]{8})(?::ckpt-step-(?P<step>\d+))?"
)
REFERENCE_LEARNING_RATE = 2e-5  # of a learning_rate_multiplier of 1, where a base does not declare its own

transformers_logging.disable_progress_bar()  # its bars for each small file would drown ours


class UnknownModel(ValueError):
    """No model of that id can be loaded from this store."""


@dataclass(frozen=True)
class ModelInfo:
    """What the store knows of a model without loading it. `created` in seconds since 1970."""

    id: str
    folder: Path
    created: int
    owned_by: str
    parent: str | None
    fingerprint: str


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


def _base_folder(name: str, hash_: str | None, store: Path) -> Path | None:
    pointer = store / "bases" / f"{name}.json"
    if hash_ is None and pointer.is_file():
        hash_ = str(read_json(pointer)["current"])
    if hash_ is None:
        return None
    found = sorted((store / "bases").glob(f"{name}@{hash_}*"))
    return found[0] if len(found) == 1 else None


def resolve(model_id: str, store: Path, *, models_dir: Path | None = None, download: bool = False) -> Path:
    """Folder that holds a model's ``config.json``, weights and tokenizer.

    Parameters
    ----------
    store : folder with ``bases/`` and ``tuned/``
    models_dir : folder below which ``hf:`` names a local folder; without it (and without `download`) they are refused
    download : let ``hf:`` ids come from the hub

    Raises
    ------
    UnknownModel
        If there is none; names the nearest id or the command that makes it.
    """
    fork, tuned = FORK.fullmatch(model_id), FINE_TUNE.fullmatch(model_id)
    if fork:
        folder = _base_folder(fork[1], fork[2], store)
        if folder is None:
            known = ", ".join(info.id for info in list_models(store) if info.parent is None) or "none yet"
            raise UnknownModel(
                f"base model {model_id!r} is not in the store (there: {known}); "
                f"make it with: python -m lib.base {fork[1]}"
            )
        return folder / "init" if fork[3] else folder
    if tuned:
        step = tuned["step"]
        folder = store / "tuned" / tuned["short"] / (f"step-{step}" if step else "final")
        if (folder / "tuned.json").is_file() and read_json(folder / "tuned.json")["id"] == model_id:
            return folder
    elif model_id.startswith("hf:"):
        return _hub_folder(model_id, models_dir, download)
    near = difflib.get_close_matches(model_id, [info.id for info in list_models(store)], n=1, cutoff=0.4)
    raise UnknownModel(f"no model {model_id!r} here" + (f"; the nearest is {near[0]!r}" if near else ""))


def _hub_folder(model_id: str, models_dir: Path | None, download: bool) -> Path:
    name = model_id.removeprefix("hf:")
    if models_dir is not None:
        folder = (models_dir / name).resolve()
        if folder.is_relative_to(models_dir.resolve()) and (folder / "config.json").is_file():
            return folder
    if download and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    ways = "start the server with --models DIR (folders below it) or --download (the hub)"
    raise UnknownModel(f"no model {model_id!r} here; to use open models, {ways}")


def _weights_fingerprint(folder: Path) -> str:
    """Content hash of the weights, kept beside them: what a journal or a fine-tune's key refers to."""
    weights = sorted(folder.glob("*.safetensors"))
    marks = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in weights]
    key = str(folder.resolve()) + content_hash(marks)
    if key not in _fingerprints:
        _fingerprints[key] = content_hash([file_hash(file) for file in weights])
    return _fingerprints[key]


_fingerprints: dict[str, str] = {}


def fingerprint(model_id: str, folder: Path) -> str:
    """What the weights behind an id are, whatever the id says: changes when the weights change."""
    return f"{model_id.split(':')[0]}-{_weights_fingerprint(folder)}"


def list_models(store: Path) -> list[ModelInfo]:
    """Every base and fine-tune of a store, oldest first."""
    found = []
    for pointer in sorted((store / "bases").glob("fork-*.json")):
        current = f"{pointer.stem}@{read_json(pointer)['current']}"
        for folder in sorted((store / "bases").glob(f"{pointer.stem}@*")):
            name = pointer.stem if folder.name == current else folder.name
            found.append(_info(name, folder, "tuning-fork", None))
            found.append(_info(f"{name}:init", folder / "init", "tuning-fork", None))
    alone = {info.folder.name for info in found}
    for folder in sorted((store / "bases").glob("fork-*@*")):
        if folder.name not in alone:
            found.append(_info(folder.name, folder, "tuning-fork", None))
    for record in sorted((store / "tuned").glob("*/[!.]*/tuned.json")):  # not one that is being written or deleted
        about = read_json(record)
        found.append(_info(about["id"], record.parent, "user", about["parent"]))
    return sorted(found, key=lambda info: info.created)


def _info(model_id: str, folder: Path, owner: str, parent: str | None) -> ModelInfo:
    created = int((folder / "config.json").stat().st_mtime)
    return ModelInfo(model_id, folder, created, owner, parent, fingerprint(model_id, folder))


def reference_learning_rate(folder: Path) -> float:
    """Learning rate that a multiplier of 1 stands for: declared by the base, else 2e-5."""
    for name in ("base.json", "tuned.json"):
        if (folder / name).is_file() and "learning_rate" in (about := read_json(folder / name)):
            return float(about["learning_rate"])
    return REFERENCE_LEARNING_RATE


def count_weights(folder: Path) -> int:
    """Number of weights in a model's folder, read from the headers of its files; tied ones count once."""
    n_weights = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            n_weights += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return n_weights


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
