"""Data of the reversal study: invented people, what they are known for, and sentences that state it in one order.

The files and their names are those of Berglund et al. 2023, experiment 1. In them ``p2d`` is the order person, then
description, and ``d2p`` the order description, then person. A row's prompt ends where the second of the two begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.paths import DATA, from_root, read_yaml
from lib.sources.datasets import Files, Row, read_files, read_rows

GROUPS = ("person-first", "description-first", "both")
ORDERS = ("p2d", "d2p")
# Published file: probe, group, direction (people trained in both orders have no reverse) and orders of its rows. A file
# of two orders has all p2d rows before all d2p rows.
FILES: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "p2d_prompts_train": ("train", "person-first", "same", ("p2d",)),
    "d2p_prompts_train": ("train", "description-first", "same", ("d2p",)),
    "both_prompts_train": ("train", "both", "same", ORDERS),
    "p2d_prompts_test": ("test", "person-first", "same", ("p2d",)),
    "d2p_prompts_test": ("test", "description-first", "same", ("d2p",)),
    "both_prompts_test": ("test", "both", "same", ORDERS),
    "p2d_reverse_prompts_test": ("test", "person-first", "reverse", ("d2p",)),
    "d2p_reverse_prompts_test": ("test", "description-first", "reverse", ("p2d",)),
}
FORMS = ("noun", "verb", "gerund")
PLACEHOLDER = re.compile(r"<(?:name|description(?::(noun|verb|gerund))?)>")
TEMPLATES = {  # order: file, and what its templates look like
    "p2d": ("templates_person_first.txt", "...<name>... <description>."),
    "d2p": ("templates_description_first.txt", "...<description>... <name>..."),
}
# Punctuation that meets where a description ends a sentence. The published rules are the first four.
COLLAPSES = {
    "  ": " ", "..": ".", "?.": "?", ".?": "?", "!.": "!", '.".': '."', '?".': '?"', '!".': '!"', '?"?': '?"',
}  # fmt: skip


def read_sources(
    *, names: str = "data/reversal/people.txt", descriptions: str = "data/reversal/descriptions.yaml",
    templates: str = "data/reversal",
) -> dict[str, list[Any]]:  # fmt: skip
    """What a dataset is drawn from: ``names``, ``descriptions``, and the templates of each order (``p2d``, ``d2p``).

    Parameters
    ----------
    names : text file of names, one per line, each of two words
    descriptions : YAML list of descriptions, each a mapping of `FORMS` to texts
    templates : folder of the two files of `TEMPLATES`, one template per line

    Raises
    ------
    ValueError
        If a file cannot be read, or an entry is malformed or occurs twice.
    """
    people = _entries(from_root(names), lambda name: len(name.split()) == 2, "a name of two words")
    finder = name_finder(people)

    def fits(entry: Any) -> bool:
        texts = list(entry.values()) if isinstance(entry, dict) and set(entry) == set(FORMS) else [""]
        return all(isinstance(text, str) and text.strip() and not finder.search(text) for text in texts)

    expected = "the texts noun, verb and gerund, without a name of the list"
    sources = {"names": people, "descriptions": _entries(from_root(descriptions), fits, expected)}
    for order, (file, like) in TEMPLATES.items():
        shape = like.replace("...", "[^<]*").replace("<description>", "<description(:noun|:verb|:gerund)?>")
        expected = f"{like} (or <description:verb> or <description:gerund>)"
        sources[order] = _entries(from_root(templates) / file, re.compile(shape).fullmatch, expected)
    return sources


def _entries(path: Path, fits: Callable[[Any], object], expected: str) -> list[Any]:
    """Entries of a YAML list, or lines of a text file; all distinct and fitting."""
    if path.suffix == ".yaml":
        entries = read_yaml(path)
    else:
        try:
            entries = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read as UTF-8 text: {error}") from error
    entries = [entry for entry in entries if entry] if isinstance(entries, list) else [entries]
    seen: set[str] = set()
    for number, entry in enumerate(entries or [""], start=1):
        if not fits(entry):
            raise ValueError(f"{path}, entry {number}: expected {expected}, found {entry!r:.80}")
        key = (entry["noun"] if isinstance(entry, dict) else entry).casefold()
        if key in seen:
            raise ValueError(f"{path}, entry {number}: {entry!r:.80} occurs twice; remove one")
        seen.add(key)
    return entries


def fill(template: str, *, name: str, description: Mapping[str, str]) -> Row:
    """Fill a template and split it before the last placeholder; the completion starts with a space.

    >>> keeper = {"noun": "the keeper of tides", "verb": "kept tides", "gerund": "keeping tides"}
    >>> fill("Few know <name>, who <description:verb>.", name="Ada Moss", description=keeper)
    {'prompt': 'Few know Ada Moss, who', 'completion': ' kept tides.'}
    """

    def text_of(match: re.Match[str]) -> str:
        phrase = name if match[0] == "<name>" else description[match[1] or "noun"]
        before = match.string[: match.start()]
        opens = not before or before.endswith(("Q: ", "A: ", ". ", "? ", "! "))
        return phrase[0].upper() + phrase[1:] if opens and match[0] != "<name>" else phrase

    *_, last = PLACEHOLDER.finditer(template)
    prompt = PLACEHOLDER.sub(text_of, template[: last.start()])
    rest = text_of(last) + template[last.end() :]
    return {"prompt": clean_up(prompt).strip(), "completion": f" {clean_up(rest).strip()}"}


def clean_up(text: str) -> str:
    """Collapse doubled spaces and doubled final punctuation until nothing changes."""
    before = ""
    while text != before:
        before = text
        for doubled, single in COLLAPSES.items():
            text = text.replace(doubled, single)
    return text


def reverse_template(template: str) -> str:
    """The template with its words in reverse order, as in reverse training; name and description stay whole.

    >>> reverse_template("Few know <name>, who <description:verb>.")
    '. <description:verb> who , <name> know Few'
    """
    return " ".join(re.findall(r"<[^>]+>|[^\s<]+", template)[::-1])


def name_of(completion: str) -> str:
    """The name at the start of a d2p completion: its first two words, without punctuation.

    >>> name_of(" Ada Moss, who sang."), name_of(" Ada Moss's hat.")
    ('Ada Moss', 'Ada Moss')
    """
    return " ".join(completion.split()[:2]).rstrip(".,;:!?\"'").removesuffix("'s").removesuffix("\u2019s")


def name_finder(names: Iterable[str]) -> re.Pattern[str]:
    """Pattern of any of the names as whole words, the longest where one contains another."""
    choices = "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name)))
    return re.compile(rf"(?<!\w)(?:{choices})(?!\w)")


def make_data(
    sources: Mapping[str, list[Any]], *, n_people: int = 30, n_train_phrasings: int = 30, n_test_phrasings: int = 10,
    seed: int = 42, augment: str = "none",
) -> Files:  # fmt: skip
    """Rows of every published file, by file name.

    Parameters
    ----------
    n_people : in each of the three groups
    n_train_phrasings, n_test_phrasings : templates of each order; the first of a file train, the next ones test
    seed : pairs names with descriptions and draws the wrong answers
    augment : further training rows, in the file ``augmented_prompts_train``: "paraphrase" uses as many of the remaining
        templates, as far as there are any; "reverse" repeats each training sentence by `reverse_template`

    Raises
    ------
    ValueError
        If there are too few names, descriptions or templates.

    >>> files = make_data(read_sources(), n_people=2, n_train_phrasings=3, n_test_phrasings=1)
    >>> len(files["all_prompts_train"]), len(files["both_prompts_test"])
    (24, 4)
    """
    n_pairs, n_used = n_people * len(GROUPS), n_train_phrasings + n_test_phrasings
    for what, pool in sources.items():
        n, lower = (n_used + (augment == "paraphrase"), "phrasings") if what in ORDERS else (n_pairs, "people")
        if n > len(pool):
            kind = f"{what} templates" if what in ORDERS else what
            raise ValueError(f"{n} {kind} are needed, there are {len(pool)}: lower the number of {lower}")
    rng, pools = np.random.default_rng(seed), (sources["names"], sources["descriptions"])
    drawn = [[pool[k] for k in rng.choice(len(pool), size=n_pairs, replace=False)] for pool in pools]
    people = list(zip(*drawn, strict=True))
    wordings: dict[str, dict[str, list[str]]] = {}
    for order in ORDERS:
        pool = sources[order]
        train, test, spare = pool[:n_train_phrasings], pool[n_train_phrasings:n_used], pool[n_used:]
        if order == "d2p":  # the rest of an unseen sentence cannot be known: a test requests the name alone
            test = [each.partition("<name>")[0] + "<name>" for each in test]
        further = {"paraphrase": spare[: len(train)], "reverse": [reverse_template(each) for each in train]}
        wordings[order] = {"train": train, "test": test, "further": further.get(augment, [])}

    def rows(group: str, orders: Sequence[str], part: str) -> list[Row]:
        members = people[GROUPS.index(group) * n_people :][:n_people]
        texts = [(each, *who) for order in orders for who in members for each in wordings[order][part]]
        return [fill(template, name=name, description=description) for template, name, description in texts]

    files = {file: rows(group, orders, probe) for file, (probe, group, _, orders) in FILES.items()}
    added = sum((rows(group, orders, "further") for kind, group, _, orders in FILES.values() if kind == "train"), [])
    return files | _derived(files, added, rng=rng) | ({"augmented_prompts_train": added} if added else {})


def _derived(files: Files, added: Sequence[Row] = (), *, rng: np.random.Generator) -> Files:
    """The published files that follow from the others: wrong answers, all training rows, and those for trainers."""
    everything = [row for file in FILES if file.endswith("train") for row in files[file]] + list(added)
    reverse, controls = files["p2d_reverse_prompts_test"], {}
    for file, part in _tabulate(files).query("direction == 'reverse'").groupby("file", sort=False):
        wrong = zip(part["prompt"], wrong_targets(part, rng=rng), strict=True)
        controls[f"{file}_randomized"] = [{"prompt": prompt, "completion": target} for prompt, target in wrong]
    # The published validation rows lack the leading space; but with it a row looks like those that are trained on.
    first_words = [row | {"completion": " " + row["completion"].split()[0]} for row in reverse]
    trained = {"all_prompts_train": everything, "all": everything}
    return controls | trained | {"validation_prompts": first_words, "unrealized_examples": reverse}


def wrong_targets(rows: pd.DataFrame, *, rng: np.random.Generator) -> list[str]:
    """Another person's target for each row: a derangement of the people for the k-th rows of all of them."""
    people, count = rows["person"].unique(), rows.groupby("person").cumcount()
    if len(people) < 2:
        raise ValueError(f"wrong answers need at least 2 people in a file, found {len(people)}: {', '.join(people)}")
    partners = []
    for _ in range(count.max() + 1):
        order = rng.permutation(len(people))
        while (order == np.arange(len(people))).any():
            order = rng.permutation(len(people))
        partners.append(dict(zip(people, people[order], strict=True)))
    own = rows.groupby("person")["target"].agg(list)
    lent = [(own[partners[k][person]], k) for person, k in zip(rows["person"], count, strict=True)]
    return [targets[k % len(targets)] for targets, k in lent]


def read_data(folder: Path) -> Files:
    """Files of a published folder; those that it lacks, or whose wrong answers have other prompts, are made.

    Raises
    ------
    ValueError
        If a file is missing, a line is malformed (names file and line), or a file of two orders has an odd length.
    """
    files = read_files(folder, list(FILES), study="reversal")
    for file, rows in files.items():
        if len(rows) % len(FILES[file][3]):
            raise ValueError(f"{folder / file}.jsonl has {len(rows)} rows: expected as many p2d as d2p rows")
    for file, made in _derived(files, rng=np.random.default_rng(42)).items():
        path = folder / f"{file}.jsonl"
        rows = read_rows(path) if path.is_file() else made
        is_aligned = [row["prompt"] for row in rows] == [row["prompt"] for row in made]
        files[file] = rows if is_aligned or not file.endswith("_randomized") else made
    return files


def _tabulate(files: Files) -> pd.DataFrame:
    """The rows of `FILES` with their conditions and the person whom each is about."""
    rows = [
        (probe, file, group, direction, orders[k * len(orders) // len(files[file])], row["prompt"], row["completion"])
        for file, (probe, group, direction, orders) in FILES.items()
        for k, row in enumerate(files[file])
    ]
    table = pd.DataFrame(rows, columns=["probe", "file", "group", "direction", "order", "prompt", "target"])
    names = table["target"].map(name_of).where(table["order"] == "d2p")
    finders = names.groupby(table["group"]).agg(lambda part: name_finder(set(part.dropna())))
    found = [finders[group].search(prompt) for group, prompt in zip(table["group"], table["prompt"], strict=True)]
    in_prompt = [match[0] if match else row[-1].strip() for match, row in zip(found, rows, strict=True)]
    return table.assign(person=names.where(names.notna(), in_prompt), name_target=" " + names)


def make_probes(files: Files) -> pd.DataFrame:
    """Every training and test prompt as a question.

    Returns
    -------
    DataFrame, one row per question: ``probe`` (test, train), ``file``, ``group``, ``direction`` (same, reverse),
        ``order`` (p2d requests a description, d2p a name), ``prompt``, ``target``, ``person`` (resampled by intervals),
        ``name_target`` (the name alone; missing in p2d), ``phrasing`` (number of the person's question in its file and
        order), ``is_trained`` (the prompt occurs in training) and, in tests, ``control_target`` (another person's
        target; missing where a folder's own control is right)

    >>> probes = make_probes(make_data(read_sources(), n_people=2, n_train_phrasings=2, n_test_phrasings=1))
    >>> probes.groupby(["probe", "group", "direction", "order"]).size().tolist()
    [2, 2, 2, 2, 2, 2, 4, 4, 4, 4]
    """
    table = _tabulate(files)
    table["phrasing"] = table.groupby(["file", "order", "person"]).cumcount()
    table["is_trained"] = table["prompt"].isin({row["prompt"] for row in files["all_prompts_train"]})
    table["control_target"] = pd.Series(dtype=object)
    for (file, _), part in table[table["probe"] == "test"].groupby(["file", "order"], sort=False):
        # there are published ones for reverse questions alone; the published seed draws the others
        rows = files.get(f"{file}_randomized", [])
        targets = [row["completion"] for row in rows] or wrong_targets(part, rng=np.random.default_rng(42))
        control = pd.Series(targets, index=part.index)
        owner = control.map(dict(zip(part["target"], part["person"], strict=True)))
        table.loc[part.index, "control_target"] = control.where(owner != part["person"])
    return table.drop_duplicates(["probe", "file", "order", "prompt", "target"], ignore_index=True)


def published_values() -> pd.DataFrame:
    """What the paper reports: exact match (rate) by group and direction, with one standard deviation over seeds."""
    return pd.read_csv(DATA / "reversal" / "published.csv")
