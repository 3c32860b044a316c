"""The wire formats: how each API's requests, answers, streams and errors are written.

`of(name)` returns the `WireFormat` with a name. A new format is registered in `FORMATS`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
