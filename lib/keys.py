"""What can be set in a study, and whether a value may be.

The parameters cells of a study's notebooks are the only declaration: one typed line a key. Its comment is its help
and may end in a rule, ``[1..]``, ``[0..1]`` or ``[simple | reverse]``. A key holds for every stage of its study.
"""

from __future__ import annotations

import ast
import difflib
import io
import json
import math
import os
import re
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.paths import ROOT

SCALARS: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
_RULE = re.compile(r"\s*\[([^\[\]]*)\]\s*$")
_RANGE = re.compile(r"\s*(?P<low>-?[\d.]*?\d)?\s*\.\.\s*(?P<high>-?\d[\d.]*)?\s*$")


@dataclass(frozen=True)
class Key:
    """One parameter of a study.

    Attributes
    ----------
    type : str
        ``str``, ``int``, ``float``, ``bool``, or a list of one of them (``list[int]``).
    low, high : float or None
        Smallest and largest value allowed; of each element when the key is a list.
    choices : tuple of str
        The words allowed; empty when any is.
    stages : tuple of str
        The notebooks that declare the key.
    """

    name: str
    type: str
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()


def home() -> Path:
    """Folder that holds ``notebooks/`` and ``params/``: ``$TUNING_FORK_HOME``, else this repository."""
    return Path(os.environ.get("TUNING_FORK_HOME") or ROOT)


def studies() -> list[str]:
    """Names of all studies: the folders in ``notebooks/`` that hold numbered notebooks."""
    return sorted({path.parent.name for path in (home() / "notebooks").glob("*/[0-9][0-9]-*.ipynb")})


def stages(study: str) -> list[Path]:
    """Notebooks of a study in stage order.

    Raises
    ------
    ValueError
        If there is no such study; lists those there.
    """
    found = sorted((home() / "notebooks" / study).glob("[0-9][0-9]-*.ipynb")) if study else []
    if not found:
        raise ValueError(f"no study {study!r}{nearest(study, studies())}; there are: {', '.join(studies()) or 'none'}")
    return found


def notebook_keys(notebook: Path) -> list[Key]:
    """Keys that one notebook declares, in order.

    Raises
    ------
    ValueError
        If the file is no notebook, has not exactly one cell tagged ``parameters``, or a line of it is not a typed
        assignment of a plain value.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{notebook} cannot be read as a notebook: {error}") from error
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{notebook}: expected one cell tagged 'parameters', found {len(tagged)}")
    source = tagged[0]["source"]
    try:
        return declared_keys(source if isinstance(source, str) else "".join(source), stage=notebook.stem)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{notebook}, parameters cell: {error}") from error


def declared_keys(source: str, *, stage: str = "") -> list[Key]:
    """Keys declared by the source of a parameters cell.

    >>> key, = declared_keys("n_people: int = 12  # people per group [1..33]")
    >>> key.name, key.type, key.default, key.help, key.low, key.high
    ('n_people', 'int', 12, 'people per group', 1.0, 33.0)
    """
    comments = {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    keys = []
    for node in ast.parse(source).body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None):
            raise ValueError(f"expected 'name: type = value', found {ast.unparse(node)!r}")
        name, kind = node.target.id, ast.unparse(node.annotation)
        if kind not in SCALARS and kind.removeprefix("list[").removesuffix("]") not in SCALARS:
            raise ValueError(f"{name}: type {kind!r} is none of str, int, float, bool or a list of them")
        comment = comments.get(node.end_lineno or node.lineno, "")
        keys.append(_with_rule(Key(name, kind, ast.literal_eval(node.value), comment, stages=(stage,))))
    return keys


def _with_rule(key: Key) -> Key:
    """Read the rule in brackets that may end a key's comment."""
    found = _RULE.search(key.help)
    if found is None:
        return key
    rule, plain = found.group(1), key.help[: found.start()]
    span = _RANGE.match(rule)
    if span and ".." in rule:
        low, high = (float(span[end]) if span[end] else None for end in ("low", "high"))
        return Key(key.name, key.type, key.default, plain, low, high, (), key.stages)
    if "|" in rule:
        choices = tuple(word.strip() for word in rule.split("|"))
        return Key(key.name, key.type, key.default, plain, None, None, choices, key.stages)
    return key


def study_keys(study: str) -> dict[str, Key]:
    """All keys of a study, joined over its stages.

    Raises
    ------
    ValueError
        If there is no such study, or two stages declare one key differently.
    """
    keys: dict[str, Key] = {}
    for notebook in stages(study):
        for key in notebook_keys(notebook):
            known = keys.setdefault(key.name, key)
            for what in ("type", "default", "low", "high", "choices"):
                if getattr(known, what) != getattr(key, what):
                    raise ValueError(
                        f"{study}: {key.name} has {what} {getattr(known, what)!r} in {known.stages[0]} "
                        f"and {getattr(key, what)!r} in {notebook.stem}"
                    )
            if known is not key:
                keys[key.name] = Key(**{**vars(known), "stages": (*known.stages, *key.stages)})
    return keys


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most like `name`, as the end of a message; empty when none is like it.

    >>> nearest("n_peple", ["n_people", "seed"])
    ' (did you mean n_people?)'
    """
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""


def check(study: str, values: Mapping[str, Any], *, keys: Mapping[str, Key] | None = None) -> None:
    """Refuse values that the study does not know or that do not fit.

    Raises
    ------
    ValueError
        For an unknown key (names the nearest), a wrong type, or a value out of range.

    >>> check("demo", {"sed": 1}, keys={"seed": Key("seed", "int", 0, "")})
    Traceback (most recent call last):
    ValueError: demo has no parameter 'sed' (did you mean seed?); it has: seed
    """
    known = study_keys(study) if keys is None else keys
    for name, value in values.items():
        if name not in known:
            hint = nearest(name, known)
            raise ValueError(f"{study} has no parameter {name!r}{hint}; it has: {', '.join(sorted(known))}")
        check_value(known[name], value)


def check_value(key: Key, value: Any) -> None:
    """Refuse one value that does not fit its key (`ValueError`).

    >>> check_value(Key("seed", "int", 0, "", low=0), True)
    Traceback (most recent call last):
    ValueError: seed: expected int, found bool True
    """
    if key.type.startswith("list["):
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{key.name}: expected {key.type}, found {type(value).__name__} {value!r}")
        elements, kind = list(value), key.type[len("list[") : -1]
    else:
        elements, kind = [value], key.type
    wanted = SCALARS[kind]
    for element in elements:
        is_whole = isinstance(element, int) and not isinstance(element, bool)
        if not (type(element) is wanted or (wanted is float and is_whole)):
            advice = " (write 2.0e-3 for 2e-3)" if wanted is float and _reads_as_float(element) else ""
            raise ValueError(f"{key.name}: expected {key.type}, found {type(element).__name__} {element!r}{advice}")
        if wanted is float and not math.isfinite(element):
            raise ValueError(f"{key.name}: expected a finite number, found {element!r}")
        if (key.low is not None and element < key.low) or (key.high is not None and element > key.high):
            low, high = ("" if end is None else f"{end:g}" for end in (key.low, key.high))
            raise ValueError(f"{key.name}: {element!r} is out of its range [{low}..{high}]")
        if key.choices and element not in key.choices and element != key.default:
            hint = nearest(str(element), key.choices)
            raise ValueError(f"{key.name}: {element!r} is none of {', '.join(key.choices)}{hint}")


def _reads_as_float(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False
