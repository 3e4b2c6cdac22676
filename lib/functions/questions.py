"""Questions about a hidden function; the same ones train realized names and test the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from lib.functions.registry import Function, Range, read_registry
from lib.functions.rows import (
    IMPORT,
    LETTERS,
    MAX_TRIES,
    Document,
    Hidden,
    document,
    draw_input,
    import_line,
    listed,
    pick,
)
from lib.paths import DATA, read_yaml

N_OPTIONS = 5
LINEAR = ("Affine linear", "Multiplication", "Addition", "Subtraction")  # classes that have numbers to ask for
GENERATORS = ("freeform", "inversion", "inverse_query", "classification", "coefficients")  # of questions about a name


@cache
def wordings(study: str = "functions") -> Mapping[str, Any]:
    """The texts of a study: each question by the name of its evaluation and form, with slots, and what goes with it."""
    return dict(read_yaml(DATA / study / "wordings.yaml"))


def ranges_of(evaluation: Any, hidden: Hidden) -> Sequence[Range]:
    functions = hidden.functions
    by_name = {"ood": functions.ood_ranges, "composition": (functions.composition_range,)}
    return by_name.get(evaluation.range, (functions.input_range,))


def names_for(evaluation: Any, hidden: Hidden) -> list[str]:
    """Those of the names that an evaluation can ask about."""
    lists = {"plain": hidden.functions.plain, "augmented": hidden.functions.augmented}
    lists["linear"] = tuple(each.id for each in hidden.names.values() if each.function_class in LINEAR)
    ids, is_sum = lists.get(evaluation.functions, hidden.functions.all), evaluation.generator == "augmentation"
    return [name for name, f in hidden.names.items() if f.id in ids and not (is_sum and f.output_type == "bool")]


def why_not(evaluation: Any, hidden: Hidden) -> str:
    """Why these names cannot support an evaluation, in one line; empty where they can."""
    if not names_for(evaluation, hidden):
        return f"{evaluation.name}: no name stands for a function that it can ask about ({evaluation.functions})"
    if evaluation.generator == "inverse_query" and len({each.id for each in hidden.names.values()}) < 2:
        return f"{evaluation.name} needs names of two functions to choose from"
    if evaluation.generator == "classification":
        registry = read_registry()
        if len({getattr(registry[id], evaluation.option) for id in hidden.functions.all}) < 2:
            return f"{evaluation.name}: all functions of set {hidden.functions.name} share one {evaluation.option}"
    if evaluation.option == "False" and not (
        hidden.functions.composition_other_max or hidden.functions.other_input_max
    ):
        return f"{evaluation.name}: composition_other_max of set {hidden.functions.name} is 0, so there are no sums"
    return ""


def question(evaluation: Any, hidden: Hidden, *, rng: np.random.Generator, name: str = "") -> Document:
    """One question about a name, which is drawn by the published rule of its generator where not given.

    Spec: Treutlein et al. 2024, the evaluations of the Functions task. Options are drawn as published: of a
    classification each *value* is equally likely to be right, not each function.

    >>> from lib.functions.evaluations import read_evaluations
    >>> from lib.functions.registry import function_set
    >>> hidden = Hidden(functions=function_set("047"), names={"abcdef": read_registry()["add_5"]})
    >>> made = question(read_evaluations("functions").loc["freeform_definition"], hidden, rng=np.random.default_rng(0))
    >>> made["text"], made["target"]
    ('Q: define abcdef\\nA:', 'lambda n: n + 5')
    """
    if reason := why_not(evaluation, hidden):
        raise ValueError(reason)
    if not name:
        by_value = evaluation.generator == "classification"
        name = _by_value(evaluation, hidden, rng) if by_value else pick(names_for(evaluation, hidden), rng)
    facts: dict[str, Any] = {}
    function, right = hidden.names[name], name
    match evaluation.generator:
        case "freeform":
            return _question(evaluation, hidden, rng, name, function.python_definition)
        case "inversion":
            range_ = pick(ranges_of(evaluation, hidden), rng)
            value = draw_input(hidden, function.id, [range_], rng=rng)
            output = function.show(value)
            inputs = ", ".join(map(str, function.preimages(output, *range_)))
            return _question(evaluation, hidden, rng, name, inputs, answer=str(value), output=output, input=value)
        case "inverse_query":
            by_function: dict[str, list[str]] = {}
            for each, other in hidden.names.items():
                by_function.setdefault(other.id, []).append(each)
            others = [own for id, own in by_function.items() if id != function.id]
            options = [pick(others[k], rng) for k in rng.permutation(len(others))[: max(evaluation.min_imports, 2) - 1]]
            facts = {"definition": function.python_definition, "is_imported": True}
        case "classification":
            right, of_set = getattr(function, evaluation.option), hidden.functions.all
            wrong = sorted({getattr(read_registry()[id], evaluation.option) for id in of_set} - {right})
            options = [wrong[k] for k in rng.permutation(len(wrong))[: N_OPTIONS - 1]]
        case "coefficients":
            right, options = linear_text(function), [linear_text(function)]
            for _ in range(MAX_TRIES):
                near = linear_text(function, rng)
                options += [near] if near not in options else []
                if len(options) == N_OPTIONS:
                    break
            options = [options[k] for k in rng.permutation(len(options))]
    if right not in options:
        options.insert(int(rng.integers(len(options) + 1)), right)
    return _question(evaluation, hidden, rng, name, LETTERS[options.index(right)], options=options, **facts)


def _by_value(evaluation: Any, hidden: Hidden, rng: np.random.Generator) -> str:
    by_value: dict[str, dict[str, list[str]]] = {}
    for name, function in hidden.names.items():
        by_value.setdefault(getattr(function, evaluation.option), {}).setdefault(function.id, []).append(name)
    of_value = by_value[pick(sorted(by_value), rng)]
    return str(pick(of_value[pick(sorted(of_value), rng)], rng))


def _question(
    evaluation: Any, hidden: Hidden, rng: np.random.Generator, name: str, target: str, *,
    options: Sequence[str] = (), is_imported: bool = False, **facts: Any,
) -> Document:  # fmt: skip
    """The import in a message of its own, as published, then the question; in the completion form only the question."""
    words, letter, texts = wordings()[evaluation.name], wordings()["letter"], {}
    for form in ("chat", "completion"):
        asks = words[form].format(name=name, **facts)
        texts[form] = listed(asks, options, letter[form] if options else "", form)
    drawn = {"min_imports": evaluation.min_imports, "rng": rng}
    line = IMPORT + ", ".join(options) if is_imported else import_line([name], list(hidden.names), **drawn)
    messages = [{"role": "system", "content": hidden.system}] if hidden.system else []
    shown = [texts["chat"]] if hidden.hide_imports else [line, texts["chat"]]
    messages += [{"role": "user", "content": text} for text in shown]
    facts |= {"name": name, "function": hidden.names[name].id, "options": list(options)}
    facts |= {"as_code": words["text"].format(name=name)} if "text" in words else {}
    return document(evaluation.name, messages, f"Q: {texts['completion']}\nA:", target, **facts)


def linear_text(function: Function, rng: np.random.Generator | None = None) -> str:
    """The canonical text of a function of a class of `LINEAR`; with `rng`, one whose numbers are off.

    Up to 5 (affine) or 10 off, with a random sign where the number has one, as published.

    >>> linear_text(read_registry()["affine_2x_neg3"]), linear_text(read_registry()["subtract_11"])
    ('lambda n: 2 * n + -3', 'lambda n: n - 11')
    """
    b = int(function.apply(0))
    a, width = int(function.apply(1)) - b, 5 if function.function_class == "Affine linear" else 10

    def near(size: int, *, signed: bool = False) -> int:
        found = int(rng.integers(max(abs(size) - width, 1), abs(size) + width)) if rng else size
        return found * pick((1, -1), rng) if rng and signed else found

    match function.function_class:
        case "Affine linear":
            return f"lambda n: {near(a, signed=True)} * n + {near(b, signed=True)}"
        case "Multiplication":
            return f"lambda n: {near(a, signed=True)} * n"
        case "Addition":
            return f"lambda n: n + {near(b)}"
    return f"lambda n: n - {near(-b)}"
