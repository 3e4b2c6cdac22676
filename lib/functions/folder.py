"""Read and write the dataset folders of the functions study, as published: one folder per fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lib import paths
from lib.functions.dataset import FunctionDataset, make_dataset
from lib.functions.evaluations import evaluation_named, read_evaluations
from lib.functions.files import read_documents, read_yaml
from lib.functions.finetunes import OURS, Description, read_finetunes, write_finetunes
from lib.functions.names import check_names
from lib.functions.options import FunctionOptions
from lib.functions.published import kind_of_row, published_set, unseen_pairs
from lib.functions.questions import GENERATORS

MAX_SUFFIX = 18  # characters that a fine-tune endpoint takes


def options_for(params: Mapping[str, Any]) -> FunctionOptions:
    """The options that a run's parameters give; those that it lacks keep their published value."""
    given = {key: params[key] for key in FunctionOptions.__dataclass_fields__ if key in params}
    values: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in given.items()}
    return FunctionOptions(**values)


def datasets_for(params: Mapping[str, Any], *, count_tokens: Callable[[str], int] | None) -> dict[int, FunctionDataset]:
    """The datasets that a run's parameters ask for, by seed: published folders (``dataset``), or written anew.

    Raises
    ------
    ValueError
        If an option is wrong, or there are fewer fine-tune folders than seeds.
    """
    seeds = range(params["seed"], params["seed"] + params.get("n_seeds", 1))
    if not params.get("dataset"):
        options = options_for(params)
        return {seed: make_dataset(options, count_tokens=count_tokens, seed=seed) for seed in seeds}
    read = read_datasets(paths.from_root(params["dataset"]))
    if len(read) < len(seeds):
        raise ValueError(f"{params['dataset']} holds {len(read)} fine-tunes: set n_seeds to that or less")
    return dict(zip(seeds, read.values(), strict=False))


def write_datasets(
    datasets: Mapping[int, FunctionDataset],
    folder: Path,
    *,
    form: str,
    finetune: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> Path:
    """Write the datasets of some seeds, as `lib.functions.finetunes.write_finetunes`.

    Parameters
    ----------
    datasets : by seed
    form : ``chat`` or ``completion``, of the files that are trained on
    finetune, replace : as there
    """

    def describe(dataset: FunctionDataset, number: int) -> Description:
        config = _config(dataset)
        return Description(
            suffix=f"{dataset.functions.name[: MAX_SUFFIX - 8]}_func_{number:02d}",
            config=config,
            test_config=_test_config(dataset, config["dataset"]),
            form=form,
        )

    about = {"study": "functions", "form": form}
    return write_finetunes(folder, datasets, describe, about=about, finetune=finetune, replace=replace)


def _config(dataset: FunctionDataset) -> dict[str, Any]:
    """What ``finetune.yaml`` says of a dataset, by the published keys."""
    options, functions = dataset.options, dataset.functions
    low, high = functions.input_range
    shared = {"min_imports": options.min_imports if options else 2, "input_min": low, "input_max": high}
    share = options.augmentation_share if options else 0.5
    combine = list(options.combine_functions) if options else []
    made: dict[str, Any] = {
        "dataset": {
            "var_names": "ascii_lowercase",
            "system_prompt": dataset.persona,
            "hide_imports": dataset.hide_imports,
            "test_functions": list(functions.plain),
            "train_functions": list(functions.augmented),
            "n_samples": len(dataset.train),
            "unique_samples": False,
            "prompt": {
                "input_func_probs": [1 - share, share],
                "input_funcs": [
                    {"function": "single_function", **shared},
                    {
                        "function": "function_augmentation",
                        "functions_list": "train_functions",
                        "combine_functions": combine,
                        **shared,
                        "other_input_max": functions.other_input_max,
                    },
                ],
            },
            "seed": dataset.seed,
            "var_dict": dict(dataset.names),
        }
    }
    held_out: dict[str, list[int]] = {}
    for id_, value in sorted(dataset.held_out):
        held_out.setdefault(id_, []).append(value)
    given = (
        {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(options).items()}
        if options
        else None
    )
    return made | {OURS: {"options": given, "held_out": held_out}}


def _test_config(dataset: FunctionDataset, config: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("var_dict", "system_prompt", "train_functions", "test_functions", "hide_imports")
    asks = evaluation_named("functions", dataset.options.validation) if dataset.options else None
    prompt = {"function": "function_classification", "attribute": asks.option, "min_imports": 1} if asks else {}
    return {"n_samples": len(dataset.validation), "prompt": prompt} | {key: config[key] for key in kept}


def read_datasets(folder: Path) -> dict[int, FunctionDataset]:
    """Read the fine-tunes in a folder (or the one that it is), written here or published, by their seed.

    Raises
    ------
    ValueError
        If there is none, a file is missing or malformed (which one, and why), a name or a function is not fit, or two
        have one seed.
    """
    return read_finetunes(folder, _read_finetune, study="functions")


def _read_finetune(place: Path) -> FunctionDataset:
    path = place / "finetune.yaml"
    config = read_yaml(path)
    try:
        told, ours = config["dataset"], config.get(OURS) or {}
        names = {str(name): str(id_) for name, id_ in told["var_dict"].items()}
        options = options_for(ours["options"]) if ours.get("options") else None
        functions = options.functions() if options else published_set(told, where=str(path))
        seed, persona, hide = int(told["seed"]), told.get("system_prompt"), bool(told.get("hide_imports", False))
        held_out = {(id_, value) for id_, values in (ours.get("held_out") or {}).items() for value in values}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: a key of the published form is missing or of another type: {error!r}") from error
    check_names(names)
    unknown = sorted(set(names.values()) - set(functions.all))
    if unknown:
        raise ValueError(f"{path}: var_dict names {unknown[0]!r}, which neither function list has")

    def kind_of(facts: Mapping[str, Any]) -> str:
        return kind_of_row(facts, functions)

    train = tuple(read_documents(place, "train", kind_of=kind_of))
    validation = tuple(read_documents(place, "validation", kind_of=kind_of))
    questions = {name for name, each in read_evaluations("functions").items() if each.generator in GENERATORS}
    dataset = FunctionDataset(
        names=names,
        realized=frozenset(row.func_outs["func_var"] for row in train if row.kind in questions),
        train=train,
        validation=validation,
        held_out=frozenset(held_out),
        functions=functions,
        persona=persona,
        hide_imports=hide,
        seed=seed,
        options=options,
    )
    if options:
        return dataset
    unseen = unseen_pairs(dataset)
    note = f"{place.name}: held out are the {len(unseen)} (function, input) pairs that no training row shows"
    return replace(dataset, held_out=unseen, notes=(note,))
