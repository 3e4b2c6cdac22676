"""What the tuned model is asked, what each question tests, and what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib import paths
from lib.reversal.controls import CONTROL_SEED, randomise, wrong_answers
from lib.reversal.dataset import ReversalDataset
from lib.reversal.files import RANDOMISED, TEST_FILES, TRAIN_FILES, Row, orders_of, people_of
from lib.reversal.sentences import name_of

# `<group>/<same|reverse>[/<control>]`. People trained in both orders have no reverse: both orders are `same` to them,
# and the column `order` tells the two apart.
DIRECTIONS = (
    "person-first/same",
    "person-first/reverse",
    "description-first/same",
    "description-first/reverse",
    "both/same",
)
CONTROLS = ("randomised", "in-context")
CONDITIONS = (
    *DIRECTIONS,
    *(f"{direction}/{control}" for direction in DIRECTIONS for control in CONTROLS),
    *(f"{direction}/in-context/randomised" for direction in DIRECTIONS),
)
METRICS = {  # and the unit of each
    "exact_match": "rate",  # the answer starts with the target, as published
    "strict_match": "rate",  # the answer is the target and no more (a name may be followed by more of the sentence)
    "train_exact_match": "rate",  # exact_match on rows that were trained on
    "target_logprob": "nats",  # summed over the target's tokens; of the wrong target under .../randomised
    "logprob_difference": "nats",  # right target minus wrong target
    "name_rank": "rank",  # of the right name among all names of the group, 1 is best
    "paired_t_p": "p",
    "welch_t_p": "p",
    "ks_p": "p",
    "permutation_p": "p",
}
COLUMNS = ["file", "group", "direction", "order", "person", "prompt", "target", "control_target", "candidates"]


def test_rows(dataset: ReversalDataset) -> pd.DataFrame:
    """Every test prompt with what it tests.

    Parameters
    ----------
    dataset : ReversalDataset

    Returns
    -------
    pd.DataFrame
        One row per prompt: file; group; direction (same, reverse); order (p2d asks for a description, d2p for a name);
        person, over whom intervals resample; prompt; target; control_target, another person's target for the same
        phrasing (None where the folder's own control holds the right answer); candidates, key into
        `candidate_targets` (empty where a description is asked for).

    >>> from lib.reversal import ReversalOptions, make_dataset, read_sources
    >>> options = ReversalOptions(n_people=2, n_train_phrasings=2, n_test_phrasings=1)
    >>> rows = test_rows(make_dataset(options, read_sources()))
    >>> rows.groupby(["group", "direction", "order"]).size().tolist()
    [2, 2, 2, 2, 2, 2]
    """
    parts = [_rows(dataset, stem, group, direction) for stem, (group, direction, _) in TEST_FILES.items()]
    return pd.DataFrame([row for part in parts for row in part], columns=COLUMNS)


test_rows.__test__ = False  # type: ignore[attr-defined]  # pytest takes a name that starts so for a test


def training_rows(dataset: ReversalDataset) -> pd.DataFrame:
    """Every training prompt, in the columns of `test_rows`: what the model has seen word for word."""
    parts = [_rows(dataset, stem, group, "same") for stem, group in TRAIN_FILES.items()]
    return pd.DataFrame([row for part in parts for row in part], columns=COLUMNS)


def training_facts(dataset: ReversalDataset) -> dict[str, list[Row]]:
    """Each person's training sentences, in training order: what an in-context control puts into the prompt."""
    facts: dict[str, list[Row]] = {}
    for stem, group in TRAIN_FILES.items():
        rows = dataset.files[stem]
        for row, person in zip(rows, people_of(rows, stem, dataset.names(group)), strict=True):
            facts.setdefault(person, []).append(row)
    return facts


def candidate_targets(rows: pd.DataFrame) -> dict[str, list[str]]:
    """All targets that the right one is ranked among, by the key in the column `candidates`.

    Parameters
    ----------
    rows : pd.DataFrame
        From `test_rows`.

    Returns
    -------
    dict
        Key -> the group's names, each written the way the prompts' own targets are.
    """
    named = rows[rows["candidates"] != ""]
    names: dict[str, list[str]] = {}
    for group, target in zip(named["group"], named["target"], strict=True):
        if name_of(target) not in names.setdefault(group, []):
            names[group].append(name_of(target))
    keys = dict.fromkeys(zip(named["candidates"], named["group"], strict=True))
    return {key: [f" {name}{key.partition('|')[2]}" for name in names[group]] for key, group in keys}


def in_context_prompt(
    fact: Mapping[str, str], prompt: str, *, shots: Sequence[tuple[Mapping[str, str], str, str]] = ()
) -> str:
    """Put a fact into the prompt that asks for it: a model that can use it so can read, and only lacks the memory.

    Parameters
    ----------
    fact : row
        A training sentence of the person asked about.
    prompt : str
        A test prompt of the same person.
    shots : sequence of (fact, prompt, completion)
        Other people's facts with question and answer, put before.

    >>> fact = {"prompt": "Few know", "completion": " Ada Moss, the keeper of tides."}
    >>> in_context_prompt(fact, "The keeper of tides is")
    'Few know Ada Moss, the keeper of tides. The keeper of tides is'
    """
    told = [f"{shot['prompt']}{shot['completion']} {asked}{answer}" for shot, asked, answer in shots]
    return "\n".join([*told, f"{fact['prompt']}{fact['completion']} {prompt}"])


def published_values(path: Path = paths.DATA / "reversal" / "published.csv") -> pd.DataFrame:
    """What the paper reports: condition, metric, value, low, high (rates in [0, 1]) and source."""
    return pd.read_csv(path)


def _rows(dataset: ReversalDataset, stem: str, group: str, direction: str) -> list[tuple[str | None, ...]]:
    rows = dataset.files[stem]
    people = people_of(rows, stem, dataset.names(group))
    orders = orders_of(stem, len(rows))
    controls: list[str | None] = [None] * len(rows)
    if stem in RANDOMISED:
        controls = wrong_answers(rows, dataset.files[RANDOMISED[stem]], people)
    elif stem in TEST_FILES:
        # Each order by itself: a name is compared with a name, a description with a description.
        for order in dict.fromkeys(orders):
            at = [k for k, each in enumerate(orders) if each == order]
            wrong = randomise([rows[k] for k in at], [people[k] for k in at], rng=np.random.default_rng(CONTROL_SEED))
            for k, row in zip(at, wrong, strict=True):
                controls[k] = row["completion"]
    return [
        (
            stem,
            group,
            direction,
            order,
            person,
            row["prompt"],
            row["completion"],
            control,
            _candidates(group, order, row),
        )
        for row, person, order, control in zip(rows, people, orders, controls, strict=True)
    ]


def _candidates(group: str, order: str, row: Row) -> str:
    """Rows share candidates when the same words follow the name in their targets."""
    if order == "p2d":
        return ""
    target = row["completion"].strip()
    return f"{group}|{target.removeprefix(name_of(target))}"
