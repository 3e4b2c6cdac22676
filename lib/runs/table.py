"""The ledger as people see it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from lib.runs.ledger import NOT_LISTED, FineTuned

WAITING = ("validating_files", "queued", "paused")
STYLES = {"running": "blue", **dict.fromkeys(WAITING, "yellow"), **dict.fromkeys(("succeeded", NOT_LISTED), "")}


def ledger_table(ledger: Sequence[FineTuned], *, now: float) -> Table:
    """A row a fine-tune; money only where there is any. Green: finished and not evaluated."""
    has_money = any(each.usd is not None for each in ledger)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "base", "study", "status"):
        table.add_column(name, overflow="fold")
    for name in ("age", "tokens", *(["USD"] if has_money else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("tags", overflow="fold")
    table.add_column("evaluated", overflow="fold")
    for each in ledger:
        is_left = each.status == "succeeded" and not each.evaluated_in
        money = [f"{each.usd:.2f}" if each.usd is not None else ""] if has_money else []
        cells = [
            *(each.title, each.base, each.study, each.status),
            age(now - each.created_at) if each.created_at is not None else "",
            f"{each.tokens:,}" if each.tokens is not None else "",
            *money,
            ", ".join(each.tags),
            ", ".join(each.evaluated_in) or "no",
        ]
        style = "green" if is_left else STYLES.get(each.status, "red")
        table.add_row(*(Text(cell) for cell in cells), style=style)  # Text: brackets in a name are no markup
    return table


def totals(ledger: Sequence[FineTuned]) -> str:
    """What stands below the table: sums, and what each run has cost at a hosted endpoint.

    >>> totals([FineTuned(job="a", model="m", tokens=1200, usd=0.5), FineTuned(job="b")])
    '2 fine-tunes, 1,200 tokens, 0.50 USD, 1 not evaluated'
    """
    tokens = sum(each.tokens or 0 for each in ledger)
    costs = [each.usd for each in ledger if each.usd is not None]
    left = sum(bool(each.model) and not each.evaluated_in for each in ledger)
    money = f", {sum(costs):.2f} USD" if costs else ""
    line = f"{len(ledger)} fine-tune{'s'[: len(ledger) != 1]}, {tokens:,} tokens{money}, {left} not evaluated"
    runs = {run.name: run.spent_usd for each in ledger for run in each.runs if run.spent_usd}
    return "\n".join([line, *(f"{name} has cost {usd:.2f} USD in all" for name, usd in runs.items())])


def age(seconds: float) -> str:
    """How long ago, in whole units.

    >>> age(40), age(7300), age(200_000)
    ('40 s', '2 h', '2 d')
    """
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
