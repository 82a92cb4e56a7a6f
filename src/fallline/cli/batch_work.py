"""What `find-batch-size` does."""

from __future__ import annotations

from dataclasses import dataclass

from fallline import fitting, tables
from fallline.cli import work


@dataclass(frozen=True)
class Limits:
    """What a search may recommend and cost; see `fl.find_batch_size`."""

    most: int
    memory: str | None
    budget: float


def find_batch_size(data: str, target: str | None, options: tables.TableOptions, told: fitting.Choices, limits: Limits, plot: str | None, json: bool) -> None:
    """`fallline find-batch-size`."""
    from fallline.advice.batch_size import find_batch_size as search

    problem = work._problem(tables.table(data, target=target, options=options), told)
    found = search(problem, fitting.drafted(problem, told), most=limits.most, memory=limits.memory, budget=limits.budget)
    if plot is not None:
        found.plot().save(plot)
    if json:
        return work._document(found.to_json())
    print(found.table())
    print("steps, epochs and seconds: predicted for the loss that the plan reaches; efficiency: progress by the row, measured by short runs")
    print(found.verdict)
    for warning in found.warnings:
        print(f"note: {warning}")
    print(f"it cost {found.seconds:.2g} s, the rows of {found.share:.2g} full runs")
    print(f"batch size {found.batch_size:,}")
