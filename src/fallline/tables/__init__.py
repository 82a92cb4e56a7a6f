"""Tables: from files and frames to problems, nothing lost on the way.

`reading` reads; `cells` tells what columns hold; `choice` says which to learn from; `columns` and `encoders` make
numbers; `target`, `parts` and `splits` say what to learn, and from which rows; `builtin` data; `table` the whole.
"""

from fallline.tables.account import ColumnNote, Summary
from fallline.tables.encoders import Encoder
from fallline.tables.options import TableOptions
from fallline.tables.predicting import predict_file
from fallline.tables.reading import read, stream
from fallline.tables.sources import Source
from fallline.tables.table import Part, Reader, Table, named, open_source, reader_from, table
from fallline.tables.target import Target

__all__ = [
    "ColumnNote", "Encoder", "Part", "Reader", "Source", "Summary", "Table", "TableOptions", "Target", "named", "open_source", "predict_file", "read",
    "reader_from", "stream", "table",
]  # fmt: skip
