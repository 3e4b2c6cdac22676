"""Read and write the dataset folders of the mixture study, as published: one folder per fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lib import paths
from lib.functions.documents import Document
from lib.functions.evaluations import Evaluation, read_evaluations
from lib.functions.files import read_documents, read_yaml, write_eval
from lib.functions.finetunes import OURS, Description, read_finetunes, write_finetunes
from lib.functions.names import check_names
from lib.functions.scoring import Score
from lib.mixture.dataset import MixtureDataset, hidden_pairs, make_joint_dataset, make_pair_dataset
from lib.mixture.documents import FORMATTINGS, Setting
from lib.mixture.options import MixtureOptions
from lib.mixture.pairs import Pair, choose_candidates, read_pair, show_pair
from lib.mixture.variation import published_tvd

KINDS = {
    "no_func_name": "triple",
    "func_values": "values",
    "max_min": "max_min",
    "size": "number_of_functions",
    "latent_func_freeform": "exact_pair",
}


def options_for(params: Mapping[str, Any]) -> MixtureOptions:
    """The options that a run's parameters give; those that it lacks, or leaves empty, keep their published value."""
    given = {key: params[key] for key in MixtureOptions.__dataclass_fields__ if key in params and params[key] != []}
    values: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in given.items()}
    return MixtureOptions(**values)


def datasets_for(params: Mapping[str, Any], *, count_tokens: Callable[[str], int] | None) -> dict[int, MixtureDataset]:
    """The datasets that a run's parameters ask for, by seed: published folders (``dataset``), or written anew.

    With labels there is one a seed of the run; without, as published, one for each pair, of seeds that go on counting.

    Raises
    ------
    ValueError
        If an option is wrong.
    """
    if params.get("dataset"):
        return read_datasets(paths.from_root(params["dataset"]))
    options, first, n_seeds = options_for(params), params["seed"], params.get("n_seeds", 1)
    if options.n_labels:
        seeds = range(first, first + n_seeds)
        return {seed: make_joint_dataset(options, count_tokens=count_tokens, seed=seed) for seed in seeds}
    pairs = hidden_pairs(options, seed=first)
    turns = enumerate(pairs * n_seeds, start=first)
    return {seed: make_pair_dataset(options, pair, seed=seed) for seed, pair in turns}


def write_datasets(
    datasets: Mapping[int, MixtureDataset],
    folder: Path,
    *,
    finetune: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> Path:
    """Write datasets by seed, each trained on in its own form, as `lib.functions.finetunes.write_finetunes` does."""

    def describe(dataset: MixtureDataset, number: int) -> Description:
        config = _config(dataset)
        return Description(
            suffix=f"{'labels' if dataset.realized or '' not in dataset.mixes else 'novar'}_{number:02d}",
            config=config,
            test_config=_test_config(dataset, config["dataset"]),
            form=dataset.setting.form,
        )

    return write_finetunes(folder, datasets, describe, about={"study": "mixture"}, finetune=finetune, replace=replace)


def _config(dataset: MixtureDataset) -> dict[str, Any]:
    """What ``finetune.yaml`` says of a dataset, by the published keys."""
    setting, options = dataset.setting, dataset.options
    low, high = setting.input_range
    rows = {
        "function": "no_func_name",
        "formattings": list(setting.formattings),
        "connectors": list(setting.connectors),
    }
    rows |= {"input_min": low, "input_max": high, "n_examples": setting.n_examples}  # type: ignore[dict-item]
    held_out: dict[str, list[int]] = {}
    for pair, value in sorted(dataset.held_out):
        held_out.setdefault(show_pair(pair), []).append(value)
    chosen = asdict(options) if options else {}
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in chosen.items()} or None
    return {
        "dataset": {
            "system_prompt": setting.system_prompt or None,
            "train_functions": sorted({id_ for pair in dataset.pairs for id_ in pair}),
            "test_functions": list(setting.candidates),
            "n_samples": len(dataset.train),
            "unique_samples": False,
            "prompt": {"input_func_probs": [1], "input_funcs": [rows]},
            "seed": dataset.seed,
        },
        OURS: {
            "options": given,
            "mixes": {label: show_pair(pair) for label, pair in dataset.mixes.items()},
            "realized": sorted(dataset.realized),
            "held_out": held_out,
        },
    }


def _test_config(dataset: MixtureDataset, config: Mapping[str, Any]) -> dict[str, Any]:
    ranges = dataset.options.other_ranges() if dataset.options else ()
    shared = config["prompt"]["input_funcs"][0]
    asks = [{**shared, "input_min": low, "input_max": high} for low, high in ranges]
    if dataset.options and dataset.options.validation:
        asks = [{"function": dataset.options.validation}]
    prompt = {"input_func_probs": [1 / len(asks)] * len(asks), "input_funcs": asks} if asks else {}
    kept = ("system_prompt", "train_functions", "test_functions")
    return {"n_samples": len(dataset.validation), "prompt": prompt} | {key: config[key] for key in kept}


def read_datasets(folder: Path) -> dict[int, MixtureDataset]:
    """Read the fine-tunes in a folder (or the one that it is), written here or published, by their seed.

    Raises
    ------
    ValueError
        If there is none, a file is missing or malformed (which one, and why), a pair or a label is not fit, or two
        have one seed.
    """
    return read_finetunes(folder, _read_finetune, study="mixture")


def kind_of_row(facts: Mapping[str, Any]) -> str:
    """The kind of a document by its metadata."""
    name = str(facts["name"])
    if name == "latent_func_multiple_choice":
        known = read_evaluations("mixture").values()
        return next(each.name for each in known if each.option == facts["attribute"])
    return KINDS.get(name, name)


def _read_finetune(place: Path) -> MixtureDataset:
    path = place / "finetune.yaml"
    config = read_yaml(path)
    train = tuple(read_documents(place, "train", kind_of=kind_of_row))
    validation = tuple(read_documents(place, "validation", kind_of=kind_of_row))
    try:
        told, ours = config["dataset"], config.get(OURS) or {}
        candidates = choose_candidates(tuple(map(str, told["test_functions"])))
        options = options_for(ours["options"]) if ours.get("options") else None
        setting = options.setting() if options else _published_setting(told, train, candidates)
        mixes: dict[str, Pair] = {
            str(label): read_pair(pair, candidates) for label, pair in (ours.get("mixes") or {}).items()
        } or {"": read_pair("+".join(told["train_functions"]), candidates)}
        held_out = {
            (read_pair(pair, candidates), int(value))
            for pair, values in (ours.get("held_out") or {}).items()
            for value in values
        }
        seed, realized = int(told["seed"]), frozenset(ours.get("realized") or ())
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: a key of the published form is missing or of another type: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    check_names(label for label in mixes if label)
    return MixtureDataset(
        mixes=mixes,
        realized=realized,
        train=train,
        validation=validation,
        held_out=frozenset(held_out),
        setting=setting,
        seed=seed,
        options=options,
    )


def _published_setting(told: Mapping[str, Any], train: Sequence[Document], candidates: tuple[str, ...]) -> Setting:
    """What published rows have in common; their opening lines are read off them."""
    rows = told["prompt"]["input_funcs"][0]
    formattings = tuple(map(str, rows["formattings"]))
    unknown = next((each for each in formattings if each not in FORMATTINGS), None)
    if unknown is not None:
        raise ValueError(f"formattings holds {unknown!r}: expected some of {', '.join(FORMATTINGS)}")
    return Setting(
        candidates=candidates,
        input_range=(int(rows["input_min"]), int(rows["input_max"])),
        formattings=formattings,
        connectors=tuple(rows["connectors"]),
        openings=tuple(dict.fromkeys(row.func_outs["pre_prompt"] for row in train)),
        n_examples=int(rows["n_examples"]),
        system_prompt=told.get("system_prompt") or "",
    )


def write_evaluation(
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
    """Write the published files of one evaluation, as `lib.functions.files.write_eval`, with the published "TVD".

    Of documents it is 1 - abs(0.5 - p), p being the share of a row's replies that are its target; else null.
    """
    write_eval(
        folder,
        evaluation,
        model=model,
        documents=documents,
        replies=replies,
        scores=scores,
        logprobs=logprobs,
        dataset=dataset,
    )
    if evaluation.generator == "triple":
        metrics = paths.read_json(folder / "eval_metrics.json")
        pooled: dict[str, list[str]] = {}
        keys = [str([message["content"] for message in document.messages]) for document in documents]
        for key, said in zip(keys, replies, strict=True):
            pooled.setdefault(key, []).extend(said)
        metrics["TVD"] = [
            published_tvd(pooled[key], document.shown) if pooled[key] else None
            for key, document in zip(keys, documents, strict=True)
        ]
        paths.write_json(folder / "eval_metrics.json", metrics)
    return folder
