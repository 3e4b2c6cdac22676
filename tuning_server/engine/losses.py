"""What a training step minimises: rows, the loss over them as the loop asks for it, and the supervised loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F

from tuning_server.engine.models import LoadedModel

MICRO_BATCH_BYTES = {"cpu": 2**28, "cuda": 2**32, "mps": 2**30}  # of float32 logits held at once
ROWS_AT_ONCE = 64  # where nothing is trained
NO_LIMIT = 2**31


@dataclass(frozen=True)
class TrainingRow:
    """One document: token ids with its end-of-text token; the first `n_prompt` are the prompt."""

    ids: Sequence[int]
    n_prompt: int = 0

    @property
    def n_tokens(self) -> int:
        return len(self.ids)

    @property
    def n_fed(self) -> int:
        """Tokens that the model is fed for it, padding included."""
        return len(self.ids)

    def mark(self) -> list[Any]:
        """What of it decides the weights."""
        return [list(self.ids), self.n_prompt]


class Learnable(Protocol):
    """A row of some loss."""

    @property
    def n_tokens(self) -> int: ...

    @property
    def n_fed(self) -> int: ...

    def mark(self) -> list[Any]: ...


Row = TypeVar("Row", bound=Learnable)
Row_ = TypeVar("Row_", bound=Learnable, contravariant=True)


class Objective(Protocol[Row_]):
    """A loss: sums over rows of what is minimised and of what is told besides; `weight` is what they are divided by.

    `most_rows` are passed through the model at once.
    """

    @property
    def dropout(self) -> bool: ...

    def most_rows(self, loaded: LoadedModel) -> int: ...

    def weight(self, rows: Sequence[Row_]) -> float: ...

    def sums(self, loaded: LoadedModel, rows: Sequence[Row_]) -> tuple[torch.Tensor, dict[str, float]]: ...


def tensors(rows: Sequence[TrainingRow], prompt_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and the loss weight of each id, both shape (rows, longest)."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    weights = torch.zeros(len(rows), longest)
    for k, row in enumerate(rows):
        ids[k, : len(row.ids)] = torch.tensor(row.ids)
        weights[k, : row.n_prompt] = prompt_weight
        weights[k, row.n_prompt : len(row.ids)] = 1.0
    weights[:, 0] = 0.0  # nothing comes before the first token, so nothing predicts it
    return ids, weights


def next_logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Logits of each token but the first, shape (rows, longest - 1, vocab).

    Right padding needs no mask under causal attention.
    """
    return model(input_ids=ids, use_cache=False).logits[:, :-1].float()


def weighted_nll(logits: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted negative log-likelihood of each token but the first, nats, shape (rows x (longest - 1),)."""
    nll = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return nll * weights[:, 1:].flatten()


@torch.no_grad()
def weighted_hits(logits: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> float:
    """Sum of the weights of the tokens that are the likeliest where they stand (the maximum alone is 4 x argmax)."""
    told = logits.gather(-1, ids[:, 1:, None])[..., 0]  # (rows, longest - 1)
    return float(((told >= logits.amax(-1)) * weights[:, 1:]).sum())


@dataclass(frozen=True)
class Supervised:
    """Negative log-likelihood a weighted token, nats, and how often such a token is the likeliest."""

    prompt_loss_weight: float = 0.0
    dropout: bool = True

    def most_rows(self, loaded: LoadedModel) -> int:
        return NO_LIMIT

    def weight(self, rows: Sequence[TrainingRow]) -> float:
        return max(sum(float(tensors([row], self.prompt_loss_weight)[1].sum()) for row in rows), 1e-9)

    def sums(self, loaded: LoadedModel, rows: Sequence[TrainingRow]) -> tuple[torch.Tensor, dict[str, float]]:
        ids, weights = (part.to(loaded.device) for part in tensors(rows, self.prompt_loss_weight))
        logits = next_logits(loaded.model, ids)
        told = {"mean_token_accuracy": weighted_hits(logits, ids, weights)}
        return weighted_nll(logits, ids, weights).sum(), told


def micro_batches(rows: Sequence[Row], loaded: LoadedModel, *, most_rows: int = NO_LIMIT) -> Iterator[Sequence[Row]]:
    """Cut a batch so that its logits fit in memory; gradients add up to those of the whole batch."""
    vocab = int(getattr(loaded.model.config, "vocab_size", loaded.vocab_size))
    longest = max(row.n_fed for row in rows)
    n_rows = min(most_rows, max(1, MICRO_BATCH_BYTES[loaded.device.type] // (4 * vocab * longest)))
    for start in range(0, len(rows), n_rows):
        yield rows[start : start + n_rows]


def by_length(rows: Sequence[Row], loaded: LoadedModel, *, n_rows: int = ROWS_AT_ONCE) -> Iterator[Sequence[Row]]:
    """All rows in batches of at most `n_rows` that fit in memory, the shortest first."""
    ordered = sorted(rows, key=lambda row: row.n_fed)
    for start in range(0, len(ordered), n_rows):
        yield from micro_batches(ordered[start : start + n_rows], loaded)


def added(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Sums of what two parts of a batch tell.

    >>> added({}, {"a": 1.0}), added({"a": 2.0}, {"a": 1.0})
    ({'a': 1.0}, {'a': 3.0})
    """
    return {name: one.get(name, 0.0) + value for name, value in other.items()}


@torch.no_grad()
def evaluate(loaded: LoadedModel, rows: Sequence[Row], objective: Objective[Row]) -> tuple[float, dict[str, float]]:
    """Mean loss of rows and means of what it tells besides, without training on them; in float32."""
    loaded.model.eval()
    total, weight, told = 0.0, 0.0, dict[str, float]()
    for part in by_length(rows, loaded, n_rows=min(ROWS_AT_ONCE, objective.most_rows(loaded))):
        loss, measures = objective.sums(loaded, part)
        total += float(loss)
        weight += objective.weight(part)
        told = added(told, measures)
    return total / max(weight, 1e-9), {name: value / weight for name, value in told.items()}


def mean_loss(loaded: LoadedModel, rows: Sequence[TrainingRow], *, prompt_loss_weight: float = 0.0) -> float:
    """Mean negative log-likelihood of rows, nats a weighted token, without training on them."""
    return evaluate(loaded, rows, Supervised(prompt_loss_weight))[0]
