"""The run of a stage notebook: its folder, values, randomness, client and manifest.

A stage begins with ``run = start_run("reversal/03-evaluation", globals())`` and ends with ``run.finish(sentence)``.

Values of the parameters cell that were changed by hand are never written into the folder of a preset: such a run has a
folder beside it, ``data/runs/<preset>-changed/<study>``. What an earlier stage wrote is then read from its latest run
in either folder, and a stage whose earlier one was changed goes on with the changed values.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import subprocess
import sys
import warnings
import zlib
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.keys import Key
from lib.params import check, home, number, resolve, stages, study_keys
from lib.paths import ROOT, file_hash, folder_hash, read_json, run_folder, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from openai import OpenAI

_SIMPLE = (str, int, float, bool, list, tuple, dict, type(None))
_OF_IPYTHON = {"In", "Out", "exit", "quit", "open", "get_ipython"}
_FREE = {"n_seeds", "budget_usd"}  # a run with other values of these still is the preset's own
_WITHOUT_EFFECT = {"out", "budget_usd"}  # no result depends on them
_CONTINUED = {"seed", "n_seeds"}  # taken over from earlier stages where a notebook does not set them
RESOLVED = "_resolved"  # set by `lib.run`: all values are given, and none is to be replaced by the preset's
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "pandas", "openai", "matplotlib")


@dataclass
class Run:
    """One stage of one run.

    Attributes
    ----------
    stage : str
        As in ``03-evaluation``; `number` is its ``03``.
    folder : Path
        The run folder, shared by the stages of a study.
    earlier : tuple of Path
        Run folders that what earlier stages wrote is read from; the latest run of a stage counts.
    params : dict
        Every key of the study with its value, of other stages too.
    changed : dict
        Values of this stage that are not the preset's.
    rng : numpy.random.Generator
        Drawn from the seed and the stage's name: no other stage shares its numbers.
    """

    study: str
    stage: str
    preset: str
    folder: Path
    params: dict[str, Any]
    rng: np.random.Generator
    earlier: tuple[Path, ...] = ()
    changed: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)

    @property
    def number(self) -> str:
        """``03`` of ``03-evaluation``."""
        return self.stage.partition("-")[0]

    @property
    def manifest(self) -> Path:
        """File that says that this stage is done, and how; written last."""
        return self.folder / f"{self.number}.manifest.json"

    @property
    def seed(self) -> int:
        """First of `seeds`."""
        return int(self.params.get("seed", 0))

    @property
    def seeds(self) -> list[int]:
        """One seed a repetition, counted up from `seed`."""
        return list(range(self.seed, self.seed + int(self.params.get("n_seeds", 1))))

    def path(self, name: str) -> Path:
        """Path of a file of this run; its folder is made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def need(self, name: str, *, stage: str | None = None) -> Path:
        """A file or folder of an earlier stage: the one before, or `stage`, as in ``01``; its hash is recorded.

        Raises
        ------
        FileNotFoundError
            If it is not there; says which command writes it.
        """
        stage = stage or f"{int(self.number) - 1:02d}"
        manifest = latest_manifest(self.earlier, stage)
        path = (manifest.parent if manifest else self.folder) / name
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing: run all of the notebook {stage} first, or "
                f"{stage_command(self.study, self.preset, stage, self.folder)}"
            )
        self.inputs[name] = _hash_of(path)
        return path

    def client(self) -> OpenAI:
        """The client of the models: a hosted endpoint, or the server of this machine's store.

        What a hosted endpoint may cost is the study's parameter ``budget_usd``; what was spent is in the run folder's
        ``spend.jsonl``.
        """
        from lib import api

        budget_usd = float(self.params.get("budget_usd", 0))
        return api.connect(budget_usd=budget_usd, spend=self.folder / "spend.jsonl")

    def save(self, fig: Figure, name: str, caption: str) -> Figure:
        """Write a figure with its caption into the run's folder ``figures`` and return it, to be shown once."""
        from lib import figures

        figures.save(fig, self.folder / "figures", name, caption)
        return fig

    def finish(self, sentence: str) -> None:
        """Write the manifest, which says that this stage is done, and print a sentence (without times and paths)."""
        record = {
            "study": self.study, "stage": self.stage, "preset": self.preset, "n_seeds": len(self.seeds),
            "parameters": self.params, "changed": self.changed, "inputs": dict(sorted(self.inputs.items())),
            "git": _git_state(), "packages": _versions(),
        }  # fmt: skip
        write_json(self.manifest, record)
        sys.stdout.write(sentence + "\n")


def start_run(stage: str, namespace: MutableMapping[str, Any]) -> Run:
    """Begin a stage: check the values of its parameters cell, make the run folder, set the style.

    Parameters
    ----------
    stage : study and notebook, as in ``reversal/03-evaluation``
    namespace : the notebook's ``globals()``. Its plain values at this point are the parameters. Those of the cell that
        were left as they are get the values of the preset that the cell names, or those that an earlier stage was
        changed to; a line says which.

    Raises
    ------
    ValueError
        If a name is no key of the study (names the nearest), a value does not fit its key, or an earlier stage was run
        with others (`earlier_values`).
    """
    study, _, name = stage.partition("/")
    keys = study_keys(study)
    if name not in keys["preset"].stages:
        raise ValueError(f"{stage}: no such notebook of {study}, or it declares no parameters")
    given = {
        key: value
        for key, value in namespace.items()
        if isinstance(value, _SIMPLE) and not key.startswith("_") and key not in _OF_IPYTHON
    }
    if any(isinstance(value, Run) for value in namespace.values()):  # the cell runs again: other names are the reader's
        given = {key: value for key, value in given.items() if key in keys}
    check(study, given, keys=keys)
    preset = str(given.pop("preset", keys["preset"].default))
    out = str(given.pop("out", ""))
    of_preset, of_cell = resolve(study, preset), resolve(study, keys["preset"].default)
    exact = bool(namespace.get(RESOLVED))
    changed = {
        key: value for key, value in given.items() if value != of_preset[key] and (exact or value != of_cell[key])
    }
    folder = ROOT / out if out else run_folder(study, preset)
    earlier: tuple[Path, ...] = (folder,)
    if not exact and not out:
        beside = run_folder(study, f"{preset}-changed")
        latest = [latest_manifest((beside, folder), number(path)) for path in stages(study) if path.stem < name]
        if changed.keys() - _FREE or any(path and path.parent == beside for path in latest):
            folder, earlier = beside, (beside, folder)
    params = earlier_values(
        study, name, earlier, preset=preset, values=of_preset | changed, given=given if exact else changed, keys=keys
    )
    params |= {"preset": preset, "out": out}
    rng = np.random.default_rng([int(params["seed"]), zlib.crc32(stage.encode())])
    run = Run(study, name, preset, folder, params, rng, earlier, changed)
    sources = (home() / "notebooks" / f"{stage}.py", home() / "params" / study / f"{preset}.yaml")
    run.inputs = {str(path.relative_to(home())): file_hash(path) for path in sources if path.exists()}
    replaced = {key: params[key] for key in given if given[key] != params[key]}
    namespace.update(replaced)
    if notes := [f"{key} = {value!r}" for key, value in {**replaced, **(changed if not exact else {})}.items()]:
        where = f" (run folder {folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder})"
        sys.stdout.write(f"preset {preset} with {', '.join(notes)}{where}\n")
    folder.mkdir(parents=True, exist_ok=True)
    run.manifest.unlink(missing_ok=True)
    _quieten()
    return run


def stage_command(study: str, preset: str, stage: str, folder: Path) -> str:
    """What a person types to run one stage (``03``) in a run folder."""
    where = "" if folder == run_folder(study, preset) else f" --out {folder} (with the same --set)"
    return f"python -m lib.run {study} --preset {preset} --stage {stage}{where}"


def latest_manifest(folders: Sequence[Path], number: str) -> Path | None:
    """Manifest of the latest run of a stage (``03``) in any of these run folders; None if it was not run."""
    found = [path for folder in folders if (path := folder / f"{number}.manifest.json").exists()]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def earlier_values(
    study: str,
    stage: str,
    folders: Sequence[Path],
    *,
    preset: str,
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    keys: Mapping[str, Key],
) -> dict[str, Any]:
    """The values of a stage: its own, and in place of those that were not `given` what earlier stages were changed to.

    A parameter reaches every stage after the first one that declares it. Stages that were not run are passed over.

    Raises
    ------
    ValueError
        If an earlier stage was run with another value of a parameter that reaches it, or if data that it read have
        changed since; says which stage to run again.
    """
    earlier = {path: latest_manifest(folders, number(path)) for path in stages(study) if path.stem < stage}
    records = {path: read_json(manifest) for path, manifest in earlier.items() if manifest}
    values = dict(values)
    for record in records.values():
        before = {name: record["parameters"][name] for name in _CONTINUED & record["parameters"].keys()}
        before |= record.get("changed", {})
        values |= {name: value for name, value in before.items() if name in keys and name not in given}
    for notebook, record in records.items():
        again = f"run it again ({stage_command(study, preset, number(notebook), folders[0])})"
        reaching = {name for name, key in keys.items() if min(key.stages) <= notebook.stem} - _WITHOUT_EFFECT
        for name in sorted(reaching - {"preset"}):
            before, now = record["parameters"].get(name), values[name]
            if before != now:
                raise ValueError(f"{notebook.stem} was run with {name} = {before!r}, now it is {now!r}: {again}")
        for name, known in record["inputs"].items():  # the notebook and the preset are not in a run folder
            hashes = [_hash_of(folder / name) for folder in folders if (folder / name).exists()]
            if hashes and known not in hashes:
                raise ValueError(f"{notebook.stem} was run on another {name}, which has changed since: {again}")
    return values


def _hash_of(path: Path) -> str:
    return folder_hash(path) if path.is_dir() else file_hash(path)


def _quieten() -> None:
    """Set the look of figures and tables, and keep request logs out of the outputs."""
    import pandas as pd

    from lib import figures

    figures.use_style()
    pd.set_option("display.max_colwidth", 90, "display.float_format", "{:.3f}".format)
    pd.set_option("display.width", 110, "display.max_columns", 20)
    warnings.filterwarnings("ignore", message="IProgress not found")  # on import of libraries whose bars want widgets
    for name in ("httpx", "httpx2", "openai"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _versions() -> dict[str, str]:
    versions = {each.name.lower(): each.version for each in importlib.metadata.distributions()}
    return {"python": platform.python_version()} | {name: versions[name] for name in _PACKAGES if name in versions}


def _git_state() -> dict[str, Any]:
    """Commit, and whether tracked files differ from it; nothing outside a repository."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {}
