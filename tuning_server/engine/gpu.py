"""What keeps a GPU from waiting for its processor: recorded steps (CUDA graphs) and compiled layers.

A step of a model is hundreds of small operations. On few or short rows, a GPU has done each before the processor has
launched the next; recorded once, the whole step is launched at once. On long rows, most of the time goes into reading
and writing what lies between operations; a compiler joins them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

from tuning_server.engine.devices import is_out_of_memory

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
_Recording = tuple[torch.cuda.CUDAGraph, list[torch.Tensor], Result]  # with its inputs and its result


class Replayed(Generic[Result]):
    """A function of tensors that a GPU records at its second call with some shapes, and then replays.

    The first call runs it as it is, as does every call on other devices. A replay repeats what the function does to any
    tensor, at the same addresses, and none of its Python.

    Parameters
    ----------
    function : of tensors; its result (tensors in any structure) is overwritten by the next call
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        self._function = function
        self._recorded: dict[tuple[torch.Size, ...], _Recording[Result] | None] = {}
        self._is_recordable = True
        self._stream: Any = None
        self._pool: Any = None  # memory that all recordings share: no two run at the same time

    def __call__(self, *inputs: torch.Tensor) -> Result:
        if inputs[0].device.type != "cuda" or not self._is_recordable:
            return self._function(*inputs)
        shapes = tuple(each.shape for each in inputs)
        self._stream = self._stream or torch.cuda.Stream()
        if shapes not in self._recorded:  # what runs only once on a stream is not recorded
            self._recorded[shapes] = None
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                result = self._function(*inputs)
            torch.cuda.current_stream().wait_stream(self._stream)
            return result
        recorded = self._recorded[shapes]
        if recorded is None:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph, own = torch.cuda.CUDAGraph(), [each.clone() for each in inputs]
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                    result = self._function(*own)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                logger.warning("a step cannot be recorded and runs as it is: %s", error)
                self._is_recordable = False
                return self._function(*inputs)
            recorded = self._recorded[shapes] = (graph, own, result)
        graph, own, result = recorded
        for mine, given in zip(own, inputs, strict=True):
            mine.copy_(given)
        graph.replay()
        return result


def compile_layers(model: Any) -> None:
    """Compile the layers of a model, which are alike, at their first call; where that fails, they run as they are."""
    torch._dynamo.config.suppress_errors = True
    for module in model.modules():
        if type(module).__name__ in (model._no_split_modules or ()):
            module.compile()
