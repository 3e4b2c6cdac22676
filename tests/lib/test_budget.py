"""Money before and after it is spent: price tables, previews, and a ledger that survives kills and shared use."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path

import pytest

from lib.budget import BudgetExceeded, Spending, preview, spent_usd
from lib.journal import Request
from lib.prices import COLUMNS, Price, Prices, UnknownPrice, read_prices

PRICES = Prices(
    [Price("m", 1.0, 2.0, math.nan, 0.5, "2025-01-01", "test"), Price("t", 4.0, 8.0, 6.0, 1, "2025-01-01", "")]
)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "spend.jsonl"


def spending(path: Path, budget_usd: float = 1.0) -> Spending:
    return Spending(path, budget_usd=budget_usd, prices=PRICES)


def table(folder: Path, name: str, *rows: str, columns: str = ",".join(COLUMNS)) -> None:
    (folder / name).write_text("\n".join(["# a note", columns, *rows]) + "\n")


def test_the_tables_of_this_repository_are_read():
    prices = read_prices()
    assert len(prices.rows) > 20
    assert prices.of("gpt-4o-2024-05-13").prompt_usd > prices.of("gpt-4o-2024-08-06").prompt_usd
    assert prices.of("ft:gpt-4o-mini-2024-07-18:org::abc:ckpt-step-90") == prices.of("ft:gpt-4o-mini")
    for row in prices.rows.values():
        assert row.source
        assert 0 < row.batch_factor <= 1


def test_the_later_of_two_prices_counts_whatever_the_file(tmp_path: Path):
    table(tmp_path, "a.csv", "m,3,3,,1,2025-05-01,new")
    table(tmp_path, "b.csv", "m,1,1,,1,2024-05-01,old", "free,0,0,0,1,2024-05-01,own")
    prices = read_prices(tmp_path)
    assert prices.of("m").source == "new"
    assert prices.of("free").usd(10**9, 10**9) == prices.training_usd("free", 10**9) == 0


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ("m,1,1", "model,prompt_usd,completion_usd", "lacks training_usd, batch_factor, as_of, source"),
        ("m,one,1,,1,2025-05-01,x", ",".join(COLUMNS), "row 1: expected prices in USD"),
        ("m,1,1,,1,last May,x", ",".join(COLUMNS), "row 1: expected prices in USD"),
        ("m,-1,1,,1,2025-05-01,x", ",".join(COLUMNS), "row 1: a price is a number from 0 up"),
        ("m,nan,1,,1,2025-05-01,x", ",".join(COLUMNS), "row 1: a price is a number from 0 up"),
    ],
)
def test_a_bad_table_names_file_and_row(tmp_path: Path, row: str, columns: str, expected: str):
    table(tmp_path, "own.csv", row, columns=columns)
    with pytest.raises(ValueError, match=expected) as caught:
        read_prices(tmp_path)
    assert "own.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_has_no_price_is_refused():
    for ask in (lambda: PRICES.of("other"), lambda: PRICES.of("ft:m:x"), lambda: PRICES.training_usd("m", 5)):
        with pytest.raises(UnknownPrice, match="nothing was sent"):
            ask()
    with pytest.raises(UnknownPrice):
        preview([Request(model="m", prompt="a"), Request(model="other", prompt="a")], PRICES)


def test_a_preview_counts_samples_full_lengths_and_batches():
    requests = [
        Request(model="m", prompt="x" * 40, max_tokens=100, n=3),
        Request(model="t", prompt="x" * 39, max_tokens=0),
    ]
    told = preview(requests, PRICES)
    assert (told.n_requests, told.prompt_tokens, told.completion_tokens) == (2, 20, 300)
    assert told.usd == pytest.approx((10 * 1 + 300 * 2 + 10 * 4) / 1e6)
    assert preview(requests, PRICES, batch=True).usd == pytest.approx((610 * 0.5 + 40) / 1e6)


@pytest.mark.parametrize("budget_usd", [-2.0, math.inf, math.nan])
def test_a_budget_is_a_finite_number_of_dollars(ledger: Path, budget_usd: float):
    with pytest.raises(ValueError, match="expected a number of US dollars"):
        spending(ledger, budget_usd)


def test_a_budget_of_0_lets_nothing_through_and_writes_nothing(ledger: Path):
    with pytest.raises(BudgetExceeded, match="of the budget of"):
        spending(ledger, 0.0).reserve("a", 0.001)
    assert ledger.read_bytes() == b""


def test_the_request_that_could_pass_the_budget_is_refused(ledger: Path):
    money = spending(ledger)
    for k in range(3):
        money.reserve(f"r{k}", 0.4 if k < 2 else 0.2)
        money.settle([{"id": f"r{k}", "usd": 0.4 if k < 2 else 0.2}])
    with pytest.raises(BudgetExceeded, match=r"may cost \$0.0001: \$1.0000 of the budget of \$1.0000 is spent"):
        money.reserve("next", 0.0001)
    assert spent_usd(ledger) == pytest.approx(1.0)
    spending(ledger, 2.0).reserve("next", 0.9)


def test_a_reply_counts_once_whoever_counts_it(ledger: Path):
    one, other = spending(ledger), spending(ledger)
    one.reserve("a", 0.5)
    other.reserve("b", 0.4)
    with pytest.raises(BudgetExceeded):
        spending(ledger).reserve("c", 0.2)
    for each in (one, other, spending(ledger)):
        each.settle([{"id": "a", "usd": 0.3}, {"id": "b", "usd": 0.1}])
    assert [each.spent_usd for each in (spending(ledger), other)] == pytest.approx([0.4, 0.4])
    assert spent_usd(ledger) == pytest.approx(0.4)
    assert spending(ledger).left_usd() == pytest.approx(0.6)


def test_what_was_never_answered_may_have_cost_its_most_but_is_not_spent(ledger: Path):
    spending(ledger).reserve("killed", 0.7)
    ledger.write_bytes(ledger.read_bytes() + b'{"id": "torn", "usd"')
    money = spending(ledger)
    assert (money.spent_usd, money.unanswered_usd) == (0.0, 0.7)
    with pytest.raises(BudgetExceeded, match=r"\$0.7000 more may have been"):
        money.reserve("next", 0.4)
    money.reserve("cheaper", 0.2)
    money.release("killed")
    money.reserve("next", 0.4)
    assert all(json.loads(line) for line in ledger.read_text().splitlines()), "the torn line is gone"


def test_a_request_waits_for_others_that_may_turn_out_cheaper(ledger: Path):
    money = spending(ledger)
    money.reserve("first", 0.9)
    got_in = threading.Event()

    def second() -> None:
        money.reserve("second", 0.5)
        got_in.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert not got_in.wait(0.1)
    money.settle([{"id": "first", "usd": 0.1}])
    assert got_in.wait(5)
    thread.join()
    money.lose("second")
    with pytest.raises(BudgetExceeded):
        money.reserve("third", 0.5)


def test_many_writers_never_pass_the_budget(ledger: Path):
    refused = []

    def spend(name: str) -> None:
        money = spending(ledger)
        for k in range(20):
            try:
                money.reserve(f"{name}-{k}", 0.03)
            except BudgetExceeded:
                refused.append(name)
            else:
                time.sleep(0.001)
                money.settle([{"id": f"{name}-{k}", "usd": 0.03}])

    threads = [threading.Thread(target=spend, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spent_usd(ledger) <= 1.0
    assert spent_usd(ledger) == pytest.approx(0.03 * (80 - len(refused)))
    assert refused
