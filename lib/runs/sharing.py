"""Copy the ledger to Weights & Biases: a run there for each fine-tune, and for each run folder its table and figures.

Project and entity are those of ``WANDB_PROJECT`` and ``WANDB_ENTITY``. What was sent is remembered in ``wandb.json``
beside the runs, so that a second call sends only what is new or changed.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI

from lib.paths import content_hash, file_hash, read_json, write_json
from lib.runs.ledger import SUMMARY, FineTuned
from lib.summary import COLUMNS, read_summary

log = logging.getLogger(__name__)

SENT = "wandb.json"
PROJECT = "tuning-fork"


@dataclass(frozen=True, kw_only=True)
class Shared:
    """One run as Weights & Biases is to show it; `content` is a hash of what is logged beside its config and tags."""

    id: str
    name: str
    group: str
    kind: str
    config: Mapping[str, Any]
    content: str
    tags: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def hashes(self) -> list[str]:
        return [self.content, content_hash([self.config, self.tags])]


def sync(client: OpenAI, ledger: Iterable[FineTuned], root: Path, *, dry_run: bool) -> None:
    """Send what is new or changed, one after the other; each is remembered once it is sent (else `RuntimeError`)."""
    project, entity = os.environ.get("WANDB_PROJECT") or PROJECT, os.environ.get("WANDB_ENTITY")
    target = f"{entity}/{project}" if entity else project
    record: dict[str, Any] = read_json(root / SENT) if (root / SENT).exists() else {}
    sent = record.setdefault(target, {})
    items = [each for each in to_share(ledger) if sent.get(each.id) != each.hashes]
    for each in items:
        log.info("%s %s %s", "would send" if dry_run else "sending", each.kind, each.name)
        if not dry_run:
            is_new = sent.get(each.id, [""])[0] != each.content
            _send(client, each, with_content=is_new, project=project, entity=entity, dir=str(root))
            sent[each.id] = each.hashes
            write_json(root / SENT, record)
    log.info("%s: %s", target, f"{len(items)} new or changed" if items else "nothing is new")


def to_share(ledger: Iterable[FineTuned]) -> list[Shared]:
    """Every finished fine-tune, then every run folder that has numbers of one of them."""
    finished = [each for each in ledger if each.model]
    items = []
    for each in finished:
        config = {name: value for name, value in each.as_row().items() if name not in ("tags", "error")}
        about: dict[str, Any] = {"id": each.id, "name": each.model, "group": each.study, "kind": "fine-tune"}
        items.append(Shared(config=config, content=each.job, tags=tuple(each.tags), **about))
    for run in {run.name: run for each in finished for run in each.runs if run.is_evaluated}.values():
        config = {**run.params, "study": run.study, "preset": run.preset, "fine_tuned_models": sorted(run.models)}
        content = content_hash([file_hash(path) for path in (run.path / SUMMARY, *_figures(run.path))])
        about = {"id": run.name, "name": run.name, "group": run.study, "kind": "study", "folder": run.path}
        items.append(Shared(config=config, content=content, **about))
    return items


def _figures(folder: Path) -> list[Path]:
    return sorted((folder / "figures").glob("*.png"))


def _send(client: OpenAI, each: Shared, *, with_content: bool, **where: Any) -> None:
    """Make or continue one run there, with what is logged or only with its config and tags."""
    if os.environ.get("WANDB_MODE") == "disabled":
        raise RuntimeError("WANDB_MODE=disabled: nothing is sent; use offline to keep it on this machine, or unset it")
    try:
        import wandb
    except ImportError as error:
        raise RuntimeError("the package wandb is not installed: pip install wandb (it is an optional extra)") from error
    try:
        with wandb.init(
            id=re.sub(r"[^A-Za-z0-9_-]", "-", each.id),
            name=each.name,
            group=each.group or None,
            job_type=each.kind,
            settings=wandb.Settings(silent=True, console="off", save_code=False),
            resume="allow",  # a run that is there is continued: its config may then change
            **where,
        ) as run:
            run.config.update(json.loads(json.dumps(each.config)), allow_val_change=True)
            run.tags = each.tags
            if with_content and each.folder:
                _log_study(wandb, run, each.folder)
            elif with_content and each.content:
                _log_losses(run, client, each.content)
    except wandb.Error as error:
        raise RuntimeError(f"{each.name}: {' '.join(str(error).split())}") from error


def _log_losses(run: Any, client: OpenAI, job: str) -> None:
    """The losses of a job by step (nats per token)."""
    for kept in sorted(client.fine_tuning.jobs.checkpoints.list(job), key=lambda kept: kept.step_number):
        losses = {"train_loss": kept.metrics.train_loss, "valid_loss": kept.metrics.valid_loss}
        run.log({"step": kept.step_number, **{name: loss for name, loss in losses.items() if loss is not None}})


def _log_study(wandb: Any, run: Any, folder: Path) -> None:
    """The summary and the figures of a run folder."""
    summary = read_summary(folder / SUMMARY)
    cells = summary.astype(object).where(summary.notna(), None)
    run.log({"summary": wandb.Table(columns=list(summary.columns), data=cells.to_numpy().tolist())})
    run.log({path.stem: wandb.Image(str(path), caption=_caption(path)) for path in _figures(folder)})
    values = {}
    for row in cells.to_dict("records"):
        conditions = [str(value) for name, value in row.items() if name not in COLUMNS and value is not None]
        values["/".join([row["model"], *conditions, row["metric"]])] = row["value"]
    run.summary.update(values)


def _caption(figure: Path) -> str:
    text = figure.with_suffix(".txt")
    return text.read_text(encoding="utf-8").strip() if text.exists() else ""
