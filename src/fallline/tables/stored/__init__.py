"""Tables larger than memory: read in one pass to learn their encoders, then written as encoded rows to files, which are mapped.

`tallies` count what one pass shows; `survey` is that pass; `writing` makes the files; `opened` gives them as a table; `budget`
says when a table goes this way.
"""

from fallline.tables.stored.opened import StoredTable, stored_table

__all__ = ["StoredTable", "stored_table"]
