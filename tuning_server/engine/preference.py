"""Direct preference optimisation (DPO): the second loss of the one training loop, over pairs of answers.

The reference is the model that training starts from. What it says of each pair is computed once, before the first
step, and kept on disk until the run ends: a resumed run neither computes it again nor needs a second model in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from tuning_server.engine.checkpoints import Checkpoints
from tuning_server.engine.losses import (
    NO_LIMIT,
    ROWS_AT_ONCE,
    TrainingRow,
    by_length,
    next_logits,
    tensors,
    weighted_nll,
)
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.training import StepReport, TrainingSettings, optimise, precision, prepare, signature

PAIRS_AT_ONCE = 16  # on a processor: 32 took 1.5 times as long to train on, 64 to score


@dataclass(frozen=True)
class PreferenceRow:
    """Two answers to one prompt, each a document with that prompt; the reference's margin is filled in by training.

    Parameters
    ----------
    reference_margin : log-probability of `chosen` less that of `rejected` under the reference, nats
    """

    chosen: TrainingRow
    rejected: TrainingRow
    reference_margin: float = 0.0

    @property
    def n_tokens(self) -> int:
        return self.chosen.n_tokens + self.rejected.n_tokens

    @property
    def n_fed(self) -> int:
        """Tokens that the model is fed for it, padding included."""
        return 2 * max(self.chosen.n_tokens, self.rejected.n_tokens)

    def mark(self) -> list[Any]:
        """What of it decides the weights; the reference's margin follows from the base."""
        return [self.chosen.mark(), self.rejected.mark()]


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings(TrainingSettings):
    """Settings of a DPO run; `prompt_loss_weight` has no effect, since a prompt is the same in both answers.

    Parameters
    ----------
    beta : how dear it is to move away from the reference, above 0
    """

    beta: float = 0.1


def most_pairs(loaded: LoadedModel) -> int:
    """Pairs that are passed through the model at once, where memory allows them."""
    return PAIRS_AT_ONCE if loaded.device.type == "cpu" else NO_LIMIT


def margins(loaded: LoadedModel, rows: Sequence[PreferenceRow]) -> torch.Tensor:
    """Log-probability of each chosen answer less that of the rejected one, nats, shape (rows,); differentiable."""
    documents = [row.chosen for row in rows] + [row.rejected for row in rows]
    ids, weights = (part.to(loaded.device) for part in tensors(documents, 0.0))
    nll = weighted_nll(next_logits(loaded.model, ids), ids, weights)
    chosen, rejected = nll.view(len(documents), -1).sum(1).chunk(2)
    return rejected - chosen


@dataclass(frozen=True)
class Preference:
    """The loss of DPO, nats a pair, and what it tells of the pairs.

    Notes
    -----
    Rafailov et al. 2023, eq. 7: -log sigmoid(beta (margin - reference margin)), a margin being the difference of the
    two answers' log-probabilities. ``reward_margin`` is the argument of the sigmoid, ``reward_accuracy`` how often it
    is above 0, a tie (every pair, before the first step) counting half. Dropout is off: it would add noise to the one
    model and not to the other.
    """

    beta: float
    dropout: bool = False

    def most_rows(self, loaded: LoadedModel) -> int:
        return most_pairs(loaded)

    def weight(self, rows: Sequence[PreferenceRow]) -> float:
        return float(len(rows))

    def sums(self, loaded: LoadedModel, rows: Sequence[PreferenceRow]) -> tuple[torch.Tensor, dict[str, float]]:
        reference = torch.tensor([row.reference_margin for row in rows], device=loaded.device)
        rewards = self.beta * (margins(loaded, rows) - reference)  # (rows,)
        right = (rewards.detach().sign() + 1) / 2
        told = {"reward_accuracy": float(right.sum()), "reward_margin": float(rewards.detach().sum())}
        return -F.logsigmoid(rewards).sum(), told


def train_preferences(
    loaded: LoadedModel,
    rows: Sequence[PreferenceRow],
    settings: PreferenceSettings,
    *,
    folder: Path,
    validation_rows: Sequence[PreferenceRow] = (),
    describe: Callable[[int | None], dict[str, Any]] | None = None,
) -> Iterator[StepReport | None]:
    """Train a model in place by DPO, with the model as it comes as the reference; see `training.train`.

    Yields
    ------
    StepReport or None
        None after each batch that the reference has scored, before the first step: there, too, a driver may stop.
        The reports carry ``reward_accuracy`` and ``reward_margin`` (see `Preference`).

    Raises
    ------
    ValueError
        If there are no rows, beta is not above 0, or `folder` holds the state of another run.
    """
    if not rows:
        raise ValueError("no rows to train on")
    if not settings.beta > 0:
        raise ValueError(f"beta is {settings.beta}; expected a number above 0, usually 0.1")
    if (folder / "final").exists():
        return
    prepare(loaded, settings, max(row.n_fed for row in rows) // 2)
    # with the validation rows in the mark: their margins lie beside those of the rows
    checkpoints = Checkpoints(folder, signature(loaded, [*rows, *validation_rows], settings), describe)
    kept = checkpoints.load_reference()
    if kept is None:
        kept = {}
        # as each is later compared: training in the run's precision, validation in float32
        for name, part, dtype in (("rows", rows, precision(loaded)), ("validation_rows", validation_rows, "no")):
            kept[name] = torch.zeros(len(part), dtype=torch.float32)
            yield from _fill_margins(loaded, part, kept[name], dtype)
        checkpoints.save_reference(kept)
    known, known_valid = (
        [replace(row, reference_margin=margin) for row, margin in zip(part, kept[name].tolist(), strict=True)]
        for name, part in (("rows", rows), ("validation_rows", validation_rows))
    )
    yield from optimise(loaded, known, settings, Preference(settings.beta), checkpoints, known_valid)


def _fill_margins(
    loaded: LoadedModel, rows: Sequence[PreferenceRow], target: torch.Tensor, dtype: str
) -> Iterator[None]:
    """Put the margins of rows into `target`, a batch at a time."""
    loaded.model.eval()
    order, n_done = sorted(range(len(rows)), key=lambda k: rows[k].n_fed), 0  # as `by_length` has them
    for part in by_length(rows, loaded, n_rows=min(ROWS_AT_ONCE, most_pairs(loaded))):
        with torch.no_grad(), torch.autocast(loaded.device.type, dtype=torch.bfloat16, enabled=dtype == "bf16"):
            found = margins(loaded, part)
        target[order[n_done : n_done + len(part)]] = found.float().cpu()
        n_done += len(part)
        yield
