"""Random orders of rows: a compiled Fisher-Yates shuffle whose numbers come from (seed, epoch) alone.

The generator is SplitMix64 (Steele, Lea, Flood 2014) read as a counter: draw i of a key is `mix(key + (i+1)*GOLDEN)`,
so nothing is carried from one epoch to the next. Bounded integers are exactly uniform (Lemire 2019, multiply
and reject). The order for a given (seed, epoch, rows) is part of the library's promise: it never changes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fallline.compiled import kernel
from fallline.errors import InvalidValue

Indices = NDArray[np.int32 | np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)
_LOW, _ZERO, _ONE = np.uint64(0xFFFFFFFF), np.uint64(0), np.uint64(1)
_MASK64 = (1 << 64) - 1
_BLOCK = 32  # draws computed side by side, in vectors


def mix(z: int) -> int:
    """SplitMix64's finaliser: a bijection of the 64-bit integers that scatters every bit.

    >>> hex(mix(1))
    '0x5692161d100b05e5'
    """
    z = ((z ^ (z >> 30)) * int(_A)) & _MASK64
    z = ((z ^ (z >> 27)) * int(_B)) & _MASK64
    return z ^ (z >> 31)


def stream_key(seed: int, epoch: int, purpose: int = 0) -> int:
    """The key of the stream of numbers for one epoch; `purpose` keeps different uses of a seed apart.

    Raises:
        InvalidValue: seed outside 0 .. 2**64-1, or a negative epoch.
    """
    for name, value in (("seed", seed), ("epoch", epoch)):
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or not 0 <= value <= _MASK64:
            raise InvalidValue(f"{name}={value!r}: expected a whole number from 0 to 2**64-1")
    key = mix((int(seed) + int(_GOLDEN)) & _MASK64)
    key = mix((key ^ int(epoch)) + int(_A) & _MASK64)
    return mix((key ^ purpose) + int(_B) & _MASK64)


def index_dtype(rows: int) -> type[np.int32 | np.int64]:
    """The smallest index type for `rows` rows: int32 below 2**31, else int64."""
    return np.int32 if rows < 2**31 else np.int64


def _shuffle(out, key, fresh):  # an unannotated body: Numba compiles it for int32 and for int64 indices
    if fresh:
        for i in range(out.size):
            out[i] = i
    state, bound = key, np.uint64(out.size)  # the next draw is from 0 .. bound-1
    drawn, slow = np.empty(_BLOCK, np.uint32), 0
    while bound > _ONE:
        if slow == 0 and np.uint64(_BLOCK) < bound <= _LOW:  # draws side by side; none may ask to be drawn again
            again = False
            for q in range(_BLOCK):
                few = np.uint64(q)
                z = state + _GOLDEN * (few + _ONE)
                z = (z ^ (z >> _S30)) * _A
                z = (z ^ (z >> _S27)) * _B
                m = ((z ^ (z >> _S31)) >> _S32) * (bound - few)
                drawn[q] = m >> _S32
                again |= (m & _LOW) < bound - few
            if not again:
                for q in range(_BLOCK):
                    bound -= _ONE
                    j = np.uint64(drawn[q])
                    out[bound], out[j] = out[j], out[bound]
                state += _GOLDEN * np.uint64(_BLOCK)
                continue
            slow = _BLOCK
        if bound <= _LOW:
            state += _GOLDEN
            z = (state ^ (state >> _S30)) * _A
            z = (z ^ (z >> _S27)) * _B
            m = ((z ^ (z >> _S31)) >> _S32) * bound
            if (m & _LOW) < bound:
                threshold = (_LOW + _ONE - bound) % bound
                while (m & _LOW) < threshold:
                    state += _GOLDEN
                    z = (state ^ (state >> _S30)) * _A
                    z = (z ^ (z >> _S27)) * _B
                    m = ((z ^ (z >> _S31)) >> _S32) * bound
            j = m >> _S32
        else:  # over 2**32 rows: mask and reject, on all 64 bits
            mask = bound - _ONE
            for shift in (1, 2, 4, 8, 16, 32):
                mask |= mask >> np.uint64(shift)
            j = bound
            while j >= bound:
                state += _GOLDEN
                z = (state ^ (state >> _S30)) * _A
                z = (z ^ (z >> _S27)) * _B
                j = (z ^ (z >> _S31)) & mask
        bound -= _ONE
        slow -= slow > 0
        out[bound], out[j] = out[j], out[bound]


def _resample(out, rows, key):
    state = key
    bound = np.uint64(rows)
    mask = bound - _ONE
    for shift in (1, 2, 4, 8, 16, 32):
        mask |= mask >> np.uint64(shift)
    for i in range(out.size):
        draw = bound
        while draw >= bound:  # mask and reject: exactly uniform, at most two draws a row on average
            state += _GOLDEN
            z = (state ^ (state >> _S30)) * _A
            z = (z ^ (z >> _S27)) * _B
            draw = (z ^ (z >> _S31)) & mask
        out[i] = draw


@cache
def _compiled(function: Any) -> Any:
    return kernel(function)


def shuffle_in_place(out: Indices, key: int) -> None:
    """Permute a C-contiguous int32 or int64 array uniformly, by the numbers of `key`."""
    _compiled(_shuffle)(out, np.uint64(key), False)


def permutation(rows: int, key: int, out: Indices | None = None) -> Indices:
    """A uniformly random order of 0 .. rows-1, written into `out` (C-contiguous, `index_dtype(rows)`) where it is given.

    >>> permutation(5, stream_key(seed=0, epoch=0)).dtype
    dtype('int32')
    """
    out = np.empty(rows, dtype=index_dtype(rows)) if out is None else out
    _compiled(_shuffle)(out, np.uint64(key), True)
    return out


def draws(rows: int, key: int) -> Indices:
    """`rows` independent uniform draws from 0 .. rows-1 (with replacement)."""
    out = np.empty(rows, dtype=index_dtype(rows))
    if rows:
        _compiled(_resample)(out, np.int64(rows), np.uint64(key))
    return out
