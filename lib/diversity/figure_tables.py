"""What the figures and tables of the diversity notebooks show: rows picked and named for people to read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from lib.diversity.prompts import KINDS
from lib.diversity.registry import SHOWN, registry
from lib.diversity.summary import CORRECT, NEXT_TOKEN, NUMBERS

# Where more diversity moves the statistics of next-token distributions; those of texts are in the registry.
_NEXT_TOKEN_UP = (
    *("entropy_of_mean", "mean_entropy", "entropy_gap", "effective_vocabulary", "effective_choices"),
    *("coverage_70", "coverage_90", "coverage_70_tokens", "coverage_90_tokens"),
    *("choices_70_tokens", "choices_90_tokens"),
)
_NEXT_TOKEN_DOWN = ("top_5_mass", "top_10_mass", "top_50_mass", "confidence")
_SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([kmb])(?![a-z0-9])", re.IGNORECASE)


def stages_of(summary: pd.DataFrame, *, family: str) -> list[str]:
    """Labels of a family's stages, in the order of the chain.

    Raises
    ------
    ValueError
        If the summary has no such family.
    """
    return list(dict.fromkeys(of_family(summary, family)["stage"]))


def stage_table(summary: pd.DataFrame, *, family: str) -> pd.DataFrame:
    """Every number over all temperatures: one row per kind and metric, one column per stage, in the order of the chain.

    Returns
    -------
    DataFrame
        ``kind`` (``factual/correct`` is of right answers only), ``metric``, ``unit``, ``n`` (as "20 prompts"), then a
        column a stage with "value [low, high]", empty where it was not measured.
    """
    rows = of_family(summary, family)
    stages = list(dict.fromkeys(rows["stage"]))
    rows = rows[rows["x_name"] == ""]
    table = []
    for (kind, metric), each in rows.groupby(["kind", "metric"], sort=False):
        told = {row["stage"]: _shown(row) for row in each.to_dict("records")}
        named = {"kind": kind, "metric": metric, "unit": each["unit"].iloc[0], "n": _counted(each)}
        table.append(named | {stage: told.get(stage, "") for stage in stages})
    return pd.DataFrame(table, columns=["kind", "metric", "unit", "n", *stages])


def temperature_curves(summary: pd.DataFrame, kind: str, metric: str, family: str) -> pd.DataFrame:
    """One metric of a family over temperature, by ``stage``, for `lib.figures.plot_curves` with x="x", by="stage".

    Raises
    ------
    ValueError
        If there is no such family, kind or metric over temperature.
    """
    rows = of_family(summary, family)
    rows = rows[rows["x_name"] == "temperature"]
    rows = rows[rows["kind"] == _known(kind, rows["kind"], f"kind of {family} with curves over temperature")]
    return rows[rows["metric"] == _known(metric, rows["metric"], f"metric of {family}, {kind}, over temperature")]


def accuracy_curves(summary: pd.DataFrame, family: str) -> pd.DataFrame:
    """Share of factual samples that hold an accepted answer, over temperature, by ``stage``."""
    return temperature_curves(summary, "factual", "accuracy", family)


def by_size(summary: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A statistic of next tokens by ``family`` and ``stage``, small models first, for curves with x="size".

    ``size`` is the number of weights that every family's name tells, else the place of the family in the summary.

    Raises
    ------
    ValueError
        If the statistic is not in the summary.
    """
    rows = _with_parts(summary)
    rows = rows[(rows["kind"] == NEXT_TOKEN) & (rows["x_name"] == "")]
    rows = rows[rows["metric"] == _known(metric, rows["metric"], "statistic of next tokens in the summary")]
    families = list(dict.fromkeys(rows["family"]))
    sizes = {family: weights_of(family) for family in families}
    told = all(np.isfinite(size) for size in sizes.values())
    place = rows["family"].map(sizes if told else families.index).astype(float)
    rows = rows.assign(size=place, x_name="weights of the base" if told else "place in the list")
    return rows.sort_values("size", kind="stable")


def weights_of(family: str) -> float:
    """How many weights a model's name tells; NaN where it tells none.

    >>> weights_of("hf:EleutherAI/pythia-1.4b"), weights_of("fork-300k")
    (1400000000.0, 300000.0)
    """
    found = _SIZE.findall(family.partition("@")[0])
    number, unit = found[-1] if found else ("nan", "k")
    return float(number) * {"k": 1e3, "m": 1e6, "b": 1e9}[unit.lower()]


def change_rows(
    differences: pd.DataFrame, family: str, measures: Sequence[str] = (), *, total: bool = False
) -> pd.DataFrame:
    """Effect size of each stage on each measure, turned so that below 0 is narrower; for `plot_intervals`.

    Parameters
    ----------
    differences : DataFrame in the columns of differences.csv
    measures : names, in the order in which they are drawn; default those of `SHOWN` that are there
    total : bool, default False
        Give the change from the first model to the last, too, where there are stages between them.

    Returns
    -------
    DataFrame
        ``change`` ("self bleu / SFT", after the kind if there are several; by="change"), ``kind``, ``measure``,
        ``stage`` (the label of the second model), ``first``, ``second``, ``value`` (Cohen's d of paired prompts),
        ``low``, ``high`` (the interval of the difference over the same standard deviation), ``n``, ``n_of``,
        ``p_holm``, ``metric``, ``unit``. Rows without an effect size are left out.

    Raises
    ------
    ValueError
        If there is no such family or measure, or a measure does not say what is more diverse.
    """
    rows = differences[differences["family"] == _known(family, differences["family"], "family of the differences")]
    measures = measures or [name for name in SHOWN if (rows["measure"] == name).any()]
    for measure in measures:
        _known(measure, rows["measure"], f"measure of the differences of {family}")
    chain = list(dict.fromkeys([*rows["first"], *rows["second"]]))
    steps = rows["second"].map(chain.index) - rows["first"].map(chain.index)
    rows = rows[rows["measure"].isin(list(measures)) & rows["effect_size"].notna() & (total | (steps == 1))]
    rows = rows.sort_values("measure", key=lambda names: names.map(list(measures).index), kind="stable")
    sign = np.array([_turn(kind, name) for kind, name in zip(rows["kind"], rows["measure"], strict=True)], dtype=float)
    # Over the standard deviation: an effect size is the mean over prompts, `value` that over pairs.
    scale = (sign * rows["effect_size"].abs() / rows["value"].abs()).replace([np.inf, -np.inf], np.nan)
    bounds = np.sort(np.stack([rows["low"] * scale, rows["high"] * scale]), axis=0)
    parts = [rows["measure"].str.replace("_", " "), rows["second"]]
    if rows["kind"].nunique() > 1:
        parts[0] = rows["kind"] + " " + parts[0]
    told = rows.assign(
        change=parts[0] + " / " + parts[1],
        stage=rows["second"],
        value=(rows["value"] * scale).fillna(0.0),
        low=bounds[0],
        high=bounds[1],
        metric="effect size",
        unit="Cohen's d; below 0 is narrower",
    )
    columns = ["change", "kind", "measure", "stage", "first", "second", "value", "low", "high", "n", "n_of", "p_holm"]
    return told[[*columns, "metric", "unit"]].reset_index(drop=True)


def option_rates(options: pd.DataFrame, prompt: str, *, family: str) -> pd.DataFrame:
    """Share of each valid answer to one request, mean over fine-tunes, by ``option`` and ``stage``; for `plot_rates`.

    Parameters
    ----------
    options : DataFrame of `lib.diversity.sampling.option_probs`

    Returns
    -------
    DataFrame
        ``option``, ``stage``, ``value``, ``low``, ``high`` (range over fine-tunes), ``metric``, ``unit``.
    """
    rows = options[(options["prompt"] == prompt) & (options["family"] == family)]
    share = rows["prob"] / rows.groupby(["model", "seed"])["prob"].transform("sum")
    keys = [rows["option"], rows["model"].rename("stage")]
    found = share.groupby(keys, sort=False).agg(value="mean", low="min", high="max").reset_index()
    return found.assign(metric="share of valid answers", unit="")


def _with_parts(summary: pd.DataFrame) -> pd.DataFrame:
    """With ``family`` and the condition's parts: ``kind`` (``<kind>/correct`` of right answers) and ``stage``."""
    parts = summary["condition"].str.split("/")
    known = parts.str[0].isin([NEXT_TOKEN, *KINDS, NUMBERS])
    good = known & ((parts.str.len() == 2) | ((parts.str.len() == 3) & (parts.str[2] == CORRECT)))
    if not good.all():
        raise ValueError(
            f"condition {summary['condition'][~good].iloc[0]!r}: expected <kind>/<stage>, or <kind>/<stage>/{CORRECT}, "
            f"with a kind of {', '.join([NEXT_TOKEN, *KINDS, NUMBERS])}"
        )
    kind = parts.str[0].where(parts.str.len() == 2, parts.str[0] + "/" + CORRECT)
    return summary.assign(family=summary["model"], kind=kind, stage=parts.str[1])


def of_family(summary: pd.DataFrame, family: str) -> pd.DataFrame:
    """Rows of one family in the order of its chain, with the parts of their conditions."""
    rows = _with_parts(summary[summary["model"] == _known(family, summary["model"], "family of the summary")])
    chain = list(dict.fromkeys(rows["stage"]))
    return rows.sort_values("stage", key=lambda labels: labels.map(chain.index), kind="stable")


def _known(name: str, names: Iterable[str], what: str) -> str:
    known = list(dict.fromkeys(names))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise ValueError(f"{name!r} is no {what}" + (f": did you mean {near[0]!r}?" if near else ": there is none"))
    return name


def _shown(row: dict[str, float]) -> str:
    if np.isnan(row["low"]) or np.isnan(row["high"]):
        return f"{row['value']:.3g}"
    return f"{row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"


def _counted(rows: pd.DataFrame) -> str:
    least, most = rows["n"].min(), rows["n"].max()
    noun = rows["n_of"].iloc[0] + ("" if most == 1 else "s")
    return f"{least} {noun}" if least == most else f"{least} to {most} {noun}"


def _turn(kind: str, name: str) -> float:
    """1 where a greater value is more diverse, -1 where it is less."""
    if kind == NEXT_TOKEN:
        turn = 1.0 if name in _NEXT_TOKEN_UP else -1.0 if name in _NEXT_TOKEN_DOWN else np.nan
    else:
        turn = registry()[name].turned(1.0) if name in registry() else np.nan
    if np.isnan(turn):
        raise ValueError(f"{name!r} of {kind} has no direction of more diversity: leave it out of the changes")
    return turn
