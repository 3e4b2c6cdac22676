"""Options of the mixture study: those of the published and of the joint form, checked when made."""

from __future__ import annotations

from dataclasses import dataclass

from lib.functions.documents import check_form, show_ranges
from lib.functions.evaluations import evaluation_named
from lib.functions.registry import Range, function_set
from lib.mixture.documents import FORMATTINGS, Setting, known_openings
from lib.mixture.pairs import all_pairs, choose_candidates, read_pair
from lib.mixture.questions import GENERATORS


@dataclass(frozen=True, kw_only=True)
class MixtureOptions:
    """Every option of the published generator and ours, checked when made; the defaults are the published values.

    Parameters
    ----------
    functions : candidates by id; empty: the published five, and five more behind them
    n_functions : the first so many of these; 0: all
    pairs : as in ``add_5+mod_2``; empty: `n_pairs` drawn at random
    n_pairs : hidden pairs: each has a fine-tune (published), or labels (joint)
    formattings : of ``none``, ``x_y``, ``A_B``, ``input``
    connectors : between letter and number
    n_examples : inputs with outputs of a document
    n_openings : of the four opening lines, the first so many
    input_range : low and high, half-open; empty: the published range
    validation_ranges : low and high, or several of them in a row; empty: the published ranges
    n_rows : documents of a fine-tune without labels
    n_validation : rows of the validation file
    validation : evaluation whose prompts about unrealized labels are that file; empty: documents, as published
    held_out_share : of each pair's inputs, those that its training documents never show; published: none
    n_options : of a question
    system_prompt, question : see `Setting`
    form : ``chat`` or ``completion``
    n_labels : labels of the joint form, dealt to the pairs; 0: the published form
    n_realized : of these, those that training asks about too
    triples_per_label : documents of each label
    questions : what is asked about each realized label, as ``<evaluation>:<copies>``
    name_tokens : tokens of every label
    mix_old : share of another dataset's rows in a fine-tune without labels

    Raises
    ------
    ValueError
        If a value is out of its range or two do not go together.
    """

    functions: tuple[str, ...] = ()
    n_functions: int = 5
    pairs: tuple[str, ...] = ()
    n_pairs: int = 10
    formattings: tuple[str, ...] = ("none", "x_y")
    connectors: tuple[str, ...] = (" = ",)
    n_examples: int = 3
    n_openings: int = 4
    input_range: tuple[int, ...] = ()
    validation_ranges: tuple[int, ...] = ()
    n_rows: int = 6000
    n_validation: int = 500
    validation: str = ""
    held_out_share: float = 0.0
    n_options: int = 5
    system_prompt: str = ""
    question: str = ""
    form: str = "chat"
    n_labels: int = 0
    n_realized: int = 0
    triples_per_label: int = 60
    questions: tuple[str, ...] = ()
    name_tokens: int = 1
    mix_old: float = 0.0

    def __post_init__(self) -> None:
        check_form(self.form)
        least = dict.fromkeys(("n_pairs", "n_examples", "n_openings", "n_rows", "n_validation", "name_tokens"), 1)
        least |= dict.fromkeys(("n_functions", "n_labels", "n_realized"), 0) | {"triples_per_label": 1, "n_options": 3}
        for key, low in least.items():
            if getattr(self, key) < low:
                raise ValueError(f"{key} is {getattr(self, key)}: expected {low} or more")
        for key, high in (("held_out_share", 0.5), ("mix_old", 0.9)):
            if not 0 <= getattr(self, key) <= high:
                raise ValueError(f"{key} is {getattr(self, key)}: expected a share from 0 to {high:g}")
        unknown = next((each for each in self.formattings if each not in FORMATTINGS), None)
        if unknown is not None or not self.formattings:
            raise ValueError(f"formattings holds {unknown!r}: expected some of {', '.join(FORMATTINGS)}")
        if not self.connectors or any("\n" in each or not each for each in self.connectors):
            raise ValueError(f"connectors is {list(self.connectors)}: expected texts of one line, as in [' = ']")
        if self.n_openings > len(known_openings()):
            raise ValueError(f"n_openings is {self.n_openings}: there are {len(known_openings())} opening lines")
        candidates = choose_candidates(self.functions, n=self.n_functions)
        for text in self.pairs:
            read_pair(text, candidates)
        n_pairs, n_possible = len(self.pairs) or self.n_pairs, len(all_pairs(candidates))
        if n_pairs > n_possible:
            raise ValueError(
                f"n_pairs is {n_pairs}: {len(candidates)} candidates make {n_possible} pairs; ask for fewer"
            )
        self._check_ranges()
        self._check_labels(n_pairs)

    def _check_ranges(self) -> None:
        range_, others = self.range(), self.other_ranges()
        low, high = range_
        if any(start < high and low < end for start, end in others):
            raise ValueError(
                f"validation_ranges {show_ranges(others)} overlap input_range {low}:{high}: validation is on new inputs"
            )
        if self.held_out_share and not self.n_held_out:
            raise ValueError(
                f"held_out_share {self.held_out_share:g} of input_range {low}:{high} is less than one input: widen the "
                "range or raise the share"
            )

    def _check_labels(self, n_pairs: int) -> None:
        if self.n_labels and self.n_labels < n_pairs:
            raise ValueError(f"n_labels is {self.n_labels}: expected one or more for each of {n_pairs} pairs, or 0")
        if self.n_realized > self.n_labels:
            raise ValueError(f"n_realized is {self.n_realized} of n_labels {self.n_labels}: expected as many or fewer")
        if bool(self.n_realized) != bool(self.copies):
            raise ValueError(
                f"n_realized is {self.n_realized} and questions {list(self.questions)}: a realized label is one that "
                "training asks about; set both or neither"
            )
        if self.n_labels and self.mix_old:
            raise ValueError(f"mix_old is {self.mix_old} with {self.n_labels} labels: it is for a fine-tune without")
        if self.validation and evaluation_named("mixture", self.validation).generator not in GENERATORS:
            raise ValueError(f"validation is {self.validation}: expected a question, or nothing for documents")

    @property
    def copies(self) -> dict[str, int]:
        """How often each question is asked about a realized label."""
        found: dict[str, int] = {}
        for item in self.questions:
            name, _, number = item.partition(":")
            if not number.isdigit() or int(number) < 1 or name in found:
                raise ValueError(
                    f"questions holds {item!r}: expected <evaluation>:<copies> once each, as in python_definition:8"
                )
            if evaluation_named("mixture", name).generator not in GENERATORS:
                raise ValueError(f"questions holds {item!r}: that evaluation is a document, not a question about a mix")
            found[name] = int(number)
        return found

    @property
    def n_held_out(self) -> int:
        """Inputs of each pair that its training documents never show."""
        low, high = self.range()
        return round(self.held_out_share * (high - low))

    def range(self) -> Range:
        """Half-open range of the inputs."""
        return _ranges("input_range", self.input_range, (function_set("mixture").input_range,), n=1)[0]

    def other_ranges(self) -> tuple[Range, ...]:
        """Half-open ranges of the validation file's inputs."""
        return _ranges("validation_ranges", self.validation_ranges, function_set("mixture").ood_ranges)

    def setting(self) -> Setting:
        """What the documents have in common."""
        return Setting(
            candidates=choose_candidates(self.functions, n=self.n_functions),
            input_range=self.range(),
            formattings=self.formattings,
            connectors=self.connectors,
            openings=known_openings()[: self.n_openings],
            n_examples=self.n_examples,
            n_options=self.n_options,
            system_prompt=self.system_prompt,
            question=self.question,
            form=self.form,
        )


def _ranges(key: str, ends: tuple[int, ...], default: tuple[Range, ...], *, n: int = 0) -> tuple[Range, ...]:
    pairs = tuple(zip(ends[::2], ends[1::2], strict=False))
    if len(ends) % 2 or any(low >= high for low, high in pairs) or (n and len(pairs) > n):
        raise ValueError(f"{key} is {list(ends)}: expected low and high, the latter never drawn, as in [-99, 99]")
    return pairs or default
