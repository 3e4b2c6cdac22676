"""Run a study, or one stage of it: ``python -m lib.run STUDY [--preset laptop] [--stage 03] [--set key=value ...]``.

Values are checked before a kernel starts. What runs is the ``.py`` of a notebook; a stage is done when its manifest is
there.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec

from lib import console
from lib.keys import Key, nearest
from lib.notebook import RESOLVED, earlier_values, stage_command
from lib.params import help_text, home, number, parse_set, resolve, stages, study_keys
from lib.paths import ROOT, run_folder, runs_root

if TYPE_CHECKING:
    from nbformat import NotebookNode

log = logging.getLogger(__name__)

OVERVIEW = "00-overview"
LOCK_SECONDS = 10.0
KERNEL_SECONDS = 600  # for a kernel to start: on a busy node of a cluster it can take minutes
FURTHER_BASES = ("size_bases", "further_bases", "control_base")


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


def shown(path: Path) -> Path:
    """A path as a person in the repository would write it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def plan_run(
    study: str,
    *,
    preset: str = "laptop",
    stage: str = "",
    values: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    base: str | None = None,
    seeds: int | None = None,
    out: Path | None = None,
) -> Plan:
    """Check what is to be run: `ValueError` if study, preset, stage or key is unknown or a value does not fit.

    Over the preset's values lie `values`, and over these what `sets` gives as ``key=value``. With `base`, that model is
    the only one: further ones belong to the preset's own base.
    """
    notebooks = stages(study)
    keys = study_keys(study)
    if base:
        given = {pair.partition("=")[0] for pair in sets}
        sets = [*sets, f"base={base}", *(f"{name}=" for name in FURTHER_BASES if name in keys.keys() - given)]
    overrides = {**(values or {}), **parse_set(study, sets, keys=keys)}
    for name, flag in (("out", "--out"), ("preset", "--preset")):
        if name in overrides:
            raise ValueError(f"give {flag} instead of --set {name}=")
    repeated = {} if seeds is None else parse_set(study, [f"n_seeds={seeds}"], keys=keys)
    params = resolve(study, preset, {**overrides, **repeated})
    chosen = [path for path in notebooks if not stage or stage.zfill(2) in (number(path), path.stem)]
    if not chosen:
        known = [path.stem for path in notebooks]
        raise ValueError(f"{study} has no stage {stage!r}{nearest(stage, known)}; it has: {', '.join(known)}")
    folder = out.resolve() if out else run_folder(study, preset, overrides=overrides)
    if folder != run_folder(study, preset):
        params["out"] = str(folder)
    return Plan(study, preset, folder, params, keys, tuple(chosen), tuple(notebooks))


def check_earlier(plan: Plan, notebook: Path) -> None:
    """Refuse a stage (`StageFailed`) when an earlier one has not been run, or was run with other values or data."""
    for earlier in plan.all_notebooks[: plan.all_notebooks.index(notebook)]:
        if not (plan.folder / f"{number(earlier)}.manifest.json").exists():
            command = stage_command(plan.study, plan.preset, number(earlier), plan.folder)
            raise StageFailed(f"{earlier.stem} has not been run: {command}")
    own = {"values": plan.params, "given": plan.params, "keys": plan.keys}
    try:
        earlier_values(plan.study, notebook.stem, [plan.folder], preset=plan.preset, **own)
    except ValueError as error:
        raise StageFailed(str(error)) from error


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
    executed = execute(notebook, plan.folder / f"{notebook.stem}.ipynb", {**plan.params, RESOLVED: True})
    if not manifest.exists():
        raise StageFailed(f"{notebook.stem} wrote no manifest: its last code cell must call run.finish(...)")
    return executed


class OwnKernel(AsyncKernelManager):
    """The kernel of this environment, whatever kernels Jupyter finds; it imports this checkout."""

    @property
    def kernel_spec(self) -> KernelSpec:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            env={"PYTHONPATH": os.pathsep.join(paths)},
            language="python",
        )


def read_notebook(path: Path) -> NotebookNode:
    """A notebook from its ``.py``; says so in the log when the ``.ipynb`` beside it has other cells."""
    import jupytext
    from jupytext.compare import NotebookDifference, compare_notebooks

    notebook = jupytext.read(path)
    copy = path.with_suffix(".ipynb")
    if copy.exists():
        try:
            compare_notebooks(jupytext.read(copy), notebook, fmt="py:percent", compare_outputs=False)
        except NotebookDifference:
            log.warning("%s differs from %s, which is what runs (make sync copies it)", shown(copy), path.name)
    return notebook


def execute(notebook: Path, target: Path, parameters: dict[str, Any]) -> Path:
    """Execute one notebook by papermill, its standard error shown here (`StageFailed` if a cell fails)."""
    import papermill
    from papermill.exceptions import PapermillException

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of keys that other stages declare
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            read_notebook(notebook),
            target,
            parameters=parameters,
            kernel_name="python3",
            language="python",
            kernel_manager_class=OwnKernel,
            cwd=notebook.parent,
            progress_bar=False,
            start_timeout=KERNEL_SECONDS,
            stderr_file=sys.stderr,
            extra_arguments=["--log-level=CRITICAL"],  # else each warns that loopback is not encrypted
        )
    except PapermillException as error:
        name = getattr(error, "ename", type(error).__name__)
        message = (str(getattr(error, "evalue", "") or error).strip().splitlines() or [""])[0]
        raise StageFailed(f"{notebook.stem} failed: {name}: {message} (see {shown(target)})") from error
    except (RuntimeError, OSError) as error:
        raise StageFailed(f"{notebook.stem} stopped early: {error} (see {shown(target)})") from error
    return target


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder; waits a little for a run that is ending (`StageFailed` if it does not end)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout as error:
        raise StageFailed(f"{shown(folder)} is in use by another run: wait for it or end it") from error
    except OSError as error:
        advice = "set TUNING_FORK_RUNS to a folder that can be written"
        raise StageFailed(f"cannot write to {shown(folder)} ({error.strerror}): {advice}") from error
    try:
        yield
    finally:
        lock.release()


def run_plan(plan: Plan) -> None:
    """Run the stages of a plan in order, logging which is running and how long it took."""
    with locked(plan.folder):
        for notebook in plan.notebooks:
            title = f"{plan.study} {number(notebook)}/{number(plan.all_notebooks[-1])} {notebook.stem}"
            log.info(title)
            started = time.monotonic()
            run_stage(plan, notebook)
            log.info("%s done in %.0f s", title, time.monotonic() - started)
    figures = sorted((plan.folder / "figures").glob("*.png"))
    log.info("run folder: %s%s", shown(plan.folder), "".join(f"\n  {shown(figure)}" for figure in figures))


def run_overview(preset: str) -> Path:
    """Execute the overview over the runs of a preset (`ValueError` if there are none)."""
    known = sorted({path.parts[-3] for path in runs_root().glob("*/*/[0-9][0-9].manifest.json")})
    if preset not in known:
        found = ", ".join(known) or "none"
        raise ValueError(f"no run of preset {preset!r}{nearest(preset, known)}; there are runs of: {found}")
    runs = runs_root() / preset
    values = {"preset": preset, "runs": str(runs)}
    return execute(home() / "notebooks" / f"{OVERVIEW}.py", runs / f"{OVERVIEW}.ipynb", values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module; returns the exit code (0 done, 1 a stage failed, 2 nothing was started)."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m lib.run",
        description="Run a study or one stage of it.",
        epilog=help_text(given) if {"-h", "--help"} & {*given} else "",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", help=f"a folder of notebooks/, or {OVERVIEW}")
    parser.add_argument("--preset", default="laptop", help="a file of params/<study>/ (default: laptop)")
    parser.add_argument("--stage", default="", help="one stage, as in 03 (default: all in order)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="sets", help="set one parameter"
    )
    parser.add_argument("--seeds", type=int, help="repeat with this many seeds in the same run folder")
    parser.add_argument("--out", type=Path, help="run folder (default: data/runs/<preset>/<study>)")
    parser.add_argument("--base", metavar="MODEL", help="run the study on this model alone")
    parser.add_argument("--models", type=Path, metavar="DIR", help="folder below which hf:NAME is looked up")
    parser.add_argument("--download", action="store_true", help="let hf: models come from the Hugging Face hub")
    options = vars(parser.parse_args(arguments))
    console.set_up()
    try:
        if options["study"] == OVERVIEW:
            if [name for name in options.keys() - {"study", "preset"} if options[name] != parser.get_default(name)]:
                raise ValueError(f"{OVERVIEW} shows the runs of a preset: it takes --preset and no other option")
            run_overview(options["preset"])
            return 0
        models, download = options.pop("models"), options.pop("download")
        if models:
            if not models.is_dir():
                raise ValueError(f"--models {models} is not a folder")
            os.environ["TUNING_FORK_MODELS"] = str(models.resolve())
        if download:
            os.environ["TUNING_FORK_DOWNLOAD"] = "1"
        run_plan(plan_run(**options))
    except ValueError as error:
        log.error("lib.run: %s", error)
        return 2
    except (StageFailed, OSError) as error:
        log.error("lib.run: %s: %s", options["study"], error)
        return 1
    except KeyboardInterrupt:
        log.error("lib.run: %s: interrupted; the same command continues", options["study"])
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
