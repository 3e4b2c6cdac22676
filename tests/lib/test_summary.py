"""summary.csv: what is written comes back, and what breaks a rule is refused with its name."""

import math

import pandas as pd
import pytest

from lib.stats import Interval
from lib.summary import COLUMNS, number, read_summaries, read_summary, summarise, write_summary

ROW = {"study": "reversal", "preset": "tiny", "model": "tuned", "metric": "exact_match", "group": "person-first"}


def row(interval, *, n_of="person", unit="rate", metric="exact_match", **conditions):
    """One row of a summary."""
    return pd.DataFrame([ROW | number(interval, metric=metric, n_of=n_of, unit=unit) | conditions])


def test_summary_comes_back_with_its_kinds(tmp_path):
    rate = row(Interval(1 / 3, 0.25, 0.5, n=12))
    logprob = row(Interval(-10.7, math.nan, math.nan, n=1), metric="target_logprob", unit="nats", epoch=2.0, model="NA")
    written = write_summary(tmp_path / "summary.csv", pd.concat([rate, logprob]))
    back = read_summary(tmp_path / "summary.csv")
    pd.testing.assert_frame_equal(back, written, check_exact=False)
    assert set(COLUMNS) < set(back.columns)
    assert back["value"].tolist() == [0.333333, -10.7]
    assert back["n"].dtype == "int64"
    assert back["model"].tolist() == ["tuned", "NA"]
    assert back["unit"].tolist() == ["rate", "nats"]
    before = (tmp_path / "summary.csv").read_bytes()
    write_summary(tmp_path / "summary.csv", back)
    assert (tmp_path / "summary.csv").read_bytes() == before


def test_digits_beyond_the_sixth_do_not_move_a_byte(tmp_path):
    write_summary(tmp_path / "a.csv", row(Interval(0.1 + 0.2, 0.0, 0.5, n=3)))
    write_summary(tmp_path / "b.csv", row(Interval(0.3, -0.0, 0.5, n=3)))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize(
    ("interval", "changes", "message"),
    [
        (Interval(0.5, 0.7, 0.6, n=3), {}, "low is above high"),
        (Interval(90.0, 85.0, 95.0, n=3), {}, "between 0 and 1"),
        (Interval(math.nan, 0.1, 0.4, n=3), {}, "not a finite number"),
        (Interval(0.5, 0.1, 0.9, n=0), {}, "not a count"),
        (Interval(0.5, 0.1, 0.9, n=3), {"n_of": ""}, "a text is empty"),
        (Interval(0.5, 0.1, 0.9, n=3), {"model": ""}, "a text is empty"),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused(tmp_path, interval, changes, message):
    with pytest.raises(ValueError, match=message):
        write_summary(tmp_path / "summary.csv", row(interval, **changes))
    assert not list(tmp_path.iterdir())


def test_an_estimate_outside_its_percentile_interval_is_kept_as_it_is(tmp_path):
    write_summary(tmp_path / "summary.csv", row(Interval(0.5, 0.6, 0.7, n=3)))
    back = read_summary(tmp_path / "summary.csv").iloc[0]
    assert (back["value"], back["low"], back["high"]) == (0.5, 0.6, 0.7)


def test_fine_tunes_are_resampled_where_each_has_every_cluster():
    rows = pd.DataFrame([{"person": p, "seed": s, "nats": p + 10.0 * s} for p in range(6) for s in range(2)])
    over = {"by": ["role"], "value": "nats", "cluster": "person", "unit": "nats"}
    rows["role"] = "main"
    assert summarise(rows, **over).loc[0, "high"] > 10 > summarise(rows, fine_tune=None, **over).loc[0, "high"]
    rows.loc[3, "nats"] = math.nan  # as of an echo that did not fit
    pd.testing.assert_frame_equal(summarise(rows, **over), summarise(rows, fine_tune=None, **over))


def test_the_same_number_twice_is_refused(tmp_path):
    rows = pd.concat([row(Interval(value, 0.1, 0.9, n=3)) for value in (0.5, 0.6)])
    with pytest.raises(ValueError, match="there twice"):
        write_summary(tmp_path / "summary.csv", rows)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study,preset\nreversal,tiny\n", "needs the columns model, metric"),
        ("", "not a table"),
        (",".join(COLUMNS) + "\na,b,c,d,many,,,3,person,rate\n", "are numbers"),
        (",".join(COLUMNS) + "\na,b,c,d,1,,,,person,rate\n", "not a count"),
    ],
)
def test_a_broken_summary_is_named(tmp_path, text, message):
    (tmp_path / "summary.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_summary(tmp_path / "summary.csv")
    assert "summary.csv" in str(error.value)


def test_summaries_of_all_studies(tmp_path):
    assert read_summaries(tmp_path).empty
    for study in ("reversal", "guidance", "reversal/smollm2"):
        write_summary(tmp_path / study / "summary.csv", row(Interval(0.5, 0.1, 0.9, n=3), study=study))
    assert read_summaries(tmp_path)["study"].tolist() == ["guidance", "reversal/smollm2", "reversal"]
