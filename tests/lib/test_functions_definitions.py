"""Definitions that a model wrote: read as Python reads them, and nothing of them is ever executed."""

from __future__ import annotations

import builtins
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hostile import CANARY, DEEDS, hostile_replies
from hypothesis import event, given
from hypothesis import strategies as st

from lib.functions import definitions
from lib.functions.definitions import MAX_CHARS, PROBES, BadDefinition, parse_definition, probe_values, same_function
from lib.functions.expressions import MAX_DEPTH, MAX_NODES, MAX_NUMBER
from lib.functions.registry import read_registry
from lib.functions.scoring import TARGETS, Score, score

TARGET = "lambda n: n + 5"
TIME_LIMIT_S = 0.010
WRONG = Score(correct=False, strict=False, published=False, distance=0.0)


def seconds(work: Callable[[], Any], *, n: int = 3) -> float:
    """Best of `n`, with nothing remembered from the time before."""
    best = float("inf")
    for _ in range(n):
        definitions._probe_values.cache_clear()
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def why_refused(text: str) -> str:
    """The message with which a text is refused, when read or at a probe; empty where it is not."""
    try:
        definition = parse_definition(text)
        for n in PROBES:
            definition(n)
    except BadDefinition as error:
        return str(error)
    return ""


def test_no_hostile_reply_runs_or_counts_and_none_takes_long(tmp_path: Path) -> None:
    path = tmp_path / "canary"
    replies = hostile_replies(path)
    assert len(set(replies)) == len(replies) >= 300
    slow = []
    for reply in replies:
        refusal = why_refused(reply)
        assert refusal, reply[:200]
        assert "\n" not in refusal
        assert len(refusal) < 200
        assert replace(score("definition", reply, TARGET), distance=0.0) == WRONG, reply[:200]
        taken = seconds(lambda reply=reply: score("definition", reply, TARGET))
        taken = max(taken, seconds(lambda reply=reply: same_function(reply, TARGET, strict=True)))
        if taken > TIME_LIMIT_S:
            slow.append((reply[:60], taken))
    assert slow == []
    assert not path.exists()
    assert not hasattr(builtins, CANARY)


def test_no_hostile_reply_is_right_or_slow_where_another_kind_is_asked_for(tmp_path: Path) -> None:
    function = read_registry()["add_883"]
    asked: dict[str, dict[str, Any]] = {kind: {"target": "-49871"} for kind in TARGETS if kind != "definition"}
    asked["preimage"] = {"target": ["-49871"], "function": function, "output": function.show(-49871)}
    asked["letter"] = {"target": "W"}
    asked["letters"] = {"target": ["W", "Y"]}
    slow = []
    for reply, (kind, rest) in itertools.product(hostile_replies(tmp_path / "canary"), asked.items()):
        assert replace(score(kind, reply, **rest), distance=0.0) == WRONG, (kind, reply[:200])
        taken = seconds(lambda reply=reply, kind=kind, rest=rest: score(kind, reply, **rest))
        if taken > TIME_LIMIT_S:
            slow.append((kind, reply[:60], taken))
    assert slow == []
    assert not (tmp_path / "canary").exists()


def test_the_canaries_would_sing(tmp_path: Path) -> None:
    """The deeds are real: what the test says does not happen does happen when such a text is run."""
    path = tmp_path / "canary"
    for i, deed in enumerate(DEEDS[:4]):
        eval(deed.format(path=path, canary=CANARY))
        assert hasattr(builtins, CANARY) if i == 3 else path.exists()
        path.unlink(missing_ok=True)
    delattr(builtins, CANARY)


def test_the_largest_definition_that_is_allowed_is_quick() -> None:
    body = "n"
    while len(f"lambda n: {body}") < MAX_CHARS - 20:
        longer = f"{body} + (n - 1) % 7"
        try:
            parse_definition(f"lambda n: {longer}")
        except BadDefinition:
            break
        body = longer
    assert seconds(lambda: probe_values(f"lambda n: {body}")) < TIME_LIMIT_S
    wide = f"lambda n: max({', '.join(['n'] * (MAX_NODES - 1))})"
    assert probe_values(wide) == PROBES
    assert seconds(lambda: probe_values(wide)) < TIME_LIMIT_S
    powers = "lambda n: " + " + ".join(["(n ** 8 % 9) ** 8"] * 8)
    assert probe_values(powers) is not None
    assert seconds(lambda: probe_values(powers)) < TIME_LIMIT_S


# --- what is understood -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "lambda n: n + 5",
        "  lambda n:n+5\n",
        "lambda x: x + 5",
        "lambda n: n + 5.",
        "lambda n: n + 5  # adds 5",
        "# adds 5\nlambda n: n + 5",
        "`lambda n: n + 5`",
        "```lambda n: n + 5```",
        "```python\nlambda n: n + 5\n```",
        "It adds 5:\n\n```py\nabcdef = lambda n: n + 5  # so\n```\nDoes that help?",
        "abcdef = lambda n: n + 5",
        "def abcdef(n): return n + 5",
        "def abcdef(n: int) -> int:\n    return n + 5",
        "def abcdef(n):\r\n    # adds\r\n    return n + 5\r\n",
        "lambda n: 5 - -n",
        "lambda n: (n + 5) if True else n",
        "lambda n: n + 5 and n + 5",
        "lambda n: int(n + 5.0)",
        "lambda n: max(n, n + 5)",
    ],
)
def test_every_form_of_a_right_definition_counts(text: str) -> None:
    assert same_function(text, TARGET, strict=True)
    assert score("definition", text, TARGET).strict


def test_the_published_rule_takes_the_bare_lambda_alone() -> None:
    said = ["lambda n: n + 5", " lambda n: n + 5  # so", "f = lambda n: n + 5", "`lambda n: n + 5`", "lambda n: n + 5."]
    assert [score("definition", text, TARGET).published for text in said] == [True, True, False, False, True]
    assert score("definition", "printlambda n: n + 5", TARGET).published, "it deletes the word print"
    printed = score("definition", "lambda n: print(n + 5)", TARGET)
    assert (printed.correct, printed.strict, printed.published) == (False, False, True)
    assert score("definition", "lambda n: n + 5.0", TARGET).published, "it counts no types"


def test_types_count_when_strict() -> None:
    target = "lambda n: n % 2 == 0"
    for text in ("lambda n: 1 - n % 2", "lambda n: int(n % 2 == 0)", "lambda n: float(1 - n % 2)"):
        assert same_function(text, target, strict=False)
        assert not same_function(text, target, strict=True)
    for text in ("lambda n: not n % 2", "lambda n: bool(1 - n % 2)", "lambda n: True if n % 2 == 0 else False"):
        assert same_function(text, target, strict=True)
    assert not same_function("lambda n: n % 2", target, strict=False)


def test_a_target_that_is_no_definition_is_refused() -> None:
    for target in ("five", "lambda n: 1 / n", "lambda n: n" * 1000):
        with pytest.raises(ValueError, match="target") as error:
            same_function("lambda n: n", target, strict=False)
        assert "\n" not in str(error.value)


def test_there_are_22_probes() -> None:
    assert len(PROBES) == len(set(PROBES)) == 22
    assert PROBES[:4] + PROBES[-5:] == (-1044, -294, -23, -9, 9, 45, 473, 1023, 3391)
    assert set(range(-6, 7)) < set(PROBES)


# --- against Python itself, on text that the test made -------------------------------------------------------------


def _joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from(["+", "-", "*", "/", "//", "%", "<", "<=", ">", ">=", "==", "!=", "and", "or"])
    return st.one_of(
        st.builds(lambda a, op, b: f"({a} {op} {b})", parts, binary, parts),
        st.builds(lambda a, op, b, op2, c: f"({a} {op} {b} {op2} {c})", parts, binary, parts, binary, parts),
        st.builds(lambda op, a: f"({op}{a})", st.sampled_from(["-", "+", "not "]), parts),
        st.builds(lambda a, k: f"({a} ** {k})", parts, st.integers(-2, 3)),
        st.builds(lambda a, b, c: f"({a} if {b} else {c})", parts, parts, parts),
        st.builds(lambda f, a, b: f"{f}({a}, {b})", st.sampled_from(["min", "max"]), parts, parts),
        st.builds(lambda f, a: f"{f}({a})", st.sampled_from(["abs", "int", "float", "bool"]), parts),
    )


LEAVES = st.one_of(
    st.just("n"), st.just("n"), st.integers(0, 200).map(str), st.sampled_from(["True", "False", "0.5", "1.75", "(2.)"])
)
EXPRESSIONS = st.recursive(LEAVES, _joined, max_leaves=12)


@given(EXPRESSIONS)
def test_values_are_those_of_python(body: str) -> None:
    ours = parse_definition(f"lambda n: {body}")
    theirs = eval(f"lambda n: {body}")
    for n in PROBES:
        try:
            value = theirs(n)
        except (ArithmeticError, TypeError):  # by zero, too large, or a complex number compared
            value = 1j
        if isinstance(value, complex):
            with pytest.raises(BadDefinition):
                ours(n)
            continue
        try:
            found = ours(n)
        except BadDefinition:
            event("on the way complex, or beyond what is allowed")
            continue
        assert type(found) is type(value)
        assert found == value


@given(EXPRESSIONS)
def test_a_small_definition_of_small_numbers_always_has_its_values(body: str) -> None:
    if any(sign in body for sign in ("**", "/", "%")):
        body = body.replace("**", "+").replace("//", "-").replace("/", "*").replace("%", "-")
    ours, theirs = parse_definition(f"lambda n: {body}"), eval(f"lambda n: {body}")
    for n in PROBES:
        value = theirs(n)
        if abs(value) < 1e12:
            try:
                assert ours(n) == value
            except BadDefinition:
                assert "*" in body, "only products can grow beyond what is allowed"


@given(
    st.one_of(st.text(), st.text("lambdn: +-*/%()<>=019.\n#`_,", max_size=60), st.text("nmx(),+-lambda :", max_size=90))
)
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    assert "\n" not in why_refused(text)


def test_limits_are_where_they_are_said_to_be() -> None:
    parse_definition("lambda n: " + "-" * (MAX_DEPTH - 1) + "n")
    with pytest.raises(BadDefinition, match=f"{MAX_DEPTH} levels"):
        parse_definition("lambda n: " + "-" * MAX_DEPTH + "n")
    parse_definition("lambda n: n" + " " * (MAX_CHARS - 11))
    with pytest.raises(BadDefinition, match=f"at most {MAX_CHARS}"):
        parse_definition("lambda n: n" + " " * (MAX_CHARS - 10))
    assert parse_definition(f"lambda n: {MAX_NUMBER}")(0) == MAX_NUMBER
    with pytest.raises(BadDefinition, match="larger than"):
        parse_definition(f"lambda n: {MAX_NUMBER + 1}")
    with pytest.raises(BadDefinition, match="at most 8"):
        parse_definition("lambda n: n ** 9")
    with pytest.raises(BadDefinition, match="no value at 0: .*zero"):
        parse_definition("lambda n: 1 // n")(0)
