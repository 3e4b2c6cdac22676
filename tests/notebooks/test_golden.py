"""The numbers of the runs at ``tiny`` that nbval has just made, against those kept in ``golden/``.

Where a change is meant, copy ``summary.csv`` of the new run there. Last digits differ between processors, and a digit
can decide about a word of a greedy answer: the tolerances leave room for a few answers.
"""

from __future__ import annotations

import pandas as pd
import pytest

from lib.params import studies
from lib.paths import run_folder
from lib.summary import COLUMNS, read_summary

TOLERANCES = {"rate": {"atol": 0.1}, "p": {"atol": 1.0}}  # by unit; a p-value of few, untrained answers is arbitrary
OTHERS = {"rtol": 0.1, "atol": 0.1}


@pytest.mark.parametrize("study", studies())
def test_a_tiny_run_gives_the_numbers_it_gave(study, root):
    path = run_folder(study, "tiny") / "summary.csv"
    if not path.exists():
        pytest.skip("no notebook was run before this test")
    found, golden = read_summary(path), read_summary(root / "tests" / "notebooks" / "golden" / f"{study}.csv")
    keys = [column for column in golden if column not in COLUMNS] + ["model", "metric"]
    assert found[[*keys, "n_of", "unit"]].to_csv() == golden[[*keys, "n_of", "unit"]].to_csv()
    for unit, rows in golden.groupby("unit"):
        tolerance = {"rtol": 0.0, **TOLERANCES.get(unit, OTHERS)}
        value, n = found.loc[rows.index, "value"], found.loc[rows.index, "n"]
        pd.testing.assert_series_equal(value, rows["value"], **tolerance)
        pd.testing.assert_series_equal(n.astype(float), rows["n"].astype(float), rtol=0.1)
