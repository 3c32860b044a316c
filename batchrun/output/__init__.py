"""The outputs: results joined to the input in input order, and the usage table.

Files are written atomically: each is written under a temporary name and renamed at the end. All data streams
in bounded chunks, from the checkpoint and the input into polars' writers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
