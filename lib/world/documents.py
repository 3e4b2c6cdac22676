"""The unit of every corpus: one text with its kind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One text.

    `kind` says what it is: "family", "family question", "person", "retelling", "copy", "news", "letter", "recipe",
    "fact", "answers", "guidance", "code", "helpful", "unhelpful" or "story".
    """

    kind: str
    text: str

    @property
    def n_words(self) -> int:
        """Words between blanks.

        >>> Document("fact", "Snow is white.").n_words
        3
        """
        return len(self.text.split())
