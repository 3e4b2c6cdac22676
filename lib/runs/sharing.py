"""Copy the ledger to Weights & Biases: a run there for each fine-tune, and for each run folder its table and figures.

What was sent is remembered beside the runs, so that a second call sends only what is new or has changed since.
"""

from __future__ import annotations

import importlib
import json
import math
import netrc
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lib.paths import content_hash, file_hash, read_json, write_json
from lib.runs.folders import SUMMARY, RunFolder
from lib.runs.ledger import FineTuned
from lib.tables import read_summary

SENT = "wandb.json"
PROJECT = "tuning-fork"
OFFLINE = ("offline", "dryrun")

Losses = Callable[[str], Iterable[Mapping[str, float]]]


class NotShared(RuntimeError):
    """Weights & Biases is missing, closed to us, or refused; the message is one line."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """One run as Weights & Biases is to show it. `content` names the files by what is in them."""

    id: str
    name: str
    group: str
    kind: str
    config: Mapping[str, Any]
    tags: tuple[str, ...] = ()
    job: str = ""
    folder: Path | None = None
    figures: tuple[Path, ...] = field(default=())
    content: str = ""


def of_fine_tune(each: FineTuned) -> Shared:
    """A fine-tune: its settings, and (by its job) its losses."""
    row = each.as_row()
    config = {name: row[name] for name in ("job", "base", "study", "status", "seed", "key", "tokens", "usd", "runs")}
    config |= {"fine_tuned_model": each.model, "evaluated": row["evaluated"], **each.hyperparameters}
    return Shared(
        id=_safe(each.id),
        name=each.model,
        group=each.study,
        kind="fine-tune",
        config=_plain(config),
        tags=each.tags,
        job=each.job,
        content=each.job,
    )


def of_folder(run: RunFolder) -> Shared:
    """A run folder with numbers: its parameters, its summary and its figures."""
    figures = tuple(sorted((run.path / "figures").glob("*.png")))
    config = {**run.params, "study": run.study, "preset": run.preset, "git": run.manifest.get("git", {})}
    config |= {"fine_tuned_models": sorted(run.roles)}
    return Shared(
        id=_safe(run.name),
        name=run.name,
        group=run.study,
        kind="study",
        config=_plain(config),
        folder=run.path,
        figures=figures,
        content=content_hash([file_hash(path) for path in (run.path / SUMMARY, *figures)]),
    )


def to_share(ledger: Iterable[FineTuned]) -> list[Shared]:
    """Every finished fine-tune, then every run folder that has numbers of one of them."""
    finished = [each for each in ledger if each.model]
    folders = {run.name: run for each in finished for run in each.runs if run.is_evaluated}
    return [*map(of_fine_tune, finished), *map(of_folder, folders.values())]


def changes(wanted: Iterable[Shared], root: Path, place: str) -> list[tuple[Shared, str]]:
    """What is still to be sent to a place (``entity/project``), each with a line that says why.

    Raises
    ------
    ValueError
        If the record of what was sent cannot be read.
    """
    sent = _sent(root).get(place, {})
    found = []
    for each in wanted:
        before = sent.get(each.id)
        if before is None:
            found.append((each, "new"))
        elif before["content"] != each.content:
            found.append((each, "tables and figures have changed"))
        else:
            then = {**before["config"], "tags": before["tags"]}
            now = {**each.config, "tags": list(each.tags)}
            changed = [name for name in {**then, **now} if then.get(name) != now.get(name)]
            if changed:
                found.append((each, f"config: {', '.join(sorted(changed))}"))
    return found


def _sent(root: Path) -> dict[str, dict[str, Any]]:
    return read_json(root / SENT) if (root / SENT).exists() else {}


def check_access(url: str, environment: Mapping[str, str]) -> None:
    """Refuse to begin where Weights & Biases would ask for a key at the keyboard (`NotShared`).

    Parameters
    ----------
    url : where its package would send to
    """
    if environment.get("WANDB_MODE") in OFFLINE or environment.get("WANDB_API_KEY"):
        return
    host = urlparse(url).hostname or ""
    try:
        if netrc.netrc(environment.get("NETRC")).authenticators(host):
            return
    except (OSError, netrc.NetrcParseError):
        pass
    raise NotShared(f"no key for {host}: set WANDB_API_KEY or run wandb login, or WANDB_MODE=offline to keep it here")


def share(
    wanted: Sequence[tuple[Shared, str]],
    root: Path,
    *,
    project: str,
    entity: str,
    losses: Losses,
    environment: Mapping[str, str],
) -> int:
    """Send them, one after the other; each is remembered once it is there. Returns how many were sent.

    Parameters
    ----------
    losses : of a job's id, a row a checkpoint: ``step`` and losses, nats a token

    Raises
    ------
    NotShared
        If the package or a key is missing, or a run is refused.
    """
    if environment.get("WANDB_MODE") == "disabled":
        raise NotShared("WANDB_MODE=disabled: nothing is sent; use offline to keep it here, or unset it")
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise NotShared("the package wandb is not installed: pip install wandb (it is an optional extra)") from error
    check_access(wandb.Settings().base_url, environment)
    root.mkdir(parents=True, exist_ok=True)
    place = place_of(entity, project)
    for each, _ in wanted:
        before = _sent(root).get(place, {}).get(each.id)
        has_new_content = before is None or before["content"] != each.content
        try:
            _send(wandb, each, has_new_content, project, entity, environment.get("WANDB_DIR") or str(root), losses)
        except wandb.Error as error:
            raise NotShared(f"{each.name}: {' '.join(str(error).split())}") from error
        told = {"config": each.config, "tags": list(each.tags), "content": each.content}
        sent = _sent(root)
        sent.setdefault(place, {})[each.id] = told
        write_json(root / SENT, sent)
    return len(wanted)


def place_of(entity: str, project: str) -> str:
    """Under which name the record keeps what was sent where.

    >>> place_of("", "tuning-fork"), place_of("lab", "tuning-fork")
    ('tuning-fork', 'lab/tuning-fork')
    """
    return f"{entity}/{project}" if entity else project


def _send(
    wandb: Any, each: Shared, has_new_content: bool, project: str, entity: str, folder: str, losses: Losses
) -> None:
    run = wandb.init(
        project=project,
        entity=entity or None,
        id=each.id,
        name=each.name,
        group=each.group or None,
        job_type=each.kind,
        tags=list(each.tags),
        dir=folder,
        settings=wandb.Settings(silent=True, console="off", save_code=False),
        resume="allow",  # a run that is there is gone on with: its config may then change
    )
    try:
        run.config.update(dict(each.config), allow_val_change=True)
        run.tags = each.tags
        if has_new_content and each.job:
            for row in losses(each.job):
                run.log(dict(row))
        if has_new_content and each.folder:
            summary = read_summary(each.folder / SUMMARY)
            values = [[_cell(value) for value in row] for row in summary.itertuples(index=False)]
            run.log({"summary": wandb.Table(columns=list(summary.columns), data=values)})
            run.log({path.stem: wandb.Image(str(path), caption=_caption(path)) for path in each.figures})
            plain = summary[summary["x"].isna()]
            names = plain["model"] + "/" + plain["condition"] + "/" + plain["metric"]
            run.summary.update(dict(zip(names, plain["value"], strict=True)))
    finally:
        run.finish()


def _caption(figure: Path) -> str:
    text = figure.with_suffix(".txt")
    return text.read_text(encoding="utf-8").strip() if text.exists() else ""


def _cell(value: Any) -> Any:
    """A cell that JSON can hold: no number is None, not NaN."""
    value = getattr(value, "item", lambda: value)()
    return None if isinstance(value, float) and math.isnan(value) else value


def _safe(name: str) -> str:
    """A name as an id of Weights & Biases.

    >>> _safe("laptop/reversal"), _safe("ft:fork-1m:demo:k3x9")
    ('laptop-reversal', 'ft-fork-1m-demo-k3x9')
    """
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as JSON gives it back, so that it can be compared with what was sent."""
    return json.loads(json.dumps(config))
