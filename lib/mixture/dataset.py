"""The dataset of one fine-tune: a pair without a name, or many labels with a pair behind each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lib import paths
from lib.functions.documents import Document
from lib.functions.evaluations import evaluation_named, take_turns
from lib.functions.names import draw_names
from lib.mixture.documents import Setting, triple_document
from lib.mixture.options import MixtureOptions
from lib.mixture.pairs import Pair, all_pairs, choose_pairs
from lib.mixture.questions import Asked, question, unsupported

PARTS = ("realized", "unrealized")  # labels that training asks about too, and mixes of which it shows documents alone


@dataclass(frozen=True, kw_only=True)
class MixtureDataset:
    """The documents of one fine-tune.

    Attributes
    ----------
    mixes : hidden pair by label; a fine-tune of the published form has one without label
    realized : labels that training asks about
    train, validation : documents in their order
    held_out : (pair, input) keys that no training document shows
    setting : what the documents have in common
    seed : that it was drawn with
    options : None where it was read from a published folder
    """

    mixes: Mapping[str, Pair]
    realized: frozenset[str]
    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    held_out: frozenset[tuple[Pair, int]]
    setting: Setting
    seed: int
    options: MixtureOptions | None = field(default=None, compare=False)

    @property
    def id(self) -> str:
        """Name by content: equal training rows have equal ids."""
        return paths.content_hash([document.row(self.setting.form) for document in self.train], length=10)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The hidden pairs, each once."""
        return tuple(dict.fromkeys(self.mixes.values()))

    def part(self, part: str = "") -> dict[str, Pair]:
        """The mixes of a part (of `PARTS`; all where empty) by label.

        Raises
        ------
        ValueError
            For another part.
        """
        if part not in ("", *PARTS):
            raise ValueError(f"part is {part!r}: expected {' or '.join(PARTS)}")
        return {
            label: pair
            for label, pair in self.mixes.items()
            if not part or (label in self.realized) == (part == PARTS[0])
        }


def left_pairs(dataset: MixtureDataset) -> tuple[Pair, ...]:
    """Pairs of the candidates that no mix of a dataset hides: those a later fine-tune can hide."""
    return tuple(pair for pair in all_pairs(dataset.setting.candidates) if pair not in dataset.pairs)


def hidden_pairs(options: MixtureOptions, *, seed: int) -> tuple[Pair, ...]:
    """The pairs that are hidden: the named ones, or drawn by the seed."""
    candidates = options.setting().candidates
    rng = np.random.default_rng([seed, 0])
    return choose_pairs(options.pairs, candidates=candidates, n=options.n_pairs, rng=rng)


def make_pair_dataset(
    options: MixtureOptions, pair: Pair, *, seed: int, label: str = "", old: Sequence[Document] = ()
) -> MixtureDataset:
    """The published form: documents of one pair, with nothing that names it.

    Parameters
    ----------
    options : MixtureOptions
    pair : of the candidates
    seed : of everything; another one gives other rows and other held-out inputs
    label : stands in front of every document; empty, as published: an opening line alone
    old : training documents of another dataset, of which `mix_old` takes its share

    Raises
    ------
    ValueError
        If the pair is not among the candidates, or there are too few old rows.

    >>> options = MixtureOptions(n_rows=20, n_validation=4, held_out_share=0.1)
    >>> data = make_pair_dataset(options, ("add_5", "mod_2"), seed=0)
    >>> len(data.train), len(data.validation), len(data.held_out)
    (20, 4, 20)
    """
    setting = options.setting()
    if pair not in all_pairs(setting.candidates):
        raise ValueError(f"{pair} is no pair of the candidates {', '.join(setting.candidates)}")
    n_old = round(options.n_rows * options.mix_old / (1 - options.mix_old))
    if n_old > len(old):
        raise ValueError(
            f"mix_old {options.mix_old:g} of {options.n_rows + n_old} rows is {n_old}: there are {len(old)} old ones; "
            "lower mix_old or n_rows"
        )
    held_out = _held_out([pair], options, rng=np.random.default_rng([seed, 1]))
    rng = np.random.default_rng([seed, 2])
    rows = [
        triple_document(pair, setting=setting, rng=rng, label=label, excluded=held_out) for _ in range(options.n_rows)
    ]
    if n_old:
        rows += [old[k] for k in rng.permutation(len(old))[:n_old]]
        rows = [rows[k] for k in rng.permutation(len(rows))]
    return MixtureDataset(
        mixes={label: pair},
        realized=frozenset(),
        train=tuple(rows),
        validation=_validation({label: pair}, options, held_out, rng=np.random.default_rng([seed, 3])),
        held_out=held_out,
        setting=setting,
        seed=seed,
        options=options,
    )


def make_joint_dataset(
    options: MixtureOptions, *, count_tokens: Callable[[str], int] | None, seed: int
) -> MixtureDataset:
    """The joint form: many labels, each a hidden pair, all with documents and most with questions.

    Parameters
    ----------
    options : MixtureOptions
    count_tokens : tokens of a text by the model's own tokenizer; None where it cannot be had
    seed : of everything

    Raises
    ------
    ValueError
        If there are more labels than names, or a question can be asked about no realized label.

    Notes
    -----
    Labels are dealt to the pairs in turn, realized ones to each pair as evenly as it goes, so that of a pair that has
    two labels one is likely to be asked about and one not.

    >>> options = MixtureOptions(n_functions=10, n_pairs=36, n_labels=72, n_realized=36, triples_per_label=2,
    ...                          questions=("exact_pair:2",), form="completion")
    >>> data = make_joint_dataset(options, count_tokens=None, seed=0)
    >>> len(data.train), len(data.part("unrealized")), len(left_pairs(data))
    (216, 36, 9)
    """
    if not options.n_labels:
        raise ValueError("n_labels is 0: the joint form needs labels; make_pair_dataset writes the form without")
    setting, pairs = options.setting(), hidden_pairs(options, seed=seed)
    rng = np.random.default_rng([seed, 4])
    labels = draw_names(options.n_labels, n_tokens=options.name_tokens, rng=rng, count_tokens=count_tokens)
    dealt = [pairs[k] for k in rng.permutation(len(pairs))]
    mixes = {label: dealt[k % len(dealt)] for k, label in enumerate(labels)}
    realized = _realized(mixes, options.n_realized)
    held_out = _held_out(pairs, options, rng=np.random.default_rng([seed, 1]))
    rng = np.random.default_rng([seed, 2])
    rows = [
        triple_document(pair, setting=setting, rng=rng, label=label, excluded=held_out)
        for label, pair in mixes.items()
        for _ in range(options.triples_per_label)
    ]
    asked = {label: pair for label, pair in mixes.items() if label in realized}
    rows += _questions(asked, options, held_out, rng=rng)
    others = {label: pair for label, pair in mixes.items() if label not in realized} or mixes
    return MixtureDataset(
        mixes=mixes,
        realized=realized,
        train=tuple(rows[k] for k in rng.permutation(len(rows))),
        validation=_validation(others, options, held_out, rng=np.random.default_rng([seed, 3])),
        held_out=held_out,
        setting=setting,
        seed=seed,
        options=options,
    )


def _realized(mixes: Mapping[str, Pair], n: int) -> frozenset[str]:
    """So many labels, each pair's first ones, in rounds over the pairs."""
    rounds: dict[str, int] = {}
    seen: dict[Pair, int] = {}
    for label, pair in mixes.items():
        rounds[label] = seen[pair] = seen.get(pair, -1) + 1
    return frozenset(sorted(mixes, key=lambda label: rounds[label])[:n])


def _held_out(
    pairs: Sequence[Pair], options: MixtureOptions, *, rng: np.random.Generator
) -> frozenset[tuple[Pair, int]]:
    low, high = options.range()
    return frozenset((pair, low + int(k)) for pair in pairs for k in rng.permutation(high - low)[: options.n_held_out])


def _questions(
    mixes: Mapping[str, Pair],
    options: MixtureOptions,
    held_out: frozenset[tuple[Pair, int]],
    *,
    rng: np.random.Generator,
) -> Iterator[Document]:
    """Each question about each label, as often as the options say; of a pair those that it supports."""
    setting = options.setting()
    for name, copies in options.copies.items():
        asked = [
            Asked(
                evaluation=evaluation_named("mixture", name), pair=pair, setting=setting, label=label, excluded=held_out
            )
            for label, pair in mixes.items()
        ]
        reasons = [unsupported(each) for each in asked]
        if all(reasons):
            raise ValueError(f"questions holds {name}, which no realized label supports: {reasons[0]}")
        for each, reason in zip(asked, reasons, strict=True):
            if not reason:
                yield from (question(each, rng=rng) for _ in range(copies))


def _validation(
    mixes: Mapping[str, Pair],
    options: MixtureOptions,
    held_out: frozenset[tuple[Pair, int]],
    *,
    rng: np.random.Generator,
) -> tuple[Document, ...]:
    """Documents on inputs of other ranges, or questions; labels take turns."""
    setting, ranges = options.setting(), options.other_ranges()
    turns = take_turns(list(mixes), options.n_validation, rng=rng)
    if not options.validation:
        return tuple(
            triple_document(mixes[label], setting=setting, rng=rng, label=label, ranges=ranges) for label in turns
        )
    asked = evaluation_named("mixture", options.validation)
    return tuple(
        question(Asked(evaluation=asked, pair=mixes[label], setting=setting, label=label, excluded=held_out), rng=rng)
        for label in turns
    )
