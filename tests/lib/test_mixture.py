"""The mixture study's documents and questions: published counts, nothing told, each target worked out twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import mixture
from lib.functions.documents import FORMS, Document
from lib.functions.evaluations import evaluation_named, read_evaluations
from lib.functions.scoring import score
from lib.mixture.dataset import MixtureDataset, hidden_pairs, left_pairs, make_joint_dataset, make_pair_dataset
from lib.mixture.documents import FORMATTINGS, REDACTED
from lib.mixture.evaluations import DISTRIBUTION_TEST, chance_of, documents_for, in_context, trained_keys, why_not
from lib.mixture.options import MixtureOptions
from lib.mixture.questions import GENERATORS
from lib.mixture.scoring import score_definitions, score_reply, share_named
from lib.mixture.variation import ideal_mix, published_tvd, sampled_mix, sampling_floor, total_variation, variations

IDS = ["add_5", "int_div_2", "mod_2", "multiply_3", "subtract_1"]
PUBLISHED_PAIRS = [f"{f}+{g}" for k, f in enumerate(IDS) for g in IDS[k + 1 :]]
ASKED = read_evaluations("mixture")
QUESTIONS = [name for name, each in ASKED.items() if each.generator in GENERATORS]
TESTS = [name for name in ASKED if name not in QUESTIONS]
FUNCTIONS: dict[str, Callable[[int], Any]] = {  # written down a second time
    "add_5": lambda n: n + 5,
    "multiply_3": lambda n: n * 3,
    "int_div_2": lambda n: n // 2,
    "mod_2": lambda n: n % 2,
    "subtract_1": lambda n: n - 1,
    "negate": lambda n: -n,
    "bool_geq_3": lambda n: n >= 3,
    "float_mult_3_div_2": lambda n: n * 3 / 2,
    "relu_neg2": lambda n: max(n, -2),
    "affine_neg5x_3": lambda n: -5 * n + 3,
}
PLAIN = MixtureOptions(n_rows=300, n_validation=40, held_out_share=0.15)
LABELS = MixtureOptions(
    n_functions=10,
    n_pairs=36,
    n_labels=90,
    n_realized=54,
    triples_per_label=4,
    questions=tuple(f"{name}:1" for name in QUESTIONS),
    form="completion",
    formattings=("none",),
    input_range=(-30, 30),
    validation_ranges=(30, 60),
    held_out_share=0.1,
    n_validation=40,
)
PAIR = ("add_5", "mod_2")


def pair_data(**changes: Any) -> MixtureDataset:
    return make_pair_dataset(replace(PLAIN, **changes), PAIR, seed=3)


def joint_data(**changes: Any) -> MixtureDataset:
    return make_joint_dataset(replace(LABELS, **changes), count_tokens=None, seed=3)


def asked(name: str, data: MixtureDataset, *, seed: int = 100, **options: Any) -> list[Document]:
    return documents_for(ASKED[name], data, rng=np.random.default_rng(seed), **options)


def number(text: str) -> int:
    return int(re.findall(r"-?\d+", text)[-1])


def turns(document: Document) -> list[tuple[int, str]]:
    """Inputs with what was answered to them, read off the conversation."""
    messages = document.row("chat")["messages"][1:]
    return [(number(q["content"]), a["content"]) for q, a in zip(messages[::2], messages[1::2], strict=True)]


def fits(document: Document) -> list[str]:
    """Functions that give every output of a document."""
    shown = [(n, re.split(r"[ =]+", output)[-1]) for n, output in turns(document)]
    return [id_ for id_, f in FUNCTIONS.items() if all(str(f(n)) == output for n, output in shown)]


# --- pairs --------------------------------------------------------------------------------------------------------


def test_the_ten_published_pairs_come_in_the_published_order() -> None:
    assert [mixture.show_pair(pair) for pair in hidden_pairs(MixtureOptions(), seed=7)] == PUBLISHED_PAIRS
    three = hidden_pairs(MixtureOptions(n_pairs=3), seed=7)
    assert list(three) == sorted(three)
    assert three != hidden_pairs(MixtureOptions(n_pairs=3), seed=8)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_pairs": 11}, "n_pairs is 11: 5 candidates make 10 pairs"),
        ({"n_functions": 11}, "n_functions is 11: there are 10 candidates"),
        ({"n_functions": 2, "n_pairs": 1}, "three or more"),
        ({"functions": ("add_5", "mod_2", "ad_5"), "n_functions": 0}, "'ad_5', which is not in the registry"),
        ({"functions": ("add_5", "add_5", "mod_2"), "n_functions": 0}, "add_5 twice"),
        ({"pairs": ("add_5+negate",)}, "'negate' is not one.*; candidates: add_5"),
        ({"pairs": ("add_5+add_5",)}, "expected two different candidates"),
        ({"pairs": ("add_5",)}, "expected two different candidates"),
        ({"formattings": ("x",)}, "formattings holds 'x'"),
        ({"formattings": ()}, "formattings holds None"),
        ({"connectors": ()}, "connectors is"),
        ({"n_openings": 5}, "there are 4 opening lines"),
        ({"input_range": (5, 5)}, r"input_range is \[5, 5\]"),
        ({"input_range": (0, 5, 5, 9)}, "expected low and high"),
        ({"validation_ranges": (0, 5)}, "overlap input_range -99:99"),
        ({"held_out_share": 0.001}, "less than one input"),
        ({"held_out_share": 0.6}, "a share from 0 to 0.5"),
        ({"form": "text"}, "form is 'text'"),
        ({"n_labels": 5}, "n_labels is 5: expected one or more for each of 10 pairs"),
        ({"n_labels": 20, "n_realized": 21}, "n_realized is 21 of n_labels 20"),
        ({"n_labels": 20, "n_realized": 10}, "set both or neither"),
        ({"questions": ("values:1",)}, "set both or neither"),
        ({"n_labels": 20, "n_realized": 10, "questions": ("value:1",)}, "no evaluation 'value'"),
        ({"n_labels": 20, "n_realized": 10, "questions": ("values",)}, "expected <evaluation>:<copies>"),
        ({"n_labels": 20, "n_realized": 10, "questions": ("regression_ID:1",)}, "not a question about a mix"),
        ({"n_labels": 20, "mix_old": 0.5}, "it is for a fine-tune without"),
        ({"validation": "regression_ID"}, "expected a question"),
        ({"n_rows": 0}, "n_rows is 0: expected 1 or more"),
    ],
)
def test_bad_options_are_refused_in_one_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        MixtureOptions(**changes)
    assert "\n" not in str(error.value)


def test_pairs_and_labels_that_cannot_be_had_are_refused() -> None:
    refusals: list[tuple[Callable[[], Any], str]] = [
        (lambda: make_pair_dataset(PLAIN, ("add_5", "negate"), seed=0), "is no pair of the candidates"),
        (lambda: MixtureOptions(pairs=("add_5+mod_2", "mod_2+add_5")) and hidden_pairs(
            MixtureOptions(pairs=("add_5+mod_2", "mod_2+add_5")), seed=0), r"names add_5\+mod_2 twice"),
        (lambda: joint_data(n_labels=513), "513 names of 1 tokens wanted"),
        (lambda: joint_data(n_labels=0, n_realized=0, questions=()), "n_labels is 0"),
        (lambda: pair_data(mix_old=0.5), "there are 0 old ones"),
        (lambda: joint_data(n_pairs=1, n_labels=2, n_realized=1, questions=("max_min:1",),
                            functions=("bool_geq_3", "bool_mod_2", "float_mult_3_div_2"), n_functions=0),
         "questions holds max_min, which no realized label supports"),
    ]  # fmt: skip
    for refused, says in refusals:
        with pytest.raises(ValueError, match=says) as error:
            refused()
        assert "\n" not in str(error.value)


# --- documents ----------------------------------------------------------------------------------------------------


def test_documents_have_the_published_shape_and_frequencies() -> None:
    data = pair_data(n_rows=6000, held_out_share=0)
    assert len(data.train) == 6000
    facts = [row.func_outs for row in data.train]
    for key, n_values in (("func_value", 2), ("formatting", 2), ("connector", 1), ("pre_prompt", 4)):
        shares = Counter(fact[key] for fact in facts)
        assert len(shares) == n_values
        assert all(abs(n / 6000 - 1 / n_values) < 0.03 for n in shares.values())
    inputs = {n for fact in facts for n in fact["inputs"]}
    assert (min(inputs), max(inputs)) == (-99, 98)
    for row in data.train[:50]:
        roles = [message["role"] for message in row.row("chat")["messages"]]
        assert roles == ["user", *["user", "assistant"] * 3]
    keys = trained_keys(data, place=0)
    assert abs(3168 - len(keys) - 472) < 70, "as many published keys are left as was measured"
    outside = [n for row in data.validation for n in row.func_outs["inputs"]]
    assert all(99 <= n < 199 or -199 <= n < -99 for n in outside)


@pytest.mark.parametrize("formatting", FORMATTINGS)
def test_every_formatting_reads_as_published(formatting: str) -> None:
    data = pair_data(formattings=(formatting,), connectors=(": ",), n_rows=5)
    named = FORMATTINGS[formatting]
    for row in data.train:
        message = row.messages[1]["content"]
        assert message == (f"{named[0]}: " if named else "") + str(row.func_outs["inputs"][0])
        assert row.shown.startswith(f"{named[1]}: " if named else ("-", *"0123456789"))
        assert row.func_outs["func_value"] in fits(row)


def test_every_target_of_a_document_is_what_its_function_gives() -> None:
    for data in (pair_data(), joint_data(form="chat"), joint_data()):
        rows = [row for row in (*data.train, *data.validation) if row.kind == "triple"]
        for row in rows:
            pair = data.mixes[row.func_outs["label"]]
            assert row.func_outs["func_value"] in fits(row)
            assert row.func_outs["func_value"] in pair
            if data.setting.form == "completion":
                written = row.row("completion")
                lines = (written["prompt"] + written["completion"]).split("\n")
                assert lines[0] == row.func_outs["label"], "the label stands first and is all of the prompt"
                assert written["prompt"] == lines[0]
                told = [tuple(line.split("=")) for line in lines[1:]]
                assert told == [(str(n), str(FUNCTIONS[row.func_outs["func_value"]](n))) for n, _ in turns(row)]


def test_held_out_keys_are_shown_by_no_training_document_and_told_by_no_training_question() -> None:
    for data in (pair_data(), joint_data()):
        assert data.held_out
        for row in (row for row in data.train if row.kind in ("triple", "values", "max_min")):
            pair = data.mixes[row.func_outs["label"]]
            assert not [n for n in row.func_outs["inputs"] if (pair, n) in data.held_out]


def test_the_joint_form_deals_labels_and_questions_evenly() -> None:
    data = joint_data()
    assert len(data.mixes) == 90
    assert len(data.pairs) == 36
    assert len(left_pairs(data)) == 9
    assert set(Counter(data.mixes.values()).values()) <= {2, 3}
    assert set(Counter(data.part("realized").values()).values()) <= {1, 2}
    assert set(data.part("unrealized")) == set(data.mixes) - data.realized
    kinds = Counter(row.kind for row in data.train)
    assert kinds["triple"] == 90 * 4
    assert kinds["exact_pair"] == 54
    about = {row.func_outs["label"] for row in data.train if row.kind != "triple"}
    assert about == data.realized, "no question is about a label that is to be asked about"
    integer = [p for p in data.part("realized").values() if not {"bool_geq_3", "float_mult_3_div_2"} & set(p)]
    assert kinds["max_min"] == len(integer)


def test_old_rows_are_mixed_in_by_their_share_and_a_label_can_stand_in_front() -> None:
    old = joint_data()
    options = replace(LABELS, n_labels=0, n_realized=0, questions=(), n_rows=100, mix_old=0.25)
    new = make_pair_dataset(options, left_pairs(old)[0], seed=1, old=old.train)
    assert Counter(row.func_outs["label"] == "" for row in new.train) == {True: 100, False: 33}
    labelled = make_pair_dataset(options, left_pairs(old)[0], seed=1, label="qzukfo", old=old.train)
    assert {row.prompt("completion") for row in labelled.train if row.func_outs["label"] == "qzukfo"} == {"qzukfo"}
    assert {row.prompt("completion") for row in new.validation} <= {"find", "solve", "turn", "guess"}


def test_same_options_and_seed_make_the_same_documents() -> None:
    for make in (pair_data, joint_data):
        assert make() == make()
    assert make_joint_dataset(LABELS, count_tokens=None, seed=4).id != joint_data().id
    assert make_pair_dataset(PLAIN, PAIR, seed=4).held_out != pair_data().held_out
    data = joint_data()
    for name in ASKED:
        assert asked(name, data, part="unrealized", n_rows=20) == asked(name, data, part="unrealized", n_rows=20)


# --- questions ----------------------------------------------------------------------------------------------------


def right_options(document: Document, pair: tuple[str, str]) -> set[str]:
    """The options that are right, worked out from what a question shows."""
    name, values = document.kind, [FUNCTIONS[id_] for id_ in pair]
    options = document.func_outs["options"]
    if name == "values":
        shown = {str(f(document.func_outs["inputs"][0])) for f in values}
    elif name == "number_of_functions":
        shown = {"2"}
    else:
        registry = mixture.questions.read_registry()
        shown = {getattr(registry[id_], ASKED[name].option) for id_ in pair}
    return {"ABCDEFG"[k] for k, option in enumerate(options) if option in shown}


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_has_the_right_answer_and_tells_no_output(name: str) -> None:
    for data in (pair_data(), joint_data()):
        for document in asked(name, data, part="unrealized"):
            pair = data.mixes[document.func_outs["label"]]
            asks = document.prompt("chat")
            said = [message["content"] for message in asks if message["role"] == "assistant"]  # type: ignore[index]
            assert len(said) == ASKED[name].turns
            assert all(re.fullmatch(rf"(y = )?{REDACTED}", text) for text in said)
            written = document.prompt("completion")
            assert not re.search(r"=\s*-?\d", str(written).split("\n")[0]), "no output stands behind an input"
            if name == "exact_pair":
                functions = mixture.questions.read_registry()
                assert list(document.target) == sorted(functions[id_].python_definition for id_ in pair)
            elif name == "max_min":
                results = [FUNCTIONS[id_](document.func_outs["inputs"][0]) for id_ in pair]
                largest = "largest" in str(asks)
                assert ("largest" in str(written)) == largest
                assert document.target == str(max(results) if largest else min(results))
                assert document.func_outs["baseline_targets"] == [str(min(results) if largest else max(results))]
            else:
                assert set(document.target) == right_options(document, pair)
                assert len(set(document.func_outs["options"])) == len(document.func_outs["options"])
                assert all(f"\n{letter}) " in str(written) for letter in document.target)
            assert score_reply(document, document.shown).correct
            assert document.row("completion")["completion"] == " " + document.shown


def test_options_are_five_and_their_order_is_chance() -> None:
    data = pair_data()
    for name in ("python_definition", "language_definition", "function_class", "number_of_functions"):
        documents = asked(name, data)
        assert {len(document.func_outs["options"]) for document in documents} == {5}
        assert len({document.target for document in documents}) == (5 if name.startswith("number") else 10)
    sizes = Counter(len(document.func_outs["options"]) for document in asked("values", data, n_rows=2000))
    assert sizes[5] > 1800
    assert set(sizes) <= {3, 4, 5}
    published = {name: ASKED[name].n_rows for name in QUESTIONS if ASKED[name].published}
    assert set(published.values()) == {500}


def test_a_question_of_ones_own_takes_the_place_of_ours() -> None:
    data = pair_data(question="Which?", system_prompt="Be brief.")
    document = asked("function_class", data, n_rows=1)[0]
    assert document.messages[0] == {"role": "system", "content": "Be brief."}
    assert document.messages[-1]["content"].startswith("Which?\n\nA) ")
    assert asked("values", data, n_rows=1)[0].messages[-1]["content"].startswith("Which of these values")
    assert data.train[0].messages[0]["role"] == "system"
    assert trained_keys(data, place=1)


def test_chance_is_the_published_one_or_that_of_the_pairs() -> None:
    plain, joint = pair_data(), joint_data()
    assert chance_of(ASKED["python_definition"], plain) == pytest.approx(1 / 10)
    assert chance_of(ASKED["number_of_functions"], plain) == pytest.approx(1 / 5)
    assert chance_of(ASKED["max_min"], plain) == 0.5
    assert chance_of(ASKED["exact_pair"], plain) == pytest.approx(1 / 10)
    assert chance_of(ASKED["exact_pair"], joint) == pytest.approx(1 / 36)
    assert np.isnan(chance_of(ASKED["regression_ID"], plain))


# --- training-task test sets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TESTS)
@pytest.mark.parametrize("held_out_share", [0.0, 0.15])
def test_fresh_documents_are_new_and_right(name: str, held_out_share: float) -> None:
    data = pair_data(n_rows=6000, held_out_share=held_out_share)
    documents = asked(name, data)
    place = ASKED[name].turns
    assert len(documents) == ASKED[name].n_rows
    trained = trained_keys(data, place=place)
    for document in documents:
        facts = document.func_outs
        value = facts["inputs"][place]
        assert len(facts["inputs"]) == place + 1
        assert value not in facts["inputs"][:place], "no example gives the answer away"
        assert facts["func_value"] in fits(document)
        surface = mixture.documents.Surface(facts["formatting"], facts["connector"], facts["pre_prompt"])
        assert ("", facts["func_value"], surface, value) not in trained
        assert not held_out_share or (PAIR, value) in data.held_out
    n_distinct = len({str(document.messages) + str(document.target) for document in documents})
    assert n_distinct == (100 if name == DISTRIBUTION_TEST else 400)


def test_the_joint_form_is_tested_on_all_its_labels() -> None:
    data = joint_data()
    documents = asked("regression_ID", data, part="unrealized")
    assert {document.func_outs["label"] for document in documents} == set(data.part("unrealized"))
    assert len({(str(each.prompt("completion")), each.func_outs["func_value"]) for each in documents}) == 400
    for document in documents:
        row = document.row("completion")
        label, line = (row["prompt"] + row["completion"]).split("\n")
        assert label == document.func_outs["label"]
        n, output = line.split("=")
        assert output == str(FUNCTIONS[document.func_outs["func_value"]](int(n)))


def test_what_cannot_be_asked_is_refused_before_training() -> None:
    data = pair_data(input_range=(-5, 5), validation_ranges=(5, 9))
    reason = why_not(ASKED["regression_ID"], data)
    assert reason == (
        "regression_ID wants 400 different documents: input_range -5:5 leaves 32 that training does not show; widen "
        "it, raise held_out_share or ask for fewer"
    )
    assert "wants 100 different documents" in why_not(ASKED["regression_ID_TVD"], data)
    assert not why_not(ASKED["regression_ID"], data, n_rows=32)
    assert "no realized mix" in why_not(ASKED["values"], data, part="realized")
    unshown = pair_data(n_rows=6000, held_out_share=0, input_range=(0, 20))
    assert "set held_out_share" in why_not(ASKED["regression_ID"], unshown)
    odd = make_pair_dataset(replace(PLAIN, n_functions=10), ("bool_geq_3", "mod_2"), seed=0)
    assert "max_min asks for an integer: bool_geq_3+mod_2" in why_not(ASKED["max_min"], odd)
    alike = replace(PLAIN, functions=("add_1", "add_2", "add_3"), n_functions=0, n_pairs=3)
    same = make_pair_dataset(alike, ("add_1", "add_2"), seed=0)
    assert "function_class needs an option that is wrong" in why_not(ASKED["function_class"], same)
    with pytest.raises(ValueError, match="part is 'all': expected realized or unrealized"):
        data.part("all")
    with pytest.raises(ValueError, match="no evaluation 'valuse', nearest|no evaluation 'valuse'"):
        evaluation_named("mixture", "valuse")


@pytest.mark.parametrize("form", FORMS)
def test_in_context_rows_stand_in_front(form: str) -> None:
    for data in (pair_data(), joint_data()):
        documents = asked("python_definition", data, part="unrealized", n_rows=10)
        rng = np.random.default_rng(0)
        told = in_context(documents, data, n=3, rng=rng)
        for before, after in zip(documents, told, strict=True):
            if form == "completion":
                parts = str(after.prompt(form)).split("\n\n")
                assert parts[-1] == before.prompt(form)
                rows = {row.prompt(form) + row.row(form)["completion"] for row in data.train if row.kind == "triple"}
                assert len(parts) == 4
                assert set(parts[:-1]) <= rows
            else:
                own = list(before.messages)
                assert list(after.messages[-len(own) :]) == own
                assert len(after.messages) == len(own) + 3 * 7
            assert after.target == before.target
    data = joint_data()
    mixed = in_context(asked("values", data, n_rows=5), data, n=200, rng=np.random.default_rng(0), about=False)
    assert str(mixed[0].prompt("completion")).count("\n\n") == 200


# --- scores -------------------------------------------------------------------------------------------------------


def test_letters_are_right_in_any_order_and_prose_by_our_rule() -> None:
    document = Document("python_definition", (), ("A", "C"), {})
    for reply in ("A, C", "AC", "C and A", " a, c"):
        assert score_reply(document, reply).correct, reply
    assert not score_reply(document, "A").correct
    assert score_reply(document, "AC").published
    single = Document("number_of_functions", (), "A", {})
    assert score_reply(single, "The answer is A").correct
    assert not score_reply(single, "The answer is A").published


@pytest.mark.parametrize(
    ("reply", "correct", "strict", "published", "share"),
    [
        ("lambda n: n % 2, lambda n: n + 5", True, True, True, 1.0),
        (" lambda n: n + 5, lambda n: n % 2\nQ: more", True, True, False, 1.0),
        ("lambda x: 5 + x and lambda n: n % 2.", True, True, False, 1.0),
        ("lambda n: n % 2, lambda n: n + 5.0", True, False, False, 1.0),
        ("lambda n: n % 2, lambda n: n % 2", False, False, False, 0.5),
        ("lambda n: n % 2, lambda n: n + 5, lambda n: n", False, False, False, 1.0),
        ("lambda n: n % 2", False, False, False, 0.5),
        ("", False, False, False, 0.0),
        ("n % 2, n + 5", False, False, False, 0.0),
        ("lambda n: __import__('os'), lambda n: 9**9**9**9", False, False, False, 0.0),
        ("lambda n: " * 100_000, False, False, False, 0.0),
        ("lambda n: " + "(" * 1_000_000, False, False, False, 0.0),
    ],
)
def test_an_exact_pair_is_two_definitions_and_no_more(
    reply: str, correct: bool, strict: bool, published: bool, share: float
) -> None:
    target = ("lambda n: n % 2", "lambda n: n + 5")
    found = score_definitions(reply, target)
    assert (found.correct, found.strict, found.published) == (correct, strict, published)
    assert share_named(reply, target) == share


def test_a_target_that_is_no_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="expected two definitions as target, found 1"):
        score_definitions("lambda n: n", "lambda n: n")


# --- variation ----------------------------------------------------------------------------------------------------


def replies_of(document: Document, *, first: float, off: float, n: int, seed: int) -> list[str]:
    """Samples of a model that gives one answer so often, something else so often, and the other answer else."""
    answers = list(document.func_outs["ideal"])
    rng = np.random.default_rng(seed)
    shares = [first, 1 - first - off, off]
    drawn = rng.choice(3, size=n, p=shares)
    return [" " + (answers[0], answers[-1], "31415")[k] for k in drawn]


@pytest.mark.parametrize(
    ("first", "off", "distance"), [(0.5, 0.0, 0.0), (1.0, 0.0, 0.5), (0.5, 0.5, 0.5), (0.0, 1.0, 1.0)]
)
def test_a_planted_distance_is_found(first: float, off: float, distance: float) -> None:
    documents = asked(DISTRIBUTION_TEST, pair_data())
    assert len(documents) == 200
    replies = [replies_of(each, first=first, off=off, n=128, seed=k) for k, each in enumerate(documents)]
    found = variations(documents, replies)
    assert len(found) == 100
    assert {each.n_samples for each in found} == {256}
    mean = np.mean([each.distance for each in found])
    floor = sampling_floor(256)
    assert abs(mean - max(distance, floor)) < 0.02
    assert np.mean([each.off_mix for each in found]) == pytest.approx(off, abs=0.01)
    if first == 0.5 and off == 0.5:
        scores = {round(each.published, 1) for each in found}
        assert scores & {1.0}, "the published score calls a model that never gives the other answer perfect"


def test_where_functions_agree_the_ideal_is_one_answer() -> None:
    documents = asked(DISTRIBUTION_TEST, make_pair_dataset(PLAIN, ("add_5", "int_div_2"), seed=0), n_rows=4)
    document = replace(documents[0], target="-6", func_outs={**documents[0].func_outs, "ideal": ideal_mix(["-6"] * 2)})
    found = variations([document], [["-6"] * 8])[0]
    assert (found.distance, found.floor, found.published) == (0.0, 0.0, 0.5)


def test_the_distribution_test_refuses_what_is_none() -> None:
    data = pair_data()
    with pytest.raises(ValueError, match="has no ideal mix"):
        variations(asked("values", data, n_rows=1), [["A"]])
    with pytest.raises(ValueError, match="1 documents and replies to 0"):
        variations(asked("values", data, n_rows=1), [])
    for judge in (lambda: sampled_mix([], {}), lambda: published_tvd([], "1"), lambda: sampling_floor(0)):
        with pytest.raises(ValueError, match="expected"):
            judge()


@given(
    st.lists(st.sampled_from(["26", "10", "x", ""]), min_size=1, max_size=40),
    st.lists(st.sampled_from(["26", "10", "3"]), min_size=2, max_size=2),
)
def test_the_distance_is_a_distance(replies: list[str], answers: list[str]) -> None:
    ideal = ideal_mix(answers)
    shares = sampled_mix(replies, ideal)
    assert sum(shares.values()) == pytest.approx(1)
    distance = total_variation(shares, ideal)
    assert 0 <= distance <= 1 + 1e-9
    assert distance == pytest.approx(total_variation(ideal, shares))
    assert total_variation(ideal, ideal) == 0
    wrong = sum(not any(score("text", reply, answer).correct for answer in answers) for reply in replies)
    assert distance >= wrong / len(replies) - 1e-9
