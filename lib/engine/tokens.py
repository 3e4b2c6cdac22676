"""Which bytes a token stands for, so that texts, stop strings and character offsets are exact."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

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
