"""Training on several processes that accelerate has started: data-parallel, or with sharded weights (FSDP).

All processes go through `training.train` together. Each computes the gradient of its share of every batch; one of them
writes, in the format of `checkpoints`, so that a run may go on with another number of processes, or with one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuning_server.engine import losses
from tuning_server.engine.checkpoints import Checkpoints, Tensors
from tuning_server.engine.losses import Loss, Rows
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.steps import Stepper, TrainingSettings

if TYPE_CHECKING:
    from accelerate import Accelerator


class SpreadStepper(Stepper):
    """Optimiser steps that all processes do together."""

    def __init__(
        self, loaded: LoadedModel, rows: Rows, loss: Loss, settings: TrainingSettings, accelerator: Accelerator
    ) -> None:
        if loaded.lora and accelerator.distributed_type == "FSDP":
            raise ValueError("adapters (LoRA) are trained on whole weights: use a launcher without FSDP")
        super().__init__(loaded, rows, loss, settings, is_alone=False)
        self._accelerator, self._names = accelerator, list(self.trained)
        parameters = loaded.model.named_parameters
        self._tied = {name for name, _ in parameters(remove_duplicate=False)} - {name for name, _ in parameters()}
        self.model, self.optimizer = accelerator.prepare(loaded.model, self.optimizer)

    def step(self, batch: Rows, *, learning_rate: float, seed: int) -> tuple[float, dict[str, float], str | None]:
        """Apply the clipped gradient of the batch's mean loss; each process computes that of its share of the rows."""
        accelerator, n = self._accelerator, self._accelerator.num_processes
        self.model.train(self.loss.dropout)
        torch.manual_seed(seed + accelerator.process_index)
        share = batch[accelerator.process_index :: n]
        parts = list(losses.micro_batches(share or batch[:1], self.loaded, most_rows=self.most_rows))
        n_parts = int(accelerator.gather(torch.tensor([len(parts)], device=self.loaded.device)).max())
        weight, sums = self.loss.weight(batch) / n, dict[str, float]()  # gradients are averaged over the processes
        for k in range(n_parts):  # as many for each process: all of them take part in every pass
            counts = bool(share) and k < len(parts)
            divisor = torch.tensor(weight if counts else math.inf)
            inputs = losses.on_device(self.loaded, [divisor, *self.loss.inputs(parts[k] if counts else parts[0])])
            with nullcontext() if k == n_parts - 1 else accelerator.no_sync(self.model):
                mean, measures = self._add_gradient(*inputs)
            if counts:
                sums = losses.added(sums, {"loss": mean, **measures})
        accelerator.clip_grad_norm_(self.model.parameters(), self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        values = torch.tensor(
            [sums.get(name, 0.0) for name in ("loss", *self.loss.measures)], device=self.loaded.device
        )
        loss, *of_measures = accelerator.reduce(values, "sum").tolist()
        return (
            loss / n,
            {name: value / n / weight for name, value in zip(self.loss.measures, of_measures, strict=True)},
            None,
        )

    def weights(self) -> Tensors | None:
        """All weights, gathered, those that are tied once; adapters are whole on each process."""
        if self.loaded.lora:
            return None
        gathered = self._accelerator.get_state_dict(self.model)
        return {name: value for name, value in gathered.items() if name not in self._tied}

    def state(self) -> tuple[Tensors, Tensors]:
        """See `Stepper.state`; gathered, for the process that writes."""
        from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

        weights = get_model_state_dict(self.model, options=_whole())
        moments = get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=_whole())
        moments = moments.get("state", {})  # other processes get nothing
        return (
            {name: weights[name].contiguous() for name in self._names if name in weights},
            {
                f"{index}.{kind}": value.contiguous()
                for index, name in enumerate(self._names)
                for kind, value in moments.get(name, {}).items()
            },
        )

    def restore(self, weights: Mapping[str, torch.Tensor], moments: Mapping[str, torch.Tensor]) -> None:
        """See `Stepper.restore`; every process has read all of it, and keeps its share."""
        from torch.distributed.checkpoint.state_dict import (
            get_optimizer_state_dict,
            set_model_state_dict,
            set_optimizer_state_dict,
        )

        set_model_state_dict(self.model, dict(weights), options=_whole())
        state = get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=_whole(everywhere=True))
        state["state"] = {name: {} for name in self._names}
        for key, value in moments.items():
            index, kind = key.split(".", 1)
            state["state"][self._names[int(index)]][kind] = value
        set_optimizer_state_dict(self.model, self.optimizer.optimizer, state, options=_whole())


def _whole(*, everywhere: bool = False) -> Any:
    """Options for states in one piece, of which some weights may be left out.

    It is given to the process that writes, in the memory of the processor, or (`everywhere`) to each process.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=not everywhere, strict=False)


class SpreadCheckpoints(Checkpoints):
    """The folder of a run of several processes: one of them writes, and the others wait for it."""

    def __init__(
        self,
        folder: Path,
        signature: str,
        describe: Callable[[int | None], dict[str, Any]] | None,
        accelerator: Accelerator,
    ) -> None:
        self._accelerator = accelerator
        if accelerator.is_main_process:
            super().__init__(folder, signature, describe)
        else:
            self.folder, self.signature, self.describe = folder, signature, describe
        accelerator.wait_for_everyone()

    def _write(self, name: str, fill: Callable[[Path], None]) -> None:
        if self._accelerator.is_main_process:
            super()._write(name, fill)
        self._accelerator.wait_for_everyone()

    def drop_state(self) -> None:
        """Remove what only a resume needs."""
        if self._accelerator.is_main_process:
            super().drop_state()
        self._accelerator.wait_for_everyone()
