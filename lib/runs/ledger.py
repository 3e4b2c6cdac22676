"""The ledger of fine-tunes: jobs of the endpoint, joined with the run folders and tags that name them.

Tags are in ``tags.json`` beside the runs: ``{id: [tag, ...]}``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from lib.budget import Prices, UnknownPrice
from lib.params import nearest
from lib.paths import file_hash, read_json, write_json

log = logging.getLogger(__name__)

FINETUNES, SUMMARY, TAGS = "finetunes.parquet", "summary.csv", "tags.json"
STATUSES = ("validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled")
NOT_LISTED = "not listed"  # a run folder names the model, but the endpoint has no job of it


@dataclass(frozen=True)
class RunFolder:
    """One run of one study that has its fine-tunes.

    Parameters
    ----------
    roles, bases : of each final model its role (``main``, ``sweep`` ...) and its base, empty for a model that was given
    is_evaluated : whether its summary was computed from these fine-tunes
    """

    path: Path
    manifest: Mapping[str, Any]
    roles: Mapping[str, str]
    bases: Mapping[str, str]
    is_evaluated: bool

    @property
    def study(self) -> str:
        return self.manifest["study"]

    @property
    def preset(self) -> str:
        return self.manifest["preset"]

    @property
    def params(self) -> Mapping[str, Any]:
        return self.manifest["parameters"]

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
    tags: tuple[str, ...] = ()
    runs: tuple[RunFolder, ...] = ()

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
        return next((run for run in self.runs if run.bases.get(self.model)), None)

    def as_row(self) -> dict[str, Any]:
        """The fine-tune as ``--json`` shows it."""
        return {**vars(self), "runs": [run.name for run in self.runs], "evaluated": self.evaluated_in}


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
    models = pd.read_parquet(path / FINETUNES)
    final = models[models["is_final"].astype(bool) & models["model"].ne("")]
    params = manifests[-1]["parameters"]
    given = {str(params.get("tuned_model", "")), *map(str, params.get("direct_models", []))}
    final = final[final["model"].isin(given) | (final["model"] != final["base"])]  # a base itself is no fine-tune
    names = [final_id(model) for model in final["model"]]
    roles = final["role"] if "role" in final else ["main"] * len(final)
    bases = ["" if model in given else base for model, base in zip(final["model"], final["base"], strict=True)]
    # evaluated: there is a summary, and each stage that has read the fine-tunes has read those that are there now
    read = {each["inputs"][FINETUNES] for each in manifests if FINETUNES in each.get("inputs", {})}
    is_evaluated = (path / SUMMARY).exists() and read == {file_hash(path / FINETUNES)}
    roles_by_name = dict(zip(names, roles, strict=True))
    return RunFolder(path, manifests[-1], roles_by_name, dict(zip(names, bases, strict=True)), is_evaluated)


def final_id(model: str) -> str:
    """Id of the fine-tune that a model id, perhaps of a checkpoint, belongs to.

    >>> final_id("ft:fork-1m:demo:k3x9:ckpt-step-96")
    'ft:fork-1m:demo:k3x9'
    """
    return re.sub(r":ckpt-step-\d+$", "", model)


def read_ledger(
    client: OpenAI,
    folders: Sequence[RunFolder],
    tags: Mapping[str, Sequence[str]],
    *,
    prices: Prices | None = None,
    studies: Collection[str] = (),
) -> list[FineTuned]:
    """Every fine-tune that the endpoint or a run folder knows, newest first.

    Parameters
    ----------
    prices : of training; None where nothing costs money
    studies : names of studies, to know a job by its suffix where no run folder names it
    """
    naming: dict[str, list[RunFolder]] = {}
    for folder in folders:
        for model in folder.roles:
            naming.setdefault(model, []).append(folder)
    jobs = list(client.fine_tuning.jobs.list(limit=100))
    found = [_of_job(job, naming.get(job.fine_tuned_model or "", []), tags, prices, studies) for job in jobs]
    for model in sorted(naming.keys() - {each.model for each in found}):
        runs = naming[model]
        base = next((run.bases[model] for run in runs if run.bases[model]), "")
        tagged = tuple(tags.get(model, ()))
        found.append(FineTuned(model=model, base=base, study=_study(runs), tags=tagged, runs=tuple(runs)))
    return sorted(found, key=lambda each: -(each.created_at or 0))


def _of_job(
    job: FineTuningJob,
    runs: Sequence[RunFolder],
    tags: Mapping[str, Sequence[str]],
    prices: Prices | None,
    studies: Collection[str],
) -> FineTuned:
    suffix = str(getattr(job, "user_provided_suffix", None) or "")  # sent, but no field of the client's type
    method = job.method and (job.method.dpo if job.method.type == "dpo" else job.method.supervised)
    hyperparameters = method.hyperparameters if method else job.hyperparameters
    try:
        usd = prices.training_usd(job.model, job.trained_tokens) if prices and job.trained_tokens is not None else None
    except UnknownPrice:
        usd = None
    return FineTuned(
        job=job.id,
        model=job.fine_tuned_model or "",
        base=job.model,
        study=_study(runs) or (suffix if suffix in studies else ""),
        status=job.status,
        created_at=job.created_at,
        tokens=job.trained_tokens,
        usd=usd,
        seed=job.seed,
        error=(job.error.message or "") if job.error else "",
        hyperparameters=hyperparameters.model_dump(exclude_none=True) if hyperparameters else {},
        tags=tuple(tags.get(job.id, ())),
        runs=tuple(runs),
    )


def _study(runs: Sequence[RunFolder]) -> str:
    """The study that made it, else the first that took it; empty if none."""
    makers = sorted(runs, key=lambda run: bool(run.params.get("tuned_model")))
    return makers[0].study if makers else ""


def select(
    ledger: Iterable[FineTuned], *, study: str = "", status: str = "", tag: str = "", text: str = ""
) -> list[FineTuned]:
    """Those that fit every filter given; `text` is searched for in every name.

    >>> ledger = [FineTuned(job="a", base="hf:one"), FineTuned(job="b", base="two")]
    >>> [each.job for each in select(ledger, text="HF:")]
    ['a']
    """

    def fits(each: FineTuned) -> bool:
        names = (each.job, each.model, each.base, each.study, each.error, *each.tags)
        return (
            (not study or study in (each.study, *(run.study for run in each.runs)))
            and (not status or each.status == status)
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
    """Tags by id; none where nothing was tagged (`ValueError` if the file holds anything else)."""
    tags = read_json(root / TAGS) if (root / TAGS).exists() else {}
    if not isinstance(tags, dict) or not all(isinstance(names, list) for names in tags.values()):
        raise ValueError(f'{root / TAGS}: expected {{"id": ["tag", ...]}}, found something else: correct or remove it')
    return tags


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
