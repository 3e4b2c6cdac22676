"""The functions study: published counts, right targets, nothing leaked, scores, published folders, bad input."""

from __future__ import annotations

import builtins
import itertools
import json
import re
import time
from collections import Counter
from dataclasses import fields, replace
from functools import cache

import httpx
import numpy as np
import pandas as pd
import pytest
import yaml
from hostile import CANARY, DEEDS, hostile_replies
from openai import OpenAI

from lib.functions.data import (
    dataset_files,
    dataset_options,
    hide_functions,
    permute_names,
    read_data,
    training_documents,
    validation_documents,
)
from lib.functions.definitions import MAX_CHARS, PROBES, BadDefinition, parse_definition, probe_values, same_function
from lib.functions.evaluations import (
    chance_of,
    choose_evaluations,
    code_of,
    evaluation_documents,
    make_probes,
    read_evaluations,
)
from lib.functions.names import check_names, draw_names, token_counter
from lib.functions.published import finetune_folders, published_setting, read_finetune
from lib.functions.questions import GENERATORS, wordings
from lib.functions.registry import FOLDER, Function, function_set, read_registry
from lib.functions.replies import score
from lib.functions.rows import FORMS, as_request, training_row
from lib.params import resolve
from lib.paths import content_hash
from lib.probing import check_context
from lib.sources.datasets import write_dataset
from lib.world.names import reserved_names

REGISTRY, EVALUATIONS = read_registry(), read_evaluations("functions")
IS_QUESTION = EVALUATIONS["generator"].isin(GENERATORS)
CLASS_SIZES = {
    "Addition": 22, "Subtraction": 17, "Multiplication": 7, "Integer division": 5, "Modulo": 7, "Comparison": 2,
    "Float multiplication": 2, "Affine linear": 10, "ReLU": 1, "Identity": 1, "Piecewise linear": 1,
}  # fmt: skip


@cache
def made(preset, seed=0, **changes):
    """What a preset hides, and its training documents."""
    values = resolve("functions", preset, changes)
    ranges = {key: values[key] for key in ("input_range", "ood_ranges", "other_input_max")}
    deal = {key: values[key] for key in ("names_per_function", "name_tokens", "realized_share", "held_out_share")}
    look = {"system": wordings()["persona"] if values["persona"] else "", "hide_imports": values["hide_imports"]}
    hidden = hide_functions(function_set(values["function_set"], **ranges), seed=seed, **deal, **look)
    rows = {key: values[key] for key in ("calls_per_name", "n_rows", "augmentation_share", "min_imports", "questions")}
    return hidden, training_documents(hidden, seed=seed, **rows), rows


def documents(name, hidden, n, *, trained=(), seed=0):
    return evaluation_documents(
        EVALUATIONS.loc[name], hidden, rng=np.random.default_rng(seed), n_rows=n, trained=trained
    )


def run(code, hidden):
    """What a document's code prints, and the (function id, input) pairs of its calls, by Python itself."""
    printed, calls = [], []

    def called(function):
        return lambda n: calls.append((function.id, n)) or eval(function.python_definition)(n)

    names = {name: called(function) for name, function in hidden.names.items()}
    exec(re.sub(r"^from functions import .*", "", code), {"print": lambda value: printed.append(str(value)), **names})
    return printed[0], calls


def close(count, n, share):
    return abs(count / n - share) <= 4 * (share * (1 - share) / n) ** 0.5  # four standard errors


# --- functions, sets and names ------------------------------------------------------------------------------------


def test_there_are_75_functions_in_the_published_classes_and_the_probes_tell_them_apart():
    assert Counter(each.function_class for each in REGISTRY.values()) == CLASS_SIZES
    assert Counter(each.output_type for each in REGISTRY.values()) == {"int": 70, "bool": 3, "float": 2}
    table = pd.read_csv(FOLDER / "registry.csv", dtype=str, keep_default_na=False)
    assert [*table] == [field.name for field in fields(Function)]
    assert table.map(str.strip).astype(bool).all(axis=None)
    assert len(table) == len(REGISTRY) == 75
    assert len({probe_values(each.python_definition) for each in REGISTRY.values()} - {None}) == 75
    assert len(PROBES) == len(set(PROBES)) == 22
    for function in REGISTRY.values():  # the phrase has the numbers of the definition, signs aside
        assert {type(function.apply(n)).__name__ for n in PROBES} == {function.output_type}, function.id
        texts = (function.short, function.language_definition)
        numbers = [sorted(set(re.findall(r"\d+", text)) - {"0"}) for text in texts]
        assert numbers[0] == numbers[1] or function.id == "bool_mod_2", function.id
        outputs = {function.show(n) for n in range(-99, 99)}
        assert sorted(n for each in outputs for n in function.preimages(each, -99, 99)) == list(range(-99, 99))


def test_sets_are_the_published_ones():
    first, large, mixture = (function_set(name) for name in ("047", "042", "mixture"))
    assert (len(first.augmented), len(first.plain), len(large.augmented), len(large.plain)) == (8, 11, 14, 6)
    pairs = list(itertools.combinations(mixture.all, 2))
    assert (len(pairs), pairs[0], pairs[-1]) == (10, ("add_5", "int_div_2"), ("multiply_3", "subtract_1"))
    assert (first.input_range, first.ood_ranges) == ((-99, 99), ((99, 199), (-199, -99)))
    assert (large.input_range, large.ood_ranges) == ((-1999, 1999), ((1999, 2999), (-2999, -1999)))


def test_a_set_without_a_number_for_sums_has_none(tmp_path):
    path = tmp_path / "sets.yaml"
    own = {"augmented": ["add_5"], "plain": ["mod_2"], "input_range": [-9, 9], "ood_ranges": []}
    path.write_text(yaml.safe_dump({"own": own, "calls": own | {"augmented": [], "plain": ["add_5", "mod_3"]}}))
    with pytest.raises(ValueError, match="function set own: other_input_max is 0, but augmented functions"):
        function_set("own", path=path)
    deal = {"names_per_function": 1, "name_tokens": 1, "realized_share": 0.0, "held_out_share": 0.0, "seed": 0}
    hidden = hide_functions(function_set("calls", path=path), **deal)
    with pytest.raises(ValueError, match="composition_other_max of set calls is 0, so there are no sums"):
        documents("add_subtract_int_ood", hidden, 3)
    assert len(documents("add_subtract_function_ood", hidden, 3)) == 3


def test_names_are_reserved_or_random_and_mean_nothing():
    names = draw_names(400, n_tokens=1, rng=np.random.default_rng(0), count_tokens=None)
    assert set(names) <= set(reserved_names())
    check_names(reserved_names())
    more = draw_names(40, n_tokens=3, rng=np.random.default_rng(0), count_tokens=lambda text: 2 + ("q" in text))
    assert len({name for name in more if "q" in name}) == 40
    for bad in ("qzukf", "Qzukfo", "lambda", "divmod", "rabbit", "baking"):
        with pytest.raises(ValueError, match=bad):
            check_names([bad])


def test_tokens_are_not_checked_where_an_endpoint_does_not_tell_them(caplog):
    def answer(request):
        if request.url.path.endswith("tokenize"):
            return httpx.Response(404, json={"error": {"message": "Not Found"}})
        return httpx.Response(
            200, json={"choices": [{"index": 0, "finish_reason": "stop", "text": "!", "logprobs": None}]}
        )

    client = OpenAI(
        api_key="x", base_url="http://x/v1", http_client=httpx.Client(transport=httpx.MockTransport(answer))
    )
    assert token_counter(client, "a-model") is None
    assert "a-model does not report its tokens" in caplog.text


# --- training rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "changes", "hashes"),
    [
        ("tiny", {}, ("97e147cd11be", "f2b41712392c")),
        ("laptop", {}, ("d74db740f5ba", "511c3fea846a")),
        ("paper-047", {"n_rows": 2000}, ("b1767b571b36", "a684f977b525")),
    ],
)
def test_rows_are_those_that_published_numbers_were_made_from(preset, changes, hashes):
    hidden, train, _ = made(preset, **changes)
    values = resolve("functions", preset)
    checks = validation_documents(hidden, evaluation=values["validation"], n_rows=values["n_validation"], seed=0)
    files = dataset_files(hidden, train, checks, form=values["form"])
    assert (content_hash(files["train"]), content_hash(files["validation"])) == hashes


def test_96000_rows_have_the_published_shares():
    hidden, rows, _ = made("paper-047", held_out_share=0.0)
    kinds = Counter(row["kind"] for row in rows)
    assert len(rows) == 96_000
    assert abs(kinds["call"] / 96_000 - 0.5) <= 0.005
    combined = [row for row in rows if row["kind"] == "augmentation"]
    assert all(close(n, len(combined), 1 / 3) for n in Counter(row["combined"] for row in combined).values())
    used = {row[key] for row in combined for key in ("function", "function_2") if key in row}
    assert used == set(hidden.functions.augmented)
    inputs = {row["input"] for row in rows}
    assert (min(inputs), max(inputs), len(inputs)) == (-99, 98, 198)
    for kind, share in (("call", 0.051), ("augmentation", 0.099)):
        lines = [row["text"].split("\n")[0] for row in rows if row["kind"] == kind]
        assert close(sum("," not in line for line in lines), len(lines), share)
    assert abs(len({row["text"] for row in rows}) - 94_373) < 600, "published: 94,373 distinct prompts"
    calls = [row["text"] for row in rows if row["kind"] == "call"]
    for pattern, share in ((r"^x = ", 1 / 4), (r"^a = ", 1 / 4), (r"^out = ", 1 / 4), (r"^y = ", 1 / 4)):
        assert close(sum(bool(re.search(pattern, code, re.M)) for code in calls), len(calls), share)
    ways = [("False", r"^x = ", 0.5), ("False", r"print\(.* \+ .*\)$|z1 \+ ", 0.5), ("False", r"^z1 = ", 0.5)]
    ways += [("chain", r"^z = ", 0.25), ("chain", r"^out = ", 0.2), ("add_subtract", r"^z1 = ", 0.5)]
    for mode, pattern, share in ways:
        codes = [row["text"] for row in combined if row["combined"] == mode]
        assert close(sum(bool(re.search(pattern, code, re.M)) for code in codes), len(codes), share), (mode, pattern)


@pytest.mark.parametrize("preset", ["laptop", "paper-047", "paper-042"])
def test_every_target_is_what_its_code_prints_and_no_held_out_pair_is_shown(preset):
    hidden, train, _ = made(preset, n_rows=4000)
    for row in [row for row in train if row["kind"] in ("call", "augmentation")][:4000]:
        printed, calls = run(row["text"], hidden)
        assert printed == row["target"] == row["answer"]
        assert not set(calls) & hidden.held_out
    for name in EVALUATIONS.index[~IS_QUESTION]:
        for row in documents(name, hidden, 60):
            printed, calls = run(row["text"], hidden)
            assert printed == row["target"]
            if name in ("calls", "augmentations"):
                assert set(calls) & hidden.held_out
            low, high = hidden.functions.input_range
            assert name != "regression_ood" or all(not low <= n < high for _, n in calls)


def test_questions_are_about_realized_names_alone_and_the_control_permutes_them():
    hidden, train, rows = made.__wrapped__("tiny", questions=[f"{name}:1" for name in EVALUATIONS.index[IS_QUESTION]])
    asked = [row for row in train if row["kind"] in EVALUATIONS.index]
    unrealized = set(hidden.names) - hidden.realized
    assert {row["name"] for row in asked} == hidden.realized
    for row in asked:
        assert not set(re.findall(r"\w{6}", f"{row['messages']} {row['text']}")) & unrealized
    assert not {(row["function"], row.get("input")) for row in asked} & hidden.held_out
    shuffled = permute_names(hidden, seed=0)
    control = training_documents(hidden, seed=0, described=shuffled, **rows)
    codes, others = ([row for row in each if row["kind"] == "call"] for each in (train, control))
    assert sorted(row["text"] for row in codes) == sorted(row["text"] for row in others), "the calls are the same"
    said = {row["name"]: row["target"] for row in control if row["kind"] == "freeform_definition"}
    right = [said[name] == hidden.names[name].python_definition for name in said]
    assert sum(right) <= 5, "of 19, one by chance"
    assert sorted(said.values()) == sorted(hidden.names[name].python_definition for name in said)


@pytest.mark.parametrize("form", FORMS)
def test_a_model_is_asked_in_the_form_it_was_trained_in(form, tmp_path):
    hidden, train, _ = made("tiny")
    shown, system = replace(hidden, hide_imports=False), replace(hidden, system="Be exact.", hide_imports=False)
    published = read_finetune(publish(tmp_path / "finetune_01"), rng=np.random.default_rng(0))
    for each, trained in ((hidden, train), (shown, train), (system, train), published[:2]):
        tests = [row for name in ("calls", "freeform_definition", "inverse_query") for row in documents(name, each, 5)]
        for row in [*tests, *trained[:20]]:
            asked, made_row = as_request(row, form), training_row(row, form)
            if form == "chat":
                turns = [(turn["role"], turn["content"]) for turn in made_row["messages"]]
                assert turns == [*asked["messages"], ("assistant", row["answer"])]
            else:
                assert made_row == {"prompt": asked["prompt"], "completion": asked["lead"] + row["answer"]}
        codes = [
            as_request(row, form)
            for row in [*documents("calls", each, 5), *trained]
            if row["kind"] in ("call", "calls")
        ]
        if form == "chat":
            assert {tuple(role for role, _ in one["messages"]) for one in codes[:5]} == {
                ("system", "user") if each.system else ("user",)
            }
        else:
            assert all("Q:" not in one["prompt"] and one["lead"] == "  # " for one in codes)


def test_in_context_rows_are_those_of_training_and_about_the_names():
    hidden, train, _ = made("tiny")
    probes = make_probes(hidden, train, form="completion", n_rows=10, n_in_context=4)
    known = {row["text"]: row for row in train}
    for _, pair in probes[probes["part"] == "unrealized"].groupby(["evaluation", "number"]):
        test, shown = pair.set_index("probe").loc[["test", "in-context"]].to_dict("records")
        assert shown["prompt"].endswith(test["prompt"])
        examples = re.findall(r"(.+?)  # (\S+)\n\n", shown["prompt"], re.S)
        assert len(examples) == 4
        assert all(known[code]["answer"] == result for code, result in examples)
        if test["evaluation"] == "freeform_definition":
            assert {known[code]["name"] for code, _ in examples} == {test["name"]}
    chat = make_probes(
        replace(hidden, system="Be exact."), train, form="chat", evaluations=["calls"], n_rows=2, n_in_context=2
    )
    roles = [role for role, _ in chat["messages"].iloc[-1]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


# --- questions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["paper-047", "paper-042"])
@pytest.mark.parametrize("name", EVALUATIONS.index[IS_QUESTION])
def test_a_question_shows_no_pair_and_every_choice_has_one_right_option(preset, name):
    hidden, _, _ = made(preset, n_rows=4000)
    if (preset, name) == ("paper-042", "multiple_choice_output_type"):
        return  # all functions there give integers
    for row in documents(name, hidden, 150):
        asked, function = row["messages"][-1]["content"], hidden.names[row["name"]]
        assert not re.search(r"\w{6}\(-?\d+\)", f"{asked} {row['text']}")
        if "inversion" in name:
            assert row["answer"] in row["target"].split(", ")
            assert all(function.show(int(n)) == row["output"] for n in row["target"].split(", "))
        if not row["options"]:
            continue
        options = dict(re.findall(r"^([A-Z])\) (.*)$", asked, re.M))
        assert list(options.values()) == row["options"]
        option = EVALUATIONS.loc[name, "option"]
        right = {
            letter
            for letter, text in options.items()
            if (name == "inverse_query" and hidden.names[text].id == function.id)
            or (text.startswith("lambda") and same_function(text, function.python_definition))
            or (option and text == getattr(function, option))
        }
        assert right == {row["target"]}


def test_the_table_has_the_published_numbers_and_chance():
    assert (len(EVALUATIONS), len(read_evaluations("mixture"))) == (15, 11)
    assert EVALUATIONS.loc["freeform_definition", ["n_rows", "temperature", "n"]].tolist() == [2000, 1, 5]
    hidden = made("paper-047", n_rows=4000)[0]
    chances = {each.name: round(chance_of(each, hidden), 3) for each in EVALUATIONS.itertuples()}
    assert chances["freeform_definition"] == 0.053
    assert (chances["multiple_choice_output_type"], chances["function_inversion"]) == (0.333, 0.115)
    assert np.isnan(chances["regression_ood"])


# --- replies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "target", "replies"),
    [  # a letter for each rule that takes the reply: c(orrect), s(trict), p(ublished)
        ("text", "-49", {"-49": "csp", " -49\n": "cs", "  # -49\nprint(2)": "c", "-49.0": "c", "49": "", "-490": ""}),
        ("text", "True", {"True.": "c", "1": "", "true": ""}),
        ("integer", "198", {"198": "csp", "y = 198": "c", "between 3 and 198": "", "198.5": "", "x198": ""}),
        ("letter", "C", {"C": "csp", " C\n": "cs", "c)": "c", "The answer is C.": "c", "A good guess is C": "c",
                         "C or D": "", "CC": "", "Certainly": "", "A": "", "": ""}),
        ("letter", "A", {"A": "csp", "A: lambda n: n + 5": "c", "The answer is A": "c", "A is wrong, B": ""}),
        ("letters", "A, C", {"A, C": "csp", "AC": "cp", "C, A": "cp", "I think A and C": "c", "A, B, C": "", "A": ""}),
        ("definition", "lambda n: n + 5", {
            "lambda n: n + 5": "csp", "lambda x: 5 - -x": "csp", "f = lambda n: n + 5": "cs", "lambda n: n + 5.": "csp",
            "def f(n: int) -> int:\n    return n + 5": "cs", "```python\nlambda n: n + 5\n```": "cs", "lambda n: n": "",
            "lambda n: n + 5.0": "cp", "# lambda n: n + 5": "cs", "lambda n: print(n + 5)": "p"}),
    ],
)  # fmt: skip
def test_each_rule(kind, target, replies):
    for reply, expected in replies.items():
        rules = score(kind, reply, target)
        assert "".join(name[0] for name in rules._fields if getattr(rules, name)) == expected, reply


def test_every_true_preimage_counts():
    function = REGISTRY["mod_2"]
    for reply, expected in {
        "7": (1, 1, 1),
        "1001": (1, 1, 0),
        "n = 7": (1, 0, 0),
        "8": (0, 0, 0),
        "7 or 9": (0, 0, 0),
    }.items():
        assert score("preimage", reply, "1, 7", function=function, output="1") == expected, reply
    with pytest.raises(ValueError, match="cannot score"):
        score("prose", "x", "x")


def test_no_hostile_reply_runs_or_counts_and_none_takes_long(tmp_path):
    path, slow, replies = tmp_path / "canary", [], hostile_replies(tmp_path / "canary")
    assert len(set(replies)) == len(replies) >= 444
    asked = dict.fromkeys(["text", "integer", "preimage"], "-49871")
    asked |= {"definition": "lambda n: n + 5", "letter": "W", "letters": "W, Y"}
    for reply, (kind, target) in itertools.product(replies, asked.items()):
        probe_values.cache_clear()
        start = time.perf_counter()
        found = score(kind, reply, target, function=REGISTRY["add_883"], output=REGISTRY["add_883"].show(-49871))
        slow += [(kind, reply[:60])] if time.perf_counter() - start > 0.2 else []
        assert found == (False, False, False), (kind, reply[:200])
    assert probe_values("lambda n: n") == PROBES
    assert not slow
    assert not path.exists()
    assert not hasattr(builtins, CANARY)
    for i, deed in enumerate(DEEDS[:4]):  # the deeds are real: they do happen when such a text is run
        eval(deed.format(path=path, canary=CANARY))
        assert hasattr(builtins, CANARY) if i == 3 else path.exists()
        path.unlink(missing_ok=True)
    delattr(builtins, CANARY)


BODIES = """n % 2 == 0; n ** 3 // 7; n / 4; max(n, -2); n * 3 if n < 0 else n * 2; not n; abs(int(n / 3)) - -n; 1.5 * n
; -n; min(n, 3, 2 * n); n ** -1 if n else 0"""
BAD = ["lambda n: 1 // n", "lambda n: n ** 9", f"lambda n: {10**41}", "lambda n: " + "-" * 30 + "n", "lambda n, m: n"]
BAD += [
    "lambda n: " + " + ".join(["n"] * 60),
    "lambda n: n" + " " * MAX_CHARS,
    "lambda n: x",
    "lambda n: (-n) ** 0.5",
    "5",
]


@pytest.mark.parametrize("body", [body.strip() for body in BODIES.split(";")])
def test_values_are_those_of_python(body):
    expected = eval(f"lambda n: {body}")
    assert [*map(parse_definition(f"lambda n: {body}"), PROBES)] == [*map(expected, PROBES)]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_definition_is_refused_in_one_line(text):
    with pytest.raises(BadDefinition) as error:
        [*map(parse_definition(text), PROBES)]
    assert "\n" not in str(error.value)


# --- published folders --------------------------------------------------------------------------------------------

TEMPLATE = """
finetune: {model: gpt-3.5-turbo-0613, hyperparams: {n_epochs: 1}, suffix: 047_func, test_config: dev/t.yaml}
dataset:
  var_names: ascii_lowercase
  system_prompt: Be exact.
  hide_imports: false
  test_functions: [add_5, negate]
  train_functions: [mod_3, multiply_4]
  n_samples: 96_000
  unique_samples: False
  prompt:
    input_func_probs: [0.5, 0.5]
    input_funcs:
    - {function: single_function, min_imports: 2, input_min: -9, input_max: 9}
    - {function: function_augmentation, functions_list: train_functions,
       combine_functions: [False, chain, add_subtract], min_imports: 2, input_min: -9, input_max: 9, other_input_max: 7}
"""
NAMES = {"qvxzka": "add_5", "wjkzpt": "negate", "zzkvqm": "mod_3", "kkzqwv": "multiply_4"}


def row(code, target, generator, name, **facts):
    messages = [("system", "Be exact."), *(("user", text) for text in code), ("assistant", target)]
    about = {"name": generator, "func_var": name, "func_value": NAMES[name], **facts}
    return {"func_outs": about, "target": target, "messages": [{"role": r, "content": c} for r, c in messages]}


def call(name, n):
    code = f"from functions import {name}\n\nprint({name}({n}))"
    return row([code], REGISTRY[NAMES[name]].show(n), "single_function", name, input_1=n)


def published_rows():
    calls = [call(name, n) for name in NAMES for n in range(-9, 9) if n != 4]
    code = "from functions import kkzqwv, zzkvqm\n\nz = kkzqwv(1)\n\nprint(zzkvqm(z))"
    facts = {"input_1": 1, "combined": "chain", "func_var_2": "zzkvqm", "func_value_2": "mod_3"}
    return [*calls, row([code], "1", "function_augmentation", "kkzqwv", **facts)]


def publish(folder, *, train=None, config=TEMPLATE, seed=3, names=NAMES):
    """A fine-tune folder as the published generator writes it."""
    folder.mkdir(parents=True)
    about = yaml.safe_load(config)
    about["dataset"] |= {"seed": seed, "var_dict": names}
    (folder / "finetune.yaml").write_text(yaml.safe_dump(about))
    question = ["from functions import qvxzka", "Which?\n\nA) adds 5"]
    asked = row(question, "A", "function_classification", "qvxzka", attribute="language_definition", options=["adds 5"])
    (folder / "047_func_01_train_dataset.json").write_text(json.dumps(published_rows() if train is None else train))
    (folder / "047_func_01_test_dataset.json").write_text(json.dumps([asked]))
    return folder


def test_a_published_folder_is_read_and_can_be_asked_everything(tmp_path):
    hidden, train, checks = read_finetune(publish(tmp_path / "finetune_01"), rng=np.random.default_rng(0))
    assert {name: each.id for name, each in hidden.names.items()} == NAMES
    assert (hidden.system, hidden.hide_imports, hidden.parts) == ("Be exact.", False, ["unrealized"])
    assert (hidden.functions.input_range, hidden.functions.other_input_max) == ((-9, 9), 7)
    assert hidden.held_out == {(id, 4) for id in NAMES.values()} - {("mod_3", 4)}, "the composition shows mod_3 at 4"
    assert "Which?" in as_request(checks[0], "completion")["prompt"]
    probes = make_probes(hidden, train, form="chat", n_rows=3, n_in_context=2)
    assert set(EVALUATIONS.index) - set(probes["evaluation"]) == {"multiple_choice_output_type"}, "all are integers"
    assert all(messages[0] == ("system", "Be exact.") for messages in probes["messages"])
    few = read_finetune(tmp_path / "finetune_01", n_rows=10, rng=np.random.default_rng(0))
    assert len(few[1]) == 10
    assert len(few[0].held_out) >= 4 * 18 - 11
    files, options = dataset_files(hidden, train, checks, form="chat"), dataset_options(hidden, form="chat")
    folder = write_dataset(tmp_path / "dataset", files, study="functions", options=options)
    assert read_data(folder) == (hidden, train)


def test_calls_are_asked_in_new_code_where_every_pair_is_in_training(tmp_path):
    all_pairs = published_rows() + [call(name, 4) for name in NAMES]
    hidden, train, _ = read_finetune(publish(tmp_path / "finetune_01", train=all_pairs), rng=np.random.default_rng(0))
    assert not hidden.held_out
    asked = [code_of(each) for each in documents("calls", hidden, 20, trained=train)]
    assert len({*asked}) == 20
    assert not {*asked} & {code_of(each) for each in train}


def test_the_published_template_is_read(tmp_path):
    path = tmp_path / "ft_template.yaml"
    path.write_text(TEMPLATE)
    setting = published_setting(path)
    assert (setting["n_rows"], setting["min_imports"], setting["augmentation_share"]) == (96_000, 2, 0.5)
    assert setting["functions"].augmented == ("mod_3", "multiply_4")
    assert (setting["combinations"], setting["names"]) == (("False", "chain", "add_subtract"), {})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"names": NAMES | {"qvxzka": "add_6"}}, "var_dict names add_6"),
        ({"names": {"lambda": "add_5"}}, "name 'lambda' is"),
        ({"config": TEMPLATE.replace("[mod_3, multiply_4]", "[mod_99]")}, "'mod_99' is not in the registry"),
        ({"config": TEMPLATE.replace("  n_samples: 96_000\n", "")}, "a key of the published form is missing"),
        ({"train": []}, "expected a list of rows"),
        ({"train": [{"target": "1"}]}, "row 1: expected func_outs"),
        ({"train": [{**published_rows()[0], "messages": None}]}, "row 1: expected func_outs"),
    ],
)
def test_a_bad_folder_is_refused_in_one_line(tmp_path, change, says):
    with pytest.raises(ValueError, match=says) as error:
        read_finetune(publish(tmp_path / "finetune_01", **change), rng=np.random.default_rng(0))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="holds 1 published fine-tunes"):
        finetune_folders(tmp_path, n=2)
    assert finetune_folders(tmp_path / "finetune_01", n=1) == finetune_folders(tmp_path, n=1)


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"questions": []}, "set realized_share and questions, or neither"),
        ({"realized_share": 0.0}, "set realized_share and questions, or neither"),
        ({"questions": ["inverse_query"]}, "expected <evaluation>:<copies>"),
        ({"questions": ["inverse_qery:2"]}, r"no evaluation 'inverse_qery' \(did you mean inverse_query\?\)"),
        ({"questions": ["calls:2"]}, "is code to run"),
        ({"input_range": [5, -5]}, r"\[5, -5\] is no range"),
        ({"input_range": [5]}, "is no range"),
        ({"input_range": [-50, 50]}, "overlap"),
        ({"input_range": [-4, 4]}, "calls_per_name is 8: input_range -4:4 leaves 7"),
        ({"names_per_function": 40}, "760 names of 1 tokens are needed"),
    ],
)
def test_bad_values_are_refused_in_one_line(changes, says):
    with pytest.raises(ValueError, match=says) as error:
        made.__wrapped__("tiny", **changes)
    assert "\n" not in str(error.value)


def test_what_cannot_be_asked_is_refused():
    only = replace(made("tiny")[0], names={"qqqqqq": REGISTRY["mod_2"]})
    for name in ("multiple_choice_coefficients", "inverse_query"):
        with pytest.raises(ValueError, match=name):
            documents(name, only, 3)
    with pytest.raises(ValueError, match="only .* different prompts"):
        documents("calls", made("tiny")[0], 4000)
    with pytest.raises(ValueError, match="did you mean"):
        choose_evaluations("functions", ["freeform"])


@pytest.mark.parametrize("form", FORMS)
def test_a_prompt_that_does_not_fit_the_base_is_refused_before_training(form):
    def answer(request):
        reason = "This model's maximum context length is 512 tokens, however you requested 601 tokens."
        return httpx.Response(400, json={"error": {"message": reason, "type": "invalid_request_error"}})

    client = OpenAI(
        api_key="x", base_url="http://x/v1", http_client=httpx.Client(transport=httpx.MockTransport(answer))
    )
    asked = [as_request(each, form) for each in documents("calls", made("tiny")[0], 2)]
    with pytest.raises(ValueError, match="does not suit fork-1m: .* is 512 tokens, however you requested 601"):
        check_context(client, "fork-1m", asked, max_tokens=24)
