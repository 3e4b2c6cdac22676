"""One optimiser step: the gradient of a batch, clipped and applied.

The gradient is added up over parts of the batch. Where a part does not fit in memory, the step is done again in parts
of half the size, which can change the last digits of the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from tuning_server.engine import lora, losses
from tuning_server.engine.devices import DoesNotFit, is_out_of_memory, native_bfloat16, release
from tuning_server.engine.gpu import Replayed, compile_layers
from tuning_server.engine.losses import Loss, Rows
from tuning_server.engine.models import LoadedModel

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

    def __init__(
        self, loaded: LoadedModel, rows: Rows, loss: Loss, settings: TrainingSettings, *, is_alone: bool = True
    ) -> None:
        self.loaded, self.loss, self.clip, self.most_rows = loaded, loss, settings.clip, loss.most_rows
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
        note, is_first = None, not self.optimizer.state
        rate = torch.tensor(learning_rate, device=self.loaded.device) if self.is_recorded else learning_rate
        self.model.train(self.loss.dropout)
        while True:
            torch.manual_seed(seed)
            parts = list(losses.micro_batches(batch, self.loaded, most_rows=self.most_rows))
            try:
                mean, measures = self._gradient(parts, self.loss.weight(batch))
                self._update(rate)
                return mean, measures, note
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
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

    def _gradient(self, parts: Sequence[Rows], weight: float) -> tuple[float, dict[str, float]]:
        """Leave the gradient in the weights; returns mean loss and measures."""
        mean, measures = 0.0, dict[str, float]()
        for part in parts:
            inputs = [torch.tensor(weight), *self.loss.inputs(part)]
            inputs = losses.on_device(self.loaded, padded(inputs) if self.is_recorded else inputs)
            part_mean, part_measures = self._backward(*inputs)
            mean += float(part_mean)
            measures = losses.added(measures, part_measures)
        return mean, {name: value / weight for name, value in measures.items()}

    def _add_gradient(self, weight: torch.Tensor, *inputs: torch.Tensor) -> losses.Sums:
        """Add the gradient of a part of a batch; returns its share of the mean loss, and measures."""
        with autocast(self.loaded):
            total, measures = self.loss.sums(self.model, *inputs)
            mean = total / weight
        mean.backward()
        return mean.detach(), measures

    def _move_weights(self, learning_rate: torch.Tensor | float) -> None:
        """Apply the clipped gradient, and clear it."""
        torch.nn.utils.clip_grad_norm_(self.loaded.model.parameters(), self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not self.is_recorded)  # a recording finds gradients where they were

    def weights(self) -> dict[str, torch.Tensor] | None:
        """All weights for a checkpoint; None for those of the model as it is."""
        return None

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Weights that training changes, by name, and the optimiser's moments, by number of the weight and name."""
        weights = {name: value.detach().contiguous() for name, value in self.trained.items()}
        moments = {
            f"{index}.{name}": value.contiguous()
            for index, entry in self.optimizer.state_dict()["state"].items()
            for name, value in entry.items()
        }
        return weights, moments

    def restore(self, weights: Mapping[str, torch.Tensor], moments: Mapping[str, torch.Tensor]) -> None:
        """Put back what `state` returned."""
        with torch.no_grad():
            for name, weight in self.trained.items():
                weight.copy_(weights[name])
        state = self.optimizer.state_dict()
        state["state"] = {}
        for key, value in moments.items():
            index, name = key.split(".", 1)
            state["state"].setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(state)


def padded(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Inputs of a loss with longer rows, by a sixteenth or by 15 tokens at most, so that batches have few shapes.

    >>> [each.shape for each in padded([torch.tensor(2.0), torch.ones(3, 17), torch.ones(3, 1000)])]
    [torch.Size([]), torch.Size([3, 32]), torch.Size([3, 1024])]
    """

    def longer(each: torch.Tensor) -> torch.Tensor:
        step = max(16, 2 ** (each.shape[1] - 1).bit_length() // 16)
        return F.pad(each, (0, -each.shape[1] % step))

    return [longer(each) if each.dim() == 2 else each for each in inputs]
