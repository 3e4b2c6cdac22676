"""Data of one fine-tune of the mixture study: written here, or read from a published folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.functions import mixture
from lib.functions.evaluations import choose_evaluations, take_turns
from lib.functions.mixture import FORMATTINGS, PARTS, Data, Mix, Pair, Setting
from lib.functions.names import draw_names
from lib.functions.published import finetune_folders, published_rows, sample_rows
from lib.functions.registry import read_registry
from lib.functions.rows import Document, document
from lib.keys import nearest
from lib.paths import read_yaml


def make_labelled(
    setting: Setting, pairs: Sequence[Pair], *, n_labels: int, n_realized: int, documents_per_label: int,
    questions: Mapping[str, int], held_out_share: float, n_validation: int, seed: int, name_tokens: int = 1,
    count_tokens: Callable[[str], int] | None = None,
) -> Data:  # fmt: skip
    """The labelled form: documents of every label, and `questions` (copies by evaluation) about the realized ones.

    Labels are dealt to the pairs in turn. The first `n_realized` are realized, so that a pair with two labels is likely
    to have one of each part. The validation file asks for the pairs of unrealized labels.

    Raises
    ------
    ValueError
        If there are fewer labels than pairs or realized labels, too few names, or a question suits no realized label.
    """
    if n_labels < max(len(pairs), n_realized):
        raise ValueError(f"n_labels is {n_labels}: expected at least one per pair ({len(pairs)}), and n_realized")
    if bool(n_realized) != bool(questions):
        raise ValueError(f"n_realized is {n_realized} and questions {dict(questions)}: set both or neither")
    rng = np.random.default_rng([seed, 4])
    labels = draw_names(n_labels, n_tokens=name_tokens, rng=rng, count_tokens=count_tokens)
    dealt, held_out = [pairs[k] for k in rng.permutation(len(pairs))], _held_out(setting, pairs, held_out_share, seed)
    mixes = [_mix(label, dealt[k % len(dealt)], PARTS[k >= n_realized], held_out) for k, label in enumerate(labels)]
    rng = np.random.default_rng([seed, 2])
    made = [mixture.draw_document(setting, mix, rng=rng) for mix in mixes for _ in range(documents_per_label)]
    for name, copies in questions.items():
        spec = choose_evaluations("mixture", [name]).iloc[0]
        reasons = [mixture.unsupported(setting, mix, spec) for mix in mixes[:n_realized]]
        if spec.generator == "triple" or all(reasons):
            raise ValueError(
                f"questions holds {name}: {reasons[0] or 'that is a document, not a question about a pair'}"
            )
        suited = [mix for mix, reason in zip(mixes, reasons, strict=False) if not reason]
        made += [mixture.question(setting, mix, spec, rng=rng) for mix in suited for _ in range(copies)]
    train = [made[k] for k in rng.permutation(len(made))]
    rng, others = np.random.default_rng([seed, 3]), mixes[n_realized:] or mixes
    turns = take_turns(others, n_validation, rng=rng)
    exact_pair = choose_evaluations("mixture", ["exact_pair"]).iloc[0]
    validation = [mixture.question(setting, mix, exact_pair, rng=rng) for mix in turns]
    return {"train": train, "validation": validation, "mixes": mixes}


def permute_questions(data: Data, *, seed: int) -> list[Document]:
    """The control: the same documents and questions, but with the labels of the questions permuted.

    What training answers about a label then says nothing about its documents.
    """
    labels = [mix["label"] for mix in data["mixes"] if mix["part"] == PARTS[0]]
    others = dict(zip(labels, np.random.default_rng([seed, 5]).permutation(labels).tolist(), strict=True))
    return [row if row["kind"] == "document" else _relabelled(row, others[row["label"]]) for row in data["train"]]


def _relabelled(row: Document, label: str) -> Document:
    messages = [each | {"content": each["content"].replace(row["label"], label)} for each in row["messages"]]
    return row | {"messages": messages, "text": row["text"].replace(row["label"], label), "label": label}


def make_unlabelled(
    setting: Setting, pair: Pair, *, n_rows: int, held_out_share: float, n_validation: int, seed: int,
    old: Sequence[Document] = (), mix_old: float = 0.0,
) -> Data:  # fmt: skip
    """The published form: documents of one pair, with nothing that names it; `mix_old` is the share of `old` rows.

    The validation file has documents with inputs beyond both ends of the range.
    """
    mix = _mix("", pair, PARTS[1], _held_out(setting, [pair], held_out_share, seed))
    rng = np.random.default_rng([seed, 2])
    made = [mixture.draw_document(setting, mix, rng=rng) for _ in range(n_rows)]
    if mix_old:
        n_old = round(n_rows * mix_old / (1 - mix_old))
        if n_old > len(old):
            raise ValueError(f"mix_old is {mix_old}: {n_old} old rows are needed, and there are {len(old)}")
        made += [old[k] for k in rng.permutation(len(old))[:n_old]]
        made = [made[k] for k in rng.permutation(len(made))]
    rng, (low, high) = np.random.default_rng([seed, 3]), setting.input_range
    beyond = [(high, 2 * high + 1), (2 * low - 1, low)]
    validation = [mixture.draw_document(setting, mix, rng=rng, ranges=beyond) for _ in range(n_validation)]
    return {"train": made, "validation": validation, "mixes": [mix]}


def _mix(label: str, pair: Pair, part: str, held_out: Mapping[Pair, list[int]]) -> Mix:
    return {"label": label, "functions": list(pair), "part": part, "held_out": held_out[pair]}


def _held_out(setting: Setting, pairs: Sequence[Pair], share: float, seed: int) -> dict[Pair, list[int]]:
    """Of each pair's inputs, a share that its documents never show."""
    low, high = setting.input_range
    rng, n = np.random.default_rng([seed, 1]), round(share * (high - low))
    return {pair: sorted(low + int(k) for k in rng.permutation(high - low)[:n]) for pair in pairs}


def read_template(path: Path) -> tuple[Setting, int]:
    """The setting and the number of rows of a published ``ft_template.yaml``."""
    config, setting = _read_config(path)
    return setting, int(config["n_samples"])


def read_published(folder: Path, *, max_rows: int = 0, seed: int = 0) -> list[tuple[Setting, Data]]:
    """Read the fine-tunes in a published folder, or the one that it is; their rows stay whole conversations.

    Parameters
    ----------
    max_rows : of each file, at random; 0 takes all

    Raises
    ------
    ValueError
        If there is none, or a file or row is not as published; names it.
    """
    found, rng = [], np.random.default_rng([seed, 6])
    for path in finetune_folders(folder, n=max(1, len(list(folder.glob("finetune_*/finetune.yaml"))))):
        config, setting = _read_config(path / "finetune.yaml")
        functions = sorted(map(str, config.get("train_functions") or ()))
        if functions not in map(list, mixture.all_pairs(setting.candidates)):
            known = ", ".join(setting.candidates)
            raise ValueError(f"{path}/finetune.yaml: train_functions is {functions}: expected two of {known}")
        mix = {"label": "", "functions": functions, "part": PARTS[1], "held_out": []}
        rows = {split: sample_rows(published_rows(path, split), max_rows, rng=rng) for split in ("train", "test")}
        train, validation = ([_read_row(row, mix, path) for row in rows[split]] for split in ("train", "test"))
        setting = replace(setting, openings=tuple(dict.fromkeys(row["messages"][0]["content"] for row in train)))
        found.append((setting, {"train": train, "validation": validation, "mixes": [mix]}))
    return found


def _read_config(path: Path) -> tuple[Mapping[str, Any], Setting]:
    try:
        config = read_yaml(path)["dataset"]
        rows = config["prompt"]["input_funcs"][0]
        setting = Setting(
            candidates=tuple(map(str, config["test_functions"])),
            input_range=(int(rows["input_min"]), int(rows["input_max"])),
            formattings=tuple(map(str, rows["formattings"])),
            connectors=tuple(map(str, rows["connectors"])),
            n_examples=int(rows["n_examples"]),
        )
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: a key of the published form is missing or of another type: {error!r}") from error
    known = [*read_registry(), *FORMATTINGS]
    if unknown := [name for name in (*setting.candidates, *setting.formattings) if name not in known]:
        raise ValueError(f"{path}: no function or formatting is called {unknown[0]!r}{nearest(unknown[0], known)}")
    return config, setting


def _read_row(row: Mapping[str, Any], mix: Mix, path: Path) -> Document:
    *messages, last = row["messages"]
    roles = [each["role"] for each in row["messages"]]
    if len(roles) < 3 or roles != ["user", *["user", "assistant"] * (len(roles) // 2)]:
        found = ", ".join(roles)
        raise ValueError(f"{path}: a row needs an opening line, then inputs and outputs in turn, found {found}")
    return document("document", messages, "", last["content"], **mixture.about(mix))
