"""The ledger of fine-tunes: ``python -m lib.runs [list | tag | untag | evaluate | sync] ...``; nothing asks back."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from openai import APIConnectionError, OpenAIError

from lib import api, console
from lib.api import spending_of
from lib.keys import nearest, studies
from lib.parent import end_with_parents
from lib.paths import runs_root
from lib.runs import sharing, tags
from lib.runs.evaluating import evaluate, evaluations
from lib.runs.folders import read_folders
from lib.runs.ledger import STATUSES, FineTuned, read_ledger, select, the_one

if TYPE_CHECKING:
    from openai import OpenAI

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line; `list` is what happens without a command."""
    top = argparse.ArgumentParser(prog="python -m lib.runs", description="The ledger of fine-tunes.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shown = commands.add_parser("list", help="show fine-tunes (also without any command)")
    shown.add_argument("--study", default="", help="made or taken by a run of this study")
    shown.add_argument("--base", default="", help="as in fork-1m, or with stars: 'hf:*'")
    shown.add_argument("--status", default="", choices=STATUSES, metavar="STATUS", help=", ".join(STATUSES))
    shown.add_argument("--days", type=float, help="not older than so many days")
    shown.add_argument("--text", default="", help="found in an id, a base, a suffix, a tag or an error")
    shown.add_argument("--tag", default="", help="that carry this tag")
    shown.add_argument("--json", action="store_true", help="JSON instead of a table")
    for name, text in (("tag", "give a fine-tune a name"), ("untag", "take a name off a fine-tune")):
        tagging = commands.add_parser(name, help=text)
        tagging.add_argument("id", metavar="ID", help="of a job or a model")
        tagging.add_argument("name", metavar="NAME")
    evaluating = commands.add_parser("evaluate", help="run a study on every fine-tune that has no numbers yet")
    evaluating.add_argument("--preset", default="", help="default: that of the run that made it, else laptop")
    evaluating.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets")
    syncing = commands.add_parser("sync", help="copy runs, tables and figures to Weights & Biases")
    syncing.add_argument("--project", default="", help=f"default: $WANDB_PROJECT, else {sharing.PROJECT}")
    syncing.add_argument("--entity", default="", help="default: $WANDB_ENTITY, else the key's own")
    for some in (evaluating, syncing):
        some.add_argument("ids", nargs="*", metavar="ID", help="of jobs or models (default: all)")
        some.add_argument("--tag", default="", help="that carry this tag")
        some.add_argument("--study", default="", help="of this study; with IDs: evaluate them by this study")
        some.add_argument("--dry-run", action="store_true", help="only say what would be done")
    return top


def known_study(name: str) -> str:
    """A study's name as it was given (`ValueError` if there is none of that name)."""
    if name and name not in studies():
        raise ValueError(f"no study {name!r}{nearest(name, studies())}; there are: {', '.join(studies()) or 'none'}")
    return name


def chosen(ledger: Sequence[FineTuned], options: argparse.Namespace) -> list[FineTuned]:
    """What `evaluate` and `sync` are about: those named, else those of a tag and a study, else all."""
    if options.ids and options.tag:
        raise ValueError("give IDs or --tag, not both")
    if options.ids:
        return list({each.id: each for each in (the_one(ledger, wanted) for wanted in options.ids)}.values())
    found = select(ledger, now=0, tag=options.tag, study=options.study)
    if not found:
        raise ValueError("no fine-tune fits: python -m lib.runs lists them")
    return found


def do_list(client: OpenAI, ledger: Sequence[FineTuned], options: argparse.Namespace) -> int:
    now = time.time()
    filters = {name: getattr(options, name) for name in ("study", "base", "status", "days", "text", "tag")}
    found = select(ledger, now=now, **filters)
    if options.json:
        sys.stdout.write(json.dumps([each.as_row() for each in found], indent=1, ensure_ascii=False) + "\n")
        return 0
    from rich.console import Console

    from lib.runs.table import ledger_table, totals

    screen = Console()
    if not screen.is_terminal:
        screen = Console(width=200)  # a file or a pipe: nothing to fit into
    screen.print(ledger_table(found, now=now))
    screen.print(totals(found), highlight=False)
    return 0


def do_tag(client: OpenAI, ledger: Sequence[FineTuned], options: argparse.Namespace) -> int:
    change = tags.add_tag if options.command == "tag" else tags.remove_tag
    each = the_one(ledger, options.id)
    change(runs_root(), each.id, options.name)
    log.info("%s: %s", each.title, ", ".join(tags.read_tags(runs_root()).get(each.id, [])) or "no tags")
    return 0


def do_evaluate(client: OpenAI, ledger: Sequence[FineTuned], options: argparse.Namespace) -> int:
    wanted = chosen(ledger, options)
    plans = evaluations(
        wanted, study=options.study, preset=options.preset, sets=options.sets, by_name=bool(options.ids)
    )
    if options.dry_run:
        for each, plan in plans:
            log.info("would evaluate %s in %s", each.model, plan.folder)
        return 0
    failed = evaluate(plans)
    log.info("%d evaluated, %d failed, %d left out", len(plans) - len(failed), len(failed), len(wanted) - len(plans))
    return 1 if failed else 0


def do_sync(client: OpenAI, ledger: Sequence[FineTuned], options: argparse.Namespace) -> int:
    project = options.project or os.environ.get("WANDB_PROJECT") or sharing.PROJECT
    entity = options.entity or os.environ.get("WANDB_ENTITY") or ""
    place = sharing.place_of(entity, project)
    wanted = sharing.changes(sharing.to_share(chosen(ledger, options)), runs_root(), place)
    for each, why in wanted:
        log.info("%s %s %s: %s", "would send" if options.dry_run else "sending", each.kind, each.name, why)
    if options.dry_run or not wanted:
        log.info("%s: %s", place, f"{len(wanted)} to send" if wanted else "nothing is new")
        return 0
    sharing.share(
        wanted, runs_root(), project=project, entity=entity, losses=lambda job: losses(client, job),
        environment=os.environ,
    )  # fmt: skip
    is_offline = os.environ.get("WANDB_MODE") in sharing.OFFLINE
    log.info("%s: %d sent%s", place, len(wanted), " to this disk: wandb sync sends them on" if is_offline else "")
    return 0


def losses(client: OpenAI, job: str) -> Iterable[Mapping[str, float]]:
    """A row a checkpoint of a job, by step: its losses, nats a token."""
    for kept in sorted(client.fine_tuning.jobs.checkpoints.list(job), key=lambda each: each.step_number):
        told = {"train_loss": kept.metrics.train_loss, "valid_loss": kept.metrics.valid_loss}
        yield {"step": kept.step_number, **{name: value for name, value in told.items() if value is not None}}


DO: Mapping[str, Callable[[OpenAI, Sequence[FineTuned], argparse.Namespace], int]] = {
    "list": do_list, "tag": do_tag, "untag": do_tag, "evaluate": do_evaluate, "sync": do_sync,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this room; returns the exit code (0 done, 1 failed, 2 nothing was started)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words = ["list", *words]
    options = parser().parse_args(words)
    console.set_up()
    end_with_parents()
    try:
        known_study(getattr(options, "study", ""))
        client = api.connect(only_free=True)
        root, spending = runs_root(), spending_of(client)
        prices = spending.prices if spending else None
        ledger = read_ledger(client, read_folders(root), tags.read_tags(root), prices=prices, studies=studies())
        return DO[options.command](client, ledger, options)
    except ValueError as error:
        log.error("lib.runs: %s", error)
        return 2
    except APIConnectionError as error:
        log.error("lib.runs: no answer from %s", error.request.url)
        return 1
    except (OpenAIError, RuntimeError, OSError) as error:
        log.error("lib.runs: %s", " ".join(str(error).split()))
        return 1
    except KeyboardInterrupt:
        log.error("lib.runs: ended by hand; the same command goes on")
        return 130


if __name__ == "__main__":
    sys.exit(main())
