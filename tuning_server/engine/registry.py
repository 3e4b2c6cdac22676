"""Which models a store holds, which folder an id stands for, and whether its files are whole; nothing loads weights.

Ids are ``fork-1m`` or ``smollm2-135m`` (``:init`` a base's random weights, ``@<hash>`` a base of that name made from
other text or from another file), ``hf:<folder or hub id>`` (``@<revision>`` a commit, branch or tag of the hub, or a
folder named so), ``ft:<base>:<suffix>:<short id>`` and its checkpoints ``...:ckpt-step-<n>``.

Below the folder of a store:

- ``bases/<name>@<hash>/`` a base, ``init/`` in it its random weights; ``bases/<name>.json`` what the name stands for
- ``tuned/<short id>/`` the run of a job: models ``step-<n>/`` and ``final/``, and what it resumes from (`checkpoints`)
- ``hub/<id>.json`` the commit of a model of the hub, pinned when it was first used

Folders of models appear by one rename and never change, so several servers may share them. ``.weights-hash.json`` in
them keeps the hash of their weights, with the sizes and times of the files that were read.
"""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tuning_server.disk import content_hash, file_hash, read_json, write_json
from tuning_server.engine.folders import tuned_folders

BASE = re.compile(r"([a-z0-9][a-z0-9._-]*)(?:@([0-9a-f]{4,64}))?(:init)?")
HOW_TO_GET = {"fork": "pretrain {} --corpus PATH", "smollm2": "fetch {}"}  # by the beginning of a base's name
FINE_TUNE = re.compile(
    r"ft:(?P<base>.+):(?P<suffix>[A-Za-z0-9._-]*):(?P<short>[a-z0-9]{8})(?::ckpt-step-(?P<step>\d+))?"
)
HUB = re.compile(r"[\w.-]+(?:/[\w.-]+)?(?:@[\w.-]+(?:/[\w.-]+)*)?")
MAX_HUB_NAME = 200  # characters, with the revision: it becomes the name of a file
HUB_FILES = ["*.json", "*.jinja", "*.safetensors", "*.txt", "*.model"]
# What older checkpoints keep beside their weights: causal masks (which make Pythia 70m a third larger) and rotations.
BUFFER = re.compile(r"\b(?:attn|attention)\.(?:masked_)?bias$|\.inv_freq$")
ADAPTER = "adapter.json"  # in a folder of adapters: their base (see `tuning_server.engine.lora`)
HASH_RECORD = ".weights-hash.json"
NON_FINITE = "it computes NaN or infinity"  # though its files are whole
REFERENCE_LEARNING_RATE, REFERENCE_WEIGHTS, MOST_LEARNING_RATE = 2e-5, 7e9, 2e-3  # the last is that of fork-* bases

logger = logging.getLogger(__name__)
_hashes: dict[Path, dict[str, object]] = {}  # as in the records, for folders that cannot be written


def flaw(folder: Path) -> str | None:
    """What keeps a model, or the state of a run, from being loaded; None if nothing does.

    Only the headers of the weights are read, which say how long each file is: a file that was cut short is found, a
    byte that changed is not (see the ``fingerprint`` in ``tuned.json``).

    >>> flaw(Path("/nowhere"))
    'it holds no weights'
    """
    try:
        for file in sorted(folder.glob("*.json")):
            read_json(file)
        weights = weight_files(folder)
    except (ValueError, OSError) as error:
        return str(error).removeprefix(f"{folder}/")
    for file in weights:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            return f"its file {file.name} is damaged or cut short ({file.stat().st_size} bytes; {error})"
    return None


def weight_files(folder: Path) -> list[Path]:
    """Files of a model's weights, with all that an index of them names; ValueError if one is missing, or all are."""
    weights = sorted(folder.glob("*.safetensors"))
    indexes = [read_json(file) for file in folder.glob("*.safetensors.index.json")]
    listed = {name for index in indexes for name in index.get("weight_map", {}).values()}
    if missing := sorted(listed - {file.name for file in weights}):
        raise ValueError(f"its file {missing[0]} is missing")
    if not weights:
        raise ValueError("it holds no weights")
    return weights


class UnknownModel(ValueError):
    """No model of that id can be loaded from this store."""

    code = "model_not_found"  # over the API


class BrokenModel(UnknownModel):
    """A model is there, but it cannot be used: its files are damaged, missing, or of a kind that is not read."""

    code = "model_broken"

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(f"the model {model_id!r} cannot be loaded: {reason.splitlines()[0].rstrip('.')}")


def broken(model_id: str, folder: Path, error: Exception) -> UnknownModel:
    """Error for a model that could not be loaded: what is wrong with its files, or else what `error` says."""
    if isinstance(error, UnknownModel):
        return error
    advice = "delete it, then make or fetch it again"
    if list(folder.glob("pytorch_model*.bin")):
        advice = "convert its older files (.bin) with: tuning-server fetch FOLDER OUT"
    return BrokenModel(model_id, f"{flaw(folder) or error}; {advice}")


@dataclass
class ModelInfo:
    """What the store knows of a model without loading it; `created` in seconds since 1970."""

    id: str
    folder: Path
    owned_by: str
    parent: str | None
    card: Mapping[str, Any] | None = None  # what lies beside the weights, where it was read
    created: int = field(init=False)

    def __post_init__(self) -> None:
        record = self.folder / "config.json"
        known = (self.card or {}).get("created")
        self.created = int(known or (record if record.is_file() else self.folder).stat().st_mtime)


def _current(pointer: Path) -> str | None:
    """Which of the bases of one name that name alone stands for; None if their record does not say."""
    try:
        return str(read_json(pointer)["current"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def base_folder(name: str, hash_: str | None, store: Path) -> Path | None:
    """Folder of a base, by its name alone or with (the beginning of) its hash; None if there is none."""
    hash_ = hash_ or _current(store / "bases" / f"{name}.json")
    found = list((store / "bases").glob(f"{name}@{hash_}*")) if hash_ else []
    return found[0] if len(found) == 1 else None


def resolve(model_id: str, store: Path, *, models_dir: Path | None = None, download: bool = False) -> Path:
    """Folder that holds a model's ``config.json``, weights and tokenizer.

    Parameters
    ----------
    models_dir : folder below which ``hf:`` names a local folder; without it (and without `download`) they are refused
    download : let ``hf:`` ids come from the hub

    Raises
    ------
    UnknownModel
        If there is none; names the nearest ids, and how to get one.
    """
    advice = ""
    if base := BASE.fullmatch(model_id):
        found = base_folder(base[1], base[2], store)
        folder = found and (found / "init" if base[3] else found)
        if folder and folder.is_dir():
            return folder
        if command := HOW_TO_GET.get(base[1].partition("-")[0]):
            advice = f": it is not in the store; get it with: python -m tuning_server {command.format(base[1])}"
    elif tuned := FINE_TUNE.fullmatch(model_id):
        folder = store / "tuned" / tuned["short"] / (f"step-{tuned['step']}" if tuned["step"] else "final")
        try:
            if (folder / "tuned.json").is_file() and read_json(folder / "tuned.json")["id"] == model_id:
                return folder
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise broken(model_id, folder, error) from error
    elif model_id.startswith("hf:"):
        name = model_id.removeprefix("hf:")
        bare, at, revision = name.partition("@")
        if models_dir is not None and (folder := _local_folder(name, models_dir)):
            return folder
        if models_dir is not None and at and _local_folder(bare, models_dir):
            advice = (
                f": the folder {bare} below --models has no revision; request 'hf:{bare}', or name the folder {name} "
                "if it is of that revision"
            )
        elif download and HUB.fullmatch(name) and len(name) < MAX_HUB_NAME and ".." not in revision:
            return hub_folder(name, store)
        else:
            advice = "; for open models, start the server with --models DIR (folders below it) or --download (the hub)"
    if not advice and HUB.fullmatch(model_id):
        advice = f"; open models, from the hub or a folder, have ids like hf:{model_id}"
    near = difflib.get_close_matches(model_id, [info.id for info in list_models(store)], n=3, cutoff=0.4)
    nearest = f". Nearest ids: {', '.join(near)}" if near else ""
    raise UnknownModel(f"the model {model_id!r} does not exist{advice}{nearest}")


def hub_folder(name: str, store: Path) -> Path:
    """Snapshot of a model of the hub, at the commit that was pinned when it was first used."""
    from huggingface_hub import errors, snapshot_download

    bare, _, revision = name.partition("@")
    pin = store / "hub" / f"{name.replace('/', '--')}.json"
    commit = read_json(pin)["commit"] if pin.is_file() else None
    if commit is not None:
        with suppress(errors.LocalEntryNotFoundError):  # whoever emptied the cache gets the same commit again
            return Path(snapshot_download(bare, revision=commit, allow_patterns=HUB_FILES, local_files_only=True))
    try:
        folder = Path(snapshot_download(bare, revision=commit or revision or None, allow_patterns=HUB_FILES))
    # HTTPError: of the hub, and of its client, which also reports a proxy that refuses
    except (errors.HTTPError, errors.LocalEntryNotFoundError, errors.HFValidationError, ConnectionError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UnknownModel(f"the model 'hf:{name}' cannot be downloaded: {reason}") from error
    write_json(pin, {"id": f"hf:{name}", "commit": folder.name})
    return folder


def _local_folder(name: str, models_dir: Path) -> Path | None:
    with suppress(OSError, ValueError):  # a name that no folder can have
        folder = (models_dir / name).resolve()
        if folder.is_relative_to(models_dir.resolve()) and (folder / "config.json").is_file():
            return folder
    return None


def fingerprint(model_id: str, folder: Path, *, recompute: bool = False) -> str:
    """Content hash of a model's weights behind the kind of its id; changes when the weights change.

    Parameters
    ----------
    recompute : read the files in any case, and keep no record
    """
    # a folder of adapters names the weights of its base
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob(ADAPTER)])
    files = [[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in weights]
    known = _hashes.get(folder, {})
    if known.get("files") != files:
        with suppress(OSError, ValueError):
            known = read_json(folder / HASH_RECORD)
    if recompute or known.get("files") != files:
        known = {"files": files, "hash": content_hash([file_hash(file) for file in weights])}
        with suppress(OSError):  # a folder that cannot be written
            if not recompute:
                write_json(folder / HASH_RECORD, known)
    _hashes[folder] = known
    return f"{model_id.split(':')[0]}-{known['hash']}"


def list_models(store: Path) -> list[ModelInfo]:
    """Every base and fine-tune of a store, oldest first."""
    found = []
    bases = store / "bases"
    current = {f"{pointer.stem}@{_current(pointer)}": pointer.stem for pointer in bases.glob("*.json")}
    for folder in sorted(bases.glob("[!.]*@*")):
        name = current.get(folder.name, folder.name)
        found.append(ModelInfo(name, folder, "tuning-fork", None))
        if (folder / "init").is_dir():
            found.append(ModelInfo(f"{name}:init", folder / "init", "tuning-fork", None))
    for folder in tuned_folders(store / "tuned"):
        try:
            about = read_json(folder / "tuned.json")
            found.append(ModelInfo(about["id"], folder, "user", about["parent"], about))
        except (OSError, ValueError, KeyError) as error:
            logger.warning("%s is not listed (python -m tuning_server check says more): %s", folder, error)
    return sorted(found, key=lambda info: (info.created, info.id))


def card_of(folder: Path) -> dict[str, Any]:
    """What was written beside the weights of a base or a fine-tune; empty for other models."""
    card = next((folder / name for name in ("base.json", "tuned.json") if (folder / name).is_file()), None)
    return dict(read_json(card)) if card else {}


def reference_learning_rate(card: Mapping[str, Any], n_weights: int) -> float:
    """Learning rate that a multiplier of 1 stands for: declared by the model's card, else by the root of its size."""
    by_size = REFERENCE_LEARNING_RATE * math.sqrt(REFERENCE_WEIGHTS / n_weights)
    return float(card.get("learning_rate", f"{min(by_size, MOST_LEARNING_RATE):.3g}"))


def count_weights(model_id: str, folder: Path) -> int:
    """Number of weights of a model, read from the headers of its files; tied ones count once, buffers not.

    Of a folder of adapters, those of its base, into which they are merged.

    Raises
    ------
    BrokenModel
        If a file is damaged or missing; says which.
    """
    sizes: dict[str, int] = {}
    try:
        if (folder / ADAPTER).is_file():
            return int(read_json(folder / ADAPTER)["n_weights"])
        for file in weight_files(folder):
            with safe_open(file, framework="numpy") as tensors:
                sizes |= {name: math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise broken(model_id, folder, error) from error
    return sum(size for name, size in sizes.items() if not BUFFER.search(name))
