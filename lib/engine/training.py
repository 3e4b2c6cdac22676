"""The one training loop: pre-training and supervised fine-tuning, one optimiser step per ``next()``.

It is a generator, so that whoever drives it (a server that also samples, a command with a progress bar) stops, pauses
or cancels by not asking for the next step. What resume needs is on disk: order and dropout are functions of the seed
and the step, so a stopped job ends with the weights of an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from lib.engine.checkpoints import Checkpoints, drop_state
from lib.engine.models import LoadedModel, native_bfloat16
from lib.paths import content_hash

BUCKET_BATCHES = 16  # rows are sorted by length within this many batches
EAGER_TOKENS = 256  # on a processor, plain attention trains rows up to this length 1.1 to 1.5 times as fast as fused
SMALL_MODEL_WEIGHTS = 500_000  # below it float32 is faster than bfloat16 (measured at widths of 64 and 128)
MICRO_BATCH_BYTES = {"cpu": 2**28, "cuda": 2**32, "mps": 2**30}  # of float32 logits held at once


@dataclass(frozen=True)
class TrainingRow:
    """One document: token ids with its end-of-text token; the first `n_prompt` are the prompt."""

    ids: Sequence[int]
    n_prompt: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What a training run depends on besides its rows and its base.

    `learning_rate` is the peak: linear warm-up over `warmup_steps` (at most a tenth of all), linear decay to 5%.
    `prompt_loss_weight` in [0, 1] weighs the prompt's tokens against the completion's. `state_every` steps, besides
    each end of an epoch, what resume needs is written (0: only then).
    """

    n_epochs: int
    batch_size: int
    learning_rate: float
    seed: int = 0
    prompt_loss_weight: float = 0.0
    weight_decay: float = 0.01
    warmup_steps: int = 50
    clip: float = 1.0
    state_every: int = 0
    keep_epochs: bool = True


@dataclass(frozen=True)
class StepReport:
    """One optimiser step. Losses are nats a weighted token; `checkpoint` names a folder just written."""

    step: int
    n_steps: int
    epoch: float
    loss: float
    learning_rate: float
    n_tokens: int
    valid_loss: float | None = None
    checkpoint: str | None = None


def precision(loaded: LoadedModel) -> str:
    """``bf16`` where the processor has it and the model gains by it, else ``no`` (float32)."""
    return "bf16" if loaded.n_weights >= SMALL_MODEL_WEIGHTS and native_bfloat16(loaded.device) else "no"


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


def _tensors(rows: Sequence[TrainingRow], prompt_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
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


def supervised_loss(model: torch.nn.Module, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sum of the negative log-likelihood, nats. Right padding needs no mask under causal attention."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()  # (rows, longest - 1, vocab)
    nll = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (nll * weights[:, 1:].flatten()).sum()


def _micro_batches(rows: list[TrainingRow], loaded: LoadedModel) -> Iterator[list[TrainingRow]]:
    """Cut a batch so that its logits fit in memory; gradients add up to those of the whole batch."""
    vocab = int(getattr(loaded.model.config, "vocab_size", loaded.vocab_size))
    longest = max(len(row.ids) for row in rows)
    n_rows = max(1, MICRO_BATCH_BYTES[loaded.device.type] // (4 * vocab * longest))
    for start in range(0, len(rows), n_rows):
        yield rows[start : start + n_rows]


@torch.no_grad()
def mean_loss(loaded: LoadedModel, rows: Sequence[TrainingRow], *, prompt_loss_weight: float = 0.0) -> float:
    """Mean negative log-likelihood of rows, nats a weighted token, without training on them."""
    loaded.model.eval()
    total = weight = 0.0
    by_length = sorted(rows, key=lambda row: len(row.ids))
    for start in range(0, len(by_length), 64):
        for part in _micro_batches(by_length[start : start + 64], loaded):
            ids, weights = _tensors(part, prompt_loss_weight)
            ids, weights = ids.to(loaded.device), weights.to(loaded.device)
            total += float(supervised_loss(loaded.model, ids, weights))
            weight += float(weights.sum())
    return total / max(weight, 1e-9)


def signature(loaded: LoadedModel, rows: Sequence[TrainingRow], settings: TrainingSettings) -> str:
    """Content hash of everything that decides the weights a run ends with."""
    return content_hash(
        [loaded.fingerprint, precision(loaded), asdict(settings), [[list(row.ids), row.n_prompt] for row in rows]]
    )


def train(
    loaded: LoadedModel,
    rows: Sequence[TrainingRow],
    settings: TrainingSettings,
    *,
    folder: Path,
    validation_rows: Sequence[TrainingRow] = (),
    describe: Callable[[int | None], dict[str, Any]] | None = None,
) -> Iterator[StepReport]:
    """Train a model in place, one optimiser step at a time.

    Parameters
    ----------
    loaded : LoadedModel, float32 weights; a copy of its own, not one that a cache serves
    folder : where checkpoints go (``step-<n>``, ``final``) and from where an interrupted run goes on (``state-<n>``)
    validation_rows : scored after each epoch
    describe : called with the step (None for the final model); what it returns is kept as ``tuned.json``

    Yields
    ------
    StepReport
        After each step; resumed runs begin after the last state on disk, and one whose ``final`` is there has no steps
        left.

    Raises
    ------
    ValueError
        If there are no rows, or `folder` holds the state of another run.
    """
    if not rows:
        raise ValueError("no rows to train on")
    if (folder / "final").exists():
        return
    AcceleratorState._reset_state(reset_partial_state=True)  # its precision is global, and jobs differ in theirs
    accelerator = Accelerator(mixed_precision=precision(loaded), cpu=loaded.device.type == "cpu")
    model = loaded.model
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    checkpoints = Checkpoints(folder, signature(loaded, rows, settings), describe)
    done, n_tokens = checkpoints.load_state(model, optimizer)
    lengths = [len(row.ids) for row in rows]
    if loaded.device.type == "cpu" and max(lengths) <= EAGER_TOKENS:
        model.set_attn_implementation("eager")
    per_epoch = -(-len(rows) // settings.batch_size)
    n_steps = per_epoch * settings.n_epochs
    warmup = max(1, min(settings.warmup_steps, n_steps // 10))
    for step in range(done, n_steps):
        epoch, within = divmod(step, per_epoch)
        if within == 0 or step == done:
            batches = epoch_batches(lengths, settings.batch_size, seed=settings.seed, epoch=epoch)
        rate = settings.learning_rate * min(
            (step + 1) / warmup, 0.05 + 0.95 * (n_steps - step) / max(1, n_steps - warmup)
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout, where a model has it
        model.train()
        batch = [rows[k] for k in batches[within]]
        loss = _optimiser_step(loaded, batch, settings, accelerator, optimizer)
        n_tokens += sum(len(row.ids) for row in batch)
        ends_epoch, last = within == per_epoch - 1, step == n_steps - 1
        valid = checkpoint = None
        if ends_epoch:
            if validation_rows:
                valid = mean_loss(loaded, validation_rows, prompt_loss_weight=settings.prompt_loss_weight)
            if last:
                checkpoint = checkpoints.save_model(loaded, "final", None)
            elif settings.keep_epochs:
                checkpoint = checkpoints.save_model(loaded, f"step-{step + 1}", step + 1)
        if not last and (ends_epoch or (settings.state_every and (step + 1) % settings.state_every == 0)):
            checkpoints.save_state(model, optimizer, step + 1, n_tokens)
        yield StepReport(step + 1, n_steps, (step + 1) / per_epoch, loss, rate, n_tokens, valid, checkpoint)
    model.eval()
    drop_state(folder)


def _optimiser_step(
    loaded: LoadedModel,
    batch: list[TrainingRow],
    settings: TrainingSettings,
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
) -> float:
    """Gradient of the batch's mean loss, clipped, applied. Returns the loss, nats a weighted token."""
    total = 0.0
    weight = sum(float(_tensors([row], settings.prompt_loss_weight)[1].sum()) for row in batch)
    for part in _micro_batches(batch, loaded):
        ids, weights = _tensors(part, settings.prompt_loss_weight)
        # entered per forward pass: one autocast around the loop would go on using weights cast at its first step
        with accelerator.autocast():
            loss = supervised_loss(loaded.model, ids.to(loaded.device), weights.to(loaded.device)) / max(weight, 1e-9)
        accelerator.backward(loss)
        total += float(loss.detach())
    accelerator.clip_grad_norm_(loaded.model.parameters(), settings.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total
