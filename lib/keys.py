"""Keys of a parameters cell: one typed line each, its comment the help, which may end in a rule.

The rule stands in brackets: ``[1..]``, ``[0..1]`` or ``[simple | reverse]``.
"""

from __future__ import annotations

import ast
import difflib
import io
import re
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

SCALARS: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
TYPES = (*SCALARS, *(f"list[{name}]" for name in SCALARS))
_RULE = re.compile(r"\s*\[([^\[\]]*)\]\s*$")
_RANGE = re.compile(r"\s*(?P<low>-?[\d.]*?\d)?\s*\.\.\s*(?P<high>-?\d[\d.]*)?\s*$")


@dataclass(frozen=True)
class Key:
    """One parameter of a study; its bounds and choices hold for each element of a list."""

    name: str
    type: str  # one of TYPES
    default: Any
    help: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()  # the notebooks that declare it

    def validate(self, value: Any, *, from_text: bool = False) -> Any:
        """The value, if it fits; with `from_text` read from text, as a command line gives it.

        Raises
        ------
        ValueError
            If its type, range or choice is not the key's.

        >>> Key("seed", "int", 0, low=0).validate("-1", from_text=True)
        Traceback (most recent call last):
        ValueError: seed: '-1' should be greater than or equal to 0
        """
        is_list = self.type.startswith("list[")
        element: Any = SCALARS[self.type.removeprefix("list[").removesuffix("]")]
        if self.choices:
            element = Literal[*self.choices, self.default] if not is_list else Literal[self.choices]
        elif element in (int, float):
            element = Annotated[element, Field(ge=self.low, le=self.high, allow_inf_nan=False)]
        if from_text and is_list:
            parts = (part.strip().strip("'\"") for part in value.removeprefix("[").removesuffix("]").split(","))
            value = [part for part in parts if part]
        try:
            return TypeAdapter(list[element] if is_list else element).validate_python(value, strict=not from_text)
        except ValidationError as error:
            found = error.errors()[0]
            expected = found["msg"].replace("Input should be", "should be")
            hint = nearest(str(found["input"]), self.choices)
            if "float" in self.type and isinstance(found["input"], str) and not from_text:
                hint = " (in YAML write 2.0e-3, not 2e-3)"
            raise ValueError(f"{self.name}: {found['input']!r} {expected}{hint}") from None


def notebook_keys(notebook: Path) -> list[Key]:
    """Keys that one notebook (a ``.py``) declares, in order.

    Raises
    ------
    ValueError
        If it has not exactly one cell tagged ``parameters``, or a line of that is not a typed assignment of a plain
        value.
    """
    cells = re.split(r"^# %%", notebook.read_text(encoding="utf-8"), flags=re.M)
    tagged = [source for head, _, source in (cell.partition("\n") for cell in cells) if '"parameters"' in head]
    if len(tagged) != 1:
        raise ValueError(f"{notebook}: expected one cell tagged 'parameters', found {len(tagged)}")
    try:
        return declared_keys(tagged[0], stage=notebook.stem)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{notebook}, parameters cell: {error}") from error


def declared_keys(source: str, *, stage: str = "") -> list[Key]:
    """Keys declared by the source of a parameters cell.

    >>> key, = declared_keys("n_people: int = 12  # people per group [1..33]")
    >>> key.name, key.type, key.default, key.help, key.low, key.high
    ('n_people', 'int', 12, 'people per group [1..33]', 1.0, 33.0)
    """
    comments = {
        token.start[0]: token.string.removesuffix("# fmt: skip").strip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    keys = []
    for node in ast.parse(source).body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None):
            raise ValueError(f"expected 'name: type = value', found {ast.unparse(node)!r}")
        name, kind = node.target.id, ast.unparse(node.annotation)
        if kind not in TYPES:
            raise ValueError(f"{name}: type {kind!r} is none of {', '.join(TYPES)}")
        comment = comments.get(node.end_lineno or node.lineno, "")
        keys.append(Key(name, kind, ast.literal_eval(node.value), comment, stages=(stage,), **_rule(comment)))
    return keys


def _rule(comment: str) -> dict[str, Any]:
    """Bounds or choices from the brackets that may end a comment."""
    found = _RULE.search(comment)
    rule = found[1] if found else ""
    if span := _RANGE.match(rule):
        return {end: float(span[end]) for end in ("low", "high") if span[end]}
    return {"choices": tuple(word.strip() for word in rule.split("|"))} if "|" in rule else {}


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most like `name`, as the end of a message; empty when none is like it.

    >>> nearest("n_peple", ["n_people", "seed"])
    ' (did you mean n_people?)'
    """
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""
