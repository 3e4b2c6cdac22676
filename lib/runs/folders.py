"""What the run folders say of fine-tunes: which run made or took one, with which values, and has it numbers of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from lib.budget import spent_usd
from lib.paths import file_hash, read_json

log = logging.getLogger(__name__)

FINETUNES = "finetunes.parquet"
SUMMARY = "summary.csv"
SPENT = "spend.jsonl"


@dataclass(frozen=True)
class RunFolder:
    """One run of one study that has reached its fine-tunes.

    Attributes
    ----------
    roles : mapping of str to str
        Role of each final model: ``main``, ``sweep``, ``direct`` and so on.
    bases : mapping of str to str
        Base of each final model as the run knows it; empty for a model that the run was given.
    is_evaluated : bool
        Whether its summary was computed from these very fine-tunes.
    spent_usd : float
        What the run has cost at a hosted endpoint.
    """

    path: Path
    study: str
    preset: str
    params: Mapping[str, Any]
    manifest: Mapping[str, Any]
    roles: Mapping[str, str]
    bases: Mapping[str, str]
    is_evaluated: bool
    spent_usd: float

    @property
    def name(self) -> str:
        """``laptop/reversal``."""
        return "/".join(self.path.parts[-2:])

    def has_trained(self, model: str) -> bool:
        """Whether the run had this model made, rather than given to it."""
        return bool(self.bases.get(model))


def final_id(model: str) -> str:
    """Id of the fine-tune that a model id, perhaps of a checkpoint, belongs to.

    >>> final_id("ft:fork-1m:demo:k3x9:ckpt-step-96")
    'ft:fork-1m:demo:k3x9'
    """
    return re.sub(r":ckpt-step-\d+$", "", model)


def read_folders(root: Path) -> list[RunFolder]:
    """Every run below `root`, as in ``<preset>/<study>``, that has fine-tunes; a broken one is passed over, in the log.

    Parameters
    ----------
    root : folder of all runs, see `lib.paths.runs_root`
    """
    found = []
    for table in sorted(root.glob(f"*/*/{FINETUNES}")):
        if any(part.startswith(".") for part in table.relative_to(root).parts):
            continue  # kept by the project's own tests
        try:
            found.append(read_folder(table.parent))
        except (ValueError, KeyError, TypeError, OSError, pa.ArrowInvalid) as error:
            log.warning("%s is passed over: %s", table.parent, error)
    return found


def read_folder(path: Path) -> RunFolder:
    """One run folder.

    Raises
    ------
    ValueError
        If no stage of the run is finished, or a file of it cannot be read.
    """
    manifests = [read_json(each) for each in sorted(path.glob("[0-9][0-9].manifest.json"))]
    if not manifests:
        raise ValueError("no stage of it is finished")
    models = pd.read_parquet(path / FINETUNES)
    if missing := {"model", "base", "is_final"} - set(models.columns):
        raise ValueError(f"{FINETUNES} lacks the columns {', '.join(sorted(missing))}")
    final = models[models["is_final"].astype(bool) & models["model"].ne("")]
    params = manifests[-1]["parameters"]
    roles = final["role"] if "role" in final else pd.Series("main", index=final.index)
    given = {str(params.get("tuned_model", "")), *map(str, params.get("direct_models", []))}
    taken = final["model"].isin(given) | (final["model"] != final["base"])
    final, roles = final[taken], roles[taken]  # a base that was asked as it is, is no fine-tune
    names = [final_id(str(model)) for model in final["model"]]
    bases = ["" if model in given else str(base) for model, base in zip(final["model"], final["base"], strict=True)]
    return RunFolder(
        path=path,
        study=manifests[-1]["study"],
        preset=manifests[-1]["preset"],
        params=params,
        manifest=manifests[-1],
        roles=dict(zip(names, map(str, roles), strict=True)),
        bases=dict(zip(names, bases, strict=True)),
        is_evaluated=_is_evaluated(path, manifests),
        spent_usd=spent_usd(path / SPENT),
    )


def _is_evaluated(path: Path, manifests: list[Mapping[str, Any]]) -> bool:
    """Whether there is a summary, and each stage that has read the fine-tunes has read those that are there now."""
    read = [each["inputs"][FINETUNES] for each in manifests if FINETUNES in each.get("inputs", {})]
    return (path / SUMMARY).exists() and bool(read) and set(read) == {file_hash(path / FINETUNES)}
