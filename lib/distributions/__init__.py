"""What models say after many contexts: asked once, kept on disk, whole or truncated to what a hosted API would give."""

from lib.distributions.collecting import collect
from lib.distributions.table import Distributions
from lib.distributions.tokens import Tokens, tokenize
from lib.distributions.truncation import top_k

__all__ = ["Distributions", "Tokens", "collect", "tokenize", "top_k"]
