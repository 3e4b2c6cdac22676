"""Which rows a model is trained on and which it is asked: the published files of the reversal experiment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lib import paths
from lib.reversal.controls import randomise
from lib.reversal.files import GROUPS, RANDOMISED, Row, check_rows, derived_files
from lib.reversal.sentences import Description, fill, shorten
from lib.reversal.sources import ReversalSources


@dataclass(frozen=True, kw_only=True)
class ReversalOptions:
    """Every option of the published generator, checked when made.

    Parameters
    ----------
    n_people : int
        People in each of the three groups; published: 30.
    n_train_phrasings, n_test_phrasings : int
        Templates for a person and order; published: 30 and 10.
    dataset_name : str
        Put before the dataset's id: letters, digits, dot, dash, underscore.
    seed : int
        Pairs names with descriptions and draws the wrong answers; published: 42.
    shorten_both : bool
        False keeps the published flaw that the description-first half of `both_prompts_test` demands the
        unseen tail of its sentence too, which no model can know.

    Raises
    ------
    ValueError
        If a number is too small or the name holds another character.
    """

    n_people: int = 30
    n_train_phrasings: int = 30
    n_test_phrasings: int = 10
    dataset_name: str = ""
    seed: int = 42
    shorten_both: bool = True

    def __post_init__(self) -> None:
        # A single person has no wrong answer to be compared with.
        for key, least in {"n_people": 2, "n_train_phrasings": 1, "n_test_phrasings": 1, "seed": 0}.items():
            if getattr(self, key) < least:
                raise ValueError(f"{key} is {getattr(self, key)}: expected {least} or more")
        if not re.fullmatch(r"[A-Za-z0-9_.-]*", self.dataset_name):
            raise ValueError(
                f"dataset_name is {self.dataset_name!r}: use letters, digits, dot, dash and underscore only"
            )


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody invented, and in which order the training sentences tell of them."""

    name: str
    description: str  # noun phrase, empty where only the rows are known
    group: str


@dataclass(frozen=True, kw_only=True)
class ReversalDataset:
    """The rows of every file, by file name without its ending.

    `options` is None for a folder that this project did not write; `notes` say what was made or passed over in reading.
    """

    files: Mapping[str, list[Row]]
    people: tuple[Person, ...]
    options: ReversalOptions | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def id(self) -> str:
        """Name by content: equal rows have equal ids, on every machine."""
        digest = paths.content_hash(dict(self.files), length=10)
        return f"{self.options.dataset_name}-{digest}" if self.options and self.options.dataset_name else digest

    @property
    def groups(self) -> list[str]:
        """Groups that have people, in the published order."""
        return [group for group in GROUPS if self.names(group)]

    def names(self, group: str) -> list[str]:
        """Names of one group, in order of appearance."""
        return [person.name for person in self.people if person.group == group]


def make_dataset(options: ReversalOptions, sources: ReversalSources) -> ReversalDataset:
    """Draw people and descriptions and write out every published file.

    Parameters
    ----------
    options : ReversalOptions
    sources : ReversalSources

    Returns
    -------
    ReversalDataset
        With n_people x (n_train_phrasings x 4) training and as many test rows for each test phrasing, plus 2 controls.

    Raises
    ------
    ValueError
        If the sources hold too few names, descriptions or templates.

    Notes
    -----
    Berglund et al. 2023, experiment 1. The first templates of each pool train and the next ones test, for every person.

    >>> from lib.reversal.sources import read_sources
    >>> dataset = make_dataset(ReversalOptions(n_people=2, n_train_phrasings=3, n_test_phrasings=1), read_sources())
    >>> len(dataset.files["all_prompts_train"]), len(dataset.files["both_prompts_test"])
    (24, 4)
    """
    n_drawn = options.n_people * len(GROUPS)
    for what, pool in (("names", sources.people), ("descriptions", sources.descriptions)):
        if n_drawn > len(pool):
            most = len(pool) // len(GROUPS)
            raise ValueError(
                f"n_people is {options.n_people}: 3 groups need {n_drawn} {what}, the sources hold {len(pool)}; "
                f"set n_people to {most} or less"
            )
    n_phrasings = options.n_train_phrasings + options.n_test_phrasings
    for what, templates in (("person-first", sources.person_first), ("description-first", sources.description_first)):
        if n_phrasings > len(templates):
            raise ValueError(
                f"n_train_phrasings + n_test_phrasings is {n_phrasings}: the sources hold {len(templates)} {what} "
                f"templates; set their sum to {len(templates)} or less"
            )

    rng = np.random.default_rng(options.seed)
    drawn_people = rng.choice(len(sources.people), size=n_drawn, replace=False)
    drawn_descriptions = rng.choice(len(sources.descriptions), size=n_drawn, replace=False)
    pairs = [
        (sources.people[i], sources.descriptions[j]) for i, j in zip(drawn_people, drawn_descriptions, strict=True)
    ]
    grouped = {group: pairs[k * options.n_people : (k + 1) * options.n_people] for k, group in enumerate(GROUPS)}
    train, test = slice(0, options.n_train_phrasings), slice(options.n_train_phrasings, n_phrasings)

    def p2d(group: str, part: slice) -> list[Row]:
        return _fill_all(sources.person_first[part], grouped[group])

    def d2p(group: str, part: slice) -> list[Row]:
        return _fill_all(sources.description_first[part], grouped[group])

    both_d2p_test = d2p("both", test)
    files = {
        "p2d_prompts_train": p2d("person-first", train),
        "d2p_prompts_train": d2p("description-first", train),
        "both_prompts_train": p2d("both", train) + d2p("both", train),
        "p2d_prompts_test": p2d("person-first", test),
        "d2p_prompts_test": [shorten(row) for row in d2p("description-first", test)],
        "both_prompts_test": p2d("both", test)
        + ([shorten(row) for row in both_d2p_test] if options.shorten_both else both_d2p_test),
        "p2d_reverse_prompts_test": [shorten(row) for row in d2p("person-first", test)],
        "d2p_reverse_prompts_test": p2d("description-first", test),
    }
    owners = {
        "p2d_reverse_prompts_test": [
            name for name, _ in grouped["person-first"] for _ in range(test.stop - test.start)
        ],
        "d2p_reverse_prompts_test": [
            name for name, _ in grouped["description-first"] for _ in range(test.stop - test.start)
        ],
    }
    for stem, randomised in RANDOMISED.items():
        files[randomised] = randomise(files[stem], owners[stem], rng=rng)
    files |= derived_files(files)
    check_rows(files)
    people = tuple(
        Person(name=name, description=description.noun, group=group)
        for group in GROUPS
        for name, description in grouped[group]
    )
    return ReversalDataset(files=files, people=people, options=options)


def _fill_all(templates: Sequence[str], pairs: Sequence[tuple[str, Description]]) -> list[Row]:
    return [fill(template, name=name, description=each) for name, each in pairs for template in templates]
