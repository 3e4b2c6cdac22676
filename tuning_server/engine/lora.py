"""Should a fine-tune learn low-rank adapters in place of all weights, and how are those kept and put back?

An adapter's checkpoint names its base and what that base's weights were; loaded, it is merged into them, so that
whoever asks the model sees no difference. Nothing but our own record is read: neither a foreign configuration nor code.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from tuning_server.disk import read_json, write_json
from tuning_server.engine.devices import TRAINING_BYTES, best_device, gigabytes, memory
from tuning_server.engine.registry import ADAPTER, FORK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tuning_server.engine.models import LoadedModel

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
    """What a checkpoint of adapters says of itself. `n_weights` are those of its base, `base_weights` their hash."""

    base: str
    base_weights: str
    n_weights: int
    rank: int
    alpha: float


def choose(asked: object, n_weights: int) -> tuple[LoraSettings | None, str]:
    """Whether to train adapters, and why, in words that a job's log takes.

    Parameters
    ----------
    asked : ``"auto"``, true, false, or settings; left to us, models are trained whole as far as they are small enough

    >>> choose(False, 7)
    (None, 'Training all 7 weights')
    >>> choose({"rank": 4}, 7)[0].rank
    4
    >>> choose("auto", 7_000_000_000)[1]
    'Training adapters (LoRA) of rank 16: the model has 7,000,000,000 weights, and above 1,000,000,000 that is the...'
    """
    why, total = None, memory(best_device()).total
    if asked != "auto":
        why = "as asked for" if asked is not False else None
    elif n_weights > FULL_AT_MOST:
        why = f"the model has {n_weights:,} weights, and above {FULL_AT_MOST:,} that is the default"
    elif TRAINING_BYTES * n_weights > memory(best_device()).usable:
        why = f"training all weights would take {gigabytes(TRAINING_BYTES * n_weights)}, of {gigabytes(total)} in all"
    if why is None:
        return None, f"Training all {n_weights:,} weights"
    settings = LoraSettings(**asked) if isinstance(asked, Mapping) else LoraSettings()
    return settings, f"Training adapters (LoRA) of rank {settings.rank}: {why}"


def wrap(loaded: LoadedModel, settings: LoraSettings, *, seed: int) -> None:
    """Freeze a model's weights and put adapters beside them, in place; they begin by changing nothing."""
    n_weights = loaded.n_weights  # remembered: without the adapters
    with _seeded(seed):
        loaded.model = _with_adapters(loaded.model, settings.rank, settings.alpha, settings.dropout)
    loaded.lora, loaded.n_weights = settings, n_weights


def _with_adapters(model: Any, rank: int, alpha: float, dropout: float = 0.0) -> Any:
    from peft import LoraConfig, get_peft_model  # seconds to import, and few jobs need it
    from transformers.pytorch_utils import Conv1D

    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2's linear layers
    settings: Any = {
        "r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": "all-linear",
        "fan_in_fan_out": transposed, "task_type": "CAUSAL_LM",
    }  # fmt: skip
    return get_peft_model(model, LoraConfig(**settings))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def save(loaded: LoadedModel, folder: Path) -> None:
    """Write a model that was wrapped: its adapters with their record, or (`merged`) all weights with them added."""
    assert loaded.lora is not None
    wrapped: Any = loaded.model
    base = wrapped.get_base_model()
    if loaded.lora.merged:
        base.save_pretrained(folder, state_dict=_merged(base))
        return
    from peft import get_peft_model_state_dict

    base.config.save_pretrained(folder)
    if base.generation_config is not None:
        base.generation_config.save_pretrained(folder)
    weights = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / WEIGHTS, {"format": "pt"})
    about = Adapter(_lasting_id(loaded), loaded.weights_hash, loaded.n_weights, loaded.lora.rank, loaded.lora.alpha)
    write_json(folder / ADAPTER, asdict(about))
    config = wrapped.peft_config["default"].to_dict()  # for other tools that read PEFT's form; we do not
    config |= {"base_model_name_or_path": about.base, "target_modules": sorted(config["target_modules"])}
    plain = {name: value for name, value in config.items() if isinstance(value, str | int | float | list | None)}
    write_json(folder / "adapter_config.json", plain)


def _lasting_id(loaded: LoadedModel) -> str:
    """Id that goes on naming these weights when a base of the same name is made anew."""
    fork = FORK.fullmatch(loaded.id)
    if not fork:
        return loaded.id
    return f"{loaded.folder.parent.name}:init" if fork[3] else loaded.folder.name


def _merged(base: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights with their adapters added, under the names they have without any; those in training stay as they are."""
    from peft.tuners.lora import LoraLayer

    state = {
        name.replace(".base_layer.", "."): value for name, value in base.state_dict().items() if ".lora_" not in name
    }
    layers: list[tuple[str, Any]] = [part for part in base.named_modules() if isinstance(part[1], LoraLayer)]
    for name, module in layers:
        weight = state[f"{name}.weight"]
        state[f"{name}.weight"] = weight + module.get_delta_weight("default").detach().to(weight.dtype)
    return state


def read_adapter(folder: Path) -> Adapter | None:
    """What a folder of adapters says of itself; None for a whole model."""
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

    with _seeded(0):
        wrapped = _with_adapters(model, adapter.rank, adapter.alpha)
    try:
        found: Any = set_peft_model_state_dict(wrapped, load_file(folder / WEIGHTS))
    except RuntimeError as error:
        raise ValueError(f"its adapters are not of the shape that {adapter.base} has") from error
    if found.unexpected_keys or any("lora_" in name for name in found.missing_keys):
        raise ValueError(f"its adapters are not those of {adapter.base}")
    return wrapped.merge_and_unload()
