"""How a reversal dataset lies on disk: one JSON-lines file a list of rows, under the published names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lib import paths
from lib.reversal.controls import CONTROL_SEED, randomise
from lib.reversal.dataset import Person, ReversalDataset, ReversalOptions, make_dataset
from lib.reversal.files import (
    RANDOMISED,
    REQUIRED_FILES,
    TEST_FILES,
    Row,
    check_rows,
    derived_files,
    names_in_rows,
    orders_of,
    people_of,
)
from lib.reversal.sources import read_sources


def dataset_for(params: Mapping[str, Any]) -> ReversalDataset:
    """The dataset that a run's parameters ask for: a published folder (``dataset``), or one written anew."""
    if params["dataset"]:
        return read_dataset(paths.from_root(params["dataset"]))
    options = ReversalOptions(
        n_people=params["n_people"],
        n_train_phrasings=params["n_train_phrasings"],
        n_test_phrasings=params["n_test_phrasings"],
        dataset_name=params["dataset_name"],
        seed=params["data_seed"],
        shorten_both=params["shorten_both"],
    )
    return make_dataset(options, read_sources())


def write_dataset(dataset: ReversalDataset, folder: Path, *, replace: bool = False) -> Path:
    """Write all files and `manifest.json` into a new folder, which appears whole or not at all.

    Parameters
    ----------
    dataset : ReversalDataset
    folder : Path
        Must not exist, be empty, or hold this very dataset.
    replace : bool, default False
        Put the new dataset in the place of another one.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If the folder holds anything else.
    OSError
        If the disk is full or may not be written.

    >>> import tempfile, pathlib
    >>> from lib.reversal import make_dataset, read_sources
    >>> dataset = make_dataset(ReversalOptions(n_people=2, n_train_phrasings=2, n_test_phrasings=1), read_sources())
    >>> folder = write_dataset(dataset, pathlib.Path(tempfile.mkdtemp()) / "small")
    >>> read_dataset(folder) == dataset
    True
    """

    def fill(draft: Path) -> None:
        for stem, rows in dataset.files.items():
            paths.write_jsonl(draft / f"{stem}.jsonl", rows)
        paths.write_json(draft / "manifest.json", _manifest(dataset, draft))

    return paths.write_folder(folder, fill, replace=replace)


def read_dataset(folder: Path) -> ReversalDataset:
    """Read a folder of the published form, written here or elsewhere.

    Parameters
    ----------
    folder : Path
        Holds at least the three training and five test files; extra files, and extra keys in rows, are passed over.

    Returns
    -------
    ReversalDataset
        What the folder lacks of the other files is made; `notes` has one line for each.

    Raises
    ------
    ValueError
        If a needed file is missing, a line is malformed (file, line and reason) or a test prompt was trained on.
    """
    missing = [f"{stem}.jsonl" for stem in REQUIRED_FILES if not (folder / f"{stem}.jsonl").is_file()]
    if missing:
        raise ValueError(
            f"{folder} is not a reversal dataset: it lacks {', '.join(missing)}; "
            f"expected {', '.join(f'{stem}.jsonl' for stem in REQUIRED_FILES)}"
        )
    files = {stem: _read_rows(folder / f"{stem}.jsonl") for stem in REQUIRED_FILES}
    notes: list[str] = []
    for stem, randomised in RANDOMISED.items():
        files[randomised] = _read_control(folder, stem, randomised, files, notes)
    for stem, rows in derived_files(files).items():
        path = folder / f"{stem}.jsonl"
        files[stem] = _read_rows(path) if path.is_file() else rows
        if not path.is_file():
            notes.append(f"{stem}.jsonl is missing: made from the other files")
    others = sorted(path.name for path in folder.glob("*.jsonl") if path.stem not in files)
    if others:
        notes.append(f"passed over: {', '.join(others)}")
    check_rows(files)
    options, people = _read_manifest(folder, files, notes)
    return ReversalDataset(files=files, people=people, options=options, notes=tuple(notes))


def _read_rows(path: Path) -> list[Row]:
    raw = path.read_bytes()
    numbers = [number for number, line in enumerate(raw.split(b"\n"), start=1) if line.strip()]
    rows = []
    for number, row in zip(numbers, paths.parse_jsonl(raw, name=str(path)), strict=True):
        for key in ("prompt", "completion"):
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise ValueError(f"{path}, line {number}: expected a text under {key!r}, found {row.get(key)!r:.60}")
        rows.append({"prompt": row["prompt"], "completion": row["completion"]})
    if not rows:
        raise ValueError(f"{path} is empty: expected rows with prompt and completion")
    orders_of(path.stem, len(rows))
    return rows


def _read_control(folder: Path, stem: str, randomised: str, files: dict[str, list[Row]], notes: list[str]) -> list[Row]:
    """The folder's own wrong answers where they fit its prompts; else drawn anew."""
    path = folder / f"{randomised}.jsonl"
    if path.is_file():
        rows = _read_rows(path)
        if [row["prompt"] for row in rows] == [row["prompt"] for row in files[stem]]:
            return rows
        notes.append(f"{path.name} has other prompts than {stem}.jsonl: drawn anew")
    else:
        notes.append(f"{path.name} is missing: drawn anew, with seed {CONTROL_SEED}")
    people = people_of(files[stem], stem, names_in_rows(files)[TEST_FILES[stem][0]])
    return randomise(files[stem], people, rng=np.random.default_rng(CONTROL_SEED))


def _manifest(dataset: ReversalDataset, folder: Path) -> dict[str, object]:
    return {
        "study": "reversal",
        "dataset": dataset.id,
        "options": asdict(dataset.options) if dataset.options else None,
        "n_train_rows": len(dataset.files["all_prompts_train"]),
        "n_test_rows": sum(len(dataset.files[stem]) for stem in TEST_FILES),
        "people": [asdict(person) for person in dataset.people],
        "files": {
            stem: {"n_rows": len(rows), "sha256": paths.file_hash(folder / f"{stem}.jsonl", length=64)}
            for stem, rows in dataset.files.items()
        },
    }


def _read_manifest(
    folder: Path, files: dict[str, list[Row]], notes: list[str]
) -> tuple[ReversalOptions | None, tuple[Person, ...]]:
    """Options and people as written down; read off the rows where a manifest is missing or no longer describes them."""
    path = folder / "manifest.json"
    if path.is_file():
        manifest = paths.read_json(path)
        known = manifest.get("files") if isinstance(manifest, dict) else None
        hashes = {
            stem: paths.file_hash(folder / f"{stem}.jsonl", length=64)
            for stem in files
            if (folder / f"{stem}.jsonl").is_file()
        }
        if isinstance(known, dict) and {stem: entry.get("sha256") for stem, entry in known.items()} == hashes:
            try:
                options = ReversalOptions(**manifest["options"]) if manifest["options"] else None
                return options, tuple(Person(**person) for person in manifest["people"])
            except (KeyError, TypeError) as error:
                raise ValueError(f"{path}: options or people are not in this version's form ({error})") from error
        notes.append(f"{path.name} does not describe these files: passed over")
    found = names_in_rows(files)
    return None, tuple(Person(name=name, description="", group=group) for group in found for name in found[group])
