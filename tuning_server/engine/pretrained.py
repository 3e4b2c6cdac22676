"""How do older weights (``pytorch_model*.bin``) become safetensors, without running what such a file may hold?

A ``.bin`` file is a pickle. torch reads it with ``weights_only``, which knows tensors and plain containers and refuses
everything else before it is called.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tuning_server.disk import write_folder
from tuning_server.engine.models import config_of, tokenizer_of
from tuning_server.engine.registry import UnknownModel


@dataclass(frozen=True)
class Converted:
    """A model that was converted: its kind and the number of its weights (tied ones once)."""

    architecture: str
    n_weights: int


def convert(folder: Path, out: Path) -> Converted:
    """Write a model's configuration, weights and tokenizer anew, the weights as safetensors in their own precision.

    Parameters
    ----------
    folder : with ``config.json``, a tokenizer, and ``pytorch_model.bin`` or its parts with their index
    out : a folder that is not there yet; it appears whole or not at all

    Raises
    ------
    UnknownModel
        If the folder is no such model, a file holds more than tensors, or weights are missing.
    ValueError
        If `out` holds something else.
    """
    if not (folder / "config.json").is_file():
        raise UnknownModel(f"{folder} has no config.json: give the folder of a model")
    if not list(folder.glob("*.bin")):
        has = "safetensors already" if list(folder.glob("*.safetensors")) else "no weights"
        raise UnknownModel(f"{folder} has {has}; what is converted are pytorch_model*.bin files")
    config, tokenizer = config_of(str(folder), folder), tokenizer_of(str(folder), folder)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype="auto", use_safetensors=False, weights_only=True, local_files_only=True,
            trust_remote_code=False, output_loading_info=True,
        )  # fmt: skip
    except pickle.UnpicklingError as error:
        raise UnknownModel(f"{folder} holds more than tensors in its .bin files, and none of it was run") from error
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        raise UnknownModel(f"{folder} cannot be read: {str(error).splitlines()[0]}") from error
    lacking = sorted(found["missing_keys"]) + [str(each) for each in found["mismatched_keys"]]
    if lacking:
        raise UnknownModel(f"{folder} lacks {len(lacking)} of its weights, among them {lacking[0]}")

    def fill(target: Path) -> None:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    write_folder(out, fill)
    return Converted(type(model).__name__, _count(model))


def _count(model: Any) -> int:
    weights: list[torch.Tensor] = list(model.parameters())
    return sum(weight.numel() for weight in weights)
