"""Other processes that dispatch live under the limits of this one: the step protocol and its transports.

The *owner* is the process that holds checkpoint, plan, limits and money (`owner.py`, `session.py`). A *worker*
runs the same live dispatcher as a run of one process (`worker.py`), with an admission and a journal that ask
the owner (`leases.py`). Both exchange the messages of `protocol.py` over a channel.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
