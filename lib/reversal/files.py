"""Which file of the published experiment holds what, and whom each of its rows is about."""

from __future__ import annotations

from collections.abc import Mapping

from lib.reversal.sentences import name_finder, name_of

Row = dict[str, str]
GROUPS = ("person-first", "description-first", "both")
TRAIN_FILES = {
    "p2d_prompts_train": "person-first",
    "d2p_prompts_train": "description-first",
    "both_prompts_train": "both",
}
# file -> (group, direction, which of the two its prompts name: p2d the person, d2p the description)
TEST_FILES = {
    "p2d_prompts_test": ("person-first", "same", "p2d"),
    "d2p_prompts_test": ("description-first", "same", "d2p"),
    "both_prompts_test": ("both", "same", "p2d then d2p"),
    "p2d_reverse_prompts_test": ("person-first", "reverse", "d2p"),
    "d2p_reverse_prompts_test": ("description-first", "reverse", "p2d"),
}
RANDOMISED = {
    "p2d_reverse_prompts_test": "p2d_reverse_prompts_test_randomized",
    "d2p_reverse_prompts_test": "d2p_reverse_prompts_test_randomized",
}
REQUIRED_FILES = (*TRAIN_FILES, *TEST_FILES)


def derived_files(files: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """The files that hold nothing new: all training rows, what a trainer validates on, and copies under other names."""
    everything = [row for stem in TRAIN_FILES for row in files[stem]]
    reverse = files["p2d_reverse_prompts_test"]
    # The published rows lack the leading space here alone, but a row must look like what is trained on,
    # or its loss says nothing.
    validation = [{**row, "completion": " " + row["completion"].split()[0]} for row in reverse]
    return {
        "all_prompts_train": everything,
        "all": everything,
        "validation_prompts": validation,
        "unrealized_examples": reverse,
    }


def check_rows(files: Mapping[str, list[Row]]) -> None:
    """Refuse rows that occur twice in a file and test prompts that were trained on."""
    for stem, rows in files.items():
        seen: set[tuple[str, str]] = set()
        for number, row in enumerate(rows, start=1):
            key = (row["prompt"], row["completion"])
            if key in seen:
                raise ValueError(
                    f"{stem}, row {number}: occurs twice ({row['prompt']!r:.80}); every row must be distinct"
                )
            seen.add(key)
    trained = {row["prompt"] for stem in TRAIN_FILES for row in files[stem]}
    for stem in TEST_FILES:
        for number, row in enumerate(files[stem], start=1):
            if row["prompt"] in trained:
                raise ValueError(f"{stem}, row {number}: its prompt is a training prompt too ({row['prompt']!r:.80})")


def orders_of(stem: str, n_rows: int) -> list[str]:
    """Which order each row of a file tells in; the files of the group `both` hold all p2d rows, then all d2p rows.

    >>> orders_of("both_prompts_test", 4)
    ['p2d', 'p2d', 'd2p', 'd2p']
    """
    if stem.startswith("both"):
        if n_rows % 2:
            raise ValueError(f"{stem} has {n_rows} rows: expected as many person-first as description-first rows")
        return ["p2d"] * (n_rows // 2) + ["d2p"] * (n_rows // 2)
    order = TEST_FILES[stem][2] if stem in TEST_FILES else stem[:3]
    return [order] * n_rows


def names_in_rows(files: Mapping[str, list[Row]]) -> dict[str, list[str]]:
    """Each group's names, read off the completions that start with one: a folder needs no list of its people."""
    both = files["both_prompts_train"]
    told = {
        "person-first": files["p2d_reverse_prompts_test"],
        "description-first": files["d2p_prompts_train"],
        "both": both[len(both) // 2 :],
    }
    return {group: list(dict.fromkeys(name_of(row["completion"]) for row in rows)) for group, rows in told.items()}


def people_of(rows: list[Row], stem: str, names: list[str]) -> list[str]:
    """Whose row each is: the group's name found in it, else the completion, which is the same for the same fact."""
    finder = name_finder(names)
    found = []
    for row, order in zip(rows, orders_of(stem, len(rows)), strict=True):
        match = finder.search(row["prompt"]) if order == "p2d" else finder.match(name_of(row["completion"]))
        found.append(match[0] if match else row["completion"].strip())
    return found
