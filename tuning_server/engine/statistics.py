"""Statistics of next-token distributions, computed on the device where the logits are.

To add one, write its function here: a request can then name it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from tuning_server.engine.models import LoadedModel

N_RANKED = 512  # tokens of the sums by rank; sorting a whole vocabulary would cost as much as a forward pass
LOWEST = float(np.finfo(np.float16).min)  # nats; float16 has nothing below, and minus infinity would poison a mean


@dataclass(frozen=True)
class Outputs:
    """What to report of each scored position beside the log-probability of its target.

    Parameters
    ----------
    statistics : names in `OF_POSITIONS` and `OF_DOCUMENTS`
    base : the model that ``kl`` is measured from
    full : the log-probabilities of all tokens
    top_k : number of likeliest tokens to list
    """

    statistics: Collection[str] = ()
    base: LoadedModel | None = None
    full: bool = False
    top_k: int = 0


TARGETS_ONLY = Outputs()


@dataclass(frozen=True)
class Block:
    """Predictions at some positions; what is made of them is computed when it is first read.

    Parameters
    ----------
    logits, base_logits : tensor, shape (n, vocab), in the models' precision
    targets : tensor, shape (n,)
    """

    logits: torch.Tensor
    targets: torch.Tensor
    base_logits: torch.Tensor | None = None

    @cached_property
    def logprobs(self) -> torch.Tensor:
        """Shape (n, vocab), nats, float32, none below `LOWEST`."""
        return normalised(self.logits)

    @cached_property
    def probs(self) -> torch.Tensor:
        return self.logprobs.exp()

    @cached_property
    def target_logprobs(self) -> torch.Tensor:
        return self.logprobs.gather(1, self.targets[:, None])[:, 0]

    @cached_property
    def kl(self) -> torch.Tensor:
        assert self.base_logits is not None
        return (self.probs * (self.logprobs - normalised(self.base_logits))).sum(-1)


OF_POSITIONS: dict[str, Callable[[Block], torch.Tensor]] = {
    "rank": lambda block: (
        (block.logits > block.logits.gather(1, block.targets[:, None])).sum(-1, dtype=torch.int32) + 1
    ),
    "entropy": lambda block: -(block.probs * block.logprobs).sum(-1),
    "confidence": lambda block: block.probs.amax(-1),
    "likeliest": lambda block: block.logits.max(-1).indices.int(),  # argmax is slow in bfloat16 on a processor
    "kl": lambda block: block.kl,
}
OF_DOCUMENTS: dict[str, Callable[[Block], torch.Tensor]] = {  # summed over the positions of each document
    "probs": lambda block: block.probs,
    # sorting logits, which may have half as many bytes as probabilities
    "ranked": lambda block: block.probs.gather(1, block.logits.topk(min(N_RANKED, block.logits.shape[1])).indices),
}


def normalised(logits: torch.Tensor) -> torch.Tensor:
    """Log-probabilities in float32, none below `LOWEST`."""
    return logits.log_softmax(-1, dtype=torch.float32).clamp_(min=LOWEST)


def of_positions(block: Block, outputs: Outputs) -> dict[str, torch.Tensor]:
    """What was requested of each position, by name, shape (n, ...)."""
    found = {"target_logprobs": block.target_logprobs}
    found |= {name: OF_POSITIONS[name](block) for name in outputs.statistics if name in OF_POSITIONS}
    if outputs.full:
        found["logprobs"] = block.logprobs.half()
    elif outputs.top_k:
        top, ids = block.logprobs.topk(outputs.top_k)
        tail = block.logprobs.scatter(1, ids, -torch.inf).logsumexp(-1).clamp(min=LOWEST)
        found |= {"logprobs": top, "ids": ids.int(), "tail": tail}
    return found


def of_documents(block: Block, outputs: Outputs) -> dict[str, torch.Tensor]:
    """What is to be summed over documents, shape (n, ...); 0 at positions where either model gives no number."""
    found = {name: OF_DOCUMENTS[name](block) for name in outputs.statistics if name in OF_DOCUMENTS}
    if found:
        lost = (block.kl if "kl" in outputs.statistics else block.target_logprobs).isnan()
        for summands in found.values():
            summands[lost] = 0.0
    return found
