"""Lend what a small model was taught to a big one, by adding the difference it made to next-token log-probabilities.

Weights are those of (big, tuned, base); values are nats. `fit_weights` is the way to find them, `tune_temperatures` the
published one; `lib.topk` has the published pipeline whole.
"""

from lib.blending.blend import blend_logprobs, target_logprobs
from lib.blending.fit import FORMS, INTERVAL, Fit, fit_weights
from lib.blending.records import GPT2_VOCAB_TOKENS, PaddedLists, Records, read_records
from lib.blending.support import Support, TopKRows, full_support, top_k_support
from lib.blending.temperatures import Search, Temperatures, Tuned, search_temperatures, tune_temperatures

__all__ = [
    "FORMS",
    "GPT2_VOCAB_TOKENS",
    "INTERVAL",
    "Fit",
    "PaddedLists",
    "Records",
    "Search",
    "Support",
    "Temperatures",
    "TopKRows",
    "Tuned",
    "blend_logprobs",
    "fit_weights",
    "full_support",
    "read_records",
    "search_temperatures",
    "target_logprobs",
    "top_k_support",
    "tune_temperatures",
]
