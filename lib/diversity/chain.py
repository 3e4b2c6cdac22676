"""The models of a chain and their stages: how stages are named, models that exist, and losses over training."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import pandas as pd
from openai import OpenAI

from lib.finetune import MEASURES, record
from lib.paths import DATA, read_yaml

BASE = "base"
N_SPANS = 15  # of a job's loss over its steps
# Fine-tunes may add a token or two, a padded vocabulary or a value head (about 0.5%); the next Pythia is 40% larger.
TOLERANCE = 0.01
_STAGE = re.compile(rf"(?P<label>[^:/\s][^:/]*):(?P<method>{'|'.join(MEASURES)}):(?P<n_epochs>[1-9]\d*)")
_GIVEN = re.compile(r"(?:(?P<family>[^:/]+)/)?(?P<label>[^:/]+):(?P<model>.+)")


class Stage(NamedTuple):
    """One stage of fine-tuning: its label in every table, its method, and how often it sees its rows."""

    label: str
    method: str
    n_epochs: int

    @property
    def labels(self) -> list[str]:
        """Of the models that it makes: one, or after several epochs one each.

        >>> Stage("SFT", "supervised", 2).labels
        ['SFT 1', 'SFT 2']
        """
        return [self.label] if self.n_epochs == 1 else [f"{self.label} {k + 1}" for k in range(self.n_epochs)]


def read_stages(entries: Sequence[str]) -> list[Stage]:
    """Stages as a preset names them, in order of training; `ValueError` for a malformed entry or a label twice.

    >>> read_stages(["SFT:supervised:1", "DPO:dpo:2"])[1]
    Stage(label='DPO', method='dpo', n_epochs=2)
    """
    stages = []
    for entry in entries:
        if not (parts := _STAGE.fullmatch(entry)):
            raise ValueError(f"stage {entry!r}: expected label:method:epochs with a method of {', '.join(MEASURES)}")
        stages.append(Stage(parts["label"], parts["method"], int(parts["n_epochs"])))
    _refuse_twice([BASE, *(label for stage in stages for label in stage.labels)])
    return stages


@cache
def known_models() -> pd.DataFrame:
    """Open models by name: ``id``, ``revision``, ``family``, ``stage``, ``n_parameters``, ``template``, ``model``.

    >>> known_models().loc["pythia-2.8b-sft-epoch-1", "model"]
    'hf:lomahony/pythia-2.8b-helpful-sft-3epochs@1'
    """
    rows = read_yaml(DATA / "diversity" / "models.yaml")
    table = pd.DataFrame(rows).set_index("name")
    revision = ("@" + table["revision"]).where(table["revision"] != "main", "")
    return table.assign(model=table["id"] + revision)


def given_chain(client: OpenAI, entries: Sequence[str], *, seed: int = 0, template: str = "") -> pd.DataFrame:
    """Models that exist: looked up and checked, never trained.

    Parameters
    ----------
    entries : in order of training, names of ``data/diversity/models.yaml`` or ``label:model id``, with ``family/`` in
        front where there are chains of several bases
    template : form of the prompts of all; empty for each model's own

    Returns
    -------
    DataFrame
        One row per model: ``family``, ``stage`` (its label), ``position`` (0 for the base), ``seed``, ``model``,
        ``template``, and the columns of `lib.finetune.finetune`.

    Raises
    ------
    ValueError
        If an entry is neither, a label occurs twice in a family, a model has another number of weights than declared,
        or the models of a family have different tokenizers.
    """
    known, rows = known_models(), []
    for entry in entries:
        if entry in known.index:
            declared = known.loc[entry]
            check_weights(client, declared["model"], declared["n_parameters"])
            rows.append(declared[["family", "stage", "model", "template"]].tolist())
        elif parts := _GIVEN.fullmatch(entry):
            own = "dialogue" if "fork-" in parts["model"] else "plain" if parts["label"] == BASE else "chat"
            rows.append([parts["family"] or "", parts["label"], parts["model"], own])
        else:
            names = ", ".join(known.index[:4])
            raise ValueError(f"chain: {entry!r} is not label:model, nor in data/diversity/models.yaml ({names}, ...)")
    table = pd.DataFrame(rows, columns=["family", "stage", "model", "template"])
    named = [family for family in table["family"].unique() if family]
    first = named[0] if len(named) == 1 else table["model"].iloc[0]
    table["family"] = table["family"].mask(table["family"] == "", first)
    table["template"] = template or table["template"]
    table["position"] = table.groupby("family").cumcount()
    for _, own_rows in table.groupby("family", sort=False):
        _refuse_twice(own_rows["stage"].tolist())
        check_tokenizers(client, own_rows["model"].tolist())
    about = pd.concat([record(client, model) for model in table["model"]], ignore_index=True)
    return about.assign(**table, seed=seed)


def _refuse_twice(labels: Sequence[str]) -> None:
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"two stages of one chain are called {twice[0]!r}: give each a label of its own")


def check_weights(client: OpenAI, model: str, n_declared: int) -> None:
    """Refuse a model whose number of weights is not the declared one; the published 6.9b presets named models of 2.8b.

    Raises
    ------
    ValueError
        If the number differs by more than `TOLERANCE`.
    openai.NotFoundError
        If the endpoint has no such model.
    """
    n_weights = client.models.retrieve(model).model_dump().get("n_weights")
    if n_weights == 0:
        raise ValueError(f"{model} has no safetensors, and no others are read: name a revision that has (@refs/pr/1)")
    if n_weights is not None and abs(n_weights - n_declared) > TOLERANCE * n_declared:
        raise ValueError(f"{model} has {n_weights:,} weights, expected {n_declared:,}: the id is that of another model")


def check_tokenizers(client: OpenAI, models: Sequence[str]) -> None:
    """Refuse a chain whose models have different tokenizers: measures of their tokens cannot be compared."""
    about = {model: client.models.retrieve(model).model_dump() for model in models}
    known = {(facts.get("tokenizer"), facts.get("vocab_tokens")): model for model, facts in about.items()}
    if len(known) > 1:
        sizes = [f"{model} ({n or 'unknown'} tokens)" for (_, n), model in known.items()]
        raise ValueError(f"{' and '.join(sizes)} have different tokenizers: choose stages of one base")


def training_curves(client: OpenAI, models: pd.DataFrame) -> pd.DataFrame:
    """What jobs reported while they trained: means over spans of their steps, and the range over fine-tunes.

    Returns
    -------
    DataFrame
        ``family``, ``stage``, ``quantity`` (``train_loss``, nats; of DPO also ``train_reward_accuracy``, a rate),
        ``step`` (the last of its span), ``value``, ``low``, ``high``. Empty where nothing was trained here.
    """
    keys, rows = ["family", "stage", "quantity", "step"], []
    for job, made in models[models["job"] != ""].groupby("job", sort=False):
        for event in client.fine_tuning.jobs.list_events(str(job), limit=100):
            reported = dict(event.data or {})  # type: ignore[call-overload]
            for name in {"train_loss", "train_reward_accuracy"} & reported.keys():
                span = max(1.0, reported["total_steps"] / N_SPANS)
                step = round(math.ceil(reported["step"] / span) * span)
                rows.append([made["family"].iloc[0], made["stage"].iloc[0], name, step, job, reported[name]])
    table = pd.DataFrame(rows, columns=[*keys, "job", "value"])
    of_jobs = table.groupby([*keys, "job"], sort=False)["value"].mean().reset_index()
    found = of_jobs.groupby(keys, sort=False)["value"].agg(value="mean", low="min", high="max").reset_index()
    return found.sort_values(["stage", "quantity", "step"], kind="stable", ignore_index=True)
