"""How is one optimiser step done in the memory there is? A batch's gradient is added up over parts of it.

The parts follow from the machine's memory, so that a run is the same each time; only where a part still does not fit
is the step done again in parts of half the size, which can move the last digits of its sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from accelerate import Accelerator

from lib.engine.devices import TRAINING_BYTES, DoesNotFit, is_out_of_memory, memory, native_bfloat16, release
from lib.engine.models import LoadedModel
from lib.engine.objectives import NO_LIMIT, Learnable, Objective, added, micro_batches

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
