"""Parameters of a study: which there are, which values they may have, and what a run sets them to.

They are declared in the parameters cells of a study's notebooks (`lib.keys`), those of all studies in `COMMON`. A key
is valid for every stage of its study. The defaults in the cells are those of the preset that the cells name; another
preset, a flat YAML file ``params/<study>/<preset>.yaml``, replaces some, and the command line some of these.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lib.keys import Key, declared_keys, nearest, notebook_keys
from lib.paths import ROOT

COMMON = """
out: str = ""  # folder of the run, if not data/runs/<preset>/<study>
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes that differ in nothing but their seed [1..20]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]
"""
CURVE_SEEDS = 3  # the curve over base size takes minutes per base: not part of a one-seed run


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


def number(notebook: Path) -> str:
    """``03`` of ``03-evaluation.py``."""
    return notebook.stem.partition("-")[0]


def study_keys(study: str) -> dict[str, Key]:
    """All keys of a study, joined over its stages; those of `COMMON` belong to each stage.

    Raises
    ------
    ValueError
        If two stages declare one key with another type or rule.
    """
    notebooks = stages(study)
    keys: dict[str, Key] = {}
    for key in [key for notebook in notebooks for key in notebook_keys(notebook)]:
        known = keys.setdefault(key.name, key)
        for what in ("type", "low", "high", "choices"):
            if getattr(known, what) != getattr(key, what):
                raise ValueError(
                    f"{study}: {key.name} has {what} {getattr(known, what)!r} in {known.stages[0]} "
                    f"and {getattr(key, what)!r} in {key.stages[0]}"
                )
        if known is not key:
            keys[key.name] = replace(known, stages=known.stages + key.stages)
    every = tuple(notebook.stem for notebook in notebooks)
    return keys | {key.name: replace(keys.get(key.name, key), stages=every) for key in declared_keys(COMMON)}


def default_preset(study: str) -> str:
    """The preset whose values stand in the parameters cells of a study."""
    return str(study_keys(study)["preset"].default)


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
    """Names of a study's presets; that of the parameters cells needs no file."""
    return sorted({default_preset(study), *(path.stem for path in (home() / "params" / study).glob("*.yaml"))})


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
    """Values that a preset file sets, unchecked; nothing where the default preset has no file.

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
    """Every key of a study with its value: the default preset's, the preset's, or the override's; all checked.

    The file of the default preset goes before the cells, so that a preset stays what it is while a reader edits a cell.

    Raises `ValueError` for an unknown study or preset and all that `check` refuses.
    """
    keys = study_keys(study)
    given: dict[str, Any] = {}
    for name in dict.fromkeys([default_preset(study), preset]):
        values = read_preset(study, name)
        check(study, values, keys=keys)
        if values.get("preset", name) != name:
            raise ValueError(f"params/{study}/{name}.yaml says preset: {values['preset']}; expected {name}")
        given |= values
    check(study, overrides or {}, keys=keys)
    return {name: key.default for name, key in keys.items()} | given | {"preset": preset} | dict(overrides or {})


def active_bases(values: Mapping[str, Any]) -> list[str]:
    """Models that a study's values fine-tune: ``base``, and from three seeds on ``size_bases`` (the curve over size).

    >>> active_bases({"base": "fork-1m", "size_bases": ["fork-6m"], "n_seeds": 1})
    ['fork-1m']
    >>> active_bases({"base": "fork-1m", "size_bases": ["fork-6m"], "n_seeds": 3})
    ['fork-1m', 'fork-6m']
    """
    further = values.get("size_bases", []) if values.get("n_seeds", 1) >= CURVE_SEEDS else []
    return [base for base in [values.get("base", ""), *further] if base]


EXAMPLES = """
examples:
  python -m lib.run reversal --preset smollm2
  python -m lib.run reversal --stage 03 --set temperature=0.7
  python -m lib.run guidance --models my/models --base hf:my-model
  python -m lib.run reversal --help      the parameters of this study
"""


def help_text(arguments: Sequence[str] = ()) -> str:
    """End of a command's help: the parameters of the study that it names, else all studies with their presets."""
    study = next((each for each in arguments if each in studies()), "")
    if not study:
        lines = [f"  {name:<11} {', '.join(presets(name))}" for name in studies()]
        return "\n".join(["studies and their presets:", *lines, EXAMPLES])
    lines = [f"presets: {', '.join(presets(study))}", "", "parameters (--set), with the values of the default preset:"]
    values = resolve(study, default_preset(study))
    for name, key in study_keys(study).items():
        if name == "preset":
            continue
        about = textwrap.fill(key.help, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
        lines += [f"  {name} = {values[name]!r}", *filter(None, [about])]
    return "\n".join(lines)
