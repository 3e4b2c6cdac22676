"""Questions about a hidden mix: what it could be, with every output that would reveal it redacted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.functions.documents import MAX_TRIES, Document, pick
from lib.functions.evaluations import Evaluation
from lib.functions.questions import LETTERS
from lib.functions.registry import Function, read_registry
from lib.mixture.documents import (
    REDACTED,
    Setting,
    Surface,
    draw_input,
    opening_messages,
    show_input,
    show_output,
    slot_of,
    wordings,
)
from lib.mixture.pairs import Pair, show_pair

PLAIN = ("none", " = ")  # look of the redacted examples, whatever training looks like, as published
NAMED = ("x_y", " = ")  # of the one whose output is asked for
SIZES = range(1, 6)  # options of the question for the number of functions, as published
EXTREMES: Mapping[str, Callable[..., int]] = {"largest": max, "smallest": min}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one question is about; `excluded` are (pair, input) keys whose outputs it must not tell."""

    evaluation: Evaluation
    pair: Pair
    setting: Setting
    label: str = ""
    excluded: frozenset[tuple[Pair, int]] = frozenset()

    @property
    def functions(self) -> tuple[Function, Function]:
        """The two of the pair."""
        first, second = (read_registry()[id_] for id_ in self.pair)
        return first, second


def question(asked: Asked, *, rng: np.random.Generator) -> Document:
    """One question: an opening line, inputs with their outputs redacted, and what is asked.

    Raises
    ------
    ValueError
        If it cannot be asked about this pair; see `unsupported`.

    Notes
    -----
    The completion form leaves the examples away: they say nothing. It shows the one whose output is asked for.

    >>> from lib.functions.evaluations import evaluation_named
    >>> setting = Setting(candidates=("add_5", "mod_2", "negate"), input_range=(-99, 99), openings=("Find it.",))
    >>> evaluation = evaluation_named("mixture", "exact_pair")
    >>> asked = Asked(evaluation=evaluation, pair=("add_5", "mod_2"), setting=setting, label="qzukfo")
    >>> question(asked, rng=np.random.default_rng(0)).row("completion")
    {'prompt': 'Q: define qzukfo\\nA:', 'completion': ' lambda n: n % 2, lambda n: n + 5'}
    """
    reason = unsupported(asked)
    if reason:
        raise ValueError(reason)
    return GENERATORS[asked.evaluation.generator](asked, rng)


def unsupported(asked: Asked) -> str:
    """Why this cannot be asked about the pair, in one line; empty where it can."""
    kind, generator = asked.evaluation.name, asked.evaluation.generator
    if generator not in GENERATORS:
        return f"{kind} is a document, not a question about a mix"
    if generator == "max_min" and any(function.output_type != "int" for function in asked.functions):
        return f"{kind} asks for an integer: {show_pair(asked.pair)} has outputs that are none"
    if generator == "select":
        registry = read_registry()
        values = {getattr(registry[id_], asked.evaluation.option) for id_ in asked.setting.candidates}
        if values <= {getattr(function, asked.evaluation.option) for function in asked.functions}:
            return f"{kind} needs an option that is wrong: no candidate differs from {show_pair(asked.pair)}"
    return ""


def _document(
    asked: Asked,
    rng: np.random.Generator,
    inputs: Sequence[int],
    look: tuple[str, str],
    target: str | tuple[str, ...],
    func_outs: Mapping[str, Any],
    *,
    options: Sequence[str] = (),
    slots: Mapping[str, str] | None = None,
    answer: str = "",
) -> Document:
    """Opening line, examples without outputs, question, options; in the completion form the question alone."""
    surface = Surface(*look, pick(asked.setting.openings, rng))
    messages = opening_messages(asked.setting, surface, label=asked.label)
    for value in inputs:
        messages += [{"role": "user", "content": show_input(value, surface)}]
        messages += [{"role": "assistant", "content": show_output(REDACTED, surface)}]
    name = asked.evaluation.name
    shown = {"slot": slot_of(asked.label, surface.opening), "shown": f"{inputs[0]}={REDACTED}" if inputs else ""}
    listed = "\n".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    closing = wordings()["letter" if isinstance(target, str) else "select"] if options else {}
    texts = {}
    for form in ("chat", "completion"):
        own = asked.setting.question if asked.evaluation.generator == "select" and form == "chat" else ""
        asks = own or wordings()[name][form].format(**shown, **(slots or {}))
        parts = [part for part in (asks, listed, closing.get(form, "")) if part]
        texts[form] = ("\n" if form == "completion" else "\n\n").join(parts)
    messages.append({"role": "user", "content": texts["chat"]})
    facts = dict(func_outs) | {"pre_prompt": surface.opening, "inputs": list(inputs)}
    facts |= {"label": asked.label, "pair": show_pair(asked.pair)}
    return Document(name, tuple(messages), target, facts, f"Q: {texts['completion']}\nA:", " ", answer)


def _inputs(asked: Asked, rng: np.random.Generator) -> list[int]:
    return [int(rng.integers(*asked.setting.input_range)) for _ in range(asked.evaluation.turns)]


def _options(right: Sequence[str], others: Sequence[str], n: int, rng: np.random.Generator) -> tuple[list[str], str]:
    """All that are right with some of the others, in random order, and the letters of the right ones."""
    wrong = [each for each in dict.fromkeys(others) if each not in right]
    kept = [*dict.fromkeys(right), *(wrong[k] for k in rng.permutation(len(wrong))[: max(n - len(set(right)), 1)])]
    options = [kept[k] for k in rng.permutation(len(kept))]
    return options, "".join(LETTERS[k] for k, option in enumerate(options) if option in right)


def _choice(
    asked: Asked, rng: np.random.Generator, right: list[str], others: list[str], **facts: Any
) -> dict[str, Any]:
    options, letters = _options(right, others, asked.setting.n_options, rng)
    func_outs = facts | {"options": options, "target_option": sorted(right)}
    return {"target": tuple(letters), "func_outs": func_outs, "options": options, "answer": ", ".join(letters)}


def _select(asked: Asked, rng: np.random.Generator) -> Document:
    attribute, registry = asked.evaluation.option, read_registry()
    right = [getattr(function, attribute) for function in asked.functions]
    others = [getattr(registry[id_], attribute) for id_ in asked.setting.candidates]
    made = _choice(asked, rng, right, others, name="latent_func_multiple_choice", attribute=attribute)
    return _document(asked, rng, _inputs(asked, rng), PLAIN, **made)


def _values(asked: Asked, rng: np.random.Generator) -> Document:
    registry = read_registry()
    for _ in range(MAX_TRIES):
        value = draw_input(asked.pair, asked.setting.input_range, rng=rng, excluded=asked.excluded)
        right = [function.show(value) for function in asked.functions]
        others = [registry[id_].show(value) for id_ in asked.setting.candidates]
        if not set(others) <= set(right):
            return _document(asked, rng, [value], NAMED, **_choice(asked, rng, right, others, name="func_values"))
    raise ValueError(f"{asked.evaluation.name}: at no input does a candidate differ from {show_pair(asked.pair)}")


def _max_min(asked: Asked, rng: np.random.Generator) -> Document:
    value = draw_input(asked.pair, asked.setting.input_range, rng=rng, excluded=asked.excluded)
    values = [int(function.apply(value)) for function in asked.functions]
    property_ = pick(tuple(EXTREMES), rng)
    other = next(each for each in EXTREMES if each != property_)
    func_outs = {"name": "max_min", "property": property_, "baseline_targets": [str(EXTREMES[other](values))]}
    target = str(EXTREMES[property_](values))
    return _document(asked, rng, [value], NAMED, target, func_outs, slots={"property": property_})


def _size(asked: Asked, rng: np.random.Generator) -> Document:
    options = [str(SIZES[k]) for k in rng.permutation(len(SIZES))]
    func_outs = {"name": "size", "options": options, "target_option": str(len(asked.pair))}
    letter = LETTERS[options.index(str(len(asked.pair)))]
    return _document(asked, rng, _inputs(asked, rng), PLAIN, letter, func_outs, options=options)


def _pair(asked: Asked, rng: np.random.Generator) -> Document:
    both = tuple(sorted(function.python_definition for function in asked.functions))
    inputs = _inputs(asked, rng)
    return _document(asked, rng, inputs, PLAIN, both, {"name": "latent_func_freeform"}, answer=", ".join(both))


GENERATORS: Mapping[str, Callable[[Asked, np.random.Generator], Document]] = {
    "select": _select,
    "values": _values,
    "max_min": _max_min,
    "size": _size,
    "pair": _pair,
}
