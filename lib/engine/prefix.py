"""How prompts that begin alike are read: what all of them share once, and each of them once, however many rows ask it.

Few-shot prompts share their examples, the answers of one request their whole prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from lib.engine.catalogue import senseless
from lib.engine.models import LoadedModel
from lib.engine.reading import Reader, left_padded

LEAST_SAVED_TOKENS = 512  # a pass of its own for what is shared costs as much as reading some hundred tokens more
LOGITS_BYTES = 2**29  # float32 logits held at once when prompts are scored


class Source(Protocol):
    """What tokens are drawn from: reads more of each row and says what may come next."""

    @property
    def can_forget(self) -> bool:
        """Whether all that was read is still there, as it was read."""

    def prefill(self, ids: torch.Tensor) -> None:
        """Read `ids` (rows, n), after which nobody asks what comes next."""

    def read(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Logits after the last of `ids` (rows, n), shape (rows, 1, vocab)."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only; a row may be named more than once."""


def shared_tokens(prompts: Sequence[tuple[int, ...]]) -> int:
    """Tokens to read once for prompts that are all different: what they begin with, or 0 where that saves too little.

    The last token that they share is not counted, so that of every prompt at least one is left, to say what follows.

    >>> opening = tuple(range(600))
    >>> shared_tokens([(*opening, 7), opening]), shared_tokens([opening]), shared_tokens([(1, 2), (1, 3)])
    (599, 0, 0)
    """
    first, last = min(prompts), max(prompts)  # in the order of words in a dictionary: these two share the least
    n_common = next((k for k, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    return n_common - 1 if (n_common - 1) * (len(prompts) - 1) >= LEAST_SAVED_TOKENS else 0


def read_prompts(loaded: LoadedModel, source: Source, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Read prompts of unequal length into a fresh source, which then has a row a prompt.

    Returns
    -------
    tensor, shape (rows, vocab), logits after each prompt

    Raises
    ------
    BrokenModel
        If one of them is NaN.
    """
    places = _places(prompts)
    distinct = list(places)
    n_shared = shared_tokens(distinct) if source.can_forget else 0
    if n_shared:
        source.prefill(torch.tensor([distinct[0][:n_shared]], device=loaded.device))
        source.keep([0] * len(distinct))
    logits = source.read(*left_padded(loaded, [prompt[n_shared:] for prompt in distinct]))[:, -1]  # (distinct, vocab)
    if logits.isnan().any():
        raise senseless(loaded.id)
    if len(distinct) == len(prompts):
        return logits
    row_of = {k: row for row, same in enumerate(places.values()) for k in same}
    rows = [row_of[k] for k in range(len(prompts))]
    source.keep(rows)
    return logits[rows]


def prompt_logprobs(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]]
) -> Iterator[tuple[list[int], int, torch.Tensor]]:
    """Score the tokens of prompts, all but each one's first, in parts that follow one another.

    Yields
    ------
    rows : list of int
        Places in `prompts` of those that the part belongs to.
    first : int
        Place in the prompt of the part's first token.
    logprobs : tensor, shape (n, vocab), float32, nats
        What the model says at places `first` to ``first + n - 1``.
    """
    places = _places(prompts)
    distinct = list(places)
    width = int(getattr(loaded.model.config, "vocab_size", loaded.vocab_size))
    n_rows = max(1, LOGITS_BYTES // (4 * width * max(map(len, distinct))))
    for start in range(0, len(distinct), n_rows):
        part, reader = distinct[start : start + n_rows], Reader(loaded)
        n_shared = shared_tokens(part) if reader.can_forget else 0
        if n_shared:
            shared = torch.tensor([part[0][:n_shared]], device=loaded.device)
            logits = reader.read(shared, n_last=n_shared)  # (1, n_shared, vocab)
            yield [k for prompt in part for k in places[prompt]], 1, logits[0].log_softmax(-1)
            reader.keep([0] * len(part))
        rests = [torch.tensor(prompt[n_shared:]) for prompt in part]
        # right padding: causal attention keeps what stands behind a token from changing its score
        ids = torch.nn.utils.rnn.pad_sequence(rests, batch_first=True).to(loaded.device)  # (part, longest)
        logits = reader.read(ids, n_last=ids.shape[1])  # (part, longest, vocab)
        for r, prompt in enumerate(part):
            yield places[prompt], n_shared + 1, logits[r, : len(prompt) - n_shared - 1].log_softmax(-1)


def _places(prompts: Sequence[Sequence[int]]) -> dict[tuple[int, ...], list[int]]:
    """Where each different prompt stands, in the order of their first places."""
    places: dict[tuple[int, ...], list[int]] = {}
    for k, prompt in enumerate(prompts):
        places.setdefault(tuple(prompt), []).append(k)
    return places
