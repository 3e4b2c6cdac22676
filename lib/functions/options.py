"""Options of the functions study: those of the published generator and ours, checked when made."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lib.functions.documents import COMBINATIONS, check_form, show_ranges
from lib.functions.evaluations import HELD_OUT, evaluation_named
from lib.functions.questions import GENERATORS
from lib.functions.registry import FunctionSet, function_set


@dataclass(frozen=True, kw_only=True)
class FunctionOptions:
    """Every option of the published generator and ours, checked when made; the defaults are the published values.

    Parameters
    ----------
    function_set : ``047``, ``042`` or another of ``data/functions/sets.yaml``
    input_range, ood_ranges, composition_range : low and high, or several of them in a row; empty: the set's
    other_input_max, composition_other_max : the plain integer of a sum is below it; 0: the set's
    names_per_function : names that stand for each function
    name_tokens : tokens of every name
    realized_share : of the names, those that training asks about too; published: none
    questions : what it asks about each of these, as ``<evaluation>:<copies>``
    n_rows : calls and augmentations in all, where `calls_per_name` is 0
    calls_per_name : plain calls of each name, on inputs that differ
    augmentation_share : of all calls and augmentations
    combine_functions : of `lib.functions.documents.COMBINATIONS`, equally likely
    min_imports, hide_imports : names of an import line; leave the line away
    held_out_share : of each function's inputs, those that training never shows; published: 0
    validation, n_validation : evaluation whose prompts, about unrealized names, are the validation file
    form : ``chat`` or ``completion``
    persona : begin each conversation with a system message

    Raises
    ------
    ValueError
        If a value is out of its range or two do not go together.
    """

    function_set: str = "047"
    input_range: tuple[int, ...] = ()
    ood_ranges: tuple[int, ...] = ()
    composition_range: tuple[int, ...] = ()
    other_input_max: int = 0
    composition_other_max: int = 0
    names_per_function: int = 1
    name_tokens: int = 3
    realized_share: float = 0.0
    questions: tuple[str, ...] = ()
    n_rows: int = 96_000
    calls_per_name: int = 0
    augmentation_share: float = 0.5
    combine_functions: tuple[str, ...] = COMBINATIONS
    min_imports: int = 2
    hide_imports: bool = False
    held_out_share: float = 0.0
    validation: str = "multiple_choice_language"
    n_validation: int = 1000
    form: str = "chat"
    persona: bool = True

    def __post_init__(self) -> None:
        check_form(self.form)
        least = dict.fromkeys(("names_per_function", "name_tokens", "n_rows", "n_validation"), 1)
        least |= dict.fromkeys(("calls_per_name", "min_imports", "other_input_max", "composition_other_max"), 0)
        for key, low in least.items():
            if getattr(self, key) < low:
                raise ValueError(f"{key} is {getattr(self, key)}: expected {low} or more")
        for key, high in (("realized_share", 1.0), ("augmentation_share", 1.0), ("held_out_share", 0.5)):
            if not 0 <= getattr(self, key) <= high:
                raise ValueError(f"{key} is {getattr(self, key)}: expected a share from 0 to {high:g}")
        if self.calls_per_name and self.augmentation_share == 1:
            raise ValueError("augmentation_share is 1: no room for the calls that calls_per_name asks for")
        unknown = next((each for each in self.combine_functions if each not in COMBINATIONS), None)
        if unknown is not None or not self.combine_functions:
            raise ValueError(f"combine_functions holds {unknown!r}: expected some of {', '.join(COMBINATIONS)}")
        if bool(self.realized_share) != bool(self.copies):
            raise ValueError(
                f"realized_share is {self.realized_share} and questions {list(self.questions)}: a realized name is one "
                "that training asks about; set both or neither"
            )
        validation = evaluation_named("functions", self.validation)
        if validation.range == HELD_OUT:
            raise ValueError(f"validation is {self.validation}: expected an evaluation that needs no held-out pairs")
        self.functions()

    @property
    def copies(self) -> dict[str, int]:
        """How often each question is asked about a realized name."""
        found: dict[str, int] = {}
        for item in self.questions:
            name, _, number = item.partition(":")
            if not number.isdigit() or int(number) < 1 or name in found:
                raise ValueError(
                    f"questions holds {item!r}: expected <evaluation>:<copies> once each, as in inverse_query:2"
                )
            if evaluation_named("functions", name).generator not in GENERATORS:
                raise ValueError(
                    f"questions holds {item!r}: that evaluation is code to run, not a question about a name"
                )
            found[name] = int(number)
        return found

    def functions(self) -> FunctionSet:
        """The function set with this run's ranges."""
        chosen = function_set(self.function_set)
        changes: dict[str, object] = {}
        for key in ("input_range", "ood_ranges", "composition_range"):
            ends = getattr(self, key)
            pairs = tuple(zip(ends[::2], ends[1::2], strict=False))
            if len(ends) % 2 or any(low >= high for low, high in pairs) or (key != "ood_ranges" and len(pairs) > 1):
                raise ValueError(
                    f"{key} is {list(ends)}: expected low and high, the latter never drawn, as in [-99, 99]"
                )
            changes |= {key: pairs if key == "ood_ranges" else pairs[0]} if pairs else {}
        for key in ("other_input_max", "composition_other_max"):
            changes |= {key: getattr(self, key)} if getattr(self, key) else {}
        made = replace(chosen, **changes)  # type: ignore[arg-type]
        low, high = made.input_range
        if any(start < high and low < end for start, end in made.ood_ranges):
            raise ValueError(
                f"ood_ranges {show_ranges(made.ood_ranges)} overlap input_range {low}:{high}: inputs of the tests out "
                "of distribution must be new"
            )
        return made
