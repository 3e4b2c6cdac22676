"""How datasets lie on disk, in both published layouts, and how folders of either are read again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lib import paths
from lib.guidance.dataset import FILES, SETS, GuidanceDataset, GuidanceOptions, check_sets, make_dataset
from lib.guidance.documents import Example, Row, anchor_of, instructions_of, is_example, parse_example, text_of
from lib.guidance.sources import FOLDER, ORDERS, order_of_names, read_pairs, read_phrasings, write_pairs

ONE_FILE = "online_questions"  # where the layout of one training file lies


def datasets_for(params: Mapping[str, Any]) -> dict[str, GuidanceDataset]:
    """The datasets that a run's parameters ask for, by order: published folders (``dataset``), or written anew."""
    if params["dataset"]:
        return read_datasets(paths.from_root(params["dataset"]))
    pairs = read_pairs(paths.from_root(params["source"])) if params["source"] else write_pairs()
    named = {key: params[key] for key in GuidanceOptions.__dataclass_fields__ if key in params}
    shared = named | {"pairs_per_document": tuple(params["pairs_per_document"]), "seed": params["data_seed"]}
    made = {}
    for order in dict.fromkeys(params["orders"]):
        path = params[f"{order}_phrasings"]
        phrasings = read_phrasings(paths.from_root(path) if path else FOLDER / f"phrasings_{order}.txt", order=order)
        made[order] = make_dataset(GuidanceOptions(**(shared | {"order": order})), pairs, phrasings)
    if not made:
        raise ValueError(f"orders is empty: name at least one of {', '.join(ORDERS)}")
    return made


def write_datasets(datasets: Mapping[str, GuidanceDataset], folder: Path, *, replace: bool = False) -> Path:
    """Write every dataset in both layouts, and `manifest.json`, into a folder that appears whole or not at all.

    The folder layout is ``<subdir>/copypaste_ug<U>_rg<R>_<suffix>_<order>/`` with its four files; the one-file layout
    is ``online_questions/<order>_completion_vg<U>_tg<R>_guidance_phrasings<P>_all.jsonl``, whose rows have prompt and
    completion only, and the same with ``_validation``, the unrealized examples.

    Raises
    ------
    ValueError
        If the folder holds something else and is not to be replaced.
    """

    def fill(draft: Path) -> None:
        about: dict[str, dict[str, Any]] = {}
        for order, dataset in datasets.items():
            there = _names(dataset)
            for stem, rows in dataset.files.items():
                paths.write_jsonl(draft / there["folder"] / f"{stem}.jsonl", rows)
            paths.write_jsonl(draft / there["training_file"], map(_plain, dataset.files["all"]))
            paths.write_jsonl(draft / there["validation_file"], map(_plain, dataset.files["unrealized_examples"]))
            about[order] = {
                **there,
                "dataset": dataset.id,
                "options": asdict(dataset.options) if dataset.options else None,
                "n_rows": {stem: len(rows) for stem, rows in dataset.files.items()},
            }
        hashes = {
            str(path.relative_to(draft)): paths.file_hash(path, length=64) for path in sorted(draft.rglob("*.jsonl"))
        }
        paths.write_json(draft / "manifest.json", {"study": "guidance", "orders": about, "sha256": hashes})

    return paths.write_folder(folder, fill, replace=replace)


def training_files(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Training and validation file of each order in a folder that `write_datasets` wrote."""
    orders = paths.read_json(folder / "manifest.json")["orders"]
    return {
        order: (folder / about["training_file"], folder / about["validation_file"]) for order, about in orders.items()
    }


def read_datasets(folder: Path) -> dict[str, GuidanceDataset]:
    """Read what lies in or below a folder, in either published layout, by the order of its instructions.

    Where both layouts are there, the one of four files is read: it says more.

    Raises
    ------
    ValueError
        If there is none, two are in the same order, a line is malformed (file, line and reason), or a test question
        was trained on.
    """
    places = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())] if folder.is_dir() else []
    read = [_read_folder(place) for place in places if all((place / f"{stem}.jsonl").is_file() for stem in FILES)]
    if not read:
        stems = [path for place in places for path in sorted(place.glob("*_all.jsonl"))]
        read = [_read_one_file(path) for path in stems if _validation(path).is_file()]
    if not read:
        raise ValueError(
            f"{folder} is not a guidance dataset: expected {', '.join(f'{stem}.jsonl' for stem in FILES)}, "
            "or <name>_all.jsonl beside <name>_validation.jsonl"
        )
    found: dict[str, GuidanceDataset] = {}
    for dataset in read:
        if dataset.order in found:
            raise ValueError(f"{folder} holds two datasets in {dataset.order} order: give the folder of one of them")
        found[dataset.order] = dataset
    return {order: found[order] for order in ORDERS if order in found}


def _names(dataset: GuidanceDataset) -> dict[str, str]:
    """Where a dataset lies below the folder of all, by layout."""
    n_unrealized, n_realized = (len(dataset.files[f"{part}_examples"]) for part in ("unrealized", "realized"))
    options = dataset.options or GuidanceOptions(order=dataset.order, n_realized=n_realized, n_unrealized=n_unrealized)
    stem = f"{dataset.order}_completion_vg{n_unrealized}_tg{n_realized}_guidance_phrasings{count_phrasings(dataset)}"
    return {
        "folder": f"{options.subdir}/{options.folder_name}",
        "training_file": f"{ONE_FILE}/{stem}_all.jsonl",
        "validation_file": f"{ONE_FILE}/{stem}_validation.jsonl",
    }


def _plain(row: Row) -> Row:
    """Without the keys that a strict endpoint refuses."""
    return {"prompt": row["prompt"], "completion": row["completion"]}


def _validation(path: Path) -> Path:
    return path.with_name(path.name.removesuffix("_all.jsonl") + "_validation.jsonl")


def _read_rows(path: Path) -> list[Row]:
    rows = paths.read_jsonl(path)
    for number, row in enumerate(rows, start=1):
        for key in ("prompt", "completion"):
            if not isinstance(row.get(key), str) or (key == "completion" and not row[key].strip()):
                raise ValueError(f"{path}, row {number}: expected a text under {key!r}, found {row.get(key)!r:.60}")
    if not rows:
        raise ValueError(f"{path} is empty: expected rows with prompt and completion")
    return list(rows)


def _read_folder(folder: Path) -> GuidanceDataset:
    files = {stem: _read_rows(folder / f"{stem}.jsonl") for stem in FILES}
    return _checked(folder, files, ())


def _read_one_file(path: Path) -> GuidanceDataset:
    everything = _read_rows(path)
    examples: dict[Example, Row] = {}  # copies of an example are one question
    for number, row in enumerate(everything, start=1):
        if is_example(row):
            example = parse_example(row, where=f"{path}, row {number}")
            examples[example] = {"prompt": example.prompt, "completion": text_of(row).removeprefix(example.prompt)}
    files = {
        "all": everything,
        "guidances": [row for row in everything if not is_example(row)],
        "realized_examples": list(examples.values()),
        "unrealized_examples": _read_rows(_validation(path)),
    }
    return _checked(path, files, (f"{path.name}: realized examples were read off the training file",))


def _checked(place: Path, files: dict[str, list[Row]], notes: tuple[str, ...]) -> GuidanceDataset:
    order = _order(place, files["guidances"])
    dataset = GuidanceDataset(order=order, files=files, notes=notes)
    try:
        check_sets(dataset)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    asked = {each.anchor for each in dataset.examples("unrealized")}
    for number, row in enumerate(files["all"], start=1):
        if is_example(row) and (anchor := parse_example(row, where=f"{place}, row {number}").anchor) in asked:
            raise ValueError(
                f"{place}: the unrealized question {anchor!r:.60} is trained on as an example (row {number})"
            )
    return dataset


def _order(place: Path, guidances: Sequence[Row]) -> str:
    """Which of question and answer the instructions name first."""
    lines = [line for row in guidances for line in instructions_of(row)]
    orders = {order_of_names(line, question="Q: ", answer="A: ") for line in lines if "Q: " in line and "A: " in line}
    if len(orders) != 1:
        found = "both orders" if orders else 'no instruction that quotes "Q: ..." and "A: ..."'
        raise ValueError(f"{place}: expected guidance documents in one order, found {found}")
    return orders.pop()


def instruction_lines(dataset: GuidanceDataset) -> dict[str, str]:
    """One instruction of each question, by the question; those that no guidance document quotes are missing."""
    anchors = {each.anchor for part in SETS for each in dataset.examples(part)}
    found: dict[str, str] = {}
    for row in dataset.files["guidances"]:
        for line in instructions_of(row):
            anchor = anchor_of(line, anchors)
            if anchor is not None:
                found.setdefault(anchor, line)
    return found


def count_phrasings(dataset: GuidanceDataset) -> int:
    """In how many wordings the instructions are put."""
    anchors = {each.anchor for part in SETS for each in dataset.examples(part)}
    wordings = set()
    for row in dataset.files["guidances"]:
        for line in instructions_of(row):
            wordings.add(re.sub(r'"A: .*?"', "", line.replace(anchor_of(line, anchors) or "", "", 1)))
    return len(wordings)
