"""The engine: weights, training, sampling and scoring. The only room that imports torch."""
