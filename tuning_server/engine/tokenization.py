"""Which bytes a token stands for, so that texts, stop strings and character offsets are exact.

What a model's tokenizer is, read from its files: whether two models share one is asked before either is loaded."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tuning_server.disk import content_hash, file_hash

BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """Printable stand-ins that byte-level BPE writes for the 256 bytes (Radford et al. 2019)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + k): byte for k, byte in enumerate(others)}


class TokenBytes:
    """Bytes, label and character offsets of a tokenizer's tokens.

    Parameters
    ----------
    tokenizer : a fast tokenizer; byte-level BPE (GPT-2, GPT-NeoX, Qwen, Llama 3) or SentencePiece-like (Llama 2)
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._known: dict[int, bytes] = {}
        self._labels: dict[int, str] = {}

    @cached_property
    def _alphabet(self) -> dict[str, int] | None:
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        decoder = json.loads(backend.to_str()).get("decoder") if backend is not None else None
        return _byte_level_alphabet() if "ByteLevel" in json.dumps(decoder) else None

    @cached_property
    def _added(self) -> dict[int, str]:
        return {index: token.content for index, token in self.tokenizer.added_tokens_decoder.items()}

    def __getitem__(self, token_id: int) -> bytes:
        """Bytes that a token adds to the text; empty for ids beyond the vocabulary (padded outputs)."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._find(token_id)
        return known

    def _find(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self.tokenizer.convert_ids_to_tokens(token_id) if token_id < len(self.tokenizer) else None
        if piece is None:
            return b""
        if self._alphabet is not None:
            return bytes(self._alphabet[letter] for letter in piece)
        fallback = BYTE_FALLBACK.fullmatch(piece)
        return bytes([int(fallback[1], 16)]) if fallback else piece.replace("▁", " ").encode()

    def text(self, ids: Sequence[int]) -> str:
        """Text of a run of tokens; bytes that are not UTF-8 become the replacement character."""
        return b"".join(self[i] for i in ids).decode("utf-8", errors="replace")

    def label(self, token_id: int) -> str:
        """Name of one token as the API writes it: its text, or ``bytes:\\x..`` if it is part of a character."""
        known = self._labels.get(token_id)
        if known is None:
            raw = self[token_id]
            try:
                known = raw.decode("utf-8")
            except UnicodeDecodeError:
                known = "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
            self._labels[token_id] = known
        return known

    def offsets(self, ids: Sequence[int]) -> list[int]:
        """Character at which each token begins; a token inside a character gets that character's place."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        places, n_chars = [], 0
        for i in ids:
            raw, begun = self[i], bool(decoder.getstate()[0])
            goes_on = not raw or 0x80 <= raw[0] < 0xC0
            places.append(n_chars + (begun and not goes_on))  # a character that is broken off still takes a place
            n_chars += len(decoder.decode(raw))
        return places


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
