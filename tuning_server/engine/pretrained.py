"""Fetch models that others trained: pin one of the hub, or convert older weights (``pytorch_model*.bin``).

A ``.bin`` file is a pickle. torch reads it with ``weights_only``, which knows tensors and plain containers and refuses
everything else before it is called.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from tempfile import TemporaryDirectory

from tuning_server.engine.models import tokenizer_of, weights_of
from tuning_server.engine.registry import UnknownModel, hub_folder


def fetch(source: str, out: Path | None, store: Path) -> str:
    """Fetch a model; returns a sentence about it.

    Parameters
    ----------
    source : ``hf:NAME[@revision]``, or a folder of older weights, which is converted into `out`

    Raises
    ------
    UnknownModel
        If there is no such model, or it cannot be converted.
    ValueError
        If `out` is missing, not needed, or holds something else.
    """
    if source.startswith("hf:"):
        if out is not None:
            raise ValueError(f"{source} goes into the cache of the hub: expected no folder, found {out}")
        return f"{source} is there, at commit {hub_folder(source.removeprefix('hf:'), store).name}"
    if out is None:
        raise ValueError(f"{source} is converted into another folder: give it as well")
    return convert(Path(source), out)


def convert(folder: Path, out: Path) -> str:
    """Write a model's configuration, weights and tokenizer anew, the weights as safetensors in their own precision.

    Parameters
    ----------
    folder : with ``config.json``, a tokenizer, and ``pytorch_model.bin`` or its parts with their index
    out : a new folder; it appears whole or not at all
    """
    if not (folder / "config.json").is_file():
        raise UnknownModel(f"{folder} has no config.json: give the folder of a model, or hf:NAME for one of the hub")
    if not list(folder.glob("*.bin")):
        weights = "safetensors already" if list(folder.glob("*.safetensors")) else "no weights"
        raise UnknownModel(f"{folder} has {weights}: expected pytorch_model*.bin files to convert")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds something else already: give another folder or remove it")
    tokenizer = tokenizer_of(str(folder), folder)
    try:
        model = weights_of(str(folder), folder, "auto", older=True)
    except pickle.UnpicklingError as error:
        raise UnknownModel(f"{folder} holds more than tensors in its .bin files, and none of it was run") from error

    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as drafts:
        model.save_pretrained(f"{drafts}/{out.name}")
        tokenizer.save_pretrained(f"{drafts}/{out.name}")
        Path(drafts, out.name).replace(out)
    n_weights = sum(weight.numel() for weight in model.parameters())
    return f"{out}: {type(model).__name__}, {n_weights:,} weights as safetensors"
