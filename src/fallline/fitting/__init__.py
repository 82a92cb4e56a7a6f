"""`fit`: from data to a run with its evidence. It chooses what was not given, says why, trains, and tests once."""

from fallline.fitting.choices import SCHEDULE, Choices
from fallline.fitting.draft import drafted
from fallline.fitting.problems import check_network, table_problem, table_rows
from fallline.fitting.running import fit

__all__ = ["SCHEDULE", "Choices", "check_network", "drafted", "fit", "table_problem", "table_rows"]
