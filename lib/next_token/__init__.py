"""How spread out are a model's next-token distributions on real text, and is it each of them or all together?

Every token of every document is scored once; what is read only as context never counts. Sums are kept, never
distributions, so that memory depends on the vocabulary and not on the number of documents.
"""

from lib.next_token.bounds import entropy_bounds, perplexity_bounds, rank_bounds
from lib.next_token.comparing import Stage, differences, intervals, shares
from lib.next_token.curves import by_position, calibration, curve, published_coverage, ranks
from lib.next_token.positions import Positions, measure_positions
from lib.next_token.scoring import NextToken, merge_shards, read, score
from lib.next_token.source import Source
from lib.next_token.statistics import METRICS, WEIGHTINGS
from lib.next_token.totals import Measured, Totals

__all__ = [
    "METRICS",
    "WEIGHTINGS",
    "Measured",
    "NextToken",
    "Positions",
    "Source",
    "Stage",
    "Totals",
    "by_position",
    "calibration",
    "curve",
    "differences",
    "entropy_bounds",
    "intervals",
    "measure_positions",
    "merge_shards",
    "perplexity_bounds",
    "published_coverage",
    "rank_bounds",
    "ranks",
    "read",
    "score",
    "shares",
]
