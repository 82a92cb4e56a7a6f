"""CSV in machine code: the cells of whole records, their numbers, and their text. `csv_plain` is the readable twin.

The dialect is that of Python's csv module with `strict=True`: a cell that begins with a quote ends with one, a quote
inside it is doubled, a quote elsewhere is a character like others; \\n, \\r and both together end a line.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from fallline.compiled import kernel

WHOLE, UNCLOSED, AFTER_QUOTE, MISCOUNT, TOO_LONG = range(5)
"""How a scan ended: at the last whole record, or at a record that is malformed."""
EXACT = 22
"""10**22 is the largest power of ten that float64 holds exactly."""
_QUOTE, _NEWLINE, _RETURN, _SPACE, _PLUS, _MINUS, _POINT, _ZERO, _LARGE_E, _SMALL_E = 34, 10, 13, 32, 43, 45, 46, 48, 69, 101


def _scan(buffer, size, last, delimiter, width, limit, line, starts, ends, lines):
    """Find the cells of the whole records in `buffer[:size]`.

    Cell k holds the bytes from `starts[k]` to `ends[k]`; where quotes inside it are doubled, `ends[k]` is `-1 - end`.

    Args:
        last: whether the file ends with the buffer.
        width: cells of a record.
        limit: longest cell.
        line: the first record's line.
        starts, ends: int32, room for size + 1 cells.
        lines: int64, room for as many records: their lines, written.

    Returns:
        records, bytes of them, the line that follows (of the bad record, where there is one), code, cells of the bad record.
    """
    p, rows, k, done = 0, 0, 0, 0
    while p < size:
        first, began, cells, quoted, open_ = k, line, 0, False, True
        while open_:
            start, doubled, quoted = p, False, p < size and buffer[p] == _QUOTE
            if quoted:
                p += 1
                start = p
                while True:
                    if p >= size:
                        if p - start > limit:
                            return rows, done, began, TOO_LONG, cells
                        return rows, done, began, UNCLOSED if last else WHOLE, cells
                    c = buffer[p]
                    if c == _QUOTE:
                        if p + 1 >= size or buffer[p + 1] != _QUOTE:
                            break
                        doubled = True
                        p += 1
                    elif c == _NEWLINE or (c == _RETURN and not (p + 1 < size and buffer[p + 1] == _NEWLINE)):
                        line += 1
                    p += 1
                end = p
                p += 1
            else:
                while p < size and buffer[p] != delimiter and buffer[p] != _NEWLINE and buffer[p] != _RETURN:
                    p += 1
                end = p
            if end - start > limit:
                return rows, done, began, TOO_LONG, cells
            if not last and p + 1 >= size:  # what follows is not known: a delimiter, a quote, \n after \r
                return rows, done, began, WHOLE, cells
            if cells < width:
                starts[k] = start
                ends[k] = -1 - end if doubled else end
                k += 1
            cells += 1
            open_ = False
            if p < size:
                c = buffer[p]
                if c == delimiter:
                    open_ = True
                elif c == _RETURN and p + 1 < size and buffer[p + 1] == _NEWLINE:
                    p += 1
                elif c != _NEWLINE and c != _RETURN:
                    return rows, done, began, AFTER_QUOTE, cells
                if not open_:
                    line += 1
                p += 1
        if cells == 1 and width > 1 and not quoted and end == start:
            k = first  # a blank line
        elif cells != width:
            return rows, done, began, MISCOUNT, cells
        else:
            lines[rows] = began
            rows += 1
        done = p
    return rows, done, line, WHOLE, 0


def _numbers(buffer, starts, ends, rows, width, columns, powers, values, hard):
    """Read cells as numbers where that is exact: up to 2**53 without the point, times or through 10**22 at most.

    Args:
        columns: int64 (c,): which.
        powers: 10**0 to 10**22.
        values: float64 (c, rows), written; NaN where the cell is empty or hard.
        hard: bool (c, rows), written: cells that are no such number, still to be read.
    """
    for row in range(rows):
        for j in range(len(columns)):
            k = row * width + columns[j]
            p, end = starts[k], ends[k]
            values[j, row] = np.nan
            hard[j, row] = p != end
            while p < end and buffer[p] == _SPACE:
                p += 1
            while end > p and buffer[end - 1] == _SPACE:
                end -= 1
            negative = p < end and buffer[p] == _MINUS
            if p < end and (negative or buffer[p] == _PLUS):
                p += 1
            mantissa, digits, places, point = np.uint64(0), 0, 0, False
            while p < end and digits <= 18:
                c = buffer[p]
                if c == _POINT and not point:
                    point = True
                elif _ZERO <= c <= _ZERO + 9:
                    mantissa = mantissa * np.uint64(10) + np.uint64(c - _ZERO)
                    digits += 1
                    places += point
                else:
                    break
                p += 1
            power = -places
            if digits > 0 and p + 1 < end and (buffer[p] == _SMALL_E or buffer[p] == _LARGE_E):
                down = buffer[p + 1] == _MINUS
                q = p + 2 if down or buffer[p + 1] == _PLUS else p + 1
                exponent, some = 0, q
                while q < end and _ZERO <= buffer[q] <= _ZERO + 9 and exponent < 100:
                    exponent = 10 * exponent + buffer[q] - _ZERO
                    q += 1
                if q > some:
                    p = q
                    power += -exponent if down else exponent
            if p == end and 0 < digits <= 18 and mantissa <= np.uint64(1) << np.uint64(53) and -len(powers) < power < len(powers):
                value = np.float64(mantissa) / powers[-power] if power < 0 else np.float64(mantissa) * powers[power]
                values[j, row] = -value if negative else value
                hard[j, row] = False


def _copy(buffer, starts, ends, cells, offsets, data):
    """Put the text of some cells side by side, doubled quotes made one.

    Args:
        cells: int64 (n,): which.
        offsets: int32 (n + 1,), written: where each begins in `data`, and the end.
        data: uint8, room for all of them, written.
    """
    at = 0
    for i in range(len(cells)):
        offsets[i] = at
        p, end = starts[cells[i]], ends[cells[i]]
        doubled = end < 0
        end = -1 - end if doubled else end
        while p < end:
            data[at] = buffer[p]
            at += 1
            p += 2 if doubled and buffer[p] == _QUOTE else 1
    offsets[len(cells)] = at


@cache
def kernels() -> tuple[Any, Any, Any]:
    """`_scan`, `_numbers` and `_copy`, compiled. Divisions stay divisions: a reciprocal would not be exact."""
    return kernel(_scan, fastmath=False), kernel(_numbers, fastmath=False), kernel(_copy, fastmath=False)
