"""Tables: from files and frames to problems, nothing lost on the way.

`sources` reads; `cells` tells types; `encoders` make numbers; `target` and `splits`; `builtin` data; `table` the whole.
"""

from fallline.tables.encoders import Encoder
from fallline.tables.sources import Source, read
from fallline.tables.table import Part, Reader, Summary, Table, TableOptions, open_source, reader_from, table
from fallline.tables.target import Target

__all__ = ["Encoder", "Part", "Reader", "Source", "Summary", "Table", "TableOptions", "Target", "open_source", "read", "reader_from", "table"]
