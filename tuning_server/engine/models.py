"""What is in a model's folder? Read so that nothing which came with it runs, and nothing that is missing is made up.

From a model id to weights and tokenizer in memory, to be asked or to be trained; and which of them stay there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from tuning_server.disk import file_hash
from tuning_server.engine import lora
from tuning_server.engine.devices import (
    TRAINING_BYTES,
    DoesNotFit,
    Place,
    best_device,
    choose_place,
    native_bfloat16,
    release,
    require_room,
)
from tuning_server.engine.registry import BrokenModel, UnknownModel, broken, count_weights, fingerprint, resolve
from tuning_server.engine.tokenization import TokenCodec, describe


def cannot(model_id: str, reason: str) -> BrokenModel:
    return BrokenModel(f"{model_id!r} cannot be loaded: {reason.splitlines()[0].rstrip('.')}")


def config_of(model_id: str, folder: Path) -> Any:
    """The model's configuration, if its architecture is one that needs no code of its own."""
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = "its architecture is not one of the installed transformers, and code of a model's own is never run"
        raise cannot(model_id, f"{reason} ({str(error).splitlines()[0]})") from error


def tokenizer_of(model_id: str, folder: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a tokenizer's files are read by many hands, and each fails in its own way
        raise cannot(model_id, f"its tokenizer cannot be read ({error})") from error


def weights_of(model_id: str, folder: Path, place: Place) -> PreTrainedModel:
    """All weights of a whole model, none of them made up."""
    config = config_of(model_id, folder)
    if not list(folder.glob("*.safetensors")):
        raise cannot(model_id, "it has no safetensors; convert older files with: tuning-server fetch FOLDER OUT")
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=place.dtype, use_safetensors=True, local_files_only=True,
            trust_remote_code=False, output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise cannot(model_id, f"its weights cannot be read ({error})") from error
    except RuntimeError as error:
        raise cannot(model_id, f"its weights are not those that its config.json describes ({error})") from error
    lacking = sorted([*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])])
    if lacking:
        raise cannot(model_id, f"its files lack {len(lacking)} of its weights, among them {lacking[0]}")
    return model.to(place.device)


__all__ = [
    "LoadedModel",
    "ModelCache",
    "best_device",
    "load",
    "load_for_training",
    "native_bfloat16",
    "outline",
    "save",
]

transformers_logging.disable_progress_bar()  # its bars for each small file would drown ours


@dataclass
class LoadedModel:
    """Weights and tokenizer in memory; with `lora`, the adapters that are being trained beside them."""

    id: str
    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    lora: lora.LoraSettings | None = None
    codec: TokenCodec = field(init=False)

    def __post_init__(self) -> None:
        self.codec = TokenCodec(self.tokenizer)

    @cached_property
    def context_tokens(self) -> int:
        return int(getattr(self.model.config, "max_position_embeddings", 0) or 2048)

    @cached_property
    def vocab_size(self) -> int:
        """Number of token ids that both the tokenizer and the output layer have; either may have more."""
        n_outputs = int(self.model.get_output_embeddings().weight.shape[0])
        return min(max(self.tokenizer.get_vocab().values()) + 1, n_outputs)

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

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer: the end of text, and what else ``generation_config.json`` names."""
        if self.folder is None or not (self.folder / "generation_config.json").is_file():
            return frozenset([self.eos_id])  # what a library would make up instead is another model's
        named = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        return frozenset([self.eos_id, *([named] if isinstance(named, int) else named or [])])

    @property
    def weights_hash(self) -> str:
        """Hash of the weights as they were loaded, whatever id they go by."""
        return self.fingerprint.rpartition("-")[2]

    @property
    def tokenizer_mark(self) -> str:
        """Hash of what decides which tokens a text becomes."""
        fast = self.folder / "tokenizer.json"
        return file_hash(fast) if fast.is_file() else describe(self.folder)[0]

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt as the model expects it; an empty one is the end-of-text token, which begins a document."""
        return [*self.codec.front, *self.codec.encode_document(text)] or [self.eos_id]

    def encode(self, text: str) -> list[int]:
        """Ids of a text that continues another one: nothing is put in front."""
        return self.codec.encode(text)

    def encode_row(self, prompt: str, completion: str) -> tuple[list[int], list[int]]:
        """Ids of a prompt, and of what is to be learned after it, with the end-of-text token."""
        encode = self.codec.encode if prompt else self.codec.encode_document
        return self.encode_prompt(prompt), [*encode(completion), self.eos_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the tokens of a document."""
        return self.codec.text(ids)


def load(
    model_id: str,
    store: Path,
    *,
    models_dir: Path | None = None,
    download: bool = False,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> LoadedModel:
    """Load a model for sampling and scoring; adapters are merged into their base.

    Device and precision are those of `tuning_server.engine.devices.choose_place`, unless told otherwise.

    Raises
    ------
    UnknownModel
        If the id names nothing that can be loaded here (`BrokenModel`: its files are damaged).
    DoesNotFit
        If its weights take more memory than is free.
    """
    folder = resolve(model_id, store, models_dir=models_dir, download=download)
    try:
        n_weights = count_weights(folder)
    except (SafetensorError, OSError, ValueError) as error:
        raise broken(model_id, folder, error) from error
    chosen = choose_place(n_weights)
    place = Place(device or chosen.device, dtype or chosen.dtype)
    adapter = lora.read_adapter(folder)
    if adapter is not None:
        try:
            base = load(adapter.base, store, models_dir=models_dir, download=download, device=device, dtype=dtype)
        except UnknownModel as error:
            raise cannot(model_id, f"it is adapters of another model, and {error}") from error
        if base.weights_hash != adapter.base_weights:
            raise cannot(model_id, f"it is adapters of {adapter.base}, whose weights are no longer what they were")
        try:
            model = lora.merge(base.model, folder, adapter)
        except (ValueError, OSError, SafetensorError) as error:
            raise cannot(model_id, str(error)) from error
    else:
        otherwise = "free some, choose a smaller model, or serve it on a larger machine"
        require_room(n_weights * place.dtype.itemsize, place, model_id, otherwise=otherwise)
        model = weights_of(model_id, folder, place)
    tokenizer = tokenizer_of(model_id, folder)
    return LoadedModel(model_id, folder, model.eval(), tokenizer, *_pair(place), fingerprint(model_id, folder))


def _pair(place: Place) -> tuple[torch.device, torch.dtype]:
    return place.device, place.dtype


def load_for_training(
    model_id: str, store: Path, *, models_dir: Path | None = None, download: bool = False, adapters: bool = False
) -> LoadedModel:
    """Load a copy of a model to train that no cache shares: float32 weights, or with `adapters` as it answers.

    Raises
    ------
    UnknownModel, DoesNotFit
        As `load`, all that training holds counted.
    """
    where: dict[str, Any] = {"models_dir": models_dir, "download": download}
    if adapters:
        return load(model_id, store, **where)
    place = Place(best_device(), torch.float32)
    n_weights = count_weights(resolve(model_id, store, **where))
    what = f"Training all {n_weights:,} weights of {model_id}"
    require_room(TRAINING_BYTES * n_weights, place, what, otherwise="ask for 'lora' or choose a smaller model")
    return load(model_id, store, **where, device=place.device, dtype=place.dtype)


def outline(model_id: str, store: Path, *, models_dir: Path | None = None, download: bool = False) -> LoadedModel:
    """All of a model but its weights, which lie on torch's meta device: enough to read rows and to tell sizes."""
    folder = resolve(model_id, store, models_dir=models_dir, download=download)
    try:
        count_weights(folder)
    except (SafetensorError, OSError, ValueError) as error:
        raise broken(model_id, folder, error) from error
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(model_id, folder), trust_remote_code=False)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    place = Place(torch.device("meta"), torch.float32)
    tokenizer = tokenizer_of(model_id, folder)
    return LoadedModel(model_id, folder, model.eval(), tokenizer, *_pair(place), fingerprint(model_id, folder))


def save(loaded: LoadedModel, folder: Path) -> None:
    """Write weights and tokenizer into a folder.

    Raises
    ------
    OSError
        If they cannot be written, as on a full disk.
    """
    try:
        if loaded.lora is None:
            loaded.model.save_pretrained(folder)
        else:
            lora.save(loaded, folder)
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
            self._loaded.pop(model_id, None)
            held = self._loaded[model_id] = self._load(load, model_id)
        self._loaded.move_to_end(model_id)
        while len(self._loaded) > 1 and sum(kept.n_bytes for kept in self._loaded.values()) > self.limit_bytes:
            self._loaded.popitem(last=False)
        return held

    def outline(self, model_id: str) -> LoadedModel:
        """See `outline`."""
        return outline(model_id, self.store, models_dir=self.models_dir, download=self.download)

    def for_training(self, model_id: str, *, adapters: bool) -> LoadedModel:
        """A copy to train, which the cache does not keep; see `load_for_training`."""
        return self._load(load_for_training, model_id, adapters=adapters)

    def _load(self, how: Callable[..., LoadedModel], model_id: str, **options: Any) -> LoadedModel:
        """Load a model; where memory is short, once more without those that are held."""
        options |= {"models_dir": self.models_dir, "download": self.download}
        try:
            return how(model_id, self.store, **options)
        except DoesNotFit:
            if not self._loaded:
                raise
        self._loaded.clear()
        release()
        return how(model_id, self.store, **options)
