"""Read and write the published files of a fine-tune and of an evaluation, for both function studies."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from openai.types.fine_tuning import FineTuningJob

from lib import paths
from lib.functions.documents import Document, check_form
from lib.functions.evaluations import Evaluation
from lib.functions.scoring import Score

SPLITS = {"train": "train", "validation": "test"}  # published: the validation file is called test


def write_finetune(
    folder: Path,
    *,
    suffix: str,
    config: Mapping[str, Any],
    test_config: Mapping[str, Any],
    train: Sequence[Document],
    validation: Sequence[Document],
    form: str,
) -> tuple[Path, Path]:
    """Write one ``finetune_NN`` folder.

    Parameters
    ----------
    folder : Path
    suffix : of the model's name, which begins the names of the files
    config, test_config : of ``finetune.yaml`` and ``test_config.yaml``
    form : ``chat`` (the published files) or ``completion`` (``train.jsonl`` and ``validation.jsonl`` beside them)
        What is trained on; both are written.

    Returns
    -------
    tuple of 2 Path
        The training and the validation file in that form.
    """
    check_form(form)
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / "finetune.yaml", config)
    write_yaml(folder / "test_config.yaml", test_config)
    written = []
    for (split, name), documents in zip(SPLITS.items(), (train, validation), strict=True):
        _write_list(folder / f"{suffix}_{name}_dataset.json", map(_published, documents))
        by_form = {"chat": folder / f"{suffix}_{name}_oai.jsonl", "completion": folder / f"{split}.jsonl"}
        for each, path in by_form.items():
            paths.write_jsonl(path, (document.row(each) for document in documents))
        written.append(by_form[form])
    return written[0], written[1]


def _published(document: Document) -> dict[str, Any]:
    listed = not isinstance(document.target, str)
    messages = document.row("chat")["messages"]
    messages[-1]["content"] = None if listed else document.target
    target = list(document.target) if listed else document.target
    return {"func_outs": dict(document.func_outs), "target": target, "messages": messages}


def _write_list(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A JSON list with one row per line."""
    with paths.atomic_write(path) as file:
        file.write("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")


def write_yaml(path: Path, value: Mapping[str, Any]) -> None:
    """Write one YAML file, whole or not at all."""
    with paths.atomic_write(path) as file:
        yaml.safe_dump(dict(value), file, sort_keys=False, width=120)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML file that holds a mapping; anything else is named in the error (`ValueError`)."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a mapping of keys, found {type(value).__name__}")
    return value


def read_documents(folder: Path, split: str, *, kind_of: Any) -> list[Document]:
    """The documents of one split of a fine-tune folder, written here or published.

    Parameters
    ----------
    split : key of `SPLITS`
    kind_of : function of the metadata
        The kind of a document.

    Raises
    ------
    ValueError
        If there is not exactly one such file, or a row is not of the published form; says which and why.
    """
    name = SPLITS[split]
    found = sorted(folder.glob(f"*_{name}_dataset.json"))
    if len(found) != 1:
        raise ValueError(f"{folder}: expected one file *_{name}_dataset.json, found {len(found)}")
    rows = paths.read_json(found[0])
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{found[0]}: expected a list of rows, found {type(rows).__name__} of no rows")
    answers = _beside(found[0].with_name(found[0].name.replace("_dataset.json", "_oai.jsonl")), len(rows))
    texts = _beside(folder / f"{split}.jsonl", len(rows))
    documents = []
    for number, row in enumerate(rows, start=1):
        try:
            target, messages = row["target"], row["messages"]
            several = not isinstance(target, str)
            shown = answers[number - 1]["messages"][-1]["content"] if answers else None
            shown = shown or (str(target[0]) if several else target)
            own: dict[str, str] = {}
            if texts:
                prompt, completion = texts[number - 1]["prompt"], texts[number - 1]["completion"]
                own = {"text": prompt, "lead": completion.removesuffix(shown)}
            document = Document(
                kind_of(row["func_outs"]),
                tuple({"role": m["role"], "content": m["content"]} for m in messages[:-1]),
                tuple(map(str, target)) if several else target,
                row["func_outs"],
                **own,
                answer=shown if several else "",
            )
            documents.append(document)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"{found[0]}, row {number}: expected func_outs, target and messages: {error!r}") from error
    return documents


def _beside(path: Path, n_rows: int) -> list[dict[str, Any]]:
    """The rows of a file that goes with another one, row by row; none where it is missing."""
    rows = paths.read_jsonl(path) if path.is_file() else []
    if rows and len(rows) != n_rows:
        raise ValueError(f"{path} has {len(rows)} rows, the dataset beside it {n_rows}: expected as many")
    return rows


def save_response(folder: Path, job: FineTuningJob) -> Path:
    """Keep what the endpoint said about a job, as ``finetune_response.json`` (published: nulls as the text None)."""
    paths.write_json(folder / "finetune_response.json", job.model_dump(mode="json"))
    return folder / "finetune_response.json"


def write_eval(
    folder: Path,
    evaluation: Evaluation,
    *,
    model: str,
    documents: Sequence[Document],
    replies: Sequence[Sequence[str]],
    scores: Sequence[Sequence[Score]],
    logprobs: Sequence[float] | None = None,
    dataset: Mapping[str, Any] | None = None,
) -> Path:
    """Write the three published files of one evaluation.

    Parameters
    ----------
    folder : Path
    replies, scores : for each document, what a model wrote and how it fared
    logprobs : of each target, nats; None where they were not asked for
    dataset : what ``eval.yaml`` says of the dataset

    Notes
    -----
    ``correct`` is the published rule, averaged over replies; ``correct_ours`` ours. What is not known is null (the
    published code writes a bare NaN, which is not JSON). Log-probabilities of tokens are not kept: ``top_logprobs`` is
    empty.

    Raises
    ------
    ValueError
        If there are not as many replies and scores as documents.
    """
    if not len(documents) == len(replies) == len(scores):
        raise ValueError(f"{len(documents)} documents, {len(replies)} replies, {len(scores)} scores: expected as many")
    settings = {"model": model, "n": evaluation.n, "temperature": evaluation.temperature, "verbose": False}
    write_yaml(folder / "eval.yaml", {"eval": settings | {"dataset": ""}, "dataset": dict(dataset or {})})
    _write_list(folder / "eval_dataset.json", map(_published, documents))
    given = [None if math.isnan(value) else value for value in logprobs] if logprobs else [None] * len(documents)
    rows = [_published(document) for document in documents]
    metrics: dict[str, list[Any]] = {
        "func_outs": [row["func_outs"] for row in rows],
        "target": [row["target"] for row in rows],
        "model_out": [list(each) for each in replies],
        "top_logprobs": [[] for _ in rows],
        "correct": [_mean([float(score.published) for score in each]) for each in scores],
        "correct_ours": [_mean([float(score.correct) for score in each]) for each in scores],
        "prob": [None if value is None else math.exp(value) for value in given],
        "logprob": given,
        "abs_distance": [_mean([score.distance for score in each]) for each in scores],
        "TVD": [None for _ in rows],
        "l2_distance": [],
    }
    paths.write_json(folder / "eval_metrics.json", metrics)
    return folder


def _mean(values: Sequence[float]) -> float | None:
    """Mean of what is a number; None where nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None
