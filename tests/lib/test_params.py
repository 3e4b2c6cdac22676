"""Keys, presets and --set: what is known, what fits, and how the rest is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.keys import Key, declared_keys, notebook_keys
from lib.params import check, parse_set, read_preset, resolve, stages, studies, study_keys
from lib.world.bases import bases_of

KEYS = "n_people: int = 12  # people per group [1..33]\nrate: float = 0.5  # share [0..1]\n"


@pytest.fixture
def demo(make_stage):
    make_stage("demo/01-data-prep", KEYS)
    make_stage(
        "demo/02-finetune", 'base: str = "fork-300k"  # model to tune\nmode: str = "simple"  # [simple | reverse]\n'
    )
    return "demo"


def test_keys_are_joined_over_the_stages(demo):
    keys = study_keys(demo)
    assert list(keys) == ["preset", "n_people", "rate", "base", "mode", "out", "seed", "n_seeds", "budget_usd"]
    assert keys["seed"].stages == ("01-data-prep", "02-finetune")
    assert keys["n_people"] == Key("n_people", "int", 12, "people per group [1..33]", 1.0, 33.0, (), ("01-data-prep",))
    assert keys["mode"].choices == ("simple", "reverse")
    assert studies() == ["demo"]


def test_one_key_declared_in_two_ways_is_refused(demo, make_stage):
    make_stage("demo/03-evaluation", "n_people: int = 12  # people per group [1..34]\n")
    with pytest.raises(ValueError, match="n_people has high 33.0 in 01-data-prep and 34.0 in 03-evaluation"):
        study_keys(demo)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("n = 3", "expected 'name: type = value'"),
        ("n: int | None = 3", "none of str, int"),
        ("n: int = 3 * other", "malformed node"),
        ("n: dict = {}", "none of str, int"),
        ("import os", "expected 'name: type = value'"),
    ],
)
def test_a_line_that_papermill_cannot_set_is_refused(make_stage, line, said):
    path = make_stage("demo/01-data-prep", line)
    with pytest.raises(ValueError, match=said.replace("|", r"\|")):
        notebook_keys(path)


def test_a_comment_may_end_in_brackets_that_are_no_rule():
    (key,) = declared_keys("beta: float = 0.1  # strength [nats]")
    assert (key.help, key.low, key.choices) == ("strength [nats]", None, ())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"n_peopel": 3}, "no parameter 'n_peopel' .did you mean n_people"),
        ({"n_people": "3"}, "n_people: '3' should be a valid integer"),
        ({"n_people": True}, "True should be a valid integer"),
        ({"n_people": 3.0}, "3.0 should be a valid integer"),
        ({"n_people": 0}, "0 should be greater than or equal to 1"),
        ({"n_people": 34}, "34 should be less than or equal to 33"),
        ({"rate": float("nan")}, "finite"),
        ({"rate": "1e-3"}, "write 2.0e-3"),
        ({"mode": "simpel"}, "should be 'simple' or 'reverse' .did you mean simple"),
        ({"base": None}, "None should be a valid string"),
    ],
)
def test_what_does_not_fit_is_refused(demo, values, said):
    with pytest.raises(ValueError, match=said):
        check(demo, values)


def test_what_fits_passes(demo):
    check(demo, {"n_people": 33, "rate": 1, "mode": "reverse", "base": "hf:gpt2"})


@given(st.lists(st.integers(0, 9)), st.integers(0, 9))
def test_a_list_is_checked_element_by_element(values, low):
    key = Key("sizes", "list[int]", [], "", low=low)
    if all(value >= low for value in values):
        assert key.validate(values) == values
    else:
        with pytest.raises(ValueError, match="greater than or equal to"):
            key.validate(values)


def test_an_unknown_study_or_preset_lists_those_there(demo, make_preset):
    make_preset(demo, "laptop", "n_people: 3\n")
    with pytest.raises(ValueError, match=r"no study 'dmo' \(did you mean demo\?\); there are: demo"):
        stages("dmo")
    with pytest.raises(ValueError, match="no preset 'labtop' .did you mean laptop.*it has: laptop, tiny"):
        read_preset(demo, "labtop")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n_people: 3\nn_people: 4\n", "n_people given twice"),
        ("- 3\n", "found list"),
        ("n_people: [3\n", "is not YAML"),
        ("", "found NoneType"),
    ],
)
def test_a_preset_that_is_not_flat_yaml_is_refused(demo, make_preset, text, said):
    make_preset(demo, "laptop", text)
    with pytest.raises(ValueError, match=said):
        read_preset(demo, "laptop")


def test_resolve_lays_default_preset_and_override_over_each_other(demo, make_preset):
    make_preset(demo, "laptop", "preset: laptop\nn_people: 30\nbase: fork-1m\n")
    values = resolve(demo, "laptop", {"n_people": 31})
    assert (values["n_people"], values["base"], values["rate"], values["preset"]) == (31, "fork-1m", 0.5, "laptop")
    assert resolve(demo, "tiny")["n_people"] == 12
    make_preset(demo, "paper", "preset: laptop\n")
    with pytest.raises(ValueError, match="says preset: laptop"):
        resolve(demo, "paper")


def test_a_preset_stays_what_it_is_while_its_cell_is_edited(demo, make_preset, make_stage):
    make_preset(demo, "tiny", "n_people: 12\nrate: 0.5\n")
    make_preset(demo, "laptop", "n_people: 30\n")
    make_stage("demo/01-data-prep", KEYS.replace("12", "20"))
    assert resolve(demo, "tiny")["n_people"] == 12
    assert resolve(demo, "laptop")["n_people"] == 30


def test_a_pair_of_the_command_line_is_read_as_its_keys_type(demo):
    assert parse_set(demo, ["n_people=3", "rate=1e-1", "base=7"]) == {"n_people": 3, "rate": 0.1, "base": "7"}
    with pytest.raises(ValueError, match="expected key=value"):
        parse_set(demo, ["n_people"])
    with pytest.raises(ValueError, match="'many' should be a valid integer"):
        parse_set(demo, ["n_people=many"])
    with pytest.raises(ValueError, match="did you mean n_people"):
        parse_set(demo, ["n_peple=3"])
    with pytest.raises(ValueError, match="set twice"):
        parse_set(demo, ["seed=1", "seed=2"])


def test_bases_are_found_in_any_value():
    values = {"base": "fork-1m:init", "big": "hf:gpt2", "all": ["fork-6m@3f2a"], "n": 3}
    assert bases_of(values) == ["fork-1m", "fork-6m"]
    assert bases_of({"size_bases": ["fork-6m"], "n_seeds": 1}) == []
    assert bases_of({"size_bases": ["fork-6m"], "n_seeds": 3}) == ["fork-6m"]
