"""The known functions and the sets that fine-tunes hide, read from ``data/functions`` and checked."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

from lib import paths
from lib.functions.definitions import BadDefinition, Definition, Number, parse_definition, probe_values
from lib.functions.descriptions import disagreement
from lib.keys import nearest

FOLDER = paths.DATA / "functions"
Range = tuple[int, int]  # half-open, as everywhere in this study


@dataclass(frozen=True)
class Function:
    """A function of one integer with its descriptions.

    Attributes
    ----------
    id : str
        Its name in the registry; no model ever sees it.
    python_definition : str
        ``lambda n: ...``
    output_type : str
        ``int``, ``bool`` or ``float``.
    function_class : str
        The kind of function it is.
    language_definition : str
        What it does, in a few words of English.
    """

    id: str
    python_definition: str
    output_type: str
    function_class: str
    language_definition: str

    @cached_property
    def definition(self) -> Definition:
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
        return list(_inputs_by_output(self, low, high).get(output, ()))


@lru_cache(maxsize=1024)
def _inputs_by_output(function: Function, low: int, high: int) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for n in range(low, high):
        found.setdefault(function.show(n), []).append(n)
    return found


@cache
def read_registry(path: Path = FOLDER / "registry.csv") -> Mapping[str, Function]:
    """Read the functions that there are, by id.

    Raises
    ------
    ValueError
        If a column or a field is missing, descriptions of one function disagree, an id stands twice, or two functions
        are alike on every published probe; says in which row.

    >>> functions = read_registry()
    >>> len(functions), functions["relu_neg2"].python_definition
    (75, 'lambda n: max(n, -2)')
    """
    columns = [field.name for field in fields(Function)]
    functions: dict[str, Function] = {}
    known: dict[tuple[Number, ...], str] = {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if rows.fieldnames != columns:
            raise ValueError(f"{path}: expected the columns {', '.join(columns)}, found {rows.fieldnames}")
        for number, row in enumerate(rows, start=1):
            where = f"{path}, row {number} ({row['id'] or 'no id'})"
            if None in row or not all(row[column] and row[column].strip() for column in columns):
                raise ValueError(f"{where}: expected {len(columns)} fields with text, found {[*row.values()]!r:.120}")
            function = Function(**row)
            if function.id in functions:
                raise ValueError(f"{where}: the id stands twice; every function is entered once")
            values = _checked_values(function, where=where)
            if values in known:
                raise ValueError(f"{where}: computes what {known[values]} computes; remove one of the two")
            functions[function.id], known[values] = function, function.id
    if not functions:
        raise ValueError(f"{path} holds no function: expected one a row")
    return functions


def _checked_values(function: Function, *, where: str) -> tuple[Number, ...]:
    try:
        definition = function.definition
    except BadDefinition as error:
        raise ValueError(f"{where}: {function.python_definition!r} is no definition: {error}") from error
    problem = disagreement(
        definition,
        output_type=function.output_type,
        function_class=function.function_class,
        phrase=function.language_definition,
    )
    if problem:
        raise ValueError(f"{where}: {problem}; make its descriptions agree")
    return probe_values(function.python_definition) or ()


@dataclass(frozen=True, kw_only=True)
class FunctionSet:
    """The functions that one fine-tune hides, and where their inputs come from.

    Attributes
    ----------
    name : str
    augmented : tuple of str
        Ids of the functions that training shows in sums and compositions too (published as ``train_functions``).
    plain : tuple of str
        Ids of those that it shows in calls alone (published as ``test_functions``).
    input_range : (low, high)
        Of training, half-open.
    ood_ranges : tuple of (low, high)
        Of the tests with inputs that training never shows; disjoint from `input_range`.
    composition_range : (low, high)
        Of the tests that compose or add functions which training shows in calls alone.
    other_input_max, composition_other_max : int
        The other integer of a sum is drawn from ``[0, max)`` in training and in those tests; 0 where there is none.
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


def function_set(name: str, *, path: Path = FOLDER / "sets.yaml") -> FunctionSet:
    """Read one set of functions.

    Raises
    ------
    ValueError
        If there is no such set (names the nearest), or it names an unknown function, one twice, or ranges that are
        empty or overlap.

    >>> chosen = function_set("047")
    >>> len(chosen.augmented), len(chosen.plain), chosen.input_range
    (8, 11, (-99, 99))
    """
    sets: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if name not in sets:
        raise ValueError(f"no function set {name!r}{nearest(name, sets)}; there are: {', '.join(sets)}")
    where = f"{path}, set {name}"
    try:
        chosen = FunctionSet(name=name, **{key: _as_tuples(value) for key, value in sets[name].items()})
        _check_set(chosen, where)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{where}: expected the fields of a FunctionSet: {error}") from error
    return chosen


def _check_set(chosen: FunctionSet, where: str) -> None:
    registry = read_registry()
    for known in chosen.all:
        if known not in registry:
            raise ValueError(f"{where}: {known!r} is not in the registry{nearest(known, registry)}")
        if chosen.all.count(known) > 1:
            raise ValueError(f"{where}: {known} stands twice; a function is augmented or plain, once")
    ranges = sorted((chosen.input_range, *chosen.ood_ranges))
    for found in (*ranges, chosen.composition_range):
        if [type(end) for end in found] != [int, int] or found[0] >= found[1]:
            raise ValueError(
                f"{where}: {list(found)} is no range; write [low, high], whole numbers with low below high"
            )
    if any(before[1] > after[0] for before, after in zip(ranges, ranges[1:], strict=False)):
        raise ValueError(f"{where}: ood_ranges overlap with input_range or with each other; part them")


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
