"""Run a study, or one stage of it: ``python -m lib.run STUDY [--preset laptop] [--stage 03] [--set key=value ...]``.

Everything that can be wrong with the values is said before a kernel starts. A stage is done when its manifest is there.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lib import console
from lib.keys import Key, home, nearest, notebook_keys, stages, study_keys
from lib.params import active_bases, parse_set, resolve
from lib.parent import WATCH, end_with_parents
from lib.paths import ROOT, from_root, read_json, run_folder, runs_root, store_root

log = logging.getLogger(__name__)

OVERVIEW = "00-overview"
LOCK_SECONDS = 10.0
GENERAL = "general"  # key of a study whose bases are made from a text
BASE_KEYS = ("base", "bigs", "size_bases")


class StageFailed(RuntimeError):
    """A stage that could not begin or did not end well; the message is one line."""


@dataclass(frozen=True)
class Plan:
    """A run whose values were checked: which notebooks, with what, into which folder."""

    study: str
    preset: str
    folder: Path
    params: dict[str, Any]
    keys: dict[str, Key]
    notebooks: tuple[Path, ...]
    all_notebooks: tuple[Path, ...]

    @property
    def is_of_preset(self) -> bool:
        """Whether the run has the preset's own folder."""
        return self.folder == run_folder(self.study, self.preset)

    def command(self, notebook: Path) -> str:
        """What a person types to run one stage of this run."""
        where = "" if self.is_of_preset else f" --out {shown(self.folder)} (with the same --set)"
        return f"python -m lib.run {self.study} --preset {self.preset} --stage {number(notebook)}{where}"


def number(notebook: Path) -> str:
    """``03`` of ``03-evaluation.ipynb``."""
    return notebook.stem.partition("-")[0]


def shown(path: Path) -> Path:
    """A path as a person in the repository would write it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def plan_run(
    study: str,
    *,
    preset: str = "laptop",
    stage: str = "",
    sets: Sequence[str] = (),
    seeds: int | None = None,
    out: Path | None = None,
) -> Plan:
    """Check what is to be run.

    Raises
    ------
    ValueError
        If study, preset, stage or key is unknown or a value does not fit; names what is there.
    """
    notebooks = stages(study)
    keys = study_keys(study)
    overrides = parse_set(study, sets, keys=keys)
    for name, flag in (("out", "--out"), ("preset", "--preset")):
        if name in overrides:
            raise ValueError(f"give {flag} instead of --set {name}=")
    repeated = {} if seeds is None else parse_set(study, [f"n_seeds={seeds}"], keys=keys)
    params = resolve(study, preset, {**overrides, **repeated})
    chosen = [path for path in notebooks if stage.zfill(2) in ("00", number(path), path.stem)]
    if not chosen:
        known = [path.stem for path in notebooks]
        raise ValueError(f"{study} has no stage {stage!r}{nearest(stage, known)}; it has: {', '.join(known)}")
    folder = out.resolve() if out else run_folder(study, preset, overrides=overrides)
    if folder != run_folder(study, preset):
        params["out"] = str(folder)
    return Plan(study, preset, folder, params, keys, tuple(chosen), tuple(notebooks))


def check_earlier(plan: Plan, notebook: Path) -> None:
    """Refuse a stage (`StageFailed`) whose earlier stage is missing or was run with other values."""
    place = plan.all_notebooks.index(notebook)
    if place == 0:
        return
    earlier = plan.all_notebooks[place - 1]
    manifest = plan.folder / f"{number(earlier)}.manifest.json"
    if not manifest.exists():
        raise StageFailed(f"{earlier.stem} has not been run: {plan.command(earlier)}")
    before = read_json(manifest)["parameters"]
    for name, key in plan.keys.items():
        if name != "out" and earlier.stem in key.stages and before.get(name) != plan.params[name]:
            values = f"{name} = {before.get(name)!r}, now {plan.params[name]!r}"
            raise StageFailed(f"{earlier.stem} was run with {values}: {plan.command(earlier)}")


def run_stage(plan: Plan, notebook: Path) -> Path:
    """Run one stage and return its executed notebook.

    Raises
    ------
    StageFailed
        If it cannot begin, a cell fails, or it ends without its manifest; the executed notebook is kept.
    """
    check_earlier(plan, notebook)
    manifest = plan.folder / f"{number(notebook)}.manifest.json"
    manifest.unlink(missing_ok=True)
    executed = execute(notebook, plan.folder / notebook.name, plan.params)
    if not manifest.exists():
        raise StageFailed(f"{notebook.stem} wrote no manifest: its last code cell must call run.finish(...)")
    return executed


def execute(notebook: Path, target: Path, parameters: dict[str, Any]) -> Path:
    """Execute one notebook by papermill, its progress shown here (`StageFailed` if a cell fails)."""
    import papermill
    from papermill.exceptions import PapermillException

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of keys that other stages declare
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with console.shown_progress():
            papermill.execute_notebook(
                str(notebook),
                str(target),
                parameters=parameters,
                kernel_name="python3",
                cwd=str(notebook.parent),
                progress_bar=False,
                extra_arguments=["--log-level=CRITICAL"],  # else each warns that loopback is not encrypted
            )
    except PapermillException as error:
        what = getattr(error, "ename", type(error).__name__)
        said = (str(getattr(error, "evalue", "") or error).strip().splitlines() or [""])[0]
        raise StageFailed(f"{notebook.stem} failed: {what}: {said} (see {shown(target)})") from error
    except (RuntimeError, OSError) as error:
        raise StageFailed(f"{notebook.stem} was broken off: {error} (see {shown(target)})") from error
    return target


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder alone; a run that is being ended is waited for (`StageFailed` if it does not end)."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout as error:
        raise StageFailed(f"{shown(folder)} is in use by another run: wait for it or end it") from error
    try:
        yield
    finally:
        lock.release()


def run_plan(plan: Plan) -> None:
    """Run the stages of a plan in order, telling what is under way and how long it took."""
    with locked(plan.folder):
        missing = missing_bases(plan)
        left = [console.expected_seconds(path, plan.preset) for path in plan.notebooks]
        for place, notebook in enumerate(plan.notebooks):
            about = console.about(sum(left[place:]), of_all=len(plan.notebooks) > 1) if all(left[place:]) else ""
            place_of = f"{plan.all_notebooks.index(notebook) + 1}/{len(plan.all_notebooks)}"
            log.info("%s %s %s %s", plan.study, place_of, notebook.stem, about)
            started = time.monotonic()
            while missing and needs_bases(plan, notebook):
                make_base(missing.pop(0), from_root(plan.params[GENERAL]))
            run_stage(plan, notebook)
            log.info("%s %s %s done in %.0f s", plan.study, place_of, notebook.stem, time.monotonic() - started)


def needs_bases(plan: Plan, notebook: Path) -> bool:
    """Whether a stage declares one of the keys that name bases."""
    return any(notebook.stem in plan.keys[name].stages for name in BASE_KEYS if name in plan.keys)


def missing_bases(plan: Plan) -> list[str]:
    """Bases that the stages of a plan need from the text that `general` names, and that the store does not have.

    Raises
    ------
    StageFailed
        If that text cannot be read or is empty, or a name has no recipe.
    """
    general = plan.params.get(GENERAL, "")
    if not (general and any(needs_bases(plan, notebook) for notebook in plan.notebooks)):
        return []
    from lib.base import BaseNotMade, made_from

    named = [*active_bases(plan.params), *plan.params.get("bigs", [])]
    own = [name for name in named if re.fullmatch(r"fork-\w+(:init)?", name)]  # one with a hash is another text's
    missing = []
    for name in dict.fromkeys(name.removesuffix(":init") for name in own):
        try:
            made_from(name, from_root(general), store_root())
        except BaseNotMade:
            missing.append(name)
        except (ValueError, OSError) as error:
            raise StageFailed(f"{GENERAL} = {general}: {error}") from error
    return missing


def make_base(name: str, text: Path) -> None:
    """Make a base from a text in a process of its own, its progress shown here (`StageFailed` if it fails)."""
    command = [sys.executable, "-m", "lib.base", name, "--corpus", str(text)]
    log.info("base model %s from %s", name, shown(text))
    started = time.monotonic()
    with console.shown_progress():
        watched = {WATCH: str(os.getpid()), **os.environ}  # it ends when this process is killed
        ended = subprocess.run(command, env=watched, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if ended.returncode:
        said = (ended.stderr.strip().splitlines() or [f"ended with code {ended.returncode}"])[-1]
        raise StageFailed(f"no base model from {shown(text)}: {said}")
    log.info("base model %s done in %.0f s", name, time.monotonic() - started)


def run_overview(preset: str) -> Path:
    """Execute the overview over the runs of a preset."""
    notebook = home() / "notebooks" / f"{OVERVIEW}.ipynb"
    declared = {key.name for key in notebook_keys(notebook)}
    values = {"preset": preset, "runs": str(runs_root() / preset)}
    return execute(
        notebook,
        runs_root() / preset / notebook.name,
        {name: value for name, value in values.items() if name in declared},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module; returns the exit code (0 done, 1 a stage failed, 2 nothing was started)."""
    parser = argparse.ArgumentParser(prog="python -m lib.run", description="Run a study or one stage of it.")
    parser.add_argument("study", help=f"a folder of notebooks/, or {OVERVIEW}")
    parser.add_argument("--preset", default="laptop", help="a file of params/<study>/, or tiny (default: laptop)")
    parser.add_argument("--stage", default="", help="one stage, as in 03 (default: all in order)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="sets", help="set one parameter"
    )
    parser.add_argument("--seeds", type=int, help="repeat with this many seeds in the same run folder")
    parser.add_argument("--out", type=Path, help="run folder (default: data/runs/<preset>/<study>)")
    options = parser.parse_args(arguments)
    console.set_up()
    end_with_parents()
    try:
        if options.study == OVERVIEW:
            run_overview(options.preset)
            return 0
        run_plan(plan_run(**vars(options)))
    except ValueError as error:
        log.error("lib.run: %s", error)
        return 2
    except (StageFailed, OSError) as error:
        log.error("lib.run: %s: %s", options.study, error)
        return 1
    except KeyboardInterrupt:
        log.error("lib.run: %s: ended by hand; the same command goes on", options.study)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
