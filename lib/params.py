"""What a run of a study is set to: the defaults, over them a preset, over that what the command line sets.

A preset is a flat YAML file ``params/<study>/<preset>.yaml``; ``tiny`` is the defaults and needs none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from lib.keys import SCALARS, Key, check, home, nearest, study_keys

CURVE_SEEDS = 3  # the curve over base size takes minutes a base: not part of a one-seed run


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
        If there is no such preset (lists those there), or the file is not flat YAML or names a key twice.
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
    nested = [name for name, value in values.items() if isinstance(value, dict)]
    if nested:
        raise ValueError(f"{path}: expected flat 'key: value' lines, found keys below {', '.join(nested)}")
    return values


def parse_set(study: str, items: Iterable[str], *, keys: Mapping[str, Key] | None = None) -> dict[str, Any]:
    """Read ``key=value`` pairs given on a command line, each as its key's type.

    Raises
    ------
    ValueError
        For a pair without ``=``, a key given twice, and all that `check` refuses.

    >>> keys = {"rates": Key("rates", "list[float]", [], ""), "note": Key("note", "str", "", "")}
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
        values[name] = _as_type(text.strip(), known[name].type) if name in known else text
    check(study, values, keys=known)
    return values


def _as_type(text: str, kind: str) -> Any:
    """`text` as the type named `kind`; returned as it is when it cannot be read so, for `check` to refuse."""
    if kind.startswith("list["):
        parts = [part.strip().strip("'\"") for part in text.removeprefix("[").removesuffix("]").split(",")]
        return [_as_type(part, kind[len("list[") : -1]) for part in parts if part]
    if kind == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return SCALARS[kind](text)
    except ValueError:
        return text


def resolve(study: str, preset: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every key of a study with its value: the default, the preset's, or the override's; all checked.

    Raises
    ------
    ValueError
        For an unknown study or preset and all that `check` refuses.
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


def bases_of(values: Mapping[str, Any]) -> list[str]:
    """Names of the project's own base models that a run with these values needs.

    Those of a curve over size (`size_bases`) are needed from three seeds on. With ``general``, plain names stand for
    bases of that text, which the run makes itself.

    >>> bases_of({"base": "fork-1m", "general": "my/texts"})
    []
    >>> bases_of({"base": "fork-1m@3f2a:init", "bases": ["fork-300k", "hf:gpt2"], "size_bases": ["fork-6m"]})
    ['fork-1m', 'fork-300k']
    """
    found = set()
    wanted = r"fork-\d+[km](?=@)" if values.get("general") else r"fork-\d+[km]\b"
    for name, value in values.items():
        if name == "size_bases" and values.get("n_seeds", 1) < CURVE_SEEDS:
            continue
        for text in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(text, str) and (match := re.match(wanted, text)):
                found.add(match.group())
    return sorted(found)
