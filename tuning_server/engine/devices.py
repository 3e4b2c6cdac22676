"""Choose the device and the precision of a model by the memory of the machine, and recognise when memory ran out."""

from __future__ import annotations

import ctypes
import gc
import os
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil
import torch

USABLE = 0.8  # of a device's memory for the weights of one model
LEAST_BFLOAT16_WEIGHTS = 50_000_000  # on a processor: smaller models keep the digits of float32
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
# What torch, the C++ library and oneDNN write.
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc", "could not create a primitive")


class DoesNotFit(MemoryError):
    """A model, or a row of its training, is too large for the memory."""


def best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@cache
def native_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 matrices itself; where it does not, float32 is faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capability = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else ""
    flags = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    return "AVX512" in capability and ("avx512_bf16" in flags or "amx_bf16" in flags)


def precision(device: torch.device) -> torch.dtype:
    """Of probabilities, and of sums over models: float64, but for devices that have none."""
    return torch.float32 if device.type == "mps" else torch.float64


@cache
def memory_bytes(device: torch.device) -> int:
    """Memory of a device: a GPU's own, or that of the machine or of the container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    total = psutil.virtual_memory().total
    return min(total, int(limit)) if limit.isdigit() else total


def free_bytes(device: torch.device) -> int:
    """Memory of a device that is free, with what torch keeps there for later."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    used = psutil.Process().memory_info().rss
    return min(memory_bytes(device) - used, psutil.virtual_memory().available)


def choose_placement(n_weights: int) -> tuple[torch.device, torch.dtype]:
    """Device and precision of a model that answers: bfloat16 where float32 is too large or slower.

    On a processor it is slower from `LEAST_BFLOAT16_WEIGHTS` on, where there are instructions for bfloat16. The choice
    follows what a machine has, not what is free at the moment, so that one machine always chooses the same.
    """
    device = best_device()
    is_large, is_native = 4 * n_weights > USABLE * memory_bytes(device), native_bfloat16(device)
    gains = device.type != "cpu" or n_weights >= LEAST_BFLOAT16_WEIGHTS
    if gains and not is_native and device.type == "cpu":
        warnings.warn("this processor has no instructions for bfloat16: large models are slow on it", stacklevel=1)
    return device, torch.bfloat16 if is_large or (is_native and gains) else torch.float32


def release() -> None:
    """Give back the memory of what nothing refers to any more."""
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # where memory is not glibc's
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an operation failed for want of memory; on a processor only torch's message says so."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)
    )
