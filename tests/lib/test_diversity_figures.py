"""Figures of the diversity study: a planted narrowing shows with the right sign, beside what was published."""

import matplotlib

from lib.diversity.comparison import paired_differences
from lib.figures.style import DOUBLE_IN, look

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib import figures
from lib.diversity import figure_tables as tables
from lib.diversity import registry
from lib.diversity.published import TEMPERATURES
from lib.diversity.reading import published_values, reading_table
from lib.diversity.registry import SHOWN
from lib.next_token import METRICS as NEXT_TOKEN_METRICS
from lib.stats import Interval
from lib.tables import Summary

CHAIN = ("base", "SFT", "DPO")
UNITS = {**{name: measure.unit for name, measure in registry().items()}, **NEXT_TOKEN_METRICS}


def interval(value, width=0.02, n=20):
    return Interval(value, value - width, value + width, n=n)


@pytest.fixture
def summary():
    """Of two bases whose SFT narrows the next token, and whose texts to factual prompts grow alike at every stage."""
    kinds = ("next-token", "creative", "factual", "factual/correct")
    conditions = [f"{kind}/{label}" for kind in kinds[:3] for label in CHAIN]
    conditions += [f"factual/{label}/correct" for label in CHAIN]
    book = Summary(study="diversity", preset="tiny", conditions=conditions, metrics=UNITS)
    for family, shift in (("fork-1m", 0.0), ("fork-300k", 0.5)):
        for label, entropy, coverage in zip(CHAIN, (4.2, 4.0, 4.01), (0.16, 0.13, 0.12), strict=True):
            at = {"model": family, "condition": f"next-token/{label}", "n_of": "document"}
            book.add(interval(entropy + shift), metric="mean_entropy", **at)
            book.add(interval(coverage), metric="coverage_70", **at)
        for place, label in enumerate(CHAIN):
            at = {"model": family, "condition": f"factual/{label}", "n_of": "prompt"}
            for metric, value in (("cosine", 0.4 + 0.1 * place), ("accuracy", 0.3 + 0.1 * place)):
                book.add(interval(value), metric=metric, **at)
                for x in (0.5, 1.0):
                    book.add(interval(value - 0.1 * x), metric=metric, x=x, x_name="temperature", **at)
            at["condition"] += "/correct"
            book.add(interval(0.9, n=17 + place), metric="cosine", **at)
    return book.frame()


@pytest.fixture(scope="module")
def differences():
    """Of texts that grow alike (cosine up) and shorter of different words (distinct_2 down) by stage."""
    rng = np.random.default_rng(0)
    rows = [
        dict(
            kind="factual", measure=measure, prompt=f"p{prompt}", temperature=1.0, model=label, value=value, failure=""
        )
        for prompt in range(12)
        for measure, step in (("cosine", 0.1), ("distinct_2", -0.1))
        for place, label in enumerate(CHAIN)
        for value in [0.5 + step * place + 0.03 * rng.standard_normal()]
    ]
    return paired_differences(pd.DataFrame(rows), chain=CHAIN, rng=rng).assign(family="fork-1m")


def test_published_values_are_of_known_names_and_say_the_reading():
    rows = published_values()
    assert not rows.duplicated(["family", "stage", "kind", "temperature", "measure"]).any()
    assert set(rows["stage"]) == {"base", "SFT", "DPO", "PPO", "chat"}
    assert set(rows["kind"]) == {"next-token", "creative", "factual", "seen"}
    assert set(rows["measure"]) <= {*UNITS, "first_document_entropy"}
    assert set(rows["temperature"].dropna()) <= set(TEMPERATURES)
    assert (rows["temperature"].isna() == (rows["kind"] == "next-token")).all()
    assert set(rows[rows["family"] == "6.9b"]["stage"]) == {"base", "PPO"}  # the others are 2.8b models
    value = rows.set_index(["family", "stage", "kind", "measure", "temperature"])["value"]
    # With the swapped labels of the source, base texts to factual prompts would be the less alike ones.
    cosine = {kind: value["2.8b", "base", kind, "cosine", 1.0] for kind in ("creative", "factual")}
    assert cosine == {"creative": 0.34, "factual": 0.49}
    bounded = rows[
        rows["measure"].isin(["self_bleu", "cosine", "accuracy", "coverage_70", "coverage_90", "confidence"])
    ]
    assert bounded["value"].between(0, 1).all()


def test_measures_over_temperature_are_measures_of_diversity():
    assert all(registry()[name].direction != "none" for name in SHOWN)


def test_the_stage_table_stands_in_the_order_of_the_chain(summary):
    table = tables.stage_table(summary, family="fork-1m")
    assert list(table.columns) == ["kind", "metric", "unit", "n", *CHAIN]
    rows = table.set_index(["kind", "metric"])
    assert rows.loc[("next-token", "mean_entropy")].tolist() == [
        *("nats", "20 documents", "4.2 [4.18, 4.22]", "4 [3.98, 4.02]", "4.01 [3.99, 4.03]")
    ]
    assert rows.loc[("factual/correct", "cosine"), "n"] == "17 to 19 prompts"
    assert tables.stages_of(summary.iloc[::-1], family="fork-1m") == list(CHAIN[::-1])
    lone = summary[~((summary["metric"] == "coverage_70") & (summary["condition"] == "next-token/SFT"))]
    told = tables.stage_table(lone, family="fork-1m").set_index("metric").loc["coverage_70"]
    assert told["SFT"] == ""
    assert told["DPO"] != ""


def test_curves_can_be_drawn(summary):
    rows = tables.accuracy_curves(summary, "fork-1m")
    assert list(dict.fromkeys(rows["stage"])) == list(CHAIN)
    assert set(rows["x"]) == {0.5, 1.0}
    fig, axs = plt.subplots(1, 2)
    figures.plot_curves(axs[0], rows, x="x", by="stage")
    assert axs[0].get_xlabel() == "temperature"
    sizes = tables.by_size(summary, "mean_entropy")
    assert sizes["size"].tolist() == [300_000.0] * 3 + [1_000_000.0] * 3
    figures.plot_curves(axs[1], sizes, x="size", by="stage")
    assert axs[1].get_xlabel() == "weights of the base"
    named = tables.by_size(summary.replace({"model": {"fork-1m": "mine", "fork-300k": "yours"}}), "mean_entropy")
    assert named["size"].tolist() == [0.0] * 3 + [1.0] * 3
    plt.close(fig)


def test_a_wrong_label_is_refused(summary, differences):
    with pytest.raises(ValueError, match="'fork-6m' is no family of the summary: did you mean 'fork-1m'"):
        tables.stage_table(summary, family="fork-6m")
    with pytest.raises(ValueError, match="did you mean 'factual'"):
        tables.temperature_curves(summary, "factul", "cosine", "fork-1m")
    with pytest.raises(ValueError, match="'self_bleu' is no metric of fork-1m, factual, over temperature"):
        tables.temperature_curves(summary, "factual", "self_bleu", "fork-1m")
    with pytest.raises(ValueError, match="'cosine' is no statistic of next tokens"):
        tables.by_size(summary, "cosine")
    with pytest.raises(ValueError, match="condition 'SFT/factual': expected <kind>/<stage>"):
        tables.by_size(summary.replace({"condition": {"factual/SFT": "SFT/factual"}}), "mean_entropy")
    with pytest.raises(ValueError, match="'jaccard_2' is no measure of the differences"):
        tables.change_rows(differences, "fork-1m", ["jaccard_2"])
    with pytest.raises(ValueError, match="'accuracy' of factual has no direction"):
        tables.change_rows(differences.replace({"measure": {"cosine": "accuracy"}}), "fork-1m", ["accuracy"])


def test_a_planted_narrowing_is_negative_whatever_the_measure_counts(differences):
    rows = tables.change_rows(differences, "fork-1m", ["distinct_2", "cosine"])
    assert rows["change"].tolist() == ["distinct 2 / SFT", "distinct 2 / DPO", "cosine / SFT", "cosine / DPO"]
    assert (rows["high"] < 0).all()
    assert rows["value"].between(rows["low"], rows["high"]).all()
    own = differences[differences["second"] == "SFT"].set_index("measure")["effect_size"]
    assert rows["value"].iloc[0] == pytest.approx(own["distinct_2"])
    assert rows["value"].iloc[2] == pytest.approx(-own["cosine"])
    everything = tables.change_rows(differences, "fork-1m", ["cosine"], total=True)
    assert everything["first"].tolist() == ["base", "SFT", "base"]
    widened = differences.assign(value=-differences["value"], effect_size=-differences["effect_size"])
    widened = widened.assign(low=-differences["high"], high=-differences["low"])
    assert (tables.change_rows(widened, "fork-1m", ["cosine"])["low"] > 0).all()
    next_token = differences.assign(kind="next-token").replace({"measure": {"distinct_2": "coverage_70"}})
    both = pd.concat([differences, next_token[next_token["measure"] == "coverage_70"]])
    rows = tables.change_rows(both, "fork-1m", ["coverage_70", "cosine"])
    assert rows["change"].iloc[0] == "next-token coverage 70 / SFT"
    assert (rows["high"] < 0).all()
    assert tables.change_rows(differences.assign(effect_size=np.nan), "fork-1m", ["cosine"]).empty
    still = tables.change_rows(differences.assign(value=0.0, effect_size=0.0), "fork-1m", ["cosine"])
    assert still["value"].tolist() == [0.0, 0.0]
    figures.plot_intervals(plt.figure().add_subplot(), still, by="change")
    plt.close("all")


def test_the_reading_sets_signs_beside_the_published_ones(summary, differences):
    table = reading_table(summary, published_values(), "fork-1m").set_index(["kind", "measure", "stage"])
    sft = table.loc[("next-token", "coverage_70", "base -> SFT")]
    assert (sft["measured"], sft["published"], sft["agrees"]) == ("falls", "falls in 6 of 6", "yes")
    dpo = table.loc[("next-token", "coverage_70", "SFT -> DPO")]
    assert dpo["published"] == "rises in 4, falls in 1, same in 1 of 6"
    assert (dpo["published_sign"], dpo["agrees"]) == (0.5, "no")
    cosine = table.loc[("factual", "cosine", "SFT -> DPO")]
    assert (cosine["measured"], cosine["published"], cosine["agrees"]) == ("rises", "rises (2.8b only)", "yes")
    assert cosine["change"] == pytest.approx(0.1)
    assert table.loc[("next-token", "mean_entropy", "base -> SFT"), "published"] == "falls in 6 of 6"
    assert table.loc[("factual", "accuracy", "base -> SFT"), "measured"] == "rises"
    assert "factual/correct" not in table.index.get_level_values("kind")
    unsure = differences.assign(low=-1.0, high=1.0)
    unclear = reading_table(summary, published_values(), "fork-1m", differences=unsure)
    assert set(unclear["measured"]) == {"unclear"}
    assert set(unclear["agrees"]) == {""}
    sure = reading_table(summary, published_values(), "fork-1m", differences=differences)
    assert (sure[(sure["kind"] == "factual") & (sure["measure"] == "cosine")]["agrees"] == "yes").all()
    others = summary.assign(condition=summary["condition"].str.replace("SFT", "mine"))
    assert reading_table(others, published_values(), "fork-1m").empty


def test_dpo_and_ppo_of_one_sft_are_no_stages_of_each_other(summary):
    renamed = summary.assign(condition=summary["condition"].str.replace("DPO", "PPO").str.replace("SFT", "DPO"))
    table = reading_table(renamed, published_values(), "fork-1m")
    assert set(table["stage"]) == {"base -> DPO"}


@pytest.fixture
def drawn():
    figures.use_style()
    yield
    plt.close("all")


def saved(fig, folder):
    figures.save(fig, folder, "figure", "A claim.")
    return [(folder / f"figure.{kind}").read_bytes() for kind in ("png", "svg")]


def token_figure():
    fig, axs = plt.subplots(2, 1, figsize=(DOUBLE_IN, 2.6))
    tokens = ["Once", " upon", " a", " time", ",", "\n", " cost", " $5", " or $6", "\t", "\u4e2d", "", "."] * 6
    probs = np.linspace(0, 1, len(tokens))
    for k, ax in enumerate(axs):
        figures.plot_tokens(ax, tokens, probs, bar=k == 0)
    return fig, axs


def test_coloured_tokens_give_the_same_bytes_and_stay_inside(drawn, tmp_path):
    assert saved(token_figure()[0], tmp_path / "a") == saved(token_figure()[0], tmp_path / "b")
    fig, axs = token_figure()
    fig.draw_without_rendering()
    for ax in axs:
        box = ax.get_window_extent()
        cells = ax.collections[0].get_window_extent()
        assert box.x0 - 1 <= cells.x0
        assert cells.x1 <= box.x1 + 1
        assert box.y0 - 1 <= cells.y0
        for text in ax.texts:
            inked = text.get_window_extent()
            assert inked.x1 <= box.x1 + 2
        shown = " ".join(text.get_text() for text in ax.texts)
        assert "$5" in shown
        assert "\u21b5" in shown
        assert "\ufffd" in shown  # the font has no Chinese
    assert len(fig.axes) == 3


def test_a_cell_has_the_colour_of_its_bin_and_ink_that_can_be_read(drawn):
    _, ax = plt.subplots()
    figures.plot_tokens(ax, ["a", "b", "c", "d"], [0.0, 0.96, 0.98, 1.0], bar=False)
    colors = ax.collections[0].get_facecolors()
    assert colors[1].tolist() == colors[2].tolist()
    assert len({tuple(color) for color in colors}) == 3
    assert [text.get_color() for text in ax.texts] == ["white", "black", "black", "black"]


def test_long_texts_shrink_then_are_refused(drawn):
    _, ax = plt.subplots(figsize=(3.4, 2.0))
    figures.plot_tokens(ax, ["word "] * 180, [0.5] * 180, bar=False)
    assert ax.texts[0].get_fontsize() < 7
    with pytest.raises(ValueError, match="draw fewer tokens or make the figure taller"):
        figures.plot_tokens(ax, ["word "] * 2000, [0.5] * 2000, bar=False)


@pytest.mark.parametrize(
    ("tokens", "probs", "message"),
    [
        (["a"], [0.1, 0.2], "1 tokens and 2 probabilities"),
        ([], [], "at least one"),
        (["a", "b"], [0.1, 1.2], r"token 1 \('b'\) has probability 1.2"),
        (["a"], [float("nan")], "has probability nan"),
    ],
)
def test_wrong_tokens_are_refused(drawn, tokens, probs, message):
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=message):
        figures.plot_tokens(ax, tokens, probs)


def cumulative(power, n=2048):
    share = np.arange(1, n + 1) ** -power
    return pd.DataFrame({"n_tokens": np.arange(1, n + 1), "of_mean": np.cumsum(share) / share.sum()})


def cumulative_figure():
    fig, axs = plt.subplots(1, 2, figsize=(DOUBLE_IN, 2.5))
    curves = {"base": cumulative(1.0), "SFT": cumulative(1.2), "DPO": cumulative(1.21)}
    figures.plot_cumulative(axs[0], curves)
    figures.plot_cumulative(axs[1], curves, zoom=(0.8, 1.0), legend=False)
    return fig, axs


def test_cumulative_curves_give_the_same_bytes_and_zoom_where_the_mass_is(drawn, tmp_path):
    assert saved(cumulative_figure()[0], tmp_path / "a") == saved(cumulative_figure()[0], tmp_path / "b")
    _, axs = cumulative_figure()
    assert axs[0].get_xscale() == "log"
    assert [line.get_color() for line in axs[0].lines] == [look(label).color for label in CHAIN]
    assert axs[0].lines[0].get_xdata()[[0, -1]].tolist() == [1, 2048]
    assert axs[0].lines[0].get_ydata()[-1] == pytest.approx(1)
    assert axs[1].get_ylim() == (0.8, 1.0)
    assert axs[1].get_xlim()[0] > 10
    assert [text.get_text() for text in axs[0].get_legend().get_texts()] == list(CHAIN)
    assert axs[1].get_legend() is None


def test_wrong_curves_are_refused(drawn):
    _, ax = plt.subplots()
    good = cumulative(1.0)
    with pytest.raises(ValueError, match="no curves"):
        figures.plot_cumulative(ax, {})
    with pytest.raises(ValueError, match="zoom"):
        figures.plot_cumulative(ax, {"base": good}, zoom=(0.9, 0.8))
