"""One thread unless told otherwise, and one table at the end.

With as many threads as processors every pass waits for whatever else the machine does; ratios of one thread hold still.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from measuring import Ratio, conditions, table

RATIOS = pytest.StashKey[list[Ratio]]()
AT_START = pytest.StashKey[str]()


@pytest.fixture(scope="session", autouse=True)
def threads(pytestconfig: pytest.Config) -> None:
    torch.set_num_threads(int(os.environ.get("BENCH_THREADS") or 1))
    pytestconfig.stash[AT_START] = conditions()


@pytest.fixture
def report(pytestconfig: pytest.Config) -> Callable[..., None]:
    """Puts a ratio into the table and fails the test where it misses its target, saying what limits it."""

    def put(ratio: Ratio, limit: Callable[[], str] = lambda: "nothing is known of what limits it") -> None:
        pytestconfig.stash.setdefault(RATIOS, []).append(ratio)
        if ratio.is_missed:
            pytest.fail(
                f"{ratio.name}: {ratio.value:.2f} x {ratio.reference}, expected at least {ratio.target:g} x; "
                f"{limit()} ({conditions()})",
                pytrace=False,
            )

    return put


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if ratios := config.stash.get(RATIOS, []):
        terminalreporter.section("how fast it is here")
        for line in table(ratios):
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"at the start: {config.stash[AT_START]}")
        terminalreporter.write_line("medians of repetitions in turn; range: the least and the greatest ratio")
