"""Models of a run, their predictions, and fits and scores of all of them, for the later notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from lib.blending.dataset import read_split
from lib.blending.generating import opening_prompts
from lib.blending.models import Models, read_models
from lib.blending.predictions import Predictions, ask_models, predictions_of_records
from lib.blending.published import prepare, published_curve, tune_published, tuning_records
from lib.blending.records import load_records
from lib.blending.scores import blend_scores, model_scores
from lib.blending.targets import draw_targets
from lib.blending.temperatures import Temperatures
from lib.blending.truncation import truncated_scores
from lib.blending.tuning import fit_blends, weights_of
from lib.notebook import Run
from lib.paths import atomic_write

PUBLISHED_BIGS = ("big", "davinci_base")


def run_models(run: Run) -> Models:
    """The models of a run; of published records, the names that `predictions_of_records` gives them."""
    if run.params["records"]:
        records = load_records(run.need("dataset/records.npz", stage="01"))
        there = [big for big in PUBLISHED_BIGS if all(getattr(each, big) is not None for each in records.values())]
        return Models("base", tuple(there), {0: "tuned"}, {})
    return read_models(pd.read_parquet(run.need("finetunes.parquet", stage="02")), run.params)


def run_predictions(run: Run, models: Models, *, split: str, n_targets: int) -> Predictions:
    """What the models of a run say of the targets of a split; of the directly tuned ones, the targets alone."""
    if run.params["records"]:
        return predictions_of_records(load_records(run.need("dataset/records.npz", stage="01")), half=split)
    client = run.client()
    documents = read_split(run.need("dataset", stage="01"), split)
    targets = draw_targets(
        client, models.base, documents, n_targets=n_targets, context_tokens=run.params["context_tokens"]
    )
    wanted = dict.fromkeys([models.base, *models.tuned.values(), *models.bigs], True)
    if split == "test":
        wanted |= dict.fromkeys(models.direct.values(), False)
    return ask_models(
        client,
        targets,
        wanted,
        folder=run.path("distributions"),
        top_k=run.params["top_k"],
        vocab_tokens=run.params["vocab_tokens"],
    )


def pooled_lengths(predictions: Predictions, least: int) -> list[int]:
    """Context lengths that one set of weights is fitted to: those from `least` tokens on, or else the longest."""
    return [length for length in predictions.context_tokens if length >= least] or predictions.context_tokens[-1:]


def fit_all(
    predictions: Predictions, models: Models, *, pooled: Sequence[int], storage: Path, n_trials: int, seed: int
) -> pd.DataFrame:
    """`fit_blends` for every big model and fine-tune, with columns ``big`` and ``seed``."""
    tables = []
    for big in models.bigs:
        for of_seed in models.seeds_of(big):
            supports = {
                length: predictions.support(length, big=big, tuned=models.tuned[of_seed], base=models.base)
                for length in predictions.context_tokens
            }
            fits = fit_blends(supports, pooled=pooled, storage=storage, n_trials=n_trials, seed=seed)
            tables.append(fits.assign(big=big, seed=of_seed))
    return pd.concat(tables, ignore_index=True)


def score_all(predictions: Predictions, models: Models, fits: pd.DataFrame) -> pd.DataFrame:
    """Raw scores of every model and blend: the rows of scores.parquet."""
    tables = [model_scores(predictions, models.base, condition="base")]
    tables += [model_scores(predictions, tuned, condition="tuned", seed=seed) for seed, tuned in models.tuned.items()]
    for big in models.bigs:
        tables.append(model_scores(predictions, big, condition="big", big=big))
        for seed in models.seeds_of(big):
            if direct := models.direct_of(big, seed):
                tables.append(model_scores(predictions, direct, condition="direct", big=big, seed=seed))
            own = fits[(fits["big"] == big) & (fits["seed"] == seed)]
            tables.append(
                blend_scores(predictions, own, big=big, tuned=models.tuned[seed], base=models.base, seed=seed)
            )
    return pd.concat(tables, ignore_index=True)


def truncate(
    predictions: Predictions, models: Models, fits: pd.DataFrame, *, ks: Sequence[int]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`truncated_scores` for the first big model and fine-tune, at no more tokens than the vocabulary has."""
    big, seed = models.bigs[0], min(models.tuned)
    own = fits[(fits["big"] == big) & (fits["seed"] == seed)]
    of_big, of_tuned, of_base = weights_of(own, form="temperatures")
    return truncated_scores(
        predictions,
        big=big,
        tuned=models.tuned[seed],
        base=models.base,
        weights=weights_of(own),
        temperatures=Temperatures(big=1 / of_big, tuned=1 / of_tuned, base=-1 / of_base),
        ks=list(dict.fromkeys(min(k, predictions.vocab_size) for k in ks)),
    )


def sizes_of(run: Run, models: Models) -> dict[str, int]:
    """Number of weights of each big model, 0 where the endpoint does not say it."""
    if run.params["records"]:
        return dict.fromkeys(models.bigs, 0)
    client = run.client()
    return {big: int(client.models.retrieve(big).model_dump().get("n_weights") or 0) for big in models.bigs}


def run_prompts(run: Run, models: Models) -> list[str]:
    """Prompts to continue: those of the user, or openings of test documents."""
    if run.params["prompts"]:
        return list(run.params["prompts"])
    documents = read_split(run.need("dataset", stage="01"), "test")
    n, n_tokens = run.params["n_prompts"], run.params["n_prompt_tokens"]
    return opening_prompts(run.client(), models.base, documents, n=n, n_tokens=n_tokens)


def published_curves(run: Run, models: Models, *, n_trials: int) -> pd.DataFrame:
    """Published records through the published pipeline: smoothed perplexities of each big model by context length.

    ``published.csv`` of the run folder holds them too, with the temperatures that the published search found.
    """
    records = load_records(run.need("dataset/records.npz", stage="01"))
    tables = []
    for big in models.bigs:
        prepared = {k: prepare(getattr(each, big), each.tuned, each.base, each.targets) for k, each in records.items()}
        storage = run.path("temperatures.journal")
        found = tune_published(tuning_records(prepared), storage=storage, n_trials=n_trials, seed=run.seed)
        curve = published_curve(prepared, found.temperatures).reset_index()
        tables.append(
            curve.assign(big_model=big, **{f"temperature_{k}": v for k, v in asdict(found.temperatures).items()})
        )
    table = pd.concat(tables, ignore_index=True)
    with atomic_write(run.path("published.csv")) as file:
        table.to_csv(file, index=False)
    return table
