"""batchrun: send every row of a table to an LLM, once.

The command line and the Python interface share the names in `__init__.pyi`.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
