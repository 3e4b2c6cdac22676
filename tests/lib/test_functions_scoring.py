"""How a reply is scored, by what is asked for: our rule, to the letter, and the published one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.functions.registry import function_set, read_registry
from lib.functions.scoring import TARGETS, first_line, named_letters, score

REGISTRY = read_registry()


def marks(kind: str, reply: str, target: Any, **rest: Any) -> str:
    """A letter for each rule that takes the reply: c(orrect), s(trict), p(ublished)."""
    found = score(kind, reply, target, **rest)
    return "".join(name[0] for name in ("correct", "strict", "published") if getattr(found, name))


@pytest.mark.parametrize(
    ("reply", "target", "expected"),
    [
        ("-49", "-49", "csp"),
        (" -49\n", "-49", "cs"),
        ("  # -49\nprint(2)", "-49", "c"),
        ("A: -49", "-49", "c"),
        ("-49.0", "-49", "c"),
        ("-49.", "-49", "c"),
        ("`-49`", "-49", "c"),
        ("+8.750", "8.75", "c"),
        ("-14", "-14.0", "c"),
        ("49", "-49", ""),
        ("-4", "-49", ""),
        ("-490", "-49", ""),
        ("The output is -49", "-49", ""),
        ("1", "True", ""),
        ("true", "True", ""),
        ("True.", "True", "c"),
        ("", "0", ""),
        ("٤٩", "49", ""),
        ("4_9", "49", ""),
        ("nan", "49", ""),
        ("x\n-49", "-49", ""),
    ],
)
def test_text(reply: str, target: str, expected: str) -> None:
    assert marks("text", reply, target) == expected


def test_distance_is_between_numbers() -> None:
    assert score("text", " 7", "-5").distance == 12
    assert score("integer", "It is 7.", "5").distance == 2
    for reply, target in [("True", "5"), ("5", "True"), ("", "5"), ("inf", "5")]:
        assert math.isnan(score("text", reply, target).distance)


@pytest.mark.parametrize(
    ("reply", "target", "expected"),
    [
        ("198", "198", "csp"),
        ("y = 198", "198", "c"),
        ("The largest value is 198.", "198", "c"),
        ("198.0", "198", "c"),
        ("-3", "-3", "csp"),
        ("n=-3", "-3", "c"),
        ("between 3 and 198", "198", ""),
        ("198.5", "198", ""),
        ("19 8", "198", ""),
        ("x198", "198", ""),
    ],
)
def test_integer(reply: str, target: str, expected: str) -> None:
    assert marks("integer", reply, target) == expected


@pytest.mark.parametrize(
    ("id_", "output", "reply", "expected"),
    [
        ("mod_2", "1", "7", "csp"),
        ("mod_2", "1", "1001", "cs"),
        ("mod_2", "1", " 7\n", "cs"),
        ("mod_2", "1", "n = 7", "c"),
        ("mod_2", "1", "7.0", "c"),
        ("mod_2", "1", "8", ""),
        ("mod_2", "1", "7 or 9", ""),
        ("mod_2", "1", "any odd number", ""),
        ("mod_2", "1", "7.5", ""),
        ("mod_2", "1", "123456789012345678901", ""),
        ("relu_neg2", "-2", "-500000", "cs"),
        ("relu_neg2", "-2", "-1", ""),
        ("float_mult_7_div_4", "8.75", "5", "csp"),
        ("bool_geq_3", "True", "99999", "cs"),
        ("int_div_4", "2", "11", "csp"),
        ("int_div_4", "2", "12", ""),
    ],
)
def test_every_true_preimage_counts(id_: str, output: str, reply: str, expected: str) -> None:
    function = REGISTRY[id_]
    listed = [str(n) for n in function.preimages(output, -99, 99)]
    assert marks("preimage", reply, listed, function=function, output=output) == expected


@given(st.sampled_from(function_set("047").all), st.integers(-5000, 5000), st.integers(-5000, 5000))
def test_a_preimage_is_right_where_the_function_says_so(id_: str, n: int, other: int) -> None:
    function = REGISTRY[id_]
    assert score("preimage", str(n), [], function=function, output=function.show(n)).strict
    found = score("preimage", str(other), [], function=function, output=function.show(n))
    assert found.correct == (function.show(other) == function.show(n))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("C", "csp"),
        (" C\n", "cs"),
        ("C)", "c"),
        ("(C)", "c"),
        ("c", "c"),
        ("C.", "c"),
        ("A: C", "c"),
        ("Answer: C", "c"),
        ("The answer is C.", "c"),
        ("I think it is C", "c"),
        ("A good guess is C", "c"),
        ("C) lambda n: n + 5", "c"),
        ("C: adds 5", "c"),
        ("C\nBecause B is wrong", "c"),
        ("B", ""),
        ("CC", ""),
        ("C or D", ""),
        ("B and C", ""),
        ("", ""),
        ("Certainly", ""),
        ("A", ""),
        ("A: lambda n: n", ""),
        ("COULD BE", ""),
    ],
)
def test_letter(reply: str, expected: str) -> None:
    assert marks("letter", reply, "C") == expected


def test_the_letter_a_is_an_answer_too() -> None:
    for reply in ("A", "A)", "A: lambda n: n + 5", "A: A", "a", "The answer is A", "A is right", "A:"):
        assert score("letter", reply, "A").correct, reply
    assert not score("letter", "A is wrong, B", "A").correct


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("A, C", "csp"),
        ("AC", "cp"),
        ("CA", "cp"),
        ("C, A", "cp"),
        ("A and C", "cp"),
        ("a, c", "c"),
        ("A C", "cp"),
        ("(A), (C)", "cp"),
        ("A, C, C", "cp"),
        ("A: A, C", "cp"),
        ("I think A and C", "c"),
        ("The answers are A and C.", "c"),
        ("the options a, c", ""),
        ("A", ""),
        ("A, B, C", ""),
        ("B", ""),
        ("", ""),
    ],
)
def test_letters(reply: str, expected: str) -> None:
    assert marks("letters", reply, ["A", "C"]) == expected
    assert marks("letters", reply, "A, C") == expected


def test_a_letter_that_stands_twice_in_a_target_has_to_be_said_twice_by_the_published_rule_alone() -> None:
    assert marks("letters", "B", ["B", "B"]) == "cs"
    assert marks("letters", "B, B", ["B", "B"]) == "cp"


@given(st.sets(st.sampled_from("ABCDE"), min_size=1), st.randoms(use_true_random=False))
def test_a_set_of_letters_is_found_in_any_order_and_dress(letters: set[str], random: Any) -> None:
    order = sorted(letters)
    random.shuffle(order)
    for mark in (", ", " ", "", " and ", ",", "/", ") "):
        assert named_letters(mark.join(order)) == letters
    assert score("letters", ", ".join(order), order) == score("letters", ", ".join(order), tuple(order))
    assert score("letters", ", ".join(order), order).strict


@given(st.text(), st.sampled_from([kind for kind in TARGETS if kind not in ("preimage", "definition")]))
def test_strict_is_never_kinder_than_ours(reply: str, kind: str) -> None:
    for target in ("C", "B") if kind in ("letter", "letters") else ("5", "-14"):
        found = score(kind, reply, target)
        assert found.correct or not found.strict
        same = score(kind, target, target)
        assert (same.correct, same.strict, same.published) == (True, True, True)


def test_definitions_are_scored_by_what_they_compute() -> None:
    assert marks("definition", "lambda n: n*2 if n >= 0 else n*3", REGISTRY["piecewise_1"].python_definition) == "csp"
    assert marks("definition", "lambda n: 1 - n % 2", REGISTRY["bool_mod_2"].python_definition) == "cp"
    assert marks("definition", "A: lambda n: n", "lambda n: n") == "cs"
    assert marks("definition", "# lambda n: n", "lambda n: n") == "cs"
    assert marks("definition", "lambda n: n + 1", "lambda n: n") == ""
    right = [function.python_definition for function in REGISTRY.values()]
    assert [marks("definition", text, text) for text in right] == ["csp"] * 75


def test_first_line_is_what_it_says() -> None:
    assert [first_line(text) for text in ("", "\n\n a \n b", "# 5", "A:\n5", '"x".')] == ["", "a", "5", "", "x"]


@pytest.mark.parametrize(
    ("kind", "target", "says"),
    [
        ("prose", "x", "cannot score 'prose': expected one of text, preimage"),
        ("text", "", "expected one target with text"),
        ("text", ["1", "2"], "expected one target with text"),
        ("integer", "five", "expected a number as target"),
        ("letter", "CD", "expected one capital letter"),
        ("letter", "c", "expected one capital letter"),
        ("letters", "", "expected capital letters"),
        ("preimage", ["1"], "give both"),
        ("definition", "five", "is no definition"),
    ],
)
def test_a_target_that_does_not_fit_is_refused(kind: str, target: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        score(kind, "x", target)
    assert "\n" not in str(error.value)
