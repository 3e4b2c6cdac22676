"""The main job, as make calls it: Snakemake under one lock, so that two makes never race and a killed one goes on.

``python -m lib.workflow [STUDY ...] [--preset laptop] [--seeds 3] [--profile profiles/slurm]`` or ``--bases NAME ...``
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from filelock import FileLock, Timeout

from lib import console
from lib.keys import home, stages, studies
from lib.params import bases_of, presets, resolve
from lib.parent import WATCH, end_with_parents
from lib.paths import ROOT, run_folder, runs_root, store_root
from lib.run import OVERVIEW, plan_run, shown

log = logging.getLogger(__name__)

BASE_SECONDS = {"fork-300k": 65, "fork-1m": 175, "fork-6m": 340}


@contextmanager
def only_one() -> Iterator[None]:
    """Hold the lock of all runs; says so once when another holds it, and waits."""
    runs_root().mkdir(parents=True, exist_ok=True)
    lock = FileLock(runs_root() / ".make.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another make is at work in this folder: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def snakemake(*words: str, targets: Sequence[str] = ()) -> int:
    """Run Snakemake and return its exit code; what a killed one left is taken up."""
    command = [sys.executable, "-m", "snakemake", *targets, "--snakefile", str(ROOT / "Snakefile")]
    # Our own lock is released by a kill, Snakemake's is not.
    options = ["--directory", str(ROOT), "--nolock", "--rerun-incomplete", "--keep-going", "--quiet", "all"]
    code = subprocess.run([*command, *options, *words]).returncode
    if code:
        logs = sorted((ROOT / ".snakemake" / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)
        account = f" (all that Snakemake says: {shown(logs[-1])})" if logs else ""
        log.error("not all was made: see above%s; the same command goes on where this one stopped", account)
    return code


def make_bases(names: Sequence[str], *words: str) -> int:
    """Make the base models that the store does not have."""
    pointers = {name: store_root() / "bases" / f"{name}.json" for name in names}
    missing = [name for name, pointer in pointers.items() if not pointer.exists()]
    if not missing:
        return 0
    seconds = sum(BASE_SECONDS.get(name, 60) for name in missing)
    log.info("[2/4] base models %s %s", " ".join(missing), console.about(seconds))
    return snakemake(*words, targets=[str(shown(pointers[name])) for name in missing])


def make_figures(wanted: Sequence[str], preset: str, seeds: int | None, words: Sequence[str]) -> int:
    """Make the bases, run the studies and tell where the figures lie; returns the exit code."""
    for study in wanted:
        plan_run(study, preset=preset, seeds=seeds)
    values = [resolve(study, preset, {"n_seeds": seeds} if seeds else None) for study in wanted]
    names = sorted({name for value in values for name in bases_of(value)})
    config = ["--config", f"preset={preset}", f"studies={' '.join(wanted)}", f"seeds={seeds or ''}"]
    code = make_bases(names, *words, *config)
    if code:
        return code
    told = []
    for study in wanted:
        # What a notebook says of its time holds for one seed.
        seconds = sum(console.expected_seconds(path, preset) for path in stages(study)) * (seeds or 1)
        told.append(f"{study} {console.about(seconds)}" if seconds else study)
    log.info("[3/4] studies: %s; what is up to date is left as it is", ", ".join(told))
    code = snakemake(*words, *config)
    if code:
        return code
    log.info("[4/4] figures")
    for study in wanted:
        for picture in sorted(run_folder(study, preset).glob("figures/*.png")):
            log.info("  %s", shown(picture))
    overview = runs_root() / preset / f"{OVERVIEW}.ipynb"
    if overview.exists():
        log.info("  %s (all on one page, beside the published ones)", shown(overview))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lib.workflow", description="Make the figures of the studies.")
    parser.add_argument("studies", nargs="*", help="folders of notebooks/ (default: all that have the preset)")
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--seeds", type=int, help="repetitions (default: the preset's)")
    parser.add_argument("--profile", help="a Snakemake profile, as profiles/slurm (default: this machine, all cores)")
    parser.add_argument("--bases", nargs="+", metavar="NAME", help="only make these base models")
    options = parser.parse_args(arguments)
    console.set_up()
    end_with_parents()
    os.environ.setdefault(WATCH, str(os.getpid()))
    words = ["--profile", options.profile] if options.profile else ["--cores", "all"]
    try:
        with only_one():
            if options.bases:
                return make_bases(options.bases, *words)
            wanted = options.studies or [study for study in studies() if options.preset in presets(study)]
            if not wanted:
                raise ValueError(f"no study in {home() / 'notebooks'} has a preset {options.preset}")
            return make_figures(wanted, options.preset, options.seeds, words)
    except (ValueError, OSError) as error:
        log.error("make figures: %s", error)
        return 2
    except KeyboardInterrupt:
        log.error("ended by hand; the same command goes on where this one stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())
