"""Next-token statistics against bare forward passes over the same windows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from measuring import Way, compare, load, share_in_models, speed

from lib.next_token.requests import STATISTICS
from tuning_server.engine import scoring
from tuning_server.engine.statistics import Outputs

WINDOW, STRIDE, N_WINDOWS = 256, 128, 16
PASS_ROWS = 8  # of a bare pass: on a processor none were faster


def test_rolling_statistics(report: Callable) -> None:
    """All statistics of the diversity study but the divergence, which takes a second model."""
    loaded = load("fork-1m")
    loaded.model.eval()
    ids = np.random.default_rng(0).integers(1, loaded.vocab_size, WINDOW + STRIDE * (N_WINDOWS - 1) + 1)
    fed = torch.tensor(np.lib.stride_tricks.sliding_window_view(ids[:-1], WINDOW)[::STRIDE], device=loaded.device)

    def ours() -> None:
        how = {"window_tokens": WINDOW, "stride_tokens": STRIDE}
        scoring.score_documents(loaded, [ids.tolist()], outputs=Outputs(STATISTICS), **how)

    @torch.inference_mode()
    def bare_passes() -> None:
        for part in fed.split(PASS_ROWS):
            loaded.model(input_ids=part, use_cache=False)

    ours()
    ratio = compare(
        "rolling next-token statistics",
        lambda: speed(ours, fed.numel()),
        Way("bare forward passes over the same windows", lambda: speed(bare_passes, fed.numel())),
        unit="tokens/s",
        target=0.8,
    )
    report(ratio, lambda: f"{share_in_models(ours, loaded):.0%} of our time is forward passes, the rest statistics")
