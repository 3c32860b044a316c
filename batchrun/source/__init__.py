"""Reads the input: tables as frames and as `Item`s, in chunks that are bounded in rows and bytes.

polars reads the files. Cells of CSV and TSV are text ("007" stays "007", an empty cell is empty
text); values of other files keep their types.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
