"""Results in columns: what every table of the library can be asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fallline.errors import MissingExtra, UnknownName


@dataclass(frozen=True, eq=False, repr=False)
class Columns:
    """`table["lr"]` is a column; each kind of table says itself how it prints.

    Attributes:
        columns: name -> values, all of one length.
    """

    columns: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        if name not in self.columns:
            raise UnknownName.among("column", name, self.columns)
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def keys(self) -> list[str]:
        return list(self.columns)

    def rows(self) -> list[dict[str, Any]]:
        """One dict a line."""
        return [{name: values[i] for name, values in self.columns.items()} for i in range(len(self))]

    def to_pandas(self) -> Any:
        """A pandas frame, one row a line.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingExtra("pandas", "pandas", f"{type(self).__name__}.to_pandas") from None
        return pandas.DataFrame(self.columns)
