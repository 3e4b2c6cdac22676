"""Next-token distributions of models after many contexts: requested once, kept on disk, whole or truncated to top k."""

from lib.distributions.collecting import collect
from lib.distributions.table import Distributions
from lib.distributions.truncation import top_k
from lib.tokens import Tokens, tokenize

__all__ = ["Distributions", "Tokens", "collect", "tokenize", "top_k"]
