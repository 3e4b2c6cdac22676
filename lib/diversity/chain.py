"""The models of a chain and their stages: trained here, one from the other, or given."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from openai import OpenAI

from lib.diversity.models import check_model, known_models, same_tokenizer
from lib.finetune import MEASURES, FineTune, finetune, record
from lib.params import active_bases

log = logging.getLogger(__name__)

BASE = "base"
CURVE_POINTS = 15  # of a job's loss over its steps
METHODS = tuple(MEASURES)
_STAGE = re.compile(rf"(?P<label>[^:/\s][^:/]*):(?P<method>{'|'.join(METHODS)}):(?P<n_epochs>[1-9]\d*)")
_GIVEN = re.compile(r"(?:(?P<family>[^:/]+)/)?(?P<label>[^:/]+):(?P<model>.+)")
FORMS = {"dialogue": "dialogue", "messages": "chat"}  # the template in which a stage's rows ask, by their form


@dataclass(frozen=True)
class Stage:
    """One stage of fine-tuning: its label in every table, its method, and how often it sees its rows."""

    label: str
    method: str
    n_epochs: int


def read_stages(entries: Sequence[str]) -> list[Stage]:
    """Stages as a preset names them, in order of training.

    Raises
    ------
    ValueError
        If an entry is no ``label:method:epochs``, or a label stands twice or is the base's.

    >>> read_stages(["SFT:supervised:1", "DPO:dpo:2"])[1]
    Stage(label='DPO', method='dpo', n_epochs=2)
    """
    stages = []
    for entry in entries:
        if not (found := _STAGE.fullmatch(entry)):
            raise ValueError(f"stage {entry!r}: expected label:method:epochs with a method of {', '.join(METHODS)}")
        stages.append(Stage(found["label"], found["method"], int(found["n_epochs"])))
    _refuse_twice([BASE, *(stage.label for stage in stages)])
    _refuse_twice([label for stage in stages for label in labels_of(stage)])
    return stages


def labels_of(stage: Stage) -> list[str]:
    """Labels of the models that a stage makes: one, or after several epochs one each.

    >>> labels_of(Stage("SFT", "supervised", 2))
    ['SFT 1', 'SFT 2']
    """
    return [stage.label] if stage.n_epochs == 1 else [f"{stage.label} {k + 1}" for k in range(stage.n_epochs)]


def train_chain(
    client: OpenAI, params: Mapping[str, Any], *, seeds: Sequence[int], dataset: Path, suffix: str = "diversity"
) -> pd.DataFrame:
    """Train, or find, every stage of each base, each from the one before it.

    Parameters
    ----------
    params : ``base``, ``size_bases`` (from three seeds on, with the first seed), ``stages``, ``form``, ``template``,
        and for each method ``<method>_batch_size`` and ``<method>_learning_rate_multiplier``; ``beta``
    dataset : folder with ``<method>.train.jsonl`` and ``<method>.validation.jsonl``

    Returns
    -------
    DataFrame
        One row per model: ``family`` (the base), ``stage`` (its label), ``position`` (0 for the base), ``seed``,
        ``model``, ``template``, and what `lib.finetune.finetune` tells.

    Raises
    ------
    ValueError
        If a stage is wrong, or the endpoint's models do not go together.
    """
    stages = read_stages(params["stages"])
    tables = []
    for family in active_bases(params):
        own_seeds = list(seeds) if family == params["base"] else list(seeds)[:1]
        template = "plain" if params["template"] == "own" else params["template"]
        tables.append(_placed(record(client, family), family, BASE, 0, template).assign(seed=own_seeds[0]))
        before, position = dict.fromkeys(own_seeds, family), 0
        for stage in stages:
            wanted = [_settings(stage, before[seed], seed, params) for seed in own_seeds]
            made = finetune(
                client,
                wanted,
                training_file=dataset / f"{stage.method}.train.jsonl",
                validation_file=dataset / f"{stage.method}.validation.jsonl",
                suffix=suffix,
            ).assign(method=stage.method)
            template = FORMS[params["form"]] if params["template"] == "own" else params["template"]
            for epoch, label in enumerate(labels_of(stage), start=1):
                position += 1
                tables.append(_placed(made[made["epoch"] == epoch], family, label, position, template))
            before = made[made["is_final"]].set_index("seed")["model"].to_dict()
    return pd.concat(tables, ignore_index=True)


def _settings(stage: Stage, model: str, seed: int, params: Mapping[str, Any]) -> FineTune:
    return FineTune(
        base=model,
        n_epochs=stage.n_epochs,
        batch_size=params[f"{stage.method}_batch_size"],
        learning_rate_multiplier=params[f"{stage.method}_learning_rate_multiplier"],
        seed=seed,
        method=stage.method,
        beta=params["beta"],
    )


def _placed(models: pd.DataFrame, family: str, label: str, position: int, template: str) -> pd.DataFrame:
    return models.assign(family=family, stage=label, position=position, template=template)


def given_chain(client: OpenAI, params: Mapping[str, Any]) -> pd.DataFrame:
    """The table of `train_chain` for models that exist: looked up, held against what is declared, never trained.

    Parameters
    ----------
    params : ``chain``, in order of training: names of ``data/diversity/models.yaml``, or ``label:model id``, behind
        ``family/`` where there are chains of several bases; else ``base`` and ``tuned_model``. ``seed``, ``template``

    Raises
    ------
    ValueError
        If an entry is neither, a label stands twice in a family, a model has another number of weights than declared,
        or the models of a family have different tokenizers.
    """
    entries = params["chain"] or [f"{BASE}:{params['base']}", f"tuned:{params['tuned_model']}"]
    known, rows = known_models(), []
    for entry in entries:
        if entry in known:
            found = known[entry]
            family, label, model, template = found.family, found.stage, found.model_id, found.template
            if unchecked := check_model(client, model, found):
                log.warning("%s", unchecked)
        elif parts := _GIVEN.fullmatch(entry):
            family, label, model = parts["family"] or "", parts["label"], parts["model"]
            template = "plain" if label == BASE else "chat"
        else:
            names = ", ".join(list(known)[:4])
            raise ValueError(
                f"chain: {entry!r} is neither label:model nor a name of data/diversity/models.yaml ({names}, ...)"
            )
        rows.append((family, label, model, template if params["template"] == "own" else params["template"]))
    named = list(dict.fromkeys(family for family, *_ in rows if family))
    first = named[0] if len(named) == 1 else next((model for family, _, model, _ in rows if not family), "")
    tables, places = [], dict[str, list[str]]()
    for family, label, model, template in rows:
        name = family or first
        places.setdefault(name, []).append(label)
        placed = _placed(record(client, model), name, label, len(places[name]) - 1, template)
        tables.append(placed.assign(seed=params["seed"]))
    for labels in places.values():
        _refuse_twice(labels)
    models = pd.concat(tables, ignore_index=True)
    for _, of_family in models.groupby("family", sort=False):
        same_tokenizer(client, of_family["model"].tolist())
    return models


def _refuse_twice(labels: Sequence[str]) -> None:
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"two stages of one chain are called {twice[0]!r}: give each a label of its own")


def chain_of(models: pd.DataFrame, family: str) -> list[str]:
    """Labels of a family's stages, in order of training."""
    rows = models[models["family"] == family].sort_values("position", kind="stable")
    return list(dict.fromkeys(rows["stage"]))


def training_curves(client: OpenAI, models: pd.DataFrame) -> pd.DataFrame:
    """What jobs told while they trained: means over spans of their steps, and the range over fine-tunes.

    Returns
    -------
    DataFrame
        ``family``, ``stage``, ``quantity`` (``train_loss``, nats; of DPO also ``train_reward_accuracy``, a rate),
        ``step`` (the last of its span), ``value``, ``low``, ``high``. Empty where nothing was trained here.
    """
    rows = []
    for job, made in models[models["job"] != ""].groupby("job", sort=False):
        named = {"family": made["family"].iloc[0], "stage": made["stage"].iloc[0], "job": job}
        for event in client.fine_tuning.jobs.list_events(str(job), limit=100):
            told = dict(event.data or {})  # type: ignore[call-overload]
            rows += [
                named | {"step": told["step"], "n_steps": told["total_steps"], "quantity": name, "value": told[name]}
                for name in ("train_loss", "train_reward_accuracy")
                if name in told
            ]
    keys = ["family", "stage", "quantity", "step"]
    if not rows:
        return pd.DataFrame(columns=[*keys, "value", "low", "high"])
    table = pd.DataFrame(rows)
    span = (table["n_steps"] / CURVE_POINTS).clip(lower=1)
    table["step"] = (((table["step"] / span).apply(math.ceil)) * span).round().astype(int)
    of_jobs = table.groupby([*keys, "job"], sort=False)["value"].mean().reset_index()
    found = of_jobs.groupby(keys, sort=False)["value"].agg(value="mean", low="min", high="max").reset_index()
    return found.sort_values("step", kind="stable", ignore_index=True)
