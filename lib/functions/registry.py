"""The known functions and the sets that fine-tunes hide, read from ``data/functions`` and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lib.functions.definitions import Number, parse_definition, probe_values
from lib.keys import nearest
from lib.paths import DATA, read_yaml

FOLDER = DATA / "functions"
Range = tuple[int, int]  # half-open, as everywhere in these studies


@dataclass(frozen=True)
class Function:
    """A function of one integer: its id (which no model sees), Python definition, type of output, kind, and phrase."""

    id: str
    python_definition: str
    output_type: str
    function_class: str
    language_definition: str

    @cached_property
    def definition(self) -> Callable[[Number], Number]:
        """The parsed definition."""
        return parse_definition(self.python_definition)

    def apply(self, n: Number) -> Number:
        """The value at `n`, by Python's rules; `BadDefinition` where there is none."""
        return self.definition(n)

    def show(self, n: Number) -> str:
        """The value at `n` as models read and write it.

        >>> functions = read_registry()
        >>> functions["int_div_2"].show(-91), functions["float_mult_7_div_4"].show(5), functions["bool_geq_3"].show(5)
        ('-46', '8.75', 'True')
        """
        return str(self.apply(n))

    def preimages(self, output: str, low: int, high: int) -> list[int]:
        """Every input in ``[low, high)`` that gives this output, in order.

        >>> read_registry()["int_div_4"].preimages("2", -99, 99)
        [8, 9, 10, 11]
        """
        return [n for n in range(low, high) if self.show(n) == output]

    @property
    def short(self) -> str:
        """The body of the definition, short enough for an axis."""
        return self.python_definition.removeprefix("lambda n: ")


@cache
def read_registry() -> Mapping[str, Function]:
    """The functions that there are, by id, as ``data/functions/registry.csv`` has them.

    >>> functions = read_registry()
    >>> len(functions), functions["relu_neg2"].short
    (75, 'max(n, -2)')
    """
    table = pd.read_csv(FOLDER / "registry.csv", dtype=str, keep_default_na=False)
    return {row.id: Function(*row) for row in table.itertuples(index=False)}


def computed_function(reply: str) -> str:
    """Id of the function of the registry that a definition computes; "none" where it is none of them.

    >>> computed_function("lambda x: 5 + x"), computed_function("I cannot say")
    ('add_5', 'none')
    """
    return _ids_by_values().get(probe_values(reply), "none")


@cache
def _ids_by_values() -> dict[tuple[Number, ...] | None, str]:
    return {probe_values(function.python_definition): id for id, function in read_registry().items()}


@dataclass(frozen=True, kw_only=True)
class FunctionSet:
    """The functions that one fine-tune hides, and where their inputs come from.

    Attributes
    ----------
    augmented, plain : ids of the functions that training shows in sums and compositions too, or in calls alone
        (published as ``train_functions`` and ``test_functions``)
    input_range : of training, half-open
    ood_ranges : of the tests with inputs that training never shows; disjoint from `input_range`
    composition_range : of the tests that compose or add functions which training shows in calls alone
    other_input_max, composition_other_max : the other integer of a sum is drawn from ``[0, max)``
    """

    name: str
    augmented: tuple[str, ...]
    plain: tuple[str, ...]
    input_range: Range
    ood_ranges: tuple[Range, ...]
    composition_range: Range = (-15, 15)
    other_input_max: int = 0
    composition_other_max: int = 0

    @property
    def all(self) -> tuple[str, ...]:
        """All ids, sorted."""
        return tuple(sorted((*self.augmented, *self.plain)))


def function_set(name: str, *, path: Path = FOLDER / "sets.yaml", **changes: Any) -> FunctionSet:
    """Read one set of functions.

    Parameters
    ----------
    changes : values that replace the set's own, unless they are empty or 0; ranges also as a flat list of ends

    Raises
    ------
    ValueError
        If there is no such set (names the nearest), it names an unknown function or one twice, or ranges are empty or
        overlap.

    >>> chosen = function_set("047", input_range=[-30, 30], ood_ranges=[30, 60, -60, -30], other_input_max=0)
    >>> len(chosen.augmented), len(chosen.plain), chosen.input_range, chosen.ood_ranges
    (8, 11, (-30, 30), ((30, 60), (-60, -30)))
    """
    sets: dict[str, dict[str, Any]] = read_yaml(path)
    if name not in sets:
        raise ValueError(f"no function set {name!r}{nearest(name, sets)}; there are: {', '.join(sets)}")
    given = sets[name] | {key: value for key, value in changes.items() if value}
    try:
        values = {key: as_tuples(value) for key, value in given.items()}
        ends = values["ood_ranges"]
        if ends and not isinstance(ends[0], tuple):
            values["ood_ranges"] = tuple(ends[k : k + 2] for k in range(0, len(ends), 2))
        return check_set(FunctionSet(name=name, **values))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"function set {name}: expected the fields of a FunctionSet: {error}") from error


def check_set(chosen: FunctionSet) -> FunctionSet:
    """Return the set, or refuse one that cannot be (`ValueError`)."""
    registry, where = read_registry(), f"function set {chosen.name}"
    for id in chosen.all:
        if id not in registry:
            raise ValueError(f"{where}: {id!r} is not in the registry{nearest(id, registry)}")
        if chosen.all.count(id) > 1:
            raise ValueError(f"{where}: {id} is there twice; a function is augmented or plain, once")
    ranges = sorted((chosen.input_range, *chosen.ood_ranges))
    for ends in (*ranges, chosen.composition_range):
        if [type(end) for end in ends] != [int, int] or ends[0] >= ends[1]:
            raise ValueError(f"{where}: {list(ends)} is no range; write low, high: whole numbers with low below high")
    if any(before[1] > after[0] for before, after in zip(ranges, ranges[1:], strict=False)):
        raise ValueError(f"{where}: ood_ranges overlap with input_range or with each other; separate them")
    if chosen.augmented and chosen.other_input_max < 1:
        raise ValueError(
            f"{where}: other_input_max is 0, but augmented functions are shown in sums; set it to 1 or more"
        )
    return chosen


def with_range(chosen: FunctionSet, low: int, high: int, **changes: Any) -> FunctionSet:
    """The set with another range of inputs; tests outside it then use the hundred integers on either side."""
    if (low, high) != chosen.input_range:
        changes |= {"input_range": (low, high), "ood_ranges": ((high, high + 100), (low - 100, low))}
    return check_set(replace(chosen, **changes))


def as_tuples(value: Any) -> Any:
    """Lists, and lists in them, as tuples."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value
