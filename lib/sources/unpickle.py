"""Read a published pickle without running it: lists, dicts, strings, numbers and numpy arrays, nothing else.

A pickle is a program that names functions, calls them and sets attributes. A name is looked up in a table of our own
functions, never imported, so that neither a foreign module nor numpy's own unpickling sees what the file holds; what
the file gets is a wrapper, on which it may set what it wants. The same holds for the pickle inside a ``.npy`` file of
an object array. Objects of an array are in a list that was unpickled before, hence plain.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

DTYPE = re.compile(r"[<>=|]?[biufUS]\d*|O8?")  # booleans, numbers, strings, objects; no dates, no fields
EXPECTED = "expected only lists, dicts, strings, numbers and numpy arrays of them"


class _RefusedError(pickle.UnpicklingError):
    """Says what the file holds or asks for, in words that follow its name."""


class _Dtype:
    """A numpy dtype as a pickle describes it: its code, then its byte order."""

    __slots__ = ("dtype",)

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not DTYPE.fullmatch(code):
            raise _RefusedError(f"holds a numpy dtype {code!r}: {EXPECTED}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "=", "|"):
            raise _RefusedError(f"holds a numpy dtype of byte order {order!r}: {EXPECTED}")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array that takes its state checked, as a copy of plain bytes."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _RefusedError(f"holds a numpy array of unknown form: {EXPECTED}")
        _, shape, dtype, is_fortran, raw = state
        order = "F" if is_fortran else "C"
        is_listed = isinstance(raw, list) and isinstance(dtype, _Dtype) and dtype.dtype.hasobject
        made = _from_list(raw, shape) if is_listed else _from_bytes(raw, dtype, shape, order)
        state_of_copy: Any = made.__reduce__()[2]
        super().__setstate__(state_of_copy)


def _from_bytes(raw: object, dtype: object, shape: Any, order: Any = "C") -> np.ndarray:
    if not isinstance(dtype, _Dtype) or dtype.dtype.hasobject or not isinstance(raw, bytes | bytearray):
        raise _RefusedError(f"holds a numpy array of objects: {EXPECTED}")
    return np.frombuffer(raw, dtype=dtype.dtype).reshape(shape, order=order).copy(order="K")


def _from_list(items: list, shape: Any) -> np.ndarray:
    made = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):  # an assignment of all would take lists of one length for a dimension
        made[index] = item
    return made.reshape(shape)  # listed row by row, whatever the order in memory was


def _empty(*_: object) -> _Array:
    return np.empty(0).view(_Array)


def _scalar(dtype: object, raw: object) -> Any:
    return _from_bytes(raw, dtype, ())[()]


def _no_bytes() -> bytes:
    """What protocols before 3 write instead of empty bytes."""
    return b""


def _latin_bytes(text: object, encoding: object) -> bytes:
    """What protocols before 3 write instead of bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _RefusedError(f"asks for the encoding {encoding!r}: {EXPECTED}")
    return text.encode("latin1")


NAMES: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin_bytes,
    ("__builtin__", "bytes"): _no_bytes,
}
for _core in ("numpy.core", "numpy._core"):  # the second since numpy 2
    NAMES[f"{_core}.multiarray", "_reconstruct"] = _empty
    NAMES[f"{_core}.multiarray", "scalar"] = _scalar
    NAMES[f"{_core}.numeric", "_frombuffer"] = _from_bytes


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise _RefusedError(f"asks for {module}.{name}: {EXPECTED}")
        known = NAMES[module, name]
        return known if isinstance(known, str) else lambda *arguments: known(*arguments)


def read_pickle(path: Path) -> Any:
    """The value in a pickle of plain data.

    Raises
    ------
    ValueError
        If the file asks for anything but plain data (names what; nothing of it has run), or is no whole pickle.
    OSError
        If it cannot be read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "records.pkl"
    >>> _ = path.write_bytes(pickle.dumps([{"a": 1.5}]))
    >>> read_pickle(path)
    [{'a': 1.5}]
    >>> _ = path.write_bytes(pickle.dumps(print))
    >>> read_pickle(path)
    Traceback (most recent call last):
    ValueError: ...records.pkl asks for builtins.print: expected only lists, dicts, strings, numbers and numpy arrays...
    """
    with path.open("rb") as file:
        return _load(file, path)


def read_npy(path: Path) -> np.ndarray:
    """The array in a ``.npy`` file; one of objects is unpickled as `read_pickle` does, and holds plain data only.

    Raises
    ------
    ValueError
        As `read_pickle`, and if the file is no ``.npy`` file.
    OSError
        If it cannot be read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "texts.npy"
    >>> np.save(path, np.array([["a", "b"], None], dtype=object))
    >>> read_npy(path).tolist()
    [['a', 'b'], None]
    """
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            dtype = header(file)[2]
            if not dtype.hasobject:
                file.seek(0)
                return np.load(file, allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"{path} is no whole .npy file ({error})") from error
        if dtype != np.dtype(object):
            raise ValueError(f"{path} holds a numpy dtype {dtype}: {EXPECTED}")
        found = _load(file, path)
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{path} holds a {type(found).__name__} instead of an array: the file is damaged")
    return np.asarray(found)


def _load(file: BinaryIO, path: Path) -> Any:
    try:
        return _Plain(file).load()
    except _RefusedError as error:
        raise ValueError(f"{path} {error}") from error
    except MemoryError as error:
        raise ValueError(f"{path} asks for more memory than there is: the file is damaged") from error
    except Exception as error:  # a damaged pickle can fail in any way, and none of them says more
        raise ValueError(f"{path} is no whole pickle of plain data ({type(error).__name__}: {error})") from error
