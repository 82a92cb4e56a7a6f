"""Arrays as the bytes of a safetensors file, and back without a copy, trusting nothing that the bytes say.

    8 bytes: n    n bytes of JSON: {"name": {"dtype": "F64", "shape": [2, 3], "data_offsets": [0, 48]}, ...}    the data

The package writes; it reads as well, but copies every array on the way, which takes longer than to hash it.
Source: the format's description, https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fallline.durable import Damaged

KINDS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?", "C64": "<c8",
}  # fmt: skip
LARGEST_HEADER = 100_000_000
"""Bytes, as in the package."""


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a safetensors file."""
    from safetensors.numpy import save

    return save({k: np.asarray(v, order="C") for k, v in arrays.items()})  # not ascontiguousarray: it makes () into (1,)


def unpacked(data: bytes | memoryview) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, as views of its bytes; they may be written to where those may.

    Raises:
        Damaged: the bytes are none: a header that is no such JSON, a shape and a length that differ, arrays that overlap,
            leave a gap or do not end with the file.

    >>> {k: v.tolist() for k, v in unpacked(packed({"w": np.arange(3.0), "b": np.array(1.5)})).items()} == {"w": [0, 1, 2], "b": 1.5}
    True
    """
    view = memoryview(data)
    size = int.from_bytes(view[:8], "little")
    if len(view) < 8 or size > min(len(view) - 8, LARGEST_HEADER):
        raise Damaged("no safetensors file: its header is longer than the file")
    try:
        header = json.loads(bytes(view[8 : 8 + size]))
        header.pop("__metadata__", None)
        told = sorted(((name, *_told(entry)) for name, entry in header.items()), key=lambda t: (t[3], t[4]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"no safetensors file: its header does not say what it holds ({type(error).__name__})") from None
    found, at, body = {}, 0, view[8 + size :]
    for name, kind, shape, begin, end in told:
        if begin != at or end - begin != math.prod(shape) * kind.itemsize or end > len(body):
            raise Damaged(f"no safetensors file: array {name[:80]!r} is not where its header says")
        array = np.frombuffer(body[begin:end], kind).reshape(shape)
        found[name], at = array if array.flags.aligned else array.copy(), end
    if at != len(body):
        raise Damaged("no safetensors file: bytes follow the last array")
    return found


def _told(entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Type, shape, begin and end of one array."""
    kind, shape, (begin, end) = np.dtype(KINDS[entry["dtype"]]), tuple(entry["shape"]), entry["data_offsets"]
    if len(shape) > 64 or any(type(n) is not int or n < 0 for n in (*shape, begin, end)):
        raise ValueError
    return kind, shape, begin, end


__all__ = ["packed", "unpacked"]
