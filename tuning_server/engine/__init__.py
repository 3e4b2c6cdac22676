"""The engine: weights, training, sampling and scoring. Only this package imports torch."""

import os

# Read when torch is imported. Threads that wait by spinning take the processor from other processes of the machine:
# two trainings side by side were measured at a tenth of their speed and less.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
