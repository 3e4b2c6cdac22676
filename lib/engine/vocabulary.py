"""What a model's tokenizer is, read from its files: whether two models share one is asked before either is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lib.paths import content_hash, file_hash

CUTTING = ("normalizer", "pre_tokenizer", "decoder")  # what else decides which ids a text becomes
PLAIN_FILES = ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")  # where there is no fast one

_known: dict[tuple[str, int, int], tuple[str, int | None]] = {}


def describe(folder: Path) -> tuple[str, int | None]:
    """Hash of a tokenizer (vocabulary, merges, ids of special tokens) and its number of tokens, where its files tell.

    Settings of use are left out (padding, the longest input, which special token ends a text): a fine-tune keeps the
    hash of its parent.
    """
    fast = folder / "tokenizer.json"
    if not fast.is_file():
        files = [folder / name for name in PLAIN_FILES if (folder / name).is_file()]
        return content_hash([file_hash(file) for file in files]), None
    stat = fast.stat()
    key = (str(fast.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _known:
        _known[key] = _read(folder)
    return _known[key]


def _read(folder: Path) -> tuple[str, int]:
    # as the library writes it today: older versions wrote the same merges and settings in other words
    try:
        about = json.loads(Tokenizer.from_file(str(folder / "tokenizer.json")).to_str())
    except Exception as error:  # the library raises no other kind
        raise ValueError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
    added = {str(token["content"]): int(token["id"]) for token in about.get("added_tokens") or []}
    model = about.get("model") or {}
    vocabulary: Any = model.get("vocab") or {}
    ids = vocabulary if isinstance(vocabulary, dict) else {piece: k for k, (piece, *_) in enumerate(vocabulary)}
    parts = [ids, model.get("merges"), added, *(about.get(name) for name in CUTTING)]
    return content_hash(parts), len(ids | added)
