"""Where does a model run: on which device, in which precision, and does its memory hold it?

Choices follow the memory that a machine has, not what is free at the moment: one machine always chooses the same.
"""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

TRAINING_BYTES = 16  # a weight: itself, its gradient and AdamW's two moments, all float32
USABLE = 0.8  # of a device's memory; the rest is for what is not counted
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
CPU = torch.device("cpu")


class DoesNotFit(MemoryError):
    """A model, or a row of its training, is too large for the memory; says by how much and what to do."""


@dataclass(frozen=True)
class Place:
    """Device and precision of a model's weights."""

    device: torch.device
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Memory:
    """Memory of a device, bytes."""

    free: int
    total: int

    @property
    def usable(self) -> float:
        return USABLE * self.total


def best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def native_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 matrices itself; where it does not, float32 is faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capability = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else ""
    flags = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    return "AVX512" in capability and ("avx512_bf16" in flags or "amx_bf16" in flags)


def memory(device: torch.device) -> Memory:
    """What a device has: a GPU its own memory, a processor the machine's or its container's."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), total)
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return Memory(total - torch.mps.driver_allocated_memory(), total)
    machine = psutil.virtual_memory()
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    total = min(machine.total, int(limit)) if limit.isdigit() else machine.total
    return Memory(min(machine.available, total - psutil.Process().memory_info().rss), total)


def choose_place(n_weights: int) -> Place:
    """Where a model answers, and where its frozen weights lie when adapters are trained beside them.

    On the best device: bfloat16 on a GPU that has it, else float32; bfloat16 where float32 is too large; and in the
    processor's memory where a GPU's is too small. What fits nowhere is left to `require_room`.
    """
    best = best_device()
    usual = torch.bfloat16 if best.type == "cuda" and native_bfloat16(best) else torch.float32
    options = [Place(best, usual), Place(best, torch.bfloat16), Place(CPU, torch.float32), Place(CPU, torch.bfloat16)]
    fitting = [place for place in options if n_weights * place.dtype.itemsize <= memory(place.device).usable]
    return (fitting or options)[0]


def require_room(n_bytes: int, place: Place, what: str, *, otherwise: str) -> None:
    """Refuse (`DoesNotFit`) what takes more memory than a device has free, before any of it is read.

    Parameters
    ----------
    what : the subject of the sentence
    otherwise : what to do instead
    """
    found = memory(place.device)
    if n_bytes > found.free:
        raise DoesNotFit(
            f"{what} takes {gigabytes(n_bytes)} of memory in {place.dtype_name}, and {place.device.type} has "
            f"{gigabytes(found.free)} free of {gigabytes(found.total)}: {otherwise}"
        )


def release() -> None:
    """Give back the memory of what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def gigabytes(n_bytes: float) -> str:
    """A size for people.

    >>> gigabytes(28 * 10**9), gigabytes(3_000_000)
    ('28.0 GB', '0.003 GB')
    """
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 5e7 else f"{n_bytes / 1e9:.1g} GB"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an operation failed for want of memory; on a processor torch says so in words only."""
    said = ("can't allocate memory", "out of memory", "bad_alloc", "could not create a primitive")  # oneDNN's words
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in said)
    )
