"""The one training loop, for pre-training, supervised fine-tuning and DPO: one optimiser step per ``next()``.

It is a generator, so that its driver (a server that also samples, a command with a progress bar) stops or cancels by
not asking for the next step, and pauses by throwing `Pause` in. What resuming needs is on disk: order and dropout are
functions of the seed and the step, so a stopped run ends with the weights of an undisturbed one.

The gradient of a batch is added up over parts of it. Where a part does not fit in memory, the step is done again in
parts of half the size, which can change the last digits of the sum.

DPO compares with the model that training starts from. What that model gives each pair is computed before the first
step, and again when a run resumes: the model comes as the base, before the last state is loaded into it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tuning_server.disk import content_hash
from tuning_server.engine import lora, losses
from tuning_server.engine.checkpoints import Checkpoints
from tuning_server.engine.devices import DoesNotFit, is_out_of_memory, native_bfloat16, release
from tuning_server.engine.losses import Loss, Preference, PreferenceRow, Rows, Supervised
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.registry import drop_state

SMALL_MODEL_WEIGHTS = 500_000  # below it float32 is faster than bfloat16 (measured at widths of 64 and 128)
EAGER_TOKENS = 256  # on a processor, plain attention trains rows up to this length 1.1 to 1.5 times as fast as fused


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What a training run depends on besides its rows and its base.

    `learning_rate` is the peak: linear warm-up over `warmup_steps` (at most a tenth of all), linear decay to 5%.
    `prompt_loss_weight` in [0, 1] weighs the prompt's tokens against the completion's. With `lora`, adapters are
    trained. With `beta` (strength of the KL penalty, above 0), the rows are pairs of answers and the loss is that of
    DPO. What resuming needs is written at each end of an epoch, and every `state_every` steps (0: only then).
    """

    n_epochs: int
    batch_size: int
    learning_rate: float
    seed: int = 0
    prompt_loss_weight: float = 0.0
    weight_decay: float = 0.01
    warmup_steps: int = 50
    clip: float = 1.0
    lora: lora.LoraSettings | None = None
    beta: float | None = None
    state_every: int = 0
    keep_epochs: bool = True


class Pause(Exception):
    """Thrown into a run, it makes it write what it needs to go on from the very step it is at, and end."""


@dataclass(frozen=True)
class StepReport:
    """One optimiser step.

    Losses are nats per weighted token (DPO: per pair), `measures` and `valid_measures` the means of what else the loss
    computes; `checkpoint` names a folder just written; `note` is for people.
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


def arithmetic(loaded: LoadedModel) -> str:
    """Precision of the forward pass: ``bfloat16`` where the processor has it and the model gains by it."""
    gains = loaded.n_weights >= SMALL_MODEL_WEIGHTS and native_bfloat16(loaded.device)
    return "bfloat16" if gains else "float32"


def autocast(loaded: LoadedModel) -> torch.autocast:
    """Context of one forward pass: around a whole loop it would go on using weights cast at the first step."""
    return torch.autocast(loaded.device.type, dtype=torch.bfloat16, enabled=arithmetic(loaded) == "bfloat16")


def describe(loaded: LoadedModel) -> str:
    """Where and how a model trains, for a job's log."""
    weights = str(loaded.model.dtype).removeprefix("torch.")
    return f"Training on {loaded.device.type}: weights in {weights}, arithmetic in {arithmetic(loaded)}"


def signature(loaded: LoadedModel, rows: Rows, settings: TrainingSettings) -> str:
    """Hash of all that decides the weights a run ends with, by names of its own: those of the code may change."""
    decides = {
        "base": loaded.fingerprint, "arithmetic": arithmetic(loaded), "rows": [row.key() for row in rows],
        "epochs": settings.n_epochs, "batch_size": settings.batch_size, "learning_rate": settings.learning_rate,
        "seed": settings.seed, "prompt_loss_weight": settings.prompt_loss_weight, "clip": settings.clip,
        "weight_decay": settings.weight_decay, "warmup_steps": settings.warmup_steps,
    }  # fmt: skip
    if settings.beta is not None:
        decides["beta"] = settings.beta
    if settings.lora is not None:
        decides |= {"lora": asdict(settings.lora), "weights": str(loaded.model.dtype)}
    return content_hash(decides)


def train(
    loaded: LoadedModel,
    rows: Rows,
    settings: TrainingSettings,
    *,
    folder: Path,
    validation_rows: Rows = (),
    describe: Callable[[int | None], dict[str, Any]] | None = None,
) -> Generator[StepReport | None, None, None]:
    """Train a model in place, one optimiser step at a time.

    Parameters
    ----------
    loaded : a copy of its own, not one that a cache serves; float32 weights, unless adapters are trained
    rows : of `losses.TrainingRow`, or for DPO of `losses.PreferenceRow`
    folder : where checkpoints go and from where an interrupted run goes on; see `tuning_server.engine.checkpoints`
    validation_rows : evaluated after each epoch
    describe : called with the step (None for the final model); what it returns is kept as ``tuned.json``

    Yields
    ------
    StepReport or None
        A report after each step, and before what resuming needs is written: a checkpoint that is reported is on disk,
        and a kill in between repeats steps but leaves out no report. Resumed runs begin after the last state on disk,
        and one whose ``final`` is there has no steps left. Before the first step of DPO, None after each batch that
        the reference has scored.

    Raises
    ------
    ValueError
        If `folder` holds the state of another run.
    """
    if (folder / "final").exists():
        return
    if loaded.device.type == "cpu" and max(row.longest for row in rows) <= EAGER_TOKENS:
        loaded.model.set_attn_implementation("eager")
    if settings.lora is not None:
        n_weights = loaded.n_weights  # without the adapters
        loaded.model = lora.wrap(loaded.model, settings.lora, seed=settings.seed)
        loaded.lora, loaded.n_weights = settings.lora, n_weights
    checkpoints = Checkpoints(folder, signature(loaded, [*rows, *validation_rows], settings), describe)
    loss: Loss = Supervised(settings.prompt_loss_weight)
    if settings.beta is not None:
        loss = Preference(settings.beta)
        # as each is later compared: training in the run's precision, validation in float32
        rows = yield from _with_reference(loaded, rows, loss, autocast)
        validation_rows = yield from _with_reference(loaded, validation_rows, loss, lambda _: nullcontext())
    yield from _optimise(loaded, rows, settings, loss, checkpoints, validation_rows)


def _with_reference(
    loaded: LoadedModel, rows: Sequence[PreferenceRow], loss: Loss, context: Callable[[LoadedModel], Any]
) -> Generator[None, None, list[PreferenceRow]]:
    """Rows with the margins that the model gives them as it is."""
    loaded.model.eval()
    margins: dict[int, float] = {}
    for part in losses.by_length(rows, loaded, loss):
        with torch.no_grad(), context(loaded):
            margins |= zip(map(id, part), losses.margins(loaded, part).tolist(), strict=True)
        yield
    return [replace(row, reference_margin=margins[id(row)]) for row in rows]


def _optimise(
    loaded: LoadedModel,
    rows: Rows,
    settings: TrainingSettings,
    loss: Loss,
    checkpoints: Checkpoints,
    validation_rows: Rows,
) -> Iterator[StepReport]:
    """The loop itself, from the last state on disk."""
    model, stepper = loaded.model, Stepper(loaded, loss, settings)
    done, n_tokens = checkpoints.load_state(model, stepper.optimizer)
    lengths = [row.longest for row in rows]
    per_epoch = -(-len(rows) // settings.batch_size)
    n_steps = per_epoch * settings.n_epochs
    warmup = max(1, min(settings.warmup_steps, n_steps // 10))
    for step in range(done, n_steps):
        epoch, within = divmod(step, per_epoch)
        if within == 0 or step == done:
            batches = losses.epoch_batches(lengths, settings.batch_size, seed=settings.seed, epoch=epoch)
        batch = [rows[k] for k in batches[within]]
        decay = 0.05 + 0.95 * (n_steps - step) / max(1, n_steps - warmup)
        rate = settings.learning_rate * min((step + 1) / warmup, decay)
        mean, measures, note = stepper.step(batch, learning_rate=rate, seed=settings.seed * 1_000_003 + step)
        n_tokens += sum(row.n_tokens for row in batch)
        ends_epoch, last = within == per_epoch - 1, step == n_steps - 1
        valid, valid_measures, checkpoint = None, dict[str, float](), None
        if ends_epoch and validation_rows:
            valid, valid_measures = losses.evaluate(loaded, validation_rows, loss)
        if last:
            checkpoint = checkpoints.save_model(loaded, "final", None)
        elif ends_epoch and settings.keep_epochs:
            checkpoint = checkpoints.save_model(loaded, f"step-{step + 1}", step + 1)
        report = StepReport(
            step=step + 1, n_steps=n_steps, epoch=(step + 1) / per_epoch, loss=mean, learning_rate=rate,
            n_tokens=n_tokens, valid_loss=valid, checkpoint=checkpoint, measures=measures,
            valid_measures=valid_measures, note=note,
        )  # fmt: skip
        try:
            yield report
        except Pause:
            if not last:
                checkpoints.save_state(model, stepper.optimizer, step + 1, n_tokens)
            raise
        if not last and (ends_epoch or (settings.state_every and (step + 1) % settings.state_every == 0)):
            checkpoints.save_state(model, stepper.optimizer, step + 1, n_tokens)
    model.eval()
    drop_state(checkpoints.folder)


class Stepper:
    """Does optimiser steps, and remembers how many rows fitted in memory at once."""

    def __init__(self, loaded: LoadedModel, loss: Loss, settings: TrainingSettings) -> None:
        self.loaded, self.loss, self.clip = loaded, loss, settings.clip
        self.most_rows = loss.most_rows
        self.optimizer = torch.optim.AdamW(
            [weight for weight in loaded.model.parameters() if weight.requires_grad],
            lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay, fused=True,
        )  # fmt: skip

    def step(self, batch: Rows, *, learning_rate: float, seed: int) -> tuple[float, dict[str, float], str | None]:
        """Apply the clipped gradient of the batch's mean loss; `seed` is that of dropout.

        Returns
        -------
        mean loss, means of the measures, and a note where memory was short

        Raises
        ------
        DoesNotFit
            If not even one row at a time fits.
        """
        model, note = self.loaded.model, None
        model.train(self.loss.dropout)
        while True:
            torch.manual_seed(seed)
            parts = list(losses.micro_batches(batch, self.loaded, most_rows=self.most_rows))
            try:
                mean, measures = self._gradient(parts, self.loss.weight(batch))
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            release()
            if (largest := max(map(len, parts))) == 1:
                longest = max(row.longest for row in batch)
                raise DoesNotFit(
                    f"Not even one row of {longest} tokens fits in memory beside the model: shorten the rows, request "
                    "'lora', or choose a smaller model"
                )
            self.most_rows = largest // 2
            note = f"Memory is short: batches of {len(batch)} rows are added up over parts of {self.most_rows}"
        torch.nn.utils.clip_grad_norm_(model.parameters(), self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return mean, measures, note

    def _gradient(self, parts: Sequence[Rows], weight: float) -> tuple[float, dict[str, float]]:
        """Leave the gradient in the weights; returns mean loss and measures."""
        mean, measures = 0.0, dict[str, float]()
        for part in parts:
            with autocast(self.loaded):
                total, part_measures = self.loss.sums(self.loaded, part)
                part_mean = total / weight
            part_mean.backward()
            mean += float(part_mean.detach())
            measures = losses.added(measures, part_measures)
        return mean, {name: value / weight for name, value in measures.items()}
