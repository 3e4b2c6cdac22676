"""Names that people give to fine-tunes, kept in one JSON file beside the runs: ``{id: [tag, ...]}``."""

from __future__ import annotations

import re
from pathlib import Path

from filelock import FileLock

from lib.paths import read_json, write_json

TAGS = "tags.json"


def read_tags(root: Path) -> dict[str, list[str]]:
    """Tags by id; none where nothing was tagged.

    Raises
    ------
    ValueError
        If the file is not what `add_tag` writes.
    """
    path = root / TAGS
    if not path.exists():
        return {}
    tags = read_json(path)
    if not isinstance(tags, dict) or not all(isinstance(names, list) for names in tags.values()):
        raise ValueError(f'{path}: expected {{"id": ["tag", ...]}}, found something else: mend or remove it')
    return tags


def add_tag(root: Path, of: str, tag: str) -> None:
    """Tag an id; a tag that is there already is left alone.

    Raises
    ------
    ValueError
        If the tag is not made of letters, digits and ``. _ : -``.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> add_tag(root, "ftjob-1", "paper")
    >>> read_tags(root)
    {'ftjob-1': ['paper']}
    """
    if not re.fullmatch(r"[\w.:-]{1,64}", tag):
        raise ValueError(f"a tag is made of up to 64 letters, digits and . _ : -, found {tag!r}")
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{TAGS}.lock"):
        tags = read_tags(root)
        tags[of] = sorted({*tags.get(of, []), tag})
        write_json(root / TAGS, tags)


def remove_tag(root: Path, of: str, tag: str) -> None:
    """Take a tag off an id (`ValueError` if it does not carry it; names those that it does)."""
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{TAGS}.lock"):
        tags = read_tags(root)
        names = tags.get(of, [])
        if tag not in names:
            raise ValueError(f"{of} has no tag {tag!r}; it has: {', '.join(names) or 'none'}")
        tags[of] = [name for name in names if name != tag]
        write_json(root / TAGS, {each: names for each, names in tags.items() if names})
