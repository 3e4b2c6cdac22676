"""Published pickles: plain data comes through, anything else is refused before it runs."""

from __future__ import annotations

import logging
import os
import pickle

import numpy as np
import pytest

from lib.sources.unpickle import read_pickle


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_and_arrays_come_through_any_protocol(tmp_path, protocol):
    value = {
        "nested": [(1, None, True), {"text": "wolf", 5: -0.25}, b"", b"\xff"],
        "rows": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "words": np.array(["wolf", "ox"]),
        "empty": np.zeros((0, 3)),
        "objects": np.array([[{"a": 1}], ["b"]], dtype=object),
        "scalars": [np.float32(2.5), np.int64(3), np.bool_(True)],
    }
    raw = pickle.dumps(value, protocol=protocol)
    for name in (b"numpy._core", b"numpy.core") if protocol < 4 else (b"numpy._core",):  # before and since numpy 2
        (tmp_path / "a.pkl").write_bytes(raw.replace(b"numpy._core", name))
        found = read_pickle(tmp_path / "a.pkl")
        assert found["nested"] == value["nested"]
        assert found["scalars"] == value["scalars"]
        assert type(found["scalars"][0]) is np.float32
        for key in ("rows", "columns", "big-endian", "words", "empty", "objects"):
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
    ("value", "why"),
    [
        (Attack(np.frombuffer, b"12345678", np.dtype(object)), "asks for numpy.frombuffer"),
        (np.array([logging.getLogger("a")], dtype=object), "asks for logging.getLogger"),
        (np.zeros(2, dtype=[("a", object)]), "holds a numpy dtype 'V8'"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "holds a numpy dtype 'M8'"),
        (1j, "asks for builtins.complex"),
        (logging.getLogger("a"), "asks for logging.getLogger"),
        (Attack(np.dtype, "f8,O"), "holds a numpy dtype 'f8,O'"),
        (Attack(np.ndarray, (2,)), "TypeError: 'str' object is not callable"),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path, value, why):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(ValueError) as refused:
        read_pickle(tmp_path / "a.pkl")
    assert why in str(refused.value)


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
    with pytest.raises(ValueError, match=r"cannot reshape array of size 300 into shape \(65535,\)"):
        read_pickle(path)


def test_a_pickle_cannot_change_the_functions_that_read_it(tmp_path):
    # BUILD (b) sets the attributes of this state on what GLOBAL (c) has found by name
    state = pickle.dumps((None, {"__defaults__": ("X",)}), protocol=2).removeprefix(b"\x80\x02").removesuffix(b".")
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02cnumpy._core.numeric\n_frombuffer\n" + state + b"b.")
    read_pickle(tmp_path / "a.pkl")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(np.float32(2.5)))
    assert read_pickle(tmp_path / "a.pkl") == 2.5
