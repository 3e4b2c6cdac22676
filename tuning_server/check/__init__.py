"""Is a store whole? ``python -m tuning_server check [--store data/store] [--repair]`` says, and mends what is not.

No server may use the store meanwhile. Exit codes: 0 nothing is wrong (any more), 1 something is, 2 wrong arguments,
3 a server holds the store.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tuning_server.check.inspection import (
    LOST,
    Finding,
    Records,
    change,
    look_at_files,
    look_at_jobs,
    look_at_models,
    models_of,
    read_records,
)
from tuning_server.check.salvage import damage, salvage, unreadable
from tuning_server.holding import CannotStart, hold


def look_at_database(store: Path, say: Callable[[str], None]) -> Iterator[Finding]:
    """Pages that are damaged, rows that are not JSON."""
    path = store / "server.db"
    if not path.exists():
        return
    (store / "server.db.part").unlink(missing_ok=True)  # a repair that was cut off; this one begins anew
    reason = damage(path)
    if reason is not None:

        def mend() -> None:
            kept = salvage(path, store / LOST)
            say("         kept " + ", ".join(f"{number} {table}" for table, number in kept.items()))

        yield Finding(f"server.db: {reason}", f"what can be read is in a new one, the old one in {LOST}/", mend)
        if damage(path) is not None:
            return
    for table, seq, row_id in unreadable(path):
        forget = partial(change, store, f"DELETE FROM {table} WHERE seq = ?", seq)
        yield Finding(f"server.db: {row_id} in {table} is not JSON", "its record was removed", forget)


def findings(store: Path, say: Callable[[str], None]) -> Iterator[Finding]:
    """All findings in a store; each may be mended as it comes."""
    yield from look_at_database(store, say)
    path = store / "server.db"
    whole = not path.exists() or (damage(path) is None and not unreadable(path))
    yield from look_at_models(store)
    if not whole:
        yield Finding("files and jobs are not looked at before the database is mended", is_problem=False)
        return
    records = read_records(store)
    yield from look_at_files(store, records)
    yield from look_at_jobs(store, read_records(store))
    say(counts(store, records))


def counts(store: Path, records: Records) -> str:
    """What was looked at, in one line."""
    n_checkpoints = sum(map(len, records.checkpoints.values()))
    n_models = sum(len(models_of(run)) for run in (store / "tuned").glob("*/"))
    n_bases = len(list((store / "bases").glob("fork-*@*")))
    return (
        f"looked at: {len(records.files)} files, {len(records.jobs)} jobs, {n_checkpoints} checkpoints, "
        f"{n_models} fine-tunes, {n_bases} bases"
    )


def check(store: Path, *, repair: bool, say: Callable[[str], None]) -> int:
    """Look through a store, tell each finding through `say`, mend if asked to.

    Returns
    -------
    int
        Number of problems that remain.
    """
    n_found, n_left = 0, 0
    for finding in findings(store, say):
        n_found += finding.is_problem
        say(f"{'problem' if finding.is_problem else 'note   '}  {finding.what}")
        if repair and finding.mend is not None:
            finding.mend()
        elif finding.is_problem:
            n_left += 1
        if finding.remedy:
            say(f"         -> {'' if repair or finding.mend is None else 'with --repair: '}{finding.remedy}")
    told = f"{n_found} problem{'' if n_found == 1 else 's'}" if n_found else "nothing is wrong"
    say(told + (f", {n_found - n_left} mended" if n_found and repair else ""))
    return n_left


def main(store: Path, *, repair: bool) -> int:
    """Run the command; returns its exit code."""
    try:
        if not store.is_dir():
            raise CannotStart(f"--store {store} is not a folder")
        lock = hold(store)
        try:
            n_left = check(store, repair=repair, say=print_line)
        finally:
            lock.release()
    except CannotStart as error:
        sys.stderr.write(f"{error}\n")
        return error.code
    except (OSError, ValueError, sqlite3.Error) as error:
        sys.stderr.write(f"cannot check {store}: {error}\n")
        return 1
    return 1 if n_left else 0


def print_line(line: str) -> None:
    """Write a line as soon as it is known: a large store takes a while."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
