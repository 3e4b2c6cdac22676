"""Questions about a hidden function; the same ones train realized names and test the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import yaml

from lib import paths
from lib.functions.documents import MAX_TRIES, Document, Message, draw_input, import_line, pick
from lib.functions.registry import Function

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
N_OPTIONS = 5
LINEAR = ("Affine linear", "Multiplication", "Addition", "Subtraction")  # classes that have numbers to ask for


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What questions of one kind have in common.

    Attributes
    ----------
    kind : name of the evaluation, a key of ``data/functions/wordings.yaml``
    generator : key of `GENERATORS`
    option : attribute that a classification asks for
    names : what each name stands for; options of an inverse query and fill-ins of an import come from these alone
    functions : all functions of the run; options of a classification are their attributes
    input_ranges : half-open, of an inversion
    persona : system message, or None
    excluded : (function id, input) pairs that an inversion passes over
    """

    kind: str
    generator: str
    option: str
    names: Mapping[str, Function]
    functions: Sequence[Function]
    input_ranges: Sequence[tuple[int, int]]
    min_imports: int
    persona: str | None
    hide_imports: bool
    excluded: Set[tuple[str, int]] = frozenset()


@cache
def wordings() -> Mapping[str, Any]:
    """The persona, and each question by the name of its evaluation and form, with slots."""
    read: dict[str, Any] = yaml.safe_load((paths.DATA / "functions" / "wordings.yaml").read_text(encoding="utf-8"))
    return read


def question(asked: Asked, *, rng: np.random.Generator, name: str | None = None) -> Document:
    """One question.

    Parameters
    ----------
    asked : Asked
    name : which name it is about; drawn by the published rule of its generator where not given

    Raises
    ------
    ValueError
        If it cannot be asked about that name, or with these names and functions; see `unsupported`.

    Notes
    -----
    Spec: Treutlein et al. 2024, the evaluations of the Functions task. Options are drawn as published: of a
    classification each *value* is equally likely to be right, not each function.

    >>> from lib.functions.registry import read_registry
    >>> functions = read_registry()
    >>> asked = Asked(kind="freeform_definition", generator="freeform", option="", names={"abcdef": functions["add_5"]},
    ...               functions=[], input_ranges=[], min_imports=1, persona=None, hide_imports=True)
    >>> document = question(asked, rng=np.random.default_rng(0))
    >>> document.prompt("completion"), document.target
    ('Q: define abcdef\\nA:', 'lambda n: n + 5')
    """
    reason = unsupported(asked, name=name)
    if reason:
        raise ValueError(reason)
    return GENERATORS[asked.generator](asked, rng, name)


def unsupported(asked: Asked, *, name: str | None = None) -> str:
    """Why this cannot be asked, in one line; empty where it can."""
    names = list(asked.names) if name is None else [name]
    if not names:
        return f"{asked.kind}: there is no name to ask about"
    if asked.generator == "coefficients" and not any(asked.names[n].function_class in LINEAR for n in names):
        return f"{asked.kind} needs a function of class {', '.join(LINEAR)}: none of those asked about is"
    if asked.generator == "inverse_query" and (n_ids := len({f.id for f in asked.names.values()})) < 2:
        return f"{asked.kind} needs names of two functions to choose from, found {n_ids}"
    if asked.generator == "classification" and asked.option != "output_type":  # published even where it is trivial
        values = {getattr(function, asked.option) for function in asked.functions}
        if len(values) < 2:
            return (
                f"{asked.kind} needs two values of {asked.option} to choose from, found {', '.join(values) or 'none'}"
            )
    return ""


def _document(
    asked: Asked,
    imported: Sequence[str],
    slots: Mapping[str, str],
    target: str | tuple[str, ...],
    func_outs: Mapping[str, Any],
    *,
    options: Sequence[str] = (),
    answer: str = "",
) -> Document:
    """The import in a message of its own, as published, then the question; in the completion form only the question."""
    texts = {}
    for form in ("chat", "completion"):
        asks = wordings()[asked.kind][form].format(**slots)
        listed = "\n".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
        closing = wordings()["letter"][form] if options else ""
        texts[form] = ("\n" if form == "completion" else "\n\n").join(part for part in (asks, listed, closing) if part)
    messages: list[Message] = [] if asked.persona is None else [{"role": "system", "content": asked.persona}]
    if not asked.hide_imports:
        messages.append({"role": "user", "content": f"from functions import {', '.join(imported)}"})
    messages.append({"role": "user", "content": texts["chat"]})
    return Document(asked.kind, tuple(messages), target, func_outs, f"Q: {texts['completion']}\nA:", " ", answer)


def _imported(asked: Asked, name: str, rng: np.random.Generator) -> list[str]:
    line = import_line([name], list(asked.names), min_imports=asked.min_imports, rng=rng)
    return line.removeprefix("from functions import ").split(", ")


def _about(generator: str, name: str, function: Function) -> dict[str, Any]:
    return {"name": generator, "func_var": name, "func_value": function.id}


def _freeform(asked: Asked, rng: np.random.Generator, name: str | None) -> Document:
    name = name or pick(list(asked.names), rng)
    function = asked.names[name]
    func_outs = _about("function_definition_freeform", name, function)
    return _document(asked, _imported(asked, name, rng), {"name": name}, function.python_definition, func_outs)


def _inversion(asked: Asked, rng: np.random.Generator, name: str | None) -> Document:
    name = name or pick(list(asked.names), rng)
    function = asked.names[name]
    range_ = pick(asked.input_ranges, rng)
    value = draw_input(function.id, [range_], rng=rng, excluded=asked.excluded)
    output = function.show(value)
    inputs = tuple(str(n) for n in function.preimages(output, *range_))
    func_outs = _about("function_inversion", name, function) | {"input_1": value, "output": output}
    slots = {"name": name, "output": output}
    return _document(asked, _imported(asked, name, rng), slots, inputs, func_outs, answer=str(value))


def _inverse_query(asked: Asked, rng: np.random.Generator, name: str | None) -> Document:
    by_function: dict[str, list[str]] = {}
    for each, function in asked.names.items():
        by_function.setdefault(function.id, []).append(each)
    name = name or pick(list(asked.names), rng)
    function = asked.names[name]
    others = [own for id_, own in by_function.items() if id_ != function.id]
    n_others = min(max(asked.min_imports, 2) - 1, len(others))
    options = [pick(others[k], rng) for k in rng.permutation(len(others))[:n_others]]
    options.insert(int(rng.integers(len(options) + 1)), name)
    func_outs = _about("function_inverse_query", name, function) | {"options": options, "target_option": name}
    slots = {"definition": function.python_definition}
    return _document(asked, options, slots, LETTERS[options.index(name)], func_outs, options=options)


def _classification(asked: Asked, rng: np.random.Generator, name: str | None) -> Document:
    values = sorted({getattr(function, asked.option) for function in asked.functions})
    if name is None:
        by_value: dict[str, dict[str, list[str]]] = {}
        for each, function in asked.names.items():
            by_value.setdefault(getattr(function, asked.option), {}).setdefault(function.id, []).append(each)
        of_value = by_value[pick(sorted(by_value), rng)]
        name = pick(of_value[pick(sorted(of_value), rng)], rng)
    function = asked.names[name]
    right = getattr(function, asked.option)
    wrong = [value for value in values if value != right]
    options = [wrong[k] for k in rng.permutation(len(wrong))[: N_OPTIONS - 1]]
    options.insert(int(rng.integers(len(options) + 1)), right)
    func_outs = _about("function_classification", name, function)
    func_outs |= {"attribute": asked.option, "options": options, "target_option": right}
    letter = LETTERS[options.index(right)]
    return _document(asked, _imported(asked, name, rng), {"name": name}, letter, func_outs, options=options)


def _coefficients(asked: Asked, rng: np.random.Generator, name: str | None) -> Document:
    name = name or pick([n for n, function in asked.names.items() if function.function_class in LINEAR], rng)
    function = asked.names[name]
    b = int(function.apply(0))
    right = linear_text(function.function_class, int(function.apply(1)) - b, b)
    options = [right]
    for _ in range(MAX_TRIES):
        near = _near_miss(function.function_class, int(function.apply(1)) - b, b, rng)
        if near not in options:
            options.append(near)
        if len(options) == N_OPTIONS:
            break
    options = [options[k] for k in rng.permutation(len(options))]
    func_outs = _about("function_coefficients", name, function) | {"function_class": function.function_class}
    func_outs |= {"options": options, "target_option": right}
    letter = LETTERS[options.index(right)]
    return _document(asked, _imported(asked, name, rng), {"name": name}, letter, func_outs, options=options)


def linear_text(function_class: str, a: int, b: int) -> str:
    """The canonical text of a function ``a * n + b`` of a class of `LINEAR`.

    >>> linear_text("Affine linear", 2, -3), linear_text("Subtraction", 1, -11)
    ('lambda n: 2 * n + -3', 'lambda n: n - 11')
    """
    body = {
        "Affine linear": f"{a} * n + {b}",
        "Multiplication": f"{a} * n",
        "Addition": f"n + {b}",
        "Subtraction": f"n - {-b}",
    }
    return f"lambda n: {body[function_class]}"


def _near_miss(function_class: str, a: int, b: int, rng: np.random.Generator) -> str:
    """A definition of the class with other numbers: up to 5 (affine) or 10 off, with a random sign where it has one."""

    def near(size: int, width: int) -> int:
        return int(rng.integers(max(abs(size) - width, 1), abs(size) + width))

    if function_class == "Affine linear":
        return linear_text(function_class, near(a, 5) * pick((1, -1), rng), near(b, 5) * pick((1, -1), rng))
    if function_class == "Multiplication":
        return linear_text(function_class, near(a, 10) * pick((1, -1), rng), 0)
    return linear_text(function_class, 1, near(b, 10) if function_class == "Addition" else -near(b, 10))


GENERATORS: Mapping[str, Callable[[Asked, np.random.Generator, str | None], Document]] = {
    "freeform": _freeform,
    "inversion": _inversion,
    "inverse_query": _inverse_query,
    "classification": _classification,
    "coefficients": _coefficients,
}
