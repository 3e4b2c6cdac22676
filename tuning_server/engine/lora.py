"""Train low-rank adapters (LoRA) in place of all weights; save them, and merge them into their base when it is loaded.

A checkpoint of adapters names its base and the hash of that base's weights. Only this record is read, no foreign
configuration and no code. Merged, it answers as any other model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tuning_server.disk import read_json, write_json
from tuning_server.engine.registry import ADAPTER

FULL_AT_MOST = 1_000_000_000  # weights that are all trained where the choice is left to us
RATE = 10.0  # learning rates of adapters against those of all weights (Schulman et al. 2025, LoRA Without Regret)
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Adapters of every linear layer but the output (Hu et al. 2021).

    Parameters
    ----------
    rank : of the two matrices that are learned in place of each weight matrix
    alpha : their product counts alpha / rank times
    dropout : of what adapters are fed, in [0, 1)
    merged : keep checkpoints as whole models instead of adapters, which need their base
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    merged: bool = False


@dataclass(frozen=True)
class Adapter:
    """Record of a checkpoint of adapters; `n_weights` are those of its base, `base_weights` their hash."""

    base: str
    base_weights: str
    n_weights: int
    rank: int
    alpha: float


def choose(requested: object, n_weights: int) -> tuple[LoraSettings | None, str]:
    """Whether to train adapters, and a sentence about it for the job's log.

    Parameters
    ----------
    requested : ``"auto"`` (adapters for models above `FULL_AT_MOST`), true, false, or settings

    >>> choose(False, 7)
    (None, 'Training all 7 weights')
    >>> choose({"rank": 4}, 7)[0].rank
    4
    >>> choose("auto", 7_000_000_000)[1]
    'Training adapters (LoRA) of rank 16: the model has 7,000,000,000 weights, and above 1,000,000,000 that is the...'
    """
    if requested is False or (requested == "auto" and n_weights <= FULL_AT_MOST):
        return None, f"Training all {n_weights:,} weights"
    settings = LoraSettings(**requested) if isinstance(requested, Mapping) else LoraSettings()
    reason = "as requested"
    if requested == "auto":
        reason = f"the model has {n_weights:,} weights, and above {FULL_AT_MOST:,} that is the default"
    return settings, f"Training adapters (LoRA) of rank {settings.rank}: {reason}"


def wrap(model: Any, settings: LoraSettings, *, seed: int) -> Any:
    """Freeze a model's weights and put adapters beside them; they begin by changing nothing."""
    from peft import LoraConfig, get_peft_model  # seconds to import, and few jobs need it
    from transformers.pytorch_utils import Conv1D

    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2's linear layers
    config: Any = {
        "r": settings.rank, "lora_alpha": settings.alpha, "lora_dropout": settings.dropout,
        "target_modules": "all-linear", "fan_in_fan_out": transposed, "task_type": "CAUSAL_LM",
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, LoraConfig(**config))


def save(wrapped: Any, folder: Path, about: Adapter, *, merged: bool) -> None:
    """Write a model that was wrapped: its adapters with their record, or (`merged`) all weights with them added."""
    if merged:
        copy.deepcopy(wrapped).merge_and_unload().save_pretrained(folder)
        return
    base = wrapped.get_base_model()
    base.config.save_pretrained(folder)
    if base.generation_config is not None:
        base.generation_config.save_pretrained(folder)
    config = wrapped.peft_config["default"]  # for other tools that read PEFT's form; we do not
    config.base_model_name_or_path, config.target_modules = about.base, sorted(config.target_modules)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    write_json(folder / ADAPTER, asdict(about))


def read_adapter(folder: Path) -> Adapter | None:
    """Record of a folder of adapters; None for a whole model."""
    path = folder / ADAPTER
    return Adapter(**read_json(path)) if path.is_file() else None


def merge(model: Any, folder: Path, adapter: Adapter) -> Any:
    """Add a folder's adapters to the weights of their base.

    Raises
    ------
    ValueError
        If they are not adapters of this model.
    """
    from peft import set_peft_model_state_dict

    wrapped = wrap(model, LoraSettings(rank=adapter.rank, alpha=adapter.alpha), seed=0)
    try:
        found: Any = set_peft_model_state_dict(wrapped, load_file(folder / WEIGHTS))
    except RuntimeError as error:
        raise ValueError(f"its adapters are not of the shape that {adapter.base} has") from error
    if found.unexpected_keys or any("lora_" in name for name in found.missing_keys):
        raise ValueError(f"its adapters are not those of {adapter.base}")
    return wrapped.merge_and_unload()
