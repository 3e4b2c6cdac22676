"""The ledger of fine-tunes: jobs of the endpoint, joined with the run folders and tags that name them.

Tags are in ``tags.json`` beside the runs: ``{id: [tag, ...]}``.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from lib.budget import Prices, UnknownPrice
from lib.keys import nearest
from lib.paths import file_hash, read_json, write_json

log = logging.getLogger(__name__)

FINETUNES, SUMMARY, TAGS = "finetunes.parquet", "summary.csv", "tags.json"
NOT_LISTED = "not listed"  # a run folder names the model, but the endpoint has no job of it


@dataclass(frozen=True)
class RunFolder:
    """One run of one study that has its fine-tunes.

    Parameters
    ----------
    models : row of the fine-tunes' table of each final model; ``base`` is empty for a model that was given
    is_evaluated : whether its summary was computed from these fine-tunes
    """

    path: Path
    study: str
    preset: str
    params: Mapping[str, Any]
    models: Mapping[str, Any]
    is_evaluated: bool

    @property
    def name(self) -> str:
        """``laptop/reversal``."""
        return "/".join(self.path.parts[-2:])


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """One fine-tune.

    Parameters
    ----------
    model : its id; empty until the job has succeeded
    study : that made it, else the first that took it, else the suffix of the job
    created_at : seconds since 1970; None for one that only a run folder names
    tokens : trained on, over all epochs, as the endpoint counts them
    usd : their price; None where nothing costs money, or without a price
    """

    job: str = ""
    model: str = ""
    base: str = ""
    study: str = ""
    status: str = NOT_LISTED
    created_at: int | None = None
    tokens: int | None = None
    usd: float | None = None
    seed: int | None = None
    error: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    tags: Sequence[str] = ()
    runs: Sequence[RunFolder] = ()

    @property
    def id(self) -> str:
        """The id that tags and uploads have: the job's, else the model's."""
        return self.job or self.model

    @property
    def title(self) -> str:
        return self.model or f"{self.base} ({self.job})"

    @property
    def evaluated_in(self) -> list[str]:
        """Names of the runs with numbers of it."""
        return [run.name for run in self.runs if run.is_evaluated]

    @property
    def made_by(self) -> RunFolder | None:
        """The run that had it trained, if its folder is there."""
        return _maker(self.model, self.runs)

    def as_row(self) -> dict[str, Any]:
        """The fine-tune as ``--json`` shows it."""
        return {**vars(self), "runs": [run.name for run in self.runs], "evaluated": self.evaluated_in}


def _maker(model: str, runs: Iterable[RunFolder]) -> RunFolder | None:
    return next((run for run in runs if run.models[model].base), None)


def read_folders(root: Path) -> list[RunFolder]:
    """Every run below `root`, as in ``<preset>/<study>``, with fine-tunes; a broken one is skipped and logged."""
    found = []
    for table in sorted(root.glob(f"[!.]*/[!.]*/{FINETUNES}")):
        try:
            found.append(_read_folder(table.parent))
        except (ValueError, KeyError, TypeError, OSError) as error:
            log.warning("%s is skipped: %s", table.parent, error)
    return found


def _read_folder(path: Path) -> RunFolder:
    manifests = [read_json(each) for each in sorted(path.glob("[0-9][0-9].manifest.json"))]
    if not manifests:
        raise ValueError("no stage of it is finished")
    last, params = manifests[-1], manifests[-1]["parameters"]
    table = pd.read_parquet(path / FINETUNES)
    if table.empty:  # texts were given instead of models
        return RunFolder(path, last["study"], last["preset"], params, {}, False)
    table = table[table["is_final"].astype(bool) & table["model"].ne("")]
    given = table["model"].isin([params.get("tuned_model", ""), *params.get("direct_models", [])])
    table = table.assign(base=table["base"].mask(given, ""), role=table.get("role", "main"))
    models = {final_id(row.model): row for row in table.itertuples() if row.model != row.base}  # a base is no fine-tune
    # evaluated: there is a summary, and each stage that has read the fine-tunes has read those that are there now
    read = {each["inputs"][FINETUNES] for each in manifests if FINETUNES in each.get("inputs", {})}
    is_evaluated = (path / SUMMARY).exists() and read == {file_hash(path / FINETUNES)}
    return RunFolder(path, last["study"], last["preset"], params, models, is_evaluated)


def final_id(model: str) -> str:
    """Id of the fine-tune that a model id, perhaps of a checkpoint, belongs to.

    >>> final_id("ft:fork-1m:demo:k3x9:ckpt-step-96")
    'ft:fork-1m:demo:k3x9'
    """
    return re.sub(r":ckpt-step-\d+$", "", model)


def read_ledger(client: OpenAI, root: Path, *, prices: Prices | None = None) -> list[FineTuned]:
    """Every fine-tune that the endpoint or a run folder below `root` knows, newest first.

    Parameters
    ----------
    prices : of training; None where nothing costs money
    """
    tags = read_tags(root)
    runs_of: dict[str, list[RunFolder]] = defaultdict(list)
    for run in read_folders(root):
        for model in run.models:
            runs_of[model].append(run)
    jobs = client.fine_tuning.jobs.list(limit=100)
    found = [_of_job(job, runs_of.pop(job.fine_tuned_model or "", []), tags, prices) for job in jobs]
    for model, runs in sorted(runs_of.items()):
        maker = _maker(model, runs)
        base = maker.models[model].base if maker else ""
        study = (maker or runs[0]).study
        found.append(FineTuned(model=model, base=base, study=study, tags=tags.get(model, []), runs=runs))
    return sorted(found, key=lambda each: -(each.created_at or 0))


def _of_job(
    job: FineTuningJob, runs: Sequence[RunFolder], tags: Mapping[str, list[str]], prices: Prices | None
) -> FineTuned:
    about = job.model_dump(exclude_none=True)  # with fields that the client's type does not have
    method = about.get("method", {})
    usd = None
    if prices and job.trained_tokens is not None:
        with suppress(UnknownPrice):
            usd = prices.training_usd(job.model, job.trained_tokens)
    maker = _maker(job.fine_tuned_model or "", runs) or next(iter(runs), None)
    return FineTuned(
        job=job.id,
        model=job.fine_tuned_model or "",
        base=job.model,
        study=maker.study if maker else about.get("user_provided_suffix", ""),
        status=job.status,
        created_at=job.created_at,
        tokens=job.trained_tokens,
        usd=usd,
        seed=job.seed,
        error=about.get("error", {}).get("message", ""),
        hyperparameters=method.get(method.get("type"), about).get("hyperparameters", {}),
        tags=tags.get(job.id, []),
        runs=runs,
    )


def select(ledger: Iterable[FineTuned], *, study: str = "", tag: str = "", text: str = "") -> list[FineTuned]:
    """Those that fit every filter given; `text` is searched for in the status and in every name.

    >>> ledger = [FineTuned(job="a", base="hf:one"), FineTuned(job="b", base="two")]
    >>> [each.job for each in select(ledger, text="HF:")]
    ['a']
    """

    def fits(each: FineTuned) -> bool:
        names = (each.job, each.model, each.base, each.study, each.status, each.error, *each.tags)
        return (
            (not study or study in (each.study, *(run.study for run in each.runs)))
            and (not tag or tag in each.tags)
            and any(text.casefold() in name.casefold() for name in names)
        )

    return [each for each in ledger if fits(each)]


def find(ledger: Iterable[FineTuned], name: str) -> FineTuned:
    """The fine-tune with this id, of a job, a model or a checkpoint (a `ValueError` names the nearest)."""
    by_id = {known: each for each in ledger for known in (each.job, each.model) if known}
    if final_id(name) not in by_id:
        raise ValueError(f"no fine-tune {name!r}{nearest(name, by_id)}: python -m lib.runs lists them")
    return by_id[final_id(name)]


def read_tags(root: Path) -> dict[str, list[str]]:
    """Tags by id; none where nothing was tagged."""
    return read_json(root / TAGS) if (root / TAGS).exists() else {}


def change_tag(root: Path, id: str, tag: str, *, remove: bool = False) -> list[str]:
    """Add a tag to an id, or remove it; returns the tags it then has (`ValueError` for one that cannot be)."""
    if not re.fullmatch(r"[\w.:-]{1,64}", tag):
        raise ValueError(f"expected a tag of up to 64 letters, digits and . _ : -, found {tag!r}")
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{TAGS}.lock"):
        tags = read_tags(root)
        names = tags.get(id, [])
        if remove and tag not in names:
            raise ValueError(f"{id} has no tag {tag!r}; it has: {', '.join(names) or 'none'}")
        tags[id] = sorted({*names} - {tag} if remove else {*names, tag})
        write_json(root / TAGS, {each: names for each, names in tags.items() if names})
    return tags[id]
