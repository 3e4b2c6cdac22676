"""Rows to train on, their batches, and the two losses: supervised, and direct preference optimisation (DPO).

A loss makes tensors of rows (`inputs`) and sums over them, by name, what is minimised (``loss``) and some measures
(`sums`). All are divided by the `weight` of the rows, so that a batch can be added up over parts of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from tuning_server.engine.models import LoadedModel

MICRO_BATCH_BYTES = {"cpu": 2**28, "cuda": 2**32, "mps": 2**30}  # of float32 logits held at once
BUCKET_BATCHES = 16  # rows are sorted by length within this many batches
ROWS_AT_ONCE = 64  # where nothing is trained
NO_LIMIT = 2**31
Sums = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TrainingRow:
    """One document: token ids with its end-of-text token; the first `n_prompt` are the prompt."""

    ids: Sequence[int]
    n_prompt: int = 0

    @property
    def n_tokens(self) -> int:
        return len(self.ids)

    longest = n_tokens  # of its documents, of which it has one


@dataclass(frozen=True)
class PreferenceRow:
    """Two answers to one prompt, each a document with that prompt.

    Parameters
    ----------
    reference_margin : log-probability of `chosen` minus that of `rejected` under the reference, nats; set by training
    """

    chosen: TrainingRow
    rejected: TrainingRow
    reference_margin: float = 0.0

    @property
    def n_tokens(self) -> int:
        return self.chosen.n_tokens + self.rejected.n_tokens

    @property
    def longest(self) -> int:
        """Tokens of its longest document."""
        return max(self.chosen.n_tokens, self.rejected.n_tokens)


@dataclass(frozen=True)
class Supervised:
    """Negative log-likelihood per weighted token, nats; ``mean_token_accuracy`` is how often such a token is likeliest.

    Parameters
    ----------
    prompt_loss_weight : weight of a prompt's tokens, those of the completion having 1
    """

    prompt_loss_weight: float = 0.0
    dropout: ClassVar[bool] = True
    most_rows: ClassVar[int] = NO_LIMIT  # passed through the model at once, where memory allows them

    def weight(self, rows: Sequence[TrainingRow]) -> float:
        return max(sum(float(tensors([row], self.prompt_loss_weight)[1].sum()) for row in rows), 1e-9)

    def inputs(self, rows: Sequence[TrainingRow]) -> tuple[torch.Tensor, ...]:
        return tensors(rows, self.prompt_loss_weight)

    def sums(self, model: torch.nn.Module, ids: torch.Tensor, weights: torch.Tensor) -> Sums:
        logits = model(input_ids=ids, use_cache=False).logits
        total = weighted_nll(logits, ids, weights).sum()
        with torch.no_grad():
            logits = logits[:, :-1]
            target_logits = logits.gather(-1, ids[:, 1:, None])[..., 0]  # (rows, longest - 1)
            n_right = ((target_logits >= logits.amax(-1)) * weights[:, 1:]).sum()  # amax alone is 4 times argmax
        return {"loss": total, "mean_token_accuracy": n_right}


@dataclass(frozen=True)
class Preference:
    """The loss of DPO per pair, nats, with ``reward_accuracy`` and ``reward_margin``.

    Parameters
    ----------
    beta : strength of the KL penalty, above 0

    Notes
    -----
    Rafailov et al. 2023, eq. 7: -log sigmoid(beta (margin - reference margin)), a margin being the difference of the
    two answers' log-probabilities. ``reward_margin`` is the argument of the sigmoid, ``reward_accuracy`` how often it
    is above 0, a tie (every pair, before the first step) counting half. Dropout is off: it would add noise to the one
    model and not to the other.
    """

    beta: float
    dropout: ClassVar[bool] = False
    most_rows: ClassVar[int] = 16  # pairs; on a processor, 32 took 1.5 times as long to train on, 64 to score

    def weight(self, rows: Sequence[PreferenceRow]) -> float:
        return float(len(rows))

    def inputs(self, rows: Sequence[PreferenceRow]) -> tuple[torch.Tensor, ...]:
        ids, weights = tensors([row.chosen for row in rows] + [row.rejected for row in rows], 0.0)
        return ids, weights, torch.tensor([row.reference_margin for row in rows])

    def sums(self, model: torch.nn.Module, ids: torch.Tensor, weights: torch.Tensor, reference: torch.Tensor) -> Sums:
        rewards = self.beta * (margins(model, ids, weights) - reference)  # (rows,)
        n_right = (rewards.detach().sign() + 1) / 2
        margin = rewards.detach().sum()
        return {"loss": -F.logsigmoid(rewards).sum(), "reward_accuracy": n_right.sum(), "reward_margin": margin}


Rows = Sequence[Any]  # all of one kind, that of their loss
Loss = Supervised | Preference


def tensors(rows: Sequence[TrainingRow], prompt_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and the loss weight of each id, both shape (rows, longest)."""
    ids = pad_sequence([torch.tensor(row.ids) for row in rows], batch_first=True)
    of_rows = [[prompt_weight] * row.n_prompt + [1.0] * (len(row.ids) - row.n_prompt) for row in rows]
    weights = pad_sequence([torch.tensor(of_row) for of_row in of_rows], batch_first=True)
    weights[:, 0] = 0.0  # nothing comes before the first token, so nothing predicts it
    return ids, weights


def weighted_nll(logits: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted negative log-likelihood of each token but the first, nats, shape (rows x (longest - 1),).

    Right-padded rows need no mask: under causal attention, no token depends on those behind it.
    """
    predicted = logits[:, :-1].flatten(0, 1).float()
    return F.cross_entropy(predicted, ids[:, 1:].flatten(), reduction="none") * weights[:, 1:].flatten()


def margins(model: torch.nn.Module, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Log-probability of each chosen answer minus that of the rejected one, nats, shape (rows,); differentiable.

    Parameters
    ----------
    ids, weights : of the chosen answers, followed by those of the rejected ones; see `Preference.inputs`
    """
    nll = weighted_nll(model(input_ids=ids, use_cache=False).logits, ids, weights)
    chosen, rejected = nll.view(len(ids), -1).sum(1).chunk(2)
    return rejected - chosen


def epoch_batches(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """Row numbers of each batch of an epoch: random, with rows of like length together.

    >>> [sorted(batch.tolist()) for batch in epoch_batches([3, 9, 3, 9], 2, seed=0, epoch=0)] in (
    ...     [[0, 2], [1, 3]], [[1, 3], [0, 2]])
    True
    """
    rng = np.random.default_rng([seed, epoch])
    order, batches = rng.permutation(len(lengths)), []
    for start in range(0, len(order), batch_size * BUCKET_BATCHES):
        chunk = order[start : start + batch_size * BUCKET_BATCHES]
        chunk = chunk[np.argsort(np.asarray(lengths)[chunk], kind="stable")]
        bucket = [chunk[k : k + batch_size] for k in range(0, len(chunk), batch_size)]
        batches += [bucket[k] for k in rng.permutation(len(bucket))]
    return batches


def micro_batches(rows: Rows, loaded: LoadedModel, *, most_rows: int = NO_LIMIT) -> Iterator[Rows]:
    """Cut a batch so that its logits fit in memory; gradients add up to those of the whole batch."""
    n_bytes = 4 * loaded.n_outputs * max(row.n_tokens for row in rows)  # of the logits of the largest row
    n_rows = min(most_rows, max(1, MICRO_BATCH_BYTES[loaded.device.type] // n_bytes))
    for start in range(0, len(rows), n_rows):
        yield rows[start : start + n_rows]


def by_length(rows: Rows, loaded: LoadedModel, loss: Loss) -> Iterator[Rows]:
    """All rows in batches that fit in memory, the shortest first, for where nothing is trained."""
    ordered, n_rows = sorted(rows, key=lambda row: row.longest), min(ROWS_AT_ONCE, loss.most_rows)
    for start in range(0, len(ordered), n_rows):
        yield from micro_batches(ordered[start : start + n_rows], loaded)


def added(one: Mapping[str, float], other: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Sums of two parts of a batch.

    >>> added({}, {"a": torch.tensor(1.0)}), added({"a": 2.0}, {"a": torch.tensor(1.0)})
    ({'a': 1.0}, {'a': 3.0})
    """
    return {name: one.get(name, 0.0) + float(value) for name, value in other.items()}


def on_device(loaded: LoadedModel, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [each.to(loaded.device) for each in inputs]


@torch.no_grad()
def evaluate(loaded: LoadedModel, rows: Rows, loss: Loss, model: torch.nn.Module | None = None) -> dict[str, float]:
    """Mean loss and measures of rows, without training on them; in float32.

    Parameters
    ----------
    model : what the model of `loaded` is wrapped in, if anything
    """
    model = loaded.model if model is None else model
    model.eval()
    weight, sums = 0.0, dict[str, float]()
    for part in by_length(rows, loaded, loss):
        sums = added(sums, loss.sums(model, *on_device(loaded, loss.inputs(part))))
        weight += loss.weight(part)
    return {name: value / weight for name, value in sums.items()}
