"""Small arrays and what is said about them in one file that is whole, or refused."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytolith.errors import CytolithError
from cytolith.io.files import patiently, written_aside

_MAGIC = b"\x89cytolith record\n"
_VERSION = 1
_PREFIX = struct.Struct("<17sIQQ")  # magic, version, bytes of the whole file, bytes of the header
_DIGEST_BYTES = 32
_DTYPES = frozenset(
    np.dtype(f"{code}") for code in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
)


class RecordError(CytolithError):
    """A record that is missing, cut off, edited or of another kind: names the file."""


@dataclass(frozen=True, eq=False)
class Record:
    """What a record holds."""

    arrays: dict[str, NDArray[Any]]
    info: dict[str, Any]


def write_record(path: Path, arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all; the same arrays and info give the same bytes.

    Parameters
    ----------
    path : Path
        File to make or replace. Two processes may write the same one at once: the last one stays, whole.
    arrays : mapping of str to ndarray
        bool, integers or float of up to 8 bytes, of any shape; byte order is not kept, values are.
    info : mapping of str to Any
        What JSON holds: texts, numbers, lists, mappings. NaN and infinity are fine, tuples come back as lists.

    Raises
    ------
    OutputError
        The file cannot be written; says so when the disk is full.
    ValueError
        An array of another dtype.
    TypeError
        Something in `info` that JSON does not hold.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_record(Path(folder, "a"), {"sizes": np.array([3, 1])}, {"block": 7})
    ...     record = read_record(Path(folder, "a"))
    >>> record.arrays["sizes"].tolist(), record.info
    ([3, 1], {'block': 7})
    """
    stored = {name: _stored(name, array) for name, array in arrays.items()}
    header = json.dumps(
        {
            "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in stored.items()],
            "info": dict(info),
        }
    ).encode()
    size = _PREFIX.size + len(header) + sum(array.nbytes for array in stored.values()) + _DIGEST_BYTES
    parts: list[bytes | memoryview] = [_PREFIX.pack(_MAGIC, _VERSION, size, len(header)), header]
    parts += map(_bytes, stored.values())
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    with written_aside(path, unique=True) as aside, aside.open("wb") as file:
        for part in parts:
            digest.update(part)
            file.write(part)
        file.write(digest.digest())


def read_record(path: Path) -> Record:
    """Read a record, all of it verified.

    Parameters
    ----------
    path : Path
        File that `write_record` made.

    Returns
    -------
    Record
        With ``arrays`` (native byte order, C-contiguous, writeable) and ``info``, in the order they were given.

    Raises
    ------
    RecordError
        The file is missing, cannot be read, is cut off, is not what was written, was written by another version of
        cytolith, or is no record at all.
    """
    try:
        data = patiently(path.read_bytes)
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such record") from error
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not _MAGIC.startswith(data[: len(_MAGIC)]):
        raise RecordError(f"{path}: is not a record of cytolith")
    if len(data) < _PREFIX.size:
        raise RecordError(f"{path}: is cut off, it has {len(data)} bytes")
    _, version, size, header_bytes = _PREFIX.unpack_from(data)
    if version != _VERSION:  # what follows may mean anything
        raise RecordError(f"{path}: was written by another version of cytolith")
    if len(data) < size:
        raise RecordError(f"{path}: is cut off, it has {len(data)} of {size} bytes")
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
        raise RecordError(f"{path}: is not what was written, its checksum differs")
    place = _PREFIX.size + header_bytes
    header = json.loads(body[_PREFIX.size : place])
    arrays = {}
    for name, dtype, shape in header["arrays"]:
        count = math.prod(shape)
        array = np.frombuffer(body, dtype, count, place).reshape(shape)
        arrays[name] = array.astype(array.dtype.newbyteorder("="))  # a copy: aligned, and its own
        place += array.nbytes
    return Record(arrays, header["info"])


def _stored(name: str, array: NDArray[Any]) -> NDArray[Any]:
    given = np.asarray(array)
    if given.dtype.newbyteorder("=") not in _DTYPES:
        raise ValueError(f"array {name!r} holds {given.dtype}: give bool, integers or float of up to 8 bytes")
    return np.asarray(given, given.dtype.newbyteorder("<"), order="C")


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
