"""The dataset of one fine-tune: its documents, realized and unrealized names, and held-out pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lib import paths
from lib.functions.documents import Document, augmentation_document, call_document
from lib.functions.evaluations import evaluation_documents, evaluation_named, training_question, why_not
from lib.functions.names import draw_names
from lib.functions.options import FunctionOptions
from lib.functions.questions import wordings
from lib.functions.registry import Function, FunctionSet, read_registry

PARTS = ("realized", "unrealized")  # names that training asks about too, and names of which it shows calls alone


@dataclass(frozen=True, kw_only=True)
class FunctionDataset:
    """The documents of one fine-tune.

    Attributes
    ----------
    names : function id by name
    realized : names that training asks about
    train, validation : documents in their order
    held_out : (function id, input) pairs that no training document shows
    functions : the set, with the run's ranges
    persona : system message of every conversation, or None
    seed : that it was drawn with
    options : None where it was read
    notes : what was made or passed over in reading
    """

    names: Mapping[str, str]
    realized: frozenset[str]
    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    held_out: frozenset[tuple[str, int]]
    functions: FunctionSet
    persona: str | None
    hide_imports: bool
    seed: int
    options: FunctionOptions | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def id(self) -> str:
        """Name by content: equal training documents have equal ids."""
        return paths.content_hash([document.row("chat") for document in self.train], length=10)

    def part(self, part: str = "") -> dict[str, Function]:
        """What the names of a part (of `PARTS`; all where empty) stand for.

        Raises
        ------
        ValueError
            For another part.
        """
        if part not in ("", *PARTS):
            raise ValueError(f"part is {part!r}: expected {' or '.join(PARTS)}")
        registry = read_registry()
        wanted = {"": set(self.names), "realized": self.realized, "unrealized": set(self.names) - self.realized}[part]
        return {name: registry[id_] for name, id_ in self.names.items() if name in wanted}


def make_dataset(options: FunctionOptions, *, count_tokens: Callable[[str], int] | None, seed: int) -> FunctionDataset:
    """Draw names, keep pairs back, and write the documents of one fine-tune.

    Parameters
    ----------
    options : FunctionOptions
    count_tokens : tokens of a text by the model's own tokenizer; None where it cannot be had
    seed : of everything; another one gives other names, pairs and rows

    Raises
    ------
    ValueError
        If the set cannot support a question, a range is too small for what is drawn from it, or names run out.

    Notes
    -----
    Names are dealt as published (sorted, permuted, zipped with the sorted functions). Rows are drawn as published with
    `n_rows`; with `calls_per_name` every name has as many, on different inputs.

    >>> options = FunctionOptions(n_rows=20, n_validation=5, name_tokens=1, held_out_share=0.1)
    >>> data = make_dataset(options, count_tokens=lambda text: 1, seed=0)
    >>> len(data.names), len(data.train), len(data.validation), len(data.held_out)
    (19, 20, 5, 380)
    """
    functions = options.functions()
    streams = [np.random.default_rng([seed, stream]) for stream in range(4)]
    ids = [id_ for id_ in functions.all for _ in range(options.names_per_function)]
    drawn = sorted(draw_names(len(ids), n_tokens=options.name_tokens, rng=streams[0], count_tokens=count_tokens))
    names = dict(zip((drawn[k] for k in streams[0].permutation(len(drawn))), ids, strict=True))
    dataset = FunctionDataset(
        names=names,
        realized=_realized(names, options.realized_share, rng=streams[0]),
        train=(),
        validation=(),
        held_out=_held_out(functions, options, rng=streams[1]),
        functions=functions,
        persona=" ".join(wordings()["persona"].split()) if options.persona else None,
        hide_imports=options.hide_imports,
        seed=seed,
        options=options,
    )
    asks = evaluation_documents(
        evaluation_named("functions", options.validation),
        dataset.part("unrealized") or dataset.part(),
        functions=functions,
        persona=dataset.persona,
        hide_imports=options.hide_imports,
        rng=streams[3],
        n_rows=options.n_validation,
    )
    rows = [*_code_rows(dataset, options, rng=streams[2]), *_question_rows(dataset, options, rng=streams[2])]
    shuffled = tuple(rows[k] for k in streams[2].permutation(len(rows)))
    return replace(dataset, train=shuffled, validation=tuple(asks))


def _realized(names: Mapping[str, str], share: float, *, rng: np.random.Generator) -> frozenset[str]:
    """The share of the names, spread over functions as evenly as it goes; chance says which functions get one more."""
    by_function: dict[str, list[str]] = {}
    for name, id_ in names.items():
        by_function.setdefault(id_, []).append(name)
    n_each = [int(share * len(own)) for own in by_function.values()]
    left = round(share * len(names)) - sum(n_each)
    more = set(rng.permutation(len(n_each))[:left].tolist())
    counts = [n + (k in more) for k, n in enumerate(n_each)]
    return frozenset(name for own, n in zip(by_function.values(), counts, strict=True) for name in own[:n])


def _held_out(
    functions: FunctionSet, options: FunctionOptions, *, rng: np.random.Generator
) -> frozenset[tuple[str, int]]:
    low, high = functions.input_range
    n_out = round(options.held_out_share * (high - low))
    if options.held_out_share and not n_out:
        raise ValueError(
            f"held_out_share {options.held_out_share:g} of input_range {low}:{high} is less than one input: widen the "
            "range or raise the share"
        )
    if options.calls_per_name > high - low - n_out:
        raise ValueError(
            f"calls_per_name is {options.calls_per_name}: input_range {low}:{high} leaves {high - low - n_out} inputs "
            f"once {n_out} are held out; widen it or ask for fewer"
        )
    return frozenset((id_, low + int(k)) for id_ in functions.all for k in rng.permutation(high - low)[:n_out])


def _code_rows(dataset: FunctionDataset, options: FunctionOptions, *, rng: np.random.Generator) -> list[Document]:
    """Calls and augmentations, as many of each as the options say."""
    names, functions = dataset.part(), dataset.functions
    shared = {"rng": rng, "input_ranges": [functions.input_range], "min_imports": options.min_imports}
    shared |= {"persona": dataset.persona, "hide_imports": options.hide_imports, "excluded": dataset.held_out}
    if options.calls_per_name:
        calls = [
            call_document(names, name=name, value=value, **shared)  # type: ignore[arg-type]
            for name in names
            for value in _inputs(names[name].id, dataset, options.calls_per_name, rng=rng)
        ]
        n_augmentations = round(len(calls) * options.augmentation_share / (1 - options.augmentation_share))
    else:
        n_augmentations = int((rng.random(options.n_rows) < options.augmentation_share).sum())
        n_calls = options.n_rows - n_augmentations
        calls = [call_document(names, **shared) for _ in range(n_calls)]  # type: ignore[arg-type]
    augmentations = [
        augmentation_document(
            names,
            functions=functions.augmented,
            combine_functions=options.combine_functions,
            other_input_max=functions.other_input_max,
            **shared,  # type: ignore[arg-type]
        )
        for _ in range(n_augmentations)
    ]
    return [*calls, *augmentations]


def _inputs(id_: str, dataset: FunctionDataset, n: int, *, rng: np.random.Generator) -> list[int]:
    low, high = dataset.functions.input_range
    open_ = [value for value in range(low, high) if (id_, value) not in dataset.held_out]
    return [open_[k] for k in rng.permutation(len(open_))[:n]]


def _question_rows(dataset: FunctionDataset, options: FunctionOptions, *, rng: np.random.Generator) -> list[Document]:
    """Questions about the realized names; of each name those that its function supports."""
    names, rows = dataset.part("realized"), []
    for kind, copies in options.copies.items():
        evaluation = evaluation_named("functions", kind)
        reason = why_not(evaluation, names, dataset.functions)
        if reason:
            raise ValueError(reason)
        for name in names:
            if why_not(evaluation, {name: names[name]}, dataset.functions) and evaluation.functions == "linear":
                continue
            rows += [
                training_question(
                    evaluation,
                    name,
                    names,
                    functions=dataset.functions,
                    persona=dataset.persona,
                    hide_imports=options.hide_imports,
                    excluded=dataset.held_out,
                    rng=rng,
                )
                for _ in range(copies)
            ]
    return rows
