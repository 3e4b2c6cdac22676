"""The ledger of fine-tunes: ``python -m lib.runs [list | tag | evaluate | sync] ...``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import pandas as pd
from openai import APIConnectionError, OpenAI, OpenAIError

from lib import api, console
from lib.clients import spending_of
from lib.keys import nearest
from lib.params import studies
from lib.paths import runs_root
from lib.runs.evaluating import evaluate, evaluations
from lib.runs.ledger import FineTuned, change_tag, find, read_ledger, select
from lib.runs.sharing import sync

log = logging.getLogger(__name__)

COLUMNS = ["model", "base", "study", "status", "created", "tokens", "usd", "tags", "evaluated"]


def parser() -> argparse.ArgumentParser:
    """The command line; without a command it lists."""
    top = argparse.ArgumentParser(prog="python -m lib.runs", description="The ledger of fine-tunes.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("ids", nargs="*", metavar="ID", help="of jobs or models (default: all)")
    chosen.add_argument("--study", default="", help="of this study; evaluate: also by this study, where one has none")
    chosen.add_argument("--tag", default="", help="with this tag")
    chosen.add_argument("--text", default="", help="with this in an id, a base, a status, a tag or an error")
    listing = commands.add_parser("list", parents=[chosen], help="show fine-tunes (also without any command)")
    listing.add_argument("--json", action="store_true", help="JSON instead of a table")
    tagging = commands.add_parser("tag", help="tag a fine-tune")
    tagging.add_argument("id", metavar="ID", help="of a job or a model")
    tagging.add_argument("name", metavar="NAME")
    tagging.add_argument("--remove", action="store_true", help="remove the tag")
    evaluating = commands.add_parser("evaluate", parents=[chosen], help="run a study on what has no numbers yet")
    evaluating.add_argument("--preset", default="", help="default: that of the run that made it, else laptop")
    evaluating.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets")
    syncing = commands.add_parser("sync", parents=[chosen], help="copy runs, tables and figures to Weights & Biases")
    for command in (evaluating, syncing):
        command.add_argument("--dry-run", action="store_true", help="only show what would be done")
    return top


def as_table(ledger: Sequence[FineTuned]) -> str:
    """One line per fine-tune, and their number and tokens; prices only where there are any."""
    table = pd.DataFrame([each.as_row() | {"model": each.title} for each in ledger], columns=COLUMNS)
    table = table.astype({"tokens": "Int64"})
    table["created"] = [f"{datetime.fromtimestamp(each.created_at or 0, UTC):%Y-%m-%d}" for each in ledger]
    for name in ("tags", "evaluated"):
        table[name] = table[name].map(", ".join)
    lines = table.dropna(axis="columns", how="all").to_string(index=False, na_rep="", justify="left") if ledger else ""
    return f"{lines}\n{len(ledger)} fine-tunes, {table['tokens'].sum():,} tokens".lstrip()


def run_command(client: OpenAI, options: argparse.Namespace) -> int:
    """Do what the command line asks for; returns how many evaluations failed."""
    root, spending = runs_root(), spending_of(client)
    ledger = read_ledger(client, root, prices=spending.prices if spending else None)
    if options.command == "tag":
        each = find(ledger, options.id)
        tags = change_tag(root, each.id, options.name, remove=options.remove)
        log.info("%s: %s", each.title, ", ".join(tags) or "no tags")
        return 0
    if options.study and options.study not in studies():
        known = studies()
        raise ValueError(f"no study {options.study!r}{nearest(options.study, known)}; there are: {', '.join(known)}")
    if options.ids and (options.tag or options.text):
        raise ValueError("give IDs or --tag and --text, not both")
    if options.ids:
        chosen = list({each.id: each for each in (find(ledger, name) for name in options.ids)}.values())
    else:
        chosen = select(ledger, tag=options.tag, text=options.text)
        # chosen by a tag, fine-tunes of no study (made through the API) are evaluated by the one that is given
        free = options.command == "evaluate" and (options.tag or options.text)
        own = select(chosen, study=options.study)
        chosen = [each for each in chosen if each in own or (free and each.study not in studies())]
    if options.command == "list":
        rows = [each.as_row() for each in chosen]
        sys.stdout.write((json.dumps(rows, indent=1, ensure_ascii=False) if options.json else as_table(chosen)) + "\n")
    elif not chosen:
        raise ValueError("no fine-tune fits: python -m lib.runs lists them")
    elif options.command == "sync":
        sync(client, chosen, root, dry_run=options.dry_run)
    else:
        return _evaluate(chosen, options)
    return 0


def _evaluate(chosen: Sequence[FineTuned], options: argparse.Namespace) -> int:
    about = {"study": options.study, "preset": options.preset, "sets": options.sets}
    plans = evaluations(chosen, **about, by_name=bool(options.ids))
    if options.dry_run:
        for each, plan in plans:
            log.info("would evaluate %s in %s", each.model, plan.folder)
        return 0
    n_failed = evaluate(plans)
    log.info("%d evaluated, %d failed, %d left out", len(plans) - n_failed, n_failed, len(chosen) - len(plans))
    return n_failed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0 done, 1 failed, 2 nothing was started)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words = ["list", *words]
    options = parser().parse_args(words)
    console.set_up()
    try:
        return min(run_command(api.connect(only_free=True), options), 1)
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
