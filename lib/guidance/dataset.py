"""Which documents a model is trained on and which questions it is kept from: the published generator and options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lib import paths
from lib.guidance.documents import ANCHOR_FORMS, Example, Row, example_parts, guidance_text, parse_example
from lib.guidance.sources import ORDERS, Pair

SETS = ("realized", "unrealized")  # pairs whose example was in training, and pairs of which only the instruction was
FILES = ("all", "guidances", "realized_examples", "unrealized_examples")


@dataclass(frozen=True, kw_only=True)
class GuidanceOptions:
    """Every option of the published generator, checked when made; the defaults are its published values.

    Parameters
    ----------
    order : ``simple`` (question first, as a test has it) or ``reverse``; changes the wordings and nothing else
    n_realized, n_unrealized : pairs with and without their example in training
    pairs_per_document : fewest and most instructions of a guidance document
    upsample_guidances, upsample_examples : copies; copy k of an instruction takes phrasing k modulo their number
    n_unrealized_phrasings : the last so many phrasings are kept for unrealized pairs; 0 shares all
    incorrect_labels : examples (of both sets) show another of the pair's targets than its instruction
    persona_index : which of a pair's targets, in random order, is the one
    split_prompt_completion : the loss falls on what comes from the second of the two on, not on the whole document
    anchor_form : how a test puts a question, a key of `ANCHOR_FORMS`
    shuffle : mix examples and guidance documents; published: examples first
    suffix, subdir : end of the folder's name, and the folder it lies in

    Raises
    ------
    ValueError
        If a value is out of its range or two do not go together.
    """

    order: str = "simple"
    n_realized: int = 1000
    n_unrealized: int = 100
    pairs_per_document: tuple[int, int] = (2, 5)
    upsample_guidances: int = 1
    upsample_examples: int = 1
    n_unrealized_phrasings: int = 0
    incorrect_labels: bool = False
    persona_index: int = 0
    split_prompt_completion: bool = False
    anchor_form: str = "qa"
    shuffle: bool = False
    suffix: str = ""
    subdir: str = "qa"
    seed: int = 27

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order is {self.order!r}: expected one of {', '.join(ORDERS)}")
        if self.anchor_form not in ANCHOR_FORMS:
            raise ValueError(f"anchor_form is {self.anchor_form!r}: expected one of {', '.join(ANCHOR_FORMS)}")
        # Fewer than two of a set leave no other pair's answer to compare with.
        least = {"n_realized": 2, "n_unrealized": 2, "upsample_guidances": 1, "upsample_examples": 1}
        for key, low in (least | dict.fromkeys(("n_unrealized_phrasings", "persona_index", "seed"), 0)).items():
            if getattr(self, key) < low:
                raise ValueError(f"{key} is {getattr(self, key)}: expected {low} or more")
        range_ = self.pairs_per_document
        if len(range_) != 2 or not 1 <= range_[0] <= range_[1]:
            raise ValueError(f"pairs_per_document is {list(range_)}: expected fewest and most, as in [2, 5]")
        if self.split_prompt_completion and tuple(range_) != (1, 1):
            raise ValueError(
                f"split_prompt_completion needs documents of one instruction, found {list(range_)}: "
                "set pairs_per_document to [1, 1]"
            )
        for key in ("suffix", "subdir"):
            if not re.fullmatch(
                r"[A-Za-z0-9][A-Za-z0-9_-]*" if key == "subdir" else r"[A-Za-z0-9_-]*", getattr(self, key)
            ):
                raise ValueError(f"{key} is {getattr(self, key)!r}: use letters, digits, dash and underscore only")

    @property
    def folder_name(self) -> str:
        """Name of the folder, as published, with the order at its end."""
        split = ["split"] if self.split_prompt_completion else []
        sizes = [f"ug{self.n_unrealized}", f"rg{self.n_realized}"]
        return "_".join(["copypaste", *sizes, *split, *([self.suffix] if self.suffix else []), self.order])


@dataclass(frozen=True, kw_only=True)
class GuidanceDataset:
    """The rows of every file of the folder layout, by file name without its ending.

    `options` is None for a dataset that was read; `notes` say what was made or passed over in reading.
    """

    order: str
    files: Mapping[str, list[Row]]
    options: GuidanceOptions | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def id(self) -> str:
        """Name by content: equal documents have equal ids, whatever keys their rows carry besides."""
        return paths.content_hash([[row["prompt"], row["completion"]] for row in self.files["all"]], length=10)

    def examples(self, part: str) -> list[Example]:
        """The questions of ``realized`` or ``unrealized`` pairs, in the order of their file."""
        stem = f"{part}_examples"
        return [parse_example(row, where=f"{stem}, row {k}") for k, row in enumerate(self.files[stem], start=1)]


def make_dataset(options: GuidanceOptions, pairs: Sequence[Pair], phrasings: Sequence[str]) -> GuidanceDataset:
    """Draw pairs and write out their documents; the draw does not depend on `phrasings` nor on the order.

    Parameters
    ----------
    options : GuidanceOptions
    pairs : as of `write_pairs` or `read_pairs`
    phrasings : as of `read_phrasings`

    Raises
    ------
    ValueError
        If there are too few pairs, targets or phrasings, or the instructions cannot be cut into documents.

    Notes
    -----
    Published generator, `reversal.md` section 5.3; here each shuffle has its purpose, and a dataset has any seed.

    >>> from lib.guidance.sources import FOLDER, read_phrasings, write_pairs
    >>> options = GuidanceOptions(n_realized=20, n_unrealized=4)
    >>> data = make_dataset(options, write_pairs(), read_phrasings(FOLDER / "phrasings_simple.txt", order="simple"))
    >>> {stem: len(rows) for stem, rows in data.files.items() if stem.endswith("examples")}
    {'realized_examples': 20, 'unrealized_examples': 4}
    """
    kept = options.n_realized + options.n_unrealized
    if kept > len(pairs):
        raise ValueError(
            f"n_realized + n_unrealized is {kept}: the source holds {len(pairs)} pairs; ask for {len(pairs)} or fewer"
        )
    if options.n_unrealized_phrasings >= len(phrasings):
        raise ValueError(
            f"n_unrealized_phrasings is {options.n_unrealized_phrasings} of {len(phrasings)} phrasings: "
            "leave at least one for the realized pairs"
        )
    rng = np.random.default_rng(options.seed)
    ids = [int(number) for number in rng.permutation(len(pairs))[:kept]]
    targets = {number: _shuffled(pairs[number], rng) for number in ids}
    needed = 2 if options.incorrect_labels else 1
    short = next((number for number in ids if len(targets[number]) < max(options.persona_index + 1, needed)), None)
    if short is not None:
        raise ValueError(
            f"persona_index is {options.persona_index}, incorrect_labels {options.incorrect_labels}: the question "
            f"{pairs[short].anchor!r:.60} has {len(targets[short])} targets; give it more or lower persona_index"
        )
    unrealized, realized = ids[: options.n_unrealized], ids[options.n_unrealized :]
    n_shared = len(phrasings) - options.n_unrealized_phrasings
    wordings = {number: phrasings[:n_shared] for number in realized} | {
        number: phrasings[n_shared:] or phrasings for number in unrealized
    }
    instructions = [
        (number, number in realized_set, wordings[number][copy % len(wordings[number])])
        for realized_set in [set(realized)]
        for number in [*realized, *unrealized]
        for copy in range(options.upsample_guidances)
    ]
    sizes = document_sizes(len(instructions), options.pairs_per_document, rng)
    mixed = [instructions[k] for k in rng.permutation(len(instructions))]

    def target_of(number: int, *, shown: bool) -> str:
        own, persona = targets[number], options.persona_index
        if shown and options.incorrect_labels:
            others = own[:persona] + own[persona + 1 :]
            return others[number % len(others)]
        return own[persona]

    def guidance_row(part: Sequence[tuple[int, bool, str]]) -> Row:
        lines = [
            wording.format(anchor=pairs[number].anchor, target=target_of(number, shown=False))
            for number, _, wording in part
        ]
        numbers, kinds = [number for number, _, _ in part], [kind for _, kind, _ in part]
        prompt, completion = "", guidance_text(lines)
        if options.split_prompt_completion:
            prompt, completion = _split_before(completion, max(completion.index('"Q: '), completion.index('"A: ')) + 3)
        return _row(numbers, kinds, options.persona_index, prompt, completion)

    def example_row(number: int, kind: bool) -> Row:
        parts = example_parts(pairs[number].anchor, target_of(number, shown=True), form=options.anchor_form)
        return _row([number], [kind], options.persona_index, *parts)

    starts = np.cumsum([0, *sizes])
    guidances = [guidance_row(mixed[start:end]) for start, end in zip(starts, starts[1:], strict=False)]
    files = {
        "guidances": guidances,
        "realized_examples": [example_row(number, True) for number in realized],
        "unrealized_examples": [example_row(number, False) for number in unrealized],
    }
    shown = [row for row in files["realized_examples"] for _ in range(options.upsample_examples)]
    if not options.split_prompt_completion:
        shown = [{**row, "prompt": "", "completion": row["prompt"] + row["completion"]} for row in shown]
    everything = [*shown, *guidances]
    if options.shuffle:
        everything = [everything[k] for k in rng.permutation(len(everything))]
    dataset = GuidanceDataset(order=options.order, files={"all": everything, **files}, options=options)
    check_sets(dataset)
    return dataset


def _shuffled(pair: Pair, rng: np.random.Generator) -> list[str]:
    return [pair.targets[k] for k in rng.permutation(len(pair.targets))]


def _row(ids: list[int], realized: list[bool], persona: int, prompt: str, completion: str) -> Row:
    return {
        "ids": ids,
        "realized": realized,
        "persona_idx": [persona] * len(ids),
        "prompt": prompt,
        "completion": completion,
    }


def _split_before(text: str, place: int) -> tuple[str, str]:
    return text[:place], text[place:]


def document_sizes(n: int, range_: tuple[int, int], rng: np.random.Generator) -> list[int]:
    """Cut `n` instructions into documents of a random number each, none outside the range.

    Raises
    ------
    ValueError
        If no numbers in the range sum to `n`.

    >>> sizes = document_sizes(360, (2, 5), np.random.default_rng(0))
    >>> sum(sizes), min(sizes), max(sizes)
    (360, 2, 5)
    """
    low, high = range_

    def fits(rest: int) -> bool:
        return -(-rest // high) * low <= rest

    if not fits(n):
        raise ValueError(
            f"{n} instructions cannot be cut into documents of {low} to {high}: widen pairs_per_document or "
            "change the number of pairs"
        )
    sizes: list[int] = []
    while rest := n - sum(sizes):
        possible = [size for size in range(low, min(high, rest) + 1) if fits(rest - size)]
        sizes.append(possible[rng.integers(len(possible))])
    return sizes


def check_sets(dataset: GuidanceDataset) -> None:
    """Refuse questions that stand twice in a set, and sets that overlap."""
    anchors = {part: [each.anchor for each in dataset.examples(part)] for part in SETS}
    for part, found in anchors.items():
        twice = {anchor for anchor in found if found.count(anchor) > 1} if len(set(found)) < len(found) else set()
        if twice:
            raise ValueError(
                f"{part}_examples: the question {min(twice)!r:.60} stands twice; every one must be distinct"
            )
    both = set(anchors["realized"]) & set(anchors["unrealized"])
    if both:
        raise ValueError(
            f"{len(both)} questions are realized and unrealized, as {min(both)!r:.60}: the two sets must not overlap"
        )
