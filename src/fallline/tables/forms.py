"""How numbers and dates may be written. A form is a short string; the empty one is a point in numbers, and ISO dates.

A column has one form, told from all of its cells and kept with its encoder, so that later files are read alike.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

COMMA, THOUSANDS = "1,5", "1,234.5"
"""Decimal commas (points between thousands), and commas between thousands: where they cannot be taken for each other."""
_COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d*)(,\d*)?([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
_EITHER = re.compile(r"[+-]?\d{1,3},\d{3}")
_UNIT = re.compile(r"(?:[$€£¥]|USD|EUR|GBP|CHF)?\s?[+-]?[\d.,]*\d\s?(?:%|[$€£¥]|[A-Za-z]{1,4}[²³]?)?")

DATES = ("", "%Y-%m", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d %b %Y", "%b %d, %Y", "%d-%b-%Y", "%d %B %Y", "%B %d, %Y")
"""Forms of dates, in the order in which they are tried; a time of day may follow."""
_TIME = re.compile(r"[ T](\d{1,2}):(\d\d)(?::(\d\d)(?:\.\d+)?)?(?:\s?([aApP])\.?[mM]\.?)?$")
_UTC = dt.UTC


def number(text: str, form: str = "") -> float | None:
    """A number as it is written in some form, or None.

    >>> number("1.5"), number("1,5"), number("1,5", COMMA), number("1,234.5", THOUSANDS)
    (1.5, None, 1.5, 1234.5)
    """
    if form == COMMA:
        text = text.replace(".", "").replace(",", ".") if _COMMA.fullmatch(text) else ""
    elif form == THOUSANDS and _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    try:
        return float(text) if "_" not in text else None
    except ValueError:
        return None


def number_form(levels: Sequence[str]) -> str:
    """The form of numbers of some cells: the empty one unless another fits them all, beyond doubt."""
    commas = [v for v in levels if "," in v]
    if not commas or all(_EITHER.fullmatch(v) for v in commas):
        return ""  # 1,234 is 1234 to some and 1.234 to others
    return next((f for f in (COMMA, THOUSANDS) if all(number(v, f) is not None for v in levels)), "")


def ambiguous(levels: Sequence[str]) -> bool:
    """Whether cells are numbers with commas that may stand between thousands, or before decimals."""
    return any("," in v for v in levels) and all(_EITHER.fullmatch(v) or number(v) is not None for v in levels)


def with_unit(levels: Sequence[str]) -> str | None:
    """One of the cells, if nearly all of them are numbers with a sign of money, a per cent sign or a short unit."""
    odd = [v for v in levels if number(v) is None]
    return odd[0] if odd and all(_UNIT.fullmatch(v) for v in odd) and len({_figures(v) for v in odd}) <= 3 else None


def _figures(text: str) -> str:
    return re.sub(r"[\d.,\s+-]+", "", text)


def date(text: str, form: str = "") -> dt.datetime | None:
    """A date, with its time of day if there is one, as it is written in some form, or None; UTC where it has a time zone.

    >>> date("2024-03-31"), date("31.3.2024 12:30", "%d.%m.%Y")
    (datetime.datetime(2024, 3, 31, 0, 0), datetime.datetime(2024, 3, 31, 12, 30))
    """
    if not form:
        return _iso(text)
    time = _TIME.search(text)
    found = _day(text[: time.start()] if time else text, form)
    if found is None or time is None:
        return found
    hour = int(time[1]) if not time[4] else int(time[1]) % 12 + (12 if time[4] in "pP" else 0)
    try:
        return found.replace(hour=hour, minute=int(time[2]), second=int(time[3] or 0))
    except ValueError:
        return None


def _iso(text: str) -> dt.datetime | None:
    if len(text) < 8 or not text[:4].isdigit():
        return None
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is None else found.astimezone(_UTC).replace(tzinfo=None)


@lru_cache(maxsize=1 << 16)
def _day(text: str, form: str) -> dt.datetime | None:
    try:
        return dt.datetime.strptime(text, form)
    except ValueError:
        return None


def date_form(levels: Sequence[str], counts: np.ndarray) -> tuple[str, int, str]:
    """The form of dates that fits most cells, how many it does not fit, and a second form that fits as well, or nothing.

    Args:
        levels: different cells.
        counts: int64: how often each occurs.
    """
    some = levels[:200]  # forms that fit none of these are not tried on all
    tried = [f for f in DATES if any(date(v, f) is not None for v in some)]
    odd = [int(counts[[date(v, f) is None for v in levels]].sum()) for f in tried]
    if not odd:
        return "", int(counts.sum()), ""
    best = int(np.argmin(odd))
    second = next((f for f, n in zip(tried[best + 1 :], odd[best + 1 :], strict=True) if n == odd[best]), "")
    same = not second or all(date(v, tried[best]) == date(v, second) for v in levels)
    return tried[best], odd[best], "" if same else second


def shown(form: str) -> str:
    """A form of dates as people write it.

    >>> shown("%m/%d/%Y")
    'month/day/year'
    """
    words = {"%Y": "year", "%m": "month", "%d": "day", "%b": "month", "%B": "month"}
    return re.sub("%.", lambda m: words[m[0]], form) if form else "ISO"
