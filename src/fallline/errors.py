"""Every exception of the library, and the one helper that words a suggestion.

    FalllineError
    ├── InvalidValue (ValueError)      a value that cannot stand: says what was given, what was expected, what to do
    │   ├── UnknownName                a name that is not there, with "did you mean"
    │   ├── NotARow                    an optimizer or option that the row machine does not express, refused by name
    │   ├── NoClosedForm               a rule that has no exact form on sparse data
    │   ├── PlanMismatch               a plan and a problem that do not belong together
    │   └── TableError                 a file or frame that cannot be read right: carries file and line
    ├── PlanEnded (IndexError)         update T of a plan of T updates was asked for
    ├── Diverged (RuntimeError)        the descent left the finite numbers, or its loss exploded
    ├── NoLearningRate (RuntimeError)  a search without an answer: carries the verdict
    ├── MissingExtra (ImportError)     a package of an extra is not installed: says the line to type
    └── RunFolderError (OSError)       a run folder that cannot be used
        ├── RunExists                  it holds another run, or other files
        ├── RunUnfinished              it holds a run that did not come to its end
        ├── RunDamaged                 it does not verify
        └── CheckpointFailed           a checkpoint could not be written; those before it are as they were
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class FalllineError(Exception):
    """The root of every exception that fallline raises on purpose."""


class InvalidValue(FalllineError, ValueError):
    """A value that cannot stand: the message says what was given, what was expected and what to do."""


class UnknownName(InvalidValue):
    """A name that is not among those that exist."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str], most: int = 20) -> UnknownName:
        """Word the error for a `name` of some `kind` ("column", "metric", ...) that is not among `known`.

        >>> str(UnknownName.among("column", "prise", ["price", "area"]))
        "no column 'prise'; did you mean 'price'? columns: price, area"
        """
        names = [str(k) for k in known]
        shown = ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
        plural = kind[:-1] + "ies" if kind.endswith("y") else kind + "s"
        return cls(f"no {kind} {name!r};{did_you_mean(name, names)} {plural}: {shown}")


class NotARow(InvalidValue):
    """An optimizer or option that the row machine does not express, refused by name."""


class NoClosedForm(InvalidValue):
    """A rule that has no exact lazy form on sparse data."""


class PlanMismatch(InvalidValue):
    """A plan and a problem (or data, or layout) that do not belong together."""


class TableError(InvalidValue):
    """A file or frame that cannot be read right.

    Attributes:
        file: the file as the user named it, or None for a frame.
        line: the line (1-based) where it goes wrong, or None where no single line does.
        row: the row (from 0) where it goes wrong, where rows have no lines.
    """

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None, row: int | None = None):
        where = "" if not file else f"{file}:{line}: " if line else f"{file}: " if row is None else f"{file}, row {row}: "
        super().__init__(where + message)
        self.file, self.line, self.row = file, line, row


class PlanEnded(FalllineError, IndexError):
    """An update at or past the end of the plan was asked for; nothing was touched."""


class Diverged(FalllineError, RuntimeError):
    """The descent left the finite numbers, or its loss exploded.

    Attributes:
        step: the update that would have been made (it was not).
        rows: the data rows of that step's batch, at most the first ten.
        cause: the likely cause in words, or None.
        run: the partial Run up to the step before, where `train` raised it.
    """

    def __init__(self, message: str, *, step: int, rows: tuple[int, ...] = (), cause: str | None = None):
        super().__init__(message)
        self.step, self.rows, self.cause = step, rows, cause
        self.run = None


class NoLearningRate(FalllineError, RuntimeError):
    """A search for a learning rate without an answer. `verdict` says why in a sentence."""

    def __init__(self, verdict: str):
        super().__init__(verdict)
        self.verdict = verdict


class MissingExtra(FalllineError, ImportError):
    """A package that belongs to an extra is not installed."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed: pip install 'fallline[{extra}]'")
        self.package, self.extra = package, extra


class RunFolderError(FalllineError, OSError):
    """A run folder that cannot be used."""


class RunExists(RunFolderError):
    """The folder already holds a run, or files that are none of ours."""


class RunUnfinished(RunFolderError):
    """The folder holds a run that is under way, or that was killed before its end.

    Attributes:
        step: updates made when the folder last heard of it, or None before the first evaluation.
        evaluation: the last evaluation, or None.
    """

    def __init__(self, message: str, *, step: int | None = None, evaluation: dict | None = None):
        super().__init__(message)
        self.step, self.evaluation = step, evaluation


class RunDamaged(RunFolderError):
    """The folder's files do not verify."""


class CheckpointFailed(RunFolderError):
    """A checkpoint could not be written; those before it are as they were. Says how many bytes it needs."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A leading-space question naming the closest known name, or an empty string.

    >>> did_you_mean("cosin", ["cosine", "linear"])
    " did you mean 'cosine'?"
    """
    by_folded = {k.casefold(): k for k in known}
    close = get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return f" did you mean {by_folded[close[0]]!r}?" if close else ""
