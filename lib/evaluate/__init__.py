"""Ask a run's models and score them: prefix and strict match, target log-probability, rank, any-of-n and mean-of-n."""

from lib.evaluate.asking import add_completions, target_logprobs, target_ranks
from lib.evaluate.logprobs import TargetTokens, rank_of_target, target_tokens
from lib.evaluate.matching import any_of_n, mean_of_n, prefix_match, strict_match
from lib.evaluate.models import curve_models, final_models

__all__ = [
    "TargetTokens",
    "add_completions",
    "any_of_n",
    "curve_models",
    "final_models",
    "mean_of_n",
    "prefix_match",
    "rank_of_target",
    "strict_match",
    "target_logprobs",
    "target_ranks",
    "target_tokens",
]
