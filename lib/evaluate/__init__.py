"""Score what a model said: prefix and strict match, target log-probability, rank, any-of-n and mean-of-n."""

from lib.evaluate.asking import add_completions, target_logprobs, target_ranks
from lib.evaluate.logprobs import TargetTokens, rank_of_target, target_tokens
from lib.evaluate.matching import any_of_n, mean_of_n, prefix_match, strict_match

__all__ = [
    "TargetTokens",
    "add_completions",
    "any_of_n",
    "mean_of_n",
    "prefix_match",
    "rank_of_target",
    "strict_match",
    "target_logprobs",
    "target_ranks",
    "target_tokens",
]
