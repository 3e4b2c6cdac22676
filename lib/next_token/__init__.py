"""Next-token statistics: how spread out a model's predictions on real text are, each of them and all together.

Every token of every document is scored once; tokens read only as context never count. Sums are kept, never
distributions, so that memory depends on the vocabulary and not on the number of documents.
"""

from lib.next_token.comparing import differences, intervals, shares
from lib.next_token.curves import by_position, curve
from lib.next_token.scoring import score
from lib.next_token.source import Source
from lib.next_token.statistics import METRICS
from lib.next_token.totals import Totals

__all__ = ["METRICS", "Source", "Totals", "by_position", "curve", "differences", "intervals", "score", "shares"]
