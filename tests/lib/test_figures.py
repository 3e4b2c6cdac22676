"""Figures: the same bytes twice, the same look everywhere, intervals as the table says, nothing laid over anything."""

import itertools
import subprocess
import sys

import matplotlib

from lib.figures.style import DOUBLE_IN, LOOKS, look

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib import figures
from lib.figures.labels import spread
from lib.paths import ROOT

DRAW = """
import sys, pathlib
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt, pandas as pd
from lib import figures
figures.use_style()
fig, ax = plt.subplots()
rows = [dict(condition=c, x=x, x_name="epoch", value=v * x / 3, low=0, high=1, metric="prefix_match", unit="rate")
        for c, v in (("same", .9), ("reverse", .02)) for x in (1, 2, 3)]
figures.plot_curves(ax, pd.DataFrame(rows), chance=.1)
figures.save(fig, pathlib.Path(sys.argv[1]), "curves", "A claim;\\n dots are means.")
"""


@pytest.fixture(autouse=True)
def style():
    figures.use_style()
    yield
    plt.close("all")


def rates(series=("same", "reverse"), groups=("person-first", "both")):
    rows = [
        dict(group=group, direction=name, value=0.5, low=0.4, high=0.7, metric="prefix_match", unit="rate", x_name="")
        for group, name in itertools.product(groups, series)
    ]
    return pd.DataFrame(rows)


def curves(ends, *, unit="rate"):
    rows = [
        dict(condition=name, x=x, x_name="epoch", value=end * x / 4, low=0.0, high=end, metric="score", unit=unit)
        for name, end in ends.items()
        for x in (1, 2, 3, 4)
    ]
    return pd.DataFrame(rows)


def inside(fig):
    box = fig.get_tightbbox(fig.canvas.get_renderer())
    width, height = fig.get_size_inches()
    return box.x0 >= -0.01 and box.y0 >= -0.01 and box.x1 <= width + 0.01 and box.y1 <= height + 0.01


def read_all(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_saved_twice_and_in_two_processes_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", DRAW, str(tmp_path / name)], check=True, cwd=ROOT)
    first, second = read_all(tmp_path / "a"), read_all(tmp_path / "b")
    assert list(first) == ["curves.pdf", "curves.png", "curves.svg", "curves.txt"]
    assert first == second
    assert first["curves.txt"] == b"A claim; dots are means.\n"
    fig, ax = plt.subplots()
    figures.plot_rates(ax, rates(), group="group", by="direction")
    figures.save(fig, tmp_path / "c", "rates", "A claim.")
    once = read_all(tmp_path / "c")
    figures.save(fig, tmp_path / "c", "rates", "A claim.")
    assert read_all(tmp_path / "c") == once
    assert b"Matplotlib" not in once["rates.png"]
    assert b"<dc:date>" not in once["rates.svg"]


@pytest.mark.parametrize("name", ["", "../rates", "rates.png", "a b"])
def test_a_name_that_is_no_plain_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="figure name"):
        figures.save(plt.figure(), tmp_path, name, "A claim.")


def test_a_figure_without_a_caption_is_refused(tmp_path):
    with pytest.raises(ValueError, match="caption"):
        figures.save(plt.figure(), tmp_path, "rates", "  ")
    assert not list(tmp_path.iterdir())


def test_every_name_has_a_look_of_its_own():
    assert len(set(LOOKS.values())) == len(LOOKS)
    spare = {look(f"hf:someone/model-{i}") for i in range(50)}
    assert len(spare) == 50
    assert not spare & set(LOOKS.values())
    assert look("hf:a/b") == look("hf:a/b")
    assert look("person-first/reverse/randomized") == look("randomized")


def test_rates_draw_the_table_and_the_published_values():
    fig, ax = plt.subplots()
    published = pd.DataFrame([dict(group="both", direction="same", value=0.967)])
    figures.plot_rates(ax, rates(), group="group", by="direction", published=published, chance=0.05)
    points = [container for container in ax.containers if hasattr(container, "has_yerr")]
    assert len(points) == 2
    bars = points[0].lines[2][0].get_segments()
    assert [bar[:, 1].tolist() for bar in bars] == [pytest.approx([0.4, 0.7])] * 2
    diamonds = [line for line in ax.get_lines() if line.get_marker() == "D" and len(line.get_xdata())]
    assert [line.get_ydata().tolist() for line in diamonds] == [[0.967]]
    assert diamonds[0].get_markerfacecolor() == "white"
    assert diamonds[0].get_color() == look("same").color
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["same", "reverse", "published", "chance"]
    assert ax.get_ylim()[0] < 0
    assert ax.get_ylim()[1] > 1
    assert ax.get_ylabel() == "prefix match"
    fig.draw_without_rendering()
    assert inside(fig)
    assert ax.get_position().height > 0.5


@pytest.mark.parametrize("names", [[f"hf:org/m{i}" for i in range(40)], ["fork-1m/SFT", "fork-6m/SFT", "SFT"]])
def test_models_of_one_figure_differ_and_keep_their_look_in_the_next(names):
    _, axs = plt.subplots(1, 3)
    figures.plot_curves(axs[0], curves(dict.fromkeys(names, 1.0)))
    figures.plot_curves(axs[1], curves(dict.fromkeys(reversed(names), 1.0)))
    figures.plot_rates(axs[2], rates(names), group="group", by="direction")
    first, second = ({line.get_label(): (line.get_color(), line.get_marker()) for line in ax.lines} for ax in axs[:2])
    assert len(set(first.values())) == len(names)
    assert second == first
    handles = axs[2].get_legend().get_lines()
    assert {handle.get_label(): (handle.get_color(), handle.get_marker()) for handle in handles} == first


def test_a_known_model_looks_the_same_whichever_others_are_drawn_with_it():
    names = [f"hf:org/m{i}" for i in range(6)]
    _, axs = plt.subplots(1, 2)
    for ax, drawn in zip(axs, (names, names[3:]), strict=True):
        figures.plot_curves(ax, curves(dict.fromkeys(drawn, 1.0)))
    every, some = ({line.get_label(): (line.get_color(), line.get_marker()) for line in ax.lines} for ax in axs)
    assert some == {name: every[name] for name in names[3:]}


def test_an_estimate_outside_its_interval_is_drawn_outside_its_bar():
    table = rates().assign(value=0.9)
    _, axs = plt.subplots(1, 2)
    figures.plot_rates(axs[0], table, group="group", by="direction")
    figures.plot_intervals(axs[1], table.iloc[:2], by="direction")
    for ax, axis in zip(axs, (1, 0), strict=True):
        bars = [segment for bar in ax.containers for segment in bar.lines[2][0].get_segments()]
        assert [bar[:, axis].tolist() for bar in bars] == [pytest.approx([0.4, 0.7])] * len(bars)
        points = [line.get_data()[axis] for line in ax.lines if line.get_marker() in "sXo"]
        assert bars
        assert set(np.concatenate(points)) == {0.9}


def test_rates_with_a_missing_bound_draw_a_point():
    fig, ax = plt.subplots()
    figures.plot_rates(ax, rates().assign(low=np.nan, high=np.nan), group="group", by="direction")
    fig.draw_without_rendering()
    assert inside(fig)
    assert ax.get_position().height > 0.5


@pytest.mark.parametrize("draw", [figures.plot_rates, figures.plot_curves])
def test_two_rows_for_one_point_are_refused(draw):
    table = pd.concat([curves({"same": 1.0})] * 2).assign(model="tuned")
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match="two rows for one point"):
        draw(ax, table)
    with pytest.raises(ValueError, match="no rows"):
        draw(ax, table[:0])


def test_direct_labels_do_not_overlap():
    fig, ax = plt.subplots()
    figures.plot_curves(ax, curves({"same": 0.90, "in-context": 0.91, "reverse": 0.01, "control": 0.0}), chance=0.03)
    fig.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 4
    assert inside(fig)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(text.get_color() == look(text.get_text()).color for text in ax.texts)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["chance"]


def test_more_than_four_lines_get_a_legend():
    fig, ax = plt.subplots()
    ends = {name: float(i) for i, name in enumerate(["base", "big", "tuned", "blended", "direct"], start=50)}
    figures.plot_curves(ax, curves(ends, unit="nats"))
    assert not ax.texts
    assert len(ax.get_legend().get_texts()) == 5
    assert ax.get_ylabel() == "score (nats)"
    assert ax.get_ylim()[1] > 50
    fig.draw_without_rendering()
    assert inside(fig)


def test_published_values_elsewhere_do_not_upset_the_layout():
    fig, ax = plt.subplots()
    published = pd.DataFrame([dict(condition="same", x=4, value=0.967)])
    figures.plot_curves(ax, curves({"same": 0.9, "reverse": 0.0}), published=published)
    for _ in range(3):
        fig.draw_without_rendering()
        assert ax.get_position().x0 < 0.25


def test_distributions_ranks_and_intervals():
    fig, axs = plt.subplots(1, 3, figsize=(DOUBLE_IN, 2.4))
    table = pd.DataFrame(dict(condition=["correct"] * 3 + ["randomized"] * 3, target_logprob=[-1, -2, -3, -2, -3, -4]))
    figures.plot_distributions(axs[0], table)
    steps = axs[0].get_lines()[0]
    assert steps.get_xdata()[1:].tolist() == [-3, -2, -1]
    assert steps.get_ydata()[-1] == 1
    ranks = pd.DataFrame(dict(condition="reverse", rank=[1.0, 2.5, 4.0]))
    figures.plot_ranks(axs[1], ranks, n_candidates=4)
    assert axs[1].get_lines()[0].get_ydata().tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 1])
    parts = pd.DataFrame(dict(condition=["tuned", "blended"], value=[0.4, 0.9], low=[0.3, np.nan], high=[0.5, np.nan]))
    figures.plot_intervals(axs[2], parts)
    assert [label.get_text() for label in axs[2].get_yticklabels()] == ["tuned", "blended"]
    assert axs[2].get_ylim()[0] > axs[2].get_ylim()[1]  # the first stands on top
    assert axs[2].get_xlim()[0] == 0
    fig.draw_without_rendering()
    assert inside(fig)
    with pytest.raises(ValueError, match="1 missing"):
        figures.plot_distributions(axs[0], table.assign(target_logprob=[None, 1, 1, 1, 1, 1]))
    with pytest.raises(ValueError, match="from 1 to 3"):
        figures.plot_ranks(axs[1], ranks, n_candidates=3)


def test_spread_moves_as_little_as_needed():
    assert spread([5.0, 0.0], gap=3.0).tolist() == [5.0, 0.0]
    moved = spread([1.0, 1.0, 1.0], gap=2.0)
    assert np.diff(np.sort(moved)).min() >= 2
    assert moved.mean() == pytest.approx(1)
