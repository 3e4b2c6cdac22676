"""What lies in the folder of a run or of a model, and whether it is whole: asked without loading any weights.

Which models a store holds, and which folder an id stands for; nothing here loads weights.

Ids: ``fork-1m`` (``:init`` its random weights, ``@<hash>`` one made from another corpus), ``hf:<folder or hub id>``
(``@<revision>`` a commit, branch or tag of the hub, or a folder that is named so),
``ft:<root base>:<suffix>:<short id>`` and its checkpoints ``...:ckpt-step-<n>``.
"""

from __future__ import annotations

import difflib
import logging
import math
import re
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tuning_server.disk import content_hash, file_hash, read_json

WRITING = ".writing-"  # begins the name of a folder until it is whole
GONE = ".gone-"  # begins the name of a folder that is being deleted
REFERENCE = "reference"  # what DPO computes before its first step


def states(folder: Path) -> list[Path]:
    """Folders of a run that it can go on from, oldest first."""
    return sorted(folder.glob("state-*"), key=lambda path: int(path.name.removeprefix("state-")))


def drop(folder: Path) -> None:
    """Delete a model or a state of a run, if it is there: it is out of sight at once, however far the deletion gets."""
    gone = folder.with_name(f"{GONE}{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def drop_state(folder: Path) -> None:
    """Remove what a run would go on from: it has ended, or will not be taken up again."""
    with suppress(OSError):
        for state in [*folder.glob("state-*"), folder / REFERENCE]:
            drop(state)
    for left in folder.glob(f"{GONE}*"):  # by a kill
        shutil.rmtree(left, ignore_errors=True)


def flaw(folder: Path) -> str | None:
    """What keeps a model, or the state of a run, from being loaded; None if nothing does.

    Of the weights the headers are read, which say how long each file is: one that was cut short is found without
    reading the rest of it. A byte that changed is not (see the ``fingerprint`` in ``tuned.json``).

    >>> flaw(Path("/nowhere"))
    'it holds no weights'
    """
    weights = sorted(folder.glob("*.safetensors"))
    try:
        records = {file.name: read_json(file) for file in sorted(folder.glob("*.json"))}
    except (ValueError, OSError) as error:
        return str(error).removeprefix(f"{folder}/")
    wanted = {
        name
        for record, about in records.items()
        if record.endswith(".safetensors.index.json")
        for name in about.get("weight_map", {}).values()
    }
    missing = sorted(wanted - {file.name for file in weights})
    if missing or not weights:
        return f"its file {missing[0]} is missing" if missing else "it holds no weights"
    for file in weights:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            return f"its file {file.name} is damaged or cut short ({file.stat().st_size} bytes; {error})"
    return None


FORK = re.compile(r"(fork-[0-9a-z]+)(?:@([0-9a-f]{4,64}))?(:init)?")
FINE_TUNE = re.compile(
    r"ft:(?P<base>.+):(?P<suffix>[A-Za-z0-9._-]*):(?P<short>[a-z0-9]{8})(?::ckpt-step-(?P<step>\d+))?"
)
HUB = re.compile(r"[\w.-]+(?:/[\w.-]+)?(?:@[\w.-]+(?:/[\w.-]+)*)?")
# What older checkpoints keep beside their weights: causal masks (which make Pythia 70m a third larger) and rotations.
BUFFER = re.compile(r"(?:.*\.)?(?:att(?:ention|n)\.masked_bias|rotary_emb\.inv_freq)")
MASK = re.compile(r"(?:.*\.)?att(?:ention|n)\.bias")  # of two dimensions or more; of one it is a weight
ADAPTER = "adapter.json"  # in a folder of adapters: their base (see `tuning_server.engine.lora`)
REFERENCE_LEARNING_RATE = 2e-5  # of a learning_rate_multiplier of 1, where a base does not declare its own

logger = logging.getLogger(__name__)
_fingerprints: dict[str, str] = {}


class UnknownModel(ValueError):
    """No model of that id can be loaded from this store."""

    code = "model_not_found"  # over the API


class BrokenModel(UnknownModel):
    """A model is there, but it cannot be loaded: its files are damaged, missing, or of a kind that is not read."""

    code = "model_broken"


def senseless(model_id: str) -> BrokenModel:
    """What to say of a model whose weights are whole but make no sense."""
    return BrokenModel(f"{model_id} computes what is no number (NaN or infinity): its weights are of no use")


def broken(model_id: str, folder: Path, error: Exception) -> BrokenModel:
    """What to say of a model that could not be loaded: what is wrong with its files, or (none is) why otherwise."""
    reason = flaw(folder)
    if reason is None:
        return BrokenModel(f"{model_id!r} cannot be loaded from its folder: {str(error).splitlines()[0]}")
    return BrokenModel(
        f"The model {model_id!r} is damaged: {reason}. Delete it if it is a fine-tune, or stop the server and run "
        "`python -m tuning_server check --repair`."
    )


@dataclass(frozen=True)
class ModelInfo:
    """What the store knows of a model without loading it. `created` in seconds since 1970."""

    id: str
    folder: Path
    created: int
    owned_by: str
    parent: str | None
    fingerprint: str


def _current(pointer: Path) -> str | None:
    """Which of the bases of one name that name alone stands for; None if their record does not say."""
    try:
        return str(read_json(pointer)["current"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _base_folder(name: str, hash_: str | None, store: Path) -> Path | None:
    if hash_ is None:
        hash_ = _current(store / "bases" / f"{name}.json")
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
            advice = f": it is not in the store (there: {known}); make it with: python -m lib.base {fork[1]}"
            raise _unknown(model_id, store, advice)
        return folder / "init" if fork[3] else folder
    if tuned:
        step = tuned["step"]
        folder = store / "tuned" / tuned["short"] / (f"step-{step}" if step else "final")
        if (folder / "tuned.json").is_file() and read_json(folder / "tuned.json")["id"] == model_id:
            return folder
    elif model_id.startswith("hf:"):
        found = _hub_folder(model_id, models_dir, download)
        if isinstance(found, Path):
            return found
        raise _unknown(model_id, store, found)
    raise _unknown(model_id, store)


def _unknown(model_id: str, store: Path, advice: str = "") -> UnknownModel:
    near = difflib.get_close_matches(model_id, [info.id for info in list_models(store)], n=3, cutoff=0.4)
    return UnknownModel(
        f"the model {model_id!r} does not exist{advice}" + (f". Near to it: {', '.join(near)}" if near else "")
    )


def _hub_folder(model_id: str, models_dir: Path | None, download: bool) -> Path | str:
    """Folder of an ``hf:`` model, or what to do to have it."""
    name = model_id.removeprefix("hf:")
    bare, at, revision = name.partition("@")
    if models_dir is not None:
        if folder := _local_folder(name, models_dir):
            return folder
        if at and _local_folder(bare, models_dir):
            return (
                f": the folder {bare} below --models says no revision; "
                f"ask for 'hf:{bare}', or name the folder {name} if it is of that revision"
            )
    if download and HUB.fullmatch(name) and ".." not in revision:
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.jinja", "*.safetensors", "*.txt", "*.model"]
        return Path(snapshot_download(bare, revision=revision or None, allow_patterns=patterns))
    return "; to use open models, start the server with --models DIR (folders below it) or --download (the hub)"


def _local_folder(name: str, models_dir: Path) -> Path | None:
    folder = (models_dir / name).resolve()
    inside = folder.is_relative_to(models_dir.resolve())
    return folder if inside and (folder / "config.json").is_file() else None


def _weights_fingerprint(folder: Path) -> str:
    """Content hash of the weights, kept beside them: what a journal or a fine-tune's key refers to."""
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob(ADAPTER)])  # which names the weights of its base
    marks = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in weights]
    key = str(folder.resolve()) + content_hash(marks)
    if key not in _fingerprints:
        _fingerprints[key] = content_hash([file_hash(file) for file in weights])
    return _fingerprints[key]


def fingerprint(model_id: str, folder: Path) -> str:
    """What the weights behind an id are, whatever the id says: changes when the weights change."""
    return f"{model_id.split(':')[0]}-{_weights_fingerprint(folder)}"


def list_models(store: Path) -> list[ModelInfo]:
    """Every base and fine-tune of a store, oldest first."""
    found = []
    for pointer in sorted((store / "bases").glob("fork-*.json")):
        current = f"{pointer.stem}@{_current(pointer)}"
        for folder in sorted((store / "bases").glob(f"{pointer.stem}@*")):
            name = pointer.stem if folder.name == current else folder.name
            found.append(_info(name, folder, "tuning-fork", None))
            if (folder / "init").is_dir():
                found.append(_info(f"{name}:init", folder / "init", "tuning-fork", None))
    alone = {info.folder.name for info in found}
    for folder in sorted((store / "bases").glob("fork-*@*")):
        if folder.name not in alone:
            found.append(_info(folder.name, folder, "tuning-fork", None))
    for record in sorted((store / "tuned").glob("*/[!.]*/tuned.json")):  # not one that is being written or deleted
        try:
            about = read_json(record)
            found.append(_info(about["id"], record.parent, "user", about["parent"]))
        except (OSError, ValueError, KeyError) as error:
            logger.warning("%s is not listed (python -m tuning_server check says more): %s", record.parent, error)
    return sorted(found, key=lambda info: info.created)


def _info(model_id: str, folder: Path, owner: str, parent: str | None) -> ModelInfo:
    return ModelInfo(model_id, folder, made_at(folder), owner, parent, fingerprint(model_id, folder))


def made_at(folder: Path) -> int:
    """When a model was made, in seconds since 1970; of one that lost its record, when its folder last changed."""
    record = folder / "config.json"
    return int((record if record.is_file() else folder).stat().st_mtime)


def reference_learning_rate(folder: Path) -> float:
    """Learning rate that a multiplier of 1 stands for: declared by the base, else 2e-5."""
    for name in ("base.json", "tuned.json"):
        if (folder / name).is_file() and "learning_rate" in (about := read_json(folder / name)):
            return float(about["learning_rate"])
    return REFERENCE_LEARNING_RATE


def count_weights(folder: Path) -> int:
    """Number of weights in a model's folder, read from the headers of its files; tied ones count once, buffers not.

    Of a folder of adapters, those of its base, into which they are merged.
    """
    if (folder / ADAPTER).is_file():
        return int(read_json(folder / ADAPTER)["n_weights"])
    sizes: dict[str, int] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                shape = tensors.get_slice(name).get_shape()
                is_mask = len(shape) > 1 and MASK.fullmatch(name)
                if not (is_mask or BUFFER.fullmatch(name)):
                    sizes[name] = math.prod(shape)
    return sum(sizes.values())
