"""What is in a model's folder? Read so that nothing which came with it runs, and nothing that is missing is made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lib.engine.catalogue import BrokenModel
from lib.engine.devices import Place


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
        raise cannot(model_id, "it has no safetensors; convert older files with: python -m lib.convert FOLDER OUT")
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
