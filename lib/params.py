"""Parameters of a study: which there are, which values they may have, and what a run sets them to.

The parameters cells of a study's notebooks are the only declaration, one typed line per key. Its comment is its help
and may end in a rule: ``[1..]``, ``[0..1]`` or ``[simple | reverse]``. A key holds for every stage of its study. Over
the defaults lies a preset, a flat YAML file ``params/<study>/<preset>.yaml`` (``tiny`` is the defaults and needs none),
and over that what the command line sets.
"""

from __future__ import annotations

import ast
import difflib
import io
import os
import re
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from lib.paths import ROOT

CURVE_SEEDS = 3  # the curve over base size takes minutes per base: not part of a one-seed run
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


def home() -> Path:
    """Folder that holds ``notebooks/`` and ``params/``: ``$TUNING_FORK_HOME``, else this repository."""
    return Path(os.environ.get("TUNING_FORK_HOME") or ROOT)


def studies() -> list[str]:
    """Names of all studies: the folders in ``notebooks/`` that hold numbered notebooks."""
    return sorted({path.parent.name for path in (home() / "notebooks").glob("*/[0-9][0-9]-*.py")})


def stages(study: str) -> list[Path]:
    """Notebooks of a study (their ``.py``, which is the source of a pair) in stage order.

    Raises `ValueError` if there is no such study; it lists those there.
    """
    found = sorted((home() / "notebooks" / study).glob("[0-9][0-9]-*.py")) if study else []
    if not found:
        raise ValueError(f"no study {study!r}{nearest(study, studies())}; there are: {', '.join(studies()) or 'none'}")
    return found


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
        if kind not in TYPES:
            raise ValueError(f"{name}: type {kind!r} is none of {', '.join(TYPES)}")
        comment = comments.get(node.end_lineno or node.lineno, "")
        keys.append(_with_rule(Key(name, kind, ast.literal_eval(node.value), comment, stages=(stage,))))
    return keys


def _with_rule(key: Key) -> Key:
    """Read the rule in brackets that may end a key's comment."""
    found = _RULE.search(key.help)
    rule, plain = (found[1], key.help[: found.start()]) if found else ("", key.help)
    if span := _RANGE.match(rule):
        low, high = (float(span[end]) if span[end] else None for end in ("low", "high"))
        return replace(key, help=plain, low=low, high=high)
    if "|" in rule:
        return replace(key, help=plain, choices=tuple(word.strip() for word in rule.split("|")))
    return key


def study_keys(study: str) -> dict[str, Key]:
    """All keys of a study, joined over its stages.

    Raises
    ------
    ValueError
        If two stages declare one key differently.
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
                keys[key.name] = replace(known, stages=known.stages + key.stages)
    return keys


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most like `name`, as the end of a message; empty when none is like it.

    >>> nearest("n_peple", ["n_people", "seed"])
    ' (did you mean n_people?)'
    """
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""


def check(study: str, values: Mapping[str, Any], *, keys: Mapping[str, Key] | None = None) -> None:
    """Refuse values (`ValueError`) that the study does not know or that do not fit.

    >>> check("demo", {"sed": 1}, keys={"seed": Key("seed", "int", 0)})
    Traceback (most recent call last):
    ValueError: demo has no parameter 'sed' (did you mean seed?); it has: seed
    """
    known = study_keys(study) if keys is None else keys
    for name, value in values.items():
        _key(study, name, known).validate(value)


def _key(study: str, name: str, known: Mapping[str, Key]) -> Key:
    if name not in known:
        hint = nearest(name, known)
        raise ValueError(f"{study} has no parameter {name!r}{hint}; it has: {', '.join(sorted(known))}")
    return known[name]


def presets(study: str) -> list[str]:
    """Names of a study's presets; ``tiny`` is the defaults and needs no file."""
    return sorted({"tiny", *(path.stem for path in (home() / "params" / study).glob("*.yaml"))})


class _OnceLoader(yaml.SafeLoader):
    """YAML as papermill reads it (no dates), and refusing a key that stands twice."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} given twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def read_preset(study: str, preset: str) -> dict[str, Any]:
    """Values that a preset file sets; nothing for ``tiny`` without a file. Not checked against the study's keys.

    Raises
    ------
    ValueError
        If there is no such preset (lists those there), or the file is not a mapping or names a key twice.
    """
    path = home() / "params" / study / f"{preset}.yaml"
    if preset not in presets(study):
        known = presets(study)
        raise ValueError(f"{study} has no preset {preset!r}{nearest(preset, known)}; it has: {', '.join(known)}")
    if not path.exists():
        return {}
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_OnceLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{path}: expected 'key: value' lines, found {type(values).__name__}")
    return values


def parse_set(study: str, items: Iterable[str], *, keys: Mapping[str, Key] | None = None) -> dict[str, Any]:
    """Read ``key=value`` pairs given on a command line, each as its key's type.

    Raises
    ------
    ValueError
        For a pair without ``=``, a key given twice, an unknown key, and a value that does not fit.

    >>> keys = {"rates": Key("rates", "list[float]", []), "note": Key("note", "str", "")}
    >>> parse_set("demo", ["rates=[1e-3, 2]", "note=3"], keys=keys)
    {'rates': [0.001, 2.0], 'note': '3'}
    """
    known = study_keys(study) if keys is None else keys
    values: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals:
            raise ValueError(f"expected key=value, found {item!r}")
        if name in values:
            raise ValueError(f"{name} is set twice")
        values[name] = _key(study, name, known).validate(text.strip(), from_text=True)
    return values


def resolve(study: str, preset: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every key of a study with its value: the default, the preset's, or the override's; all checked.

    Raises `ValueError` for an unknown study or preset and all that `check` refuses.
    """
    keys = study_keys(study)
    given = read_preset(study, preset)
    check(study, given, keys=keys)
    check(study, overrides or {}, keys=keys)
    if given.get("preset", preset) != preset:
        raise ValueError(f"params/{study}/{preset}.yaml says preset: {given['preset']}; expected {preset}")
    named = {"preset": preset} if "preset" in keys else {}
    return {name: key.default for name, key in keys.items()} | given | named | dict(overrides or {})


def active_bases(values: Mapping[str, Any]) -> list[str]:
    """Models that a study's values fine-tune: ``base``, and from three seeds on ``size_bases`` (the curve over size).

    >>> active_bases({"base": "fork-1m", "size_bases": ["fork-6m"], "n_seeds": 1})
    ['fork-1m']
    >>> active_bases({"base": "fork-1m", "size_bases": ["fork-6m"], "n_seeds": 3})
    ['fork-1m', 'fork-6m']
    """
    further = values.get("size_bases", []) if values.get("n_seeds", 1) >= CURVE_SEEDS else []
    return [base for base in [values.get("base", ""), *further] if base]
