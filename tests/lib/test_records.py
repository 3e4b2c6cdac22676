"""Published pickles: plain data comes through, anything else is refused before it runs."""

from __future__ import annotations

import logging
import os
import pickle

import numpy as np
import pytest

from lib.blending import published, read_records
from lib.blending.blend import target_logprobs
from lib.blending.records import GPT2_VOCAB_TOKENS
from lib.blending.support import top_k_support
from lib.blending.temperatures import Temperatures
from lib.sources.unpickle import read_pickle


def record(rng, *, k=5, second_big=True):
    lists = {"small_untuned_logprobs": k, "small_tuned_logprobs": k - 1, "big_logprobs": k + 1}
    if second_big:
        lists["davinci_base_logprobs"] = k
    made = {
        key: dict(
            zip(
                rng.choice(10, size=n, replace=False).tolist(),
                np.log(rng.dirichlet(np.ones(n + 5)))[:n].tolist(),
                strict=True,
            )
        )
        for key, n in lists.items()
    }
    return {**made, "token": int(rng.integers(30)), "word": " wolf", "prompt_text": "Once upon a time"}


def write(folder, records, *, n=600, k=25):
    path = folder / f"raw_api_results_{n}ex_{k}tb.pkl"
    path.write_bytes(pickle.dumps(records))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_and_arrays_come_through_any_protocol(tmp_path, protocol):
    value = {
        "nested": [(1, None, True), {"text": "wolf", 5: -0.25}, b"", b"\xff"],
        "rows": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "words": np.array(["wolf", "ox"]),
        "empty": np.zeros((0, 3)),
        "scalars": [np.float32(2.5), np.int64(3), np.bool_(True)],
    }
    raw = pickle.dumps(value, protocol=protocol)
    for name in (b"numpy._core", b"numpy.core") if protocol < 4 else (b"numpy._core",):  # before and since numpy 2
        (tmp_path / "a.pkl").write_bytes(raw.replace(b"numpy._core", name))
        found = read_pickle(tmp_path / "a.pkl")
        assert found["nested"] == value["nested"]
        assert found["scalars"] == value["scalars"]
        assert type(found["scalars"][0]) is np.float32
        for key in ("rows", "columns", "big-endian", "words", "empty"):
            np.testing.assert_array_equal(found[key], value[key], strict=False)
            assert found[key].dtype.newbyteorder("=") == value[key].dtype.newbyteorder("=")


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_runs_a_command_is_refused_without_running_it(tmp_path, protocol):
    mark = tmp_path / "ran"
    for attack in (Attack(os.system, f"touch {mark}"), Attack(eval, f"open({str(mark)!r}, 'w')")):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps([{"big_logprobs": attack}], protocol=protocol))
        with pytest.raises(ValueError, match=r"a.pkl asks for \w+\.(system|eval): expected only lists, dicts"):
            read_pickle(tmp_path / "a.pkl")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.array([{"a": 1}], dtype=object), "holds a numpy dtype 'O8'"),
        (np.zeros(2, dtype=[("a", object)]), "holds a numpy dtype 'V8'"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "holds a numpy dtype 'M8'"),
        (1j, "asks for builtins.complex"),
        (logging.getLogger("a"), "asks for logging.getLogger"),
        (Attack(np.dtype, "f8,O"), "holds a numpy dtype 'f8,O'"),
        (Attack(np.ndarray, (2,)), "TypeError: 'str' object is not callable"),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path, value, told):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(ValueError) as refused:
        read_pickle(tmp_path / "a.pkl")
    assert told in str(refused.value)


def test_forged_arrays_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "a.pkl"
    raw = pickle.dumps(np.arange(300.0), protocol=2)
    for damaged in (b"", b"no pickle", raw[:-40], b"\x80\x02."):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is no whole pickle of plain data"):
            read_pickle(path)
    forged = raw.replace(b"M\x2c\x01", b"M\xff\xff")  # says that its 300 numbers are 65,535
    assert forged != raw
    path.write_bytes(forged)
    with pytest.raises(ValueError, match=r"shape \(65535,\) in 2400 bytes"):
        read_pickle(path)


def test_records_come_by_context_length_and_serve_both_ways_of_scoring(tmp_path):
    rng = np.random.default_rng(0)
    written = {k: [record(rng, k=int(rng.integers(6, 9))) for _ in range(20)] for k in (100, 6)}
    for k, records in written.items():
        write(tmp_path, records, k=k)
    (tmp_path / "notes.txt").write_text("not a result")
    found = read_records(tmp_path)
    assert list(found) == [6, 100]
    for k, records in found.items():
        assert (len(records), records.context_tokens) == (20, k)
        for i, row in enumerate(written[k]):
            ids = records.tuned.ids[i]
            kept = dict(zip(ids[ids >= 0].tolist(), records.tuned.logprobs[i][ids >= 0].tolist(), strict=True))
            assert kept == row["small_tuned_logprobs"]
            outside = 1 - sum(map(np.exp, row["big_logprobs"].values()))
            assert records.big.tail[i] == pytest.approx(np.log(outside))
            assert records.targets[i] == row["token"]
        lists = records.big, records.tuned, records.base
        support = top_k_support(*lists, records.targets, GPT2_VOCAB_TOKENS, np.arange(20))
        assert np.isfinite(target_logprobs(support)).all()
        ready = published.prepare(*lists, records.targets)
        assert ready.perplexity(Temperatures(base=6.0, tuned=2.0, big=1.5)) > 1
        assert len(records.rows(3, 8).davinci_base) == len(records.rows(3, 8)) == 5


def test_a_second_big_model_is_not_asked_for(tmp_path):
    write(tmp_path, [record(np.random.default_rng(0), second_big=False) for _ in range(3)])
    assert read_records(tmp_path)[25].davinci_base is None


def test_of_two_files_for_one_length_the_larger_is_read(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path, [record(rng) for _ in range(5)], n=5)
    write(tmp_path, [record(rng) for _ in range(12)], n=12)
    assert len(read_records(tmp_path)[25]) == 12


def test_lists_that_sum_to_more_than_one_keep_a_small_tail(tmp_path):
    row = record(np.random.default_rng(0)) | {"big_logprobs": {1: -0.5, 2: -0.5, 3: -3.0}}
    write(tmp_path, [row])
    assert read_records(tmp_path)[25].big.tail[0] == pytest.approx(np.log(1e-6))


def broken(**changes):
    row = record(np.random.default_rng(0))
    for key, value in changes.items():
        if value is None:
            del row[key]
        else:
            row[key] = value
    return row


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": 1}, "expected a list of records, found a dict"),
        ([], "found an empty list"),
        ([broken(), 3], "record 1: expected a dict with small_untuned_logprobs, found a int"),
        ([broken(), broken(big_logprobs=None)], "record 1: expected a dict with big_logprobs, found small_untuned"),
        ([broken(token=None)], "expected a dict with token"),
        ([broken(token="wolf")], "expected one id a record"),
        ([broken(), broken(davinci_base_logprobs=None)], "record 1: expected a dict with davinci_base_logprobs"),
        ([broken(big_logprobs=[1.0])], "record 0: big_logprobs is a list, expected a dict"),
        ([broken(big_logprobs={})], "big_logprobs is empty in every record"),
        ([broken(big_logprobs={" wolf": -1.0})], "expected token ids to log-probabilities"),
        ([broken(big_logprobs={1: None})], "expected token ids to log-probabilities"),
        ([broken(), broken(big_logprobs={1: float("nan")})], "record 1: big_logprobs holds"),
        ([broken(), broken(big_logprobs={-1: -1.0})], "record 1: big_logprobs holds a negative id"),
    ],
)
def test_records_of_the_wrong_shape_are_one_clear_line(tmp_path, value, told):
    path = write(tmp_path, value)
    with pytest.raises(ValueError) as refused:
        read_records(tmp_path)
    assert told in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        read_records(tmp_path / "none")
    (tmp_path / "results.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match="is it the folder of published results"):
        read_records(tmp_path)
