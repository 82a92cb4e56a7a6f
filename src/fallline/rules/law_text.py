"""The law in use as text: numbers as people write them, and the same lines for LaTeX."""

from __future__ import annotations

import re
from typing import Any


def show(value: Any) -> str:
    """A hyperparameter in a formula.

    >>> show(0.1), show(1e-4)
    ('0.1', '0.0001')
    """
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def latex(formula: str) -> str:
    r"""The lines of a formula as aligned LaTeX.

    >>> latex("v = 0.9*v + g\nlr = 0.1")
    '$\\begin{aligned}v &= 0.9\\,v + g \\\\ \\mathrm{lr} &= 0.1\\end{aligned}$'
    """
    return r"$\begin{aligned}" + r" \\ ".join(_line(line) for line in formula.split("\n")) + r"\end{aligned}$"


def _line(line: str) -> str:
    law, _, remark = line.partition("        ")
    left, _, right = law.partition(" = ")
    if left == "lr":
        right = right if _is_number(right) else rf"\text{{{_escaped(right)}}}"
    else:
        right = _mathematics(right)
    note = rf"\qquad\text{{{_escaped(remark.strip())}}}" if remark.strip() else ""
    return _mathematics(left) + " &= " + right + note


def _mathematics(text: str) -> str:
    text = re.sub(r"gradient at \((.*)\)$", r"\\nabla L(\1)", text)
    text = re.sub(r"gradient at (\w)$", r"\\nabla L(\1)", text)
    text = text.replace("||g||", r"\lVert g\rVert").replace("|w|", r"\lvert w\rvert")
    text = re.sub(r"(?<![\w\\])(lr|sign)\b", r"\\mathrm{\1}", text)
    text = re.sub(r"(?<![\w\\])(min|max)\b", r"\\\1", text)
    text = re.sub(r"(\d)e(-?)0*(\d+)", r"\1\\cdot 10^{\2\3}", text.replace("e+", "e"))
    text = _braced(_braced(text, "sqrt(", r"\sqrt{"), "^(", "^{")
    text = re.sub(r" ?\* ?(?=\d)", r"\\cdot ", text)
    return re.sub(r" ?\* ?", r"\\,", text).replace("%", r"\%")


def _braced(text: str, opening: str, command: str) -> str:
    """`opening`...) as `command`...}, the parentheses matched."""
    at = text.find(opening)
    if at < 0:
        return text
    depth, end = 1, at + len(opening)
    while depth:
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    return text[:at] + command + text[at + len(opening) : end - 1] + "}" + _braced(text[end:], opening, command)


def _escaped(words: str) -> str:
    return re.sub(r"([%_&#$])", r"\\\1", words)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9.e+-]+", text) is not None
