"""Money before and after it is spent: price tables, bounds on tokens, and a ledger that survives kills and sharing."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from spending import spent_usd

from lib import budget
from lib.budget import BudgetExceeded, Price, Prices, Spending, UnknownPrice, max_tokens_of, preview, read_prices
from lib.journal import Request

COLUMNS = "model,prompt_usd,completion_usd,training_usd,as_of,source"
PRICES = Prices(
    [
        Price(model="m", prompt_usd=1, completion_usd=2, training_usd=None, as_of="2025-01-01", source="test"),
        Price(model="t", prompt_usd=4, completion_usd=8, training_usd=6, as_of="2025-01-01", source="test"),
    ]
)


@pytest.fixture(autouse=True)
def _forget_encodings() -> Iterator[None]:
    budget._encoding.cache_clear()
    yield
    budget._encoding.cache_clear()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "spend.jsonl"


def spending(path: Path, budget_usd: float = 1.0) -> Spending:
    return Spending(path, budget_usd=budget_usd, prices=PRICES)


def table(folder: Path, name: str, *rows: str, columns: str = COLUMNS) -> None:
    (folder / name).write_text("\n".join(["# a note", columns, *rows]) + "\n")


def test_the_tables_of_this_repository_are_read():
    prices = read_prices()
    assert len(prices.rows) > 20
    assert prices.of("gpt-4o-2024-05-13").prompt_usd > prices.of("gpt-4o-2024-08-06").prompt_usd
    assert prices.of("ft:gpt-4o-mini-2024-07-18:org::abc:ckpt-step-90") == prices.of("ft:gpt-4o-mini")
    for row in prices.rows.values():
        assert row.source


def test_the_later_of_two_prices_counts_whatever_the_file(tmp_path: Path):
    table(tmp_path, "a.csv", "m,3,3,,2025-05-01,new")
    table(tmp_path, "b.csv", "m,1,1,,2024-05-01,old", "free,0,0,0,2024-05-01,own")
    prices = read_prices(tmp_path)
    assert prices.of("m").source == "new"
    assert prices.of("free").usd(10**9, 10**9) == prices.training_usd("free", 10**9) == 0


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ("m,1,1", "model,prompt_usd,completion_usd", "row 1, training_usd: Field required"),
        ("m,one,1,,2025-05-01,x", COLUMNS, "row 1, prompt_usd: Input should be a valid number"),
        ("m,1,1,,last May,x", COLUMNS, "row 1, as_of: Input should be a valid date"),
        ("m,-1,1,,2025-05-01,x", COLUMNS, "row 1, prompt_usd: Input should be greater than or equal to 0"),
        ("m,nan,1,,2025-05-01,x", COLUMNS, "row 1, prompt_usd: Input should be a finite number"),
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


def tiny_encoding() -> tiktoken.Encoding:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"th": 256, b"the": 257}
    return tiktoken.Encoding(name="tiny", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={"<|end|>": 300})


def test_tokens_are_counted_by_tiktoken_where_it_knows_the_model(monkeypatch: pytest.MonkeyPatch):
    known = {"gpt-4o": tiny_encoding(), "ft:gpt-4o": tiny_encoding()}
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda model: known[model])
    assert max_tokens_of("the the", "gpt-4o") == 3
    assert max_tokens_of("the the", "ft:gpt-4o:team::x") == 3
    assert max_tokens_of("<|end|>", "gpt-4o") == 7, "the text of a special token is text"
    assert max_tokens_of("the the", "hf:other") == 7 + budget.SPECIAL_TOKENS


def test_without_its_file_an_encoding_is_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch):
    def offline(model: str) -> tiktoken.Encoding:
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "encoding_for_model", offline)
    code = "lambda n: (n * 3 - 7) // 2 if n % 2 == 0 else -(n + 5)"  # many more tokens than a quarter of its characters
    assert max_tokens_of(code, "gpt-4o") == len(code) + budget.SPECIAL_TOKENS


@given(st.text(max_size=60))
def test_bytes_bound_the_tokens_of_any_byte_level_encoding(text: str):
    assert len(tiny_encoding().encode_ordinary(text)) <= max_tokens_of(text, "hf:other")


def test_a_preview_bounds_prompts_samples_and_full_lengths():
    requests = [
        Request(model="m", prompt="x" * 40, max_tokens=100, n=3),
        Request(model="t", prompt="x" * 39, max_tokens=0, messages=(("system", "x"), ("user", "x"))),
    ]
    most, extra = preview(requests, PRICES), budget.SPECIAL_TOKENS + budget.MESSAGE_TOKENS
    first, second = 40 + extra, 39 + extra + budget.MESSAGE_TOKENS
    assert (most.n_requests, most.prompt_tokens, most.completion_tokens) == (2, first + second, 300)
    assert most.usd == pytest.approx((first * 1 + 300 * 2 + second * 4) / 1e6)


@pytest.mark.parametrize("budget_usd", [-2.0, math.inf, math.nan])
def test_a_budget_is_a_finite_number_of_dollars(ledger: Path, budget_usd: float):
    with pytest.raises(ValueError, match="expected a number of US dollars"):
        spending(ledger, budget_usd)


def test_a_budget_of_0_lets_nothing_through_and_writes_nothing(ledger: Path):
    with pytest.raises(BudgetExceeded, match="of the budget of"):
        spending(ledger, 0.0).reserve("a", 0.001)
    assert ledger.read_bytes() == b""


def test_the_request_that_could_exceed_the_budget_is_refused(ledger: Path):
    money = spending(ledger)
    for k in range(3):
        money.reserve(f"r{k}", 0.4 if k < 2 else 0.2)
        money.charge(f"r{k}", 0.4 if k < 2 else 0.2)
    with pytest.raises(BudgetExceeded, match=r"may cost \$0.0001: \$1.0000 of the budget of \$1.0000 is spent"):
        money.reserve("next", 0.0001)
    assert spent_usd(ledger) == pytest.approx(1.0)
    spending(ledger, 2.0).reserve("next", 0.9)


def test_a_reply_takes_the_place_of_its_bound_whoever_writes_it(ledger: Path):
    one, other = spending(ledger), spending(ledger)
    one.reserve("a", 0.5)
    other.reserve("b", 0.4)
    with pytest.raises(BudgetExceeded):
        spending(ledger).reserve("c", 0.2)
    for each in (one, other, spending(ledger)):
        each.charge("a", 0.3)
        each.charge("b", 0.1)
    assert [each.spent_usd for each in (spending(ledger), other)] == pytest.approx([0.4, 0.4])
    assert spent_usd(ledger) == pytest.approx(0.4)
    assert spending(ledger).left_usd() == pytest.approx(0.6)


def test_a_request_whose_reply_is_lost_counts_with_its_bound(ledger: Path):
    spending(ledger).reserve("killed", 0.7)
    ledger.write_bytes(ledger.read_bytes() + b'{"id": "torn", "usd"')
    money = spending(ledger)
    assert money.spent_usd == spent_usd(ledger) == 0.7
    with pytest.raises(BudgetExceeded, match=r"\$0.7000 of the budget of \$1.0000 is spent or may be"):
        money.reserve("next", 0.4)
    money.reserve("cheaper", 0.2)
    money.charge("killed", 0.0)
    money.reserve("next", 0.4)
    assert all(json.loads(line) for line in ledger.read_text().splitlines()), "the torn line is gone"


def test_ledgers_of_version_1_are_read(ledger: Path):
    rows = [
        {"id": "a", "state": "sent", "most_usd": 0.5}, {"id": "a", "state": "reply", "usd": 0.1},
        {"id": "b", "state": "sent", "most_usd": 0.3}, {"id": "c", "state": "sent", "most_usd": 0.2},
        {"id": "c", "state": "free", "usd": 0.0},
    ]  # fmt: skip
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [spent_usd(ledger), spending(ledger).spent_usd] == pytest.approx([0.4, 0.4])


def test_many_writers_never_exceed_the_budget(ledger: Path):
    refused = []

    def spend(name: str) -> None:
        money = spending(ledger)
        for k in range(20):
            try:
                money.reserve(f"{name}-{k}", 0.05)
            except BudgetExceeded:
                refused.append(name)
            else:
                time.sleep(0.001)
                money.charge(f"{name}-{k}", 0.03)

    threads = [threading.Thread(target=spend, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spent_usd(ledger) <= 1.0
    assert spent_usd(ledger) == pytest.approx(0.03 * (80 - len(refused)))
    assert refused
