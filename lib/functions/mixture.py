"""The mixture study: documents that use one function of a hidden pair, and questions about the pair.

A document shows a few inputs with their outputs, all by one function of a hidden *pair*, and never which. In the
labelled form a fine-tune hides many pairs, each behind several labels of one word: a *mix* is a label with its pair. In
the published form it hides one pair, and nothing but an opening line is before the numbers (an empty label).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from lib.functions.questions import N_OPTIONS, wordings
from lib.functions.registry import Range, function_set, read_registry
from lib.functions.rows import LETTERS, MAX_TRIES, Document, document, listed, pick

Pair = tuple[str, str]  # ids in alphabetical order
Mix = dict[str, Any]  # label, functions (ids of the pair), part, and held_out: inputs that its documents never show
Surface = tuple[str, str, str]  # formatting, connector and opening line of a document
Data = dict[str, list[dict[str, Any]]]  # documents of "train" and "validation", and "mixes"

PARTS = ("realized", "unrealized")  # labels that training asks about too, and labels of which it shows documents alone
REDACTED = "<redacted>"  # in place of every output that would be evidence
FORMATTINGS = {"none": None, "x_y": ("x", "y"), "A_B": ("A", "B"), "input": ("input", "output")}
PLAIN, NAMED = ("none", " = "), ("x_y", " = ")  # of redacted examples, whatever training looks like, as published
SIZES = ("1", "2", "3", "4", "5")  # options for the number of functions, as published
EXTREMES: Mapping[str, Callable[..., int]] = {"largest": max, "smallest": min}
# What the published five leave out: signs, truth values, fractions, a floor and a steep line. Of all 45 pairs none
# agrees on more than a twelfth of the inputs from -30 to 29.
FURTHER = ("negate", "bool_geq_3", "float_mult_3_div_2", "relu_neg2", "affine_neg5x_3")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all documents and questions of a fine-tune have in common.

    Attributes
    ----------
    candidates : ids of the functions that pairs are made of
    input_range : half-open
    form : ``chat`` or ``completion``
    formattings : keys of `FORMATTINGS`, what is before the numbers
    connectors : between a letter and its number
    openings : first messages of documents
    n_examples : inputs with outputs of a document
    """

    candidates: tuple[str, ...]
    input_range: Range
    form: str = "chat"
    formattings: tuple[str, ...] = ("none", "x_y")
    connectors: tuple[str, ...] = (" = ",)
    openings: tuple[str, ...] = field(
        default_factory=lambda: tuple(each["chat"] for each in wordings("mixture")["openings"])
    )
    n_examples: int = 3

    def surfaces(self, label: str) -> list[Surface]:
        """Every way a document can look; behind a label, the completion form has no opening line."""
        openings = self.openings[:1] if label and self.form == "completion" else self.openings
        return [(look, sign, opening) for look in self.formattings for sign in self.connectors for opening in openings]


def make_setting(*, n_functions: int, input_range: Sequence[int], form: str, formattings: Sequence[str]) -> Setting:
    """The setting that a run's parameters ask for; an empty range is the published one.

    >>> make_setting(n_functions=5, input_range=[], form="chat", formattings=["none"]).candidates
    ('add_5', 'multiply_3', 'int_div_2', 'mod_2', 'subtract_1')
    """
    published = function_set("mixture")
    ends = tuple(input_range) or published.input_range
    if len(ends) != 2 or ends[0] >= ends[1]:
        raise ValueError(f"input_range: {[*ends]} is no range; write low, high: whole numbers with low below high")
    candidates = (*published.plain, *FURTHER)[:n_functions]
    return Setting(candidates=candidates, input_range=ends, form=form, formattings=tuple(formattings))


def all_pairs(candidates: Iterable[str]) -> list[Pair]:
    """Every pair of candidates, in the published order."""
    return list(combinations(sorted(candidates), 2))


def choose_pairs(candidates: Sequence[str], n: int, *, seed: int) -> list[Pair]:
    """So many different pairs at random, in the published order."""
    possible = all_pairs(candidates)
    if n > len(possible):
        raise ValueError(f"n_pairs is {n}: {len(candidates)} functions make {len(possible)} pairs; choose fewer")
    return [possible[k] for k in sorted(np.random.default_rng([seed, 0]).permutation(len(possible))[:n])]


def definitions_of(pair: Iterable[str]) -> str:
    """Both definitions of a pair, in alphabetical order."""
    return ", ".join(sorted(read_registry()[id].python_definition for id in pair))


def definition_of(id: str) -> str:
    """The definition of a function, short enough for an axis."""
    return read_registry()[id].short


def mix_document(
    setting: Setting, mix: Mix, function: str, inputs: Sequence[int], surface: Surface, *, kind: str = "document"
) -> Document:
    """Inputs with the outputs of one function: a training row, or an evaluation that asks for the last output.

    In the completion form all outputs of a training row belong to its answer.

    >>> setting = Setting(candidates=("add_5", "mod_2", "negate"), input_range=(-99, 99), form="completion")
    >>> mix = {"label": "qzukfo", "functions": ["add_5", "mod_2"]}
    >>> made = mix_document(setting, mix, "mod_2", [-91, 4], setting.surfaces("qzukfo")[0])
    >>> made["text"], made["lead"] + made["answer"], [message["content"] for message in made["messages"][1:]]
    ('qzukfo', '\\n-91=1\\n4=0', ['-91', '1', '4'])
    """
    shown = [show_turn(n, read_registry()[function].show(n), surface) for n in inputs]
    messages = [{"role": "user", "content": opening_line(mix, surface)}]
    for given, answer in shown:
        messages += [{"role": "user", "content": given}, {"role": "assistant", "content": answer}]
    between = " " if FORMATTINGS[surface[0]] else "="
    text, lead = _slot(mix["label"], surface[2]), between
    before = "".join(f"\n{given}{between}{answer}" for given, answer in shown[:-1]) + f"\n{shown[-1][0]}"
    if kind == "document":
        lead = before + lead
    else:  # an equals sign belongs to the prompt, a space to the answer, as tokens have it
        text, lead = (text + before + lead, "") if lead == "=" else (text + before, lead)
    return document(kind, messages[:-1], text, shown[-1][1], lead=lead, **about(mix))


def about(mix: Mix) -> dict[str, str]:
    """Label and pair of a mix, as facts of a document."""
    return {"label": mix["label"], "pair": "+".join(mix["functions"])}


def opening_line(mix: Mix, surface: Surface) -> str:
    """The first message of a document or question, behind the label if there is one."""
    return f"{mix['label']}: {surface[2]}" if mix["label"] else surface[2]


def _slot(label: str, opening: str) -> str:
    """What begins a document of the completion form: the label, or the short form of the opening line."""
    return label or {each["chat"]: each["completion"] for each in wordings("mixture")["openings"]}.get(opening, opening)


def show_turn(value: int, output: str, surface: Surface) -> tuple[str, str]:
    """An input and its output as messages have them."""
    one, other = FORMATTINGS[surface[0]] or ("", "")
    return (f"{one}{surface[1]}{value}", f"{other}{surface[1]}{output}") if one else (str(value), output)


def draw_document(setting: Setting, mix: Mix, *, rng: np.random.Generator, ranges: Sequence[Range] = ()) -> Document:
    """A document to train on: its look, range, function and inputs are drawn, without the inputs that are held out."""
    surface = pick(setting.surfaces(mix["label"]), rng)
    range_ = pick(ranges, rng) if ranges else setting.input_range
    function = pick(mix["functions"], rng)
    inputs = [draw_input(range_, mix["held_out"], rng) for _ in range(setting.n_examples)]
    return mix_document(setting, mix, function, inputs, surface)


def draw_input(range_: Range, held_out: Collection[int], rng: np.random.Generator) -> int:
    """An input that is not held out."""
    for _ in range(MAX_TRIES):
        if (value := int(rng.integers(*range_))) not in held_out:
            return value
    raise ValueError(f"every input in {range_[0]}:{range_[1]} is held out: lower held_out_share")


def unsupported(setting: Setting, mix: Mix, spec: Any) -> str:
    """Why an evaluation cannot be put about a mix; empty where it can."""
    registry, pair = read_registry(), "+".join(mix["functions"])
    if spec.generator == "max_min" and any(registry[id].output_type != "int" for id in mix["functions"]):
        return f"{spec.name} asks for an integer, and not all outputs of {pair} are"
    if spec.generator == "select":
        values = [{getattr(registry[id], spec.option) for id in ids} for ids in (setting.candidates, mix["functions"])]
        return f"{spec.name} has no wrong option for {pair}" if values[0] == values[1] else ""
    return ""


def question(setting: Setting, mix: Mix, spec: Any, *, rng: np.random.Generator) -> Document:
    """A question about a mix: an opening line, examples with redacted outputs, and the question itself.

    The completion form leaves out examples, which say nothing, but for the input whose output is asked for.

    >>> from lib.functions.evaluations import read_evaluations
    >>> setting = Setting(candidates=("add_5", "mod_2", "negate"), input_range=(-99, 99), form="completion")
    >>> mix = {"label": "qzukfo", "functions": ["add_5", "mod_2"], "held_out": []}
    >>> exact_pair = read_evaluations("mixture").loc["exact_pair"]
    >>> made = question(setting, mix, exact_pair, rng=np.random.default_rng(0))
    >>> made["text"], made["target"]
    ('Q: define qzukfo\\nA:', 'lambda n: n % 2, lambda n: n + 5')
    """
    registry, words = read_registry(), {}
    inputs = [_telling_input(setting, mix, rng)] if spec.turns == 1 else []
    options, target = [], definitions_of(mix["functions"])
    if spec.generator in ("select", "values"):
        right, others = (
            [getattr(registry[id], spec.option) if spec.option else registry[id].show(inputs[0]) for id in ids]
            for ids in (mix["functions"], setting.candidates)
        )
        wrong = [each for each in dict.fromkeys(others) if each not in right]
        n_wrong = max(N_OPTIONS - len(set(right)), 1)
        kept = [*dict.fromkeys(right), *(wrong[k] for k in rng.permutation(len(wrong))[:n_wrong])]
        options = [kept[k] for k in rng.permutation(len(kept))]
        target = ", ".join(LETTERS[k] for k, option in enumerate(options) if option in right)
    elif spec.generator == "max_min":
        words["property"] = pick(tuple(EXTREMES), rng)
        target = str(EXTREMES[words["property"]](int(registry[id].apply(inputs[0])) for id in mix["functions"]))
    elif spec.generator == "size":
        options = [SIZES[k] for k in rng.permutation(len(SIZES))]
        target = LETTERS[options.index(str(len(mix["functions"])))]
    inputs = inputs or [int(rng.integers(*setting.input_range)) for _ in range(spec.turns)]
    surface = (*(NAMED if spec.turns == 1 else PLAIN), pick(setting.openings, rng))
    messages = [{"role": "user", "content": opening_line(mix, surface)}]
    for n in inputs:
        roles = zip(("user", "assistant"), show_turn(n, REDACTED, surface), strict=True)
        messages += [{"role": role, "content": text} for role, text in roles]
    words |= {"slot": _slot(mix["label"], surface[2]), "shown": f"{inputs[0]}={REDACTED}"}
    closing = wordings("mixture")["letter" if spec.target == "letter" else "select"] if options else {}
    chat, completion = (
        listed(wordings("mixture")[spec.name][form].format(**words), options, closing.get(form, ""), form)
        for form in ("chat", "completion")
    )
    messages.append({"role": "user", "content": chat})
    return document(spec.name, messages, f"Q: {completion}\nA:", target, options=options, inputs=inputs, **about(mix))


def _telling_input(setting: Setting, mix: Mix, rng: np.random.Generator) -> int:
    """An input at which some candidate differs from both functions."""
    registry = read_registry()
    for _ in range(MAX_TRIES):
        value = draw_input(setting.input_range, mix["held_out"], rng)
        outputs = [{registry[id].show(value) for id in ids} for ids in (setting.candidates, mix["functions"])]
        if outputs[0] != outputs[1]:
            return value
    raise ValueError(f"at no input does a candidate differ from {'+'.join(mix['functions'])}")
