"""One optimiser step: the gradient of a batch, clipped and applied, by one process or by several together.

The gradient is added up over parts of the batch. Where a part does not fit in memory, the step is done again in parts
of half the size, which can change the last digits of the sum.

Several processes, which accelerate has started, each compute the gradient of their share of the batch: data-parallel,
or with sharded weights (FSDP). What they keep has the same form, so that a run may go on with another number of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch.distributed.tensor import DTensor, distribute_tensor

from tuning_server.engine import lora, losses
from tuning_server.engine.devices import DoesNotFit, is_out_of_memory, native_bfloat16, release
from tuning_server.engine.gpu import Replayed, compile_layers
from tuning_server.engine.losses import Loss, Rows
from tuning_server.engine.models import LoadedModel

if TYPE_CHECKING:
    from accelerate import Accelerator

Tensors = dict[str, torch.Tensor]
SMALL_MODEL_WEIGHTS = 500_000  # below it float32 is faster than bfloat16 (measured at widths of 64 and 128)
RECORDED_TOKENS = 8_192  # of a batch, on average: from there on, a GPU trains faster with compiled layers
LEAST_COMPILED_STEPS = 20  # compiling them takes about 10 of their steps


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


def arithmetic(loaded: LoadedModel) -> str:
    """Precision of the forward pass: ``bfloat16`` where the processor has it and the model gains by it."""
    gains = loaded.n_weights >= SMALL_MODEL_WEIGHTS and native_bfloat16(loaded.device)
    return "bfloat16" if gains else "float32"


def autocast(loaded: LoadedModel) -> torch.autocast:
    """Context of one forward pass: around a whole loop it would go on using weights cast at the first step."""
    return torch.autocast(
        loaded.device.type, dtype=torch.bfloat16, enabled=arithmetic(loaded) == "bfloat16",
        cache_enabled=loaded.device.type != "cuda",  # a recorded step must cast weights anew, and none is used twice
    )  # fmt: skip


class Stepper:
    """Does optimiser steps, and remembers how many rows fitted in memory at once."""

    rank, n_processes = 0, 1  # this process, and how many train together

    def __init__(
        self, loaded: LoadedModel, rows: Rows, loss: Loss, settings: TrainingSettings, *, is_alone: bool = True
    ) -> None:
        self.loaded, self.loss, self.clip, self.most_rows = loaded, loss, settings.clip, loss.most_rows
        self.is_alone = is_alone
        self.model: torch.nn.Module = loaded.model
        self.trained = {name: weight for name, weight in loaded.model.named_parameters() if weight.requires_grad}
        n_tokens = settings.batch_size * sum(row.n_tokens for row in rows) / len(rows)  # of a batch
        is_fast = loaded.device.type == "cuda" and is_alone  # steps of several processes are not recorded or compiled
        self.is_recorded = is_fast and n_tokens < RECORDED_TOKENS
        n_steps = settings.n_epochs * len(rows) // settings.batch_size
        if is_fast and not self.is_recorded and n_steps >= LEAST_COMPILED_STEPS:
            compile_layers(loaded.model)
        self._backward: Callable[..., losses.Sums] = self._add_gradient
        self._update: Callable[..., None] = self._move_weights
        if self.is_recorded:
            self._backward, self._update = Replayed(self._backward), Replayed(self._update)
        self.optimizer = torch.optim.AdamW(
            self.trained.values(),
            lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay,
            fused=True, capturable=loaded.device.type == "cuda",
        )  # fmt: skip

    def step(self, batch: Rows, *, learning_rate: float, seed: int) -> tuple[dict[str, float], str | None]:
        """Apply the clipped gradient of the batch's mean loss; `seed` is that of dropout.

        Returns
        -------
        means over the batch (``loss``, measures), and a note where memory was short

        Raises
        ------
        DoesNotFit
            If not even one row at a time fits.
        """
        note, is_first = None, not self.optimizer.state
        rate = torch.tensor(learning_rate, device=self.loaded.device) if self.is_recorded else learning_rate
        self.model.train(self.loss.dropout)
        while True:
            torch.manual_seed(seed + self.rank)
            share = batch[self.rank :: self.n_processes] or batch[:1]
            parts = list(losses.micro_batches(share, self.loaded, most_rows=self.most_rows))
            try:
                means = self._gradient(batch, parts)
                self._update(rate)
                return means, note
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or not self.is_alone:
                    raise
            self.is_recorded = False  # which takes memory of its own
            self._backward, self._update = self._add_gradient, self._move_weights
            self.optimizer.zero_grad(set_to_none=True)
            if is_first:  # it may have been the moments that did not fit
                self.optimizer.state.clear()
            release()
            if (largest := max(map(len, parts))) == 1:
                longest = max(row.longest for row in batch)
                raise DoesNotFit(
                    f"Not even one row of {longest} tokens fits in memory beside the model: shorten the rows, request "
                    "'lora', or choose a smaller model"
                )
            self.most_rows = largest // 2
            note = f"Memory is short: batches of {len(batch)} rows are added up over parts of {self.most_rows}"

    def _gradient(self, batch: Rows, parts: Sequence[Rows]) -> dict[str, float]:
        """Leave the gradient of a batch in the weights; returns means over the batch."""
        weight, sums = self.loss.weight(batch), dict[str, float]()
        for part in parts:
            inputs = [torch.tensor(weight), *self.loss.inputs(part)]
            inputs = losses.on_device(self.loaded, padded(inputs) if self.is_recorded else inputs)
            sums = losses.added(sums, self._backward(*inputs))
        return {name: value / weight for name, value in sums.items()}

    def _add_gradient(self, divisor: torch.Tensor, *inputs: torch.Tensor) -> losses.Sums:
        """Add the gradient of the loss of a part of a batch, divided by `divisor`; returns the part's sums."""
        with autocast(self.loaded):
            sums = self.loss.sums(self.model, *inputs)
            share = sums["loss"] / divisor
        share.backward()
        return {name: value.detach() for name, value in sums.items()}

    def _move_weights(self, learning_rate: torch.Tensor | float) -> None:
        """Apply the clipped gradient, and clear it."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not self.is_recorded)  # a recording finds gradients where they were

    def weights(self) -> Tensors | None:
        """All weights for a checkpoint; None for those of the model as it is."""
        return None

    def state(self) -> tuple[Tensors, Tensors]:
        """Weights that training changes, by name, and the optimiser's moments, by number of the weight and name.

        Of sharded ones, the first process alone gets them, in the memory of the processor.
        """
        weights = {name: self._whole(value) for name, value in self.trained.items()}
        moments = {
            f"{index}.{name}": self._whole(value)
            for index, entry in self.optimizer.state_dict()["state"].items()
            for name, value in entry.items()
        }
        return weights, moments

    def _whole(self, value: torch.Tensor) -> torch.Tensor:
        if isinstance(value, DTensor):
            gathered = value.detach().full_tensor()  # which all processes take part in
            value = gathered.cpu() if self.rank == 0 else torch.empty(0)
        return value.detach().contiguous()

    def restore(self, weights: Mapping[str, torch.Tensor], moments: Mapping[str, torch.Tensor]) -> None:
        """Put back what `state` returned; each process has read all of it, and keeps its share."""
        trained = list(self.trained.values())
        with torch.no_grad():
            for name, weight in self.trained.items():
                weight.copy_(_like(weights[name], weight))
        state = self.optimizer.state_dict()
        state["state"] = {}
        for key, value in moments.items():
            index, name = key.split(".", 1)
            state["state"].setdefault(int(index), {})[name] = _like(value, trained[int(index)])
        self.optimizer.load_state_dict(state)


def _like(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A tensor sharded as a weight is; a number (of steps) is not sharded."""
    if isinstance(weight, DTensor) and value.dim() > 0:
        return distribute_tensor(value, weight.device_mesh, weight.placements)
    return value


class SpreadStepper(Stepper):
    """Steps that several processes do together."""

    def __init__(
        self, loaded: LoadedModel, rows: Rows, loss: Loss, settings: TrainingSettings, accelerator: Accelerator
    ) -> None:
        self._accelerator, self._is_sharded = accelerator, accelerator.distributed_type == "FSDP"
        if self._is_sharded and loaded.lora:
            raise ValueError("adapters (LoRA) are trained on whole weights: use a launcher without FSDP")
        if self._is_sharded and not accelerator.is_fsdp2:
            raise ValueError("expected version 2 of FSDP, found version 1: set fsdp_version in the launcher's file")
        super().__init__(loaded, rows, loss, settings, is_alone=False)
        self.rank, self.n_processes = accelerator.process_index, accelerator.num_processes
        names = loaded.model.named_parameters
        self._tied = {name for name, _ in names(remove_duplicate=False)} - {name for name, _ in names()}
        self.model, self.optimizer = accelerator.prepare(loaded.model, self.optimizer)
        now = [weight for weight in loaded.model.parameters() if weight.requires_grad]
        self.trained = dict(zip(self.trained, now, strict=True))  # by their own names, which wrappers change

    def _gradient(self, batch: Rows, parts: Sequence[Rows]) -> dict[str, float]:
        """See `Stepper._gradient`; each process adds what its share of the rows gives, `parts` of it."""
        accelerator, device = self._accelerator, self.loaded.device
        n_parts = int(accelerator.gather(torch.tensor([len(parts)], device=device)).max())
        weight, sums = self.loss.weight(batch), dict[str, float]()
        for k in range(n_parts):  # as many for each process: all of them take part in every pass
            counts = self.rank < len(batch) and k < len(parts)
            # gradients are averaged over the processes; those of a part that does not count become 0
            divisor = torch.tensor(weight / self.n_processes if counts else math.inf)
            inputs = losses.on_device(self.loaded, [divisor, *self.loss.inputs(parts[k] if counts else parts[0])])
            with nullcontext() if k == n_parts - 1 else accelerator.no_sync(self.model):
                part = self._add_gradient(*inputs)
            sums = losses.added(sums, {name: value * counts for name, value in part.items()})
        values = accelerator.reduce(torch.tensor([*sums.values()], device=device), "sum").tolist()
        return {name: value / weight for name, value in zip(sums, values, strict=True)}

    def weights(self) -> Tensors | None:
        """All weights, gathered where they are sharded, those that are tied once."""
        if not self._is_sharded:
            return None
        gathered = self._accelerator.get_state_dict(self.model)
        return {name: value for name, value in gathered.items() if name not in self._tied}


def padded(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Inputs of a loss with longer rows, by a sixteenth or by 15 tokens at most, so that batches have few shapes.

    >>> [each.shape for each in padded([torch.tensor(2.0), torch.ones(3, 17), torch.ones(3, 1000)])]
    [torch.Size([]), torch.Size([3, 32]), torch.Size([3, 1024])]
    """

    def longer(each: torch.Tensor) -> torch.Tensor:
        step = max(16, 2 ** (each.shape[1] - 1).bit_length() // 16)
        return F.pad(each, (0, -each.shape[1] % step))

    return [longer(each) if each.dim() == 2 else each for each in inputs]
