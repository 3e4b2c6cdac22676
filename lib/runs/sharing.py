"""Copy the ledger to Weights & Biases: a run there for each fine-tune, and for each run folder its table and figures.

What was sent is remembered in ``wandb.json`` beside the runs, so that a second call sends only what is new or changed.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI

from lib.paths import content_hash, file_hash, read_json, write_json
from lib.runs.ledger import SUMMARY, FineTuned
from lib.tables import read_summary

SENT = "wandb.json"
PROJECT = "tuning-fork"


@dataclass(frozen=True, kw_only=True)
class Shared:
    """One run as Weights & Biases is to show it; `content` is a hash of what is logged beside its config and tags."""

    name: str
    id: str
    group: str
    kind: str
    config: Mapping[str, Any]
    content: str
    tags: tuple[str, ...] = ()
    job: str = ""
    folder: Path | None = None

    def hashes(self) -> list[str]:
        return [self.content, content_hash([self.config, self.tags])]


def to_share(ledger: Iterable[FineTuned]) -> list[Shared]:
    """Every finished fine-tune, then every run folder that has numbers of one of them."""
    finished = [each for each in ledger if each.model]
    items = [
        Shared(
            id=each.id,
            name=each.model,
            group=each.study,
            kind="fine-tune",
            tags=each.tags,
            config={name: value for name, value in each.as_row().items() if name not in ("tags", "error")},
            job=each.job,
            content=each.job,
        )
        for each in finished
    ]
    for run in {run.name: run for each in finished for run in each.runs if run.is_evaluated}.values():
        config = {**run.params, "study": run.study, "preset": run.preset, "fine_tuned_models": sorted(run.roles)}
        content = content_hash([file_hash(path) for path in (run.path / SUMMARY, *_figures(run.path))])
        about = {"id": run.name, "name": run.name, "group": run.study, "kind": "study", "content": content}
        items.append(Shared(config=config, folder=run.path, **about))  # type: ignore[arg-type]
    return items


def _figures(folder: Path) -> list[Path]:
    return sorted((folder / "figures").glob("*.png"))


def changes(items: Iterable[Shared], root: Path, target: str) -> list[Shared]:
    """What is still to be sent to a target (``entity/project``)."""
    sent = _sent(root).get(target, {})
    return [each for each in items if sent.get(each.id) != each.hashes()]


def _sent(root: Path) -> dict[str, Any]:
    return read_json(root / SENT) if (root / SENT).exists() else {}


def share(client: OpenAI, items: Sequence[Shared], root: Path, *, project: str, entity: str) -> None:
    """Send them one after the other; each is remembered once it is sent (else `RuntimeError`)."""
    if os.environ.get("WANDB_MODE") == "disabled":
        raise RuntimeError("WANDB_MODE=disabled: nothing is sent; use offline to keep it on this machine, or unset it")
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise RuntimeError("the package wandb is not installed: pip install wandb (it is an optional extra)") from error
    root.mkdir(parents=True, exist_ok=True)
    target = target_name(entity, project)
    for each in items:
        before = _sent(root).get(target, {}).get(each.id, [""])
        try:
            run = wandb.init(
                project=project,
                entity=entity or None,
                id=re.sub(r"[^A-Za-z0-9_-]", "-", each.id),
                name=each.name,
                group=each.group or None,
                job_type=each.kind,
                tags=list(each.tags),
                dir=os.environ.get("WANDB_DIR") or str(root),
                settings=wandb.Settings(silent=True, console="off", save_code=False),
                resume="allow",  # a run that is there is continued: its config may then change
            )
            try:
                run.config.update(json.loads(json.dumps(each.config)), allow_val_change=True)
                run.tags = each.tags
                if before[0] != each.content:
                    _log_content(wandb, run, client, each)
            finally:
                run.finish()
        except wandb.Error as error:
            raise RuntimeError(f"{each.name}: {' '.join(str(error).split())}") from error
        sent = _sent(root)
        sent.setdefault(target, {})[each.id] = each.hashes()
        write_json(root / SENT, sent)


def target_name(entity: str, project: str) -> str:
    """``entity/project``, or the project alone."""
    return f"{entity}/{project}" if entity else project


def _log_content(wandb: Any, run: Any, client: OpenAI, each: Shared) -> None:
    """The losses of a job by step (nats per token); the summary and the figures of a run folder."""
    if each.job:
        for kept in sorted(client.fine_tuning.jobs.checkpoints.list(each.job), key=lambda kept: kept.step_number):
            losses = {"train_loss": kept.metrics.train_loss, "valid_loss": kept.metrics.valid_loss}
            run.log({"step": kept.step_number, **{name: loss for name, loss in losses.items() if loss is not None}})
    if each.folder:
        summary = read_summary(each.folder / SUMMARY)
        cells = summary.astype(object).where(summary.notna(), None)
        run.log({"summary": wandb.Table(columns=list(summary.columns), data=cells.to_numpy().tolist())})
        run.log({path.stem: wandb.Image(str(path), caption=_caption(path)) for path in _figures(each.folder)})
        plain = summary[summary["x"].isna()]
        names = plain["model"] + "/" + plain["condition"] + "/" + plain["metric"]
        run.summary.update(dict(zip(names, plain["value"], strict=True)))


def _caption(figure: Path) -> str:
    text = figure.with_suffix(".txt")
    return text.read_text(encoding="utf-8").strip() if text.exists() else ""
