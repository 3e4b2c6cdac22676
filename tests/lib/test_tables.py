"""Tables: what is written comes back, and what breaks a rule is refused with its name."""

import math

import numpy as np
import pandas as pd
import pytest

from lib import tables
from lib.stats import Interval
from lib.summary import COLUMNS

CONDITIONS = ["person-first/same", "person-first/reverse"]
METRICS = {"prefix_match": "rate", "target_logprob": "nats"}


@pytest.fixture
def summary():
    return tables.Summary(study="reversal", preset="tiny", conditions=CONDITIONS, metrics=METRICS)


def add(summary, interval, **changes):
    row = dict(model="tuned", condition="person-first/same", metric="prefix_match", n_of="person")
    summary.add(interval, **(row | changes))


def answers(**changes):
    columns = dict(
        prompt=["Who is it?", "Wer?"],
        target=[" Tilda Marlowe", " Zoë"],
        completion=[" Tilda", None],
        target_logprob=[-1.5, np.nan],
        correct=[True, None],
        model=["fork-1m", "NA"],
        condition=CONDITIONS,
        seed=[0, 1],
        person=["Tilda Marlowe", "Zoë"],
    )
    return pd.DataFrame(columns | changes)


def test_summary_comes_back_with_its_kinds(summary, tmp_path):
    add(summary, Interval(1 / 3, 0.25, 0.5, n=12))
    add(summary, Interval(-10.7, math.nan, math.nan, n=1), metric="target_logprob", x=2, x_name="epoch", model="NA")
    tables.write_summary(tmp_path / "summary.csv", summary.frame())
    back = tables.read_summary(tmp_path / "summary.csv")
    pd.testing.assert_frame_equal(back, summary.frame())
    assert set(COLUMNS) < set(back.columns)
    assert back["value"].tolist() == [0.333333, -10.7]
    assert back["n"].dtype == "int64"
    assert back["model"].tolist() == ["tuned", "NA"]
    assert back["unit"].tolist() == ["rate", "nats"]
    before = (tmp_path / "summary.csv").read_bytes()
    tables.write_summary(tmp_path / "summary.csv", back)
    assert (tmp_path / "summary.csv").read_bytes() == before


def test_digits_beyond_the_sixth_do_not_move_a_byte(summary, tmp_path):
    add(summary, Interval(0.1 + 0.2, 0.0, 0.5, n=3))
    other = tables.Summary(study="reversal", preset="tiny", conditions=CONDITIONS, metrics=METRICS)
    add(other, Interval(0.3, -0.0, 0.5, n=3))
    tables.write_summary(tmp_path / "a.csv", summary.frame())
    tables.write_summary(tmp_path / "b.csv", other.frame())
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
        (Interval(0.5, 0.1, 0.9, n=3), {"condition": "person-first/sam"}, "did you mean 'person-first/same'"),
        (Interval(0.5, 0.1, 0.9, n=3), {"metric": "prefix_mach"}, "did you mean 'prefix_match'"),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused(summary, tmp_path, interval, changes, message):
    def write():
        add(summary, interval, **changes)
        tables.write_summary(tmp_path / "summary.csv", summary.frame())

    with pytest.raises(ValueError, match=message):
        write()
    assert not list(tmp_path.iterdir())


def test_an_estimate_outside_its_percentile_interval_is_kept_as_it_is(summary, tmp_path):
    add(summary, Interval(0.5, 0.6, 0.7, n=3))
    tables.write_summary(tmp_path / "summary.csv", summary.frame())
    row = tables.read_summary(tmp_path / "summary.csv").iloc[0]
    assert (row["value"], row["low"], row["high"]) == (0.5, 0.6, 0.7)


def test_the_same_number_twice_is_refused(summary, tmp_path):
    for value in (0.5, 0.6):
        add(summary, Interval(value, 0.1, 0.9, n=3))
    with pytest.raises(ValueError, match="there twice"):
        tables.write_summary(tmp_path / "summary.csv", summary.frame())
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
        tables.read_summary(tmp_path / "summary.csv")
    assert "summary.csv" in str(error.value)


def test_summaries_of_all_studies(summary, tmp_path):
    assert tables.read_summaries(tmp_path).empty
    add(summary, Interval(0.5, 0.1, 0.9, n=3))
    for study in ("reversal", "guidance"):
        tables.write_summary(tmp_path / study / "summary.csv", summary.frame().assign(study=study))
    assert tables.read_summaries(tmp_path)["study"].tolist() == ["guidance", "reversal"]


def test_answers_come_back(tmp_path):
    tables.write_table(tmp_path / "answers.parquet", answers(), tables.ANSWERS)
    back = tables.read_table(tmp_path / "answers.parquet", tables.ANSWERS)
    assert back["correct"].dtype == "boolean"
    assert back["correct"].isna().tolist() == [False, True]
    assert back["target"].tolist() == [" Tilda Marlowe", " Zoë"]
    assert back["person"].tolist() == ["Tilda Marlowe", "Zoë"]
    assert back["completion"].isna().tolist() == [False, True]
    assert math.isnan(back["target_logprob"][1])
    before = (tmp_path / "answers.parquet").read_bytes()
    tables.write_table(tmp_path / "answers.parquet", back, tables.ANSWERS)
    assert (tmp_path / "answers.parquet").read_bytes() == before


def test_answers_without_any_optional_value(tmp_path):
    frame = answers(completion=None, target_logprob=None, correct=None, finish_reason=pd.NA)
    tables.write_table(tmp_path / "answers.parquet", frame, tables.ANSWERS)
    back = tables.read_table(tmp_path / "answers.parquet", tables.ANSWERS)
    assert back[["completion", "target_logprob", "correct", "finish_reason"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": [" Tilda", None]}, "column target: 1 values are missing"),
        ({"target": [" Tilda", 3]}, "column target: expected text, got 3"),
        ({"seed": [0, 1.5]}, "column seed: expected whole numbers"),
        ({"seed": ["a", "b"]}, "column seed: expected int"),
        ({"correct": ["yes", "no"]}, "column correct: expected bool"),
        ({"target_logprob": ["low", 1.0]}, "column target_logprob: expected float"),
    ],
)
def test_answers_of_another_kind_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        tables.write_table(tmp_path / "answers.parquet", answers(**changes), tables.ANSWERS)
    assert not list(tmp_path.iterdir())


def test_a_missing_column_and_a_broken_file_are_named(tmp_path):
    with pytest.raises(ValueError, match="needs the columns target, model"):
        tables.write_table(tmp_path / "a.parquet", answers().drop(columns=["target", "model"]), tables.ANSWERS)
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"a\.parquet is not a Parquet table"):
        tables.read_table(tmp_path / "a.parquet", tables.ANSWERS)
    with pytest.raises(FileNotFoundError):
        tables.read_table(tmp_path / "b.parquet", tables.ANSWERS)
