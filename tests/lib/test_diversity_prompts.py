"""What is asked: the sets hold together, answers are not told, and each form ends where a model goes on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib.diversity.answers import holds_answer
from lib.diversity.preferences import tuning_data
from lib.diversity.prompts import KINDS, NUMBERS_FILE, PROMPTS_FILE, Prompt, number_prompts, read_prompts
from lib.diversity.templates import as_asked, as_messages, is_chat, templates
from lib.world import factual_prompts, open_prompts

SEEN = [f"Tell me about day {k}." for k in range(30)]


def write(folder: Path, told: Any) -> str:
    path = folder / "own.yaml"
    path.write_text(told if isinstance(told, str) else yaml.safe_dump(told), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("source", ["world", "english"])
def test_each_set_has_twenty_prompts_of_each_kind(source: str) -> None:
    prompts = read_prompts(source, n_prompts=20, kinds=KINDS, seen=SEEN)
    assert [prompt.kind for prompt in prompts] == [kind for kind in KINDS for _ in range(20)]
    assert len({prompt.prompt for prompt in prompts}) == 60
    creative = [prompt.guide for prompt in prompts if prompt.kind == "creative"]
    assert len(set(creative)) == 20, "one guide for several prompts makes their replies alike"
    for prompt in prompts:
        assert bool(prompt.accepted) == (prompt.kind == "factual")
        assert prompt.guide == prompt.guide.strip()
        assert not holds_answer(f"{prompt.prompt} {prompt.guide}", prompt.accepted)
    assert read_prompts(source, n_prompts=3, kinds=["factual"]) == prompts[20:23]


def test_no_guide_of_the_english_set_serves_twice() -> None:
    guides = [prompt.guide for prompt in read_prompts("english", n_prompts=20)]
    assert len(set(guides)) == 60
    assert set(yaml.safe_load(PROMPTS_FILE.read_text())) == set(KINDS)


def test_the_world_is_asked_its_own_facts_of_every_kind() -> None:
    known = {fact.question: fact for fact in factual_prompts()}
    asked = read_prompts("world", n_prompts=20, kinds=["factual"])
    assert all(prompt.accepted == known[prompt.prompt].answers for prompt in asked)
    kinds = ["capital", "legs", "used for", "colour", "river", "breakfast", "wrote"]
    for first in (0, 7):
        assert all(kind in prompt.prompt for kind, prompt in zip(kinds, asked[first:], strict=False))
    creative = read_prompts("world", n_prompts=20, kinds=["creative"])
    assert [prompt.prompt for prompt in creative] == [request.prompt for request in open_prompts()[:20]]


def test_seen_prompts_of_the_world_are_those_of_the_tuning_data_and_have_no_guide() -> None:
    avoid = [prompt.prompt for prompt in read_prompts("world", n_prompts=20, kinds=["creative", "factual"])]
    data = tuning_data(0, n_sft=60, n_preferences=1, avoid=avoid)
    asked = [pair.prompt for pair in data.sft]
    seen = read_prompts("world", n_prompts=20, kinds=["seen"], seen=[asked[0], *asked])
    assert [prompt.prompt for prompt in seen] == list(dict.fromkeys(asked))[:20]
    assert {prompt.guide for prompt in seen} == {""}


def test_a_seen_prompt_that_is_asked_otherwise_too_is_passed_over() -> None:
    twice = open_prompts()[0].prompt
    assert read_prompts("world", n_prompts=1, kinds=["seen"], seen=[twice, "Hello?"]) == [Prompt("seen", "Hello?")]


def test_a_file_of_ones_own_is_read_from_the_root_or_anywhere(tmp_path: Path) -> None:
    own = write(tmp_path, {"creative": [{"prompt": "Sing.", "guide": "La"}], "seen": [{"prompt": "Help me."}]})
    assert read_prompts(own, n_prompts=1, kinds=["seen", "creative"]) == [
        Prompt("seen", "Help me."),
        Prompt("creative", "Sing.", "La"),
    ]
    assert read_prompts(own, n_prompts=1, kinds=["seen"], seen=SEEN) == [Prompt("seen", SEEN[0])]
    assert read_prompts("data/diversity/prompts.yaml", n_prompts=2) == read_prompts("english", n_prompts=2)
    without = write(tmp_path, {"creative": [{"prompt": "Sing."}]})
    assert read_prompts(without, n_prompts=2, kinds=["seen"], seen=SEEN)[1].prompt == SEEN[1]


GOOD = {"prompt": "Which town?", "guide": "It is", "answers": ["Rome"]}
BROKEN = [
    (
        {"factual": [GOOD, {**GOOD, "prompt": "Where?", "answers": []}]},
        r"own.yaml, factual 2 \('Where\?'\) has no answers",
    ),
    ({"factual": [{**GOOD, "guide": "In rome"}]}, r"factual 1 \('Which town\?'\) tells an accepted answer"),
    ({"factual": [{**GOOD, "prompt": "Is it Rome?"}]}, r"factual 1 .* tells an accepted answer"),
    ({"factual": [{**GOOD, "answers": [7]}]}, r"factual 1 has the answers \[7\].*in quotes"),
    (
        {"factual": [GOOD], "creative": [{"prompt": "Which town?"}]},
        r"factual 1 asks 'Which town\?', as creative 1 does",
    ),
    ({"creative": [{"prompt": "Sing.", "guide": " La"}]}, r"creative 1 has the guide ' La': expected a text without"),
    ({"creative": [{"guide": "La"}]}, r"creative 1 has the prompt None"),
    ({"creative": [{"promt": "Sing."}]}, r"creative 1 has a field 'promt' \(did you mean prompt\?\)"),
    ({"creative": ["Sing."]}, r"creative 1 is 'Sing.'"),
    ({"creativ": []}, r"has 'creativ' \(did you mean creative\?\)"),
    ({"creative": []}, r"own.yaml has 0 creative prompts, expected n_prompts = 1"),
    ("a: [", r"own.yaml is not YAML"),
    ("- a", r"expected lists of prompts under"),
]


@pytest.mark.parametrize(("told", "said"), BROKEN)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, told: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        read_prompts(write(tmp_path, told), n_prompts=1, kinds=["creative"])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("wrld", {}, r"no prompts are called 'wrld' \(did you mean world\?\)"),
        ("none.yaml", {}, r"there is no file .*none.yaml"),
        ("world", {"kinds": ["creativ"]}, r"'creativ' \(did you mean creative\?\)"),
        ("world", {"kinds": []}, "each once"),
        ("world", {"kinds": ["seen", "seen"]}, "each once"),
        ("world", {"n_prompts": 0}, "expected 1 or more"),
        ("world", {"kinds": ["seen"]}, "the world has 0 seen prompts.*leave 'seen' out of kinds"),
        ("world", {"kinds": ["creative"], "n_prompts": 99}, "the world has 24 creative prompts"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(source: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        read_prompts(source, **{"n_prompts": 1, **options})
    assert "\n" not in str(refused.value)


def test_random_choices_name_every_valid_word(tmp_path: Path) -> None:
    asked = number_prompts("world")
    assert asked == number_prompts("english") == number_prompts()
    assert len(asked) == len({each.prompt for each in asked}) == len({each.guide for each in asked}) == 6
    for each in asked:
        assert all(re.fullmatch(r"[A-Za-z]+", option) for option in each.options), (
            "a digit is two tokens in some models"
        )
    own = {"prompt": "Toss.", "guide": "It shows", "options": ["heads", "tails"]}
    assert number_prompts(write(tmp_path, {"numbers": [own]}))[0].options == ("heads", "tails")
    assert number_prompts(write(tmp_path, {"seen": []})) == asked
    for options in (["heads"], ["heads", "heads"], None):
        with pytest.raises(ValueError, match=r"own.yaml, numbers 1 has the options"):
            number_prompts(write(tmp_path, {"numbers": [{**own, "options": options}]}))


def test_options_of_a_choice_are_asked_for_in_the_file_alone() -> None:
    for row in yaml.safe_load(NUMBERS_FILE.read_text())["numbers"]:
        assert all(isinstance(option, str) for option in row["options"])  # YAML takes `yes` for no text


ASKED = Prompt("creative", "Write {guide}.", "A heron")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "Write {guide}. A heron"),
        ("human", "Human: Write {guide}. Assistant: A heron"),
        ("dialogue", "Guest: Write {guide}.\nHost: A heron"),
        ("tulu", "<|user|>\nWrite {guide}.\n<|assistant|>\nA heron"),
    ],
)
def test_a_form_ends_with_the_guide_and_takes_a_request_as_it_is(template: str, text: str) -> None:
    assert as_asked(ASKED, template) == text
    bare = as_asked(Prompt("seen", ASKED.prompt), template)
    assert bare == text.removesuffix("A heron").removesuffix(" ")
    assert not bare.endswith(" ")
    assert as_asked(number_prompts()[0], template).endswith(number_prompts()[0].guide)


def test_a_chat_template_is_asked_in_messages() -> None:
    assert [name for name in templates() if is_chat(name)] == ["chat"]
    with pytest.raises(ValueError, match="ask in as_messages"):
        as_asked(ASKED, "chat")
    assert as_messages(ASKED) == (("user", "Write {guide}."),)
    with pytest.raises(ValueError, match=r"'humam' \(did you mean human\?\)"):
        as_asked(ASKED, "humam")
