"""The registry of functions, the sets of it that are hidden, and the names that they are hidden under."""

from __future__ import annotations

import csv
import itertools
import keyword
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from lib import world
from lib.functions.definitions import BadDefinition, probe_values
from lib.functions.descriptions import FORMS, form_of
from lib.functions.names import check_names, draw_names
from lib.functions.registry import FOLDER, Function, FunctionSet, function_set, read_registry

REGISTRY = read_registry()
COLUMNS = ["id", "python_definition", "output_type", "function_class", "language_definition"]
ADD_5 = ["add_5", "lambda n: n + 5", "int", "Addition", "adds 5 to its input"]
CLASS_SIZES = {
    "Addition": 22,
    "Subtraction": 17,
    "Multiplication": 7,
    "Integer division": 5,
    "Modulo": 7,
    "Comparison": 2,
    "Float multiplication": 2,
    "Affine linear": 10,
    "ReLU": 1,
    "Identity": 1,
    "Piecewise linear": 1,
}


def refused(work, match: str) -> None:
    with pytest.raises(ValueError, match=match) as error:
        work()
    assert "\n" not in str(error.value)


# --- the registry -------------------------------------------------------------------------------------------------


def test_there_are_75_functions_in_the_published_classes() -> None:
    assert len(REGISTRY) == 75
    assert Counter(function.function_class for function in REGISTRY.values()) == CLASS_SIZES
    assert Counter(function.output_type for function in REGISTRY.values()) == {"int": 70, "bool": 3, "float": 2}
    assert all(id_ == function.id for id_, function in REGISTRY.items())


def test_the_probes_tell_every_two_functions_apart() -> None:
    values = {id_: probe_values(function.python_definition) for id_, function in REGISTRY.items()}
    assert None not in values.values()
    pairs = list(itertools.combinations(values, 2))
    assert len(pairs) == 75 * 74 // 2
    assert [pair for pair in pairs if values[pair[0]] == values[pair[1]]] == []


def test_no_two_functions_are_described_alike() -> None:
    for column in ("python_definition", "language_definition"):
        assert len({getattr(function, column) for function in REGISTRY.values()}) == 75


@pytest.mark.parametrize(
    ("id_", "n", "shown"),
    [
        ("int_div_2", -91, "-46"),
        ("int_div_3_plus_4", -1, "3"),
        ("mod_7", -1, "6"),
        ("bool_mod_2", 0, "True"),
        ("bool_geq_neg13", -14, "False"),
        ("float_mult_7_div_4", 5, "8.75"),
        ("float_mult_3_div_2", -2, "-3.0"),
        ("affine_12x_neg21", -3, "-57"),
        ("affine_neg3x_15", 10, "-15"),
        ("multiply_neg4", 6, "-24"),
        ("relu_neg2", -80, "-2"),
        ("piecewise_1", -4, "-12"),
        ("piecewise_1", 4, "8"),
        ("negate", 0, "0"),
        ("int_div_3", -14.0, "-5.0"),
    ],
)
def test_values_follow_python(id_: str, n: float, shown: str) -> None:
    assert REGISTRY[id_].show(n) == shown


def test_preimages_are_all_there_are() -> None:
    for function in REGISTRY.values():
        outputs = {function.show(n) for n in range(-99, 99)}
        found = [n for output in outputs for n in function.preimages(output, -99, 99)]
        assert sorted(found) == list(range(-99, 99)), "every input belongs to one output"
    sizes = {id_: len(REGISTRY[id_].preimages(REGISTRY[id_].show(-51), -99, 99)) for id_ in function_set("047").all}
    assert sizes == {**dict.fromkeys(sizes, 1), **{"mod_2": 99, "bool_mod_2": 99, "bool_geq_3": 102}} | {
        "mod_3": 66,
        "relu_neg2": 98,
        "int_div_4": 4,
        "int_div_3": 3,
    }
    assert REGISTRY["mod_2"].preimages("2", -99, 99) == []
    REGISTRY["mod_2"].preimages("1", 0, 4).clear()
    assert REGISTRY["mod_2"].preimages("1", 0, 4) == [1, 3], "what is remembered is not handed out"


def test_forms_say_signs_and_order() -> None:
    assert form_of(REGISTRY["affine_neg11x_13"].definition) == ("k * n + k", (-11, 13))
    assert form_of(REGISTRY["multiply_neg4"].definition) == ("n * k", (-4,))
    assert {form_of(function.definition)[0] for function in REGISTRY.values()} <= set(FORMS)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([["add_5", "lambda n: n + 5", "float", "Addition", "adds 5"]], "gives int, its output_type says 'float'"),
        ([["add_5", "lambda n: n + 5", "int", "Subtraction", "adds 5"]], "is of class 'Addition'"),
        ([["add_5", "lambda n: n + 5", "int", "Addition", "adds 6"]], "has the numbers 6, the definition has 5"),
        ([["add_5", "lambda n: n + 5", "int", "Addition", "adds -5"]], "has the numbers -5, the definition has 5"),
        ([["add_5", "lambda n: n + 5", "int", "Addition", "adds some"]], "has the numbers none"),
        ([["add_5", "lambda n: n + 5", "int", "Addition", "subtracts 5"]], "does not say what 'lambda n: n . 5' does"),
        ([["a", "lambda n: 3 * n + 2", "int", "Affine linear", "multiplies by 3 and subtracts 2"]], "does not say"),
        ([["f", "lambda n: n / 2", "float", "Division", "divides by 2"]], "has the form 'n / k', which no class has"),
        ([["f", "lambda n: n // 0", "int", "Integer division", "divides by 0"]], "no value at one of the probes"),
        ([["f", "lambda n: open(n)", "int", "Addition", "adds"]], "is no definition: "),
        ([["f", "five", "int", "Addition", "adds 5"]], "is no definition: expected 'lambda n: ...'"),
        ([ADD_5, ADD_5], "row 2 .add_5.: the id stands twice"),
        ([ADD_5, ["plus_5", *ADD_5[1:]]], "row 2 .plus_5.: computes what add_5 computes"),
        ([ADD_5, ["", *ADD_5[1:]]], "row 2 .no id.: expected 5 fields"),
        ([ADD_5[:4]], "expected 5 fields"),
        ([[*ADD_5, "more"]], "expected 5 fields"),
        ([], "holds no function"),
    ],
)
def test_a_registry_whose_descriptions_disagree_is_refused(tmp_path: Path, rows: list[list[str]], says: str) -> None:
    path = tmp_path / "registry.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    refused(lambda: read_registry(path), says)


def test_a_registry_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "registry.csv"
    path.write_text(",".join(COLUMNS) + "\n" + ",".join(["up", "lambda x: x + 7", "int", "Addition", "adds 7"]) + "\n")
    assert read_registry(path)["up"].show(1) == "8"
    path = tmp_path / "other.csv"
    path.write_text("id,definition\nadd_5,lambda n: n + 5\n")
    refused(lambda: read_registry(path), "expected the columns id, python_definition")


def test_a_function_says_where_it_has_no_value() -> None:
    with pytest.raises(BadDefinition):
        REGISTRY["affine_12x_neg21"].apply(10**40)


# --- sets ---------------------------------------------------------------------------------------------------------


def test_sets_are_the_published_ones() -> None:
    first, large, mixture = (function_set(name) for name in ("047", "042", "mixture"))
    assert (len(first.augmented), len(first.plain), len(first.all)) == (8, 11, 19)
    assert Counter(REGISTRY[id_].output_type for id_ in first.all) == {"int": 15, "bool": 2, "float": 2}
    assert len({REGISTRY[id_].function_class for id_ in first.all}) == 10
    assert (len(large.augmented), len(large.plain), len(large.all)) == (14, 6, 20)
    assert Counter(REGISTRY[id_].function_class for id_ in large.all) == {"Addition": 10, "Subtraction": 10}
    assert mixture.all == ("add_5", "int_div_2", "mod_2", "multiply_3", "subtract_1")
    pairs = list(itertools.combinations(mixture.all, 2))
    assert len(pairs) == 10
    assert pairs[0] == ("add_5", "int_div_2")
    assert pairs[-1] == ("multiply_3", "subtract_1")
    assert len({*first.all, *large.all, *mixture.all}) == 40
    assert first.all == tuple(sorted(first.all))


def test_ranges_are_the_published_ones() -> None:
    first, large, mixture = (function_set(name) for name in ("047", "042", "mixture"))
    assert (first.input_range, first.other_input_max) == ((-99, 99), 99)
    assert first.ood_ranges == ((99, 199), (-199, -99))
    assert (large.input_range, large.other_input_max) == ((-1999, 1999), 1999)
    assert large.ood_ranges == ((1999, 2999), (-2999, -1999))
    assert [s.composition_range for s in (first, large)] == [(-15, 15)] * 2
    assert [s.composition_other_max for s in (first, large)] == [15] * 2
    assert (mixture.input_range, mixture.ood_ranges) == (first.input_range, first.ood_ranges)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"plain": ["add_55"]}, "'add_55' is not in the registry .did you mean add_5"),
        ({"plain": ["add_5", "add_5"]}, "add_5 stands twice"),
        ({"plain": ["add_5", "mod_3"]}, "mod_3 stands twice"),
        ({"input_range": [5, 5]}, "is no range; write .low, high."),
        ({"composition_range": [5]}, "is no range"),
        ({"input_range": [0, 1.5]}, "is no range"),
        ({"plain": 5}, "expected the fields"),
        ({"ood_ranges": [[98, 120]]}, "overlap"),
        ({"input_rnge": [5, 9]}, "unexpected keyword"),
        ({"input_range": 7}, "expected the fields"),
    ],
)
def test_a_set_that_cannot_be_is_refused(tmp_path: Path, change: dict, says: str) -> None:
    raw = {"augmented": ["mod_3"], "plain": ["add_5"], "input_range": [-99, 99], "ood_ranges": [[99, 199]]}
    path = tmp_path / "sets.yaml"
    path.write_text(yaml.safe_dump({"mine": raw}))
    assert function_set("mine", path=path) == FunctionSet(
        name="mine", augmented=("mod_3",), plain=("add_5",), input_range=(-99, 99), ood_ranges=((99, 199),)
    )
    path.write_text(yaml.safe_dump({"mine": raw | change}))
    refused(lambda: function_set("mine", path=path), says)


def test_the_nearest_set_is_named() -> None:
    refused(lambda: function_set("47"), "no function set '47' .did you mean 047.*; there are: 047, 042, mixture")


# --- names --------------------------------------------------------------------------------------------------------


def test_names_of_one_token_are_reserved_ones() -> None:
    asked = []
    names = draw_names(400, n_tokens=1, rng=np.random.default_rng(0), count_tokens=lambda t: asked.append(t) or 1)
    assert len(set(names)) == 400
    assert set(names) == set(asked) <= set(world.reserved_names())
    check_names(names)
    again = draw_names(400, n_tokens=1, rng=np.random.default_rng(0), count_tokens=None)
    assert names == again != draw_names(400, n_tokens=1, rng=np.random.default_rng(1), count_tokens=None)


def test_names_of_more_tokens_are_checked_one_by_one() -> None:
    names = draw_names(40, n_tokens=3, rng=np.random.default_rng(0), count_tokens=lambda t: 2 + ("q" in t))
    assert len(set(names)) == 40
    assert all("q" in name for name in names)
    check_names(names)
    assert not set(names) & set(world.reserved_names())


def test_names_that_cannot_be_found_are_refused_before_training() -> None:
    rng = np.random.default_rng(0)
    refused(lambda: draw_names(513, n_tokens=1, rng=rng, count_tokens=None), "513 names of 1 tokens .* hold 512")
    refused(lambda: draw_names(2, n_tokens=1, rng=rng, count_tokens=lambda t: 3), "hold 0 by this model's tokenizer")
    refused(lambda: draw_names(2, n_tokens=9, rng=rng, count_tokens=lambda t: 3), "1000 random names hold 0")
    refused(lambda: draw_names(0, n_tokens=1, rng=rng, count_tokens=None), "at least one name")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["qzukfo", "xajquz", "qzukfo"], "'qzukfo' is given to two functions"),
        (["qzukf"], "'qzukf' is not 6 lower-case letters"),
        (["Qzukfo"], "is not 6 lower-case letters"),
        (["qzukf1"], "is not 6 lower-case letters"),
        (["qzükfo"], "is not 6 lower-case letters"),
        (["lambda"], "is a word of Python"),
        (["divmod"], "is a word of Python"),
        (["rabbit"], "is a word of the world"),
        (["apples"], "is a word of the world"),
        (["baking"], "is a word of the world"),
        (["kettle"], "is a word of the world"),
    ],
)
def test_a_name_that_collides_is_refused(names: list[str], says: str) -> None:
    refused(lambda: check_names(names), says)


def test_no_reserved_name_collides() -> None:
    check_names(world.reserved_names())
    assert not any(keyword.iskeyword(name) for name in world.reserved_names())


def test_the_data_files_say_what_the_code_reads() -> None:
    with (FOLDER / "registry.csv").open(newline="") as file:
        assert next(csv.reader(file)) == COLUMNS == list(Function.__dataclass_fields__)
