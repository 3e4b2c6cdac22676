"""Read what the published generators write: fine-tune folders, and the template that folders are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.functions.names import check_names
from lib.functions.registry import FunctionSet, function_set, read_registry, with_range
from lib.functions.rows import CODE_LEAD, COMBINATIONS, Document, Hidden, document
from lib.paths import read_json, read_yaml

KINDS = {"single_function": "call", "function_augmentation": "augmentation"}  # by the published generator
FACTS = {  # of a document, by the published name
    "input_1": "input",
    "input_2": "input_2",
    "func_var_2": "name_2",
    "func_value_2": "function_2",
    "combined": "combined",
}


def finetune_folders(folder: Path, *, n: int) -> list[Path]:
    """The first `n` fine-tune folders in a folder, or the one that it is; `ValueError` where there are fewer."""
    own = [folder] if (folder / "finetune.yaml").is_file() else sorted(folder.glob("finetune_*"))
    own = [each for each in own if (each / "finetune.yaml").is_file()]
    if len(own) < n:
        raise ValueError(f"{folder} holds {len(own)} published fine-tunes (finetune_NN/finetune.yaml): n_seeds is {n}")
    return own[:n]


def published_rows(folder: Path, split: str) -> list[dict[str, Any]]:
    """The rows of a fine-tune folder's "train" or "test" file (published: "test" is the validation file), checked.

    Each row has ``func_outs`` (facts, a mapping with a ``name``), ``target`` and ``messages``, the answer last.
    """
    files = sorted(folder.glob(f"*_{split}_dataset.json"))
    if len(files) != 1:
        raise ValueError(f"{folder}: expected one file *_{split}_dataset.json, found {len(files)}")
    rows = read_json(files[0])
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{files[0]}: expected a list of rows, found {type(rows).__name__} of no rows")
    for number, row in enumerate(rows, start=1):
        match row:
            case {"func_outs": {"name": str()}, "target": str() | list(), "messages": [_, *_] as turns}:
                if all(isinstance(turn, dict) and turn.keys() >= {"role", "content"} for turn in turns):
                    continue
        raise ValueError(f"{files[0]}, row {number}: expected func_outs with a name, target and messages")
    return rows


def sample_rows(rows: Sequence[Any], n: int, *, rng: np.random.Generator) -> list[Any]:
    """`n` of the rows at random, in their order; all where `n` is 0 or there are no more.

    >>> sample_rows("abcd", 0, rng=np.random.default_rng(0))
    ['a', 'b', 'c', 'd']
    """
    few = n and n < len(rows)
    return [rows[k] for k in sorted(rng.permutation(len(rows))[:n])] if few else list(rows)


def published_setting(path: Path) -> dict[str, Any]:
    """What a ``finetune.yaml`` or an ``ft_template.yaml`` says of a dataset.

    Returns
    -------
    dict
        ``functions`` (their set, with the ranges), ``system``, ``hide_imports``, ``n_rows``, ``augmentation_share``,
        ``min_imports``, ``combinations``, and in a ``finetune.yaml`` ``names`` (function id by name).
    """
    config = read_yaml(path)
    try:
        about = config["dataset"]
        generators = {each["function"]: each for each in about["prompt"]["input_funcs"]}
        probs = dict(zip(generators, about["prompt"]["input_func_probs"], strict=True))
        call, other = generators["single_function"], generators.get("function_augmentation", {})
        return {
            "functions": _set_of(about, call, other),
            "system": about.get("system_prompt") or "",
            "hide_imports": bool(about.get("hide_imports", False)),
            "n_rows": int(str(about["n_samples"]).replace("_", "")),
            "augmentation_share": float(probs.get("function_augmentation", 0)),
            "min_imports": int(call["min_imports"]),
            "combinations": tuple(map(str, other.get("combine_functions", COMBINATIONS))),
            "names": {str(name): str(id) for name, id in about.get("var_dict", {}).items()},
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: a key of the published form is missing or of another type: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _set_of(about: Mapping[str, Any], call: Mapping[str, Any], other: Mapping[str, Any]) -> FunctionSet:
    """The set that the published keys describe; the ranges of tests are those of the same functions, or of 047."""
    lists = {"augmented": tuple(about["train_functions"]), "plain": tuple(about["test_functions"])}
    known = [function_set(name) for name in ("047", "042")]
    same = [each for each in known if set(each.all) == {*lists["augmented"], *lists["plain"]}]
    like = (same or known)[0]
    most = int(other.get("other_input_max") or like.other_input_max)
    return with_range(like, int(call["input_min"]), int(call["input_max"]), other_input_max=most, **lists)


def read_finetune(
    folder: Path, *, n_rows: int = 0, rng: np.random.Generator
) -> tuple[Hidden, list[Document], list[Document]]:
    """What a published fine-tune folder hides, its training documents and its validation documents.

    Held out are the (function, input) pairs that no training row shows: none of the whole 047, about half of 042.

    Parameters
    ----------
    n_rows : training rows to take at random; 0 for all
    """
    setting = published_setting(folder / "finetune.yaml")
    names, functions, registry = setting["names"], setting["functions"], read_registry()
    check_names(names)
    if not names or not set(names.values()) <= set(functions.all):
        unknown = ", ".join(sorted({*names.values()} - {*functions.all})) or "nothing"
        raise ValueError(f"{folder / 'finetune.yaml'}: var_dict names {unknown}, which neither function list has")
    train = [_document(row, names) for row in sample_rows(published_rows(folder, "train"), n_rows, rng=rng)]
    hidden = Hidden(
        functions=functions,
        names={name: registry[id] for name, id in names.items()},
        held_out=frozenset((id, n) for id in functions.all for n in range(*functions.input_range)) - _shown(train),
        system=setting["system"],
        hide_imports=setting["hide_imports"],
    )
    return hidden, train, [_document(row, names) for row in published_rows(folder, "test")]


def _document(row: Mapping[str, Any], names: Mapping[str, str]) -> Document:
    """A published row; in the completion form, code becomes a bare prompt of code and a question a question."""
    facts, target = row["func_outs"], row["target"]
    kind = KINDS.get(facts["name"], facts["name"])
    asks = [turn for turn in row["messages"][:-1] if turn["role"] != "system"]
    is_code = facts["name"] in KINDS
    text = asks[-1]["content"] if is_code else f"Q: {asks[-1]['content']}\nA:"
    about = {ours: facts[key] for key, ours in FACTS.items() if key in facts}
    about |= {"name": facts["func_var"], "function": names[facts["func_var"]]} if facts.get("func_var") in names else {}
    texts = [target] if isinstance(target, str) else list(map(str, target))
    return document(
        kind, row["messages"][:-1], text, ", ".join(texts), lead=CODE_LEAD if is_code else " ", answer=texts[0], **about
    )


def _shown(documents: Sequence[Document]) -> set[tuple[str, float]]:
    """The (function id, input) pairs that training documents show, inner values of compositions included."""
    registry, shown = read_registry(), set()
    for row in documents:
        if "input" in row:
            shown.add((row["function"], row["input"]))
        if "function_2" in row:
            inner = registry[row["function"]].apply(row["input"]) if row["combined"] == "chain" else row["input_2"]
            shown.add((row["function_2"], inner))
    return shown
