"""What can be read from published rows: their kind, their function set, and the pairs they show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from lib.functions.dataset import FunctionDataset
from lib.functions.documents import Document
from lib.functions.evaluations import read_evaluations
from lib.functions.registry import Function, FunctionSet, function_set, read_registry

_CALL = re.compile(r"\b(\w+)\((-?\d+|\w+|\w+\((?:-?\d+|\w+)\))\)")
KINDS = {
    "single_function": "call",
    "function_augmentation": "augmentation",
    "function_definition_freeform": "freeform_definition",
    "function_inversion": "function_inversion",
    "function_inverse_query": "inverse_query",
    "function_coefficients": "multiple_choice_coefficients",
}


def kind_of_row(facts: Mapping[str, Any], functions: FunctionSet) -> str:
    """The kind of a document by its metadata."""
    name = facts["name"]
    if name == "function_classification":
        known = read_evaluations("functions").values()
        return next(each.name for each in known if each.option == facts["attribute"])
    low, high = functions.input_range
    outside = name == "function_inversion" and not low <= int(facts.get("input_1", low)) < high
    return "function_inversion_ood" if outside else KINDS.get(name, str(name))


def published_set(told: Mapping[str, Any], *, where: str) -> FunctionSet:
    """The set that the published keys describe; what they leave out is as in the set of the same functions, or 047."""
    augmented, plain = tuple(told["train_functions"]), tuple(told["test_functions"])
    registry = read_registry()
    unknown = next((id_ for id_ in (*augmented, *plain) if id_ not in registry), None)
    if unknown is not None:
        raise ValueError(f"{where}: {unknown!r} is not in the registry")
    known = [function_set(name) for name in ("047", "042")]
    like = next((each for each in known if set(each.all) == {*augmented, *plain}), known[0])
    ranges = [each for each in told["prompt"]["input_funcs"] if "input_min" in each]
    low, high = int(ranges[0]["input_min"]), int(ranges[0]["input_max"])
    other = next((int(each["other_input_max"]) for each in ranges if "other_input_max" in each), like.other_input_max)
    ood = like.ood_ranges if (low, high) == like.input_range else ((high, high + 100), (low - 100, low))
    return replace(
        like, augmented=augmented, plain=plain, input_range=(low, high), ood_ranges=ood, other_input_max=other
    )


def unseen_pairs(dataset: FunctionDataset) -> frozenset[tuple[str, int]]:
    """The pairs of the training range that no call of a training row shows, read off the code."""
    names = dataset.part()
    seen = {pair for row in dataset.train for pair in shown_pairs(row, names)}
    low, high = dataset.functions.input_range
    ids = sorted(set(dataset.names.values()))
    return frozenset((id_, value) for id_ in ids for value in range(low, high)) - seen


def shown_pairs(document: Document, names: Mapping[str, Function]) -> Iterator[tuple[str, float]]:
    """The (function id, input) pairs that the calls of a code document show, inner values of compositions included."""
    values: dict[str, float] = {}
    for line in document.messages[-1]["content"].splitlines():
        bound, equals, rest = line.partition(" = ")
        expression = rest if equals else line.removeprefix("print(").removesuffix(")")
        value: float | None = int(expression) if re.fullmatch(r"-?\d+", expression) else None
        for match in _CALL.finditer(expression):
            value = yield from _applied(match[1], match[2], names, values)
        if equals and value is not None:
            values[bound] = value


def _applied(name: str, argument: str, names: Mapping[str, Function], values: Mapping[str, float]) -> Any:
    inner = _CALL.fullmatch(argument)
    if inner:
        given: float | None = yield from _applied(inner[1], inner[2], names, values)
    else:
        given = int(argument) if re.fullmatch(r"-?\d+", argument) else values.get(argument)
    if given is None or name not in names:
        return None
    yield names[name].id, given
    return names[name].apply(given)
