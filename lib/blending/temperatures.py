"""The published search for three temperatures: Optuna over the published space, on disk, so that it resumes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="IProgress not found")  # its bars, which nobody sees, want widgets
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler, TPESampler
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

from lib.blending.blend import Weights, target_logprobs
from lib.blending.support import BLOCK_SIZE, MODELS, Support
from lib.console import progress
from lib.paths import content_hash

SPACE = {"base": (0.05, 10.0), "tuned": (0.05, 10.0), "big": (0.05, 5.0)}
FINISHED = (TrialState.COMPLETE, TrialState.FAIL)  # a trial whose value is NaN fails: it is told, and counts


@dataclass(frozen=True, kw_only=True)
class Temperatures:
    """One temperature a model: log-probabilities are divided by it before they are blended.

    >>> Temperatures(base=2.0, tuned=4.0, big=1.0).weights
    (1.0, 0.25, -0.5)
    """

    base: float
    tuned: float
    big: float

    @property
    def weights(self) -> Weights:
        """The same blend as weights of (big, tuned, base)."""
        return 1 / self.big, 1 / self.tuned, -1 / self.base


FIRST = Temperatures(base=6.0, tuned=2.0, big=1.5)  # the published first trial


@dataclass(frozen=True)
class Search:
    """The best temperatures of a search, their value, and all finished trials (number, base, tuned, big, value)."""

    temperatures: Temperatures
    value: float
    trials: pd.DataFrame


@dataclass(frozen=True)
class Tuned:
    """The best temperatures, the same as weights of (big, tuned, base), their mean NLL in nats, and all trials."""

    temperatures: Temperatures
    weights: Weights
    nll_nats: float
    trials: pd.DataFrame


def tune_temperatures(
    support: Support | Sequence[Support], *, storage: Path, n_trials: int = 100, seed: int = 0
) -> Tuned:
    """Search temperatures that minimise the mean NLL of the true tokens, as published but on whole distributions.

    Parameters
    ----------
    support : Support, or several whose records are pooled (context lengths)
    storage : Path
        Journal file, made if missing. Several processes may share it, and several searches: a search is found by
        its records and seed.
    n_trials : int, default 100
        Finished trials in all, those of earlier calls included.

    Returns
    -------
    Tuned
        The best of the first `n_trials` trials; ``trials`` has ``value`` in nats.

    Raises
    ------
    ValueError
        If there are no records or trials, one holds NaN or infinity, or the storage is not a journal.

    Notes
    -----
    Space and first trial: approximating-finetuning, notebook 02. `fit_weights` finds the optimum of the same objective
    without a search, and without the bounds of the space.
    """
    parts = [support] if isinstance(support, Support) else list(support)
    if not parts:
        raise ValueError("no records to tune temperatures on: expected at least one Support")
    n = sum(map(len, parts))

    def nll_nats(temperatures: Temperatures) -> float:
        return -float(sum(target_logprobs(part, temperatures.weights).sum() for part in parts)) / n

    found = search_temperatures(nll_nats, key=_key(parts), storage=storage, n_trials=n_trials, seed=seed)
    return Tuned(found.temperatures, found.temperatures.weights, found.value, found.trials)


def search_temperatures(
    objective: Callable[[Temperatures], float], *, key: str, storage: Path, n_trials: int = 100, seed: int = 0
) -> Search:
    """Minimise an objective over `SPACE` by Optuna's TPE, `FIRST` first.

    Parameters
    ----------
    objective : function of Temperatures
        NaN makes a failed trial, which counts as finished.
    key : str
        Names the objective and all that it was made from: a search goes on where one with this key and seed stopped.
    storage, n_trials : as `tune_temperatures`

    Raises
    ------
    ValueError
        If `n_trials` is below 1, no trial gave a number, or the storage is not a journal.
    """
    if n_trials < 1:
        raise ValueError(f"n_trials is {n_trials}: expected at least 1")
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a failed trial is told in `trials`
    study = _open(storage, content_hash([key, SPACE, asdict(FIRST), seed]), seed)

    def run(trial: optuna.Trial) -> float:
        return objective(Temperatures(**{name: trial.suggest_float(name, *span) for name, span in SPACE.items()}))

    with progress(n_trials, "tune temperatures", unit="trial") as bar:
        while (n_done := len(study.get_trials(deepcopy=False, states=FINISHED))) < n_trials:
            bar.update(n_done - bar.n)
            study.optimize(run, n_trials=1)
        bar.update(n_trials - bar.n)
    finished = study.get_trials(deepcopy=False, states=FINISHED)[:n_trials]  # several workers may have made one more
    rows = [{"number": i, **trial.params, "value": _value(trial)} for i, trial in enumerate(finished)]
    trials = pd.DataFrame(rows, columns=["number", *SPACE, "value"])
    if trials["value"].isna().all():
        raise ValueError(f"none of {n_trials} trials gave a number: every blend is NaN on these records")
    best = trials.loc[trials["value"].idxmin()]
    return Search(Temperatures(**{name: float(best[name]) for name in SPACE}), float(best["value"]), trials)


def _value(trial: FrozenTrial) -> float:
    return float("nan") if trial.value is None else trial.value


class _SeededByTrial(BaseSampler):
    """TPE whose draws depend on the seed and the trial's number alone: a resumed search is the undisturbed one.

    One generator for a whole process would begin anew after a kill, and alike in every worker.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._current: tuple[int, TPESampler] | None = None

    def _of(self, trial: FrozenTrial) -> TPESampler:
        if self._current is None or self._current[0] != trial.number:
            state = np.random.SeedSequence([self._seed, trial.number]).generate_state(1)
            self._current = trial.number, TPESampler(seed=int(state[0]))
        return self._current[1]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _open(path: Path, name: str, seed: int) -> Study:
    """The study of a name, made with its first trial waiting if it is new."""
    # The lock keeps two workers from both making the study, and so from both enqueuing its first trial.
    with _locked(path):
        _refuse_other_file(path)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))),
            study_name=name,
            sampler=_SeededByTrial(seed),
            direction="minimize",
            load_if_exists=True,
        )
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(asdict(FIRST))
    return study


def _refuse_other_file(path: Path) -> None:
    # Optuna passes over one line that it cannot read, and writes behind it.
    if path.exists() and path.stat().st_size:
        try:
            with path.open("rb") as file:
                json.loads(file.readline())["op_code"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a journal of Optuna: name another file, or remove it") from error


def _key(parts: Sequence[Support]) -> str:
    """Hash of the records: log-probabilities, counts and targets, read block by block."""
    digest = hashlib.sha256(b"nll_nats")
    for part in parts:
        digest.update(repr(part.big.shape).encode())
        step = max(1, BLOCK_SIZE // part.big.shape[1])
        for name in (*MODELS, "log_counts", "target"):
            table = getattr(part, name)
            for start in range(0, 0 if table is None else len(part), step):
                digest.update(np.ascontiguousarray(table[start : start + step]).data)
            digest.update(f"{name} {None if table is None else table.dtype}".encode())
    return digest.hexdigest()
