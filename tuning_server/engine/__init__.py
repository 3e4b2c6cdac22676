"""The engine: weights, training, sampling and scoring. Only this package imports torch."""

import ctypes
import os
from contextlib import suppress

# Read when torch is imported. Threads that wait by spinning take the processor from other processes of the machine:
# two trainings side by side were measured at a tenth of their speed and less.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# glibc gives large blocks back to the system at once, and new ones cost a page fault for every 4 KiB: training took a
# tenth longer. So all threads share one arena, which keeps its memory. Other C libraries have no mallopt.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
with suppress(AttributeError, OSError, TypeError):
    for option, value in ((M_MMAP_THRESHOLD, 2**30), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1)):
        ctypes.CDLL(None).mallopt(option, value)
