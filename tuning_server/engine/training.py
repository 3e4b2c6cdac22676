"""How is one optimiser step done in the memory there is? A batch's gradient is added up over parts of it.

The parts follow from the machine's memory, so that a run is the same each time; only where a part still does not fit
is the step done again in parts of half the size, which can move the last digits of its sum.


The one training loop: one optimiser step per ``next()``, for pre-training, supervised fine-tuning and DPO.

`train` is the loop with the supervised loss; `preference` gives it another. It is a generator, so that
whoever drives it (a server that also samples, a command with a progress bar) stops or cancels by not asking for the
next step, and pauses by throwing `Pause` in. What resume needs is on disk: order and dropout are functions of the seed
and the step, so a stopped job ends with the weights of an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from tuning_server.disk import content_hash
from tuning_server.engine.checkpoints import Checkpoints
from tuning_server.engine.devices import TRAINING_BYTES, DoesNotFit, is_out_of_memory, memory, native_bfloat16, release
from tuning_server.engine.lora import LoraSettings, wrap
from tuning_server.engine.losses import (
    MICRO_BATCH_BYTES,
    NO_LIMIT,
    Learnable,
    Objective,
    Row,
    Supervised,
    TrainingRow,
    added,
    evaluate,
    mean_loss,
    micro_batches,
)
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.registry import drop_state

SMALL_MODEL_WEIGHTS = 500_000  # below it float32 is faster than bfloat16 (measured at widths of 64 and 128)


def precision(loaded: LoadedModel) -> str:
    """``bf16`` where the processor has it and the model gains by it, else ``no`` (float32)."""
    return "bf16" if loaded.n_weights >= SMALL_MODEL_WEIGHTS and native_bfloat16(loaded.device) else "no"


def training_room(loaded: LoadedModel) -> float:
    """Bytes of a device's memory that training a model leaves for what it computes on the way."""
    weights = list(loaded.model.parameters())
    held = sum(weight.numel() * weight.element_size() for weight in weights)
    held += sum((TRAINING_BYTES - 4) * weight.numel() for weight in weights if weight.requires_grad)
    return memory(loaded.device).usable - held


def row_bytes(loaded: LoadedModel, n_tokens: int) -> int:
    """Memory of the forward and backward pass of one row, by an estimate.

    Notes
    -----
    In 16 bits a layer keeps T h (34 + 5 a T / h) bytes of a row (T tokens, width h, a heads; Korthikanti et al. 2022,
    eq. 1), the second part where attention is not fused; here in 32 bits, with the logits held three times.
    """
    config = loaded.model.config
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
    n_layers, width, n_heads, n_vocab = (int(getattr(config, name, 0) or 0) for name in names)
    fused = getattr(config, "_attn_implementation", "") != "eager"
    layer = 34 * n_tokens * width + (0 if fused else 5 * n_heads * n_tokens**2)
    return 2 * n_layers * layer + 3 * 4 * n_tokens * n_vocab


def describe(loaded: LoadedModel) -> str:
    """Where and how a model trains, for a job's log."""
    arithmetic = "bfloat16" if precision(loaded) == "bf16" else "float32"
    weights = str(loaded.dtype).removeprefix("torch.")
    return f"Training on {loaded.device.type}: weights in {weights}, arithmetic in {arithmetic}"


@dataclass
class Stepper:
    """Does optimiser steps and remembers how many rows memory has let through at once."""

    loaded: LoadedModel
    objective: Objective
    accelerator: Accelerator
    optimizer: torch.optim.Optimizer
    clip: float
    most_rows: int = NO_LIMIT

    @cached_property
    def room(self) -> float:
        return training_room(self.loaded)

    def step(self, batch: Sequence[Learnable], *, seed: int) -> tuple[float, dict[str, float], str | None]:
        """Gradient of the batch's mean loss, clipped, applied.

        Parameters
        ----------
        seed : of dropout, where a model has it

        Returns
        -------
        loss, what it tells besides as means, and a note where memory was short

        Raises
        ------
        DoesNotFit
            If not even one row at a time fits.
        """
        note = None
        while True:
            torch.manual_seed(seed)
            parts = self._parts(batch)
            try:
                total, told = self._gradient(parts, self.objective.weight(batch))
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            release()
            largest = max(map(len, parts))
            if largest == 1:
                longest = max(row.n_fed for row in batch)
                raise DoesNotFit(
                    f"Not even one row of {longest} tokens fits in memory beside the model: shorten the rows, ask for "
                    "'lora', or choose a smaller model"
                )
            self.most_rows = largest // 2
            note = f"Memory is short: batches of {len(batch)} rows are added up over parts of {self.most_rows}"
        self.accelerator.clip_grad_norm_(self.loaded.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, told, note

    def _parts(self, batch: Sequence[Learnable]) -> list[Sequence[Learnable]]:
        longest = max(row.n_fed for row in batch)
        fitting = max(1, int(self.room // row_bytes(self.loaded, longest)))
        limits = (self.objective.most_rows(self.loaded), fitting, self.most_rows)
        return list(micro_batches(batch, self.loaded, most_rows=min(limits)))

    def _gradient(self, parts: Sequence[Sequence[Learnable]], weight: float) -> tuple[float, dict[str, float]]:
        """Leave the gradient in the weights; returns the loss and what it tells besides."""
        total, told = 0.0, dict[str, float]()
        for part in parts:
            # entered per forward pass: one autocast around the loop would go on using weights cast at its first step
            with self.accelerator.autocast():
                loss, measures = self.objective.sums(self.loaded, part)
                loss = loss / weight
            self.accelerator.backward(loss)
            total += float(loss.detach())
            told = added(told, measures)
        return total, {name: value / weight for name, value in told.items()}


__all__ = [
    "MICRO_BATCH_BYTES",
    "Pause",
    "StepReport",
    "TrainingRow",
    "TrainingSettings",
    "epoch_batches",
    "mean_loss",
    "optimise",
    "precision",
    "prepare",
    "signature",
    "train",
]

BUCKET_BATCHES = 16  # rows are sorted by length within this many batches
EAGER_TOKENS = 256  # on a processor, plain attention trains rows up to this length 1.1 to 1.5 times as fast as fused


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What a training run depends on besides its rows and its base.

    `learning_rate` is the peak: linear warm-up over `warmup_steps` (at most a tenth of all), linear decay to 5%.
    `prompt_loss_weight` in [0, 1] weighs the prompt's tokens against the completion's. `state_every` steps, besides
    each end of an epoch, what resume needs is written (0: only then). With `lora`, adapters are trained.
    """

    n_epochs: int
    batch_size: int
    learning_rate: float
    seed: int = 0
    prompt_loss_weight: float = 0.0
    weight_decay: float = 0.01
    warmup_steps: int = 50
    clip: float = 1.0
    lora: LoraSettings | None = None
    state_every: int = 0
    keep_epochs: bool = True


class Pause(Exception):
    """Thrown into a run, it makes it write what it needs to go on from the very step it is at, and end."""


@dataclass(frozen=True)
class StepReport:
    """One optimiser step.

    Losses are nats a weighted token (DPO: a pair), `measures` and `valid_measures` what else the loss tells of its
    rows, as means; `checkpoint` names a folder just written; `note` is for people.
    """

    step: int
    n_steps: int
    epoch: float
    loss: float
    learning_rate: float
    n_tokens: int
    valid_loss: float | None = None
    checkpoint: str | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    valid_measures: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None


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


def signature(loaded: LoadedModel, rows: Sequence[Learnable], settings: TrainingSettings) -> str:
    """Content hash of everything that decides the weights a run ends with."""
    told = {name: value for name, value in asdict(settings).items() if name != "lora"}  # bases are named by this hash
    if settings.lora is not None:
        told |= {"lora": asdict(settings.lora), "dtype": str(loaded.dtype)}
    return content_hash([loaded.fingerprint, precision(loaded), told, [row.mark() for row in rows]])


def prepare(loaded: LoadedModel, settings: TrainingSettings, longest_tokens: int) -> None:
    """Make a model ready to train: plain attention where it is the faster one, and adapters if they are wanted."""
    if loaded.device.type == "cpu" and longest_tokens <= EAGER_TOKENS:
        loaded.model.set_attn_implementation("eager")
    if settings.lora is not None:
        wrap(loaded, settings.lora, seed=settings.seed)


def train(
    loaded: LoadedModel,
    rows: Sequence[TrainingRow],
    settings: TrainingSettings,
    *,
    folder: Path,
    validation_rows: Sequence[TrainingRow] = (),
    describe: Callable[[int | None], dict[str, Any]] | None = None,
) -> Iterator[StepReport]:
    """Train a model in place on the tokens of its rows, one optimiser step at a time.

    Parameters
    ----------
    loaded : LoadedModel, float32 weights; a copy of its own, not one that a cache serves
    folder : where checkpoints go (``step-<n>``, ``final``) and from where an interrupted run goes on (``state-<n>``)
    validation_rows : scored after each epoch
    describe : called with the step (None for the final model); what it returns is kept as ``tuned.json``

    Yields
    ------
    StepReport
        After each step, and before what a resume needs is written: what has been told of is on disk, and a kill in
        between repeats steps but leaves out no report. Resumed runs begin after the last state on disk, and one whose
        ``final`` is there has no steps left.

    Raises
    ------
    ValueError
        If there are no rows, or `folder` holds the state of another run.
    """
    if not rows:
        raise ValueError("no rows to train on")
    if (folder / "final").exists():
        return
    prepare(loaded, settings, max(row.n_tokens for row in rows))
    checkpoints = Checkpoints(folder, signature(loaded, rows, settings), describe)
    yield from optimise(loaded, rows, settings, Supervised(settings.prompt_loss_weight), checkpoints, validation_rows)


def optimise(
    loaded: LoadedModel,
    rows: Sequence[Row],
    settings: TrainingSettings,
    objective: Objective[Row],
    checkpoints: Checkpoints,
    validation_rows: Sequence[Row] = (),
) -> Iterator[StepReport]:
    """The loop itself, from the last state on disk: minimise an objective over rows."""
    AcceleratorState._reset_state(reset_partial_state=True)  # its precision is global, and jobs differ in theirs
    accelerator = Accelerator(mixed_precision=precision(loaded), cpu=loaded.device.type == "cpu")
    model = loaded.model
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad],
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    stepper = Stepper(loaded, objective, accelerator, optimizer, clip=settings.clip)
    done, n_tokens = checkpoints.load_state(model, optimizer)
    lengths = [row.n_fed for row in rows]
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
        model.train(objective.dropout)
        batch = [rows[k] for k in batches[within]]
        loss, measures, note = stepper.step(batch, seed=settings.seed * 1_000_003 + step)
        n_tokens += sum(row.n_tokens for row in batch)
        ends_epoch, last = within == per_epoch - 1, step == n_steps - 1
        valid, valid_measures, checkpoint = None, dict[str, float](), None
        if ends_epoch:
            if validation_rows:
                valid, valid_measures = evaluate(loaded, validation_rows, objective)
            if last:
                checkpoint = checkpoints.save_model(loaded, "final", None)
            elif settings.keep_epochs:
                checkpoint = checkpoints.save_model(loaded, f"step-{step + 1}", step + 1)
        try:
            yield StepReport(
                step=step + 1,
                n_steps=n_steps,
                epoch=(step + 1) / per_epoch,
                loss=loss,
                learning_rate=rate,
                n_tokens=n_tokens,
                valid_loss=valid,
                checkpoint=checkpoint,
                measures=measures,
                valid_measures=valid_measures,
                note=note,
            )
        except Pause:
            if not last:
                checkpoints.save_state(model, optimizer, step + 1, n_tokens)
            raise
        if not last and (ends_epoch or (settings.state_every and (step + 1) % settings.state_every == 0)):
            checkpoints.save_state(model, optimizer, step + 1, n_tokens)
    model.eval()
    drop_state(checkpoints.folder)
