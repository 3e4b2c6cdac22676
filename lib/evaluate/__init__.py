"""Ask a run's models and score their answers: prefix and strict match, log-probability and rank of a target."""

from lib.evaluate.asking import add_completions, target_logprobs, target_ranks
from lib.evaluate.matching import prefix_match, strict_match
from lib.evaluate.models import curve_models, final_models

__all__ = [
    "add_completions",
    "curve_models",
    "final_models",
    "prefix_match",
    "strict_match",
    "target_logprobs",
    "target_ranks",
]
