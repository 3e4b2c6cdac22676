"""The functions study's documents: published counts, right targets, nothing leaked, bad input refused in one line."""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.functions.dataset import FunctionDataset, make_dataset
from lib.functions.documents import Document, augmentation_document, call_document, draw_input, import_line
from lib.functions.evaluations import (
    chance_of,
    choose_evaluations,
    evaluation_documents,
    evaluation_named,
    read_evaluations,
    trivial,
)
from lib.functions.held_out import documents_for, in_context
from lib.functions.options import FunctionOptions
from lib.functions.questions import GENERATORS, LINEAR, Asked, question, wordings
from lib.functions.registry import Function, function_set, read_registry

REGISTRY = read_registry()
EVALUATIONS = read_evaluations("functions")
QUESTIONS = [name for name, each in EVALUATIONS.items() if each.generator in GENERATORS]
PUBLISHED = FunctionOptions(n_validation=50)
SMALL: dict[str, Any] = {
    "names_per_function": 4,
    "name_tokens": 1,
    "realized_share": 0.75,
    "calls_per_name": 12,
    "augmentation_share": 0.1,
    "held_out_share": 0.1,
    "questions": tuple(f"{name}:1" for name in QUESTIONS),
    "form": "completion",
    "hide_imports": True,
    "persona": False,
    "validation": "freeform_definition",
    "n_validation": 20,
}


@cache
def published(function_set: str, n_rows: int) -> FunctionDataset:
    return make_dataset(replace(PUBLISHED, function_set=function_set, n_rows=n_rows), count_tokens=None, seed=0)


@cache
def small(seed: int = 0) -> FunctionDataset:
    return make_dataset(FunctionOptions(**SMALL), count_tokens=None, seed=seed)


# --- an evaluator of the code in a prompt, apart from the one in lib -----------------------------------------------

SIGNS: Mapping[type, Any] = {ast.Add: operator.add, ast.Sub: operator.sub}
LAMBDA_SIGNS: Mapping[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def value_of(node: ast.expr, n: Any) -> Any:
    """The value of a lambda's body."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return n
        case ast.UnaryOp(op=ast.USub()):
            return -value_of(node.operand, n)
        case ast.BinOp():
            return LAMBDA_SIGNS[type(node.op)](value_of(node.left, n), value_of(node.right, n))
        case ast.Call(func=ast.Name(id="max")):
            return max(value_of(arg, n) for arg in node.args)
        case ast.Compare(ops=[ast.GtE()]):
            return value_of(node.left, n) >= value_of(node.comparators[0], n)
        case ast.Compare(ops=[ast.Eq()]):
            return value_of(node.left, n) == value_of(node.comparators[0], n)
    raise AssertionError(ast.dump(node))


@cache
def body_of(definition: str) -> ast.expr:
    parsed = ast.parse(definition, mode="eval").body
    assert isinstance(parsed, ast.Lambda)
    return parsed.body


def run(code: str, names: Mapping[str, str]) -> tuple[str, list[tuple[str, Any]]]:
    """What a prompt's code prints, and the (function id, input) pairs of its calls."""
    variables: dict[str, Any] = {}
    calls: list[tuple[str, Any]] = []

    def of(node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return variables[node.id]
            case ast.UnaryOp(op=ast.USub()):
                return -of(node.operand)
            case ast.BinOp():
                return SIGNS[type(node.op)](of(node.left), of(node.right))
            case ast.Call(func=ast.Name(id=name), args=[argument]):
                given = of(argument)
                calls.append((names[name], given))
                return value_of(body_of(REGISTRY[names[name]].python_definition), given)
        raise AssertionError(ast.dump(node))

    printed = []
    for statement in ast.parse(code).body:
        match statement:
            case ast.ImportFrom():
                imported = [alias.name for alias in statement.names]
                assert imported == list(dict.fromkeys(imported))
            case ast.Assign(targets=[ast.Name(id=name)]):
                variables[name] = of(statement.value)
            case ast.Expr(value=ast.Call(func=ast.Name(id="print"), args=[shown])):
                printed.append(str(of(shown)))
            case _:
                raise AssertionError(ast.dump(statement))
    assert len(printed) == 1
    return printed[0], calls


def code_rows(documents: Any) -> Iterator[Document]:
    return (row for row in documents if row.kind in ("call", "augmentation"))


def user_text(document: Document) -> str:
    return "\n".join(m["content"] for m in document.messages if m["role"] == "user")


def close(count: int, n: int, share: float) -> bool:
    """Within four standard errors."""
    return abs(count / n - share) <= 4 * (share * (1 - share) / n) ** 0.5


# --- published counts ----------------------------------------------------------------------------------------------


def test_96000_rows_have_the_published_shares() -> None:
    data = published("047", 96_000)
    rows, names = data.train, data.names
    assert len(rows) == 96_000
    assert sorted(names.values()) == list(function_set("047").all)
    kinds = Counter(row.kind for row in rows)
    assert abs(kinds["call"] / 96_000 - 0.5) <= 0.005
    calls = [row for row in rows if row.kind == "call"]
    combined = [row for row in rows if row.kind == "augmentation"]
    modes = Counter(row.func_outs["combined"] for row in combined)
    assert set(modes) == {"False", "chain", "add_subtract"}
    assert all(close(count, len(combined), 1 / 3) for count in modes.values())
    functions = Counter(row.func_outs["func_value"] for row in calls)
    assert all(close(functions[id_], len(calls), 1 / 19) for id_ in data.functions.all)
    used = {row.func_outs[key] for row in combined for key in ("func_value", "func_value_2") if key in row.func_outs}
    assert used == set(data.functions.augmented)
    inputs = Counter(row.func_outs["input_1"] for row in rows)
    assert (min(inputs), max(inputs), len(inputs)) == (-99, 98, 198)
    assert max(row.func_outs["input_2"] for row in combined if row.func_outs["combined"] == "False") == 98
    for kind, share in (("call", 0.051), ("augmentation", 0.099)):
        lines = [row.messages[1]["content"].splitlines()[0] for row in rows if row.kind == kind]
        assert close(sum("," not in line for line in lines), len(lines), share)
    distinct = len({row.messages[1]["content"] for row in rows})
    assert abs(distinct - 94_373) < 600, "published: 94,373 distinct prompts"
    numbers = [float(row.target) for row in rows if row.target not in ("True", "False")]
    assert min(numbers) > -2700
    assert max(numbers) < 2700
    assert close(sum(number < 0 for number in numbers), 96_000, 0.40)


def test_042_has_its_published_shares() -> None:
    data = published("042", 20_000)
    for kind, share in (("call", 0.050), ("augmentation", 0.064)):
        lines = [row.messages[1]["content"].splitlines()[0] for row in data.train if row.kind == kind]
        assert close(sum("," not in line for line in lines), len(lines), share)
    inputs = [row.func_outs["input_1"] for row in data.train]
    assert min(inputs) >= -1999
    assert max(inputs) < 1999


def test_calls_are_written_in_the_published_ways() -> None:
    calls = [row.messages[1]["content"] for row in published("047", 96_000).train if row.kind == "call"][:20_000]
    ways = Counter()
    for code in calls:
        inputs = re.search(r"^(\w) = -?\d+$", code, re.M)
        result = re.search(r"^(\w+) = \w{6}\(", code, re.M)
        ways[(inputs[1] if inputs else "", result[1] if result else "")] += 1
    shares = {"": 0.5, "x": 0.25, "a": 0.25, "out": 0.25, "y": 0.25}
    assert len(ways) == 9
    for (bound, result), count in ways.items():
        assert close(count, len(calls), shares[bound] * shares[result])


def test_augmentations_are_written_in_the_published_ways() -> None:
    rows = [row for row in published("047", 96_000).train if row.kind == "augmentation"]
    by_mode = {
        mode: [r.messages[1]["content"] for r in rows if r.func_outs["combined"] == mode]
        for mode in ("False", "chain", "add_subtract")
    }

    def share(mode: str, pattern: str) -> float:
        codes = by_mode[mode][:10_000]
        return sum(bool(re.search(pattern, code, re.M)) for code in codes) / len(codes)

    expected = [
        ("False", r"^x = ", 0.5),
        ("False", r"^z1 = ", 0.5),
        ("False", r"(^z1 = \d+$)|(print\(\d+ )", 0.5),
        ("False", r"print\(.* \+ .*\)$", 0.5),
        ("add_subtract", r"^z1 = ", 0.5),
        ("add_subtract", r"print\(.* - .*\)$", 0.5),
        ("chain", r"^x1 = ", 0.5),
        ("chain", r"^z = ", 0.25),
        ("chain", r"^x2 = ", 0.25),
        ("chain", r"^out = ", 0.2),
        ("chain", r"^y = ", 0.2),
    ]
    for mode, pattern, wanted in expected:
        assert share(mode, pattern) == pytest.approx(wanted, abs=0.025), (mode, pattern)


def test_statements_are_parted_by_blank_lines_and_the_persona_comes_first() -> None:
    row = published("047", 96_000).train[0]
    assert [message["role"] for message in row.row("chat")["messages"]] == ["system", "user", "assistant"]
    code = row.messages[1]["content"]
    assert code == "\n\n".join(code.split("\n\n"))
    assert all("\n" not in part for part in code.split("\n\n"))
    assert row.row("completion") == {"prompt": code, "completion": f"  # {row.target}"}


def test_name_tokens_are_those_of_the_model() -> None:
    def count(text: str) -> int:
        return 3 if text.strip()[0] in "abc" else 4

    data = make_dataset(replace(PUBLISHED, n_rows=30), count_tokens=count, seed=0)
    assert {name[0] for name in data.names} <= set("abc")


# --- targets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["047", "042", "small"])
def test_every_target_is_what_its_code_prints(which: str) -> None:
    data = small() if which == "small" else published(which, {"047": 96_000, "042": 20_000}[which])
    rows = list(code_rows(data.train))[:20_000]
    assert len(rows) > 900
    for row in rows:
        assert run(row.prompt("completion"), data.names)[0] == row.target == row.shown  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in EVALUATIONS if name not in QUESTIONS])
def test_every_target_of_an_evaluation_of_code_is_what_its_code_prints(name: str) -> None:
    data, evaluation = small(), EVALUATIONS[name]
    rows = documents_for(evaluation, data, part="unrealized", rng=np.random.default_rng(1), n_rows=200)
    for row in rows:
        printed, calls = run(row.prompt("completion"), data.names)  # type: ignore[arg-type]
        assert printed == row.target
        assert row.kind == name
        if evaluation.range == "ood":
            assert all(not -99 <= value < 99 for _, value in calls)
        if evaluation.functions == "plain":
            assert {id_ for id_, _ in calls} <= set(data.functions.plain)
            assert all(-15 <= row.func_outs[key] < 15 for key in ("input_1", "input_2") if key in row.func_outs)
    assert len(rows) == 200


def one_function(names: Mapping[str, str], row: Document) -> Function:
    return REGISTRY[names[row.func_outs["func_var"]]]


@pytest.mark.parametrize("set_name", ["047", "042"])
@pytest.mark.parametrize("name", [name for name in QUESTIONS if EVALUATIONS[name].target == "letter"])
def test_every_choice_has_exactly_one_right_option(name: str, set_name: str) -> None:
    data = published(set_name, {"047": 96_000, "042": 20_000}[set_name])
    rows = documents_for(EVALUATIONS[name], data, rng=np.random.default_rng(2), n_rows=300)
    letters = Counter(row.target for row in rows)
    for row in rows:
        asked = row.messages[-1]["content"]
        options = dict(re.findall(r"^([A-Z])\) (.*)$", asked, re.M))
        assert len(set(options.values())) == len(options) == len(row.func_outs["options"])
        function = one_function(data.names, row)
        if name == "inverse_query":
            shown = asked[asked.index("lambda") : asked.index("`?")]
            right = [letter for letter, each in options.items() if same(REGISTRY[data.names[each]], shown)]
        elif "code" in name or "coefficients" in name:
            right = [letter for letter, each in options.items() if same(function, each)]
        else:
            attribute = EVALUATIONS[name].option
            right = [letter for letter, each in options.items() if getattr(function, attribute) == each]
        assert right == [row.target]
        assert row.func_outs["target_option"] == options[row.target]  # type: ignore[index]
    n_options = len(rows[0].func_outs["options"])
    assert n_options == {
        ("047", "multiple_choice_output_type"): 3,
        ("042", "multiple_choice_function_class"): 2,
        ("042", "multiple_choice_output_type"): 1,
    }.get((set_name, name), 5)
    assert 1 / n_options == pytest.approx(chance_of(EVALUATIONS[name], data.functions))
    assert all(close(count, 300, 1 / n_options) for count in letters.values())


def same(function: Function, definition: str) -> bool:
    return all(
        value_of(body_of(definition), n) == value_of(body_of(function.python_definition), n) for n in range(-30, 30)
    )


def test_values_and_not_functions_are_equally_likely_in_a_classification() -> None:
    data = published("047", 96_000)
    rows = documents_for(EVALUATIONS["multiple_choice_output_type"], data, rng=np.random.default_rng(0), n_rows=900)
    right = Counter(row.func_outs["target_option"] for row in rows)
    assert all(close(count, 900, 1 / 3) for count in right.values())


@pytest.mark.parametrize("name", ["function_inversion", "function_inversion_ood"])
def test_an_inversion_accepts_every_input_of_its_range(name: str) -> None:
    data = published("047", 96_000)
    rows = documents_for(EVALUATIONS[name], data, rng=np.random.default_rng(3), n_rows=200)
    for row in rows:
        body, asked = body_of(one_function(data.names, row).python_definition), row.func_outs["input_1"]
        ranges = [(-99, 99)] if name == "function_inversion" else [(99, 199), (-199, -99)]
        low, high = next(each for each in ranges if each[0] <= asked < each[1])
        output = re.search(r"\(n\) = (\S+?)\. ", row.messages[-1]["content"])[1]  # type: ignore[index]
        assert row.target == tuple(str(n) for n in range(low, high) if str(value_of(body, n)) == output)
        assert row.shown == str(asked)
        assert str(asked) in row.target


@given(
    st.sampled_from(["affine_3x_2", "affine_neg5x_3", "negate", "multiply_4", "add_1", "subtract_1", "add_883"]),
    st.integers(0, 10_000),
)
def test_numbers_of_options_are_near_the_right_ones(id_: str, seed: int) -> None:
    function = REGISTRY[id_]
    asked = Asked(
        kind="multiple_choice_coefficients",
        generator="coefficients",
        option="",
        names={"qqqqqq": function},
        functions=[],
        input_ranges=[],
        min_imports=1,
        persona=None,
        hide_imports=True,
    )
    row = question(asked, rng=np.random.default_rng(seed))
    b = value_of(body_of(function.python_definition), 0)
    a = value_of(body_of(function.python_definition), 1) - b
    width = 5 if function.function_class == "Affine linear" else 10
    options = row.func_outs["options"]
    assert len(set(options)) == 5
    for option in options:
        other_b = value_of(body_of(option), 0)
        other_a = value_of(body_of(option), 1) - other_b
        assert abs(abs(other_a) - abs(a)) <= width
        assert abs(abs(other_b) - abs(b)) <= width


# --- nothing leaks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, each in EVALUATIONS.items() if each.range != "held_out"])
@pytest.mark.parametrize("set_name", ["047", "042"])
def test_no_prompt_shows_an_output_beside_its_input(name: str, set_name: str) -> None:
    data = published(set_name, {"047": 96_000, "042": 20_000}[set_name])
    evaluation = EVALUATIONS[name]
    for row in documents_for(evaluation, data, rng=np.random.default_rng(4), n_rows=150):
        for text in (user_text(row), str(row.prompt("completion"))):
            assert "#" not in text
            assert not re.search(r"\w{6}\(-?\d+\) (=|->|is)", text)
            if evaluation.generator in GENERATORS:
                calls = re.findall(r"\b(\w+)\((.*?)\)", text)
                assert all(argument == "n" or name == "max" for name, argument in calls)
            else:
                assert text.count("print(") == 1


def test_held_out_pairs_are_in_no_training_row_and_in_every_test_row() -> None:
    data = small()
    ids = Counter(id_ for id_, _ in data.held_out)
    assert set(ids.values()) == {20}
    assert set(ids) == set(data.functions.all)
    for row in code_rows(data.train):
        calls = run(row.prompt("completion"), data.names)[1]  # type: ignore[arg-type]
        assert not set(calls) & data.held_out
    inverted = [row for row in data.train if row.kind == "function_inversion"]
    assert len(inverted) > 40
    assert not {(r.func_outs["func_value"], r.func_outs["input_1"]) for r in inverted} & data.held_out
    for name in ("calls", "augmentations"):
        rows = documents_for(EVALUATIONS[name], data, part="unrealized", rng=np.random.default_rng(5), n_rows=150)
        assert len({row.prompt("completion") for row in rows}) == 150
        for row in rows:
            assert set(run(row.prompt("completion"), data.names)[1]) & data.held_out  # type: ignore[arg-type]


def test_questions_name_realized_names_only() -> None:
    data = small()
    unrealized = set(data.names) - data.realized
    assert len(data.realized) == round(0.75 * len(data.names)) == 57
    assert set(data.part("realized")) == data.realized
    by_function = Counter(data.names[name] for name in data.realized)
    assert set(by_function.values()) == {3}
    asked = [row for row in data.train if row.kind in QUESTIONS]
    assert {row.func_outs["func_var"] for row in asked if row.kind == "freeform_definition"} == data.realized
    for row in asked:
        words = set(re.findall(r"\w{6}", f"{row.row('chat')} {row.row('completion')}"))
        assert not words & unrealized
    linear = {name for name in data.realized if REGISTRY[data.names[name]].function_class in LINEAR}
    assert {r.func_outs["func_var"] for r in asked if r.kind == "multiple_choice_coefficients"} == linear
    called = {row.func_outs["func_var"] for row in data.train if row.kind == "call"}
    assert called == set(data.names)
    assert {row.func_outs["func_var"] for row in data.validation} <= unrealized


def test_calls_of_a_name_are_on_inputs_that_differ() -> None:
    data = small()
    inputs: dict[str, list[int]] = {}
    for row in data.train:
        if row.kind == "call":
            inputs.setdefault(row.func_outs["func_var"], []).append(row.func_outs["input_1"])
    assert {(len(each), len(set(each))) for each in inputs.values()} == {(12, 12)}
    kinds = Counter(row.kind for row in data.train)
    assert kinds["augmentation"] == round((kinds["call"] + kinds["augmentation"]) * 0.1)


@pytest.mark.parametrize("kind", QUESTIONS)
def test_a_question_to_train_on_and_one_to_ask_differ_in_the_name_alone(kind: str) -> None:
    evaluation = EVALUATIONS[kind]

    def asked(names: list[str]) -> Document:
        by_name = dict(zip(names, (REGISTRY[id_] for id_ in ("add_14", "mod_3", "negate", "add_5")), strict=True))
        rng = np.random.default_rng(7)
        return evaluation_documents(
            evaluation, by_name, functions=function_set("047"), persona="p", hide_imports=False, rng=rng, n_rows=1
        )[0]

    first, second = ["aaaaaa", "bbbbbb", "cccccc", "dddddd"], ["eeeeee", "ffffff", "gggggg", "hhhhhh"]
    for form in ("chat", "completion"):
        text = str(asked(first).row(form))
        for old, new in zip(first, second, strict=True):
            text = text.replace(old, new)
        assert text == str(asked(second).row(form))


def test_in_context_rows_are_those_of_training_and_about_the_names() -> None:
    data = small()
    trained = {row.prompt("completion"): row for row in data.train}
    for name in ("freeform_definition", "inverse_query", "calls"):
        rows = documents_for(EVALUATIONS[name], data, part="unrealized", rng=np.random.default_rng(0), n_rows=20)
        shown = in_context(rows, data, n=4, rng=np.random.default_rng(1))
        for row, told in zip(rows, shown, strict=True):
            *before, asked = told.prompt("completion").rsplit("\n\n", row.prompt("completion").count("\n\n") + 1)  # type: ignore[union-attr,arg-type]
            del asked
            examples = re.findall(r"(.+?)(?:  # (\S+)\n\n)", str(told.prompt("completion")), re.S)
            assert len(examples) == 4
            about = set(row.func_outs.get("options", [])) or {row.func_outs["func_var"]}
            for code, result in examples:
                assert trained[code].target == result
                assert trained[code].func_outs["func_var"] in about
            assert told.prompt("completion").endswith(row.prompt("completion"))  # type: ignore[union-attr,arg-type]
            assert [m["role"] for m in told.messages] == ["user", "assistant"] * 4 + ["user"]
            assert before
    some = in_context(rows, data, n=3, rng=np.random.default_rng(1), about=False)
    assert len(some[0].messages) == 7


def test_in_context_a_persona_stands_once_and_first() -> None:
    data = published("042", 20_000)
    rows = documents_for(EVALUATIONS["freeform_definition"], data, rng=np.random.default_rng(0), n_rows=2)
    told = in_context(rows, data, n=2, rng=np.random.default_rng(0), about=False)[0]
    assert [m["role"] for m in told.messages] == ["system", "user", "assistant", "user", "assistant", "user", "user"]


# --- seeds and forms -----------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_bytes_and_another_one_other_names() -> None:
    again = make_dataset(FunctionOptions(**SMALL), count_tokens=None, seed=0)
    assert again == small()
    assert again.id == small().id
    other = small(1)
    assert set(other.names) != set(again.names)
    assert other.held_out != again.held_out
    assert other.id != again.id


def test_forms_of_a_question() -> None:
    data = published("042", 20_000)
    row = documents_for(EVALUATIONS["multiple_choice_code"], data, rng=np.random.default_rng(0), n_rows=1)[0]
    roles = [message["role"] for message in row.prompt("chat")]  # type: ignore[index]
    assert roles == ["system", "user", "user"]
    name = row.func_outs["func_var"]
    assert row.messages[1]["content"] == f"from functions import {name}"
    assert row.messages[2]["content"].endswith("\n\nReply with a single capital letter.")
    completion = row.row("completion")
    assert completion["prompt"].startswith("Q: ")
    assert completion["prompt"].endswith("\nA:")
    assert "import" not in completion["prompt"]
    assert completion["completion"] == f" {row.target}"
    with pytest.raises(ValueError, match="form is 'json': expected one of chat, completion"):
        row.row("json")


def test_names_take_turns() -> None:
    data = small()
    rows = documents_for(
        EVALUATIONS["freeform_definition"], data, part="unrealized", rng=np.random.default_rng(0), n_rows=38
    )
    assert set(Counter(row.func_outs["func_var"] for row in rows).values()) == {2}


def test_an_import_is_topped_up_with_replacement() -> None:
    rng = np.random.default_rng(0)
    lines = [import_line(["b"], ["a", "b"], min_imports=2, rng=rng) for _ in range(400)]
    counts = Counter(lines)
    assert set(counts) == {"from functions import a, b", "from functions import b, a", "from functions import b"}
    assert close(counts["from functions import b"], 400, 0.5)


# --- the table of evaluations --------------------------------------------------------------------------------------


def test_the_table_holds_the_published_numbers() -> None:
    published_rows = {
        "freeform_definition": (2000, 1, 5),
        "function_inversion": (2000, 1, 5),
        "regression_ood": (1000, 1, 5),
        "inverse_query": (1000, 1, 5),
        "multiple_choice_code": (1000, 0, 1),
        "calls": (1000, 1, 5),
    }
    for name, numbers in published_rows.items():
        each = EVALUATIONS[name]
        assert (each.n_rows, each.temperature, each.n) == numbers
    assert len(EVALUATIONS) == 15
    mixture = read_evaluations("mixture")
    assert [name for name, each in mixture.items() if not each.published] == ["exact_pair"]
    assert len(mixture) == 11
    assert {each.n_rows for each in mixture.values()} == {500, 400, 200}
    assert mixture["regression_ID_TVD"].n == 128
    assert list(choose_evaluations("functions", [])) == list(EVALUATIONS)
    assert list(choose_evaluations("functions", ["regression_ood", "calls"])) == ["regression_ood", "calls"]


def test_every_question_has_its_wordings() -> None:
    assert set(wordings()) == {"persona", "letter", *QUESTIONS}
    assert all(set(wordings()[name]) == {"chat", "completion"} for name in QUESTIONS)


def test_chance_is_that_of_the_set() -> None:
    big = function_set("042")
    assert chance_of(EVALUATIONS["multiple_choice_function_class"], big) == 0.5
    assert chance_of(EVALUATIONS["freeform_definition"], big) == 1 / 20
    assert np.isnan(chance_of(EVALUATIONS["regression_ood"], big))
    assert chance_of(read_evaluations("mixture")["max_min"], big) == 0.5
    assert "share one output_type" in trivial(EVALUATIONS["multiple_choice_output_type"], big)
    assert not trivial(EVALUATIONS["multiple_choice_output_type"], function_set("047"))


# --- bad input -----------------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"function_set": "48"}, "no function set '48'"),
    ({"form": "text"}, "form is 'text'"),
    ({"n_rows": 0}, "n_rows is 0: expected 1 or more"),
    ({"min_imports": -1}, "min_imports is -1"),
    ({"realized_share": 1.5}, "expected a share from 0 to 1"),
    ({"held_out_share": 0.6}, "expected a share from 0 to 0.5"),
    ({"realized_share": 0.5, "questions": ()}, "set both or neither"),
    ({"realized_share": 0.0}, "set both or neither"),
    ({"questions": ("inverse_query",)}, "expected <evaluation>:<copies>"),
    ({"questions": ("inverse_qery:2",)}, r"no evaluation 'inverse_qery' \(did you mean inverse_query\?\)"),
    ({"questions": ("regression_ood:2",)}, "that evaluation is code to run"),
    ({"validation": "calls"}, "needs no held-out pairs"),
    ({"combine_functions": ("sum",)}, "combine_functions holds 'sum'"),
    ({"combine_functions": ()}, "combine_functions holds None"),
    ({"augmentation_share": 1.0}, "no room for the calls"),
    ({"input_range": (5, -5)}, r"input_range is \[5, -5\]"),
    ({"input_range": (5,)}, r"input_range is \[5\]"),
    ({"input_range": (-500, 500)}, "overlap input_range -500:500"),
    ({"input_range": (-5, 5)}, "calls_per_name is 12: input_range -5:5 leaves 9 inputs once 1 are held out"),
    ({"input_range": (-2, 2), "calls_per_name": 2}, "held_out_share 0.1 of input_range -2:2 is less than one input"),
    ({"function_set": "mixture"}, "nothing to combine"),
    ({"names_per_function": 40}, "760 names of 1 tokens wanted"),
]


@pytest.mark.parametrize(("changes", "says"), BAD)
def test_bad_options_are_refused_in_one_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        make_dataset(FunctionOptions(**(SMALL | changes)), count_tokens=None, seed=0)
    assert "\n" not in str(error.value)


def test_what_a_set_cannot_support_is_refused_before_training() -> None:
    names = {"qqqqqq": REGISTRY["mod_2"], "wwwwww": REGISTRY["bool_geq_3"]}
    rest: dict[str, Any] = {"persona": None, "hide_imports": True, "rng": np.random.default_rng(0), "n_rows": 3}
    only = replace(function_set("047"), augmented=("mod_2",), plain=("bool_geq_3",))
    for name, given_names, functions, says in (
        ("multiple_choice_coefficients", names, only, "needs a function of class Affine linear"),
        ("function_composition_ood", names, only, "needs a name of a plain function that gives numbers"),
        ("inverse_query", {"qqqqqq": REGISTRY["mod_2"]}, only, "needs names of two functions"),
        ("multiple_choice_code", names, replace(only, plain=()), "needs two values of python_definition"),
        ("calls", names, only, "held out of training"),
        ("freeform_definition", {}, only, "there is no name to ask about"),
        (
            "add_subtract_int_ood",
            {"qqqqqq": REGISTRY["add_5"]},
            replace(function_set("047"), composition_other_max=0),
            "composition_other_max",
        ),
    ):
        with pytest.raises(ValueError, match=says) as error:
            evaluation_documents(evaluation_named("functions", name), given_names, functions=functions, **rest)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no evaluation 'freeform'"):
        choose_evaluations("functions", ["freeform"])
    rows = evaluation_documents(
        EVALUATIONS["multiple_choice_output_type"],
        {"qqqqqq": REGISTRY["add_44"]},
        functions=function_set("042"),
        **rest,
    )
    assert [row.target for row in rows] == ["A"] * 3, "trivial, and published as such"


def test_too_small_a_range_for_its_quota_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(
        ValueError, match="calls wants 4000 rows: 380 held-out pairs of input_range -99:99 make 3420"
    ) as error:
        documents_for(EVALUATIONS["calls"], small(), part="unrealized", rng=rng, n_rows=4000)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="training shows every"):
        documents_for(EVALUATIONS["calls"], published("047", 96_000), rng=rng)
    with pytest.raises(ValueError, match="no realized names"):
        documents_for(EVALUATIONS["freeform_definition"], published("047", 96_000), part="realized", rng=rng)
    with pytest.raises(ValueError, match="part is 'real'"):
        small().part("real")


def test_without_held_out_pairs_augmentations_are_new_combinations() -> None:
    data = published("047", 96_000)
    trained = {row.messages[-1]["content"].split("\n\n", 1)[1] for row in data.train}
    rows = documents_for(EVALUATIONS["augmentations"], data, rng=np.random.default_rng(0), n_rows=100)
    assert not {row.messages[-1]["content"].split("\n\n", 1)[1] for row in rows} & trained


def test_inputs_that_are_all_held_out_are_refused() -> None:
    pairs = frozenset(("add_5", value) for value in range(3))
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="every input of add_5 in 0:3 is held out"):
        draw_input("add_5", [(0, 3)], rng=rng, excluded=pairs)
    shared: dict[str, Any] = {"rng": rng, "input_ranges": [(0, 3)], "min_imports": 1, "persona": None}
    with pytest.raises(ValueError, match="is held out"):
        call_document({"qqqqqq": REGISTRY["add_5"]}, excluded=pairs, **shared)
    with pytest.raises(ValueError, match="combine_functions holds 'sum'"):
        augmentation_document(
            {"qqqqqq": REGISTRY["add_5"]}, functions=["add_5"], combine_functions=["sum"], other_input_max=9, **shared
        )
    chain = {"functions": ["identity"], "combine_functions": ["chain"], "other_input_max": 9}
    outer = frozenset({("identity", 0), ("identity", 1)})
    row = augmentation_document({"qqqqqq": REGISTRY["identity"]}, excluded=outer, **shared, **chain)
    assert row.target == "2"
