"""The measured direction of each measure beside the published one."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.diversity.figure_tables import of_family
from lib.paths import DATA

PUBLISHED_FILE = DATA / "diversity" / "published.csv"
_PUBLISHED_AS = {"mean_entropy": "first_document_entropy"}  # where names differ, since what was averaged does
_NEVER_A_STAGE = {("DPO", "PPO"), ("PPO", "DPO")}  # both were published after the same SFT, none after the other


def published_values() -> pd.DataFrame:
    """What others measured: family, stage, kind, temperature (NaN for next tokens), measure, value, note."""
    return pd.read_csv(PUBLISHED_FILE, keep_default_na=False, na_values={"temperature": [""]})


def reading_table(
    summary: pd.DataFrame, published: pd.DataFrame, family: str, *, differences: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Does each measure that was published too change the same way? The measured sign beside the published one.

    Parameters
    ----------
    published : DataFrame of `published_values`
    differences : DataFrame in the columns of differences.csv, optional
        With it, a change whose interval holds 0 is called unclear.

    Returns
    -------
    DataFrame
        One row per kind, measure and stage ("base -> SFT"): ``change`` (second - first, over all temperatures),
        ``unit``, ``measured`` (rises, falls, same, unclear), ``published`` ("falls in 6 of 6", "rises (2.8b only)"),
        ``published_sign`` (mean of the families' signs), ``agrees`` (yes, no; empty where one of both has no sign).
        Published changes are means over temperatures. Mean entropy stands beside that of the first document.

    Raises
    ------
    ValueError
        If there is no such family.
    """
    rows = of_family(summary, family)
    stages = list(dict.fromkeys(rows["stage"]))
    rows = rows[rows["x_name"] == ""]
    table = []
    for (kind, measure), each in rows.groupby(["kind", "metric"], sort=False):
        values = each.set_index("stage")["value"]
        for before, after in zip(stages, stages[1:], strict=False):
            signs = _published_signs(published, str(kind), str(measure), before, after)
            if signs.empty or before not in values or after not in values:
                continue
            change = float(values[after] - values[before])
            measured = _word(change)
            if differences is not None and not _is_clear(differences, family, str(kind), str(measure), before, after):
                measured = "unclear"
            both = np.sign(change) * signs.mean() if measured not in ("unclear", "same") else 0.0
            told = {"change": change, "unit": each["unit"].iloc[0], "measured": measured, "published": _tally(signs)}
            agrees = "" if both == 0 else ("yes" if both > 0 else "no")
            named = {"kind": kind, "measure": measure, "stage": f"{before} -> {after}"}
            table.append(named | told | {"published_sign": float(signs.mean()), "agrees": agrees})
    columns = ["kind", "measure", "stage", "change", "unit", "measured", "published", "published_sign", "agrees"]
    return pd.DataFrame(table, columns=columns)


def _published_signs(published: pd.DataFrame, kind: str, measure: str, before: str, after: str) -> pd.Series:
    """Sign of the change by published family, over the temperatures that both stages have."""
    if (before, after) in _NEVER_A_STAGE:
        return pd.Series(dtype=float)
    name = _PUBLISHED_AS.get(measure, measure)
    rows = published[(published["kind"] == kind) & (published["measure"] == name)]
    wide = rows.pivot(index=["family", "temperature"], columns="stage", values="value")
    wide = wide.reindex(columns=[before, after]).dropna()
    change = (wide[after] - wide[before]).groupby("family", sort=False).mean()
    return np.sign(change.round(9))  # sums of decimals differ in their last digits


def _tally(signs: pd.Series) -> str:
    if len(signs) == 1:
        return f"{_word(signs.iloc[0])} ({signs.index[0]} only)"
    counts = [(word, int((signs == sign).sum())) for word, sign in (("rises", 1), ("falls", -1), ("same", 0))]
    return ", ".join(f"{word} in {count}" for word, count in counts if count) + f" of {len(signs)}"


def _word(change: float) -> str:
    return "rises" if change > 0 else "falls" if change < 0 else "same"


def _is_clear(differences: pd.DataFrame, family: str, kind: str, measure: str, before: str, after: str) -> bool:
    """Whether the paired change has an interval without 0."""
    at = (differences["family"] == family) & (differences["kind"] == kind) & (differences["measure"] == measure)
    found = differences[at & (differences["first"] == before) & (differences["second"] == after)]
    return bool(((found["low"] > 0) | (found["high"] < 0)).any())
