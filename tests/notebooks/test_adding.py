"""The study of ``docs/adding-a-study.md`` runs as it is written there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest


@pytest.mark.skipif("TUNING_FORK_RUNS" not in os.environ, reason="needs the store and the server of make test")
def test_the_study_of_the_guide_runs(root: Path, tmp_path: Path) -> None:
    page = (root / "docs/adding-a-study.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^```(python|yaml)\n(.*?)^```", page, flags=re.M | re.S))
    assert len(blocks["python"].splitlines()) - blocks["python"].count("\n# %%") <= 80
    for kind, name in (("python", "notebooks/exposure/01-exposure.py"), ("yaml", "params/exposure/laptop.yaml")):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(blocks[kind], encoding="utf-8")
    command = [sys.executable, "-m", "lib.run", "exposure", "--base", "fork-300k", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        command, env=os.environ | {"TUNING_FORK_HOME": str(tmp_path)}, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    summary = pd.read_csv(tmp_path / "run/summary.csv")
    assert summary["n_sentences"].tolist() == [1, 4, 16]
    assert summary["value"].between(0, 1).all()
    assert (tmp_path / "run/figures/by-sentences.png").exists()
