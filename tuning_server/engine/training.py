"""The one training loop, for pre-training, supervised fine-tuning and DPO: one optimiser step per ``next()``.

It is a generator, so that its driver (a server that also samples, a command with a progress bar) stops or cancels by
not asking for the next step, and pauses by throwing `Pause` in. What resuming needs is on disk: order and dropout are
functions of the seed and the step, so a stopped run ends with the weights of an undisturbed one.

DPO compares with the model that training starts from. What that model gives each pair is computed before the first
step, and again when a run resumes: the model comes as the base, before the last state is loaded into it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuning_server.disk import content_hash
from tuning_server.engine import lora, losses
from tuning_server.engine.checkpoints import Checkpoints
from tuning_server.engine.losses import Loss, Preference, PreferenceRow, Rows, Supervised
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.steps import SpreadStepper, Stepper, TrainingSettings, arithmetic, autocast

if TYPE_CHECKING:
    from accelerate import Accelerator

EAGER_TOKENS = 256  # on a processor, plain attention trains rows up to this length 1.1 to 1.5 times as fast as fused


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


def describe(loaded: LoadedModel) -> str:
    """Where and how a model trains, for a job's log."""
    weights = str(loaded.model.dtype).removeprefix("torch.")
    return f"Training on {loaded.device.type}: weights in {weights}, arithmetic in {arithmetic(loaded)}"


def signature(loaded: LoadedModel, rows: Rows, validation_rows: Rows, settings: TrainingSettings) -> str:
    """Hash of all that decides the weights that a run ends with, and its reports."""
    decides = {k: v for k, v in asdict(settings).items() if k not in ("state_every", "keep_epochs")}
    base = [loaded.fingerprint, str(loaded.model.dtype), arithmetic(loaded)]
    return content_hash([base, decides, repr([*rows]), repr([*validation_rows])])


def train(
    loaded: LoadedModel,
    rows: Rows,
    settings: TrainingSettings,
    *,
    folder: Path,
    validation_rows: Rows = (),
    describe: Callable[[int | None], dict[str, Any]] | None = None,
    accelerator: Accelerator | None = None,
) -> Generator[StepReport | None, None, None]:
    """Train a model in place, one optimiser step at a time.

    Parameters
    ----------
    loaded : a copy of its own, not one that a cache serves; float32 weights, unless adapters are trained
    rows : of `losses.TrainingRow`, or for DPO of `losses.PreferenceRow`
    folder : where checkpoints go and from where an interrupted run goes on; see `tuning_server.engine.checkpoints`
    validation_rows : evaluated after each epoch
    describe : called with the step (None for the final model); what it returns is kept as ``tuned.json``
    accelerator : where several processes train together, all of which go through this function

    Yields
    ------
    StepReport or None
        A report after each step, and before what resuming needs is written: a checkpoint that is reported is on disk,
        and a kill in between repeats steps but leaves out no report. Resumed runs begin after the last state on disk
        (which the caller deletes in the end), and one whose ``final`` is there has no steps left. Before the first
        step of DPO, None after each batch that the reference has scored.

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
    own = signature(loaded, rows, validation_rows, settings)
    checkpoints = Checkpoints(folder, own, describe, accelerator)
    loss: Loss = Supervised(settings.prompt_loss_weight)
    if settings.beta is not None:
        loss = Preference(settings.beta)
        # as each is later compared: training in the run's precision, validation in float32
        rows = yield from _with_reference(loaded, rows, loss, autocast)
        validation_rows = yield from _with_reference(loaded, validation_rows, loss, lambda _: nullcontext())
    if accelerator is None:
        stepper = Stepper(loaded, rows, loss, settings)
    else:
        stepper = SpreadStepper(loaded, rows, loss, settings, accelerator)
    yield from _optimise(stepper, rows, settings, checkpoints, validation_rows)


def _with_reference(
    loaded: LoadedModel, rows: Sequence[PreferenceRow], loss: Loss, context: Callable[[LoadedModel], Any]
) -> Generator[None, None, list[PreferenceRow]]:
    """Rows with the margins that the model gives them as it is."""
    loaded.model.eval()
    margins: dict[int, float] = {}
    for part in losses.by_length(rows, loaded, loss):
        with torch.no_grad(), context(loaded):
            inputs = losses.on_device(loaded, loss.inputs(part)[:2])
            margins |= zip(map(id, part), losses.margins(loaded.model, *inputs).tolist(), strict=True)
        yield
    return [replace(row, reference_margin=margins[id(row)]) for row in rows]


def _optimise(
    stepper: Stepper, rows: Rows, settings: TrainingSettings, checkpoints: Checkpoints, validation_rows: Rows
) -> Iterator[StepReport]:
    """The loop itself, from the last state on disk."""
    loaded, done, n_tokens = stepper.loaded, 0, 0
    if (saved := checkpoints.load_state()) is not None:
        weights, moments, done, n_tokens = saved
        stepper.restore(weights, moments)
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
        means, note = stepper.step(batch, learning_rate=rate, seed=settings.seed * 1_000_003 + step)
        n_tokens += sum(row.n_tokens for row in batch)
        ends_epoch, last = within == per_epoch - 1, step == n_steps - 1
        valid, checkpoint = dict[str, float](), None
        if ends_epoch and validation_rows:
            valid = losses.evaluate(loaded, validation_rows, stepper.loss, stepper.model)
        if last:
            checkpoint = checkpoints.save_model(loaded, "final", None, stepper.weights())
        elif ends_epoch and settings.keep_epochs:
            checkpoint = checkpoints.save_model(loaded, f"step-{step + 1}", step + 1, stepper.weights())
        report = StepReport(
            step=step + 1, n_steps=n_steps, epoch=(step + 1) / per_epoch, loss=means.pop("loss"), learning_rate=rate,
            n_tokens=n_tokens, valid_loss=valid.pop("loss", None), checkpoint=checkpoint, measures=means,
            valid_measures=valid, note=note,
        )  # fmt: skip
        try:
            yield report
        except Pause:
            if not last:
                checkpoints.save_state(*stepper.state(), step + 1, n_tokens)
            raise
        if not last and (ends_epoch or (settings.state_every and (step + 1) % settings.state_every == 0)):
            checkpoints.save_state(*stepper.state(), step + 1, n_tokens)
    loaded.model.eval()
