"""The run of a stage notebook: its folder, values, randomness, client and manifest.

A stage begins with ``run = start_run("reversal/03-evaluation", globals())`` and ends with ``run.finish(sentence)``.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import subprocess
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.params import Key, check, home, read_preset, resolve, stages, study_keys
from lib.paths import ROOT, file_hash, folder_hash, read_json, run_folder, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from openai import OpenAI

_SIMPLE = (str, int, float, bool, list, tuple, dict, type(None))
_OF_IPYTHON = {"In", "Out", "exit", "quit", "open", "get_ipython"}
_FREE = {"out", "preset", "n_seeds"}  # a run with other values of these still is the preset's own
_WITHOUT_EFFECT = {"out", "budget_usd"}  # no result depends on them
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
    params : dict
        Every key of the study with its value, of other stages too.
    rng : numpy.random.Generator
        Drawn from the seed and the stage's name: no other stage shares its numbers.
    """

    study: str
    stage: str
    preset: str
    folder: Path
    params: dict[str, Any]
    rng: np.random.Generator
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
        """Where a file of this run lies or is to be written; its folder is made."""
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
        path = self.folder / name
        if not path.exists():
            command = stage_command(self.study, self.preset, stage or f"{int(self.number) - 1:02d}", self.folder)
            raise FileNotFoundError(f"{path} is missing: run {command} first")
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
        """Write the manifest, which says that this stage is done, and tell the verdict (no times, no paths in it)."""
        write_json(
            self.manifest,
            {
                "study": self.study,
                "stage": self.stage,
                "preset": self.preset,
                "n_seeds": len(self.seeds),
                "parameters": self.params,
                "inputs": dict(sorted(self.inputs.items())),
                "git": _git_state(),
                "packages": _versions(),
            },
        )
        sys.stdout.write(sentence + "\n")


def start_run(stage: str, namespace: Mapping[str, Any]) -> Run:
    """Begin a stage: check the values of its parameters cell, make the run folder, set the style.

    Parameters
    ----------
    stage : str
        Study and notebook, as in ``reversal/03-evaluation``.
    namespace : mapping
        The notebook's ``globals()``; its plain values at this point are the parameters.

    Raises
    ------
    ValueError
        If a name is no key of the study (names the nearest), a value does not fit its key, values other than the
        preset's would be written into the preset's folder, or an earlier stage ran with others (`earlier_values`).
    """
    study, _, name = stage.partition("/")
    keys = study_keys(study)
    if not any(name in key.stages for key in keys.values()):
        raise ValueError(f"{stage}: no such notebook of {study}, or it declares no parameters")
    found = {
        key: value
        for key, value in namespace.items()
        if isinstance(value, _SIMPLE) and not key.startswith("_") and key not in _OF_IPYTHON
    }
    if any(isinstance(value, Run) for value in namespace.values()):  # the cell runs again: other names are the reader's
        found = {key: value for key, value in found.items() if key in keys}
    check(study, found, keys=keys)
    preset = str(found.get("preset", "tiny"))
    set_by_preset = resolve(study, preset)
    changed = sorted(key for key, value in found.items() if value != set_by_preset[key] and key not in _FREE)
    if changed and not found.get("out") and read_preset(study, preset):
        sets = " ".join(f"--set {key}={found[key]}" for key in changed)
        raise ValueError(
            f"preset {preset} sets {changed[0]} = {set_by_preset[changed[0]]!r}, here it is {found[changed[0]]!r}: "
            f"set a folder of its own with out, or run python -m lib.run {study} --preset {preset} {sets}"
        )
    out = str(found.get("out") or "")
    folder = ROOT / out if out else run_folder(study, preset)
    params = set_by_preset | earlier_values(study, name, folder, preset=preset, given=found, keys=keys) | found
    rng = np.random.default_rng([int(params.get("seed", 0)), zlib.crc32(stage.encode())])
    run = Run(study, name, preset, folder, params, rng)
    run.inputs = {
        str(path.relative_to(home())): file_hash(path)
        for path in (home() / "notebooks" / f"{stage}.py", home() / "params" / study / f"{preset}.yaml")
        if path.exists()
    }
    folder.mkdir(parents=True, exist_ok=True)
    run.manifest.unlink(missing_ok=True)
    _quieten()
    return run


def number(notebook: Path) -> str:
    """``03`` of ``03-evaluation.py``."""
    return notebook.stem.partition("-")[0]


def stage_command(study: str, preset: str, stage: str, folder: Path) -> str:
    """What a person types to run one stage (``03``) in a run folder."""
    where = "" if folder == run_folder(study, preset) else f" --out {folder} (with the same --set)"
    return f"python -m lib.run {study} --preset {preset} --stage {stage}{where}"


def earlier_values(
    study: str, stage: str, folder: Path, *, preset: str, given: Mapping[str, Any], keys: Mapping[str, Key]
) -> dict[str, Any]:
    """Parameters that reach a stage through the earlier ones, as those were run according to their manifests.

    A parameter reaches every stage after the first one that declares it. Stages without a manifest are passed over.

    Raises
    ------
    ValueError
        If an earlier stage was run with another value than `given` or than the stages before it, or if data that it
        read have changed since; says which stage to run again.
    """
    values: dict[str, Any] = {}
    reaching: set[str] = set()
    for notebook in stages(study):
        if notebook.stem == stage:
            break
        reaching |= {name for name, key in keys.items() if notebook.stem in key.stages} - _WITHOUT_EFFECT
        manifest = folder / f"{number(notebook)}.manifest.json"
        if not manifest.exists():
            continue
        record = read_json(manifest)
        again = f"run it again ({stage_command(study, preset, number(notebook), folder)})"
        for name in sorted(reaching):
            before = record["parameters"].get(name)
            now = given.get(name, values.setdefault(name, before))
            if before != now:
                raise ValueError(f"{notebook.stem} was run with {name} = {before!r}, now it is {now!r}: {again}")
        for name, known in record["inputs"].items():  # the notebook and the preset lie elsewhere
            if (folder / name).exists() and _hash_of(folder / name) != known:
                raise ValueError(f"{notebook.stem} was run on another {name}, which has changed since: {again}")
    return values


def _hash_of(path: Path) -> str:
    return folder_hash(path) if path.is_dir() else file_hash(path)


def _quieten() -> None:
    """Set the look of figures and tables, and keep request logs out of the outputs."""
    import pandas as pd

    from lib import figures

    figures.use_style()
    pd.set_option("display.width", 110, "display.max_columns", 20, "display.float_format", "{:.3f}".format)
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
