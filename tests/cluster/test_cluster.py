"""Three studies on a SLURM of one node and of three, on this machine: make cluster-test (as root; not in make test).

The studies run at `tiny` with three fine-tunes, each job with a server of its own over one registry. What is compared:
the numbers, how often each content was trained, which node ran what. Two workers of the blending study's search share a
PostgreSQL.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
STUDIES = ("reversal", "guidance", "parents")
QUICK = [
    "--slurm-status-command", "squeue", "--slurm-no-account", "--slurm-init-seconds-before-status-checks", "1",
    "--seconds-between-status-checks", "1", "--latency-wait", "10", "--nolock",
    "--default-resources", "slurm_partition=debug", "runtime=30", "mem_mb=2500", "cpus_per_task=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("slurm")
    script = Path(__file__).with_name("slurm")
    subprocess.run([script, "start", folder], check=True)
    yield folder
    subprocess.run([script, "stop", folder], check=True)


def nodes(state: str) -> None:
    """Drain the second and the third node, or let them run again."""
    command = ["scontrol", "update", "nodename=node2,node3", f"state={state}", "reason=test"]
    subprocess.run(command, check=True)


def study_all(home: Path) -> float:
    """Run the studies by the profile; seconds that it took."""
    registry = home / "registry"
    registry.mkdir(parents=True)
    shutil.copytree(ROOT / "data" / "store" / "bases", registry / "bases", ignore=shutil.ignore_patterns(".*"))
    shutil.copytree(ROOT / "data" / "store" / "world", registry / "world")
    environment = os.environ | {
        "TUNING_FORK_RUNS": str(home / "runs"), "TUNING_FORK_STORE": str(registry), "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/slurm", *QUICK, "--quiet", "all", "--config",
               "preset=tiny", f"studies={' '.join(STUDIES)}", "seeds=3", "ahead=1"]  # fmt: skip
    started = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, env=environment, timeout=3600)
    return time.perf_counter() - started


def ran(cluster: Path) -> Counter[str]:
    """How many jobs each node has run so far."""
    lines = (cluster / "log" / "jobs.log").read_text().splitlines()
    return Counter(found[1] for line in lines if (found := re.search(r"NodeList=(\S+)", line)))


def test_studies_on_one_node_and_on_three(cluster: Path, tmp_path: Path) -> None:
    nodes("drain")
    seconds = {"one": study_all(tmp_path / "one")}
    before = ran(cluster)
    nodes("resume")
    seconds["three"] = study_all(tmp_path / "three")
    after = ran(cluster) - before
    assert set(before) == {"node1"}
    assert set(after) == {"node1", "node2", "node3"}
    for study in STUDIES:
        one, three = (pd.read_csv(tmp_path / name / "runs" / "tiny" / study / "summary.csv") for name in seconds)
        pd.testing.assert_frame_equal(one, three, rtol=0, atol=1e-5)  # requests meet others in other batches
    trained = {}
    for name in seconds:
        registry = tmp_path / name / "registry"
        trained[name] = len([*(registry / "tuned").glob("*/final")])
        assert len([*(registry / "tuned").glob("*/job.json")]) == trained[name], "each content was trained once"
        assert not [*(registry / "tuned").glob("*/state-*")]
        (tmp_path / "store").mkdir(exist_ok=True)
        check = ["-m", "tuning_server", "check", "--store", str(tmp_path / "store"), "--registry", str(registry)]
        subprocess.run([sys.executable, *check], check=True, cwd=ROOT)
    assert trained["one"] == trained["three"]
    print(f"seconds: {seconds}; jobs by node: {dict(before)} and {dict(after)}; fine-tunes: {trained}")


SEARCH = """
import sys, optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(study_name="search", storage=sys.argv[1], load_if_exists=True)
ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
objective = lambda trial: (trial.suggest_float("x", -5, 5) - 1) ** 2
study.optimize(objective, callbacks=[optuna.study.MaxTrialsCallback(40, states=ended)])
print(study.best_value)
"""


def search_together(url: str) -> None:
    """Two workers of one search: they share the trials and end with the same best value."""
    optuna.create_study(study_name="search", storage=url)  # two that make the tables at once are in each other's way
    workers = [
        subprocess.Popen([sys.executable, "-c", SEARCH, url], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    values = {worker.communicate(timeout=300)[0].strip() for worker in workers}
    assert [worker.returncode for worker in workers] == [0, 0]
    assert len(values) == 1, values


def test_a_search_on_a_sqlite_file(tmp_path: Path) -> None:
    search_together(f"sqlite:///{tmp_path / 'trials.db'}")
    with sqlite3.connect(tmp_path / "trials.db") as db:
        assert 40 <= db.execute("SELECT count(*) FROM trials").fetchone()[0] <= 41


def test_a_search_on_postgresql(tmp_path: Path) -> None:
    if not shutil.which("pg_ctlcluster"):
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "postgresql"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "psycopg2-binary"], check=True)
    (binary,) = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
    data = tmp_path / "pg"
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    data.mkdir()
    shutil.chown(data, "postgres", "postgres")
    as_postgres = ["runuser", "-u", "postgres", "--"]
    subprocess.run(
        [*as_postgres, binary / "initdb", "-D", data, "-A", "trust", "-U", "postgres"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    options = f"-p 5433 -c listen_addresses=127.0.0.1 -k {data}"
    subprocess.run(
        [*as_postgres, binary / "pg_ctl", "-D", data, "-o", options, "-w", "-l", data / "log", "start"], check=True
    )
    try:
        search_together("postgresql+psycopg2://postgres@127.0.0.1:5433/postgres")
    finally:
        subprocess.run([*as_postgres, binary / "pg_ctl", "-D", data, "-m", "fast", "stop"], check=True)
