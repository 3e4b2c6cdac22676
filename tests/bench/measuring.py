"""Two ways of doing the same thing, timed in turn: the ratio of their speeds, its range, and what it should reach."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

from lib.paths import store_root
from tuning_server.engine import fork, models
from tuning_server.engine.devices import best_device, native_bfloat16
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.pretrain import RECIPES
from tuning_server.engine.registry import UnknownModel


@dataclass(frozen=True)
class Way:
    """A way of doing it: `run` gives the speed of one repetition, in units a second."""

    name: str
    run: Callable[[], float]


@dataclass(frozen=True)
class Ratio:
    """What was measured; `speeds` and `reference_speeds` in units a second, a pair a repetition."""

    name: str
    unit: str
    reference: str
    speeds: Sequence[float]
    reference_speeds: Sequence[float]
    target: float | None = None
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        return [ours / theirs for ours, theirs in zip(self.speeds, self.reference_speeds, strict=True)]

    @property
    def value(self) -> float:
        return median(self.ratios)

    @property
    def is_missed(self) -> bool:
        return self.target is not None and self.value < self.target


def compare(
    name: str,
    ours: Callable[[], float],
    reference: Way,
    *,
    unit: str,
    n_repetitions: int = 5,
    target: float | None = None,
    note: str = "",
) -> Ratio:
    """Time two ways in turn, the one that goes first changing, so that a machine that slows down slows both."""
    speeds: list[float] = []
    reference_speeds: list[float] = []
    for k in range(n_repetitions):
        turns = [(speeds, ours), (reference_speeds, reference.run)]
        for told, run in turns if k % 2 else reversed(turns):
            told.append(run())
    return Ratio(name, unit, reference.name, speeds, reference_speeds, target, note)


def speed(run: Callable[[], object], n_units: float) -> float:
    """Units a second of one call."""
    started = time.perf_counter()
    run()
    return n_units / (time.perf_counter() - started)


def share_in_models(run: Callable[[], object], *loaded: LoadedModel) -> float:
    """Share of a call's time that is spent inside the forward passes of models; what is left is ours to improve."""
    inside = 0.0
    with _watched(loaded) as passes:
        started = time.perf_counter()
        run()
        whole = time.perf_counter() - started
        inside = sum(passes)
    return inside / whole


@contextmanager
def _watched(loaded: Sequence[LoadedModel]) -> Iterator[list[float]]:
    passes: list[float] = []
    started = [0.0]
    hooks = []
    for model in {id(each.model): each.model for each in loaded}.values():
        hooks.append(model.register_forward_pre_hook(lambda *_: started.__setitem__(0, time.perf_counter())))
        hooks.append(model.register_forward_hook(lambda *_: passes.append(time.perf_counter() - started[0])))
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def table(ratios: Sequence[Ratio]) -> list[str]:
    """Lines of a table: a row a ratio."""
    head = ("measured", "ours", "reference", "ratio", "range", "target", "the reference is")
    rows = [head, *map(_row, ratios)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    lines = []
    for row in rows:
        padded = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *padded[1:-1], row[-1]]))
    return lines


def _row(ratio: Ratio) -> tuple[str, ...]:
    return (
        ratio.name,
        f"{median(ratio.speeds):,.0f} {ratio.unit}",
        f"{median(ratio.reference_speeds):,.0f} {ratio.unit}",
        f"{ratio.value:.2f}",
        f"{min(ratio.ratios):.2f}-{max(ratio.ratios):.2f}",
        "-" if ratio.target is None else f"{ratio.target:g}" + (" MISSED" if ratio.is_missed else ""),
        ratio.reference + (f"; {ratio.note}" if ratio.note else ""),
    )


def conditions() -> str:
    """What the numbers hold for."""
    device = best_device()
    is_native = "native" if native_bfloat16(device) else "not native"
    return (
        f"{device.type}, {torch.get_num_threads()} thread(s) on {os.cpu_count()} processors, bfloat16 {is_native}, "
        f"torch {torch.__version__}, load average {os.getloadavg()[0]:.1f}"
    )


def load(name: str) -> LoadedModel:
    """A base of the store in float32, or one of its shape with random weights: speed does not depend on weights."""
    try:
        return models.load(name, store_root(), dtype=torch.float32)
    except UnknownModel:
        recipe = RECIPES[name]
        tokenizer = models.load("fork-1m", store_root()).tokenizer
        shape = {"width": recipe.width, "layers": recipe.layers, "heads": recipe.heads}
        return fork.build_model(name, tokenizer, **shape, seed=0)
