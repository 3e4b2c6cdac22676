"""The ledger of fine-tunes: ``python -m lib.runs [list | tag | untag | evaluate | sync] ...``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import pandas as pd
from openai import APIConnectionError, OpenAI, OpenAIError

from lib import api, console
from lib.params import nearest, studies
from lib.paths import runs_root
from lib.runs import sharing
from lib.runs.evaluating import evaluate, evaluations
from lib.runs.ledger import STATUSES, FineTuned, change_tag, find, read_folders, read_ledger, read_tags, select

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line; without a command it lists."""
    top = argparse.ArgumentParser(prog="python -m lib.runs", description="The ledger of fine-tunes.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    filters = argparse.ArgumentParser(add_help=False)
    filters.add_argument("--study", default="", help="of this study; evaluate with IDs: by this study")
    filters.add_argument("--tag", default="", help="with this tag")
    chosen = argparse.ArgumentParser(add_help=False, parents=[filters])
    chosen.add_argument("ids", nargs="*", metavar="ID", help="of jobs or models (default: all)")
    chosen.add_argument("--dry-run", action="store_true", help="only show what would be done")
    listing = commands.add_parser("list", parents=[filters], help="show fine-tunes (also without any command)")
    listing.add_argument("--status", default="", choices=STATUSES, metavar="STATUS", help=", ".join(STATUSES))
    listing.add_argument("--text", default="", help="part of an id, a base, a tag or an error")
    listing.add_argument("--json", action="store_true", help="JSON instead of a table")
    for name, text in (("tag", "tag a fine-tune"), ("untag", "remove a tag of a fine-tune")):
        tagging = commands.add_parser(name, help=text)
        tagging.add_argument("id", metavar="ID", help="of a job or a model")
        tagging.add_argument("name", metavar="NAME")
    evaluating = commands.add_parser("evaluate", parents=[chosen], help="run a study on what has no numbers yet")
    evaluating.add_argument("--preset", default="", help="default: that of the run that made it, else laptop")
    evaluating.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets")
    syncing = commands.add_parser("sync", parents=[chosen], help="copy runs, tables and figures to Weights & Biases")
    syncing.add_argument("--project", default=os.environ.get("WANDB_PROJECT") or sharing.PROJECT, help="%(default)s")
    syncing.add_argument("--entity", default=os.environ.get("WANDB_ENTITY", ""), help="default: the key's own")
    return top


def chosen(ledger: Sequence[FineTuned], options: argparse.Namespace) -> list[FineTuned]:
    """The fine-tunes of `evaluate` and `sync`: those named, else those of a tag and a study, else all."""
    if options.ids and options.tag:
        raise ValueError("give IDs or --tag, not both")
    if options.ids:
        return list({each.id: each for each in (find(ledger, name) for name in options.ids)}.values())
    found = select(ledger, tag=options.tag, study=options.study)
    if not found:
        raise ValueError("no fine-tune fits: python -m lib.runs lists them")
    return found


def do_list(ledger: Sequence[FineTuned], options: argparse.Namespace) -> int:
    found = select(ledger, study=options.study, status=options.status, tag=options.tag, text=options.text)
    if options.json:
        sys.stdout.write(json.dumps([each.as_row() for each in found], indent=1, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(as_table(found) + "\n")
    return 0


def as_table(ledger: Sequence[FineTuned]) -> str:
    """One line per fine-tune, and their number and tokens; prices only where there are any."""
    columns = ["model", "base", "study", "status", "created", "tokens", "usd", "tags", "evaluated"]
    table = pd.DataFrame([each.as_row() | {"model": each.title} for each in ledger], columns=columns)
    table["created"] = [f"{datetime.fromtimestamp(each.created_at or 0, UTC):%Y-%m-%d}" for each in ledger]
    for name in ("tags", "evaluated"):
        table[name] = table[name].map(", ".join)
    tokens = pd.array(table["tokens"], dtype="Int64")
    table = table.assign(tokens=tokens).dropna(axis="columns", how="all")
    lines = table.to_string(index=False, na_rep="", justify="left") if len(table) else ""
    return f"{lines}\n{len(ledger)} fine-tunes, {tokens.sum():,} tokens".lstrip()


def do_tag(ledger: Sequence[FineTuned], options: argparse.Namespace) -> int:
    each = find(ledger, options.id)
    tags = change_tag(runs_root(), each.id, options.name, remove=options.command == "untag")
    log.info("%s: %s", each.title, ", ".join(tags) or "no tags")
    return 0


def do_evaluate(ledger: Sequence[FineTuned], options: argparse.Namespace) -> int:
    found = chosen(ledger, options)
    about = {"study": options.study, "preset": options.preset, "sets": options.sets}
    plans = evaluations(found, **about, by_name=bool(options.ids))
    if options.dry_run:
        for each, plan in plans:
            log.info("would evaluate %s in %s", each.model, plan.folder)
        return 0
    n_failed = evaluate(plans)
    log.info("%d evaluated, %d failed, %d left out", len(plans) - n_failed, n_failed, len(found) - len(plans))
    return 1 if n_failed else 0


def do_sync(client: OpenAI, ledger: Sequence[FineTuned], options: argparse.Namespace) -> int:
    target = sharing.target_name(options.entity, options.project)
    items = sharing.changes(sharing.to_share(chosen(ledger, options)), runs_root(), target)
    for each in items:
        log.info("%s %s %s", "would send" if options.dry_run else "sending", each.kind, each.name)
    if items and not options.dry_run:
        sharing.share(client, items, runs_root(), project=options.project, entity=options.entity)
    log.info("%s: %s", target, f"{len(items)} new or changed" if items else "nothing is new")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0 done, 1 failed, 2 nothing was started)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words = ["list", *words]
    options = parser().parse_args(words)
    console.set_up()
    try:
        study = getattr(options, "study", "")
        if study and study not in studies():
            raise ValueError(f"no study {study!r}{nearest(study, studies())}; there are: {', '.join(studies())}")
        client, root = api.connect(only_free=True), runs_root()
        spending = api.spending_of(client)
        prices = spending.prices if spending else None
        ledger = read_ledger(client, read_folders(root), read_tags(root), prices=prices, studies=studies())
        if options.command == "sync":
            return do_sync(client, ledger, options)
        commands = {"list": do_list, "tag": do_tag, "untag": do_tag, "evaluate": do_evaluate}
        return commands[options.command](ledger, options)
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
        log.error("lib.runs: interrupted; the same command continues")
        return 130


if __name__ == "__main__":
    sys.exit(main())
