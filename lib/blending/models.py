"""Which models a run blends: the small pair, the big ones, and the big ones tuned directly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from openai import OpenAI

from lib.finetune import FineTune, finetune, grid, record
from lib.params import active_bases
from lib.paths import from_root
from lib.world.bases import make_base

COLUMNS = ("role", "base", "seed", "model", "epoch", "step", "is_final", "train_loss", "valid_loss")


@dataclass(frozen=True)
class Models:
    """Model ids: `tuned` by seed, `direct` by big model and seed (none where nothing big was tuned)."""

    base: str
    bigs: tuple[str, ...]
    tuned: Mapping[int, str]
    direct: Mapping[tuple[str, int], str]

    def seeds_of(self, big: str) -> list[int]:
        """Fine-tunes that a big model is steered by: all for the first, one for each further."""
        seeds = sorted(self.tuned)
        return seeds if big == self.bigs[0] else seeds[:1]

    def direct_of(self, big: str, seed: int) -> str:
        """The big model tuned directly with a seed, or else the one that there is (it was given); empty if none."""
        return self.direct.get((big, seed)) or next((model for (of, _), model in self.direct.items() if of == big), "")


def base_ids(params: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Ids of the small base and of the big models.

    With ``general`` a plain ``fork-*`` is the one that is made from that text. ``size_bases`` are further big models
    from three seeds on.

    Raises
    ------
    ValueError
        If a base cannot be made from that text, or there is no big model.
    """
    base, *further = active_bases(params)
    names = [base, *dict.fromkeys([*params["bigs"], *further])]
    if len(names) < 2:
        raise ValueError("bigs is empty: name at least one big model")
    if params["general"]:
        names = [_made(name, from_root(params["general"])) for name in names]
    return names[0], names[1:]


def _made(name: str, text: Path) -> str:
    plain, colon, init = name.partition(":")
    if not plain.startswith("fork-") or "@" in plain:
        return name
    return make_base(plain, text) + colon + init


def models_to_tune(params: Mapping[str, Any], *, seeds: Sequence[int]) -> dict[str, list[FineTune]]:
    """Jobs by role: ``tuned`` (the small base, every seed) and ``direct`` (big models; further ones with one seed)."""
    base, bigs = base_ids(params)
    shared: dict[str, Any] = {
        "n_epochs": params["n_epochs"],
        "batch_sizes": [params["batch_size"]],
        "learning_rate_multipliers": [params["learning_rate_multiplier"]],
    }
    jobs: dict[str, list[FineTune]] = {}
    if not params["tuned_model"]:
        jobs["tuned"] = grid(bases=[base], seeds=seeds, **shared)
    if params["tune_bigs"] and not params["direct_models"]:
        jobs["direct"] = grid(bases=bigs[:1], seeds=seeds, **shared) + grid(bases=bigs[1:], seeds=seeds[:1], **shared)
    return jobs


def tune(
    client: OpenAI, params: Mapping[str, Any], jobs: Mapping[str, list[FineTune]], *, folder: Path
) -> pd.DataFrame:
    """Make, find or look up every tuned model: one row per usable model in `COLUMNS`; none where records are analysed.

    Raises
    ------
    ValueError
        If ``direct_models`` are not one for each big model.
    """
    if params["records"]:
        return pd.DataFrame(columns=list(COLUMNS))
    base, bigs = base_ids(params)
    files: dict[str, Any] = {"training_file": folder / "train.jsonl", "validation_file": folder / "validation.jsonl"}
    made = [finetune(client, wanted, **files, suffix="blending").assign(role=role) for role, wanted in jobs.items()]
    if params["tuned_model"]:
        made.append(record(client, params["tuned_model"]).assign(role="tuned", base=base, seed=params["seed"]))
    given = params["direct_models"]
    if given and len(given) != len(bigs):
        raise ValueError(
            f"{len(given)} direct_models for {len(bigs)} big models: expected one for each, in their order"
        )
    made += [
        record(client, model).assign(role="direct", base=big, seed=params["seed"])
        for big, model in zip(bigs, given, strict=False)
    ]
    return pd.concat(made, ignore_index=True)[list(COLUMNS)]


def read_models(finetunes: pd.DataFrame, params: Mapping[str, Any]) -> Models:
    """The models of a run, from the table that `tune` made."""
    base, bigs = base_ids(params)
    final = finetunes[finetunes["is_final"]]
    small, direct = final[final["role"] == "tuned"], final[final["role"] == "direct"]
    return Models(
        base,
        tuple(bigs),
        dict(zip(small["seed"], small["model"], strict=True)),
        {(row.base, row.seed): row.model for row in direct.itertuples()},
    )
